"""Every flipped bit is found; what other programs wrote, and what odis wrote before, is read as it was."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from odis.errors import DataError
from odis.machine.checksums import (
    DamagedError,
    refuse_compressed,
    seal_archive,
    seal_parquet,
    seal_safetensors,
    verify_archive,
    verify_parquet,
    verify_safetensors,
)
from odis.machine.files import written_whole

TENSORS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.int64)}
TABLE = pa.table({"image": ["a.jpg", "b.jpg"], "width": [4, 5]}).replace_schema_metadata({"classes": "[]"})


def checkpoint(path: Path) -> None:
    with written_whole(path, seal=seal_archive) as beside:
        torch.save({"step": 3, "weights": TENSORS}, beside)


def model(path: Path) -> None:
    about = {"odis": json.dumps({"name": "x"}), "checksum": "crc32:00000000"}
    with written_whole(path, seal=seal_safetensors) as beside:
        save_file(TENSORS, beside, metadata=about)


def table(path: Path) -> None:
    with written_whole(path, seal=seal_parquet) as beside:
        pq.write_table(TABLE, beside)


KINDS = {
    "checkpoint": (checkpoint, verify_archive),
    "model": (model, verify_safetensors),
    "table": (table, verify_parquet),
}
Write, Verify = Callable[[Path], None], Callable[[Path], None]


@pytest.mark.parametrize(("write", "verify"), KINDS.values(), ids=KINDS)
def test_every_flipped_bit_is_found(tmp_path: Path, write: Write, verify: Verify) -> None:
    """Of each byte one bit, so that headers, checksums and marks are met too; and 500 more anywhere."""
    path = tmp_path / "file"
    write(path)
    verify(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(len(whole)), *rng.integers(0, len(whole), 500)]
    for at in places:
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=r"file: is .*damaged|file: is not a Parquet file"):
            verify(path)


@pytest.mark.parametrize(("write", "verify"), KINDS.values(), ids=KINDS)
def test_a_file_that_is_cut_short_is_found(tmp_path: Path, write: Write, verify: Verify) -> None:
    path = tmp_path / "file"
    write(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError):
            verify(path)


def test_readers_of_the_formats_pass_over_the_checksum(tmp_path: Path) -> None:
    for name, (write, _) in KINDS.items():
        write(tmp_path / name)
    for mapped in (False, True):
        state = torch.load(tmp_path / "checkpoint", weights_only=True, mmap=mapped)
        assert state["step"] == 3
        assert torch.equal(state["weights"]["a"], TENSORS["a"])
    assert torch.equal(load_file(tmp_path / "model")["a"], TENSORS["a"])
    with safe_open(tmp_path / "model", "pt") as file:
        assert json.loads(file.metadata()["odis"]) == {"name": "x"}
    found = pq.read_table(tmp_path / "table")
    assert found.equals(TABLE)
    assert found.schema.metadata == TABLE.schema.metadata, "what a program writes again carries no checksum"


def test_a_file_without_a_checksum_is_taken_as_it_is(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / "checkpoint")
    save_file(TENSORS, tmp_path / "model", metadata={"format": "pt"})
    save_file(TENSORS, tmp_path / "bare")
    pq.write_table(TABLE, tmp_path / "table")
    verify_archive(tmp_path / "checkpoint")
    verify_safetensors(tmp_path / "model")
    verify_safetensors(tmp_path / "bare")
    verify_parquet(tmp_path / "table")


def test_the_members_of_an_old_checkpoint_have_checksums(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    torch.save({"weights": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 1234] ^= 4
    path.write_bytes(data)
    assert torch.load(path, weights_only=True), "torch itself sees nothing"
    with pytest.raises(DamagedError, match="is damaged"):
        verify_archive(path)


def test_the_footer_of_a_table_is_verified_without_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "table"
    table(path)
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    verify_parquet(path, rows=False)
    with pytest.raises(DamagedError):
        verify_parquet(path)


def test_an_archive_that_is_larger_in_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """torch reads compressed members: a thousand times the file's size."""
    path = tmp_path / "bomb.pt"
    torch.save({"weights": torch.zeros(2**22)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(path, "w") as bomb:
        for one in plain.infolist():
            bomb.writestr(one.filename, plain.read(one), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**16
    assert len(torch.load(path, weights_only=True)["weights"]) == 2**22
    for check in (verify_archive, refuse_compressed):
        with pytest.raises(DamagedError, match="its members are compressed"):
            check(path)
    refuse_compressed(tmp_path / "plain.pt")
    path.write_bytes(b"no archive")
    refuse_compressed(path)
