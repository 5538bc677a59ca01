"""Bits that flip in what odis wrote are noticed by whatever reads it: nothing else comes of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import odis
from odis.backbones.build import build_vit
from odis.backbones.saved import load_teacher, save_model
from odis.config.training import ModelConfig
from odis.errors import DataError
from odis.objects.index import ObjectIndex, write_index
from odis.objects.parts import Parts
from odis.train.checkpoint import load_checkpoint, save_checkpoint
from odis.types import ImageObjects, Object

FLIPS = 60  # of each kind: 300 together

MODEL = ModelConfig(patch_size=8, embed_dim=16, depth=1, num_heads=2)
CARD = {
    "model": MODEL.__dict__, "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "mask_coverage": 0.5,
    "mask_margin": 0, "provenance": "annotated",
}  # fmt: skip
ROWS = [
    ImageObjects(f"{i}.jpg", 64, 48, (Object((1.0, 2.0, 30.0 + i, 40.0), None, i % 3),)) for i in range(9)
]


def checkpoint(folder: Path) -> Path:
    vit = build_vit(MODEL, 32, drop_path=0.0)
    teacher = {f"backbone.{name}": value for name, value in vit.state_dict().items()}
    moments = {"state": {0: {"exp_avg": torch.rand(40, 40)}}}
    state = {"step": 3, "student": teacher, "teacher": teacher, "optimizer": moments, "card": CARD}
    return save_checkpoint(folder, 3, state, keep=1)


def model(folder: Path) -> Path:
    save_model(folder / "model.safetensors", build_vit(MODEL, 32, drop_path=0.0), CARD)
    return folder / "model.safetensors"


def index(folder: Path) -> Path:
    write_index(folder / "x.parquet", ROWS, root=folder, provenance="annotated", classes=["a", "b", "c"])
    return folder / "x.parquet"


def index_in_parts(folder: Path) -> Path:
    parts = Parts(folder / "index", root=folder, settings={})
    parts.write(0, ROWS, {}, provenance="annotated", classes=["a", "b", "c"])
    parts.finish(1)
    return folder / "index" / "000001-of-000001.parquet"


def read_rows(path: Path) -> None:
    assert list(ObjectIndex.open(path))


WRITTEN: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "a checkpoint to resume from": (checkpoint, load_checkpoint),
    "a checkpoint as a model": (checkpoint, load_teacher),
    "a model": (model, odis.load),
    "an index": (index, read_rows),
    "an index in parts": (index_in_parts, read_rows),
}


@pytest.mark.parametrize(("write", "read"), WRITTEN.values(), ids=WRITTEN)
def test_flipped_bits_are_noticed(
    tmp_path: Path, write: Callable[[Path], Path], read: Callable[[Path], object]
) -> None:
    path = write(tmp_path)
    read(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(whole), FLIPS):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(DataError, match=path.name) as noticed:
            read(path)
        assert "\n" not in str(noticed.value)
    path.write_bytes(whole)
    read(path)
