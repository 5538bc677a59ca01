"""Average precision and recall without classes, as COCO counts them: matching and curve are pycocotools', the
intervals are over images.

Letters: n detections, T thresholds of IoU, R resamples.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from odis.evaluation.scores import Score, resampled_score
from odis.types import ImageObjects

MOST = 100
"""Detections of an image that count, the highest scores first."""

_LEVELS = np.linspace(0, 1, 101)  # of recall


@dataclass(frozen=True, slots=True)
class Matches:
    """Detections by falling score, and what each is at each IoU from .5 to .95.

    Attributes:
        image: int64 (n,), of each detection.
        true: bool (T, n).
        false: bool (T, n); neither is what lies in a crowd.
        objects: int64 (images,), true objects.
    """

    image: np.ndarray
    true: np.ndarray
    false: np.ndarray
    objects: np.ndarray

    def precision(self, counts: np.ndarray) -> np.ndarray:
        """Average precision at each IoU of images taken `counts` times: float64 (T,); NaN without objects."""
        total = float(self.objects @ counts)
        if not total:
            return np.full(len(self.true), np.nan)
        weights = counts[self.image]
        found = []
        for true, false in zip(self.true, self.false):
            right, wrong = np.cumsum(weights * true), np.cumsum(weights * false)
            recall, share = right / total, right / np.maximum(right + wrong, np.spacing(1))
            share = np.maximum.accumulate(share[::-1])[::-1]
            place = np.searchsorted(recall, _LEVELS, side="left")
            found.append(np.append(share, 0.0)[place].mean())
        return np.array(found)

    def recall(self, counts: np.ndarray) -> np.ndarray:
        """Recall at each IoU, likewise."""
        total = float(self.objects @ counts)
        if not total:
            return np.full(len(self.true), np.nan)
        shares: np.ndarray = (self.true * counts[self.image]).sum(axis=1) / total
        return shares


def coco_scores(
    truth: Sequence[ImageObjects],
    found: Sequence[ImageObjects],
    kind: Literal["box", "mask"],
    *,
    crowds: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Score]:
    """AP50, AP (mean over IoU .5, .55, ... .95) and AR100 (the mean of recall over the same) of found
    objects.

    Args:
        truth: True objects of each image.
        found: Found objects of each image, with scores; those without rank by their order.
        kind: What is compared. Objects without a mask are no masks.
        crowds: Of some images COCO's annotations of crowds; what lies in them is neither right nor wrong.
        resamples: R.
        seed: Of the resamples.
    """
    matches, precision, recall = _matched(truth, found, kind, crowds or {})
    values = {
        "AP50": (precision[0], lambda c: matches.precision(c)[0]),
        "AP": (precision.mean(), lambda c: matches.precision(c).mean()),
        "AR100": (recall.mean(), lambda c: matches.recall(c).mean()),
    }
    return {
        f"{name} {kind}": resampled_score(
            float(value),
            len(truth),
            lambda counts, of=of: np.array([of(one) for one in counts]),  # type: ignore[misc]
            resamples=resamples,
            seed=seed,
        )
        for name, (value, of) in values.items()
    }


def _matched(
    truth: Sequence[ImageObjects],
    found: Sequence[ImageObjects],
    kind: Literal["box", "mask"],
    crowds: Mapping[int, Sequence[Mapping[str, Any]]],
) -> tuple[Matches, np.ndarray, np.ndarray]:
    """The matches of pycocotools, and its precision and recall at each IoU, (T,)."""
    objects = [entry for i, row in enumerate(truth) for entry in _entries(i, row, kind)]
    objects += [
        {"bbox": one["bbox"], "segmentation": one.get("segmentation"), "image_id": i, "iscrowd": 1}
        for i, of_image in crowds.items()
        for one in of_image
    ]
    for number, entry in enumerate(objects, start=1):
        entry |= {"id": number, "category_id": 1, "area": entry["bbox"][2] * entry["bbox"][3]}
    data = COCO()
    data.dataset = {
        "images": [{"id": i, "height": row.height, "width": row.width} for i, row in enumerate(truth)],
        "annotations": objects,
        "categories": [{"id": 1, "name": "object"}],
    }
    detections = [entry for i, row in enumerate(found) for entry in _entries(i, row, kind)]
    for number, entry in enumerate(detections, start=1):
        entry |= {"id": number, "category_id": 1, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
    answers = COCO()
    answers.dataset = data.dataset | {"annotations": detections}
    with contextlib.redirect_stdout(io.StringIO()):  # it reports as it goes
        data.createIndex()
        answers.createIndex()
        evaluation = COCOeval(data, answers, "bbox" if kind == "box" else "segm")
        evaluation.params.maxDets = [MOST]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, 0].mean(axis=1)
    recall = evaluation.eval["recall"][:, 0, 0, 0]
    known = [
        np.where(values < 0, np.nan, values) for values in (precision, recall)
    ]  # -1: there is no true object
    return collected(evaluation.evalImgs, len(truth), len(evaluation.params.iouThrs)), known[0], known[1]


def _entries(image: int, row: ImageObjects, kind: str) -> list[dict[str, Any]]:
    """COCO's entries of an image's objects."""
    entries = []
    for n, one in enumerate(row.objects):
        x0, y0, x1, y1 = one.box
        entry: dict[str, Any] = {
            "image_id": image,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": 0,
            "score": float(-n if one.score is None else one.score),
        }
        if kind == "mask":
            if one.mask is None:
                continue
            entry["segmentation"] = {"size": [row.height, row.width], "counts": one.mask}
        entries.append(entry)
    return entries


def collected(results: Sequence[dict[str, Any] | None], images: int, levels: int) -> Matches:
    """What pycocotools says of each image, at so many thresholds, by falling score."""
    objects = np.zeros(images, dtype=np.int64)
    scores, numbers, true, false = [], [], [np.zeros((levels, 0), bool)], [np.zeros((levels, 0), bool)]
    for one in results:
        if one is None:
            continue
        i = int(one["image_id"])
        objects[i] = int((np.asarray(one["gtIgnore"]) == 0).sum())
        counted, right = ~one["dtIgnore"].astype(bool), one["dtMatches"] > 0
        scores += list(one["dtScores"])
        numbers += [i] * len(one["dtScores"])
        true.append(right & counted)
        false.append(~right & counted)
    order = np.argsort(-np.array(scores, dtype=np.float64), kind="mergesort")
    return Matches(
        np.array(numbers, dtype=np.int64)[order],
        np.concatenate(true, axis=1)[:, order],
        np.concatenate(false, axis=1)[:, order],
        objects,
    )


def crowds_of(instances: str, names: Sequence[str]) -> dict[int, list[dict[str, Any]]]:
    """Annotations of crowds in a COCO file, by the positions of their images in `names` (file names).

    Raises:
        DataError: The file cannot be read.
    """
    from pathlib import Path

    from odis.objects.sources.json_arrays import read_arrays

    position = {name: i for i, name in enumerate(names)}
    files: dict[Any, str] = {}
    crowds: list[dict[str, Any]] = []
    for name, entries in read_arrays(Path(instances), ("images", "annotations")):
        if name == "images":
            files |= {entry.get("id"): str(entry.get("file_name")).rsplit("/", 1)[-1] for entry in entries}
        else:
            crowds += [
                entry for entry in entries if entry.get("iscrowd") and len(entry.get("bbox") or ()) == 4
            ]
    found: dict[int, list[dict[str, Any]]] = {}
    for entry in crowds:
        i = position.get(files.get(entry.get("image_id"), ""))
        if i is not None:
            found.setdefault(i, []).append(entry)
    return found
