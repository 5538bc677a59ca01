"""COCO's average precision of found objects, by pycocotools, kept so that images can be resampled.

Ids count from 1, since 0 means "no match" there; image ids are all passed; masks are matched without boxes,
whose area would say the size of an object; a class, or a size, without true objects has no AP, not -1.

Letters: n detections, T thresholds of IoU, C classes.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from odis.downstream.detector import MOST
from odis.evaluation.protocols.localization.coco_scores import Matches, collected, crowds_of
from odis.objects import rle
from odis.objects.sources.json_arrays import read_arrays
from odis.types import ImageObjects, Object

Kind = Literal["box", "mask"]

SIZES = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""Areas in pixels of all objects, and of small, medium and large ones, as COCO has them."""

_PARTS = ("image", "true", "false", "objects")


@dataclass(frozen=True, slots=True)
class FoundObjects:
    """What was found in the test images, matched with the truth.

    Attributes:
        images: How many.
        matches: By kind, size and class.
    """

    images: int
    matches: Mapping[tuple[str, str, int], Matches]

    @property
    def units(self) -> int:
        """Images, which are resampled."""
        return self.images

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        """AP (mean over IoU .5 to .95), AP50, AP75, AR100 and AP of the three sizes, from 0 to 1, of images
        that are taken `counts` times, each the mean over classes that have objects; NaN without any.
        """
        found: dict[str, float] = {}
        kinds = dict.fromkeys(kind for kind, _, _ in self.matches)
        for kind in kinds:
            for size in SIZES:
                of_classes = [one for (k, s, _), one in self.matches.items() if (k, s) == (kind, size)]
                precision = _mean([one.precision(counts) for one in of_classes])
                found[f"AP{size} {kind}"] = float(precision.mean())
                if not size:
                    found[f"AP50 {kind}"], found[f"AP75 {kind}"] = float(precision[0]), float(precision[5])
                    found[f"AR100 {kind}"] = float(_mean([one.recall(counts) for one in of_classes]).mean())
        return found

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be kept in a file."""
        made = {"images": torch.tensor(self.images)}
        for (kind, size, label), one in self.matches.items():
            for part in _PARTS:
                made[f"{kind}.{size}.{label}.{part}"] = torch.from_numpy(np.array(getattr(one, part)))
        return made

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> FoundObjects:
        """What `tensors` gave.

        Raises:
            KeyError: Something is missing.
        """
        matches = {}
        for name in tensors:
            if name.endswith(".image"):
                kind, size, label, _ = name.split(".")
                parts = [tensors[f"{kind}.{size}.{label}.{part}"].numpy() for part in _PARTS]
                matches[kind, size, int(label)] = Matches(*parts)
        return FoundObjects(int(tensors["images"]), dict(sorted(matches.items())))


def match(
    truth: Sequence[ImageObjects],
    found: Sequence[ImageObjects],
    classes: int,
    kinds: Sequence[Kind],
    crowds: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
) -> FoundObjects:
    """Match found objects with true ones of their class.

    Args:
        truth: True objects of each image, labels from 0.
        found: Found objects of each image, with labels and scores.
        classes: C.
        kinds: What is compared.
        crowds: Of some images COCO's annotations of crowds, with `category_id` as a label from 1; what lies
            in them is neither right nor wrong.
    """
    matches: dict[tuple[str, str, int], Matches] = {}
    for kind in kinds:
        data, answers = _coco(truth, found, classes, kind, crowds or {})
        with contextlib.redirect_stdout(io.StringIO()):  # it reports as it goes
            evaluation = COCOeval(data, answers, "bbox" if kind == "box" else "segm")
            evaluation.params.maxDets = [MOST]
            evaluation.params.areaRng, evaluation.params.areaRngLbl = list(SIZES.values()), list(SIZES)
            evaluation.evaluate()
        levels, results = len(evaluation.params.iouThrs), evaluation.evalImgs
        for number, label in enumerate(evaluation.params.catIds):
            for place, size in enumerate(SIZES):
                start = (number * len(SIZES) + place) * len(truth)
                one = collected(_from_zero(results[start : start + len(truth)]), len(truth), levels)
                counted = (one.true | one.false).any(axis=0)
                matches[kind, size, label - 1] = Matches(
                    one.image[counted], one.true[:, counted], one.false[:, counted], one.objects
                )
    return FoundObjects(len(truth), dict(sorted(matches.items())))


def crowds_in(
    file: str, names: Sequence[str], classes: Sequence[str], agnostic: bool
) -> dict[int, list[dict[str, Any]]]:
    """Crowds in a COCO file by the positions of their images, with labels from 1 in place of COCO's ids;
    those of other classes are left out.

    Args:
        file: The annotations.
        names: File names of the images.
        classes: Names by label.
        agnostic: All are of one class.

    Raises:
        DataError: The file cannot be read.
    """
    position = {name: k for k, name in enumerate(classes)}
    ids: dict[Any, int] = {}
    for _, entries in read_arrays(Path(file), ("categories",)):
        ids |= {one.get("id"): position[one["name"]] for one in entries if one.get("name") in position}
    made: dict[int, list[dict[str, Any]]] = {}
    for image, entries in crowds_of(file, names).items():
        for entry in entries:
            label = 0 if agnostic else ids.get(entry.get("category_id"))
            if label is not None:
                made.setdefault(image, []).append(dict(entry) | {"category_id": label + 1})
    return made


def as_found(
    boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, masks: np.ndarray | None, size: tuple[int, int]
) -> ImageObjects:
    """What was found in one image of a width and height: boxes (n, 4), labels from 0, masks (n, H, W)."""
    objects = tuple(
        Object(
            (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            None if masks is None else rle.encode(masks[k]),
            int(labels[k]),
            float(scores[k]),
        )
        for k, box in enumerate(boxes)
    )
    return ImageObjects("", size[0], size[1], objects)


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Over the classes that have a value, (T,); NaN if none has."""
    known = [one for one in values if not np.isnan(one).any()]
    return np.mean(known, axis=0) if known else np.full_like(values[0], np.nan)


