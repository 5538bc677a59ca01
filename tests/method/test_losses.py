"""Losses, centering and Sinkhorn-Knopp against lightly's, and against the loops of their docstrings."""

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.loss.swav_loss import sinkhorn

from odis.method.losses import (
    Center,
    cross_entropy,
    image_loss,
    koleo_loss,
    object_loss,
    object_targets,
    patch_loss,
    sinkhorn_knopp,
)


def close(a, b) -> None:
    torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_cross_entropy_and_its_gradient_are_the_formula(dtype, tolerance, rows):
    torch.manual_seed(0)
    targets = 3 * torch.rand(rows, 13)
    logits = torch.randn(rows, 13).to(dtype).requires_grad_()
    weight = torch.randn(rows)
    slow = logits.detach().double().requires_grad_()
    expected = -(
        targets.double() * torch.log(torch.exp(slow / 0.1) / torch.exp(slow / 0.1).sum(-1, keepdim=True))
    ).sum(-1)
    found = cross_entropy(targets, logits, 0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad((found * weight).sum(), logits)
    (right,) = torch.autograd.grad((expected * weight).sum(), slow)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), right, rtol=tolerance, atol=1e-4)


def all_visible(globals_: int, locals_: int, images: int, objects: int = 1):
    """Student rows and pairs when every view shows every object."""
    teacher_rows = torch.arange(globals_ * images * objects)
    local_rows = torch.arange(locals_ * images * objects)
    pairs = torch.tensor(float(globals_ * (globals_ - 1 + locals_) * images * objects))
    return teacher_rows, local_rows, pairs


@pytest.mark.parametrize("prototypes", [4, 33])
@pytest.mark.parametrize(("teacher_temp", "student_temp"), [(0.04, 0.1), (0.07, 0.2)])
@pytest.mark.parametrize("momentum", [0.9, 0.5])
@pytest.mark.parametrize(("globals_", "locals_"), [(2, 0), (2, 3), (3, 2)])
@pytest.mark.parametrize("images", [1, 5])
def test_object_and_image_loss_equal_lightlys_dino_loss(
    prototypes, teacher_temp, student_temp, momentum, globals_, locals_, images
):
    torch.manual_seed(0)
    peer = DINOLoss(
        prototypes, teacher_temp=teacher_temp, student_temp=student_temp, center_momentum=momentum
    )
    center = Center(prototypes, momentum)
    teacher_rows, local_rows, pairs = all_visible(globals_, locals_, images)
    for _ in range(3):
        t = 0.3 * torch.randn(globals_, images, prototypes)
        s = (0.3 * torch.randn(globals_ + locals_, images, prototypes)).requires_grad_()
        expected = peer(list(t), list(s))
        (gradient,) = torch.autograd.grad(expected, s)

        probabilities = center.probabilities(t.flatten(0, 1), teacher_temp)
        center.add(t.flatten(0, 1))
        center.update()
        others, every = object_targets(probabilities, teacher_rows, (globals_, images, 1))
        targets = torch.cat([others, every[local_rows % images]])
        ours = object_loss(targets, s.flatten(0, 1), student_temp, pairs)
        close(ours, expected)
        close(torch.autograd.grad(ours, s)[0], gradient)
        close(center.center, peer.center[0])

        image = image_loss(
            probabilities, s[:globals_].flatten(0, 1), s[globals_:].flatten(0, 1), globals_, student_temp
        )
        close(image, expected)
        close(torch.autograd.grad(image, s)[0], gradient)


@pytest.mark.parametrize("prototypes", [4, 33])
@pytest.mark.parametrize(("teacher_temp", "student_temp"), [(0.04, 0.1), (0.07, 0.2)])
@pytest.mark.parametrize("momentum", [0.9, 0.5])
@pytest.mark.parametrize("views", [1, 4])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_patch_loss_equals_lightlys_ibot_loss(prototypes, teacher_temp, student_temp, momentum, views, share):
    torch.manual_seed(0)
    peer = IBOTPatchLoss(
        prototypes, teacher_temp=teacher_temp, student_temp=student_temp, center_momentum=momentum
    )
    center = Center(prototypes, momentum)
    for _ in range(3):
        mask = torch.rand(views, 3, 4) < share
        mask[0] = mask[0] & (share == 1)  # a view without hidden patches
        hidden = int(mask.sum())
        t = 0.3 * torch.randn(hidden, prototypes)
        s = (0.3 * torch.randn(hidden, prototypes)).requires_grad_()
        weight = (1 / mask.sum(dim=(1, 2), keepdim=True).clamp(min=1)).expand_as(mask)[mask]
        before = peer.center.center.clone()
        expected = peer(t, s, mask)
        if not hidden:  # lightly's center is NaN from then on
            peer.center.center = before
        ours = patch_loss(center.probabilities(t, teacher_temp), s, weight, views, student_temp)
        for part in t.split(3):  # in micro-batches of unequal rows
            center.add(part)
        center.update()
        close(ours, expected)
        close(torch.autograd.grad(ours, s)[0], torch.autograd.grad(expected, s)[0])
        close(center.center, peer.center.value)


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("prototypes", [2, 30])
@pytest.mark.parametrize("temp", [0.04, 0.07, 0.5])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_equals_lightlys(rows, prototypes, temp, iterations):
    logits = torch.rand(rows, prototypes, generator=torch.Generator().manual_seed(rows)) * 2 - 1
    expected = sinkhorn(logits.double(), iterations, temp).float()
    torch.testing.assert_close(sinkhorn_knopp(logits, temp, iterations), expected, rtol=1e-4, atol=1e-6)


