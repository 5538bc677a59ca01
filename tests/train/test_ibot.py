"""`train_step` of `ibot-vits16` against iBOT's published arithmetic, written out: tokens, heads, losses,
centers, clipping, weight decay, AdamW, EMA and schedules (`main_ibot.py`, `models/`, `utils.py`), in fp64.

The network is narrow and shallow, without drop path, whose draws are random; images are noise. One difference
is left, which the recipe's head states: the teacher temperature rises by the step, not by the epoch.
"""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.data.loader import collate
from odis.machine.ranks import Ranks
from odis.train.start import build_run
from odis.train.update import TrainState, train_step
from odis.types import Batch, Crop, Sample, View

UPDATES, IMAGES, BATCH, PATCH, DEPTH, HEADS = 5, 8, 4, 8, 2, 2
GRID, LOCAL_GRID, LOCALS = 6, 3, 2
SHRUNK: dict[str, Any] = {
    "views__global_size": GRID * PATCH, "views__local_size": LOCAL_GRID * PATCH, "views__local_views": LOCALS,
    "model__patch_size": PATCH, "model__embed_dim": 32, "model__depth": DEPTH, "model__num_heads": HEADS,
    "model__drop_path": 0.0,
    "head__prototypes": 24, "head__hidden": 20, "head__bottleneck": 12,
    "train__batch_size": BATCH, "train__precision": "fp32", "train__device": "cpu", "train__threads": 1,
    "optim__base_lr": 0.064,  # 1e-3 at this batch, so that five updates of the warm-up move something
}  # fmt: skip
EPOCHS, STEPS_PER_EPOCH = 800, IMAGES // BATCH


def cubic(x: float) -> float:
    """Bicubic kernel, a = -0.75."""
    a, x = -0.75, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def shrink(new: int, old: int) -> Tensor:
    """(new, old): bicubic without antialias, by a factor of (new + 0.1) / old."""
    found = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        at = (i + 0.5) * old / (new + 0.1) - 0.5
        for j in range(math.floor(at) - 1, math.floor(at) + 3):
            found[i, min(max(j, 0), old - 1)] += cubic(at - j)
    return found