def _coco(
    truth: Sequence[ImageObjects],
    found: Sequence[ImageObjects],
    classes: int,
    kind: Kind,
    crowds: Mapping[int, Sequence[Mapping[str, Any]]],
) -> tuple[COCO, COCO]:
    objects = [entry for i, row in enumerate(truth) for entry in _entries(i, row, kind)]
    objects += [
        {"area": float(one["bbox"][2] * one["bbox"][3])} | dict(one) | {"image_id": i + 1, "iscrowd": 1}
        for i, of_image in crowds.items()
        for one in of_image
    ]
    detections = [entry for i, row in enumerate(found) for entry in _entries(i, row, kind)]
    made = []
    for entries in (objects, detections):
        for number, entry in enumerate(entries, start=1):
            entry["id"] = number
        data = COCO()
        data.dataset = {
            "images": [{"id": i, "height": r.height, "width": r.width} for i, r in enumerate(truth, start=1)],
            "annotations": entries,
            "categories": [{"id": k + 1, "name": str(k)} for k in range(classes)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            data.createIndex()
        made.append(data)
    return made[0], made[1]


def _entries(image: int, row: ImageObjects, kind: Kind) -> list[dict[str, Any]]:
    """COCO's entries of an image's objects; an object's area is that of its mask, if it has one."""
    entries = []
    for one in row.objects:
        assert one.label is not None
        x0, y0, x1, y1 = one.box
        entry: dict[str, Any] = {
            "image_id": image + 1,
            "category_id": one.label + 1,
            "iscrowd": 0,
            "score": 0.0 if one.score is None else float(one.score),
        }
        if kind == "box":
            entry["bbox"] = [x0, y0, x1 - x0, y1 - y0]
        else:
            entry["segmentation"] = {"size": [row.height, row.width], "counts": one.mask}
        of_mask = one.mask is not None and (kind == "mask" or one.score is None)
        entry["area"] = float(rle.area(one.mask)) if of_mask and one.mask else (x1 - x0) * (y1 - y0)
        entries.append(entry)
    return entries


def _from_zero(results: Sequence[dict[str, Any] | None]) -> list[dict[str, Any] | None]:
    """COCOeval's results of images, which it numbers as we number ids: from 1."""
    return [None if one is None else one | {"image_id": one["image_id"] - 1} for one in results]
