"""The cells of the study: which methods are compared, what is varied around one of them, and with how much
arithmetic.

A cell is a name and the settings in which it differs from the base settings of its world (`worlds.py`,
`scenes.yaml`, ...). Nothing else differs between two cells: data, test objects, measures and code are the
same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Labels = Literal["crops", "masks"]
"""What the labels are learned by (`supervised.py`)."""

READ_ONLY = {"model.object_tokens": "read-only"}

ALL_OBJECTS = "all"
"""As `objects.per_image`: as many as an image of the world has at most."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One column of a study.

    Args:
        name: Of its files.
        method: The method (a key of `METHODS`) whose settings it starts from, and whose choice of settings it
            takes.
        settings: Dotted settings in which it differs from the method.
        objects: What the training index holds: `annotated`, `whole-image`, `discovered`, or amounts of noise
            (`jitter=0.1,drop=0.3`).
        compute: Length of the run as a share of the arithmetic of `REFERENCE`; None for as many images as the
            reference sees.
        images: Length of the run in images, in worlds whose runs are of several lengths.
        labels: How it is trained with the labels (`supervised.py`), to see how much there is to be gained;
            None without them.
    """

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    objects: str = "annotated"
    compute: float | None = None
    images: int | None = None
    labels: Labels | None = None


BESIDE = {"model.object_tokens": "beside"}

LOCALS = {"views.local_views": 4}

FREE_LOCALS = {**LOCALS, "views.local_crops": "free"}

AUTHORS: dict[str, dict[str, Any]] = {
    "beside": BESIDE,
    "first-crop": {
        "objects.target": "first-crop",
        "objects.sampling": "area",
        "views.min_coverage": 0.0,
    },
    "classes": {"objects.unit": "classes"},
    "component-boxes": {
        "views.mask_shape": "component-boxes",
        "views.mask_coverage": 0.0,
        "views.mask_margin": 1,
        "objects.min_visible": 0.0,
    },
    "missing-zero": {"loss.missing_pairs": "zero", "views.min_coverage": 0.0},
}
"""Each choice of the authors' own code on its own, by a short name. Collapse guards, photometrics and
schedules stay those of this size, and so do local views, which the base has none of.
"""

METHODS: dict[str, dict[str, Any]] = {
    "dino": {"objects.use": False, "loss.patch_weight": 0.0},
    "ibot": {"objects.use": False},
    "crop-only": {"views.object_masks": False},
    "mask-only": {"views.object_crops": False, "views.local_crops": "free"},
    "mean-pool": {"model.object_readout": "mean-pool"},
    "odis-single": {},
    "odis-beside": BESIDE,
    "authors": {name: value for settings in AUTHORS.values() for name, value in settings.items()},
    "odis-read-only-1": {**READ_ONLY, "objects.per_image": 1},
    "odis-read-only-2": {**READ_ONLY, "objects.per_image": 2},
    "odis-read-only-4": {**READ_ONLY, "objects.per_image": 4},
    "odis-read-only-all": {**READ_ONLY, "objects.per_image": ALL_OBJECTS},
}
"""The methods, as the recipes of the same names have them, on the base settings of a world."""

REFERENCE = "odis-single"
"""Whose images and arithmetic the others get."""

BEST = "odis-read-only-all"
"""What the smaller studies are around."""


def _around(name: str, objects: str = "annotated", images: int | None = None, **settings: Any) -> Cell:
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return Cell(f"{BEST}.{name}", BEST, dotted, objects, images=images)


UNTRAINED_RUN = {"train.steps": 1, "train.log_every": 1}
"""The rate of a run's first step is 0."""

UNTRAINED = Cell("untrained", REFERENCE, UNTRAINED_RUN)

LENGTHS = {"30k": 30_000, "100k": 100_000, "300k": 300_000}
"""Images that runs on photographs see. Each is a run with its own schedules."""

TABLE = (
    "ibot",
    "odis-single",
    "odis-read-only-all",
    "crop-only",
    "authors",
    "dino",
    "mask-only",
    "mean-pool",
)
"""The methods that are compared at every length, those first that the claims are about."""

WHOLE = f"{BEST}.whole-patches"
"""Read-only tokens for all objects, each with the patches alone that its object covers whole: compared at
every length too. Its settings are chosen for `BEST`, with the patches of the base.
"""

COMPARED = (*TABLE[:3], WHOLE, *TABLE[3:])
"""The methods and it, in the order of tables."""