class Published:
    """One network: parameters under their names, and iBOT's forward pass through them."""

    def __init__(self, named: Iterator[tuple[str, Tensor]]) -> None:
        self.p = {name: p.detach().double().clone() for name, p in named}

    def positions(self, side: int) -> Tensor:
        table = self.p["backbone.pos_embed"][0]
        if side == GRID:
            return table
        grid, w = table[1:].view(GRID, GRID, -1), shrink(side, GRID)
        return torch.cat([table[:1], torch.einsum("ri,cj,ijd->rcd", w, w, grid).flatten(0, 1)])

    def tokens(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, 1 + P, D) after the last norm."""
        p, (views, _, size, _) = self.p, images.shape
        side = size // PATCH
        x = images.view(views, 3, side, PATCH, side, PATCH).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = x @ p["backbone.patch_embed.proj.weight"].flatten(1).T + p["backbone.patch_embed.proj.bias"]
        if hidden is not None:
            x = torch.where(hidden[..., None], p["backbone.mask_token"], x)
        x = torch.cat([p["backbone.cls_token"].expand(views, 1, -1), x], 1) + self.positions(side)
        for i in range(DEPTH):
            x = x + self.attention(self.norm(x, f"blocks.{i}.norm1"), f"backbone.blocks.{i}.attn")
            x = x + self.mlp(self.norm(x, f"blocks.{i}.norm2"), f"backbone.blocks.{i}.mlp")
        return self.norm(x, "norm")

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def norm(self, x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return x * self.p[f"backbone.{name}.weight"] + self.p[f"backbone.{name}.bias"]

    def attention(self, x: Tensor, name: str) -> Tensor:
        views, tokens, dim = x.shape
        q, k, v = (
            self.linear(x, f"{name}.qkv").view(views, tokens, 3, HEADS, dim // HEADS).permute(2, 0, 3, 1, 4)
        )
        attended = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(dim // HEADS), -1) @ v
        return self.linear(attended.transpose(1, 2).flatten(2), f"{name}.proj")

    def mlp(self, x: Tensor, name: str) -> Tensor:
        return self.linear(gelu(self.linear(x, f"{name}.fc1")), f"{name}.fc2")

    def logits(self, x: Tensor) -> Tensor:
        """Of tokens: three layers, unit length, prototypes under weight norm."""
        x = self.linear(gelu(self.linear(gelu(self.linear(x, "head.mlp.0")), "head.mlp.2")), "head.mlp.4")
        v = self.p["head.last_layer.weight"]
        prototypes = self.p["head.last_layer.length"] * v / v.norm(dim=1, keepdim=True)
        return x / x.norm(dim=-1, keepdim=True) @ prototypes.T


def gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def cosine(base: float, final: float, at: int, total: int) -> float:
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * at / total))


class PublishedRun:
    """Student, teacher, centers and optimizer of iBOT."""

    def __init__(self, run: TrainState) -> None:
        self.student, self.teacher = (Published(n.named_parameters()) for n in (run.student, run.teacher))
        self.cls_center = self.patch_center = torch.zeros(24, dtype=torch.float64)
        self.moments = {
            name: (0, torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.student.p.items()
        }
        self.clipped: set[bool] = set()

    def loss(self, batch: Batch, temp: float) -> Tensor:
        """iBOTLoss, and its centers."""
        hidden = batch.prediction_masks
        with torch.no_grad():
            seen = self.teacher.logits(self.teacher.tokens(batch.global_views))
        said = self.student.logits(self.student.tokens(batch.global_views, hidden)) / 0.1
        local = self.student.logits(self.student.tokens(batch.local_views)[:, 0]) / 0.1
        student_cls = torch.cat([said[:, 0], local]).chunk(2 + LOCALS)
        teacher_cls = torch.softmax((seen[:, 0] - self.cls_center) / temp, -1).chunk(2)
        teacher_patch = torch.softmax((seen[:, 1:] - self.patch_center) / temp, -1).chunk(2)
        student_patch, masks = said[:, 1:].chunk(2), hidden.double().chunk(2)
        cls_terms, patch_terms = [], []
        for q in range(2):
            for v in range(2 + LOCALS):
                if v == q:
                    each = -(teacher_patch[q] * torch.log_softmax(student_patch[v], -1)).sum(-1)
                    patch_terms += [((each * masks[v]).sum(-1) / masks[v].sum(-1).clamp(min=1)).mean()]
                else:
                    cls_terms += [-(teacher_cls[q] * torch.log_softmax(student_cls[v], -1)).sum(-1).mean()]
        self.cls_center = 0.9 * self.cls_center + 0.1 * seen[:, 0].mean(0)
        self.patch_center = 0.9 * self.patch_center + 0.1 * seen[:, 1:].mean((0, 1))
        return torch.stack(cls_terms).mean() + torch.stack(patch_terms).mean()

    def step(self, batch: Batch, it: int) -> float:
        """One iteration of `train_one_epoch`."""
        total, warmup = EPOCHS * STEPS_PER_EPOCH, 10 * STEPS_PER_EPOCH
        lr = np.linspace(0, 0.064 * BATCH / 256, warmup)[it]
        decay = cosine(0.04, 0.4, it, total)
        temp = 0.04 + 0.03 * it / (30 * STEPS_PER_EPOCH)  # by the step
        p = self.student.p
        for value in p.values():
            value.requires_grad_()
        loss = self.loss(batch, temp)
        gradients = dict(zip(p, torch.autograd.grad(loss, list(p.values()))))
        for name, gradient in gradients.items():
            p[name] = value = p[name].detach()
            coefficient = 3.0 / (gradient.norm() + 1e-6)
            self.clipped.add(bool(coefficient < 1))
            gradient = gradient * min(1.0, float(coefficient))
            if "last_layer" in name and it // STEPS_PER_EPOCH < 1:
                continue  # its gradient is cancelled: AdamW passes it over
            n, m, v = self.moments[name]
            n, m, v = n + 1, 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            self.moments[name] = (n, m, v)
            regularized = not (name.endswith(".bias") or value.ndim == 1)
            value = value * (1 - lr * decay * regularized)
            p[name] = value - lr * (m / (1 - 0.9**n)) / ((v / (1 - 0.999**n)).sqrt() + 1e-8)
        momentum = cosine(0.996, 1, it, total)
        for name, value in self.teacher.p.items():
            self.teacher.p[name] = momentum * value + (1 - momentum) * p[name]
        return loss.item()


def batches() -> Iterator[Batch]:
    """Noise, with hidden patches in about half of the global views, in fp64."""
    rng = np.random.default_rng(0)
    for _ in range(UPDATES):
        samples = []
        for i in range(BATCH):
            views = []
            for side in [GRID * PATCH] * 2 + [LOCAL_GRID * PATCH] * LOCALS:
                mask = torch.ones(1, (side // PATCH) ** 2, dtype=torch.bool)
                pixels = torch.from_numpy(rng.standard_normal((3, side, side), dtype=np.float32))
                views.append(View(pixels, Crop(0, 0, side, side), mask, torch.ones(1, dtype=torch.bool)))
            hidden = rng.random((2, GRID**2)) < 0.3 * (rng.random((2, 1)) < 0.5)
            samples.append(Sample(views[:2], views[2:], torch.from_numpy(hidden), index=i, path=f"{i}"))
        batch = collate(samples)
        floats = {f.name: getattr(batch, f.name) for f in fields(batch)}
        yield replace(
            batch,
            **{k: v.double() for k, v in floats.items() if isinstance(v, Tensor) and v.is_floating_point()},
        )


@pytest.fixture(autouse=True)
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """`x.float()`, which the losses use to leave half precision, leaves fp64 as it is."""
    single = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda x: x if x.dtype == torch.float64 else single(x))


def start(config: PretrainConfig) -> TrainState:
    """The recipe's run in fp64, with weights and tokens of about one size."""
    run = build_run(config, Ranks(0, 1, torch.device("cpu")), images=IMAGES)
    rng = np.random.default_rng(1)
    for part in (run.student, run.teacher, run.centers):
        part.double()
    with torch.no_grad():
        for network in (run.student, run.teacher):
            for p in network.parameters():
                p += torch.from_numpy(0.1 * rng.standard_normal(tuple(p.shape)))
    return run


