"""The commands as a newcomer meets them: help, and mistakes."""

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
from odis.cli import BROKEN_PIPE, main
from odis.errors import OdisWarning
from odis.objects.index import ObjectIndex

COMMANDS = [
    "pretrain", "checkpoint", "index", "objects", "inspect", "embed", "evaluate", "compare", "finetune",
    "export", "benchmark",
    "report", "explore", "scenes", "demo", "slurm", "completion",
]  # fmt: skip

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
    assert {"--out", "--split", "--strict"} <= options("index", "coco")
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
        (
            ["pretain"],
            f"odis pretain: no such command (did you mean pretrain?); there are {', '.join(COMMANDS)}",
        ),
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
        (["index", "coco"], "odis index: the following arguments are required: root"),
        (
            ["index", "cocoa", "."],
            "odis index: cocoa: no such command (did you mean coco?); there are auto, coco, ",
        ),
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
        (
            ["index", "scenes", "s", "--out", "a.parquet"],
            "odis index: scenes: this command is now called odis scenes",
        ),
        (["scenes"], "odis scenes: --out is required"),
        (["scenes", "--out", "s", "--count", "0"], "odis scenes: scenes: count is 0, must be 1 or more"),
        (["scenes", "--out", "s", "--split", "tran"], "odis scenes: scenes: no split 'tran'"),
        (["index", "yolo", ".", "--out", "a.parquet", "--trust"], "odis index: --trust: no such option"),
        (["index", "coco", ".", "--out", "a.parquet", "--count", "3"], "odis index: --count: no such option"),
        (["inspect"], "odis inspect: the following arguments are required: index"),
        (["inspect", "x"], "odis inspect: --out is required"),
        (["inspect", "x", "--out", "a.png"], "odis inspect: x: no such file or folder"),
        (
            ["evaluate", "lineal"],
            "odis evaluate: lineal: no such evaluation (did you mean linear?); there are knn, linear, "
            "transfer, ",
        ),
        (["evaluate", "linear"], "odis evaluate: --model is required"),
        (["evaluate", "segment", "--model", "x"], "odis evaluate: --train is required"),
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
        (["explore"], "odis explore: the following arguments are required: runs"),
        (["explore", "x"], "odis explore: --data is required"),
        (["explore", "x", "--data", "y", "--port", "0"], "odis explore: port 0 must be from 1 to 65535"),
        (["explore", "x", "--data", "y"], "odis explore: y: no such file or folder"),
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
            ["scenes", "--out", "s", "--seed", "-1"],
            "odis scenes: seed: is -1, must be 0 or more",
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


@pytest.mark.parametrize("command", ["pretrain", "embed"])
def test_a_killed_data_worker_is_one_line(command, pictures, tmp_path, monkeypatch, capsys):
    """As when memory runs out: the system kills whoever asks for more."""

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    main(["pretrain", *TINY, f"--data={pictures}", f"--out={tmp_path / 'run'}"])
    for reader in ("odis.data.pixels.reader.decode", "odis.inference.queries.load_pixels"):
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
    """Those of libraries too: with the library's name, and no longer than can be read."""

    def warn(arguments: list[str]) -> None:
        for category in (OdisWarning, UserWarning):
            sys.stderr.write(warnings.formatwarning("3 GiB are full", category, __file__, 1))
        inside = "/usr/lib/python3/site-packages/torch/nn/modules/linear.py"
        sys.stderr.write(warnings.formatwarning("x " * 300, FutureWarning, inside, 1, "code()"))
        one_file = "/usr/lib/python3/site-packages/typing_extensions.py"
        sys.stderr.write(warnings.formatwarning("old", DeprecationWarning, one_file, 1))

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # restored afterwards
    monkeypatch.setattr("odis.cli.run", warn)
    main(["index"])
    own, other, long, single = capsys.readouterr().err.splitlines()
    assert own == "warning: 3 GiB are full"
    assert other == "warning: test_cli: 3 GiB are full"
    assert long == f"warning: torch: {'x ' * 100}..."
    assert single == "warning: typing_extensions: old"


# --- a reader that goes away, and Ctrl-C
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [["--version"], ["--help"], ["pretrain", "--help"], ["index", "stats", "{index}"], ["evaluate", "knn"]],
    ids=" ".join,
)
def test_output_that_nobody_reads_is_no_error(pictures: Path, command: list[str]) -> None:
    """`odis ... | head`: silent, with the code of a program that SIGPIPE ends."""
    index = pictures.parent / "index.parquet"
    main(["index", "folder", str(pictures), "--out", str(index)])
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [word.format(index=index) for word in command]
    odis = [sys.executable, "-m", "odis", *arguments]
    done = subprocess.run(odis, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    if command[:1] == ["evaluate"]:  # an error is one all the same
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        return
    assert done.stderr == ""
    assert done.returncode in ((0, BROKEN_PIPE) if command[-1] == "--help" else (BROKEN_PIPE,))


def test_a_pipe_that_broke_elsewhere_is_an_error(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(arguments: list[str]) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("odis.cli.run", breaks)
    assert refused(capsys, "embed") == "odis embed: Broken pipe"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=["python", "torch", "cuda"],
)
def test_too_little_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: Exception
) -> None:
    def fail(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr("odis.cli.run", fail)
    with pytest.raises(SystemExit) as end:
        main(["pretrain"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("odis pretrain: there is not enough memory; give it a smaller batch")
