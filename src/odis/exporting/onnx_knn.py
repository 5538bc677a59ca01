"""What fewer bits lose: k-NN of one half of an index by the other, with each ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis.config.query import QueryConfig
from odis.config.wording import counted
from odis.data.views import normalize_pixels
from odis.errors import OdisError
from odis.evaluation.neighbours import NearestNeighbours, vote
from odis.evaluation.scores import accuracy_score
from odis.evaluation.subset import Subset
from odis.exporting.network import Exported
from odis.exporting.onnx_file import open_session, run_onnx
from odis.inference.queries import IndexRows, RowQueries
from odis.objects.index import ObjectIndex
from odis.types import Skipped

_IMAGES = 2000  # at most, drawn by seed 0
_NEIGHBOURS, _TEMPERATURE = 20, 0.07


@dataclass(frozen=True, slots=True)
class KnnLoss:
    """Top-1 accuracies of ONNX files on the same objects.

    Args:
        index: What was measured on.
        neighbours: How many voted.
        gallery: Objects that voted.
        test: Objects that were classified, of other images.
        accuracy: Value, low and high end of the 95 % interval, in percent, by the name of the file.
        skipped: Files and objects that could not be used.
    """

    index: str
    neighbours: int
    gallery: int
    test: int
    accuracy: dict[str, tuple[float, float, float]]
    skipped: int

    def in_words(self) -> list[str]:
        """A line for each file; the first is what the others are held against."""
        (_, (base, *_)), *_ = self.accuracy.items()
        about = (
            f"{counted(self.neighbours, 'neighbour')}, {counted(self.test, 'object')} by {self.gallery} of "
            f"other images"
        )
        return [
            f"k-NN, {name}: {value:.2f} % ({low:.1f} - {high:.1f}), {value - base:+.2f} ({about})"
            for name, (value, low, high) in self.accuracy.items()
        ]


def check_labels(data: str) -> ObjectIndex:
    """The index, if a k-NN can be measured on it.

    Raises:
        OdisError: It has too few labelled objects.
    """
    index = ObjectIndex.open(data)
    if Subset.of(index, _IMAGES, 0).labelled(2) < 2:
        raise OdisError(f"data: {data}: has no labelled objects, which the k-NN needs")
    return index


def knn_loss(
    index: ObjectIndex,
    exported: Exported,
    files: Mapping[str, Path],
    objects: str,
    skip: Callable[[Skipped], None] | None = None,
) -> KnnLoss:
    """Classify the labelled objects of every second image by those of the others.

    Args:
        index: Images, objects and labels.
        exported: The model.
        files: ONNX files by name; all see the same pixels.
        objects: How they are given objects, `masks` or `boxes`.
        skip: Called with each file and object that cannot be used.

    Raises:
        OdisError: Too few objects can be used.
    """
    rows = list(Subset.of(index, _IMAGES, 0).rows)
    sessions = {name: open_session(path) for name, path in files.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in files}
    labels: list[int] = []
    images: list[int] = []
    skipped = 0
    builder = exported.encoder.query_builder(QueryConfig())
    items = IndexRows(index, rows, builder)
    for number, row in enumerate(rows):
        item = items[number]
        for one in item.skipped:
            skipped += 1
            if skip is not None:
                skip(one)
        known = [i for i, of_one in enumerate(item.labels) if len(of_one) == 1]
        if not known:
            continue
        labels += [item.labels[i][0] for i in known]
        images += [number] * len(known)
        pixels, given = _inputs(exported, item, known, objects, index[row])
        for name, session in sessions.items():
            found[name].append(run_onnx(session, pixels, given)["objects"][0])
    of_image, label = torch.tensor(images, dtype=torch.int64), torch.tensor(labels, dtype=torch.int64)
    test = of_image % 2 == 1
    gallery, count = int((~test).sum()), int(test.sum())
    if not gallery or not count:
        raise OdisError(f"data: {index.path}: its labelled objects are not in two images that can be used")
    k = min(_NEIGHBOURS, gallery)
    accuracy = {}
    for name, parts in found.items():
        features = torch.cat(parts)
        nearest = NearestNeighbours(features[test], k)
        nearest.add(features[~test])
        similarity, near = nearest.read()
        predicted = vote(
            similarity, label[~test][near], [k], temperature=_TEMPERATURE, classes=len(index.classes)
        )[k]
        score = accuracy_score(predicted == label[test], of_image[test])
        accuracy[name] = (score.value, score.low, score.high)
    return KnnLoss(Path(index.path).name, k, gallery, count, accuracy, skipped)


def _inputs(
    exported: Exported, item: RowQueries, known: list[int], objects: str, row: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised pixels (1, 3, H, W) of an image, and some of its objects, as a graph takes them."""
    pixels = item.queries[0].pixels
    patch = exported.encoder.patch_size
    height, width = pixels.shape[1:]
    normal = normalize_pixels(
        torch.from_numpy(pixels[None].copy()), exported.encoder.mean, exported.encoder.std
    ).numpy()
    if objects == "masks":
        masks = np.concatenate([query.masks for query in item.queries])[known]
        return normal, masks.reshape(1, len(known), height // patch, width // patch)
    scale = np.array([width / row.width, height / row.height] * 2)
    boxes = np.array(item.boxes, dtype=np.float64)[known] * scale
    return normal, boxes[None].astype(np.float32)
