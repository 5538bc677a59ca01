"""One update, through `pretrain`: gradients for every recipe, accumulation, drop path, precisions, an
untouched teacher.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from odis.backbones.build import build_pair
from odis.config.options import load_recipe
from odis.config.recipes import recipe_names
from odis.config.training import PretrainConfig
from odis.data.loader import make_loader
from odis.method.step import Centers, LossTerms, compute_losses, student_pass, teacher_pass
from odis.objects.index import ObjectIndex, write_index
from odis.train import loop, start, update
from odis.train.checkpoint import checkpoints, load_checkpoint
from odis.types import ImageObjects, Object

TINY: dict[str, Any] = {
    "views__global_size": 32,
    "views__local_size": 16,
    "views__local_views": 2,
    "prediction__probability": 1.0,
    "model__patch_size": 8,
    "model__embed_dim": 32,
    "model__depth": 2,
    "model__num_heads": 2,
    "model__drop_path": 0.0,
    "head__prototypes": 24,
    "head__hidden": 20,
    "head__bottleneck": 12,
    "optim__warmup_epochs": 0,
    "optim__freeze_last_layer_epochs": 0,
    "train__steps": 1,
    "train__batch_size": 4,
    "train__precision": "fp32",
    "train__device": "cpu",
    "train__log_every": 1,
    "train__checkpoint_every": 0,
    "loader__workers": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        boxes = [(4.0, 5.0, 30.0, 30.0), (20.0, 10.0, 44.0, 36.0), (1.0, 1.0, 15.0, 18.0)]
        rows.append(ImageObjects(f"{i}.png", 48, 40, tuple(Object(b, label=0) for b in boxes)))
    write_index(folder / "index.parquet", rows, root=folder, provenance="annotated", classes=["thing"])
    return str(folder / "index.parquet")


class Spy:
    """What `pretrain` did in each step: gradients before the update, and student and teacher after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gradients: list[dict[str, Tensor | None]] = []
        self.before_step: Callable[[int], None] = lambda step: None
        step_if_finite, update_teacher, build = (
            update.step_if_finite,
            update.update_teacher,
            start.build_optimizer,
        )

        def building(student: torch.nn.Module, optim: Any) -> torch.optim.AdamW:
            self.student = student
            self.start = {k: v.clone() for k, v in student.state_dict().items()}
            return build(student, optim)

        def stepping(optimizer: torch.optim.Optimizer, norm: Tensor) -> Tensor:
            self.note()
            return step_if_finite(optimizer, norm)

        def updating(student: torch.nn.Module, teacher: torch.nn.Module, momentum: float) -> None:
            self.teacher, self.teacher_before = teacher, [p.clone() for p in teacher.parameters()]
            update_teacher(student, teacher, momentum)
            self.momentum = momentum
            self.before_step(len(self.gradients))

        monkeypatch.setattr(start, "build_optimizer", building)
        monkeypatch.setattr(update, "step_if_finite", stepping)
        monkeypatch.setattr(update, "update_teacher", updating)

    def note(self) -> None:
        trainable = {name: p for name, p in self.student.named_parameters() if p.requires_grad}
        self.gradients.append(
            {name: None if p.grad is None else p.grad.clone() for name, p in trainable.items()}
        )


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def config_of(data: str, recipe: str = "debug", **overrides: Any) -> PretrainConfig:
    return load_recipe(recipe, data=data, **(TINY | overrides))


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_trainable_parameter_gets_a_gradient_and_the_teacher_none(
    data: str, tmp_path: Path, spy: Spy, recipe: str
) -> None:
    """A parameter without one would stop DDP at the second step, or be decayed towards 0 for nothing."""
    config = config_of(data, recipe)
    config.model.weights = None  # those of a recipe are on a hub
    loop.pretrain(config, tmp_path)
    (found,) = spy.gradients
    assert len(found) > 20
    assert [name for name, grad in found.items() if grad is None or not grad.any()] == []
    assert all(p.grad is None and not p.requires_grad for p in spy.teacher.parameters())
    for old, student, teacher in zip(spy.teacher_before, spy.student.parameters(), spy.teacher.parameters()):
        torch.testing.assert_close(
            teacher, spy.momentum * old + (1 - spy.momentum) * student.detach(), rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize(
    "overrides",
    [
        {"loss__object_weight": 0.0},
        {"loss__object_weight": 0.0, "head__shared": False},
        {"loss__patch_weight": 0.0, "head__shared": False},
        {"loss__patch_weight": 0.0, "prediction__probability": 0.0},
        {"loss__image_weight": 1.0, "loss__object_weight": 0.0, "loss__patch_weight": 0.0},
        {"views__local_views": 0},
    ],
    ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()),
)
@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
def test_parameters_that_no_loss_reaches_are_not_trained(
    data: str, tmp_path: Path, spy: Spy, kind: str, overrides: dict
) -> None:
    loop.pretrain(config_of(data, model__object_tokens=kind, **overrides), tmp_path)
    (found,) = spy.gradients
    assert [name for name, grad in found.items() if grad is None] == []
    for name, value in spy.student.state_dict().items():
        if name not in found:
            assert torch.equal(value, spy.start[name]), f"{name} moved"


