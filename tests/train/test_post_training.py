"""Training a network that already knows something: layer decay, freezing, anchor, skipped views; each equals
an explicit slow version, resumes bit for bit, and with a learning rate of 0 nothing changes.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from odis.backbones.build import build_pair, build_vit
from odis.config.options import load_recipe
from odis.config.training import OptimConfig, PretrainConfig
from odis.data.loader import make_loader
from odis.errors import ConfigError, OdisError, OdisWarning
from odis.inference import load
from odis.machine.ranks import Ranks
from odis.objects.index import ObjectIndex, write_index
from odis.train import anchor as anchors
from odis.train import update
from odis.train.checkpoint import checkpoints, load_checkpoint
from odis.train.loop import pretrain
from odis.train.optim import apply_settings, build_optimizer, lr_factor
from odis.train.schedules import Settings
from odis.train.start import build_run
from odis.train.update import TrainState, train_step
from odis.types import Batch, ImageObjects, Object

STEPS = 4
TINY: dict[str, Any] = {
    "views__global_size": 32, "views__local_size": 16, "views__local_views": 1,
    "prediction__probability": 1.0,
    "model__patch_size": 8, "model__embed_dim": 32, "model__depth": 3, "model__num_heads": 2,
    "model__drop_path": 0.0, "model__object_tokens": "read-only", "objects__per_image": 2,
    "head__prototypes": 24, "head__hidden": 20, "head__bottleneck": 12, "optim__base_lr": 0.05,
    "train__steps": STEPS, "train__batch_size": 4, "train__device": "cpu", "train__checkpoint_every": 2,
    "loader__workers": 0,
}  # fmt: skip
EVERYTHING: dict[str, dict[str, Any]] = {
    "layer decay": {"optim__layer_decay": 0.5, "optim__patch_embed_factor": 0.2},
    "frozen backbone": {"optim__freeze_backbone_epochs": 1},
    "frozen blocks": {"model__freeze_blocks": 1},
    "anchor": {"loss__gram_weight": 2.0},
    "skipped views": {"model__drop_path_kind": "dinov2", "model__drop_path": 0.4},
}
ALL = {key: value for one in EVERYTHING.values() for key, value in one.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with boxes, and the weights that runs start from."""
    root = tmp_path_factory.mktemp("post")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / f"{i}.png")
        boxes = [(4.0, 5.0, 30.0, 30.0), (20.0, 10.0, 44.0, 36.0)]
        rows.append(ImageObjects(f"{i}.png", 48, 40, tuple(Object(box) for box in boxes)))
    write_index(root / "index.parquet", rows, root=root, provenance="annotated", classes=[])
    torch.manual_seed(7)
    torch.save(build_vit(replace(config(root).model, weights=None), 32).state_dict(), root / "start.pth")
    return root


def config(data: Path, **settings: Any) -> PretrainConfig:
    given = {"data": str(data / "index.parquet"), "model__weights": str(data / "start.pth")}
    return load_recipe("debug", **(TINY | given | settings))


def run_of(settled: PretrainConfig) -> TrainState:
    return build_run(settled, Ranks(0, 1, torch.device("cpu")), images=8)


def batches(settled: PretrainConfig) -> list[Batch]:
    index = ObjectIndex.open(settled.data)
    return list(make_loader(index, settled, patch_size=8, start_step=0, steps=STEPS))


def states(run: TrainState, steps: list[Batch]) -> list[dict[str, Tensor]]:
    """The student's weights after each step."""
    found = []
    for batch in steps:
        train_step(run, [batch])
        found.append({k: v.clone() for k, v in run.student.state_dict().items()})
    return found


@pytest.mark.parametrize("change", EVERYTHING)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(change: str, data: Path, tmp_path: Path) -> None:
    settled = config(data, **EVERYTHING[change])
    pretrain(settled, tmp_path / "run")
    middle, last = checkpoints(tmp_path / "run" / "checkpoints")
    whole, plain = load_checkpoint(last), load_checkpoint(middle)
    assert any(not torch.equal(v, whole["student"][k]) for k, v in plain["student"].items())
    last.unlink()
    pretrain(settled, tmp_path / "run")
    again = load_checkpoint(last)
    for part in ("student", "teacher"):
        assert all(torch.equal(v, again[part][k]) for k, v in whole[part].items()), part


