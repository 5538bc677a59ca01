import io
import struct
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from odis.errors import DataError
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.images import header_sizes, image_size, load_image, to_rgb

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)  # 8 wide, 6 high
GREY = RNG.integers(0, 256, (6, 8), dtype=np.uint8)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp"])
def test_lossless_formats_keep_their_pixels(tmp_path: Path, name: str) -> None:
    Image.fromarray(RGB).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    image = load_image(tmp_path / name, (8, 6))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), RGB)
    assert image_size(tmp_path / name) == (8, 6)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(RGB).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    source.save(path)
    image = load_image(path)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(source.convert("RGB")))


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([RGB, np.zeros_like(GREY)])).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), RGB)


def test_a_cmyk_jpeg_opens(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    pixel = np.asarray(load_image(tmp_path / "a.jpg"))[3, 4].astype(int)
    assert pixel[0] > 230
    assert pixel[1:].max() < 25


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 128, 129, 256, 257, 32768, 65407, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    image = np.asarray(load_image(tmp_path / name))
    expected = np.rint(values / 65535 * 255)
    assert np.array_equal(image, np.repeat(expected[:, :, None], 3, axis=2))


def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "wide.tif")
    for name, text in (("float.tif", "floating-point"), ("wide.tif", "32-bit")):
        with pytest.raises(DataError, match=f"{name}.*{text}"):
            load_image(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_orientation_is_applied_as_pillow_does(tmp_path: Path, name: str, orientation: int) -> None:
    path = tmp_path / name
    Image.fromarray(RGB).save(path, exif=exif(orientation))
    with Image.open(path) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    assert image_size(path) == expected.size
    assert np.array_equal(np.asarray(load_image(path)), np.asarray(expected))
    assert np.array_equal(np.asarray(load_image(path, expected.size)), np.asarray(expected))
    if orientation >= 5:
        assert header_sizes(path) == [(6, 8), (8, 6)]
        with Image.open(path) as stored:  # annotated as it is stored: left so
            assert np.array_equal(np.asarray(load_image(path, (8, 6))), np.asarray(stored.convert("RGB")))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_without_meaning_is_ignored(tmp_path: Path, orientation: int) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif(orientation))
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), RGB)


def test_another_size_than_expected_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: is 8 x 6 pixels, but its objects are for 6 x 8"):
        load_image(tmp_path / "a.png", (6, 8))


@pytest.fixture
def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_broken_files_are_named(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "header.jpg").write_bytes(jpeg[:100])
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    assert image_size(tmp_path / "cut.jpg") == (64, 64)
    with pytest.raises(DataError, match=r"cut\.jpg: cannot be decoded \(.*truncated"):
        load_image(tmp_path / "cut.jpg")
    for name, text in (
        ("zero", "is empty"),
        ("text", "not an image"),
        ("header", "not an image"),
        ("missing", "no such file"),
    ):
        for read in (image_size, load_image):
            with pytest.raises(DataError, match=rf"{name}\.jpg: .*{text}"):
                read(tmp_path / f"{name}.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(suffix=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), data=st.data())
def test_damaged_files_are_read_or_refused_never_worse(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, suffix)
    content = bytearray(buffer.getvalue())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.png"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    for read in (image_size, lambda p: load_image(p).mode):
        try:
            answer = str(read(path))
        except DataError as error:
            answer = str(error)
            refused = answer.startswith(f"{path}: ") and "\n" not in answer
        else:
            refused = False
        assert refused or answer == "RGB" or answer.startswith("(")


def test_a_photo_of_many_megapixels_is_read_and_a_larger_one_says_what_to_do(tmp_path: Path) -> None:
    Image.new("1", (10000, 9000)).save(tmp_path / "90.png")
    Image.new("1", (20000, 10000)).save(tmp_path / "200.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(tmp_path / "90.png") == (10000, 9000)
        wanted = "200.png: has 200 megapixels, and 179 are the most that are read; make it smaller, or cut it"
        with pytest.raises(DataError, match=wanted):
            image_size(tmp_path / "200.png")


def test_a_line_without_end_is_refused_from_its_header(tmp_path: Path) -> None:
    Image.new("1", (2**20, 1)).save(tmp_path / "most.png")
    Image.new("1", (1, 2**20 + 1)).save(tmp_path / "more.png")
    assert image_size(tmp_path / "most.png") == (2**20, 1)
    for read in (image_size, load_image):
        with pytest.raises(
            DataError, match=r"more\.png: is 1 x 1,048,577 pixels, and a side has at most 1,048"
        ):
            read(tmp_path / "more.png")


def test_pillow_is_quiet_in_threads_and_nothing_else_is() -> None:
    def work(k: int) -> None:
        with quiet_pillow():
            warnings.warn_explicit("raw", UserWarning, "TiffImagePlugin.py", k, "PIL.TiffImagePlugin")
            warnings.warn_explicit(f"own {k}", UserWarning, "x.py", k, "odis.x")

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(200)))
        assert warnings.filters == before
    assert {str(w.message) for w in seen} == {f"own {k}" for k in range(200)}


def test_broken_exif_is_read_without_a_warning(tmp_path: Path) -> None:
    # A directory that says twelve entries and holds one: the orientation is there.
    cut = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 12) + struct.pack("<HHII", 0x0112, 3, 1, 6)
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=cut)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert header_sizes(tmp_path / "a.jpg")[-1] == (8, 6)
        assert load_image(tmp_path / "a.jpg").size in [(8, 6), (6, 8)]


def test_a_large_image_of_16_bits_takes_little_more_than_its_pixels(tmp_path: Path) -> None:
    """As int64 at once it took 25 bytes a pixel: 4 GB of a PNG of 300 kB."""
    side = 3000
    Image.fromarray(np.full((side, side), 40000, np.uint16)).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        image.load()
        tracemalloc.start()
        try:
            rgb = to_rgb(image, "deep.png")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 6 * side * side
    assert rgb.getpixel((side - 1, side - 1)) == ((40000 * 255 + 32767) // 65535,) * 3
