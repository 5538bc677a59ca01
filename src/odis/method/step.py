"""One training step on paper: teacher pass, student pass, losses. `train/update.py` takes it.

The passes and the losses are plain functions of tensors, in which no device or rank appears. To follow a step
down to its arithmetic, read `pair.py` (student, teacher, EMA), `vit.py`, `block.py` and `attention.py` (the
backbone), `heads.py` and `losses.py`.

B images, G global and L local views an image, Q object tokens a view, P patches, D width, K prototypes;
T teacher object rows, R student object rows, H hidden patches (all counted over the batch, see
`types.Batch`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odis.config.training import PretrainConfig
from odis.method.losses import (
    Center,
    image_loss,
    koleo_loss,
    object_loss,
    object_targets,
    patch_loss,
    sinkhorn_knopp,
)
from odis.method.pair import Network
from odis.types import Batch, Losses, StudentOutput, TeacherOutput


class Centers(nn.Module):
    """Running centers of the teacher's object, patch and image logits: part of the training state."""

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.objects = Center(prototypes, momentum)
        self.patches = Center(prototypes, momentum)
        self.image = Center(prototypes, momentum)

    def add(self, output: TeacherOutput) -> None:
        """Take a micro-batch's teacher logits into the next update."""
        self.objects.add(output.object_logits)
        self.patches.add(output.patch_logits)
        if output.image_logits is not None:
            self.image.add(output.image_logits)

    def update(self) -> None:
        """Move the centers towards the means of the logits added since the last update (over all ranks)."""
        for center in (self.objects, self.patches, self.image):
            center.update()


@dataclass(frozen=True, slots=True)
class LossTerms:
    """Which parts of the method a config uses, resolved once."""

    masks: bool  # object tokens are masked; if false the whole view is the object
    image: bool  # the image term is on
    patches: bool  # the patch term is on
    every_patch: bool = False  # all patches of global views are read, for an anchor (`train/anchor.py`)

    @staticmethod
    def of(config: PretrainConfig) -> LossTerms:
        masked = config.objects.use and config.views.object_masks
        # Object tokens of their own exist only where a mask asks for them: an all-true one asks about the
        # whole view.
        return LossTerms(
            masks=masked or config.model.object_tokens != "single",
            image=config.loss.image_weight > 0,
            patches=config.loss.patch_weight > 0,
            every_patch=config.loss.gram_weight > 0,
        )


