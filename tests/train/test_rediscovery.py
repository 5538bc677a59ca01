"""Training on what the teacher finds: no annotation enters, and a killed and resumed run takes the same
objects at every step.
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from odis.config.options import load_recipe
from odis.config.training import ObjectsConfig, PretrainConfig, TrainConfig
from odis.errors import DataError
from odis.objects.build import build_index
from odis.objects.edit.rows import sample_index
from odis.objects.index import ObjectIndex, write_index
from odis.objects.scenes.write import write_scenes
from odis.train import rediscovery
from odis.train.checkpoint import checkpoints, load_checkpoint
from odis.train.loop import pretrain
from odis.train.schedules import Schedules
from odis.types import ImageObjects, Object

IMAGES, STEPS = 20, 16

SETTINGS = {
    "objects.rediscover_every": 0.9,
    "model.object_tokens": "read-only",
    "model.drop_path": 0.2,
    "model.embed_dim": 48,
    "model.depth": 2,
    "model.patch_size": 8,
    "views.global_size": 32,
    "views.local_size": 16,
    "head.prototypes": 64,
    "train.steps": STEPS,
    "train.batch_size": 4,
    "train.checkpoint_every": 3,
    "train.keep": 9,
    "train.threads": 1,
    "train.log_every": 1,
    "loader.workers": 1,
    "discover.size": 64,
    "discover.max_objects": 2,
}
ROUNDS = [4, 9, 14]  # an epoch is 5 steps; .9 of one is 4.5, and 4.5, 9, 13.5 are rounded to even


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright squares on noise, with annotations that must not be looked at; one image is truncated."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(IMAGES):
        pixels = rng.integers(0, 60, (64, 72, 3), dtype=np.uint8)
        x, y = rng.integers(8, 36, 2)
        pixels[y : y + 20, x : x + 20] = (255, 40 * (i % 5), 0)
        Image.fromarray(pixels).save(root / f"{i:02d}.png")
        rows.append(ImageObjects(f"{i:02d}.png", 72, 64, (Object((1.0, 1.0, 3.0, 3.0)),)))
    (root / "07.png").write_bytes((root / "07.png").read_bytes()[:500])
    write_index(root / "index.parquet", rows, root=root, provenance="annotated", classes=[])
    return root / "index.parquet"


def config(index: Path, **changes) -> PretrainConfig:
    settings = {name.replace(".", "__"): value for name, value in SETTINGS.items()}
    return load_recipe("debug", data=str(index), **{**settings, **changes})


def command(index: Path, out: Path) -> list[str]:
    options = [f"--{name}={value}" for name, value in SETTINGS.items()]
    return [
        sys.executable,
        "-m",
        "odis",
        "pretrain",
        "--data",
        str(index),
        "--out",
        str(out),
        "--recipe",
        "debug",
        *options,
    ]


def without_scores(row: ImageObjects) -> ImageObjects:
    return replace(row, objects=tuple(replace(o, score=None) for o in row.objects))


def equal_runs(ours: Path, theirs: Path, *, same_parts: bool = True) -> None:
    """Weights are the same to the bit, and objects; in parts of another size, which are other batches, the
    scores are the same to rounding.
    """
    a, b = (load_checkpoint(checkpoints(out / "checkpoints")[-1]) for out in (ours, theirs))
    assert a["step"] == b["step"] == STEPS
    for part in ("student", "teacher", "centers"):
        assert all(torch.equal(a[part][k], b[part][k]) for k in b[part]), part
    for step in ROUNDS:
        name = f"objects/step-{step:08d}.parquet"
        found, expected = (list(ObjectIndex.open(out / name)) for out in (ours, theirs))
        if not same_parts:
            scores = [[o.score for row in rows for o in row.objects] for rows in (found, expected)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)
            found, expected = ([without_scores(row) for row in rows] for rows in (found, expected))
        assert found == expected, step


@pytest.fixture(scope="module")
def undisturbed(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "undisturbed"
    done = subprocess.run(command(index, out), check=True, capture_output=True, text=True, timeout=240)
    assert "from step 1 to 4: 0.00 objects an image (whole-image)" in done.stderr
    assert "07.png: cannot be decoded" in done.stderr
    return out


def test_objects_are_found_every_so_many_epochs(index: Path, undisturbed: Path):
    files = sorted(p.name for p in (undisturbed / "objects").iterdir())
    assert files == [f"step-{step:08d}.parquet" for step in ROUNDS]
    found = [ObjectIndex.open(undisturbed / "objects" / name) for name in files]
    for objects in found:
        assert objects.provenance == "discovered:spectral@teacher"
        assert [row.image for row in objects] == [f"{i:02d}.png" for i in range(IMAGES) if i != 7]
        assert objects.count_objects() > IMAGES / 2, "squares on noise are found"
    assert any(list(found[0]) != list(other) for other in found[1:]), (
        "the teacher changed, and what it finds with it"
    )
    card = load_checkpoint(checkpoints(undisturbed / "checkpoints")[-1])["card"]
    assert card["provenance"] == "discovered:spectral@teacher"


def test_no_annotation_enters(index: Path, undisturbed: Path, tmp_path: Path):
    rows = [
        ImageObjects(row.image, row.width, row.height, (Object((30.0, 30.0, 60.0, 60.0)),))
        for row in ObjectIndex.open(index)
    ]
    write_index(tmp_path / "other.parquet", rows, root=index.parent, provenance="annotated", classes=[])
    pretrain(config(tmp_path / "other.parquet"), tmp_path / "run")
    a, b = (
        load_checkpoint(checkpoints(out / "checkpoints")[-1])["student"]
        for out in (tmp_path / "run", undisturbed)
    )
    assert all(torch.equal(a[k], b[k]) for k in b)


def test_training_uses_what_was_found(index: Path, undisturbed: Path, tmp_path: Path):
    pretrain(config(index, objects__rediscover_every=1000), tmp_path / "run")  # never within this run
    assert not (tmp_path / "run" / "objects").exists()
    at = {
        out: load_checkpoint(out / "checkpoints" / "step-00000003.pt")["student"]
        for out in (tmp_path / "run", undisturbed)
    }
    end = {out: load_checkpoint(checkpoints(out / "checkpoints")[-1])["student"] for out in at}
    (a, b), (c, d) = at.values(), end.values()
    assert all(torch.equal(a[k], b[k]) for k in b), "the same up to the first discovery"
    assert not all(torch.equal(c[k], d[k]) for k in d), "and not behind it"


def test_killed_and_resumed_equals_undisturbed(index: Path, undisturbed: Path, tmp_path: Path):
    at = random.randint(5, 13)  # behind the first discovery, before the last
    out, metrics = tmp_path / "killed", tmp_path / "killed" / "metrics.jsonl"
    process = subprocess.Popen(
        command(index, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while (
        not (metrics.exists() and metrics.read_text().count("\n") >= at)
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    subprocess.run(command(index, out), check=True, capture_output=True, timeout=240)
    equal_runs(out, undisturbed)


def test_interrupted_while_objects_are_found(
    index: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"
    monkeypatch.setattr(rediscovery, "_PART_SIZE", 6)
    write, parts = rediscovery.write_part, []

    def interrupt(*arguments) -> None:
        write(*arguments)
        parts.append(arguments[1])
        if len(parts) == 6:  # two parts into the second discovery
            raise KeyboardInterrupt

    monkeypatch.setattr(rediscovery, "write_part", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config(index), out)
    assert checkpoints(out / "checkpoints")[-1].name == "step-00000009.pt"
    pretrain(config(index), out)
    assert parts[6:8] == [2, 3], "finished parts were not made again"
    equal_runs(out, undisturbed, same_parts=False)


def test_lost_objects_are_named(index: Path, undisturbed: Path, tmp_path: Path):
    import shutil

    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    for path in checkpoints(out / "checkpoints")[-1:]:
        path.unlink()
    (out / "objects" / "step-00000014.parquet").unlink()
    with pytest.raises(
        DataError,
        match=r"step-00000014\.parquet: is gone, and the teacher of step 14 with it; resume from a "
        r"checkpoint",
    ):
        pretrain(config(index), out)


@pytest.mark.parametrize(
    ("every", "batch", "steps", "expected"),
    [
        (0.0, 4, 20, []),
        (1.0, 4, 20, [5, 10, 15]),
        (0.9, 4, 16, ROUNDS),
        (0.01, 4, 5, [1, 2, 3, 4]),
        (2.0, 3, 30, [13, 27]),
        (9.0, 4, 20, []),
    ],
)
def test_when_objects_are_discovered(every: float, batch: int, steps: int, expected: list[int]):
    settings = PretrainConfig(
        data="x",
        objects=ObjectsConfig(rediscover_every=every),
        train=TrainConfig(batch_size=batch, steps=steps),
    )
    assert rediscovery.boundaries(settings, Schedules(settings, IMAGES)) == expected


@pytest.mark.parametrize("method", ["spectral", "seeds"])
def test_scenes_are_learned_from_what_is_found_in_them(tmp_path: Path, method: str):
    write_scenes(tmp_path / "scenes", tmp_path / "scenes.parquet", count=40, split="train", seed=0)
    settings = {
        "objects__rediscover_every": 0.5,
        "discover__method": method,
        "discover__size": 96,
        "model__patch_size": 8,
        "model__depth": 2,
    }
    more = {"views__global_size": 48, "views__local_size": 24, "loader__workers": 0, "train__threads": 1}
    out = pretrain(
        load_recipe("debug", data=str(tmp_path / "scenes.parquet"), **settings, **more), tmp_path / "run"
    )
    assert_rounds(out, images=40, method=method)


def test_tiny_imagenet_is_learned_from_what_is_found_in_it(tiny_imagenet_dir: Path, tmp_path: Path):
    build_index("tiny-imagenet", tiny_imagenet_dir, tmp_path / "val.parquet", split="val")
    sample_index(ObjectIndex.open(tmp_path / "val.parquet"), tmp_path / "some.parquet", 40, seed=0)
    settings = {
        "objects__rediscover_every": 0.5,
        "discover__size": 128,
        "loader__workers": 0,
        "train__threads": 1,
    }
    out = pretrain(load_recipe("debug", data=str(tmp_path / "some.parquet"), **settings), tmp_path / "run")
    assert_rounds(out, images=40)


def assert_rounds(out: Path, images: int, method: str = "spectral") -> None:
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["resolved"]["provenance"] == f"discovered:{method}@teacher"
    assert (out / "model.safetensors").exists()
    rounds = [ObjectIndex.open(path, strict=True) for path in sorted((out / "objects").iterdir())]
    assert len(rounds) >= 2
    for found in rounds:
        assert len(found) == images
        assert all(item.score > 0 for row in found for item in row.objects)
    assert rounds[-1].count_objects() > 0
