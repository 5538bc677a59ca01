"""Student and teacher: what is shared, what is frozen, what gets a gradient."""

from dataclasses import replace

import pytest
import torch
from timm.layers import DropPath

from odis.backbones.build import build_pair
from odis.config.training import (
    HeadConfig,
    LossConfig,
    ModelConfig,
    PredictionConfig,
    PretrainConfig,
    ViewsConfig,
)
from odis.errors import ConfigError
from odis.method.losses import Center, image_loss, object_loss, object_targets, patch_loss
from odis.method.pair import Network, pool, update_teacher

CONFIG = PretrainConfig(
    views=ViewsConfig(global_size=32, local_size=16),
    model=ModelConfig(
        name="vit_tiny_patch16_224", embed_dim=32, depth=2, num_heads=2, patch_size=8, drop_path=0.0
    ),
    head=HeadConfig(prototypes=24, hidden=20, bottleneck=8),
)


def config(**model) -> PretrainConfig:
    return replace(CONFIG, model=replace(CONFIG.model, **model))


def test_the_teacher_begins_as_a_frozen_copy_of_its_own():
    student, teacher = build_pair(config(drop_path=0.4))
    assert list(student.state_dict()) == list(teacher.state_dict())
    for (name, s), t in zip(student.named_parameters(), teacher.parameters()):
        assert torch.equal(s, t), name
        assert s.data_ptr() != t.data_ptr()
        assert s.requires_grad
        assert not t.requires_grad
    assert not teacher.training
    rates = {n.drop_prob for n in teacher.train().modules() if isinstance(n, DropPath)}
    assert rates == {0.0}
    assert all(n.drop_prob == pytest.approx(0.4) for n in student.modules() if isinstance(n, DropPath))


@pytest.mark.parametrize("shared", [True, False])
def test_heads_are_shared_without_a_second_copy_of_their_weights(shared):
    for network in build_pair(replace(CONFIG, head=replace(CONFIG.head, shared=shared))):
        assert (network.patch_head is network.head) == shared
        assert any(k.startswith("patch_head.") for k in network.state_dict()) != shared
        names = [n for n, _ in network.named_parameters(remove_duplicate=False)]
        assert len(names) == len(list(network.parameters()))


def test_update_teacher_is_the_moving_average_of_every_parameter():
    student, teacher = build_pair(CONFIG)
    for p in student.parameters():
        p.data += torch.randn_like(p)
    expected = [0.9 * t + 0.1 * s for s, t in zip(student.parameters(), teacher.parameters())]
    update_teacher(student, teacher, 0.9)
    for t, e in zip(teacher.parameters(), expected):
        torch.testing.assert_close(t.data, e.data)
    before = [t.clone() for t in teacher.parameters()]
    update_teacher(student, teacher, 1.0)
    assert all(torch.equal(t, b) for t, b in zip(teacher.parameters(), before))


def test_the_gap_to_a_fixed_student_is_the_power_of_the_momentum():
    student, teacher = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    before = teacher.weight.detach().double() - student.weight.double()
    for _ in range(1000):
        update_teacher(student, teacher, 0.999)
    gap = teacher.weight.double() - student.weight.double()
    # Each step rounds once, by half a unit in the last place of the weight.
    bound = 1000 * float(torch.finfo(torch.float32).eps) * float(student.weight.detach().abs().max())
    assert (gap - before * 0.999**1000).abs().max() < bound


def test_update_teacher_copies_buffers():
    student, teacher = build_pair(CONFIG)
    for network, value in ((student, 3.0), (teacher, 1.0)):
        network.register_buffer("count", torch.tensor(value))
    update_teacher(student, teacher, 0.9)
    assert teacher.count == 3


def masks() -> torch.Tensor:
    m = torch.zeros(4, 1, 16, dtype=torch.bool)
    m[:, :, 2:9] = True
    return m