OTHER_SETTINGS: dict[str, dict[str, Any]] = {
    "any-pixel": {"views.mask_coverage": 0.0},
    "margin-1": {"views.mask_margin": 1},
    "locals-free-masked": FREE_LOCALS,
    "locals-free-unmasked": {**FREE_LOCALS, "views.local_masks": False},
    "keep-object-1": {"prediction.keep_object": 1},
    "center": {"loss.centering": "center"},
    "center-all-patches": {"loss.centering": "center", "loss.center_patches": "all"},
    "clip-parameter": {"optim.clip": "parameter"},
    "decay-tokens": {"optim.decay_tokens": True},
}
"""Parts of these choices, and settings that other methods' code has otherwise."""

READ_ONLY_SETTINGS: dict[str, dict[str, Any]] = {
    "sees-cls": {"model__object_sees_cls": True},
    "keep-object-1": {"prediction__keep_object": 1},
}
"""New settings of read-only tokens."""

MASK_WIDTHS: dict[str, dict[str, Any]] = {
    "whole-patches": {"views__mask_coverage": 1.0},
    "any-pixel": {"views__mask_coverage": 0.0},
    "margin-1": {"views__mask_margin": 1},
}
"""Which patches stand for an object, beside the base's: those of which it covers half of what it covers
most.
"""

GEOMETRIES: dict[str, dict[str, int]] = {
    "16-64": {"model.patch_size": 16, "views.global_size": 64},
    "12-96": {"model.patch_size": 12, "views.global_size": 96},
    "8-96": {"model.patch_size": 8, "views.global_size": 96},
}
"""Side of a patch and of a view, beside the base of 8 and 64: 4 x 4, 8 x 8 and 12 x 12 patches a view, as the
base has 8 x 8.
"""

ACROSS = ("ibot", "odis-read-only-all", "crop-only", "odis-single")
"""The methods that are compared at several numbers of patches across an object."""


ONE_RATE = 4.0e-3
"""Of all methods on photographs: with the weight of KoLeo of the base (`slow-0.25`) it is best on average
over methods, and four of five chose it.
"""

FAST_RATE = 8.0e-3
"""That iBOT chose, by less than the interval of its trials."""

SUPERVISED: dict[str, tuple[Labels, str]] = {
    "supervised": ("crops", REFERENCE),
    "supervised-masks": ("masks", BEST),
}
"""The networks that are trained with labels: what reads them, and the method whose network and views it
has.
"""


def _supervised(length: str) -> list[Cell]:
    return [
        Cell(f"{name}.{length}", method, images=LENGTHS[length], labels=labels)
        for name, (labels, method) in SUPERVISED.items()
    ]


