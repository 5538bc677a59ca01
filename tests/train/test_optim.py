import copy

import pytest
import torch
from torch import nn

from odis.config.training import OptimConfig
from odis.train.optim import apply_settings, build_optimizer, clip_gradients, step_if_finite
from odis.train.schedules import Settings

SETTINGS = Settings(
    lr=0.01, weight_decay=0.3, momentum_teacher=0.9, teacher_temp=0.05, last_layer_frozen=False
)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 3))
        self.still = nn.Parameter(torch.randn(3, 3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.norm(self.linear(x)) + self.cls_token[0]).square().sum()


def test_only_matrices_are_decayed_and_frozen_parameters_left_out() -> None:
    toy = Toy()
    optimizer = build_optimizer(toy, OptimConfig())
    apply_settings(optimizer, SETTINGS)
    decayed, kept = optimizer.param_groups
    assert [p is toy.linear.weight for p in decayed["params"]] == [True]
    assert {id(p) for p in kept["params"]} == {
        id(p) for p in (toy.linear.bias, toy.norm.weight, toy.norm.bias, toy.cls_token)
    }
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert decayed["lr"] == kept["lr"] == 0.01


def test_update_equals_plain_adamw() -> None:
    toy = Toy()
    twin = copy.deepcopy(toy)
    ours = build_optimizer(toy, OptimConfig())
    plain = torch.optim.AdamW(
        [
            {"params": [twin.linear.weight], "weight_decay": 0.3},
            {"params": [twin.linear.bias, twin.norm.weight, twin.norm.bias, twin.cls_token]},
        ],
        lr=0.01,
        weight_decay=0.0,
    )
    for _ in range(5):
        x = torch.randn(6, 4)
        toy(x).backward()
        twin(x).backward()
        apply_settings(ours, SETTINGS)
        assert step_if_finite(ours, clip_gradients(toy, 0))
        plain.step()
        ours.zero_grad()
        plain.zero_grad()
    for a, b in zip(toy.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gradient_changes_nothing(bad: float) -> None:
    toy = Toy()
    optimizer = build_optimizer(toy, OptimConfig())
    apply_settings(optimizer, SETTINGS)
    toy(torch.randn(6, 4)).backward()
    assert step_if_finite(optimizer, clip_gradients(toy, 3.0))
    before = copy.deepcopy((toy.state_dict(), optimizer.state_dict()))
    optimizer.zero_grad()
    toy(torch.randn(6, 4)).backward()
    toy.linear.weight.grad[0, 0] = bad
    assert not step_if_finite(optimizer, clip_gradients(toy, 3.0))
    for a, b in zip(before[0].values(), toy.state_dict().values()):
        assert torch.equal(a, b)
    for old, new in zip(before[1]["state"].values(), optimizer.state_dict()["state"].values()):
        assert all(torch.equal(old[k], new[k]) for k in old)


def test_clipping_bounds_the_global_norm() -> None:
    toy = Toy()
    (1000 * toy(torch.randn(6, 4))).backward()
    before = torch.stack([p.grad.norm() for p in toy.parameters() if p.grad is not None]).norm()
    assert torch.isclose(clip_gradients(toy, 2.0), before)
    after = torch.stack([p.grad.norm() for p in toy.parameters() if p.grad is not None]).norm()
    assert after == pytest.approx(2.0, rel=1e-4)