def by_hand(config: PretrainConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The first step's gradients and centers, of the whole batch at once."""
    config = replace(config, train=replace(config.train, accumulate=1))
    index = ObjectIndex.open(config.data)
    torch.manual_seed(config.train.seed)
    student, teacher = build_pair(config)
    centers, terms = Centers(config.head.prototypes, config.loss.center_momentum), LossTerms.of(config)
    (batch,) = make_loader(index, config, patch_size=8, start_step=0, steps=1)
    target = teacher_pass(teacher, batch, centers, config.loss.warmup_teacher_temp, config, terms)
    compute_losses(student_pass(student, batch, terms), target, batch, config).total.backward()
    centers.add(target)
    centers.update()
    found = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    return found, centers.state_dict()


@pytest.mark.parametrize(
    "settings",
    [
        {"loss__center_patches": "all"},
        {"model__object_tokens": "read-only", "objects__per_image": 3, "loss__image_weight": 0.5},
    ],
    ids=["single", "read-only"],
)
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_micro_batches_follow_the_whole_batch(
    data: str, tmp_path: Path, spy: Spy, accumulate: int, settings: dict
) -> None:
    """Views that show unequal numbers of objects: each pair weighs as much as in the whole batch, and the
    centers move once a step.
    """
    settings |= {
        "views__object_crops": False, "views__local_crops": "free", "views__global_scale": (0.1, 0.3),
        "loss__warmup_teacher_temp_epochs": 2, "loss__center_momentum": 0.5, "optim__clip_grad": 0.0,
        "train__steps": 2, "train__checkpoint_every": 1,
    }  # fmt: skip
    config = config_of(data, **settings, train__batch_size=8, train__accumulate=accumulate)
    parts = make_loader(ObjectIndex.open(data), config, patch_size=8, start_step=0, steps=1)
    assert len({float(batch.pairs) for batch in parts}) > 1 or accumulate == 1
    loop.pretrain(config, tmp_path / "run")
    gradients, centers = by_hand(config)
    assert spy.gradients[0].keys() == gradients.keys()
    largest = max(float(grad.abs().max()) for grad in gradients.values())
    for name, grad in gradients.items():
        torch.testing.assert_close(spy.gradients[0][name], grad, rtol=1e-4, atol=1e-6 * largest)
    state = load_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[0])
    assert state["step"] == 1
    assert state["centers"].keys() == centers.keys()
    for name, center in centers.items():
        torch.testing.assert_close(state["centers"][name], center, rtol=1e-4, atol=1e-7)


def test_gradients_are_clipped_and_frozen_prototypes_have_none(data: str, tmp_path: Path, spy: Spy) -> None:
    config = config_of(data, optim__clip_grad=0.01, optim__freeze_last_layer_epochs=0.5, train__steps=4)
    loop.pretrain(config, tmp_path)
    norms = [
        torch.stack([g.norm() for g in found.values() if g is not None]).norm() for found in spy.gradients
    ]
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)
    frozen = [found["head.last_layer.weight"] is None for found in spy.gradients]
    assert frozen == [True, False, False, False]


