"""Revisited Oxford and Paris as DINO and iBOT measure them: settings, features and rows of `roxford` and
`rparis`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from odis.config.query import QueryConfig
from odis.config.wording import counted
from odis.errors import DataError, OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.about import About, Difference, Published
from odis.evaluation.protocols.protocol import (
    Protocol,
    ProtocolSettings,
    not_offered,
    results_of,
    statistics_of,
)
from odis.evaluation.settings import require_given
from odis.types import Box, Skipped

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from odis.evaluation.landmark_scores import Landmarks
    from odis.evaluation.protocols.images.views import PictureView
    from odis.evaluation.runner import EvaluationRun
    from odis.inference import Encoder

RANKS = (1, 5, 10)
SCALES = (1.0, 2**-0.5, 0.5)
READOUTS = ("cls", "cls+mean")
VIEWS = ("longest", "crop")


@dataclass(frozen=True, slots=True)
class LandmarkData:
    """The benchmark.

    Args:
        truth: Published ground truth, gnd_roxford5k.pkl or gnd_rparis6k.pkl; no code in it is run.
        jpg: Folder of the images; by default jpg beside the ground truth.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("truth",)

    truth: str = ""
    jpg: str | None = None


@dataclass(frozen=True, kw_only=True)
class LandmarkSettings(ProtocolSettings):
    """Settings of the protocol.

    Args:
        longest: Images are shrunk so that their longest side has at most this many pixels (DINO: 512 for
            Paris, 224 for Oxford; iBOT: 512).
        view: longest (the whole image, its aspect kept) or crop (DINOv3: shorter side to 256, centre crop
            224).
        readout: cls, or cls+mean (iBOT's for ViT-B: with the mean of the patches).
    """

    max_train: int | None = not_offered()
    max_test: int | None = not_offered()
    longest: int = 512
    view: Literal["longest", "crop"] = "longest"
    readout: Literal["cls", "cls+mean"] = "cls"

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        ProtocolSettings.check(self)
        if self.longest < 1:
            raise OdisError(f"longest {self.longest} must be 1 or more")
        for name, value, allowed in (("view", self.view, VIEWS), ("readout", self.readout, READOUTS)):
            if value not in allowed:
                raise OdisError(f"{name} {value!r} must be one of {', '.join(allowed)}")

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """See `ProtocolSettings.check_models`; the whole image needs a model of any size.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        from odis.backbones.features import keeps_aspect

        ProtocolSettings.check_models(self, encoders)
        for encoder in encoders:
            if self.view == "crop":
                encoder.query_builder(QueryConfig(("whole-image",), size=224))
            elif not keeps_aspect(encoder.model):
                raise OdisError(f"{encoder.source or 'this model'} takes squares only; give --view crop")


def shrink(image: Any, longest: int, patch: int) -> np.ndarray:
    """uint8 (3, H, W): the image, its longest side at most `longest` pixels (Lanczos, never enlarged), and
    cut right and below to whole patches.
    """
    from PIL import Image

    from odis.evaluation.protocols.images.views import pixels_of

    small = image.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    shown: np.ndarray = whole_patches(pixels_of(small), patch)
    return shown


def whole_patches(pixels: Any, patch: int) -> Any:
    """The part of pixels (..., H, W) that whole patches cover, as a strided convolution sees it.

    Raises:
        OdisError: there is none.
    """
    height, width = (side // patch * patch for side in pixels.shape[-2:])
    if not height or not width:
        raise OdisError(f"an image of {pixels.shape[-1]} x {pixels.shape[-2]} pixels has no patch of {patch}")
    return pixels[..., :height, :width]


def scaled_features(encoder: Encoder, pixels: np.ndarray, readout: str) -> Tensor:
    """float32 (B, scales, D): features of a batch at each of `SCALES`, before any normalisation.

    Smaller scales are made of the pixels, bilinearly and without antialias, as DINO's `multi_scale` does.
    """
    import numpy as np
    import torch

    found = []
    for scale in SCALES:
        given: Any = pixels
        if scale != 1:
            given = torch.nn.functional.interpolate(
                torch.from_numpy(np.ascontiguousarray(pixels)).float(),
                scale_factor=scale,
                mode="bilinear",
                align_corners=False,
            ).numpy()
            given = np.ascontiguousarray(whole_patches(given, encoder.patch_size))
        tokens = encoder.tokens(given)
        if tokens.image is None:
            raise OdisError(f"{encoder.source or 'this model'} has no [CLS], which the protocol reads")
        parts = [tokens.image.float()]
        if readout == "cls+mean":
            parts.append(tokens.patches.float().mean(dim=1))
        found.append(torch.cat(parts, dim=1))
    return torch.stack(found, dim=1).cpu()


def view_for(encoder: Encoder, settings: LandmarkSettings) -> PictureView:
    """How an image is shown to a model."""
    from odis.evaluation.protocols.classification.classify import view_of

    if settings.view == "crop":
        return view_of(224)
    return partial(shrink, longest=settings.longest, patch=encoder.patch_size)


def embed(
    run: EvaluationRun,
    encoder: Encoder,
    paths: Sequence[str],
    boxes: Sequence[Box | None],
    side: str,
    settings: LandmarkSettings,
) -> Tensor:
    """float32 (n, scales, D) of images, each cut to its box first if it has one; images of one size go
    together.
    """
    import numpy as np
    import torch

    from odis.evaluation.protocols.images.stream import Pictures, read_items

    pictures = Pictures(paths, view_for(encoder, settings), turn=not settings.as_published, boxes=boxes)
    waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    found: dict[int, Tensor] = {}

    def ask(group: list[tuple[int, np.ndarray]]) -> None:
        features = scaled_features(encoder, np.stack([pixels for _, pixels in group]), settings.readout)
        found.update({number: one for (number, _), one in zip(group, features, strict=True)})

    what = f"{encoder.source or 'model'}, {side}"
    for number, pixels in enumerate(read_items(pictures, settings.read)):
        if isinstance(pixels, Skipped):
            raise DataError(f"{pixels.what}: {pixels.why}; the benchmark needs every image")
        group = waiting.setdefault(pixels.shape, [])
        group.append((number, pixels))
        if len(group) == settings.read.batch_size:
            ask(waiting.pop(pixels.shape))
        elif sum(map(len, waiting.values())) >= 4 * settings.read.batch_size:
            ask(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))))
        if run.progress is not None:
            run.progress(what, number + 1, len(paths))
    for group in waiting.values():
        ask(group)
    return torch.stack([found[number] for number in range(len(paths))])


def evaluate_landmark_protocol(
    name: str,
    about: About,
    encoders: Encoder | Sequence[Encoder],
    truth: Landmarks,
    folder: Path,
    settings: LandmarkSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Rank the database by each query, at one scale and at three, the query whole and cut to its box.

    Each image is read once a model; queries twice, whole and cut.

    Args:
        name: Of the protocol.
        about: Of the protocol.
        encoders: Models to compare.
        truth: The ground truth.
        folder: Of the images, NAME.jpg.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds: four rows a model; scores are mAP of medium and hard (and easy), and mP@1,
        @5, @10, in percent, with 95 % bootstrap intervals over queries.

    Raises:
        DataError: an image is missing or damaged: the benchmark needs all of them.
    """
    from torch.nn.functional import normalize

    from odis.evaluation.landmark_scores import SETUPS, landmark_scores
    from odis.evaluation.protocols.images.stream import Pictures
    from odis.evaluation.protocols.projection import Work, project, seconds_shown
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import mean_score

    run = EvaluationRun(name, encoders, settings, progress, on_row)
    gallery = [str(folder / f"{image}.jpg") for image in truth.images]
    asked = [str(folder / f"{query.name}.jpg") for query in truth.queries]
    if missing := next((path for path in (*asked, *gallery) if not Path(path).is_file()), None):
        raise DataError(f"{missing}: no such file; the benchmark needs every image")
    if not any(len(query.easy) + len(query.hard) for query in truth.queries):
        raise DataError(f"{folder}: no query has an image that shows its landmark; nothing can be found")
    again = len({*truth.images} & {query.name for query in truth.queries})
    run.note(
        [
            f"{counted(again, 'query is', 'queries are')} among the images that are searched: each finds "
            f"itself first"
        ]
        if again
        else []
    )

    def works(source: Encoder) -> Iterator[Work]:
        encoder = statistics_of(source, settings)
        pictures = Pictures(gallery, view_for(encoder, settings), turn=not settings.as_published)

        def show(some: Sequence[np.ndarray]) -> None:
            for pixels in some:  # of one size are few
                scaled_features(encoder, pixels[None], settings.readout)

        seconds = seconds_shown(pictures, show, encoder, settings.read, most=4)
        yield Work("images", len(gallery) + 2 * len(asked), seconds)

    project(run, works)
    for source in run.encoders:
        run.start()
        encoder = statistics_of(source, settings)
        searched = embed(run, encoder, gallery, [None] * len(gallery), "gallery", settings)
        for cut in (False, True):
            boxes = [query.box if cut else None for query in truth.queries]
            sought = embed(run, encoder, asked, boxes, "queries", settings)
            for several in (False, True):
                queries, database = (
                    normalize(one.mean(dim=1) if several else one[:, 0], dim=1) for one in (sought, searched)
                )
                found = landmark_scores(queries @ database.T, truth, RANKS)
                values = {f"{setup} mAP": found[setup]["ap"] for setup in ("medium", "hard", "easy")}
                values |= {f"{s} mP@{k}": found[s][f"p@{k}"] for s in SETUPS if s != "easy" for k in RANKS}
                scores = {key: mean_score(value, seed=settings.seed) for key, value in values.items()}
                mode = f"{'3 scales' if several else '1 scale'}, query {'cut to its box' if cut else 'whole'}"
                size = settings.longest if settings.view == "longest" else 224
                run.add(source, mode, scores, size=size)
    described = {"index": str(folder), "provenance": "ground truth", "classes": 1}
    run.sides["test"] = described | {"images": len(asked)}
    run.sides["gallery"] = described | {"images": len(gallery)}
    return results_of(run, about, settings) | {"resampled": "queries"}