def distil(student: Network, teacher: Network, loss: LossConfig) -> None:
    """The losses of two images with two global views each, backward."""
    images, hidden = torch.randn(4, 3, 32, 32), torch.rand(4, 16) < 0.4
    center = Center(24, 0.9)
    with torch.no_grad():
        t = teacher.embed(images, masks())
        targets = center.probabilities(teacher.head(t.objects.flatten(0, 1)), 0.07)
        hidden_targets = center.probabilities(teacher.patch_head(t.patches[hidden]), 0.07)
    s = student.embed(images, masks(), hidden)
    others, _ = object_targets(targets, torch.arange(4), (2, 2, 1))
    total = torch.zeros(())
    if loss.object_weight:
        total = total + object_loss(others, student.head(s.objects.flatten(0, 1)), 0.1, torch.tensor(4.0))
    if loss.patch_weight:
        total = total + patch_loss(
            hidden_targets, student.patch_head(s.patches[hidden]), torch.ones(int(hidden.sum())), 4, 0.1
        )
    if loss.image_weight:
        image = s.image if s.image is not None else student.embed(images, None, hidden).image
        total = total + image_loss(targets, student.head(image), None, 2, 0.1)
    total.backward()


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
@pytest.mark.parametrize("readout", ["token", "mean-pool"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("weights", [(1, 1, 0), (1, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)])
def test_every_parameter_that_trains_gets_a_gradient_and_no_other_is_moved(kind, readout, shared, weights):
    loss = LossConfig(object_weight=weights[0], patch_weight=weights[1], image_weight=weights[2])
    settings = replace(
        config(object_tokens=kind, object_readout=readout),
        loss=loss,
        head=replace(CONFIG.head, shared=shared),
    )
    student, teacher = build_pair(settings)
    distil(student, teacher, loss)
    for name, p in student.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
    if min(weights[:2]) > 0 and readout == "token":
        assert all(p.requires_grad for p in student.parameters())
        dead = {n for n, p in student.named_parameters() if not p.grad.any()}
        assert not dead
    assert all(p.grad is None for p in teacher.parameters())


def test_a_mask_token_that_is_never_shown_does_not_train():
    student, _ = build_pair(
        replace(CONFIG, prediction=PredictionConfig(probability=0.0), loss=LossConfig(patch_weight=0))
    )
    assert [n for n, p in student.named_parameters() if not p.requires_grad] == ["backbone.mask_token"]


def test_embed_reads_objects_as_configured():
    images = torch.randn(4, 3, 32, 32)
    network = build_pair(config(object_tokens="read-only", object_readout="mean-pool"))[1]
    tokens = network.embed(images, masks())
    torch.testing.assert_close(tokens.objects[:, 0], tokens.patches[:, 2:9].mean(dim=1))
    assert torch.equal(tokens.patches, network.backbone(images).patches)
    assert network.embed(images).objects is None
    assert not any("object_token" in k for k in network.state_dict())
    network = build_pair(config(object_tokens="read-only"))[1]
    assert torch.equal(network.embed(images, masks()).objects, network.backbone(images, masks()).objects)


def test_pool_averages_each_objects_patches():
    patches = torch.randn(2, 5, 3)
    m = torch.tensor([[[1, 0, 0, 1, 0], [1, 1, 1, 1, 1]], [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]]).bool()
    out = pool(patches, m)
    torch.testing.assert_close(out[0, 0], (patches[0, 0] + patches[0, 3]) / 2)
    torch.testing.assert_close(out[0, 1], patches[0].mean(dim=0))
    torch.testing.assert_close(out[1], torch.stack([torch.zeros(3), patches[1, 2]]))


def test_local_views_that_patches_do_not_tile_are_refused():
    with pytest.raises(ConfigError, match=r"views.local_size: is 20, must be a multiple of the patch size 8"):
        build_pair(replace(CONFIG, views=ViewsConfig(global_size=32, local_size=20)))
    build_pair(replace(CONFIG, views=ViewsConfig(global_size=32, local_size=20, local_views=0)))


def test_mean_pool_needs_no_class_token():
    settings = config(name="vit_base_patch16_gap_224", object_readout="mean-pool")
    network = build_pair(settings)[0]
    assert network.embed(torch.randn(4, 3, 32, 32), masks()).objects.shape == (4, 1, 32)
