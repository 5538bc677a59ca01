"""Copies on disk: what is read does not depend on which there are, and what goes wrong with files."""

import math
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.config.training import LoaderConfig, ObjectsConfig, PretrainConfig, ViewsConfig
from odis.data.dataset import ViewDataset
from odis.data.pixels import reader
from odis.data.pixels.decode import Decoded, decode
from odis.data.pixels.disk import DiskCache
from odis.data.pixels.reader import ImageReader
from odis.data.pixels.request import ImageRequest
from odis.data.pixels.shrink import LARGE, guaranteed_shrink
from odis.errors import ConfigError, DataError
from odis.objects.index import ObjectIndex

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


# Views that let an image of SIZE shrink by so much.
VIEWS = {
    shrink: ViewsConfig(global_size=round(690 / shrink), local_views=0, global_scale=(0.5, 1.0))
    for shrink in (2, 4, 16)
}


class Copies:
    """A reader with a folder of copies alone, asked as if some view needed images shrunk by `shrink`."""

    def __init__(self, folder: Path) -> None:
        loader = LoaderConfig(keep=[f"disk:{folder}"])
        self.readers = {shrink: ImageReader(loader, views, 1) for shrink, views in VIEWS.items()}

    def load(self, path: Path, size: tuple[int, int], shrink: int) -> Decoded:
        return self.readers[shrink].read(0, str(path), size, shrink)


def same(a: Decoded, b: Decoded) -> bool:
    return torch.equal(a.pixels, b.pixels) and (a.shrink, a.offset) == (b.shrink, b.offset)


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shrink", [2, 4, 16])
def test_a_copy_is_the_shrunk_image_but_for_what_a_jpeg_loses(tmp_path: Path, orientation: int, shrink: int):
    photo = a_photo(tmp_path / "a.jpg", orientation=orientation)
    copies = Copies(tmp_path / "copies")
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
            copies = Copies(tmp_path / "copies")
            found, expected = copies.load(tmp_path / name, SIZE, 2), decode(tmp_path / name, SIZE, 2)
            assert same(found, copies.load(tmp_path / name, SIZE, 2))
            lost = (found.pixels.float() - expected.pixels.float()).abs().mean()
            assert lost < (4 if mode == "P" else 2), (
                name
            )  # a palette is dithered: noise, of which a JPEG loses more


def test_a_copy_is_read_and_the_image_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    photo, copies = a_photo(tmp_path / "a.jpg"), Copies(tmp_path / "copies")
    first = copies.load(photo, SIZE, 4)
    monkeypatch.setattr(reader, "decode", lambda *_: pytest.fail("read again"))
    assert same(first, Copies(tmp_path / "copies").load(photo, SIZE, 4))


def test_what_makes_another_copy(tmp_path: Path):
    photo, copies = a_photo(tmp_path / "a.jpg"), Copies(tmp_path / "copies")
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
    photo, copies = a_photo(tmp_path / "a.jpg"), Copies(tmp_path / "copies")
    first = copies.load(photo, SIZE, 4)
    (file,) = files(tmp_path / "copies")
    assert file.suffix == ".jpg"
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    assert same(first, copies.load(photo, SIZE, 4))
    assert file.read_bytes() == whole


def test_images_that_cannot_be_read_are_named_as_ever(tmp_path: Path):
    copies = Copies(tmp_path / "copies")
    with pytest.raises(DataError, match=r"none.jpg: "):
        copies.load(tmp_path / "none.jpg", SIZE, 4)
    whole = a_photo(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a.jpg: cannot be decoded"):
        copies.load(tmp_path / "a.jpg", SIZE, 4)
    assert files(tmp_path / "copies") == []


def test_a_folder_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"loader.keep: .*file must be a folder that can be written to"):
        DiskCache(tmp_path / "file", VIEWS[4])


def test_a_disk_that_is_full_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    photo, copies = a_photo(tmp_path / "a.jpg"), Copies(tmp_path / "copies")
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


@pytest.mark.parametrize("keep", ["disk", "memory disk", "disk memory"])
def test_views_are_those_of_the_first_epoch_whatever_is_kept(tmp_path: Path, keep: str):
    (tmp_path / "images").mkdir()
    a_photo(tmp_path / "images" / "large.jpg")
    a_photo(tmp_path / "images" / "small.jpg", size=(300, 200))
    a_photo(tmp_path / "images" / "turned.jpg", orientation=6, seed=2, size=(1100, 1500))
    assert math.prod(SIZE) > LARGE
    index = ObjectIndex.open(tmp_path / "images")
    views = ViewsConfig(global_size=64, local_size=32, local_views=3)

    def dataset(copies: Path | None) -> ViewDataset:
        entries = [entry.replace("disk", f"disk:{copies}") for entry in keep.split()]
        loader = LoaderConfig(keep=[] if copies is None else entries)
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


def test_copies_of_other_channels_lose_nothing(tmp_path: Path) -> None:
    """And they are other files than those of the same image in other channels or ranges."""
    size, rng = (4000, 3000), np.random.default_rng(0)
    (tmp_path / "a.tif").write_bytes(b"only its name and size are asked for")
    five = ViewsConfig(channels=5, value_ranges=((0.0, 4095.0),), global_size=96, local_size=48)
    shrink = guaranteed_shrink(*size, five)
    assert shrink > 1
    pixels = rng.integers(0, 256, (-(-size[1] // shrink), -(-size[0] // shrink), 5), dtype=np.uint8)
    request = ImageRequest(0, str(tmp_path / "a.tif"), size, shrink)
    copies = DiskCache(tmp_path / "copies", five)
    put = copies.put(request, Decoded(torch.from_numpy(pixels).permute(2, 0, 1), shrink))
    again = copies.get(request)
    assert again is not None
    for found in (put, again):
        assert np.array_equal(found.pixels.permute(1, 2, 0).numpy(), pixels)
        assert (found.shrink, found.offset) == (shrink, (0.0, 0.0))
    for other in (replace(five, value_ranges=None), replace(five, channels=3)):
        assert DiskCache(tmp_path / "copies", other).get(request) is None
    (kept,) = (one for one in (tmp_path / "copies").rglob("*.zlib"))
    kept.write_bytes(kept.read_bytes()[:-20])
    assert copies.get(request) is None  # a broken copy is made anew