def follow(**changes: Any) -> Iterator[tuple[TrainState, PublishedRun, float, float]]:
    """Both runs after each update, and their losses."""
    run = start(load_recipe("ibot-vits16", data="x", **(SHRUNK | changes)))
    published = PublishedRun(run)
    for it, batch in enumerate(batches()):
        train_step(run, [batch])
        yield run, published, run.meters.means()["loss"], published.step(batch, it)
    assert published.clipped == {True, False}


def strays(found: Tensor, expected: Tensor, before: Tensor) -> float:
    """How far a value is from the expected one, as a share of how far it was to go."""
    return float((found - expected).norm() / (expected - before).norm().clamp(min=1e-12))


def test_updates_are_ibots() -> None:
    first = start(load_recipe("ibot-vits16", data="x", **SHRUNK))
    before = {
        "student": dict(first.student.named_parameters()),
        "teacher": dict(first.teacher.named_parameters()),
    }
    last = -1.0
    for step, (run, published, loss, expected) in enumerate(follow()):
        assert loss == pytest.approx(expected, rel=1e-6)
        assert loss != last
        last = loss
        centers = {"objects": published.cls_center, "patches": published.patch_center}
        for name, center in centers.items():
            assert strays(getattr(run.centers, name).center[0], center, torch.zeros(())) < 1e-5, (step, name)
        for part, values in (("student", published.student.p), ("teacher", published.teacher.p)):
            ours = dict(getattr(run, part).named_parameters())
            assert ours.keys() == values.keys()
            for name, value in values.items():
                moved = not (step == 0 or ("last_layer" in name and step < STEPS_PER_EPOCH))
                if part == "student" and not moved:  # the rate begins at 0, and prototypes are frozen
                    assert torch.equal(ours[name], value), (step, name)
                    continue
                if name.endswith("qkv.bias"):  # a bias of keys changes nothing: its gradient is rounding
                    ours[name], value = (x.detach().view(3, -1)[[0, 2]] for x in (ours[name], value))
                    start_value = before[part][name].detach().view(3, -1)[[0, 2]]
                else:
                    start_value = before[part][name].detach()
                assert strays(ours[name].detach(), value, start_value) < 1e-5, (step, part, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss__center_patches": "hidden"},
        {"optim__decay_tokens": False},
        {"optim__clip": "global"},
        {"model__pos_resize": "timm"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_setting_that_follows_ibot_is_needed(changes: dict[str, Any]) -> None:
    *_, (run, published, _, _) = follow(**changes)
    ours = torch.cat([p.detach().flatten() for p in run.student.parameters()])
    theirs = torch.cat([p.flatten() for p in published.student.p.values()])
    before = torch.cat([p.detach().flatten() for p in start(run.config).student.parameters()])
    assert strays(ours, theirs, before) > 1e-4
