"""TIFF files of many channels: by their axes, whatever the order on disk; what is not read is counted."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from odis.config.pixels import PixelFormat
from odis.data.pixels.decode import decode
from odis.errors import DataError
from odis.objects.clean import Unread, usable_size
from odis.objects.images import header_sizes, load_image
from odis.objects.pixels import load_picture, load_pixels, load_raw
from odis.types import Skipped

VALUES = np.random.default_rng(0).integers(0, 4096, (5, 6, 9)).astype(np.uint16)  # (C, H, W)
LAST = VALUES.transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("name", "options", "layout"),
    [
        ("planar", {"photometric": "minisblack", "planarconfig": "separate"}, VALUES),
        ("contiguous", {"photometric": "minisblack", "planarconfig": "contig"}, LAST),
        ("pages", {"photometric": "minisblack", "metadata": None}, VALUES),
        ("big", {"photometric": "minisblack", "planarconfig": "separate", "bigtiff": True}, VALUES),
        ("deflate", {"photometric": "minisblack", "compression": "zlib"}, VALUES),
        ("motorola", {"photometric": "minisblack", "byteorder": ">"}, VALUES),
        ("imagej", {"imagej": True, "metadata": {"axes": "CYX"}}, VALUES),
        ("x.ome", {"metadata": {"axes": "CYX"}}, VALUES),
    ],
)
def test_five_channels_are_five_whatever_the_order_on_disk(
    tmp_path: Path, name: str, options: dict, layout: np.ndarray
) -> None:
    tifffile.imwrite(path := tmp_path / f"{name}.tif", layout, **options)
    assert header_sizes(path) == [(9, 6)]
    assert np.array_equal(load_raw(path, (9, 6)).values, LAST)
    five = PixelFormat(5, ((0.0, 4095.0),))
    expected = np.rint(LAST * (255.0 / 4095)).astype(np.uint8)
    assert np.array_equal(load_pixels(path, (9, 6), five), expected)
    assert np.array_equal(load_pixels(path, (9, 6), five, path.read_bytes()), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_colours_and_opacity_of_every_type(tmp_path: Path, kind: type) -> None:
    values = (np.random.default_rng(1).random((6, 9, 4)) * 100).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    raw = load_raw(tmp_path / "a.tif")
    assert np.array_equal(raw.values, values)
    assert (raw.order, raw.alpha) == ("colour", True)
    three = load_pixels(tmp_path / "a.tif", None, PixelFormat(3, ((0.0, 100.0),)))
    exact = values[..., :3].astype(np.float64) * 2.55
    assert np.abs(three - exact).max() <= 0.5 + 1e-4


def test_bits_that_the_file_states_are_its_range(tmp_path: Path) -> None:
    """Twelve bits by OME-XML, and by the tag of the largest value: white is white without a setting."""
    white = np.full((1, 4, 5), 4095, np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", white, metadata={"axes": "CYX", "SignificantBits": 12})
    tifffile.imwrite(tmp_path / "b.tif", white, extratags=[(281, 3, 1, 4095, True)], metadata=None)
    for name in ("a.ome.tif", "b.tif"):
        assert (load_pixels(tmp_path / name, None, PixelFormat(1)) == 255).all()
        # Of three channels without a range Pillow is asked, which has no more than the type.
        assert (load_pixels(tmp_path / name) == round(4095 * 255 / 65535)).all()
        assert (load_pixels(tmp_path / name, None, PixelFormat(3, ((0.0, 4095.0),))) == 255).all()


@pytest.mark.parametrize(("name", "options"), [
    ("a.tif", {"photometric": "minisblack", "planarconfig": "separate"}), ("a.ome.tif", {}),
])  # fmt: skip
def test_a_file_is_opened_once_to_see_what_it_is_and_once_to_read_it(
    tmp_path: Path, opens: Counter[str], name: str, options: dict
) -> None:
    tifffile.imwrite(tmp_path / name, VALUES, metadata={"axes": "CYX"}, **options)
    tifffile.imwrite(tmp_path / "b.tif", VALUES[0].astype(np.uint8), compression="zlib")
    opens.clear()
    decode(tmp_path / name, (9, 6), form=PixelFormat(5))
    assert opens == {name: 2}
    load_picture(tmp_path / name)
    assert opens == {name: 4}
    load_pixels(tmp_path / "b.tif", form=PixelFormat(1))  # which is Pillow's
    assert opens["b.tif"] == 2
    with pytest.raises(DataError, match="is 9 x 6 pixels, but its objects are for 9 x 5"):
        decode(tmp_path / name, (9, 5), form=PixelFormat(5))


def test_planes_that_are_no_channels_are_counted(tmp_path: Path) -> None:
    stack = np.arange(2 * 3 * 5 * 6 * 7, dtype=np.uint16).reshape(2, 3, 5, 6, 7)
    tifffile.imwrite(path := tmp_path / "a.ome.tif", stack, metadata={"axes": "TZCYX"})
    assert np.array_equal(load_raw(path).values, stack[0, 0].transpose(1, 2, 0))
    passed: list[Skipped] = []
    assert usable_size(path, passed.append) == (7, 6)
    kinds = {one.why: one.count for one in passed if isinstance(one, Unread)}
    assert sum(count for kind, count in kinds.items() if "further" in kind) >= 5


def test_a_plain_stack_is_its_first_page_unless_it_has_as_many_as_there_are_channels(tmp_path: Path) -> None:
    tifffile.imwrite(path := tmp_path / "a.tif", VALUES, photometric="minisblack", metadata=None)
    one = load_pixels(path, None, PixelFormat(1, ((0.0, 4095.0),)))
    assert np.array_equal(one[..., 0], np.rint(VALUES[0] * (255.0 / 4095)).astype(np.uint8))
    with pytest.raises(DataError, match=r"has 1 channel, but views.channels is 4"):
        load_pixels(path, None, PixelFormat(4))


def test_parts_of_a_set_of_files_are_read_once_and_missing_ones_are_an_error(tmp_path: Path) -> None:
    """Two channels in two files, as OME-XML names them: the first stands for both."""
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
        'DimensionOrder="XYCZT" ID="Pixels:0" SizeC="2" SizeT="1" SizeX="9" SizeY="6" SizeZ="1" '
        'Type="uint16">'
        + "".join(
            f'<TiffData FirstC="{c}" FirstT="0" FirstZ="0" IFD="0" PlaneCount="1"><UUID '
            f'FileName="{c}.ome.tif">urn:uuid:{c}</UUID></TiffData>'
            for c in range(2)
        )
        + "</Pixels></Image></OME>"
    )
    for c in range(2):
        tifffile.imwrite(
            tmp_path / f"{c}.ome.tif", VALUES[c], photometric="minisblack", metadata=None,
            description=xml.replace("<OME ", f'<OME UUID="urn:uuid:{c}" '),
        )  # fmt: skip
    assert np.array_equal(load_raw(tmp_path / "0.ome.tif").values, LAST[..., :2])
    with pytest.raises(DataError, match=r"1.ome.tif: is a part of 0.ome.tif, which is read"):
        load_raw(tmp_path / "1.ome.tif")
    (tmp_path / "1.ome.tif").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of its 2 pages"):
        load_raw(tmp_path / "0.ome.tif")


def test_three_channels_are_what_pillow_reads(tmp_path: Path) -> None:
    """And an image of five is refused, not cut, where Pillow knows no such file."""
    colours = np.random.default_rng(2).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    assert np.array_equal(np.array(load_image(tmp_path / "a.tif")), np.array(Image.open(tmp_path / "a.tif")))
    tifffile.imwrite(tmp_path / "b.tif", LAST, photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match=r"b.tif: has 5 channels, but views.channels is 3"):
        load_image(tmp_path / "b.tif")
