"""A file is whole or absent, whatever happens while it is written."""

import json
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from odis.errors import DataError, OdisWarning
from odis.machine import files
from odis.machine.files import (
    SUFFIX,
    check_readable,
    move_whole,
    told_if_slow,
    write_json_whole,
    write_text_whole,
    written_whole,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@contextmanager
def mask(umask: int) -> Iterator[None]:
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writing fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_name_is_taken_when_all_is_written(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out.bin"
    with written_whole(out) as beside:
        beside.write_bytes(b"new")
        assert not out.exists()
        assert beside.parent == out.parent
        assert beside.name.startswith(".")
    assert out.read_bytes() == b"new"
    assert names(out.parent) == ["out.bin"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_an_old_file_stays_if_the_new_one_is_not_finished(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "out.txt"
    out.write_text("old")

    def half() -> None:
        with written_whole(out) as beside:
            beside.write_text("half")
            raise error

    expected = DataError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        half()
    assert out.read_text() == "old"
    assert names(tmp_path) == ["out.txt"]


def test_disk_has_file_and_name_before_it_is_said_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is the point: a name that reaches the disk before its content is an empty file."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def replaced(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_text_whole(tmp_path / "a", "x")
    assert done == ["file", "rename", "folder"]
    done.clear()
    move_whole(tmp_path / "a", tmp_path / "b")
    assert done == ["rename", "folder"]
    assert names(tmp_path) == ["b"]
    done.clear()
    with written_whole(tmp_path / "c", cache=True) as beside:
        beside.write_bytes(b"x")
    assert done == ["rename"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_open_gives(tmp_path: Path, umask: int) -> None:
    with mask(umask):
        (tmp_path / "plain").write_text("x")
        write_text_whole(tmp_path / "whole", "x")
        with written_whole(tmp_path / "model") as beside:
            save_file({"w": torch.zeros(3)}, beside)  # which by itself makes a file for its owner only
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "whole", "model")]
    assert modes == [0o666 & ~umask] * 3


def test_an_old_file_keeps_its_mode(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    out.chmod(0o640)
    write_text_whole(out, "new")
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real").write_text("old")
    (tmp_path / "link").symlink_to(Path("disk") / "real")
    write_text_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "real").read_text() == "new"
    assert names(tmp_path / "disk") == ["real"]


def test_what_is_no_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "file").write_text("x")
    for path, why in (
        (tmp_path, "is a folder"),
        (fifo, "is there and no regular file"),
        (tmp_path / "file" / "below", "File exists"),  # where its folder would be
        (tmp_path / "file" / "far" / "below", "Not a directory"),
    ):
        with pytest.raises(DataError) as refusal, written_whole(path):
            pytest.fail("the block was entered")
        assert str(refusal.value) == f"{path}: cannot be written ({why})"
    assert names(tmp_path) == ["fifo", "file"]


def test_a_full_disk_is_one_line_whoever_writes(tmp_path: Path) -> None:
    table = pa.table({"x": torch.rand(100_000).numpy()})

    def with_torch(path: Path) -> None:
        with path.open("wb") as file:
            torch.save({"w": torch.zeros(100_000)}, file)

    writers = {
        "bytes": (lambda path: path.write_bytes(bytes(500_000)), ()),
        "arrow": (lambda path: pq.write_table(table, path), (pa.ArrowException,)),
        "safetensors": (lambda path: save_file({"w": torch.zeros(100_000)}, path), (SafetensorError,)),
        "torch": (with_torch, (RuntimeError,)),
    }
    for name, (write, errors) in writers.items():
        out = tmp_path / name
        out.write_text("old")
        with (
            full_disk(100_000),
            pytest.raises(DataError, match=rf"{name}: cannot be written \(.*File too large.*\)$") as refusal,
            written_whole(out, errors=errors) as beside,
        ):
            write(beside)
        assert "\n" not in str(refusal.value)
        assert SUFFIX not in str(refusal.value)
        assert out.read_text() == "old"
    assert names(tmp_path) == sorted(writers)


def test_a_folder_that_takes_no_file_is_said_of_the_file_that_was_asked_for() -> None:
    """Also where root is refused, as below /proc."""
    for folder in ("/proc", "/proc/self"):
        if not os.path.isdir(folder):
            pytest.skip("no /proc here")
        with pytest.raises(DataError, match=rf"^{folder}/out\.png: cannot be written \("):
            write_text_whole(f"{folder}/out.png", "x")


def test_what_is_wrong_with_another_file_is_not_said_of_this_one(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(FileNotFoundError) as error, written_whole(tmp_path / "out") as beside:
        beside.write_bytes(gone.read_bytes())
    assert error.value.filename == str(gone)
    assert names(tmp_path) == []


def test_a_name_as_long_as_a_name_may_be(tmp_path: Path) -> None:
    for name in ("n" * 255, "ö" * 127):
        write_text_whole(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"
    assert len(names(tmp_path)) == 2


def _write_often(path: Path, letter: str) -> None:
    for _ in range(50):
        write_text_whole(path, letter * 100_000)


def test_several_processes_may_write_one_target(tmp_path: Path) -> None:
    """Each tidies up what it takes for leftovers, and must not take the others' files for that."""
    out = tmp_path / "out"
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_write_often, args=(out, letter)) for letter in "abc"]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        if out.exists():
            text = out.read_text()
            assert text in {letter * 100_000 for letter in "abc"}
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert names(tmp_path) == ["out"]


KILLED = """
import sys, time
from pathlib import Path
from odis.machine.files import written_whole
with written_whole(sys.argv[1]) as beside:
    beside.write_text("half")
    print("half", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_goes_when_the_file_is_written_again(tmp_path: Path) -> None:
    out = tmp_path / "out[1].txt"
    command = [sys.executable, "-c", KILLED, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(names(tmp_path)) == 1
        write_text_whole(tmp_path / "out", "another target")
        write_text_whole(out, "while it lives")
        assert len([n for n in names(tmp_path) if n.endswith(SUFFIX)]) == 1
        process.send_signal(signal.SIGKILL)
    (left,) = (n for n in names(tmp_path) if n.endswith(SUFFIX))
    write_text_whole(tmp_path / "out", "another target")
    assert left in names(tmp_path)
    write_text_whole(out, "after its death")
    assert names(tmp_path) == ["out", "out[1].txt"]


def test_without_locks_nothing_is_taken_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a file that is held open also cannot be renamed."""
    monkeypatch.setattr(files, "fcntl", None)
    with written_whole(tmp_path / "out") as other:
        other.write_text("second")
        handles = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        write_text_whole(tmp_path / "out", "first")
        assert other.exists()
        assert not handles or len(os.listdir("/proc/self/fd")) == handles
    assert (tmp_path / "out").read_text() == "second"
    assert names(tmp_path) == ["out"]


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(handle: object, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", none)
    with written_whole(tmp_path / "out") as other:
        write_text_whole(tmp_path / "out", "first")
        other.write_text("second")
    assert (tmp_path / "out").read_text() == "second"


def test_a_disk_that_does_not_answer_is_told_of_while_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SLOW", 0.05)
    with warnings.catch_warnings(record=True) as said, told_if_slow(tmp_path, "step 7"):
        until = time.monotonic() + 30
        while not said and time.monotonic() < until:
            time.sleep(0.01)
    (one,) = said
    assert issubclass(one.category, OdisWarning)
    assert str(one.message).startswith(f"{tmp_path}: writing step 7 has taken 0.05 s so far, and goes on")
    monkeypatch.setattr(files, "SLOW", 0.2)
    with warnings.catch_warnings(record=True) as none:
        with told_if_slow(tmp_path, "step 8"):
            pass
        time.sleep(0.4)
    assert none == []


def test_json_is_read_back_as_it_was_also_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xffr\xc3\xa4.jpg")
    value = {"name": name, "é": [1, 2.5, None, True], "lone \\ud": "\\udcff"}
    write_json_whole(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_bytes().decode("utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")
    assert "é" in text


def test_it_is_closed_in_time(tmp_path: Path) -> None:
    """A thousand small files of a cache take no second each, and leave no descriptor open."""
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    start = time.perf_counter()
    for i in range(1000):
        with written_whole(tmp_path / f"{i}.jpg", cache=True) as beside:
            beside.write_bytes(b"x" * 1000)
    assert time.perf_counter() - start < 60
    assert not before or len(os.listdir("/proc/self/fd")) == before
    assert len(names(tmp_path)) == 1000


# --- what this user may not read
# ------------------------------------------------------------------------------------------------------------


def as_nobody(imports: str, code: str) -> str:
    """What a program prints that runs as a user without rights; skipped where it may not become one."""
    if os.geteuid() != 0:
        pytest.skip("needs to be root")
    become = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{become}{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that others may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_an_unreadable_file_is_not_called_missing(shared: Path) -> None:
    for name in ("model.safetensors", "step.pt", "weights.pth", "index.parquet"):
        (shared / name).write_bytes(b"x")
        (shared / name).chmod(0o600)
    (shared / "closed").mkdir(mode=0o700)
    imports = """
from pathlib import Path
from odis.backbones.saved import load_model, load_teacher
from odis.backbones.weights import read_state
from odis.inference import load
from odis.objects.index import ObjectIndex
from odis.train.checkpoint import load_checkpoint
from odis.errors import OdisError"""
    code = f"""
folder = Path({str(shared)!r})
for read, name in (
    (load_model, "model.safetensors"), (load, "model.safetensors"), (load_teacher, "step.pt"),
    (load_checkpoint, "step.pt"), (read_state, "weights.pth"), (ObjectIndex.open, "closed/index.parquet"),
    (load, "closed"), (load, "closed/run"),
):
    try:
        read(folder / name)
    except OdisError as error:
        print(error)
"""
    lines = as_nobody(imports, code).splitlines()
    assert len(lines) == 8
    for line in lines:
        assert line.endswith("cannot be read (Permission denied)"), line


def test_what_is_missing_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_readable(tmp_path / "file")
    check_readable(tmp_path)
    for path in (tmp_path / "none", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=f"^{path}: no such run folder$"):
            check_readable(path, "run folder")