def test_sinkhorn_evens_out_prototypes():
    logits = torch.randn(60, 5) + torch.tensor([3.0, 0, 0, 0, 0])
    q = sinkhorn_knopp(logits, 0.5, 50)
    close(q.sum(dim=1), torch.ones(60))
    torch.testing.assert_close(q.sum(dim=0), torch.full((5,), 12.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e8])
def test_sinkhorn_survives_any_range(scale):
    logits = scale * torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    q = sinkhorn_knopp(logits, 0.04, 3)
    assert q.isfinite().all()
    close(q.sum(dim=1), torch.ones(20))
    assert sinkhorn_knopp(logits[:0], 0.04, 3).shape == (0, 6)


def pairs_by_loop(p, log_s_global, log_s_local, visible_global, visible_local):
    """The docstring of `object_loss`, read literally. Probabilities and log-probabilities (views, B, Q,
    K).
    """
    total, pairs = torch.zeros(()), 0
    globals_, images, objects, _ = p.shape
    for b in range(images):
        for q in range(objects):
            for u in range(globals_):
                if not visible_global[u, b, q]:
                    continue
                for v in range(globals_):
                    if v != u and visible_global[v, b, q]:
                        total, pairs = total - (p[u, b, q] * log_s_global[v, b, q]).sum(), pairs + 1
                for v in range(len(log_s_local)):
                    if visible_local[v, b, q]:
                        total, pairs = total - (p[u, b, q] * log_s_local[v, b, q]).sum(), pairs + 1
    return total / max(pairs, 1), pairs


@pytest.mark.parametrize("shape", [(2, 3, 2, 1), (2, 4, 3, 2), (4, 2, 2, 3), (2, 1, 0, 2)])
@pytest.mark.parametrize("visibility", [0.0, 0.5, 1.0])
def test_object_loss_is_the_mean_over_visible_pairs(shape, visibility):
    globals_, images, locals_, objects = shape
    generator = torch.Generator().manual_seed(globals_ * 10 + locals_)
    vg = torch.rand(globals_, images, objects, generator=generator) < visibility
    vl = torch.rand(locals_, images, objects, generator=generator) < visibility
    t = torch.randn(globals_, images, objects, 7, generator=generator)
    sg = torch.randn(globals_, images, objects, 7, generator=generator, requires_grad=True)
    sl = torch.randn(locals_, images, objects, 7, generator=generator, requires_grad=True)
    probabilities = torch.softmax(t / 0.07, -1)
    expected, pairs = pairs_by_loop(
        probabilities, torch.log_softmax(sg / 0.1, -1), torch.log_softmax(sl / 0.1, -1), vg, vl
    )

    teacher_rows = vg.flatten().nonzero()[:, 0]
    global_rows = (vg & (vg.sum(dim=0) > 1)).flatten().nonzero()[:, 0]
    local_rows = (vl & vg.any(dim=0)).flatten().nonzero()[:, 0]
    others, every = object_targets(
        probabilities.flatten(0, 2)[teacher_rows], teacher_rows, (globals_, images, objects)
    )
    targets = torch.cat([others[global_rows], every[local_rows % (images * objects)]])
    logits = torch.cat([sg.flatten(0, 2)[global_rows], sl.flatten(0, 2)[local_rows]])
    loss = object_loss(targets, logits, 0.1, torch.tensor(float(pairs)))
    close(loss, expected)
    gradients = torch.autograd.grad(loss, [sg, sl])
    if pairs:
        for a, b in zip(gradients, torch.autograd.grad(expected, [sg, sl], allow_unused=True)):
            close(a, torch.zeros_like(a) if b is None else b)
    else:
        assert loss == 0
        assert all((g == 0).all() for g in gradients)


def test_object_loss_over_all_pairs_takes_the_missing_ones_as_zero():
    """Two images; of the second no other view shows the object: its pairs add 0 to the mean over all."""
    torch.manual_seed(0)
    teacher, student = torch.rand(2, 2, 7).softmax(-1), torch.randn(3, 7)  # of the first image: two views
    terms = [
        -(teacher[0, u] * torch.log_softmax(student[v] / 0.1, -1)).sum()
        for u in range(2)
        for v in range(3)
        if u != v
    ]
    every = torch.tensor(2.0 * 2 * (1 + 1))  # images x global views x (other global views + local views)
    expected = (sum(terms) + 4 * 0.0) / every
    targets = torch.stack([teacher[0, 1], teacher[0, 0], teacher[0].sum(0)])
    close(object_loss(targets, student, 0.1, every), expected)
    assert object_loss(targets[:0], student[:0], 0.1, every) == 0


