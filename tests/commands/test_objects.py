"""`odis objects`: discovery from the command line to the index, here and on Ray, and what is refused."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from odis.cli import main
from odis.objects.index import ObjectIndex


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 images of several sizes with one or two squares on noise; one is truncated."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(23):
        pixels = rng.integers(0, 60, (64, 64 + 8 * (i % 3), 3), dtype=np.uint8)
        for k in range(1 + i % 2):
            x, y = 4 + 30 * k, int(rng.integers(4, 40))
            pixels[y : y + 20, x : x + 20] = (255, 120 * k, 40 * (i % 5))
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (folder / "11.png").write_bytes((folder / "11.png").read_bytes()[:400])
    return folder


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps."""
    out = tmp_path_factory.mktemp("run") / "few-steps"
    settings = {
        "model.patch_size": 8,
        "model.embed_dim": 48,
        "model.depth": 2,
        "views.global_size": 32,
        "views.local_size": 16,
    }
    settings |= {
        "train.steps": 2,
        "train.batch_size": 4,
        "train.threads": 1,
        "loader.workers": 0,
        "head.prototypes": 64,
    }
    main(
        [
            "pretrain",
            "--data",
            str(folder),
            "--recipe",
            "debug",
            "--out",
            str(out),
            *[f"--{k}={v}" for k, v in settings.items()],
        ]
    )
    return out


def command(folder: Path, model: Path, out: Path, *more: str) -> list[str]:
    common = [
        "--discover.size",
        "64",
        "--discover.batch_size",
        "3",
        "--part-size",
        "4",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    return ["objects", "discover", str(folder), "--with", str(model), "--out", str(out), *common, *more]


@pytest.mark.parametrize("method", ["spectral", "seeds"])
def test_a_folder_and_a_model_become_an_index(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
):
    out = tmp_path / "found.parquet"
    main(command(folder, model, out, "--discover.method", method))
    said = capsys.readouterr()
    index = ObjectIndex.open(out, strict=True)
    assert index.provenance == f"discovered:{method}@few-steps"
    assert [row.image for row in index] == [f"{i:02d}.png" for i in range(23) if i != 11]
    assert index.count_objects() > 11
    assert all(item.mask is not None and 0 < item.score <= 1 for row in index for item in row.objects)
    assert f"skipped {folder / '11.png'}: cannot be decoded" in said.err
    assert "22 of 23 images (1 skipped)" in said.err
    assert f"discovered:{method}@few-steps" in said.out
    main(command(folder, model, out, "--discover.method", method))
    assert "is there already, made with these settings of these images" in capsys.readouterr().err


def test_other_weights_in_the_same_place_are_not_taken_for_these(
    folder: Path, model: Path, tmp_path: Path, capsys, monkeypatch
):
    run, out = tmp_path / "run", tmp_path / "found.parquet"
    shutil.copytree(model, run)
    monkeypatch.chdir(tmp_path)
    main(command(folder, Path("run"), out))
    monkeypatch.chdir(folder)
    main(command(folder, run, out))
    assert "is there already" in capsys.readouterr().err, "the same run, named from elsewhere"
    weights = load_file(run / "model.safetensors")
    with safe_open(run / "model.safetensors", "pt") as file:
        card = file.metadata()
    save_file({name: value + 0.5 for name, value in weights.items()}, run / "model.safetensors", card)
    with pytest.raises(SystemExit):
        main(command(folder, run, out))
    assert "is there already, and was not made with these settings" in capsys.readouterr().err


def test_what_is_found_can_be_trained_on_and_compared(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(command(folder, model, tmp_path / "found"))  # a folder: an index in parts
    assert len(list((tmp_path / "found").glob("*-of-000006.parquet"))) == 6
    main(
        [
            "objects",
            "compare",
            str(tmp_path / "found"),
            str(tmp_path / "found"),
            "--out",
            str(tmp_path / "same.json"),
        ]
    )
    assert '"corloc"' in (tmp_path / "same.json").read_text().lower()
    small = [
        "--model.patch_size=8",
        "--model.embed_dim=48",
        "--model.depth=1",
        "--views.global_size=32",
        "--views.local_size=16",
    ]
    more = ["--train.steps=1", "--train.batch_size=2", "--loader.workers=0", "--head.prototypes=64"]
    main(
        [
            "pretrain",
            "--data",
            str(tmp_path / "found"),
            "--recipe",
            "debug",
            "--out",
            str(tmp_path / "run"),
            *small,
            *more,
        ]
    )
    assert "discovered:spectral@few-steps" in capsys.readouterr().err


def test_a_killed_run_goes_on(folder: Path, model: Path, tmp_path: Path):
    main(command(folder, model, tmp_path / "whole.parquet"))
    out, parts = tmp_path / "killed.parquet", tmp_path / ".killed.parquet.parts"
    process = subprocess.Popen(
        [sys.executable, "-m", "odis", *command(folder, model, out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*.parquet"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not out.exists()
    assert len(list(parts.glob("*.parquet"))) >= 2
    main(command(folder, model, out))
    assert list(ObjectIndex.open(out)) == list(ObjectIndex.open(tmp_path / "whole.parquet"))
    assert not parts.exists()


@pytest.mark.usefixtures("ray_cluster")
def test_ray_discovers_the_same(folder: Path, model: Path, tmp_path: Path):
    main(command(folder, model, tmp_path / "ray.parquet", "--engine", "ray", "--workers", "2"))
    main(command(folder, model, tmp_path / "local.parquet"))
    assert list(ObjectIndex.open(tmp_path / "ray.parquet")) == list(
        ObjectIndex.open(tmp_path / "local.parquet")
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["discoverr"],
            "discoverr: no such command (did you mean discover?); there are detect, discover, compare",
        ),
        (["discover", "{folder}", "--out", "x.parquet"], "--with is required"),
        (["discover", "{folder}", "--with", "{model}"], "--out is required"),
        (
            ["discover", "{folder}", "--with", "nothing", "--out", "x.parquet"],
            "nothing: no such run folder or model file",
        ),
        (
            ["discover", "{model}", "--with", "{model}", "--out", "x.parquet"],
            "no image and no object index (.parquet)",
        ),
        (
            ["discover", "{folder}", "--with", "{model}", "--out", "x.parquet", "--discover.tau", "2"],
            "discover.tau: is 2.0, must be from -1",
        ),
        (
            ["discover", "{folder}", "--with", "{model}", "--out", "x.parquet", "--discover.size", "63"],
            "discover.size: is 63, must be",
        ),
        (
            ["discover", "{folder}", "--with", "{model}", "--out", "x.parquet", "--part-size", "0"],
            "part-size: is 0, must be 1 or more",
        ),
        (
            ["discover", "{folder}", "--with", "{model}", "--out", "x.parquet", "--workers", "2"],
            "workers: is 2, which goes with --engine ray",
        ),
        (
            [
                "discover",
                "{folder}",
                "--with",
                "{model}",
                "--out",
                "x.parquet",
                "--discover.methood",
                "seeds",
            ],
            "--discover.methood: no such option (did you mean --discover.method?)",
        ),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, model: Path, tmp_path: Path, capsys, monkeypatch, arguments: list[str], line: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["objects", *[word.format(folder=folder, model=model) for word in arguments]])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert line in said
    assert said.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]):
    main(["objects", "--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in ("detect", "discover", "compare"))
