"""Drawn shapes become annotations: pixels as they were painted, groups as one object."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from odis.errors import DataError
from odis.objects import rle
from odis.objects.sources.drawn import DrawnShape, ellipse, entries, painted, turn


@settings(max_examples=60)
@given(
    patch=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)),
    left=st.integers(-4, 9),
    top=st.integers(-4, 7),
)
def test_painted_pixels_are_where_they_were_painted(patch: np.ndarray, left: int, top: int) -> None:
    width, height = 8, 6
    whole = np.zeros((30, 30), bool)
    whole[10 + top : 10 + top + patch.shape[0], 10 + left : 10 + left + patch.shape[1]] = patch
    expected = whole[10 : 10 + height, 10 : 10 + width]
    if not expected.any():
        with pytest.raises(DataError, match="no pixel in the image"):
            painted(patch, left, top, (width, height))
        return
    counts, box = painted(patch, left, top, (width, height))
    assert counts == rle.encode(expected)
    rows, columns = np.nonzero(expected)
    assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_an_image_that_no_run_lengths_can_hold_is_refused() -> None:
    with pytest.raises(DataError, match="mask is for an image of 100000 x 100000 pixels"):
        painted(np.ones((2, 2)), 0, 0, (100_000, 100_000))


def test_an_ellipse_and_a_turn_are_what_their_formulas_say() -> None:
    for x, y in ellipse(10, 20, 4, 2):
        assert ((x - 10) / 4) ** 2 + ((y - 20) / 2) ** 2 == pytest.approx(1)
    upright = ellipse(10, 20, 4, 2, 90)
    assert max(y for _, y in upright) == pytest.approx(24)
    assert max(x for x, _ in upright) == pytest.approx(12)
    corner = turn([(0, 0), (4, 0), (4, 2), (0, 2)], 90)[1]  # right above the middle goes to right below it
    assert corner == pytest.approx((3, 3))


def test_shapes_of_a_label_and_a_group_are_one_object() -> None:
    shapes = [
        DrawnShape(1, "cat", (0, 0, 2, 2), outline=[0, 0, 2, 0, 2, 2], group=7),
        DrawnShape(2, "dog", (0, 0, 3, 3), group=7),
        DrawnShape(3, "cat", (4, 4, 6, 5), group=7, score=0.5),
        DrawnShape(4, "cat", (1, 1, 2, 2)),
    ]
    assert list(entries(shapes, (8, 6))) == [
        (
            "cat",
            {
                "id": 1,
                "bbox": [0, 0, 6, 5],
                "iscrowd": 0,
                "segmentation": [[0, 0, 2, 0, 2, 2], [4, 4, 6, 4, 6, 5, 4, 5]],
                "score": 0.5,
            },
        ),
        ("dog", {"id": 2, "bbox": [0, 0, 3, 3], "iscrowd": 0}),
        ("cat", {"id": 4, "bbox": [1, 1, 1, 1], "iscrowd": 0}),
    ]


def test_pixels_and_outlines_of_a_group_are_one_mask() -> None:
    pixels, box = painted(np.ones((2, 3)), 4, 3, (8, 6))
    far = [0.0, 0.0, 900.0, 0.0, 900.0, 900.0]  # further out than any drawing: left out of the mask
    shapes = [
        DrawnShape(1, "cat", box, pixels=pixels, group="a"),
        DrawnShape(2, "cat", (1, 1, 3, 2), outline=[1, 1, 3, 1, 3, 2, 1, 2], group="a"),
        DrawnShape(3, "cat", (0, 0, 5, 5), outline=far, group="a"),
    ]
    ((_, entry),) = entries(shapes, (8, 6))
    expected = np.zeros((6, 8))
    expected[3:5, 4:7] = expected[1:2, 1:3] = 1
    assert entry["segmentation"] == {"size": [6, 8], "counts": rle.encode(expected).decode()}
    assert entry["bbox"] == [0, 0, 7, 5]
