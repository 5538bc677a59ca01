"""Two networks on the same images: the whole comparison."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odis import __version__
from odis.config.wording import counted
from odis.errors import DataError, OdisError, OdisWarning
from odis.evaluation.compare.features import read_both
from odis.evaluation.compare.measures import measure
from odis.evaluation.compare.reading import Asked, PixelLabels
from odis.evaluation.compare.settings import CompareData, CompareSettings
from odis.evaluation.compare.verdict import verdict
from odis.evaluation.dense import train_positions
from odis.evaluation.evaluation import Progress
from odis.evaluation.label_maps import LabelledImages
from odis.evaluation.protocols.layouts.segmentation import open_segmented
from odis.evaluation.subset import Subset, real_path, shared_images
from odis.inference import Encoder
from odis.objects.index import ObjectIndex
from odis.train.run_folder import read_config


def compare_networks(
    load: Callable[[], Sequence[Encoder]],
    data: CompareData,
    settings: CompareSettings,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure two networks on the same images, and on what the first knew.

    Every image is read once, and each network sees it once: one pass gives its objects, its patches and the
    whole image. (A network with one object token a pass sees it once more for every object, and each crop is
    a pass of its own.)

    Args:
        load: Loads the two networks, once the data is open.
        data: What is read.
        settings: How.
        progress: Called after each image.

    Returns:
        What the results file holds: `before` and `after`, the networks; `data`, a list of the data sets, the
        user's own first, each with its `measures`: `before`, `after` and `difference`, in percent with 95 %
        intervals over test images, that of the difference paired; what is left out and why; `verdict`, a
        sentence; `notes` and `skipped`.

    Raises:
        OdisError: For settings or data that do not fit, or if nothing can be measured on the user's own data.
    """
    started = time.perf_counter()
    data.check()
    settings.check()
    names = [(data.train, data.test), *zip(data.known_train, data.known_test, strict=True)]
    parts = [
        (
            Subset.of(ObjectIndex.open(train), settings.max_train, settings.seed),
            Subset.of(ObjectIndex.open(test), settings.max_test, settings.seed),
        )
        for train, test in names
    ]
    encoders = list(load())
    if len(encoders) != 2:
        raise OdisError(f"{counted(len(encoders), 'network was', 'networks were')} given; two are compared")
    size = settings.query.size or encoders[1].image_size
    asked = [Asked.of(encoder, settings.query.modes, size) for encoder in encoders]
    for one in asked:
        one.check()
    notes: list[str] = []
    skipped: dict[tuple[str, str], None] = {}
    found: list[dict[str, Any]] = []
    for number, ((train, test), (_, name)) in enumerate(zip(parts, names, strict=True)):
        say = _shared(train, test, name) + [note for one in encoders for note in _trained_on(one, test, name)]
        pixels, why = _pixel_labels(train, test, data.maps if not number else "")
        both = read_both(asked, train, test, pixels, settings, progress, os.path.basename(name))
        measured = measure(both, asked, train, test, settings)
        if why:
            for item in measured.left_out:
                item["why"] = why if "no pixel has a label" in item["why"] else item["why"]
        for note in (*say, *measured.notes):
            if note not in notes:
                notes.append(note)
        skipped |= {(item.what, item.why): None for part in (both.train, both.test) for item in part.skipped}
        found.append(
            {
                "name": name,
                "known": number > 0,
                "train": both.train.counts(train),
                "test": both.test.counts(test),
                "measures": measured.rows,
                "left_out": measured.left_out,
            }
        )
    if not found[0]["measures"]:
        whys = "; ".join(f"{item['measure']}: {item['why']}" for item in found[0]["left_out"])
        raise OdisError(f"{data.test}: nothing can be measured: {whys}")
    for note in notes:
        warnings.warn(note, OdisWarning, stacklevel=2)
    before, after = (_described(one) for one in asked)
    return {
        "evaluation": "compare",
        "odis_version": __version__,
        "settings": settings.as_dict() | {"size": size},
        "before": before,
        "after": after,
        "data": found,
        "verdict": verdict(before["model"], after["model"], found),
        "notes": notes,
        "skipped": [{"what": what, "why": why} for what, why in skipped],
        "seconds": round(time.perf_counter() - started, 1),
    }


def _described(asked: Asked) -> dict[str, Any]:
    encoder = asked.encoder
    return {
        "model": encoder.source or "model",
        "provenance": encoder.provenance,
        "recipe": encoder.card.get("recipe"),
        "step": encoder.card.get("step"),
        "size": asked.size,
        "precision": encoder.precision,
        "readout": encoder.readout,
        "modes": list(asked.modes),
    }


def _shared(train: Subset, test: Subset, name: str) -> list[str]:
    """A note if test images are train images."""
    shared = shared_images(test, train)
    if not shared:
        return []
    return [
        f"{shared:,} of {counted(len(test.rows), 'test image')} of {name} "
        f"{'is a train image' if shared == 1 else 'are train images'}: their scores say nothing of new images"
    ]


def _trained_on(encoder: Encoder, test: Subset, name: str) -> list[str]:
    """A note if a run was trained on test images; nothing if its data is not here."""
    folder = Path(encoder.source)
    if not encoder.source or not (folder / "config.yaml").is_file():
        return []
    try:
        data = ObjectIndex.open(str(read_config(folder)["config"]["data"]))
    except (OdisError, KeyError, TypeError):
        return []
    seen = shared_images(test, Subset(data, range(len(data))))
    if not seen:
        return []
    return [
        f"{encoder.source} was trained on {seen:,} of the {counted(len(test.rows), 'test image')} of {name}, "
        f"without their labels: its scores may be too high"
    ]


def _pixel_labels(
    train: Subset, test: Subset, maps: str
) -> tuple[tuple[PixelLabels, PixelLabels] | None, str]:
    """A class for every pixel of both parts: of label maps, or of objects; or why there is none."""
    if maps:
        opened = [open_segmented(maps, "", part=part).images for part in ("train", "val")]
        if opened[0].classes != opened[1].classes:
            raise DataError(f"{maps}: its train and val maps do not have the same classes")
        return (_of_maps(maps, opened, train), _of_maps(maps, opened, test)), ""
    try:
        of_train, of_test = (LabelledImages.from_index(one.index, boxes=True) for one in (train, test))
    except DataError as error:
        return None, str(error)
    for one, subset in ((of_train, train), (of_test, test)):
        labels = one.stated_labels(subset.rows)
        if labels is not None and not any(label > 0 for label in labels):
            return None, f"{subset.index.path}: none of its objects has a label"
    positions = train_positions(of_test, of_train)
    return (
        PixelLabels(of_train, None, np.arange(len(of_train.classes))),
        PixelLabels(of_test, None, positions),
    ), ""


def _of_maps(maps: str, opened: Sequence[LabelledImages], subset: Subset) -> PixelLabels:
    """The maps of the images of a subset: those of the part that has most of them.

    Raises:
        DataError: There is none.
    """
    best: PixelLabels | None = None
    paths = {real_path(subset.index.image_path(i)) for i in subset.rows}
    for images in opened:
        rows = {path: i for i in range(len(images)) if (path := real_path(images.image_path(i))) in paths}
        if rows and (best is None or best.rows is None or len(rows) > len(best.rows)):
            best = PixelLabels(images, rows, np.arange(len(images.classes)))
    if best is None:
        raise DataError(f"{maps}: has no map of an image of {subset.index.path}")
    return best
