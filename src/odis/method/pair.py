"""Student and teacher: built alike, the teacher the moving average of the student."""

from __future__ import annotations

import copy

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from odis.config.training import PretrainConfig
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

    def read(
        self,
        images: Tensor,
        object_masks: Tensor | None,
        prediction_masks: Tensor | None,
        patches: Tensor,
        objects: Tensor,
        *,
        image: bool,
    ) -> SelectedTokens:
        """Those tokens of `embed` that a loss reads, for less: see `ObjectViT.read`.

        Args:
            images: As in `embed`.
            object_masks: As in `embed`.
            prediction_masks: As in `embed`.
            patches: int64 (H,), positions in the flattened (B * P).
            objects: int64 (R,), positions in the flattened (B * Q).
            image: Whether `[CLS]` is read beside object tokens.
        """
        if self.object_readout == "token":
            return self.backbone.read(images, object_masks, prediction_masks, patches, objects, image=image)
        tokens = self.embed(
            images, object_masks, prediction_masks
        )  # an object is the mean of its patches: all are read
        found = None if tokens.objects is None else tokens.objects.flatten(0, 1)[objects]
        return SelectedTokens(found, tokens.image, tokens.patches.flatten(0, 1)[patches])


def pool(patches: Tensor, masks: Tensor) -> Tensor:
    """Mean patch of each object.

    Args:
        patches: (B, P, D).
        masks: bool (B, Q, P); an empty mask gives zeros.

    Returns:
        (B, Q, D).
    """
    weights = masks.to(patches.dtype)
    return weights @ patches / weights.sum(dim=-1, keepdim=True).clamp(min=1)


def make_pair(backbone: ObjectViT, config: PretrainConfig) -> tuple[Network, Network]:
    """The student around a backbone, and the teacher as its frozen copy without drop path.

    Parameters that the config's losses can never reach do not require a gradient, so that all others always
    get one."""
    head = ProjectionHead(backbone.embed_dim, config.head)
    own_patch_head = not config.head.shared and config.loss.patch_weight > 0
    patch_head = ProjectionHead(backbone.embed_dim, config.head) if own_patch_head else None
    student = Network(backbone, head, patch_head, config.model.object_readout)
    _freeze_unreached(student, config)
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    for module in teacher.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return student, teacher


def _freeze_unreached(student: Network, config: PretrainConfig) -> None:
    loss, backbone = config.loss, student.backbone
    if config.prediction.probability == 0 or config.prediction.ratio == 0:
        backbone.mask_token.requires_grad_(False)
    if loss.object_weight == 0 and backbone.object_tokens == "read-only":
        backbone.object_token.requires_grad_(False)
    if loss.object_weight == 0 and loss.image_weight == 0 and student.patch_head is not student.head:
        student.head.requires_grad_(False)


@torch.no_grad()
def update_teacher(student: Network, teacher: Network, momentum: float) -> None:
    """teacher = momentum * teacher + (1 - momentum) * student, for all parameters at once; buffers are
    copied.

    Args:
        student: The network that was trained (not its DDP wrapper).
        teacher: Changed in place.
        momentum: Share of the teacher that is kept.
    """
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
    for old, new in zip(teacher.buffers(), student.buffers()):
        old.copy_(new)
