"""Two indexes of the same images against each other: how well the objects of one (detected, discovered,
noisy) are those of the other.

Objects are compared by their boxes, whatever their labels. AP and recall are pycocotools' (COCO's evaluation,
one class for all).
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from odis.errors import DataError
from odis.objects.clean import ANY_LABEL, usable_objects
from odis.objects.index import ObjectIndex
from odis.types import Object

SIZES = ("all", "small", "medium", "large")
"""COCO's sizes of a true object: area below 32 x 32 pixels, below 96 x 96, and above."""

BINS = 10
# predicted objects an image that count, the highest scores first; COCO's own bound of 100 is for detectors of
# 80 classes
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found; shares are in percent, NaN where there is nothing to measure."""

    predicted: str  # provenance
    truth: str
    images: int  # in both indexes
    only_predicted: int  # images that only the predicted index has
    only_truth: int
    predicted_objects: int  # in the images of both
    true_objects: int
    unusable: int  # objects that are left out of both counts
    corloc: float  # images with true objects in which a predicted box has IoU .5 with one of them
    corloc_first: float  # the same of the predicted box of the highest score alone
    ap: float  # mean of AP at IoU .5, .55, ... .95
    ap50: float
    recall50: dict[str, float]  # true objects found at IoU .5, by `SIZES`
    iou_histogram: list[
        float
        # share of true objects by the highest IoU that a predicted box has with them, in `BINS` equal bins of
        # 0..1
    ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN is None."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: plain(v) for k, v in value.items()}
            if isinstance(value, list):
                return [plain(v) for v in value]
            return None if isinstance(value, float) and not np.isfinite(value) else value

        figures: dict[str, Any] = plain(asdict(self))
        return figures

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(show_header=False, title=f"{self.predicted} against {self.truth}", title_justify="left")
        for name, value in self.table():
            table.add_row(name, value)
        return table

    def table(self) -> list[tuple[str, str]]:
        """Name and value of each figure, as text."""
        lines = [
            (
                "images in both (only in one, only in the other)",
                f"{self.images:,} ({self.only_predicted:,}, {self.only_truth:,})",
            ),
            ("objects, true objects", f"{self.predicted_objects:,}, {self.true_objects:,}"),
            ("objects left out as unusable", f"{self.unusable:,}"),
            ("CorLoc: some box is right, the first box is", f"{self.corloc:.2f}, {self.corloc_first:.2f}"),
            ("AP50, AP", f"{self.ap50:.2f}, {self.ap:.2f}"),
        ]
        lines += [(f"recall at IoU .5, {size} objects", f"{self.recall50[size]:.2f}") for size in SIZES]
        for i, share in enumerate(self.iou_histogram):
            lines.append(
                (
                    f"best IoU of a true object {i / BINS:.1f} - {(i + 1) / BINS:.1f}",
                    f"{share:5.1f} % " + "#" * round(share / 4),
                )
            )
        return lines


def compare(predicted: ObjectIndex, truth: ObjectIndex) -> Comparison:
    """Compare the objects of two indexes in the images that both have, matched by the path of the file.

    Objects without a score are taken in the order of the index. Held in memory: all boxes of both.

    Args:
        predicted: What is measured.
        truth: What it is measured against.

    Raises:
        DataError: The indexes have no image in common.
    """
    rows = {_path(truth, i): i for i in range(len(truth))}
    pairs = [(i, j) for i in range(len(predicted)) if (j := rows.get(_path(predicted, i))) is not None]
    if not pairs:
        raise DataError(
            f"{predicted.path} and {truth.path} have no image in common; images are matched by the path "
            f"of their file"
        )
    unusable = 0
    boxes: list[
        tuple[np.ndarray, np.ndarray]
    ] = []  # of each image: predicted (n, 4), best first, and true (m, 4)
    scores: list[np.ndarray] = []
    for i, j in pairs:
        one, other = predicted[i], truth[j]
        kept = [usable_objects(row, ANY_LABEL).objects for row in (one, other)]
        unusable += len(one.objects) + len(other.objects) - len(kept[0]) - len(kept[1])
        score = np.array(
            [-n if o.score is None else o.score for n, o in enumerate(kept[0])], dtype=np.float64
        )
        order = np.argsort(-score, kind="stable")
        scores.append(score[order])
        boxes.append(
            (_clipped(kept[0], one.width, one.height)[order], _clipped(kept[1], other.width, other.height))
        )
    best, hit, hit_first = _overlaps(boxes)
    ap, ap50, recall = _coco(boxes, scores)
    histogram = (
        np.bincount(np.minimum((best * BINS).astype(int), BINS - 1), minlength=BINS)
        if len(best)
        else np.full(BINS, np.nan)
    )
    return Comparison(
        predicted.provenance,
        truth.provenance,
        len(pairs),
        len(predicted) - len(pairs),
        len(truth) - len(pairs),
        sum(len(p) for p, _ in boxes),
        sum(len(t) for _, t in boxes),
        unusable,
        _percent(hit),
        _percent(hit_first),
        ap,
        ap50,
        recall,
        [100 * float(n) / max(1, len(best)) for n in histogram],
    )


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) and (m, 4): float64 (n, m)."""
    low, high = (
        np.maximum(one[:, None, :2], other[None, :, :2]),
        np.minimum(one[:, None, 2:], other[None, :, 2:]),
    )
    both = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    shares: np.ndarray = both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-12)
    return shares


