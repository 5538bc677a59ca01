"""DiskCache of large images: how small they may be, that what is read does not depend on them, and what goes
wrong with files.
"""

import math
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.config.training import LoaderConfig, ObjectsConfig, PretrainConfig, ViewsConfig
from odis.data.geometry.crops import propose_crops
from odis.data.loader import ViewDataset
from odis.data.pixels.decode import LARGE, Decoded, decode, needed_shrink
from odis.data.pixels.disk import DiskCache, are_large, guaranteed_shrink
from odis.errors import ConfigError, DataError
from odis.objects.index import ObjectIndex, write_index
from odis.types import Crop, ImageObjects

SIZE = (1404, 1001)  # not a multiple of 8: EXIF orientations that mirror have an offset


def a_photo(path: Path, *, orientation: int = 1, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Smooth, as photographs of many megapixels are; stored so that the turned picture has `size`."""
    rng = np.random.default_rng(seed)
    width, height = size if orientation < 5 else size[::-1]
    small = Image.fromarray(rng.integers(0, 256, (12, 17, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    small.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=92, exif=exif)
    return path


def same(a: Decoded, b: Decoded) -> bool:
    return torch.equal(a.pixels, b.pixels) and (a.shrink, a.offset) == (b.shrink, b.offset)


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([(0.25, 1.0), (0.05, 0.25), (0.9, 1.0)]),
    st.sampled_from([(0.75, 4 / 3), (0.5, 0.6), (1.5, 3.0)]), st.integers(0, 10**6),
)  # fmt: skip
def test_no_crop_needs_more_than_a_copy_has(width, height, scale, ratio, seed):
    views = ViewsConfig(global_scale=scale, ratio=ratio, local_views=0)
    sure = guaranteed_shrink(width, height, views)
    crops = propose_crops(np.random.default_rng(seed), width, height, (50,), scale, ratio)
    boxes = [Crop(*map(int, crop)) for crop in crops]
    assert sure == 1 or needed_shrink(width, height, boxes, [views.global_size] * 50) >= sure
    assert sure & (sure - 1) == 0


def test_how_small_copies_are():
    views = ViewsConfig()
    assert guaranteed_shrink(6000, 4000, views) == 8
    assert guaranteed_shrink(3264, 2448, views) == 4
    assert guaranteed_shrink(1280, 1024, views) == 2
    assert guaranteed_shrink(1023, 1024, views) == 1
    assert guaranteed_shrink(6000, 4000, replace(views, global_size=448)) == 4
    assert guaranteed_shrink(6000, 4000, replace(views, local_scale=(0.001, 0.25))) == 1
    assert guaranteed_shrink(6000, 4000, replace(views, local_scale=(0.001, 0.25), local_views=0)) == 8
    assert guaranteed_shrink(30000, 100, views) == 1  # no view of it is large


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shrink", [2, 4, 16])
def test_a_copy_is_the_shrunk_image_but_for_what_a_jpeg_loses(tmp_path: Path, orientation: int, shrink: int):
    photo = a_photo(tmp_path / "a.jpg", orientation=orientation)
    copies = DiskCache(tmp_path / "copies")
    first, again = (copies.load(photo, SIZE, shrink) for _ in range(2))
    expected = decode(photo, SIZE, shrink)
    assert same(first, again)
    assert (first.shrink, first.offset, first.pixels.shape) == (
        expected.shrink,
        expected.offset,
        expected.pixels.shape,
    )
    assert (first.pixels.float() - expected.pixels.float()).abs().mean() < 2
    assert len(files(tmp_path / "copies")) == 1


def test_other_formats_and_colours(tmp_path: Path):
    with Image.open(a_photo(tmp_path / "a.jpg")) as image:
        for name, mode in (
            ("a.png", "RGB"),
            ("grey.png", "L"),
            ("alpha.png", "RGBA"),
            ("palette.png", "P"),
            ("cmyk.tif", "CMYK"),
        ):
            image.convert(mode).save(tmp_path / name)
            copies = DiskCache(tmp_path / "copies")
            found, expected = copies.load(tmp_path / name, SIZE, 2), decode(tmp_path / name, SIZE, 2)
            assert same(found, copies.load(tmp_path / name, SIZE, 2))
            lost = (found.pixels.float() - expected.pixels.float()).abs().mean()
            assert lost < (4 if mode == "P" else 2), (
                name
            )  # a palette is dithered: noise, of which a JPEG loses more


def test_a_copy_is_read_and_the_image_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    photo, copies = a_photo(tmp_path / "a.jpg"), DiskCache(tmp_path / "copies")
    first = copies.load(photo, SIZE, 4)
    monkeypatch.setattr("odis.data.pixels.disk.load_scaled", lambda *_: pytest.fail("read again"))
    assert same(first, DiskCache(tmp_path / "copies").load(photo, SIZE, 4))


def test_what_makes_another_copy(tmp_path: Path):
    photo, copies = a_photo(tmp_path / "a.jpg"), DiskCache(tmp_path / "copies")
    before = copies.load(photo, SIZE, 4)
    copies.load(photo, SIZE, 2)
    assert len(files(tmp_path / "copies")) == 2
    a_photo(photo, seed=1)
    os.utime(photo, ns=(1, 1))
    after = copies.load(photo, SIZE, 4)
    assert not torch.equal(before.pixels, after.pixels)
    assert len(files(tmp_path / "copies")) == 3
    with pytest.raises(DataError, match=r"a.jpg: is 1404 x 1001 pixels, but its objects are for 1400 x 1001"):
        copies.load(photo, (1400, 1001), 4)


@pytest.mark.parametrize(
    "harm", [lambda b: b"", lambda b: b[:100], lambda b: b[:-500], lambda b: b"\0" * len(b), lambda b: b[-4:]]
)
def test_a_broken_copy_is_made_anew(tmp_path: Path, harm):
    photo, copies = a_photo(tmp_path / "a.jpg"), DiskCache(tmp_path / "copies")
    first = copies.load(photo, SIZE, 4)
    (file,) = files(tmp_path / "copies")
    assert file.suffix == ".jpg"
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    assert same(first, copies.load(photo, SIZE, 4))
    assert file.read_bytes() == whole


def test_images_that_cannot_be_read_are_named_as_ever(tmp_path: Path):
    copies = DiskCache(tmp_path / "copies")
    with pytest.raises(DataError, match=r"none.jpg: "):
        copies.load(tmp_path / "none.jpg", SIZE, 4)
    whole = a_photo(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a.jpg: cannot be decoded"):
        copies.load(tmp_path / "a.jpg", SIZE, 4)
    assert files(tmp_path / "copies") == []


def test_a_folder_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"loader.copies: .*file must be a folder that can be written to"):
        DiskCache(tmp_path / "file")


def test_a_disk_that_is_full_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    photo, copies = a_photo(tmp_path / "a.jpg"), DiskCache(tmp_path / "copies")
    expected = copies.load(photo, SIZE, 4)
    shutil.rmtree(tmp_path / "copies")
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        write(self, data[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    (tmp_path / "copies").mkdir()
    with pytest.warns(UserWarning, match="cannot be written .No space left on device.; training goes on"):
        assert same(expected, copies.load(photo, SIZE, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # said once
        assert same(expected, copies.load(photo, SIZE, 4))
    assert files(tmp_path / "copies") == []


@pytest.mark.parametrize("cache", [False, True])
def test_views_are_those_of_the_first_epoch_whatever_is_kept(tmp_path: Path, cache: bool):
    (tmp_path / "images").mkdir()
    a_photo(tmp_path / "images" / "large.jpg")
    a_photo(tmp_path / "images" / "small.jpg", size=(300, 200))
    a_photo(tmp_path / "images" / "turned.jpg", orientation=6, seed=2, size=(1100, 1500))
    assert math.prod(SIZE) > LARGE
    index = ObjectIndex.open(tmp_path / "images")
    views = ViewsConfig(global_size=64, local_size=32, local_views=3)

    def dataset(copies: Path | None) -> ViewDataset:
        loader = LoaderConfig(copies=None if copies is None else str(copies), cache=cache)
        return ViewDataset(
            index, PretrainConfig(data="x", objects=ObjectsConfig(use=False), views=views, loader=loader), 16
        )

    fresh, plain = dataset(tmp_path / "copies"), dataset(None)
    keys = [(epoch, row) for epoch in range(2) for row in range(3)]
    ours = [fresh[key] for key in keys]
    assert len(files(tmp_path / "copies")) == 2  # small.jpg is as small as it is
    again = [dataset(tmp_path / "copies")[key] for key in keys]
    for a, b, c in zip(ours, again, (plain[key] for key in keys), strict=True):
        for x, y, z in zip(
            a.global_views + a.local_views,
            b.global_views + b.local_views,
            c.global_views + c.local_views,
            strict=True,
        ):
            assert torch.equal(x.pixels, y.pixels)
            assert x.crop == z.crop
            assert (x.pixels - z.pixels).abs().mean() < 0.1


@pytest.mark.parametrize(("sizes", "expected"), [
    ([(6000, 4000)], True), ([(3600, 2700)], True), ([(1600, 1200)], False), ([(500, 375)] * 9, False),
    ([(6000, 4000)] * 3 + [(500, 375)] * 2, True), ([(6000, 4000)] * 2 + [(500, 375)] * 2, False),
    ([(500, 375)] * 400 + [(6000, 4000)] * 600, True), ([(500, 375)] * 600 + [(6000, 4000)] * 400, False),
], ids=str)  # fmt: skip
def test_whether_images_are_large_is_seen_of_some(
    tmp_path: Path, sizes: list[tuple[int, int]], expected: bool
):
    rows = [ImageObjects(f"{k}.jpg", *size) for k, size in enumerate(sizes)]
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=[])
    assert are_large(ObjectIndex.open(tmp_path / "i.parquet"), ViewsConfig()) is expected


def test_files_that_are_no_images_are_not_large(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    assert not are_large(ObjectIndex.open(tmp_path), ViewsConfig())
    a_photo(tmp_path / "b.jpg")
    assert are_large(ObjectIndex.open(tmp_path), ViewsConfig(global_size=32, local_size=16))
