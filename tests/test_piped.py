"""Output that goes into a file or a log: whole lines, no bar, nothing that moves a cursor."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.cli import main
from odis.machine import progress

TINY = [
    "--recipe=debug", "--views.global_size=32", "--views.local_size=16", "--model.depth=1",
    "--model.embed_dim=32", "--model.num_heads=2", "--head.prototypes=24", "--train.device=cpu",
    "--train.steps=2", "--train.batch_size=4", "--loader.workers=0",
]  # fmt: skip
MOVES = re.compile("\r|\x1b\\[[0-9;?]*[^0-9;?m]|\x1b[^\\[]")  # all but colours


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of two classes each, and a run."""
    folder = tmp_path_factory.mktemp("piped")
    rng = np.random.default_rng(0)
    for i in range(4):
        (folder / "images" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / "ab"[i % 2] / f"{i}.png")
    main(["pretrain", f"--data={folder / 'images'}", f"--out={folder / 'run'}", *TINY])
    return folder


COMMANDS = [
    ["pretrain", "--data=images", "--out=other", *TINY],
    ["embed", "images", "--model=run", "--out=features", "--workers=0"],
    ["evaluate", "knn", "--model=run", "--train=images", "--test=images", "--mode=crop", "--k=1"],
    ["objects", "discover", "images", "--with=run", "--out=found.parquet"],
]
PROGRESS = re.compile(r"step \d/2 .*|.+: \d+ of \d+(, \S+ left)?")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_output_is_whole_lines(
    command: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FORCE_COLOR", "1")
    for name in ("_FIRST", "_EVERY"):
        monkeypatch.setattr(progress, name, 0.0)
    main(command)
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not MOVES.search(text)
        assert not text or text.endswith("\n")
    assert any(PROGRESS.fullmatch(line) for line in said.err.splitlines()), said.err