def landmark_protocol(name: str, longest: int, figures: Sequence[Published]) -> Protocol[Any, Any]:
    """The protocol of one of the two benchmarks.

    Args:
        name: `roxford` or `rparis`.
        longest: The longest side that DINO takes for it.
        figures: Published figures.
    """
    about = About(
        source="Radenovic et al. (2018), revisitop; DINO (Caron et al., 2021), eval_image_retrieval.py; iBOT "
        "(Zhou et al., 2022), run.sh; DINOv3 (Simeoni et al., 2025), appendix D.8",
        settings={
            "view": "longest side at most 512 (DINO, Oxford: 224), Lanczos, never enlarged, no crop; DINOv3: "
            "centre crop 224",
            "feature": "[CLS] after the final norm, of length 1; iBOT's ViT-B: with the mean patch",
            "scales": "1; or the mean of unnormalised features at 1, 1/sqrt 2 and 1/2 (bilinear), then "
            "length 1. DINO: Paris 3, Oxford 1; iBOT: 3",
            "query": "whole (DINO does not cut it to its box, the benchmark's own example does)",
            "medium, hard": "easy and hard positives, junk removed; hard positives, easy and junk removed",
            "AP": "by trapezia of precision; queries without positives are left out; no whitening",
        },
        chosen="nothing; scales and sizes differ between papers and are named in each row",
        differences=(
            Difference("the model's own pixel statistics", "ImageNet's for every model", True),
            Difference("photographs are turned as their EXIF says", "EXIF is not looked at", True),
            Difference(
                "1 and 3 scales, query whole and cut to its box: a row each",
                "one of these, by benchmark",
                False,
            ),
            Difference("equally similar images: the lower index first", "their order is not defined", False),
        ),
        figures=figures,
        memory="features of all images at three scales: 6,400 x 3 D x 4 bytes, .03 GB at D 384",
        time="three passes over 5,063 or 6,392 images a model: minutes on a GPU; not resumed",
    )

    def run(
        models: Models,
        data: LandmarkData,
        settings: LandmarkSettings,
        progress: Progress | None,
        on_row: OnRow | None,
    ) -> dict[str, Any]:
        from odis.evaluation.ground_truth import load_ground_truth

        require_given(data)
        truth = load_ground_truth(data.truth)
        folder = Path(data.jpg) if data.jpg is not None else Path(data.truth).parent / "jpg"
        measure = partial(evaluate_landmark_protocol, name, about)
        return measure(models(), truth, folder, settings, progress, on_row)

    return Protocol(
        name=name,
        summary=f"retrieval on Revisited {'Oxford' if name == 'roxford' else 'Paris'} (DINO, iBOT): 1 and 3 "
        "scales, queries whole and cut",
        data=LandmarkData(),
        settings=LandmarkSettings(longest=longest),
        run=run,
        titles={
            name: Titles(
                f"{name}: {{test}}, searched in {{gallery}}",
                f"Landmark retrieval, {name}",
                "Mean average precision of the landmarks' images. Higher is better.",
            )
        },
        about=about,
    )
