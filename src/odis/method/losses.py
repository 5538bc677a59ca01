"""The losses: cross-entropy of teacher and student over prototypes, and what keeps the teacher from
collapsing.

All is computed in fp32, also under autocast. Sums over ranks make several ranks follow one that holds the
whole batch, given that the ranks' gradients are averaged, as DDP does.

Letters: B images, G global views, L local views, Q object tokens, R rows, T visible teacher rows, H hidden
patches, K prototypes. An object row is a position in the flattened (views * B * Q) object tokens; `row % (B *
Q)` is which object it shows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odis.machine.devices import full_precision
from odis.machine.ranks import gather_rows, max_over_ranks, rows_of_earlier_ranks, sum_over_ranks, world_size


def cross_entropy(targets: Tensor, logits: Tensor, temp: float) -> Tensor:
    """Cross-entropy of the student with each row's targets, which may sum to more than 1 (several teacher
    views at once).

        for r in rows: loss[r] = -sum_k targets[r, k] * log softmax(logits[r] / temp)[k]

    Args:
        targets: (R, K) teacher probabilities, or sums of them; they get no gradient.
        logits: (R, K) student logits.
        temp: Student temperature.

    Returns:
        fp32 (R,).
    """
    return -(targets.detach() * torch.log_softmax(logits.float() / temp, dim=-1)).sum(dim=-1)


class Center(nn.Module):
    """Teacher probabilities around a running mean of teacher logits (DINO, section 3.1).

    Args:
        prototypes: K.
        momentum: Share of the old center that an update keeps.
    """

    center: Tensor

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(1, prototypes))
        self.sums: Tensor | float = 0.0  # (K + 1,): of the logits since the last update, and how many

    @torch.no_grad()
    def probabilities(self, logits: Tensor, temp: float) -> Tensor:
        """softmax((logits - center) / temp) of teacher logits (R, K), in fp32."""
        return torch.softmax((logits.float() - self.center).div_(temp), dim=-1)

    @torch.no_grad()
    def add(self, logits: Tensor) -> None:
        """Take teacher logits (R, K) into the next update."""
        logits = logits.float()
        self.sums = self.sums + torch.cat([logits.sum(dim=0), logits.new_full((1,), logits.shape[0])])

    @torch.no_grad()
    def update(self) -> None:
        """Move the center towards the mean of the logits added since the last update on all ranks; without
        any, or if it is not finite, it stays.
        """
        sums = sum_over_ranks(self.center.new_zeros(self.center.shape[1] + 1) + self.sums)
        rows = sums[-1]
        mean = sums[:-1] / rows.clamp(min=1)
        usable = (rows > 0) & mean.isfinite().all()
        self.center.copy_(torch.where(usable, self.center.lerp(mean[None], 1 - self.momentum), self.center))
        self.sums = 0.0


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temp: float, iterations: int) -> Tensor:
    """Teacher probabilities that use every prototype equally over the rows of all ranks (SwAV, section 3;
    DINOv2, section 4).

        q = exp(logits / temp)
        repeat: q[:, k] *= R / K / sum_r q[r, k] for every k;  q[r, :] /= sum_k q[r, k] for every r

    The scales of rows and columns are kept as two vectors beside one exponential, taken relative to each
    row's maximum, so that no row underflows.

    Args:
        logits: (R, K) teacher logits; R may be 0 and unequal between ranks.
        temp: Teacher temperature.
        iterations: Rounds of column and row normalisation, 1 or more.

    Returns:
        fp32 (R, K), rows that sum to 1.
    """
    with full_precision(logits):  # autocast would multiply in half precision
        logits = logits.float() / temp
        if logits.shape[0]:
            row_max = logits.amax(dim=1)
            top = max_over_ranks(row_max.amax())
        else:
            row_max = logits.new_empty(0)
            top = max_over_ranks(logits.new_full((), float("-inf")))
        # What a prototype gets; it keeps the scales level.
        each = sum_over_ranks(logits.new_full((), logits.shape[0])) / logits.shape[1]
        q = torch.exp(logits - row_max[:, None])
        row_scale = torch.exp(row_max - top)
        column_scale = logits.new_ones(logits.shape[1])
        for _ in range(iterations):
            column_scale = each / sum_over_ranks(torch.mv(q.T, row_scale)).clamp(min=1e-30)
            row_scale = 1 / torch.mv(q, column_scale)
        return q * row_scale[:, None] * column_scale


def object_targets(
    probabilities: Tensor, teacher_rows: Tensor, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """What the student's object rows are compared with: sums over teacher views, so that one cross-entropy
    serves all pairs.

        for g, b, q in global object rows:
            others[g, b, q] = sum of p[u, b, q] over global views u != g that show the object
        for b, q in objects:
            every[b, q] = sum of p[u, b, q] over global views u that show the object

    A global row r takes `others[r]`, a local row r takes `every[r % (B * Q)]`.

    Args:
        probabilities: (T, K) teacher probabilities of the visible object rows.
        teacher_rows: int64 (T,), their positions among the G * B * Q.
        shape: (G, B, Q).

    Returns:
        others (G * B * Q, K), every (B * Q, K), in fp32.
    """
    views, objects = shape[0], shape[1] * shape[2]
    prototypes = probabilities.shape[1]
    p = probabilities.new_zeros(views * objects, prototypes)
    p = p.index_copy_(0, teacher_rows, probabilities).view(views, objects, prototypes)
    # Added up without the own view, not subtracted from the sum: a small probability beside a large one would
    # be lost.
    others = torch.stack([p[:g].sum(dim=0) + p[g + 1 :].sum(dim=0) for g in range(views)])
    return others.flatten(0, 1), p.sum(dim=0)


def object_loss(targets: Tensor, logits: Tensor, temp: float, pairs: Tensor) -> Tensor:
    """Mean cross-entropy over all (teacher view, student view, object) pairs with both views showing the
    object.

        for object in objects:
            for u in global views that show it:
                for v in global and local views that show it, v != u:
                    loss += -sum_k p_teacher(u)[k] * log p_student(v)[k];  pairs += 1
        loss / pairs

    Args:
        targets: (R, K) from `object_targets`, summed over u for each student row.
        logits: (R, K) student logits.
        temp: Student temperature.
        pairs: Scalar tensor, `Batch.pairs` of this rank (`loss.missing_pairs` says which they are).

    Returns:
        This rank's share; its mean over ranks is the mean over all pairs. 0, with zero gradients, if there is
        no pair at all.
    """
    everywhere = sum_over_ranks(pairs.detach().float()) / world_size()
    share = torch.where(everywhere > 0, 1 / everywhere.clamp(min=1e-12), 0)
    return cross_entropy(targets, logits, temp).sum() * share


def patch_loss(probabilities: Tensor, logits: Tensor, weight: Tensor, views: int, temp: float) -> Tensor:
    """Mean over views of the mean cross-entropy at a view's hidden patches (iBOT, equation 2).

        for view in global views:
            loss += mean over its hidden patches i of -sum_k p_teacher[i, k] * log p_student[i, k]
        loss / views, where a view without hidden patches adds 0

    Args:
        probabilities: (H, K) teacher probabilities at the hidden patches, from the teacher's whole view.
        logits: (H, K) student logits there.
        weight: (H,), 1 / hidden patches of the patch's view.
        views: G * B on this rank, equal on all ranks.
        temp: Student temperature.
    """
    return (cross_entropy(probabilities, logits, temp) * weight.float()).sum() / views


def image_loss(
    probabilities: Tensor, global_logits: Tensor, local_logits: Tensor | None, views: int, temp: float
) -> Tensor:
    """The object loss where the image is the object and every view shows it (DINO, equation 2).

    Args:
        probabilities: (G * B, K) teacher probabilities, view-major.
        global_logits: (G * B, K) student logits of the same views.
        local_logits: (L * B, K) student logits of local views, or None without any.
        views: G.
        temp: Student temperature.
    """
    images = probabilities.shape[0] // views
    rows = torch.arange(probabilities.shape[0], device=probabilities.device)
    targets, every = object_targets(probabilities, rows, (views, images, 1))
    logits, count = global_logits, views - 1
    if local_logits is not None and local_logits.shape[0]:
        locals_ = local_logits.shape[0] // images
        targets = torch.cat([targets, every.repeat(locals_, 1)])
        logits = torch.cat([logits, local_logits])
        count += locals_
    return cross_entropy(targets, logits, temp).sum() / (images * views * count)


def koleo_loss(projections: Tensor, views: Tensor, count: int) -> Tensor:
    """KoLeo: the closer an object is to its nearest neighbour in the same view of the batch, the more it
    costs (Sablayrolles et al., 2019, equation 3; DINOv2, section 4). It keeps the objects of a batch apart,
    which small batches need against collapse.

        for g in global views:
            for r in rows of g:
                j = the row of g, j != r, with the largest x[r] . x[j]
                loss += -log(|x[r] - x[j] + 1e-8| + 1e-8) / rows of g

    DINOv2 takes the backbone's `[CLS]` and the images of one rank; here it is the head's unit vectors, and
    the rows of all ranks.

    Args:
        projections: (R, D) unit vectors of the student's object rows of global views.
        views: int64 (R,), the global view of each row.
        count: G.

    Returns:
        This rank's share; its mean over ranks is the sum over views. A view with one row adds 0.
    """
    everyone, their_views = gather_rows(projections), gather_rows(views)
    rows = torch.arange(len(projections), device=projections.device) + rows_of_earlier_ranks(projections)
    with torch.no_grad():
        cosine = projections @ everyone.T
        cosine.masked_fill_(views[:, None] != their_views[None], -2.0)
        if len(projections):
            cosine[torch.arange(len(projections)), rows] = -2.0
        best, nearest = cosine.max(dim=1) if everyone.shape[0] else (cosine.new_zeros(0), rows)
        alone = best < -1.5
    distance = (projections - everyone[nearest] + 1e-8).norm(dim=1)
    terms = torch.where(alone, 0.0, -torch.log(distance + 1e-8))
    rows_of_view = sum_over_ranks((views[:, None] == torch.arange(count, device=views.device)).sum(dim=0))
    return (terms / rows_of_view[views]).sum() * world_size()
