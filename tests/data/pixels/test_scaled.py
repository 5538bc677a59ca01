"""Scaled decoding: full-size coordinates lie where it says, whatever the orientation, and its rules are those
of the full decode.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.data.pixels.scaled import load_scaled
from odis.errors import DataError
from odis.objects.images import load_image

FORMATS = ["a.jpg", "a.png"]


def ramp(width: int, height: int) -> Image.Image:
    """Red is x, green is y, both in pixels."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], -1).astype(np.uint8))


def save(image: Image.Image, path: Path, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **({"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shrink", [2, 4, 8, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_coordinates_of_the_full_image_lie_where_the_scaled_one_says(tmp_path, name, shrink, orientation):
    path = save(ramp(179, 141), tmp_path / name, orientation)
    full = load_image(path)
    scaled = load_scaled(path, full.size, shrink)
    assert scaled.shrink == shrink
    assert scaled.image.size == tuple(-(-side // shrink) for side in full.size)
    pixels, whole = np.asarray(scaled.image).astype(float), np.asarray(full).astype(float)
    # The mean of the full image over what a scaled pixel covers, where it covers `shrink` pixels each way.
    errors = []
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            x, y = (round((at - offset) * shrink) for at, offset in zip((column, row), scaled.offset))
            if x >= 0 and y >= 0 and x + shrink <= full.width and y + shrink <= full.height:
                errors.append(pixels[row, column] - whole[y : y + shrink, x : x + shrink].mean((0, 1)))
    assert len(errors) >= (179 // shrink) * (141 // shrink)
    assert np.abs(errors).max() < 3  # JPEG's own
    assert (
        np.abs(np.mean(errors, 0)).max() < 0.6
    )  # half a full-size pixel: the least that a wrong offset could be is one


@pytest.mark.parametrize("name", FORMATS)
def test_a_shrink_of_one_is_the_full_decode(tmp_path, name):
    path = save(ramp(50, 40), tmp_path / name, 6)
    assert np.array_equal(
        np.asarray(load_scaled(path, (40, 50), 1).image), np.asarray(load_image(path, (40, 50)))
    )


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_become_rgb(tmp_path, mode):
    path = save(ramp(64, 48).convert(mode), tmp_path / "a.jpg")
    scaled, full = load_scaled(path, (64, 48), 4).image, load_image(path)
    assert scaled.mode == "RGB"
    assert np.abs(np.asarray(scaled).astype(int) - np.asarray(full.reduce(4)).astype(int)).max() <= 3


def test_annotations_of_the_stored_size_leave_it_unturned(tmp_path):
    path = save(ramp(64, 48), tmp_path / "a.jpg", 6)
    assert load_scaled(path, (48, 64), 2).image.size == (24, 32)
    stored = load_scaled(path, (64, 48), 2)
    assert stored.image.size == (32, 24)
    assert stored.offset == (0, 0)
    for shrink in (1, 2):
        with pytest.raises(DataError, match=r"a\.jpg: is 48 x 64 pixels, but its objects are for 64 x 64"):
            load_scaled(path, (64, 64), shrink)


def test_bad_files_are_refused_as_by_the_full_decode(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    path = save(noise, tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[:9000])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.jpg", "empty.jpg", "text.jpg", "missing.jpg"):
        messages = []
        for shrink in (1, 8):
            with pytest.raises(DataError) as caught:
                load_scaled(tmp_path / name, (200, 200), shrink)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
