"""Counted arithmetic against that of the layers one by one."""

import pytest
import torch
from torch import nn

from odis.benchmark.flops import count_flops, matmul_rate
from odis.benchmark.measure import batches_of, start
from odis.config.options import load_recipe
from odis.kernels import choose
from odis.machine.ranks import Ranks
from odis.method import block
from odis.objects.index import ObjectIndex
from odis.train.update import train_step

CPU = Ranks(0, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__object_tokens": "read-only", "objects__per_image": 2},
        {"model__object_tokens": "beside"},
        {"loss__patch_weight": 0.0},
    ],
)
def test_flops_are_those_of_linear_layers_convolutions_and_attention(index: ObjectIndex, changes: dict):
    config = load_recipe(
        "debug", data=index.path, loader__workers=0, train__batch_size=3, model__drop_path=0.0, **changes
    )
    run = start(config, index, CPU)
    batch = next(batches_of(config, index, run.patch_size))
    counted = count_flops(run, batch)

    layers: list[
        tuple[bool, nn.Module, int]
    ] = []  # whether it is the student's, the layer, FLOPs of its forward pass

    def note(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            flops = 2 * inputs[0].numel() * module.out_features
        else:
            flops = 2 * output.numel() * module.weight[0].numel()
        layers.append((module.training, module, flops))

    student = set(run.student.modules())
    for network in (run.student, run.teacher):
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.register_forward_hook(note)
    attended: list[tuple[bool, int]] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(query, key, value, *more, **kinds):
        attended.append((torch.is_grad_enabled(), 4 * query.numel() * key.shape[2]))
        return attend(query, key, value, *more, **kinds)

    products, few = choose.bmm_attention, block.attention_at

    def noted_products(qkv, *more):
        attended.append((qkv.requires_grad, 4 * qkv[:, :, 0].numel() * qkv.shape[1]))
        return products(qkv, *more)

    def noted_few(attn, x, queries, visible):
        times = 3 if torch.is_grad_enabled() else 1
        of_few.append(
            times
            * 2
            * attn.attn_dim
            * (attn.qkv.in_features * (len(x) * queries.shape[1] + 2 * len(x) * x.shape[1]))
        )
        of_few.append(times * 4 * queries.numel() * x.shape[1])
        return few(attn, x, queries, visible)

    of_few: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
        patch.setattr(choose, "bmm_attention", noted_products)
        patch.setattr(block, "attention_at", noted_few)
        # Hooks see every layer only where layers are called.
        patch.setattr(choose, "is_plain_linear", lambda module: False)
        train_step(run, [batch])

    expected = 0.0
    for _, module, flops in layers:
        times = (
            1 if module not in student else 2 if isinstance(module, nn.Conv2d) else 3
        )  # no gradient of pixels
        expected += times * flops
    linear = expected
    for with_gradient, flops in attended:
        expected += flops * (
            3.5 if with_gradient else 1
        )  # backward: five products for the two of the forward pass
    expected += sum(of_few)
    assert of_few  # local views
    # The prototypes and products of Sinkhorn-Knopp are not in this sum.
    assert linear < counted
    assert counted == pytest.approx(expected, rel=0.01)


def test_the_matmul_rate_is_a_rate():
    rate = matmul_rate(torch.device("cpu"), "fp32", rows=256, width=64, seconds=0.1)
    assert 1e8 < rate < 1e15


@pytest.mark.parametrize("ticks", [
    [0, 0, 1, 2, 2.01],  # a slow product, and then no more time
    [0, 0, 1e-4, 1e-3, 2e-3, 0.01, 0.05, 2, 2.01],  # fast ones are taken several at a time
    [0, 2, 2.5, 3, 3.5],  # there was no time at all
], ids=["slow", "fast", "late"])  # fmt: skip
def test_a_rate_is_never_none(monkeypatch: pytest.MonkeyPatch, ticks: list[float]):
    """However the clock runs: this product is 8 x 4 x 2 x 2 FLOPs."""
    clock = iter(ticks)
    monkeypatch.setattr("odis.benchmark.flops.time.perf_counter", lambda: next(clock, 10.0))
    assert matmul_rate(torch.device("cpu"), "fp32", rows=4, width=2, seconds=1.0) > 0


def test_a_fast_product_after_a_slow_one_does_not_begin_anew(monkeypatch: pytest.MonkeyPatch):
    """Once it took .05 s, then .01 s, in which the clock is trusted less, but no more was to be had: the best
    of both.
    """
    clock = iter([0.0, 0.0, 0.05, 0.06, 0.06, 0.07, 5.0])
    monkeypatch.setattr("odis.benchmark.flops.time.perf_counter", lambda: next(clock))
    assert matmul_rate(torch.device("cpu"), "fp32", rows=4, width=2, seconds=1.0) == pytest.approx(
        8 * 4 * 2 * 2 / 0.01
    )