def test_targets_keep_small_probabilities_beside_large_ones():
    p = torch.tensor([[1.0, 0.0], [1e-12, 1.0]])
    others, _ = object_targets(p, torch.tensor([0, 1]), (2, 1, 1))
    assert torch.equal(others, p.flip(0))


def test_image_loss_without_local_views():
    p, s = torch.softmax(torch.randn(6, 5), -1), torch.randn(6, 5)
    expected = (cross_entropy(p[:3], s[3:], 0.1) + cross_entropy(p[3:], s[:3], 0.1)).sum() / 6
    close(image_loss(p, s, None, 2, 0.1), expected)


def test_losses_stay_in_fp32_under_autocast():
    torch.manual_seed(0)
    t, s = torch.randn(8, 16).bfloat16(), torch.randn(8, 16).bfloat16()
    center = Center(16, 0.9)

    def everything(t, s):
        p = center.probabilities(t, 0.04)
        others, every = object_targets(p, torch.arange(8), (2, 4, 1))
        return [
            p,
            others,
            every,
            sinkhorn_knopp(t, 0.04, 3),
            cross_entropy(p, s, 0.1),
            object_loss(others, s, 0.1, torch.tensor(8.0)),
            patch_loss(p, s, torch.ones(8), 2, 0.1),
            image_loss(p, s, s, 2, 0.1),
        ]

    plain = everything(t, s)
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(everything(t, s), plain):
            assert a.dtype == torch.float32
            assert torch.equal(a, b)
        center.add(t)
        center.update()
    close(center.center, 0.1 * t.float().mean(dim=0, keepdim=True))


def test_a_centre_without_rows_stays():
    center = Center(4, 0.9)
    center.add(torch.ones(2, 4))
    center.update()
    before = center.center.clone()
    center.add(torch.ones(0, 4))
    center.update()
    center.update()
    assert torch.equal(center.center, before)
    assert center.probabilities(torch.ones(0, 4), 0.1).shape == (0, 4)
    assert list(center.state_dict()) == ["center"]


def published_koleo(x: torch.Tensor) -> torch.Tensor:
    """DINOv2's regularizer of one view: the neighbour by dot product, 1e-8 in the difference and in the
    logarithm.
    """
    loss = x.new_zeros(())
    for r in range(len(x)):
        dots = [float(x[r].detach() @ x[j].detach()) if j != r else -1.0 for j in range(len(x))]
        difference = x[r] - x[max(range(len(x)), key=dots.__getitem__)] + 1e-8
        loss = loss - torch.log(difference.square().sum().sqrt() + 1e-8)
    return loss / len(x)


@pytest.mark.parametrize("sizes", [(5, 7), (1, 4), (1, 1), (0, 0), (9, 0), (2, 6, 3), (2, 2)])
def test_koleo_and_its_gradient_are_dinov2s_summed_over_views(sizes: tuple[int, ...]) -> None:
    """In fp64; the neighbour has a gradient too. The last case has a view of two equal rows."""
    torch.manual_seed(sum(sizes))
    x = F.normalize(torch.randn(sum(sizes), 6, dtype=torch.float64), dim=-1)
    if sizes == (2, 2):
        x[3] = x[2]
    x.requires_grad_()
    parts = x.split(list(sizes))
    views = torch.cat([torch.full((size,), g) for g, size in enumerate(sizes)])
    order = torch.randperm(len(x))  # views need not stand together
    loss = koleo_loss(x[order], views[order], len(sizes))
    expected = sum((published_koleo(part) for part in parts if len(part) > 1), x.sum() * 0)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    (found,), (right,) = torch.autograd.grad(loss, x), torch.autograd.grad(expected, x)
    torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-10)


def test_koleo_is_lightlys_on_one_view() -> None:
    x = F.normalize(torch.randn(16, 8), dim=-1).requires_grad_()
    ours, theirs = koleo_loss(x, torch.zeros(16, dtype=torch.long), 1), KoLeoLoss()(x)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-4)
    found, peer = (torch.autograd.grad(loss, x)[0] for loss in (ours, theirs))
    along = (found * x.detach()).sum(dim=1, keepdim=True)  # lightly's normalises, which takes this part out
    torch.testing.assert_close(found - along * x.detach(), peer, rtol=1e-3, atol=1e-4)


def test_a_koleo_step_moves_the_nearest_apart() -> None:
    x = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.3]]), dim=-1).requires_grad_()
    koleo_loss(x, torch.zeros(3, dtype=torch.long), 1).backward()
    moved = F.normalize(x.detach() - 0.01 * x.grad, dim=-1)
    assert (moved[0] - moved[1]).norm() > (x[0] - x[1]).norm()
