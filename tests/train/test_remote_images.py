"""Training on images behind a server that fails is training on files, bit for bit; a server that is killed
ends it with one line, and the same call goes on.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.errors import UnreachableError
from odis.objects.edit.pack import pack_index
from odis.objects.index import ObjectIndex, write_index
from odis.objects.storage import reading
from odis.train.loop import pretrain
from odis.types import ImageObjects, Object

STEPS = 10


def config(data: Path, root: str | None = None, **more: Any) -> PretrainConfig:
    settings = {
        "train__steps": STEPS, "train__batch_size": 4, "train__checkpoint_every": 1000,
        "train__device": "cpu",
        "train__threads": 1, "loader__workers": 0, "views__global_size": 32, "views__local_size": 16,
        "model__embed_dim": 32, "model__num_heads": 2, "model__depth": 1, "head__prototypes": 24,
    }  # fmt: skip
    return load_recipe("debug", data=str(data), root=root, **settings | more)


def losses(out: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.fixture
def packed(image_server: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of files, packed into the folder that is served."""
    monkeypatch.setattr(reading, "FIRST_WAIT", 0.001)
    folder, rows = image_server.folder / "images", []
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{k}.png")
        rows.append(ImageObjects(f"{k}.png", 48, 40, (Object((4.0, 5.0, 30.0, 30.0)),)))
    write_index(folder / "i.parquet", rows, root=folder, provenance="annotated", classes=[])
    return pack_index(ObjectIndex.open(folder / "i.parquet"), image_server.folder / "shards").path


def test_a_run_on_a_server_that_fails_is_the_run_on_files(
    image_server: Any, packed: Path, tmp_path: Path
) -> None:
    files = packed.parent.parent / "images" / "i.parquet"
    pretrain(config(files), tmp_path / "files")
    faults = np.random.default_rng(1).random(10_000) < 0.1
    image_server.fault = lambda number, path: ("500", "drop")[number % 2] if faults[number] else ""
    for name, data, root, more in (
        ("shard", packed, None, {}),
        ("remote", packed, f"{image_server.url}/shards", {"loader__workers": 2}),
        (
            "cached",
            files,
            f"{image_server.url}/images",
            {"loader__fetch_cache": f"{tmp_path / 'kept'}:10MiB"},
        ),
    ):
        before = len(image_server.asked)
        out = pretrain(config(data, root, **more), tmp_path / name)
        assert losses(out) == losses(tmp_path / "files"), name
        asked = len(image_server.asked) - before
        assert asked == 0 if root is None else asked > 0
        if name == "cached":
            assert len({path for _, path, _ in image_server.asked[before:]}) == 12
            assert asked < 12 + 12  # each image once, and some again


def test_a_killed_server_ends_a_run_that_goes_on_later(
    image_server: Any, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ATTEMPTS", 2)
    whole = pretrain(config(packed), tmp_path / "whole")
    image_server.fault = lambda number, path: "500" if number > 22 else ""
    remote = f"{image_server.url}/shards"
    for workers in (2, 0):
        out = tmp_path / f"cut-{workers}"
        image_server.asked.clear()
        with pytest.raises(UnreachableError) as end:
            pretrain(config(packed, remote, loader__workers=workers), out)
        assert "\n" not in str(end.value)
        assert "cannot be reached: it answers with status 500 (2 attempts in" in str(end.value)
    monkeypatch.setattr(image_server, "fault", lambda number, path: "")
    pretrain(config(packed, remote), out)
    assert losses(out) == losses(whole)