def _path(index: ObjectIndex, i: int) -> str:
    path = index.image_path(i)
    return path if "://" in path else os.path.normpath(path)


def _clipped(objects: Sequence[Object], width: int, height: int) -> np.ndarray:
    boxes = np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4)
    return np.clip(boxes, 0, (width, height, width, height))


def _overlaps(boxes: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, list[bool], list[bool]]:
    """The best IoU of each true object; and of each image that has some whether any box, and the first box,
    is right.
    """
    best, hit, hit_first = [np.empty(0)], [], []
    for predicted, true in boxes:
        if not len(true):
            continue
        overlap = iou(predicted, true) if len(predicted) else np.zeros((1, len(true)))
        best.append(overlap.max(0))
        hit.append(bool(overlap.max() >= 0.5))
        hit_first.append(bool(overlap[0].max() >= 0.5))
    return np.concatenate(best), hit, hit_first


def _coco(
    boxes: Sequence[tuple[np.ndarray, np.ndarray]], scores: Sequence[np.ndarray]
) -> tuple[float, float, dict[str, float]]:
    """AP, AP50 and recall at IoU .5 by size, by COCO's own code."""
    true: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for i, (predicted, truth) in enumerate(boxes):
        for x0, y0, x1, y1 in truth.tolist():
            box = [x0, y0, x1 - x0, y1 - y0]
            true.append(
                {
                    "id": len(true) + 1,
                    "image_id": i,
                    "category_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        for (x0, y0, x1, y1), score in zip(predicted.tolist(), scores[i].tolist()):
            found.append(
                {"image_id": i, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            )
    if not true:
        return float("nan"), float("nan"), dict.fromkeys(SIZES, float("nan"))
    if not found:
        return 0.0, 0.0, _recall_of_nothing(true)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports as it goes
        data = COCO()
        data.dataset = {
            "images": [{"id": i} for i in range(len(boxes))],
            "annotations": true,
            "categories": [{"id": 1, "name": "object"}],
        }
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(found), "bbox")
        evaluation.params.maxDets = [_MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = (
        evaluation.eval["precision"],
        evaluation.eval["recall"],
    )  # (T, R, K, A, M) and (T, K, A, M), -1: nothing to measure
    sizes = {size: _known(recall[0, 0, a, 0]) for a, size in enumerate(SIZES)}
    return _known(precision[:, :, 0, 0, 0].mean()), _known(precision[0, :, 0, 0, 0].mean()), sizes


def _recall_of_nothing(true: Sequence[dict[str, Any]]) -> dict[str, float]:
    bounds = {
        "all": (0, 1e10),
        "small": (0, 32**2),
        "medium": (32**2, 96**2),
        "large": (96**2, 1e10),
    }  # both ends belong, as in COCO
    return {
        size: 0.0 if any(low <= t["area"] <= high for t in true) else float("nan")
        for size, (low, high) in bounds.items()
    }


def _known(value: float) -> float:
    return 100 * float(value) if value >= 0 else float("nan")


def _percent(values: Sequence[bool]) -> float:
    return 100 * float(np.mean(values)) if values else float("nan")
