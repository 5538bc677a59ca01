"""The commands as a newcomer meets them: help, mistakes, and the way from published data to a table and a
picture.
"""

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from odis import __version__
from odis.cli import main
from odis.config.query import MODES
from odis.errors import OdisWarning
from odis.objects.index import ObjectIndex
from odis.train.run_folder import read_config

COMMANDS = ["pretrain", "index", "objects", "inspect", "embed", "evaluate", "benchmark", "report", "demo"]

TINY = [
    "--recipe=debug",
    "--views.global_size=32",
    "--views.local_size=16",
    "--model.depth=2",
    "--model.embed_dim=32",
    "--model.num_heads=2",
    "--head.prototypes=24",
    "--train.device=cpu",
    "--train.steps=3",
    "--train.batch_size=4",
    "--loader.workers=0",
]


def said(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """What a command that succeeds prints to stdout."""
    capsys.readouterr()
    code = None
    try:
        main(list(arguments))
    except SystemExit as stop:  # as --help of a command ends
        code = stop.code
    assert code in (0, None)
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line with which a command is refused, with exit code 2 and nothing on stdout."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line


def contents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two classes with three images each."""
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = tmp_path / "pictures" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pictures"


# --- help
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]], ids=str)
def test_help_lists_the_commands(capsys: pytest.CaptureFixture, arguments: list[str]) -> None:
    text = said(capsys, *arguments)
    assert text.startswith("usage: odis COMMAND")
    assert all(re.search(rf"^  {command}  +\w", text, re.MULTILINE) for command in COMMANDS)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture, command: str) -> None:
    text = said(capsys, command, "--help")
    assert text.startswith(f"usage: odis {command}")
    assert said(capsys, "help", command) == text


def test_help_of_an_evaluation_and_of_the_commands_names_their_options(capsys: pytest.CaptureFixture) -> None:
    def options(*command: str) -> set[str]:
        return set(re.findall(r"--[a-z-]+", said(capsys, *command, "--help")))

    assert {"--model", "--train", "--test", "--mode", "--k", "--out"} <= options("evaluate", "knn")
    assert {"--out", "--split", "--strict"} <= options("index")
    assert {"--data", "--out", "--recipe", "--val", "--strict"} <= options("pretrain")


@pytest.mark.parametrize("arguments", [["--version"], ["-V"], ["version"]], ids=str)
def test_version(capsys: pytest.CaptureFixture, arguments: list[str]) -> None:
    assert said(capsys, *arguments) == f"odis {__version__}\n"


def test_module_and_script_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("odis")
    for command in ([sys.executable, "-m", "odis"], [str(script)]):
        if command[0] == str(script) and not script.exists():
            pytest.skip("odis is not installed as a script")
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"odis {__version__}\n", "")
        done = subprocess.run([*command, "pretrain"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "odis pretrain: --data is required; --help lists the options\n"


# --- mistakes
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pretain"], f"odis pretain: no such command; the commands are {', '.join(COMMANDS)}"),
        (["--verbose"], "odis --verbose: no such command"),
        (["pretrain"], "odis pretrain: --data is required"),
        (["pretrain", "--data", "x"], "odis pretrain: --out is required"),
        (
            ["pretrain", "--data", "x", "--out", "run", "--recepe", "debug"],
            "odis pretrain: --recepe: no such option (did you mean --recipe?)",
        ),
        (
            ["pretrain", "--data", "x", "--out", "run", "--rec", "debug"],
            "odis pretrain: --rec: no such option",
        ),
        (
            ["pretrain", "--data", "x", "--out", "run", "--recipe", "odis-vitss16"],
            "odis pretrain: --recipe: no file and no recipe",
        ),
        (
            ["pretrain", "--data", "x", "--out", "run", "--strict", "yes"],
            "odis pretrain: unrecognized arguments: yes",
        ),
        (["pretrain", "--data", "x", "--out", "run"], "odis pretrain: x: no such file or folder"),
        (["pretrain", "--data", "", "--out", "run"], "odis pretrain: --data is required"),
        (["index"], "odis index: the following arguments are required: source, root"),
        (["index", "cocoa", "."], "odis index: argument source: invalid choice: 'cocoa'"),
        (["index", "coco", "."], "odis index: --out is required"),
        (
            ["index", "coco", ".", "--out", "a.parquet", "--spilt", "x"],
            "odis index: --spilt: no such option (did you mean --split?)",
        ),
        (
            ["index", "coco", "nowhere", "--out", "a.parquet", "--split", "x"],
            "odis index: {}/nowhere: no such folder",
        ),
        (["index", "folder", ".", "--out", "a.parquet"], "odis index: {}: no image in this folder or below"),
        (["index", "tiny-imagenet", ".", "--out", "a.parquet", "--split", "train"], "odis index: {}"),
        (["index", "scenes", "s", "--out", "a.parquet", "--count", "0"], "odis index: "),
        (["index", "scenes", "s", "--out", "a.parquet", "--split", "tran"], "odis index: "),
        (["inspect"], "odis inspect: the following arguments are required: index"),
        (["inspect", "x"], "odis inspect: --out is required"),
        (["inspect", "x", "--out", "a.png"], "odis inspect: x: no such file or folder"),
        (
            ["evaluate", "lineal"],
            "odis evaluate: lineal: no such evaluation (did you mean linear?); there are knn, linear, "
            "transfer, ",
        ),
        (["evaluate", "linear"], "odis evaluate: --model is required"),
        (["evaluate", "segment", "--model", "x"], "odis evaluate: x: no such run folder or model file"),
        (["embed"], "odis embed: the following arguments are required: data"),
        (["embed", "x", "--model", "x"], "odis embed: --out is required"),
        (
            ["embed", "x", "--model", "x", "--out", "y", "--dtype", "int8"],
            "odis embed: dtype 'int8' is none of fp16, fp32",
        ),
        (["embed", "x", "--model", "x", "--out", "y"], "odis embed: x: no such file or folder"),
        (
            ["index", "perturb", "x", "--out", "y", "--drop", "2"],
            "odis index: drop: is 2, must be from 0 to 1",
        ),
        (
            ["index", "perturb", "x", "--out", "y"],
            "odis index: jitter, scale, drop, false: are all 0, so nothing would change",
        ),
        (["index", "perturb", "x", "--out", "y", "--false", "0.1"], "odis index: x: no such file or folder"),
        (["report", "--out", "x.html"], "odis report: "),
        (["report", "x", "--out", "x.html"], "odis report: x: "),
        (["evaluate", "knn"], "odis evaluate: --model is required"),
        (
            ["evaluate", "knn", "--model", "x", "--train", "x", "--test", "x"],
            "odis evaluate: x: no such file or folder",
        ),
        (
            ["evaluate", "knn", "--model", "x", "--train", "x", "--test", "x", "--k", "ten"],
            "odis evaluate: k 'ten' must be whole numbers",
        ),
        (["demo", "--ou", "x"], "odis demo: --ou: no such option (did you mean --out?)"),
        (["demo", "--seed", "x"], "odis demo: seed: must be int; got x"),
        (
            ["index", "scenes", "s", "--out", "a.parquet", "--seed", "-1"],
            "odis index: seed: is -1, must be 0 or more",
        ),
        (["inspect", "x", "--out", "a.png", "--seed=-1"], "odis inspect: seed: is -1, must be 0 or more"),
        (["evaluate", "knn", "--seed", "1.5"], "odis evaluate: seed: must be int; got 1.5"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, *arguments).startswith(line.format(tmp_path))
    assert contents(tmp_path) == []


def test_empty_folder_and_files_that_are_no_index(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"image": ["a.png"], "price": [3]}), table)
    text = tmp_path / "text.parquet"
    text.write_text("no table")
    out = tmp_path / "run"
    for data, why in (
        (tmp_path / "empty", "no image and no object index (.parquet) in this folder or below"),
        (table, "is not an object index: it has no column width, height, boxes, masks, labels, scores"),
        (text, "is not a Parquet file that can be read"),
    ):
        for command in (
            ["pretrain", "--data", str(data), "--out", str(out), "--recipe=debug"],
            ["inspect", str(data), "--out", str(out)],
            [
                "evaluate",
                "knn",
                "--model=timm:vit_tiny_patch16_224",
                "--train",
                str(data),
                "--test",
                str(data),
                "--out",
                str(out),
            ],
        ):
            line = refused(capsys, *command)
            assert str(data) in line
            assert why in line
    assert not out.exists()


def test_what_the_system_refuses_is_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    assert "Not a directory" in refused(
        capsys, "pretrain", "--data", str(pictures), "--out", str(file / "run"), *TINY
    )
    assert "cannot be written" in refused(
        capsys, "index", "folder", str(pictures), "--out", str(file / "a.parquet")
    )
    assert "holds file, which is no part of this index" in refused(
        capsys, "index", "folder", str(pictures), "--out", str(tmp_path)
    )
    assert "cannot be written" in refused(
        capsys, "inspect", str(pictures), "--out", str(file / "a.png"), *TINY
    )
    assert file.read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"file", "pictures"}


def test_inspect_draws_one_image_at_least(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = str(tmp_path / "a.png")
    assert "images: is 0, must be 1 or more" in refused(
        capsys, "inspect", str(pictures), "--out", out, "--images=0", *TINY
    )


def test_a_refused_pretraining_leaves_no_folder(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = contents(tmp_path)
    for wrong in (
        ["--views.global_size=30"],
        ["--objects.per_image=2"],
        ["--model.name=vit_enormous"],
        ["--train.device=cuda:99"],
        ["--val", str(tmp_path / "nowhere")],
        ["--val", str(tmp_path)],
    ):
        refused(
            capsys, "pretrain", "--data", str(pictures), "--out", str(tmp_path / "a" / "run"), *TINY, *wrong
        )
    assert contents(tmp_path) == before


def test_strict_index_with_a_bad_file_leaves_no_parquet(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bad = pictures / "cat" / "bad.png"
    bad.write_bytes(b"no picture")
    out = tmp_path / "index" / "all.parquet"
    line = refused(capsys, "index", "folder", str(pictures), "--out", str(out), "--strict")
    assert line.startswith(f"odis index: {bad}: is not an image")
    assert [p for p in contents(tmp_path) if p.is_file() and pictures not in p.parents] == []

    main(["index", "folder", str(pictures), "--out", str(out)])
    output = capsys.readouterr()
    assert f"skipped {bad}: is not an image" in output.err
    assert (
        f"{out}: 6 of 7 images (1 skipped), 6 of 6 objects (0 skipped, 0 crowds), whole-image" in output.err
    )
    assert len(ObjectIndex.open(out)) == 6
    before = out.read_bytes()
    refused(capsys, "index", "folder", str(pictures), "--out", str(out), "--strict")
    assert out.read_bytes() == before, "an index that was there stays"


# --- the whole way
# ------------------------------------------------------------------------------------------------------------


def way(capsys: pytest.CaptureFixture, train: Path | str, test: Path | str, out: Path, *more: str) -> dict:
    """Pretrain on `train`, evaluate on `test`, inspect; the results."""
    main(["pretrain", "--data", str(train), "--out", str(out / "run"), *TINY])
    output = capsys.readouterr()
    assert output.out == "", "progress is not a result"
    assert "step 3/3" in output.err
    assert f"done: {out / 'run' / 'model.safetensors'}" in output.err
    assert {p.name for p in (out / "run").iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
    }
    assert read_config(out / "run")["resolved"]["recipe"] == "debug"

    arguments = [
        "--model",
        str(out / "run"),
        "--train",
        str(train),
        "--test",
        str(test),
        "--workers=0",
        *more,
    ]
    shown = said(capsys, "evaluate", "knn", *arguments, "--out", str(out / "results" / "knn.json"))
    results = json.loads((out / "results" / "knn.json").read_text())
    for row in results["rows"]:
        for score in row["scores"].values():
            assert f"{score['value']:.2f}" in shown
        assert row["mode"] in shown
    assert results["train"]["provenance"] in shown
    assert shown.splitlines()[-1] == str(out / "results" / "knn.json")

    picture = out / "picture.png"
    assert said(capsys, "inspect", str(test), "--out", str(picture), "--images=2", *TINY) == f"{picture}\n"
    with Image.open(picture) as image:
        assert min(image.size) > 300
        assert np.asarray(image.convert("L")).std() > 10, "not blank"
    return results


def test_tiny_imagenet_from_its_layout_to_a_table(
    tiny_imagenet_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root, index = subset_of_tiny_imagenet(tiny_imagenet_dir, tmp_path / "few"), tmp_path / "index.parquet"
    shown = said(capsys, "index", "tiny-imagenet", str(root), "--split", "train", "--out", str(index))
    assert re.search(r"images +│ 60 ", shown)
    assert re.search(r"objects +│ 60 ", shown)
    results = way(capsys, index, index, tmp_path, "--mode=masked-attention,crop,whole-image", "--k=1,10")
    assert results["test"]["objects"] == 60
    assert [row["mode"] for row in results["rows"]] == ["masked-attention", "crop", "whole-image"]
    # Asked about itself, every object is its own nearest neighbour: a table that says less is wrong.
    assert all(row["scores"]["k=1"]["value"] == 100 for row in results["rows"])
    assert results["rows"][0]["provenance"] == results["train"]["provenance"] == "annotated"
    for evaluation, score, *more in (
        ("linear", "top-1", "--train", str(index), "--steps", "30", "--lrs", "0.1"),
        ("transfer", "index", "--train", str(index), "--costs", "0.1,1"),
        ("retrieval", "mAP", "--mode", "crop,masked-attention"),
    ):
        rows = evaluated(capsys, tmp_path, evaluation, "--test", str(index), *more)
        assert all(0 < row["scores"][score]["value"] <= 100 for row in rows)
    assert [row["mode"] for row in rows] == ["crop", "masked-attention"]


def evaluated(capsys: pytest.CaptureFixture, folder: Path, evaluation: str, *arguments: str) -> list[dict]:
    """Rows of an evaluation of the run in `folder`, each of which is in the table."""
    out = folder / f"{evaluation}.json"
    shown = said(
        capsys,
        "evaluate",
        evaluation,
        "--model",
        str(folder / "run"),
        "--workers=0",
        "--out",
        str(out),
        *arguments,
    )
    rows = json.loads(out.read_text())["rows"]
    assert all(f"{score['value']:.2f}" in shown for row in rows for score in row["scores"].values())
    assert shown.splitlines()[-1] == str(out)
    return rows


def subset_of_tiny_imagenet(whole: Path, root: Path) -> Path:
    """Three classes of 20 images in the published layout."""
    root.mkdir()
    names = (whole / "wnids.txt").read_text().split()[:3]
    (root / "wnids.txt").write_text("\n".join(names) + "\n")
    (root / "words.txt").write_text((whole / "words.txt").read_text())
    for name in names:
        (root / "train" / name / "images").mkdir(parents=True)
        lines = (whole / "train" / name / f"{name}_boxes.txt").read_text().splitlines()[:20]
        (root / "train" / name / f"{name}_boxes.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            image = Path("train") / name / "images" / line.split("\t")[0]
            os.link(whole / image, root / image)
    return root


def test_coco_from_its_layout_to_a_table(
    coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    indices = {}
    for split in ("train2017", "val2017"):
        indices[split] = tmp_path / f"{split}.parquet"
        shown = said(capsys, "index", "coco", str(coco_dir), "--split", split, "--out", str(indices[split]))
        assert re.search(r"provenance +│ annotated", shown)
    results = way(
        capsys,
        indices["train2017"],
        indices["val2017"],
        tmp_path,
        "--k=5",
        "--mode=crop",
        "--max-train=10",
        "--max-test=6",
    )
    assert results["test"]["images"] == 6
    assert results["test"]["objects"] > 6
    sides = [
        "--train",
        str(indices["train2017"]),
        "--test",
        str(indices["val2017"]),
        "--max-train=8",
        "--max-test=4",
    ]
    rows = evaluated(capsys, tmp_path, "knn", *sides, "--k=3", f"--mode={','.join(MODES)}", "--size=64")
    assert [row["mode"] for row in rows] == list(MODES)
    (dense,) = evaluated(capsys, tmp_path, "dense-knn", *sides, "--k=5")
    (segment,) = evaluated(capsys, tmp_path, "segment", *sides, "--steps=20", "--lrs=0.1", "--size=48")
    assert 0 < dense["scores"]["mIoU"]["value"] < 100
    assert set(segment["iou"]) <= {"background", *ObjectIndex.open(indices["train2017"]).classes}


def test_folder_needs_no_index(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    results = way(capsys, pictures, pictures, tmp_path, "--mode=whole-image", "--k=1")
    assert results["rows"][0]["scores"] == {"k=1": {"value": 100.0, "low": 100.0, "high": 100.0}}
    assert results["rows"][0]["provenance"] == "whole-image"


def test_scenes_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", "12"), ("val", "8")):
        said(
            capsys,
            "index",
            "scenes",
            "scenes",
            "--out",
            f"{split}.parquet",
            "--split",
            split,
            "--count",
            count,
        )
    results = way(capsys, "train.parquet", "val.parquet", tmp_path / "out", "--k=3")
    assert results["test"]["images"] == 8


@pytest.mark.parametrize("command", ["pretrain", "embed"])
def test_a_killed_data_worker_is_one_line(command, pictures, tmp_path, monkeypatch, capsys):
    """As when memory runs out: the system kills whoever asks for more."""

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    main(["pretrain", *TINY, f"--data={pictures}", f"--out={tmp_path / 'run'}"])
    for reader in ("odis.data.loader.decode", "odis.inference.queries.load_image"):
        monkeypatch.setattr(reader, kill)
    arguments = {
        "pretrain": [*TINY, f"--data={pictures}", "--loader.workers=2"],
        "embed": [f"--model={tmp_path / 'run'}", str(pictures), "--workers=2"],
    }[command]
    with pytest.raises(SystemExit) as stop:
        main([command, *arguments, f"--out={tmp_path / 'out'}"])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"odis {command}: ")
    assert "DataLoader worker" in last
    assert "fewer workers" in last


def test_a_warning_of_odis_is_one_line(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Others are shown as usual, with the line of source that they are of."""

    def warn(rest: list[str]) -> None:
        for category in (OdisWarning, UserWarning):
            sys.stderr.write(warnings.formatwarning("3 GiB are full", category, __file__, 1))

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # restored afterwards
    monkeypatch.setattr("odis.cli._index", warn)
    main(["index"])
    own, *other = capsys.readouterr().err.splitlines()
    assert own == "warning: 3 GiB are full"
    assert other[0] == f"{__file__}:1: UserWarning: 3 GiB are full"
