"""The Gram anchor: patches of the student stay as alike among themselves as in the network that a run starts
from.

The term is DINOv3's (arXiv 2508.10104, section 4.2). There the anchor is an earlier teacher, which sees the
crop at twice the size; here it is the start itself, frozen, at the student's size.

G global views of B images, P patches, D width; V = G * B.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from odis.method.vit import ObjectViT
from odis.types import Batch, Losses, StudentOutput


def gram_loss(student: Tensor, anchor: Tensor, views: int) -> Tensor:
    """Mean squared difference of the cosines between all patches of a view, over all views.

    Args:
        student: (V * P, D) patches after the final norm, hidden ones too.
        anchor: The same patches in the anchor.
        views: V.
    """
    x, y = (F.normalize(part.float().unflatten(0, (views, -1)), dim=-1) for part in (student, anchor))
    return (x @ x.mT - y @ y.mT).square().mean()


@torch.no_grad()
def anchor_patches(anchor: ObjectViT, batch: Batch) -> Tensor:
    """(V * P, D): all patches of the global views in the anchor, none hidden."""
    patches: Tensor = anchor(batch.global_views).patches
    return patches.flatten(0, 1)


def add_gram(losses: Losses, student: StudentOutput, anchor: Tensor, views: int, weight: float) -> Losses:
    """The losses with the anchor's term."""
    assert student.every_patch is not None
    gram = gram_loss(student.every_patch, anchor, views)
    return replace(losses, total=losses.total + weight * gram, gram=gram)
