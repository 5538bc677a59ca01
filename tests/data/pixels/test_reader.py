"""The reader asks caches in the order of `loader.keep`, the file last, and keeps an image in those asked
before.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from odis.config.training import LoaderConfig, ViewsConfig
from odis.data.pixels import reader as reader_module
from odis.data.pixels.decode import Decoded, decode
from odis.data.pixels.device import CacheRef
from odis.data.pixels.reader import ImageReader, make_folders
from odis.errors import ConfigError, DataError

SIZE = (1404, 1001)
VIEWS = ViewsConfig(global_size=64, local_size=32)  # an image of SIZE is copied at half its size


@pytest.fixture
def photo(tmp_path: Path) -> str:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8))
    small.resize(SIZE, Image.Resampling.BICUBIC).save(tmp_path / "a.jpg")
    return str(tmp_path / "a.jpg")


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often a file was decoded, by shrink."""
    read: Counter[int] = Counter()

    def counted(path: str, size: tuple[int, int], shrink: int, *more: Any) -> Decoded:
        read[shrink] += 1
        return decode(path, size, shrink, *more)

    monkeypatch.setattr(reader_module, "decode", counted)
    return read


def reader(*keep: str, views: ViewsConfig = VIEWS) -> ImageReader:
    render = "device" if any(place.startswith("device") for place in keep) else "cpu"
    return ImageReader(LoaderConfig(keep=list(keep), render=render), views, 3)


def same(a: Decoded, b: Decoded) -> bool:
    return torch.equal(a.pixels, b.pixels) and (a.shrink, a.offset) == (b.shrink, b.offset)


def test_without_a_cache_every_image_comes_from_its_file(photo: str, files: Counter[int]):
    images, expected = reader(), decode(photo, SIZE, 4)
    for _ in range(2):
        assert same(images.read(0, photo, SIZE, 4), expected)
    assert files == {4: 2}
    assert images.device is None
    assert not images.in_memory


def test_memory_keeps_each_shrink_of_each_row(photo: str, files: Counter[int]):
    images = reader("memory")
    assert images.in_memory
    for row, shrink in ((0, 1), (0, 4), (1, 4), (0, 1), (1, 4)):
        assert same(images.read(row, photo, SIZE, shrink), decode(photo, SIZE, shrink))
    assert files == {1: 1, 4: 2}


def test_copies_are_of_one_size_whatever_the_views_need(photo: str, tmp_path: Path, files: Counter[int]):
    images = reader(f"disk:{tmp_path / 'copies'}")
    copy = images.read(0, photo, SIZE, 8)
    assert copy.shrink == 4
    assert (copy.pixels.float() - decode(photo, SIZE, 4).pixels.float()).abs().mean() < 2
    assert same(images.read(1, photo, SIZE, 4), copy)
    assert same(reader(f"disk:{tmp_path / 'copies'}").read(2, photo, SIZE, 16), copy)
    assert files == {4: 1}


def test_images_that_are_small_enough_are_not_copied(tmp_path: Path, files: Counter[int]):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(
        small := tmp_path / "b.png"
    )
    images = reader(f"disk:{tmp_path / 'copies'}")
    for _ in range(2):
        assert same(images.read(0, str(small), (60, 50), 1), decode(small, (60, 50), 1))
    assert files == {1: 2}
    assert not [file for file in (tmp_path / "copies").rglob("*") if file.is_file()]


@pytest.mark.parametrize("order", [("memory", "disk"), ("disk", "memory")])
def test_what_is_found_is_kept_by_those_asked_before(
    photo: str, tmp_path: Path, files: Counter[int], order: tuple[str, str]
):
    keep = [f"disk:{tmp_path / 'copies'}" if place == "disk" else place for place in order]
    images = reader(*keep)
    first = images.read(0, photo, SIZE, 4)
    assert same(images.read(0, photo, SIZE, 4), first)
    assert files == {4: 1}
    for copy in (tmp_path / "copies").rglob("*.jpg"):
        copy.unlink()
    assert same(images.read(0, photo, SIZE, 4), first)  # from memory
    assert files == {4: 1}
    assert bool(list((tmp_path / "copies").rglob("*.jpg"))) == (order[0] == "disk"), "copied anew from memory"
    again = reader(*keep)
    assert same(again.read(1, photo, SIZE, 4), first)


def test_an_image_on_the_device_comes_without_pixels(photo: str, files: Counter[int]):
    images = reader("device:1GiB", "memory")
    assert images.device is not None
    first = images.read(0, photo, SIZE, 2)
    assert first.kept_as == 2
    assert not first.pixels.is_meta
    whole = first.pixels.permute(1, 2, 0)
    ref = CacheRef(0, 2, (0, 0, 5, 5), tuple(whole.shape[:2]), first.shrink, first.offset)
    images.device.shown(ref, whole)
    there = images.read(0, photo, SIZE, 2)
    assert there.pixels.is_meta
    assert (there.kept_as, there.shrink, there.offset) == (2, first.shrink, first.offset)
    assert there.pixels.shape == first.pixels.shape
    other = images.read(0, photo, SIZE, 1)
    assert (other.kept_as, other.pixels.is_meta) == (1, False)
    assert files == {1: 1, 2: 1}


def test_memory_before_the_device_is_asked_first(photo: str):
    images = reader("memory", "device:1GiB")
    assert images.read(0, photo, SIZE, 2).kept_as == 2
    assert images.read(0, photo, SIZE, 2).kept_as is None


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    images = reader("memory", f"disk:{tmp_path / 'copies'}")
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    for _ in range(2):
        with pytest.raises(DataError, match=r"a\.jpg: is not an image"):
            images.read(0, str(tmp_path / "a.jpg"), SIZE, 4)
    with pytest.raises(DataError, match=r"none\.jpg: "):
        images.read(0, str(tmp_path / "none.jpg"), SIZE, 4)


def test_folders_are_made_or_refused(tmp_path: Path):
    make_folders(LoaderConfig(keep=["memory", f"disk:{tmp_path / 'a' / 'b'}"]))
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"^loader\.keep: .*file must be a folder that can be written to"):
        make_folders(LoaderConfig(keep=[f"disk:{tmp_path / 'file'}"]))
    make_folders(LoaderConfig())