@pytest.mark.parametrize(("precision", "steps"), [("fp32", 2), ("fp16", 16)])
def test_each_parameter_is_clipped_by_itself_and_the_global_norm_is_logged(
    data: str, tmp_path: Path, spy: Spy, monkeypatch: pytest.MonkeyPatch, precision: str, steps: int
) -> None:
    """Also in fp16, where gradients are unscaled first and the scaler takes the step."""
    clipped: list[list[float]] = []
    step = torch.optim.AdamW.step

    def note(self: torch.optim.AdamW, *given: Any) -> Any:
        clipped.append([float(p.grad.norm()) for p in spy.student.parameters() if p.grad is not None])
        return step(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    config = config_of(
        data, optim__clip_grad=1e-4, optim__clip="parameter", train__steps=steps, train__precision=precision
    )
    loop.pretrain(config, tmp_path)
    taken = [norms for norms in clipped if np.isfinite(norms).all()]
    assert taken
    for norms in taken:
        assert max(norms) == pytest.approx(1e-4, rel=0.02)
        assert sum(norm > 0.9e-4 for norm in norms) > 5
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["grad_norm"] > 1e-2, "of all gradients together, before"


def test_drop_path_is_a_function_of_seed_and_step(data: str, tmp_path: Path, spy: Spy) -> None:
    settings = {
        "model__drop_path": 0.5,
        "train__steps": 3,
        "optim__base_lr": 0.0,
        "optim__min_lr": 0.0,
        "optim__weight_decay": 0.0,
    }
    settings |= {"optim__weight_decay_end": 0.0, "prediction__probability": 0.0, "loss__patch_weight": 0.0}
    loop.pretrain(config_of(data, **settings), tmp_path / "a")
    spy.before_step = lambda step: torch.manual_seed(
        torch.seed()
    )  # others may draw from the global generator as they like
    loop.pretrain(config_of(data, **settings), tmp_path / "b")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    loop.pretrain(config_of(data, **settings, train__seed=1), tmp_path / "c")
    loop.pretrain(config_of(data, **settings | {"model__drop_path": 0.0}), tmp_path / "without")
    assert len({losses(tmp_path / name)[0] for name in ("a", "c", "without")}) == 3


def test_drop_path_differs_between_steps(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    manual_seed = torch.manual_seed

    def noted(seed: int) -> torch.Generator:
        seeds.append(seed)
        return manual_seed(seed)

    monkeypatch.setattr(loop.torch, "manual_seed", noted)
    loop.pretrain(config_of(data, train__steps=5), tmp_path)
    assert len(set(seeds)) == 6, "the model's start and five steps"


@pytest.mark.parametrize("recipe", ["debug", "odis-small"])
def test_bf16_follows_fp32(data: str, tmp_path: Path, recipe: str) -> None:
    for precision in ("bf16", "fp32"):
        loop.pretrain(
            config_of(data, recipe, train__precision=precision, train__steps=3, optim__base_lr=0.01),
            tmp_path / precision,
        )
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=0.05)
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")


@pytest.mark.parametrize(("precision", "steps"), [("bf16", 1), ("fp16", 16)])
def test_half_precision_moves_every_weight_and_keeps_them_in_full(
    data: str, tmp_path: Path, spy: Spy, capsys: pytest.CaptureFixture, precision: str, steps: int
) -> None:
    """In fp16 the first steps overflow, which is how the scale of the loss is found: they are not taken, and
    that is no fault.
    """
    settings = {
        "train__steps": steps,
        "optim__base_lr": 0.1,
        "head__hidden": 128,
        "head__bottleneck": 32,
        "optim__momentum_teacher": 0.5,
    }
    loop.pretrain(config_of(data, train__precision=precision, **settings), tmp_path / "half")
    for network in (spy.student, spy.teacher):
        for name, value in network.state_dict().items():
            assert value.dtype == torch.float32
            assert value.isfinite().all()
            assert not torch.equal(value, spy.start[name]), name
    assert "not finite" not in capsys.readouterr().err
    loop.pretrain(config_of(data, **settings | {"train__steps": 1}), tmp_path / "full")
    assert losses(tmp_path / "half")[0] == pytest.approx(losses(tmp_path / "full")[0], rel=0.01)
