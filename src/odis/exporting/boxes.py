"""From boxes to patches in torch's own operations, so that a graph can hold it.

`data/geometry/patches.py` says which patches belong to an object; this is the same for boxes in an image that
is shown whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from odis.config.training import MaskShape

_ROUNDING = 1e-6  # of float32; a patch that is just covered enough must not depend on it


def masks_of_boxes(
    boxes: Tensor,
    rows: int,
    columns: int,
    patch: int,
    coverage: float,
    margin: int,
    shape: MaskShape = "area",
) -> Tensor:
    """The patches that belong to each box.

    Args:
        boxes: float32 (B, Q, 4): x0, y0, x1, y1 in pixels of the image that the network sees.
        rows: Rows of patches.
        columns: Columns of patches.
        patch: Side of a patch in pixels.
        coverage: Least share of a patch that a box covers, relative to the patch that it covers most.
        margin: Patches by which the masks are widened on every side.
        shape: Which patches the covered ones become. Those of a box are one component.

    Returns:
        bool (B, Q, rows, columns).
    """
    x0, y0, x1, y1 = boxes.unsqueeze(-1).unbind(-2)  # each (B, Q, 1)
    across = _overlap(x0, x1, columns, patch)  # (B, Q, columns)
    down = _overlap(y0, y1, rows, patch)
    shares = down.unsqueeze(-1) * across.unsqueeze(-2)
    largest = shares.amax(dim=(-2, -1), keepdim=True)
    masks = (shares >= coverage * (1 - _ROUNDING) * largest) & (shares > 0)
    if shape == "component-boxes":
        masks = masks.any(dim=-1, keepdim=True) & masks.any(dim=-2, keepdim=True)
    if margin == 0:
        return masks
    # As products with bands of ones, which hold for no object and for any grid.
    widened = _band(rows, margin, boxes) @ masks.float() @ _band(columns, margin, boxes)
    return widened > 0


def _band(cells: int, margin: int, like: Tensor) -> Tensor:
    """(cells, cells): 1 where two cells are at most `margin` apart."""
    at = torch.arange(cells, device=like.device)
    return ((at.unsqueeze(0) - at.unsqueeze(1)).abs() <= margin).float()


def _overlap(start: Tensor, end: Tensor, cells: int, patch: int) -> Tensor:
    """Share of each of the cells that an interval covers."""
    left = torch.arange(cells, device=start.device) * float(patch)
    return (torch.minimum(end, left + patch) - torch.maximum(start, left)).clamp(min=0) / patch
