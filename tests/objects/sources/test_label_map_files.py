"""What the pixels of a label map mean: values, places in a palette, or colours of a list."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.errors import DataError
from odis.objects.sources.label_list import LabelList, read_list
from odis.objects.sources.label_map_files import (
    UNNAMED,
    class_codes,
    instance_numbers,
    values_of,
    voc_palette,
)

VALUES = np.array([[0, 1, 2], [3, 255, 9]], np.uint8)

LIST = "background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\nbird:1,2,3::\n"

COLOURS = np.array([[(0, 0, 0), (128, 0, 0), (0, 128, 0)], [(1, 2, 3), (224, 224, 192), (9, 9, 9)]], np.uint8)


def listed(folder: Path, text: str = LIST, name: str = "labelmap.txt") -> LabelList:
    (folder / name).write_text(text)
    return read_list(folder / name)


def save(folder: Path, pixels: np.ndarray, palette: np.ndarray | None = None, name: str = "a.png") -> Path:
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette.ravel().tolist())
        assert image.mode == "P"
    image.save(folder / name)
    return folder / name


def test_voc_palette_is_the_published_one() -> None:
    assert voc_palette()[[0, 1, 2, 3, 8, 15, 20, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0],
        [64, 0, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip


def test_values_without_a_list(tmp_path: Path) -> None:
    for palette in (None, voc_palette()):
        codes = class_codes(save(tmp_path, VALUES, palette), None, 3)
        assert codes.tolist() == [[0, 1, 2], [3, 0, UNNAMED + 9]]
        assert values_of(tmp_path / "a.png") == ({1, 2, 3, 9, 255}, palette is not None)


def test_values_are_lines_of_a_list(tmp_path: Path) -> None:
    for name, text in (("labelmap.txt", LIST), ("class_names.txt", "_background_\ncat\ndog\nbird\n")):
        codes = class_codes(save(tmp_path, VALUES), listed(tmp_path, text, name), 0)
        assert codes.tolist() == [[0, 1, 2], [3, 0, UNNAMED + 9]]
    gap = listed(tmp_path, "_background_\ncat\n__ignore__\ndog\n", "class_names.txt")
    assert class_codes(tmp_path / "a.png", gap, 0).tolist() == [[0, 1, 0], [2, 0, UNNAMED + 9]]
    other = listed(tmp_path, "cat\ndog\nbird\nbus\n", "class_names.txt")
    with pytest.raises(DataError, match=r"class_names\.txt: its first line must be the background, which is"):
        class_codes(tmp_path / "a.png", other, 0)


def test_colours_are_those_of_the_list_whatever_the_mode(tmp_path: Path) -> None:
    names = listed(tmp_path)
    rgb = save(tmp_path, COLOURS, name="rgb.png")
    codes = class_codes(rgb, names, 0)
    assert codes[0].tolist() == [0, 1, 2]
    assert codes[1].tolist()[:2] == [3, 0]
    assert codes[1, 2] >= UNNAMED
    Image.open(rgb).convert("RGBA").save(tmp_path / "rgba.png")
    assert np.array_equal(class_codes(tmp_path / "rgba.png", names, 0), codes)
    palette = np.zeros((256, 3), np.uint8)
    palette[[7, 5, 6]] = (128, 0, 0), (0, 128, 0), (1, 2, 3)  # in an order of its own
    stored = np.array([[0, 7, 5], [6, 0, 0]], np.uint8)
    assert class_codes(save(tmp_path, stored, palette), names, 0).tolist() == [[0, 1, 2], [3, 0, 0]]
    other = np.zeros((256, 3), np.uint8)
    other[[1, 2, 3]] = 50  # colours that the list has not: the values count
    stored = np.array([[0, 1, 2], [3, 0, 0]], np.uint8)
    assert class_codes(save(tmp_path, stored, other), names, 0).tolist() == [[0, 1, 2], [3, 0, 0]]


def test_grey_may_be_a_colour_of_the_list(tmp_path: Path) -> None:
    names = listed(tmp_path, "background:0,0,0::\nroad:255,255,255::\n")
    mask = np.array([[0, 255]], np.uint8)
    assert class_codes(save(tmp_path, mask), names, 0).tolist() == [[0, 1]]
    assert class_codes(save(tmp_path, mask), None, 1).tolist() == [[0, 0]]
    Image.fromarray(mask == 255).save(tmp_path / "b.png")  # one bit a pixel
    assert class_codes(tmp_path / "b.png", None, 1).tolist() == [[0, 1]]


def test_instances_by_number_or_colour(tmp_path: Path) -> None:
    assert instance_numbers(save(tmp_path, VALUES)).tolist() == [[0, 1, 2], [3, 0, 9]]
    numbers = instance_numbers(save(tmp_path, COLOURS))
    assert numbers[0, 0] == numbers[1, 1] == 0
    assert len(set(numbers.ravel().tolist())) == 5
    assert instance_numbers(save(tmp_path, np.array([[0, 300]], np.uint16))).tolist() == [[0, 300]]


@pytest.mark.parametrize(
    ("pixels", "mode", "text"),
    [
        (COLOURS, None, "has colours; a labelmap.txt beside the folders of the data set"),
        (VALUES.astype(np.float32), "tiff", "has F pixels"),
        (np.array([[300]], np.uint16), None, "has the value 300; its values may be 0 to 255"),
    ],
)
def test_a_map_that_is_none_is_named(tmp_path: Path, pixels: np.ndarray, mode: str | None, text: str) -> None:
    path = save(tmp_path, pixels, name=f"a.{mode or 'png'}")
    with pytest.raises(DataError) as error:
        class_codes(path, None, 3)
    assert str(error.value).startswith(f"{path}: {text}")


def test_a_photo_is_no_label_map(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    with pytest.raises(DataError, match=r"has 1,\d+ colours; a label map has one for each class"):
        class_codes(save(tmp_path, noise), listed(tmp_path), 0)
    Image.fromarray(noise).save(tmp_path / "b.jpg", format="JPEG")
    (tmp_path / "b.jpg").rename(tmp_path / "b.png")
    with pytest.raises(DataError, match="is a JPEG, whose pixels are not what was stored"):
        class_codes(tmp_path / "b.png", listed(tmp_path), 0)
    with pytest.raises(DataError, match="no such file"):
        instance_numbers(tmp_path / "gone.png")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=20), st.integers(1, 20))
def test_any_value_is_a_class_nothing_or_unnamed(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], known: int
) -> None:
    path = save(tmp_path_factory.mktemp("map"), np.array([values], np.uint8))
    for value, code in zip(values, class_codes(path, None, known)[0].tolist()):
        assert code == (0 if value in (0, 255) else value if value <= known else UNNAMED + value)