@pytest.mark.parametrize("change", [*EVERYTHING, "all"])
def test_with_a_learning_rate_of_0_no_feature_changes(change: str, data: Path) -> None:
    settled = config(
        data, **(ALL if change == "all" else EVERYTHING[change]), optim__base_lr=0, optim__min_lr=0
    )
    run = run_of(settled)
    images = torch.randn(2, 3, 32, 32)
    masks = torch.rand(2, 2, 16) < 0.5
    states(run, batches(settled))
    with torch.no_grad():
        expected = build_vit(settled.model, 32).eval()(images, masks)
        for network in (run.student, run.teacher):
            found = network.backbone.eval()(images, masks)
            assert torch.equal(found.patches, expected.patches)
            assert torch.equal(found.objects, expected.objects)
            assert torch.equal(found.image, expected.image)


def test_the_teacher_starts_at_the_original(data: Path) -> None:
    student, teacher = build_pair(config(data))
    original = torch.load(data / "start.pth")
    for network in (student, teacher):
        assert all(torch.equal(v, network.backbone.state_dict()[k]) for k, v in original.items())


# --- layer decay


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("backbone.patch_embed.proj.weight", 13),
        ("backbone.cls_token", 13),
        ("backbone.pos_embed", 13),
        ("backbone.reg_token", 13),
        ("backbone.mask_token", 13),
        ("backbone.blocks.0.attn.qkv.weight", 12),
        ("backbone.blocks.10.mlp.fc1.bias", 2),
        ("backbone.blocks.11.norm1.weight", 1),
        ("backbone.norm.weight", 0),
        ("backbone.object_token", 0),
        ("backbone.object_pos", 0),
        ("head.last_layer.weight", 0),
        ("patch_head.mlp.0.weight", 0),
    ],
)
def test_factors_are_dinov2s(name: str, power: int) -> None:
    """L = 12, d = .9: .254 for the embeddings, .051 for the patch embedding (dinov2, param_groups.py)."""
    patch = 0.2 if ".patch_embed." in name else 1.0
    assert lr_factor(name, 12, 0.9, 0.2) == pytest.approx(0.9**power * patch)
    assert lr_factor("backbone.patch_embed.proj.bias", 12, 0.9, 0.2) == pytest.approx(0.051, abs=5e-4)
    assert lr_factor("backbone.pos_embed", 12, 0.9, 0.2) == pytest.approx(0.254, abs=5e-4)


def test_layer_decay_equals_an_optimizer_for_each_parameter(data: Path) -> None:
    student, _ = build_pair(config(data))
    slow, _ = build_pair(config(data))
    slow.load_state_dict(student.state_dict())
    optim = OptimConfig(layer_decay=0.5, patch_embed_factor=0.2)
    optimizer = build_optimizer(student, optim)
    alone = {}
    for name, parameter in slow.named_parameters():
        found = re.search(r"blocks\.(\d)", name)
        power = 3 - int(found[1]) if found else 0
        if re.match(r"backbone\.(patch_embed|cls_token|pos_embed|mask_token)", name):
            power = 4
        lr = 0.1 * 0.5**power * (0.2 if "patch_embed" in name else 1.0)
        token = name.endswith(("token", "pos_embed"))
        decay = 0.3 if parameter.ndim > 1 and not token else 0.0
        alone[name] = torch.optim.AdamW([parameter], lr=lr, weight_decay=decay, fused=True)
    torch.manual_seed(0)
    for _ in range(3):
        gradients = {k: torch.randn_like(p) for k, p in slow.named_parameters()}
        for network in (student, slow):
            for name, parameter in network.named_parameters():
                parameter.grad = gradients[name].clone() if parameter.requires_grad else None
        apply_settings(optimizer, Settings(0.1, 0.3, 0.99, 0.04, False))
        optimizer.step()
        for one in alone.values():
            one.step()
    for (name, ours), theirs in zip(student.named_parameters(), slow.parameters()):
        assert torch.equal(ours, theirs), name
    factors = {group["lr_factor"] for group in optimizer.param_groups}
    assert factors == {1.0, 0.5, 0.25, 0.125, 0.0625, 0.0625 * 0.2}


