"""The folder of fetched images: what was put in, never more than its size, and seldom counted."""

import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.objects.storage import byte_cache
from odis.objects.storage.byte_cache import BINS, ByteCache


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were gone through."""
    found: list[str] = []
    scandir = os.scandir

    def counted(folder: Any) -> Any:
        found.append(str(folder))
        return scandir(folder)

    monkeypatch.setattr(byte_cache.os, "scandir", counted)
    return found


def test_the_cache_gives_back_what_it_was_given_and_stays_small(tmp_path: Path) -> None:
    cache = ByteCache(tmp_path, BINS * 1000)
    for k in range(200):
        cache.put(f"s3://b/{k}", bytes([k]) * 300)
        assert cache.get(f"s3://b/{k}") == bytes([k]) * 300
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) <= BINS * 1000
    cache.put("s3://b/large", bytes(2000))
    assert cache.get("s3://b/large") is None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_cache, "BINS", 1)
    cache = ByteCache(tmp_path, 1100)  # a tenth more than what shall stay is let go
    for k in range(3):
        cache.put(f"s3://b/{k}", bytes(300))
        os.utime(cache._file(f"s3://b/{k}"), (k + 1, k + 1))
    assert cache.get("s3://b/0") is not None  # used now
    cache.put("s3://b/3", bytes(300))
    assert [k for k in range(4) if cache.get(f"s3://b/{k}")] == [0, 2, 3]


def test_a_folder_with_room_is_counted_once_and_a_full_one_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scans: list[str]
) -> None:
    monkeypatch.setattr(byte_cache, "BINS", 1)
    cache = ByteCache(tmp_path, 100_000)
    for k in range(90):
        cache.put(f"s3://b/{k}", bytes(1000))
    assert len(scans) == 1
    for k in range(90, 290):  # a tenth are some ten images
        cache.put(f"s3://b/{k}", bytes(1000))
        looked = len(scans)
        assert size_of(tmp_path) <= 100_000
        del scans[looked:]  # by this test
    assert 2 <= len(scans) <= 1 + 200 // 9
    assert sum(cache.get(f"s3://b/{k}") is not None for k in range(290)) >= 85


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "killed", "deleted", "note", "again"]), st.integers(0, 9)),
        max_size=60,
    )
)
def test_the_folder_stays_small_whatever_happens_to_it(
    tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, int]]
) -> None:
    folder, most = tmp_path_factory.mktemp("kept"), 2000 * BINS
    cache = ByteCache(folder, most)
    for what, k in done:
        address = f"s3://b/{k}"
        file = cache._file(address)
        if what == "put":
            cache.put(address, bytes([k]) * (100 + 90 * k))
            assert cache.get(address) == bytes([k]) * (100 + 90 * k)
        elif what == "killed":
            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
                patch.setattr(byte_cache, "written_whole", _killed)
                cache.put(address, bytes(500))
        elif what == "deleted":
            file.unlink(missing_ok=True)
        elif what == "note" and file.parent.is_dir():
            (file.parent / ".lock").write_bytes(bytes(2 * k))
        elif what == "again":
            cache = ByteCache(folder, most)
        assert size_of(folder) <= most


@contextlib.contextmanager
def _killed(file: Path, **options: Any) -> Iterator[Path]:
    yield file.parent / f".{file.name}.{next(_names):08d}.partial"
    raise KeyboardInterrupt


_names = itertools.count()


def test_processes_that_share_a_folder_keep_it_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_cache, "BINS", 1)
    cache = ByteCache(tmp_path, 20_000)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        sizes = pool.starmap_async(_fill, [(cache, tmp_path, k) for k in range(4)]).get(timeout=60)
    assert max(sizes) <= 20_000


def _fill(cache: ByteCache, folder: Path, worker: int) -> int:
    """The size after each image, at most. A file that another process removes meanwhile counts nothing."""
    most = 0
    for k in range(60):
        cache.put(f"s3://{worker}/{k}", os.urandom(900))
        with byte_cache._alone(folder / "00"):
            most = max(most, size_of(folder))
    return most
