"""One training step, forwards: teacher pass, student pass, losses. Plain functions of tensors; no device or rank appears here.

B images, G global and L local views an image, Q object tokens a view, P patches, D width, K prototypes;
T teacher object rows, R student object rows, H hidden patches (all counted over the batch, see `types.Batch`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odis.config import PretrainConfig
from odis.losses import Centre, image_loss, koleo_loss, object_loss, object_targets, patch_loss, sinkhorn_knopp
from odis.model.pair import Network
from odis.types import Batch


@dataclass(slots=True)
class TeacherOutput:
    """What the student is to predict, without gradient."""

    objects: Tensor  # (T, K) probabilities
    patches: Tensor  # (H, K) probabilities
    image: Tensor | None  # (G * B, K) probabilities; None unless the image term is on
    object_logits: Tensor  # (T, K), for the centre
    patch_logits: Tensor  # (H, K), for the centre
    image_logits: Tensor | None  # (G * B, K)


@dataclass(slots=True)
class StudentOutput:
    """Student logits; object rows are the global ones, then the local ones."""

    objects: Tensor  # (R, K)
    patches: Tensor  # (H, K)
    global_image: Tensor | None  # (G * B, K)
    local_image: Tensor | None  # (L * B, K)
    projections: Tensor  # (R, bottleneck) unit vectors of the object rows, before the prototypes
    features: Tensor  # (R, D) backbone features of the object rows, for the collapse meters


@dataclass(slots=True)
class Losses:
    """The weighted sum and its terms, scalars."""

    total: Tensor
    objects: Tensor
    patches: Tensor
    image: Tensor | None
    koleo: Tensor | None


class Centres(nn.Module):
    """Running centres of the teacher's object, patch and image logits: part of the training state."""

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.objects = Centre(prototypes, momentum)
        self.patches = Centre(prototypes, momentum)
        self.image = Centre(prototypes, momentum)

    def update(self, output: TeacherOutput) -> None:
        """Move the centres towards the means of this batch's teacher logits (over all ranks)."""
        self.objects.update(output.object_logits)
        self.patches.update(output.patch_logits)
        if output.image_logits is not None:
            self.image.update(output.image_logits)


@dataclass(frozen=True, slots=True)
class Question:
    """Which parts of the method a config uses, resolved once."""

    masks: bool  # object tokens are masked; if false the whole view is the object
    image: bool  # the image term is on
    patches: bool  # the patch term is on

    @staticmethod
    def of(config: PretrainConfig) -> Question:
        masked = config.objects.use and config.views.object_masks
        # Read-only tokens exist only where a mask asks for them; all-true masks then ask about the whole view.
        return Question(
            masks=masked or config.model.object_tokens == "read-only",
            image=config.loss.image_weight > 0,
            patches=config.loss.patch_weight > 0,
        )


def read_tokens(
    network: Network, images: Tensor, masks: Tensor, prediction_masks: Tensor | None, question: Question
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Backbone features of V views.

    Returns:
        object tokens (V, Q, D), patches (V, P, D), and image tokens (V, D) if the question asks for them.
    """
    tokens = network.embed(images, masks if question.masks else None, prediction_masks)
    # Without masks only `single` is asked, and there `[CLS]` is the object token.
    objects = tokens.objects if tokens.objects is not None else tokens.image[:, None]  # type: ignore[index]
    image = None
    if question.image:
        image = tokens.image
        if image is None:  # `[CLS]` stood for the object: the whole view is another question, and another pass
            image = network.embed(images, None, prediction_masks).image
    return objects, tokens.patches, image


@torch.no_grad()
def teacher_pass(
    teacher: Network, batch: Batch, centres: Centres, temp: float, config: PretrainConfig, question: Question
) -> TeacherOutput:
    """The teacher sees the global views, nothing hidden, and answers for every visible object and every hidden patch."""
    objects, patches, image = read_tokens(teacher, batch.global_views, batch.global_masks, None, question)
    object_logits = teacher.head(objects.flatten(0, 1)[batch.teacher_rows])
    patch_logits = teacher.patch_head(patches.flatten(0, 1)[batch.hidden if question.patches else batch.hidden[:0]])
    image_logits = None if image is None else teacher.head(image)

    def probabilities(logits: Tensor, centre: Centre) -> Tensor:
        if config.loss.centring == "sinkhorn":
            return sinkhorn_knopp(logits, temp, config.loss.sinkhorn_iterations)
        return centre.probabilities(logits, temp)

    return TeacherOutput(
        objects=probabilities(object_logits, centres.objects),
        patches=probabilities(patch_logits, centres.patches),
        image=None if image_logits is None else probabilities(image_logits, centres.image),
        object_logits=object_logits,
        patch_logits=patch_logits,
        image_logits=image_logits,
    )


def student_pass(student: Network, batch: Batch, question: Question) -> StudentOutput:
    """The student sees the global views with patches hidden, and the local views."""
    hide = batch.prediction_masks if question.patches else None
    objects, patches, global_image = read_tokens(student, batch.global_views, batch.global_masks, hide, question)
    features, local_image = objects.flatten(0, 1)[batch.student_global_rows], None
    if len(batch.local_views):
        objects, _, local_image = read_tokens(student, batch.local_views, batch.local_masks, None, question)
        features = torch.cat([features, objects.flatten(0, 1)[batch.student_local_rows]])
    projections = student.head.project(features)
    return StudentOutput(
        objects=student.head.last_layer(projections),
        patches=student.patch_head(patches.flatten(0, 1)[batch.hidden if question.patches else batch.hidden[:0]]),
        global_image=None if global_image is None else student.head(global_image),
        local_image=None if local_image is None else student.head(local_image),
        projections=projections,
        features=features.detach(),
    )


def compute_losses(student: StudentOutput, teacher: TeacherOutput, batch: Batch, config: PretrainConfig) -> Losses:
    """`L = w_obj L_obj + w_patch L_patch + w_img L_img`, plus the KoLeo regulariser if it is on."""
    loss, temp = config.loss, config.loss.student_temp
    views, images, tokens = batch.global_visible.shape  # G, B, Q
    others, every = object_targets(teacher.objects, batch.teacher_rows, (views, images, tokens))
    targets = torch.cat([others[batch.student_global_rows], every[batch.student_local_rows % (images * tokens)]])
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
        koleo = koleo_loss(student.projections[: len(rows)], rows // (images * tokens))
        total = total + loss.koleo_weight * koleo
    return Losses(total, objects, patches, image, koleo)


class StudentPass(nn.Module):
    """`student_pass` as a module, since DDP synchronises gradients of what one module's forward computed."""

    def __init__(self, student: Network, question: Question) -> None:
        super().__init__()
        self.student = student
        self.question = question

    def forward(self, batch: Batch) -> StudentOutput:
        return student_pass(self.student, batch, self.question)