STUDIES: dict[str, list[Cell]] = {
    "core": [*(Cell(name, name) for name in METHODS), UNTRAINED],
    "compute": [
        *(Cell(f"{name}.compute", name, compute=1.0) for name in METHODS if name != REFERENCE),
        Cell(f"{BEST}.half-compute", BEST, compute=0.5),
    ],
    "noise": [
        _around("jitter-0.1", "jitter=0.1,scale=0.1"),
        _around("jitter-0.3", "jitter=0.3,scale=0.3"),
        _around("missing-0.3", "drop=0.3"),
        _around("false-0.3", "false_boxes=0.3"),
        _around("jitter-0.3-missing-0.3", "jitter=0.3,scale=0.3,drop=0.3"),
    ],
    "coverage": [
        _around("coverage-any", views__min_coverage=0.0),
        _around("coverage-0.5", views__min_coverage=0.5),
        _around("coverage-1", views__min_coverage=1.0),
    ],
    "source": [_around("discovered", "discovered"), _around("whole-image", "whole-image")],
    "sampling": [_around("sampling-area", objects__sampling="area")],
    "margin": [_around("boxes-margin-0", "boxes"), _around("boxes-margin-1", "boxes", views__mask_margin=1)],
    "image-term": [_around("image-term", loss__image_weight=1.0)],
    "locals": [
        Cell(f"{BEST}.locals-aware", BEST, LOCALS),
        Cell(f"{BEST}.locals-free", BEST, FREE_LOCALS),
    ],
    "teacher": [
        _around("teacher-temp-0.04", loss__teacher_temp=0.04, loss__warmup_teacher_temp=0.04),
        _around("teacher-temp-0.1", loss__teacher_temp=0.1, loss__warmup_teacher_temp=0.1),
        _around("momentum-0.95", optim__momentum_teacher=0.95),
        _around("momentum-0.996", optim__momentum_teacher=0.996),
    ],
    "heads": [_around("separate-heads", head__shared=False)],
    "longer": [
        Cell(f"{name}.longer", name, {"train.epochs": 10}) for name in ("dino", "ibot", REFERENCE, BEST)
    ],
    "rate": [
        Cell(f"{method}.{name}", method, {"optim.base_lr": rate})
        for method in ("dino", "ibot", "crop-only", REFERENCE, BEST)
        for name, rate in (("rate-half", 4.0e-3), ("rate-double", 16.0e-3))
    ],
    "headroom": [UNTRAINED, *(cell for length in LENGTHS for cell in _supervised(length))],
    **{
        length: [
            *(Cell(f"{name}.{length}", name, images=images) for name in TABLE),
            _around(f"whole-patches.{length}", images=images, **MASK_WIDTHS["whole-patches"]),
        ]
        for length, images in LENGTHS.items()
    },
    "authors-one-by-one": [
        Cell(f"{REFERENCE}.{name}.100k", REFERENCE, settings, images=LENGTHS["100k"])
        for name, settings in {**AUTHORS, **OTHER_SETTINGS}.items()
    ],
    "authors-digits": [
        Cell("odis-beside", "odis-beside"),
        Cell("authors", "authors"),
        *(
            Cell(f"{REFERENCE}.{name}", REFERENCE, settings)
            for name, settings in {**AUTHORS, **OTHER_SETTINGS}.items()
            if name not in ("beside", "margin-1")  # a method above; digits have masks, which it leaves alone
        ),
        *(_around(name, **settings) for name, settings in READ_ONLY_SETTINGS.items()),
        _around("whole-patches", **MASK_WIDTHS["whole-patches"]),
    ],
    "rates": [
        Cell(f"ibot.fast.{length}", "ibot", {"optim.base_lr": FAST_RATE}, images=LENGTHS[length])
        for length in ("100k", "300k")
    ],
    "mask-widths": [
        _around(f"{name}.100k", images=LENGTHS["100k"], **settings) for name, settings in MASK_WIDTHS.items()
    ],
    "patches": [
        *(
            Cell(f"{name}.{geometry}.100k", name, sides, images=LENGTHS["100k"])
            for geometry, sides in GEOMETRIES.items()
            for name in ACROSS
        ),
        *(
            Cell(f"untrained.{geometry}", REFERENCE, {**sides, **UNTRAINED_RUN})
            for geometry, sides in GEOMETRIES.items()
        ),
    ],
}

BY_LENGTH = ("headroom", *LENGTHS, "authors-one-by-one", "rates", "mask-widths", "patches")
"""Studies of worlds whose runs have several lengths."""

ONE_SEED = (
    *("sampling", "margin", "image-term", "locals", "teacher", "heads", "longer", "rate"),
    *BY_LENGTH,
)
"""Studies of which one seed is run unless more are asked for."""

CANDIDATES: dict[str, dict[str, Any]] = {
    "near": {"views.global_scale": [0.08, 0.25]},
    "middle": {"views.global_scale": [0.15, 0.5]},
    "far": {"views.global_scale": [0.25, 1.0]},
}
"""What every method chooses from, on images that are held out of training: how much of a scene a view
shows.
"""

WIDER: dict[str, dict[str, Any]] = {
    "middle": {"views.global_scale": [0.15, 0.6]},
    "far": {"views.global_scale": [0.25, 1.0]},
    "farther": {"views.global_scale": [0.4, 1.0]},
}
"""The same for images of one object that fills most of them."""

WIDE: dict[str, dict[str, Any]] = {
    name: {"optim.base_lr": ONE_RATE, "views.global_scale": scale}
    for name, scale in (("near", [0.07, 0.22]), ("middle", [0.15, 0.5]), ("far", [0.4, 1.0]))
}
"""The same on scenes of 192 px: `near` are views as large, in pixels, as those of .15 to .5 on 128 px."""


def rates(scale: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """What every method chooses from where views show a fixed share of an image (from, to): the rate, and how
    hard KoLeo pulls. One weight for all may cost one method more than another.
    """
    return {
        f"{name}-{weight:g}": {
            "optim.base_lr": rate,
            "loss.koleo_weight": weight,
            "views.global_scale": list(scale),
        }
        for name, rate in (("slow", ONE_RATE), ("fast", FAST_RATE))
        for weight in (0.1, 0.25)
    }


def cells(study: str) -> list[Cell]:
    """The cells of a study.

    Raises:
        ValueError: There is no such study.
    """
    if study not in STUDIES:
        raise ValueError(f"no study {study!r}; there are {', '.join(STUDIES)}")
    return STUDIES[study]
