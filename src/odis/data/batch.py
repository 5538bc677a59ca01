"""Samples to a batch: views stacked view-major, and which object tokens and patches the losses read."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from odis.types import Batch, Sample, View


def collate(samples: list[Sample], missing_pairs: Literal["skip", "zero"] = "skip") -> Batch:
    """The batch of these samples: their views view-major, and which object tokens and patches the losses take
    (`types.Batch`).

    Args:
        samples: B samples of as many views each.
        missing_pairs: What the object term is the mean over: the pairs of views that show the object, or all
            that there would be if every view showed one in every slot.
    """
    global_views, global_masks, global_visible = _stack([sample.global_views for sample in samples])
    if samples[0].local_views:
        local_views, local_masks, local_visible = _stack([sample.local_views for sample in samples])
    else:
        local_views, local_masks, local_visible = global_views[:0], global_masks[:0], global_visible[:0]
    hidden = torch.stack([sample.prediction_masks for sample in samples], dim=1).flatten(0, 1)  # (G * B, P)
    positions = hidden.flatten().nonzero().squeeze(1)
    weight = hidden.sum(1).reciprocal()
    seen = global_visible.sum(0)  # (B, Q): global views that show the object
    pairs = (seen * (seen - 1) + local_visible.sum(0) * seen).sum().float()
    if missing_pairs == "zero":
        of_slot = len(global_visible) * (len(global_visible) - 1 + len(local_visible))
        pairs = torch.full_like(pairs, seen.numel() * of_slot)
    return Batch(
        global_views=global_views,
        local_views=local_views,
        global_masks=global_masks,
        local_masks=local_masks,
        global_visible=global_visible,
        local_visible=local_visible,
        prediction_masks=hidden,
        hidden=positions,
        hidden_weight=weight[positions // hidden.shape[1]],
        teacher_rows=_rows(global_visible),
        student_global_rows=_rows(global_visible & (seen > 1)),
        student_local_rows=_rows(local_visible & (seen > 0)),
        pairs=pairs,
        paths=[sample.path for sample in samples],
        indices=[sample.index for sample in samples],
        skipped=[item for sample in samples for item in sample.skipped],
    )


def _stack(views: list[list[View]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (V * B, 3, S, S), object masks (V * B, Q, P) and visibility (V, B, Q) of V views of B images."""
    ordered = [image[v] for v in range(len(views[0])) for image in views]
    visible = torch.stack([view.visible for view in ordered])
    return (
        torch.stack([view.pixels for view in ordered]),
        torch.stack([view.object_masks for view in ordered]),
        visible.unflatten(0, (-1, len(views))),
    )


def _rows(chosen: Tensor) -> Tensor:
    """Positions of the true elements in the flattened tensor, int64."""
    return chosen.flatten().nonzero().squeeze(1)
