"""Training on images behind a server that fails is training on files, bit for bit; a server that is killed
ends it with one line, and the same call goes on.
"""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
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


SECRET = "hunter2-of-the-store"


class S3Server:
    """`tests/s3_server.py`, with one address however often it is started."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, files: dict[str, bytes], dies_at: int = 0) -> None:
        """Begin, with these objects in a bucket called `bucket`."""
        script = Path(__file__).parents[1] / "s3_server.py"
        self._process = subprocess.Popen([sys.executable, str(script), str(self.port), str(dies_at)])
        for _ in range(600):
            with contextlib.suppress(OSError):
                self._put("bucket", b"")
                break
            assert self._process.poll() is None
            time.sleep(0.1)
        for name, data in files.items():
            self._put(f"bucket/{name}", data)

    def counts(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.url}/counts", timeout=20) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _put(self, path: str, data: bytes) -> None:
        kind = {"Content-Type": "application/octet-stream"}  # of a form, moto would take the body apart
        request = urllib.request.Request(f"{self.url}/{path}", data, kind, method="PUT")
        urllib.request.urlopen(request, timeout=20).close()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """moto's S3, named and opened by the environment alone."""
    pytest.importorskip("moto", reason="pip install 'odis[test-remote]'")
    s3fs = pytest.importorskip("s3fs", reason="pip install 'odis[test-remote]'")
    server = S3Server()
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "AKIAODIS",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",  # the client's own; odis asks again
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    yield server
    server.kill()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_run_on_s3_with_one_request_in_a_hundred_failing_is_the_run_on_files(
    s3: S3Server, packed: Path, tmp_path: Path
) -> None:
    import fsspec

    shape = {"train__steps": 20, "train__batch_size": 10}  # 200 images
    files = packed.parent.parent / "images" / "i.parquet"
    s3.start({path.name: path.read_bytes() for path in packed.parent.glob("*.tar")})
    whole = pretrain(config(files, **shape), tmp_path / "files")
    # A store that this process has used and listed must not keep workers, which are forked, from reading.
    assert fsspec.filesystem("s3").ls("bucket") == ["bucket/000000.tar"]
    remote = pretrain(config(packed, "s3://bucket", loader__workers=2, **shape), tmp_path / "remote")
    assert losses(remote) == losses(whole)
    assert (remote / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    counts = s3.counts()
    assert counts["asked"] >= 200
    assert counts["failed"] >= 2
    assert counts["listed"] == 1


def test_a_killed_s3_is_one_line_and_the_run_goes_on_when_it_is_back(
    s3: S3Server, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ATTEMPTS", 3)
    files = {path.name: path.read_bytes() for path in packed.parent.glob("*.tar")}
    s3.start(files, dies_at=22)
    with pytest.raises(UnreachableError, match=r"s3://bucket/000000\.tar.*: cannot be reached") as end:
        pretrain(config(packed, "s3://bucket"), tmp_path / "cut")
    assert "\n" not in str(end.value)
    assert "(3 attempts in" in str(end.value)
    reached = losses(tmp_path / "cut")
    assert list((tmp_path / "cut" / "checkpoints").iterdir())
    s3.kill()
    s3.start(files)
    resumed = pretrain(config(packed, "s3://bucket"), tmp_path / "cut")
    whole = pretrain(config(packed), tmp_path / "whole")
    assert 0 < len(reached) < len(losses(resumed))
    assert losses(resumed) == losses(whole)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    held = [path.read_bytes() for path in (tmp_path / "cut").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in one or b"AKIAODIS" in one for one in [*held, str(end.value).encode()])
