"""Between networks and objects: what they answer before anything is chosen, and which images may be shown
together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from odis.types import Box


@dataclass(slots=True)
class Candidates:
    """The boxes of one image that a detector proposes, in any order, on the CPU.

    `mask` makes the mask of candidate i of the whole image (COCO compressed RLE, None if it is empty); None
    for detectors of boxes. It is a function since most candidates are dropped, and a mask as large as the
    image costs more than its box.
    """

    boxes: Tensor  # float32 (n, 4): x0, y0, x1, y1 in pixels of the image; may reach over its edge
    scores: Tensor  # float32 (n,)
    labels: Tensor | None = None  # int64 (n,): positions among the detector's classes; None if it knows none
    mask: Callable[[int], bytes | None] | None = None


class DetectionModel(Protocol):
    """A detector: what it is called, its weights, its classes, and its answer for a batch of images."""

    name: str
    revision: str
    classes: list[str]

    def __call__(self, images: list[np.ndarray]) -> list[Candidates]:
        """One answer an image, in their order; images are uint8 (height, width, 3), RGB, each of its own
        size.
        """
        ...


class Masks(Protocol):
    """A network that is asked for the object in each box: what it is called, its weights, and its answer for
    an image.
    """

    name: str
    revision: str

    def __call__(self, image: np.ndarray, boxes: Sequence[Box]) -> list[bytes | None]:
        """COCO compressed RLE of the whole image for each box, None where the mask is empty; image is uint8
        (height, width, 3), RGB.
        """
        ...


def alike(keys: Sequence[Hashable]) -> list[list[int]]:
    """Positions with equal keys, in groups, in the order of first appearance.

    Only images that become tensors of one shape are shown together: padding the smaller ones would change the
    answer, so what is found in an image would depend on its neighbours in the batch.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())
