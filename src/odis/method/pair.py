"""Student and teacher: built alike, the teacher the moving average of the student."""

from __future__ import annotations

import copy

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from odis.method.heads import ProjectionHead
from odis.method.vit import ObjectViT
from odis.types import SelectedTokens, Tokens


class Network(nn.Module):
    """A backbone and the heads that turn its tokens into prototype logits; both student and teacher are one.

    Args:
        backbone: The ViT.
        head: Head of object and image tokens.
        patch_head: Head of patch tokens, or None to share `head` (its weights then appear once, under
            `head.`).
        object_readout: How an object is read, as in the config.
    """

    patch_head: ProjectionHead

    def __init__(
        self,
        backbone: ObjectViT,
        head: ProjectionHead,
        patch_head: ProjectionHead | None = None,
        object_readout: str = "token",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        if patch_head is None:
            object.__setattr__(self, "patch_head", head)  # an alias: not registered a second time
        else:
            self.patch_head = patch_head
        self.object_readout = object_readout

    def embed(
        self, images: Tensor, object_masks: Tensor | None = None, prediction_masks: Tensor | None = None
    ) -> Tokens:
        """Tokens of B views, with objects read as the config says.

        Args:
            images: (B, 3, H, W).
            object_masks: bool (B, Q, P), or None to read no object.
            prediction_masks: bool (B, P), patches hidden from the backbone, or None.

        Returns:
            Tokens; with `mean-pool`, objects are means over their patches of an unmasked pass (Hénaff et al.,
            2021, arXiv 2103.10957).
        """
        if self.object_readout == "token":
            return self.backbone(images, object_masks, prediction_masks)
        tokens = self.backbone(images, None, prediction_masks)
        if object_masks is not None:
            tokens.objects = pool(tokens.patches, object_masks)
        return tokens

    def forward_selected(
        self,
        images: Tensor,
        object_masks: Tensor | None,
        prediction_masks: Tensor | None,
        patches: Tensor,
        objects: Tensor,
        *,
        image: bool,
    ) -> SelectedTokens:
        """The tokens of `embed` that a loss reads, for less: see `ObjectViT.forward_selected`."""
        if self.object_readout == "token":
            return self.backbone.forward_selected(
                images, object_masks, prediction_masks, patches, objects, image=image
            )
        # An object is the mean of its patches: all are read.
        tokens = self.embed(images, object_masks, prediction_masks)
        found = None if tokens.objects is None else tokens.objects.flatten(0, 1)[objects]
        return SelectedTokens(found, tokens.image, tokens.patches.flatten(0, 1)[patches])


def pool(patches: Tensor, masks: Tensor) -> Tensor:
    """Mean patch (B, Q, D) of each object, from patches (B, P, D) and masks bool (B, Q, P); 0 for an empty
    one.
    """
    weights = masks.to(patches.dtype)
    return weights @ patches / weights.sum(dim=-1, keepdim=True).clamp(min=1)


def teacher_of(student: Network) -> Network:
    """The teacher at the start: a frozen copy of the student without drop path."""
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    for module in teacher.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return teacher


@torch.no_grad()
def update_teacher(student: Network, teacher: Network, momentum: float) -> None:
    """teacher = momentum * teacher + (1 - momentum) * student, in place; buffers are copied."""
    average = get_ema_multi_avg_fn(momentum)
    average(list(teacher.parameters()), list(student.parameters()), None)
    for old, new in zip(teacher.buffers(), student.buffers()):
        old.copy_(new)
