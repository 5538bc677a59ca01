"""Class scores of an image from overlapping windows, and the label of each of its pixels.

Letters: C classes, S side of a window, h, w its patch grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 1 << 26  # scores of pixels held at a time when they are resized: 256 MB


def windows(height: int, width: int, side: int, stride: int) -> list[tuple[int, int]]:
    """Upper left corners of the windows of an image, whose sides are at least S; the last of a row or column
    ends with the image.
    """

    def starts(length: int) -> list[int]:
        count = max(length - side + stride - 1, 0) // stride + 1
        return [max(min(k * stride + side, length) - side, 0) for k in range(count)]

    return [(top, left) for top in starts(height) for left in starts(width)]


def stitched(
    scores: Iterator[Tensor] | Sequence[Tensor],
    corners: Sequence[tuple[int, int]],
    size: tuple[int, int],
    side: int,
) -> Tensor:
    """Scores of each pixel of an image: those of each window enlarged bilinearly, and their mean where
    windows
    overlap: (C, H, W).

    Args:
        scores: (C, h, w) of each window.
        corners: Of the windows.
        size: H and W.
        side: S.
    """
    total: Tensor | None = None
    count = torch.zeros(size)
    for one, (top, left) in zip(scores, corners, strict=True):
        if total is None:
            total, count = one.new_zeros(one.shape[0], *size), count.to(one.device)
        large = F.interpolate(one[None], (side, side), mode="bilinear", align_corners=False)[0]
        part = slice(top, top + side), slice(left, left + side)
        total[:, part[0], part[1]] += large
        count[part] += 1
    assert total is not None
    return total.div_(count)


def best_class(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of each pixel of a map of another size: scores (C, H, W) resized bilinearly, the highest
    taken; of equal ones the first: int64 (height, width).
    """
    if scores.shape[0] * size[0] * size[1] <= _AT_ONCE:
        return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
    best = torch.full(size, float("-inf"), device=scores.device)
    label = torch.zeros(size, dtype=torch.int64, device=scores.device)
    for c in range(scores.shape[0]):
        of_class = F.interpolate(scores[None, c : c + 1], size, mode="bilinear", align_corners=False)[0, 0]
        better = of_class > best
        best, label = torch.where(better, of_class, best), torch.where(better, c, label)
    return label