def select_tokens(
    network: Network,
    images: Tensor,
    masks: Tensor,
    prediction_masks: Tensor | None,
    patches: Tensor,
    rows: Tensor,
    terms: LossTerms,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Backbone features of V views.

    `images` (V, 3, S, S) are asked with `masks` (V, Q, P), and `prediction_masks` (V, P) hides patches.
    `patches` and `rows` say which patches and object tokens: positions in the flattened (V * P) and (V * Q).

    Returns:
        object tokens (R, D), patches (H, D), and image tokens (V, D) if their term is on.
    """
    tokens = network.forward_selected(
        images, masks if terms.masks else None, prediction_masks, patches, rows, image=terms.image
    )
    # Without masks only `single` is asked, and there `[CLS]` is the object token, one a view.
    objects = tokens.objects if tokens.objects is not None else tokens.image[rows]  # type: ignore[index]
    image = None
    if terms.image:
        image = tokens.image
        if image is None:  # `[CLS]` stood for the object: the whole view takes another pass
            image = network.forward_selected(
                images, None, prediction_masks, patches[:0], rows, image=True
            ).image
    return objects, tokens.patches, image


def apply_heads(
    network: Network, tokens: list[Tensor], patches: Tensor
) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Projections and logits of each kind of tokens (R, D), and those of patches (H, D)."""
    if network.patch_head is network.head:
        *of_tokens, of_patches = network.head.forward_list([*tokens, patches])
        return of_tokens, of_patches
    return network.head.forward_list(tokens), network.patch_head.forward_list([patches])[0]


@torch.no_grad()
def teacher_pass(
    teacher: Network, batch: Batch, centers: Centers, temp: float, config: PretrainConfig, terms: LossTerms
) -> TeacherOutput:
    """The teacher sees whole global views, and answers for every visible object and every hidden patch; with
    `center_patches: all`, for the mean of all patches too.
    """
    hidden = batch.hidden if terms.patches else batch.hidden[:0]
    every = terms.patches and config.loss.centering == "center" and config.loss.center_patches == "all"
    read = torch.arange(batch.prediction_masks.numel(), device=hidden.device) if every else hidden
    rows = batch.teacher_rows
    objects, everywhere, image = select_tokens(
        teacher, batch.global_views, batch.global_masks, None, read, rows, terms
    )
    patches = everywhere[hidden] if every else everywhere
    tokens = [objects] if image is None else [objects, image]
    of_tokens, (_, patch_logits) = apply_heads(teacher, tokens, patches)
    object_logits, image_logits = of_tokens[0][1], None if image is None else of_tokens[1][1]

    def probabilities(logits: Tensor, center: Center) -> Tensor:
        if config.loss.centering == "sinkhorn":
            return sinkhorn_knopp(logits, temp, config.loss.sinkhorn_iterations)
        return center.probabilities(logits, temp)

    return TeacherOutput(
        objects=probabilities(object_logits, centers.objects),
        patches=probabilities(patch_logits, centers.patches),
        image=None if image_logits is None else probabilities(image_logits, centers.image),
        object_logits=object_logits,
        # Views are as many on all ranks and in all micro-batches: the mean of such means is that of all.
        patch_logits=teacher.patch_head.mean_logits(everywhere) if every else patch_logits,
        image_logits=image_logits,
    )


def student_pass(student: Network, batch: Batch, terms: LossTerms) -> StudentOutput:
    """The student sees the global views with patches hidden, and the local views."""
    hide, hidden = (batch.prediction_masks, batch.hidden) if terms.patches else (None, batch.hidden[:0])
    rows = batch.student_global_rows
    read = torch.arange(batch.prediction_masks.numel(), device=hidden.device) if terms.every_patch else hidden
    features, everywhere, global_image = select_tokens(
        student, batch.global_views, batch.global_masks, hide, read, rows, terms
    )
    patches = everywhere[hidden] if terms.every_patch else everywhere
    local_image = None
    if len(batch.local_views):
        rows = batch.student_local_rows
        objects, _, local_image = select_tokens(
            student, batch.local_views, batch.local_masks, None, hidden[:0], rows, terms
        )
        features = torch.cat([features, objects])
    images = [image for image in (global_image, local_image) if image is not None]
    ((projections, object_logits), *of_images), (_, patch_logits) = apply_heads(
        student, [features, *images], patches
    )
    image_logits = [logits for _, logits in of_images]
    return StudentOutput(
        objects=object_logits,
        patches=patch_logits,
        global_image=image_logits.pop(0) if global_image is not None else None,
        local_image=image_logits.pop(0) if local_image is not None else None,
        projections=projections,
        features=features.detach(),
        every_patch=everywhere if terms.every_patch else None,
    )


def compute_losses(
    student: StudentOutput, teacher: TeacherOutput, batch: Batch, config: PretrainConfig
) -> Losses:
    """`L = w_obj L_obj + w_patch L_patch + w_img L_img`, plus the KoLeo regulariser if it is on."""
    loss, temp = config.loss, config.loss.student_temp
    views, images, tokens = batch.global_visible.shape  # G, B, Q
    others, every = object_targets(teacher.objects, batch.teacher_rows, (views, images, tokens))
    targets = torch.cat(
        [others[batch.student_global_rows], every[batch.student_local_rows % (images * tokens)]]
    )
    objects = object_loss(targets, student.objects, temp, batch.pairs)
    hidden_weight = batch.hidden_weight[: len(student.patches)]  # none if the patch term is off
    patches = patch_loss(teacher.patches, student.patches, hidden_weight, views * images, temp)
    total = loss.object_weight * objects + loss.patch_weight * patches
    image = None
    if teacher.image is not None and student.global_image is not None:
        image = image_loss(teacher.image, student.global_image, student.local_image, views, temp)
        total = total + loss.image_weight * image
    koleo = None
    if loss.koleo_weight > 0:
        rows = batch.student_global_rows
        koleo = koleo_loss(student.projections[: len(rows)], rows // (images * tokens), views)
        total = total + loss.koleo_weight * koleo
    return Losses(total, objects, patches, image, koleo)
