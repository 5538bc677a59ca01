"""Opening a model asks no hub and fetches nothing, whatever its card says."""

import resource
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from odis.backbones.build import build_vit
from odis.backbones.saved import load_model, load_teacher, save_model
from odis.config.training import ModelConfig
from odis.errors import DataError, OdisError
from odis.train.checkpoint import save_checkpoint

SIZES = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
MODEL = ModelConfig("vit_tiny_patch16_224", **SIZES)


def card(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL.__dict__ | changes, "image_size": 32}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that were asked for; none answers."""
    hosts: list[str] = []

    def refuse(host: str, *_: Any, **__: Any) -> None:
        hosts.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return hosts


def written(folder: Path, card: dict[str, Any]) -> tuple[Path, Path]:
    """A model and a checkpoint with this card."""
    vit = build_vit(MODEL, 32, drop_path=0.0)
    save_model(folder / "model.safetensors", vit, card)
    teacher = {f"backbone.{name}": value for name, value in vit.state_dict().items()}
    state = {"step": 1, "student": {}, "teacher": teacher, "optimizer": {}, "card": card}
    return folder / "model.safetensors", save_checkpoint(folder, 1, state, keep=1)


def test_a_card_that_names_the_hub_is_refused_without_asking_it(tmp_path: Path, asked: list[str]) -> None:
    model, checkpoint = written(tmp_path, card(name="hf-hub:nobody/nothing"))
    for read, path in ((load_model, model), (load_teacher, checkpoint)):
        with pytest.raises(OdisError, match=r"hf-hub:nobody/nothing") as refused:
            read(path)
        assert "\n" not in str(refused.value)
    assert asked == []


def test_weights_that_a_card_names_are_not_read(tmp_path: Path, asked: list[str]) -> None:
    for weights in ("timm", str(tmp_path / "gone.pth")):
        model, checkpoint = written(tmp_path, card(weights=weights))
        one, other = load_model(model)[0].state_dict(), load_teacher(checkpoint)[0].state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert asked == []


@pytest.mark.parametrize(
    "changes",
    [{"depth": 10**6}, {"embed_dim": 2**15}, {"name": "vit_giant_patch14_clip_224"}, {"depth": 2},
     {"num_heads": 0}, {"patch_size": "8"}, {"depth": 10**30}],
    ids=str,
)  # fmt: skip
def test_a_card_of_another_network_takes_no_time_and_no_memory(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """A million blocks would have no end, and wide ones take gigabytes."""
    large = (
        {"embed_dim": None, "depth": None, "num_heads": None, "patch_size": None} if "name" in changes else {}
    )
    model, checkpoint = written(tmp_path, card(**large | changes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    for read, path in ((load_model, model), (load_teacher, checkpoint)):
        with pytest.raises(DataError, match=path.name) as refused:
            read(path)
        assert "\n" not in str(refused.value)
    assert time.process_time() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "of KiB"
