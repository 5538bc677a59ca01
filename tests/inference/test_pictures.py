"""Pictures and objects in every form people have them: the same pixels and objects, or one line that names
what is wrong.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from odis.errors import DataError
from odis.inference.pictures import as_objects, as_pixels, is_one_picture
from odis.objects import rle
from odis.types import Object


def picture(width: int, height: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_every_form_of_a_picture_has_the_same_pixels(tmp_path: Path) -> None:
    image = picture(20, 10)
    array = image.permute(1, 2, 0).numpy()
    pil = Image.fromarray(array)
    pil.save(tmp_path / "a.png")
    forms: list[Any] = [
        image,
        array,
        pil,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        image.float() / 255,
        array.astype(np.float64) / 255,
    ]
    for form in forms:
        assert torch.equal(as_pixels(form, "image 0"), image)
        assert is_one_picture(form)
    grey = array[..., 0]
    assert torch.equal(as_pixels(grey, ""), as_pixels(Image.fromarray(grey), ""))
    assert torch.equal(as_pixels(array[::-1, ::2], ""), image[:, :, ::2].flip(1)), "views of arrays, too"
    for several in ([pil], [array], image[None], array[None], (str(tmp_path / "a.png"),)):
        assert not is_one_picture(several)


def test_a_path_is_turned_as_its_exif_says_and_a_pil_image_is_taken_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(20, 10).permute(1, 2, 0).numpy()).save(tmp_path / "turned.png", exif=exif)
    assert as_pixels(tmp_path / "turned.png", "").shape == (3, 20, 10)
    assert as_pixels(Image.open(tmp_path / "turned.png"), "").shape == (3, 10, 20)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            torch.zeros(1, 4, 4),
            r"image 4: is torch.float32 \(1, 4, 4\), must be a path, a PIL image, or uint8 or float \(3, ",
        ),
        (torch.zeros(3, 0, 4), "image 4: is"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "image 4: is torch.int64"),
        (torch.full((3, 4, 4), 1.5), "image 4: has floats outside 0..1"),
        (torch.full((3, 4, 4), math.nan), "image 4: has floats outside 0..1"),
        (
            np.zeros((3, 4, 4), np.uint8),
            r"image 4: is uint8 \(3, 4, 4\), must be uint8 or float \(height, width, 3\)",
        ),
        (np.zeros((4, 4, 3), np.int64), "image 4: is int64"),
        ("no-such-file.png", "no-such-file.png"),
    ],
)
def test_pictures_that_cannot_be_used_are_named(wrong: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_pixels(wrong, "image 4")


def test_objects_that_cannot_be_used_are_named() -> None:
    image, nan = picture(20, 10), math.nan
    for box, why in (
        ((0, 0, nan, 4), "is not finite"),
        ((5, 0, 2, 4), "is inverted"),
        ((5, 2, 5, 4), "is empty"),
        ((20, 0, 30, 4), "is outside the image of 20 x 10 pixels"),
    ):
        for boxes in (
            np.array([(0, 0, 3, 3), box]),
            [[0, 0, 3, 3], list(box)],
            torch.tensor([(0, 0, 3, 3), box]),
        ):
            with pytest.raises(DataError, match=rf"image 4, object 1: box \({box[0]:g}, .*\) {why}"):
                as_objects(None, boxes, image=image, name="image 4")
    ones = np.ones((1, 10, 20), dtype=bool)
    for given_, message in (
        ({"boxes": torch.zeros(2, 3)}, r"image 4: its boxes are \(2, 3\), must be \(n, 4\)"),
        ({"boxes": [1, 2, 3, 4]}, r"its boxes are \(4,\), must be \(n, 4\)"),
        ({"boxes": [["a", "b", "c", "d"]]}, "its boxes are .* must be numbers"),
        ({"boxes": [[1, 2], [1]]}, "its boxes are no array of numbers"),
        (
            {"masks": np.ones((1, 20, 10))},
            r"its masks are float64 \(1, 20, 10\), must be bool or 0 and 1, \(n, 10, 20\)",
        ),
        ({"masks": ones * 2}, "must be bool or 0 and 1"),
        ({"masks": ones & False}, "image 4, object 0: its mask is empty"),
        ({"masks": ones, "boxes": np.zeros((2, 4))}, "has 2 boxes and 1 mask"),
    ):
        with pytest.raises(DataError, match=message):
            as_objects(None, **given_, image=image, name="image 4")
    with pytest.raises(DataError, match="image 4, object 0: mask has 4 pixels"):
        as_objects([Object((0, 0, 3, 3), mask=rle.encode(np.ones((2, 2))))], image=image, name="image 4")
    with pytest.raises(DataError, match=r"image 4, object 0: is a list, must be an odis\.types\.Object"):
        as_objects([[0, 0, 3, 3]], image=image, name="image 4")


def test_no_object_and_none_given() -> None:
    image = picture(20, 10)
    assert as_objects(None, image=image, name="") == [Object((0.0, 0.0, 20.0, 10.0))]
    empties: list[dict[str, Any]] = [
        {"objects": []},
        {"objects": np.empty((0, 4))},
        {"objects": None, "boxes": []},
        {"objects": None, "masks": np.empty((0, 10, 20))},
    ]
    for empty in empties:
        assert as_objects(**empty, image=image, name="") == []


@given(
    hnp.arrays(
        bool,
        st.tuples(st.integers(1, 3), st.just(7), st.just(9)),
        elements=st.booleans(),
        fill=st.just(False),
    )
)
def test_masks_become_objects_whose_box_is_their_extent(masks: np.ndarray) -> None:
    image = picture(9, 7)
    if not masks.any((1, 2)).all():
        with pytest.raises(DataError, match="its mask is empty"):
            as_objects(None, masks=masks, image=image, name="")
        return
    for item, mask in zip(
        as_objects(None, masks=torch.from_numpy(masks), image=image, name=""), masks, strict=True
    ):
        np.testing.assert_array_equal(rle.decode(item.mask, 9, 7), mask)
        y, x = np.nonzero(mask)
        assert item.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    boxes = np.tile((0.5, 0.5, 3.0, 4.0), (len(masks), 1))
    both = as_objects(None, boxes, masks, image=image, name="")
    assert [item.box for item in both] == [(0.5, 0.5, 3.0, 4.0)] * len(masks)
    assert all(item.mask is not None for item in both)


@pytest.mark.parametrize(
    ("given", "kind"),
    [(b"\x89PNG", "bytes"), (bytearray(4), "bytearray"), (None, "NoneType"), (3, "int"), ({"a": 1}, "dict")],
)
def test_what_is_no_picture_is_named_with_what_is(given: Any, kind: str) -> None:
    if not isinstance(given, bytearray):
        assert is_one_picture(given)
    with pytest.raises(DataError) as refusal:
        as_pixels(given, "image 0")
    line = str(refusal.value)
    assert line.startswith(f"image 0: is {kind}, must be a path, a PIL image, an array or a tensor")
    assert ("PIL.Image.open(io.BytesIO(...))" in line) == ("byte" in kind)