def test_without_layer_decay_there_are_two_groups(data: Path) -> None:
    groups = build_optimizer(build_pair(config(data))[0], OptimConfig()).param_groups
    assert [(group["decayed"], group["lr_factor"]) for group in groups] == [(True, 1.0), (False, 1.0)]


# --- freezing


def test_heads_and_new_tokens_alone_train_while_the_backbone_is_frozen(data: Path) -> None:
    settled = config(data, optim__freeze_backbone_epochs=1)  # of two steps
    run = run_of(settled)
    before = {k: v.clone() for k, v in run.student.state_dict().items()}
    found = states(run, batches(settled))
    new = {"backbone.mask_token", "backbone.object_token"}
    for step in range(2):
        moved = {k for k, v in before.items() if not torch.equal(v, found[step][k])}
        assert {k for k in moved if k.startswith("backbone.")} <= new
        assert any(k.startswith("head.") for k in moved)
    assert new <= {k for k, v in before.items() if not torch.equal(v, found[1][k])}
    thawed = {k for k, v in found[1].items() if not torch.equal(v, found[2][k])}
    assert {"backbone.blocks.0.attn.qkv.weight", "backbone.patch_embed.proj.weight"} <= thawed


def test_frozen_blocks_equal_putting_them_back_after_every_step(data: Path) -> None:
    settled = config(data, model__freeze_blocks=2, optim__clip_grad=0)
    run, slow = run_of(settled), run_of(config(data, optim__clip_grad=0))
    names = [k for k, p in run.student.named_parameters() if not p.requires_grad]
    assert {re.sub(r"\.(attn|mlp|norm).*|\.proj.*", "", name) for name in names} == {
        "backbone.blocks.0", "backbone.blocks.1", "backbone.patch_embed", "backbone.cls_token",
        "backbone.pos_embed",
    }  # fmt: skip
    start = {k: v.clone() for k, v in slow.student.state_dict().items()}
    steps = batches(settled)
    found = states(run, steps)
    for step, batch in enumerate(steps):
        train_step(slow, [batch])
        with torch.no_grad():
            for network in (slow.student, slow.teacher):
                for name in names:
                    network.get_parameter(name).copy_(start[name])
        for name, value in slow.student.state_dict().items():
            torch.testing.assert_close(found[step][name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert all(torch.equal(found[-1][name], start[name]) for name in names)


def test_more_blocks_than_there_are_cannot_be_frozen(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.freeze_blocks: is 4, but there are 3 blocks"):
        build_pair(config(data, model__freeze_blocks=4))


# --- anchor


def test_the_anchor_equals_its_sum_over_pairs_of_patches() -> None:
    torch.manual_seed(0)
    student, frozen = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    slow = 0.0
    for view in range(2):
        for i in range(3):
            for j in range(3):
                cosines = [
                    float(x[view, i] @ x[view, j] / (x[view, i].norm() * x[view, j].norm()))
                    for x in (student, frozen)
                ]
                slow += (cosines[0] - cosines[1]) ** 2 / (2 * 3 * 3)
    found = anchors.gram_loss(student.flatten(0, 1), frozen.flatten(0, 1), 2)
    assert found.item() == pytest.approx(slow, rel=1e-5)
    same = anchors.gram_loss(student.flatten(0, 1), 3 * student.flatten(0, 1), 2)
    assert same.item() == pytest.approx(0, abs=1e-10)


def test_the_anchor_is_the_start_and_its_term_is_added(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled = config(data, loss__gram_weight=2.0)
    run = run_of(settled)
    assert run.anchor is not None
    steps = batches(settled)
    states(run, steps[:2])  # by now the student is elsewhere
    original = build_vit(settled.model, 32).eval()
    assert all(torch.equal(v, run.anchor.state_dict()[k]) for k, v in original.state_dict().items())
    seen = []
    real = update.add_gram
    monkeypatch.setattr(update, "add_gram", lambda *given: seen.append((given, real(*given))) or seen[-1][1])
    student = {k: v.clone() for k, v in run.student.backbone.state_dict().items()}
    train_step(run, [steps[2]])
    (losses, _, _, views, weight), with_anchor = seen[0]
    again = build_vit(settled.model, 32)
    again.load_state_dict(student)
    batch = steps[2]
    with torch.no_grad():
        hidden = again.eval()(batch.global_views, batch.global_masks, batch.prediction_masks).patches
        whole = original(batch.global_views).patches
    expected = anchors.gram_loss(hidden.flatten(0, 1), whole.flatten(0, 1), len(batch.global_views))
    assert (views, weight) == (len(batch.global_views), 2.0)
    torch.testing.assert_close(with_anchor.gram, expected, rtol=1e-4, atol=1e-6)
    assert with_anchor.gram > 1e-4
    torch.testing.assert_close(with_anchor.total, losses.total + 2 * expected, rtol=1e-5, atol=1e-6)
    assert "loss_gram" in with_anchor.named()


def test_a_freeze_is_at_most_half_of_the_run(data: Path) -> None:
    run = run_of(config(data, optim__freeze_backbone_epochs=100))
    assert [run.schedules.at(step).backbone_frozen for step in range(STEPS)] == [True, True, False, False]


# --- where it started from


def test_statistics_and_licence_of_the_start_go_into_the_run_and_its_model(
    data: Path, tmp_path: Path
) -> None:
    tag = "vit_tiny_patch16_224.augreg_in21k"  # .5 and .5; apache-2.0
    run = pretrain(config(data, model__name=tag, train__steps=1), tmp_path / "run")
    record = yaml.safe_load((run / "config.yaml").read_text())
    weights = str(data / "start.pth")
    start = {"source": weights, "tag": tag, "license": "apache-2.0"}
    assert record["resolved"]["start_weights"] == start
    assert record["config"]["views"]["mean"] == record["config"]["views"]["std"] == [0.5] * 3
    encoder = load(run, device="cpu")
    assert (encoder.mean, encoder.std, encoder.card["start_weights"]) == ((0.5,) * 3, (0.5,) * 3, start)
    # A second run that starts from the first keeps them, whatever its name's tag is.
    second = config(data, model__weights=str(run / "model.safetensors"), train__steps=1)
    again = load(pretrain(second, tmp_path / "second"), device="cpu")
    assert (again.mean, again.card["start_weights"]["license"]) == ((0.5,) * 3, "apache-2.0")


def test_contradicting_statistics_stop_a_run_before_it_exists(data: Path, tmp_path: Path) -> None:
    asked = config(data, model__name="vit_tiny_patch16_224.augreg_in21k", views__mean=[0.485, 0.456, 0.406])
    with pytest.raises(ConfigError, match=r"^views\.mean: is \[0\.485, 0\.456, 0\.406\], but the weights"):
        pretrain(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_guessed_tag_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.warns(OdisWarning, match=r"start\.pth: its pixel statistics are taken from vit_tiny"):
        pretrain(config(data, train__steps=1), tmp_path / "run")


def test_a_run_in_fp16_does_not_begin_from_weights_that_leave_its_range(data: Path, tmp_path: Path) -> None:
    state = torch.load(data / "start.pth")
    state["blocks.1.mlp.fc2.bias"][3] = 40_000.0
    torch.save(state, tmp_path / "large.pth")
    settled = config(data, train__precision="fp16", model__weights=str(tmp_path / "large.pth"))
    with pytest.raises(
        OdisError, match="vit_tiny_patch16_224: precision fp16: block 2 leaves values up to 40,0"
    ):
        pretrain(settled, tmp_path / "run")
