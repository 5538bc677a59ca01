"""Segmentations as tools write them: the pixels that pycocotools makes of what they mean."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from odis.objects import rle
from odis.objects.sources.coco_mask import box_of, read_mask

WIDTH, HEIGHT = 96, 64
BOX = (20.0, 10.0, 50.0, 30.0)
RECTANGLE = [20, 10, 50, 10, 50, 30, 20, 30]
PAIRS = [[20, 10], [50, 10], [50, 30], [20, 30]]
CORNERS = [{"x": x, "y": y} for x, y in PAIRS]
PIXELS = np.zeros((HEIGHT, WIDTH), np.uint8)
PIXELS[10:30, 20:50] = 1
TEXT = rle.encode(PIXELS).decode()
RUNS = np.diff([0, *np.flatnonzero(np.diff(PIXELS.ravel("F"))) + 1, PIXELS.size]).tolist()
SIZE = [HEIGHT, WIDTH]


@pytest.mark.parametrize(
    "segmentation",
    [
        [RECTANGLE],
        RECTANGLE,
        list(map(float, RECTANGLE)),
        [list(map(str, RECTANGLE))],
        list(map(str, RECTANGLE)),
        PAIRS,
        [PAIRS],
        CORNERS,
        [CORNERS],
        json.dumps([RECTANGLE]),
        json.dumps(RECTANGLE),
        [RECTANGLE + RECTANGLE[:2]],
        {"size": SIZE, "counts": TEXT},
        {"size": SIZE, "counts": RUNS},
        {"size": SIZE, "counts": [float(run) for run in RUNS]},
        {"size": SIZE, "counts": [str(run) for run in RUNS]},
        {"size": SIZE, "counts": json.dumps(RUNS)},
        {"size": SIZE, "counts": repr(TEXT.encode())},
        {"size": SIZE, "counts": f'b"{repr(TEXT)[1:-1]}"'},
        {"size": [float(side) for side in SIZE], "counts": RUNS},
        {"size": ["64", "96"], "counts": TEXT},
        {"size": SIZE[::-1], "counts": TEXT},  # its pixels are where its box is
        {"size": SIZE[::-1], "counts": RUNS},
        {"counts": TEXT},
        {"size": None, "counts": TEXT},
        [{"size": SIZE, "counts": TEXT}],
        [{"size": SIZE, "counts": RUNS}, RECTANGLE],
    ],
)
def test_every_spelling_of_a_rectangle_is_its_pixels(segmentation: Any) -> None:
    counts, problem = read_mask(segmentation, WIDTH, HEIGHT, BOX)
    assert problem is None
    assert counts is not None
    assert np.array_equal(rle.decode(counts, WIDTH, HEIGHT), PIXELS)
    assert box_of(counts, WIDTH, HEIGHT) == BOX


@pytest.mark.parametrize("segmentation", [None, [], {}, 0, "", False])
def test_no_segmentation_is_no_news(segmentation: Any) -> None:
    assert read_mask(segmentation, WIDTH, HEIGHT, BOX) == (None, None)


@pytest.mark.parametrize(
    ("segmentation", "why"),
    [
        ([[]], "polygon is []"),
        ([[], []], "polygon is []"),
        ([20, 10, 50, 30], "polygon is [20, 10, 50, 30], must be three or more points"),
        ([[20, 10], [50, 30]], "polygon is [20, 10]"),
        ([RECTANGLE[:-1]], "must be three or more points"),
        ([[20, 10, float("nan"), 10, 50, 30]], "must be three or more points"),
        ([[20, 10, "a", 10, 50, 30]], "must be three or more points"),
        ([[20, 10, None, 10, 50, 30]], "must be three or more points"),
        ([[20, 10, 10**400, 10, 50, 30]], "must be three or more points"),
        ([[20, 10, 1e9, 10, 50, 30]], "in or near the image"),
        (
            [[k % 4 // 2 * 1e5 for k in range(100)]],
            "in or near the image",
        ),  # millions of pixels along its outline
        ([[20, 10, 20, 10, 20, 10]], "its mask is empty"),
        ([[-30, -30, -20, -30, -20, -20]], "its mask is empty"),
        ({"size": [2 * HEIGHT, 2 * WIDTH], "counts": [4 * HEIGHT * WIDTH]}, "image of size [128, 192]"),
        ({"size": SIZE, "counts": [HEIGHT * WIDTH]}, "its mask is empty"),
        ({"size": SIZE, "counts": [1, 2]}, "mask has 3 pixels"),
        ({"size": SIZE, "counts": [1.5, 2]}, "whole numbers from 0 on"),
        ({"size": SIZE, "counts": []}, "whole numbers from 0 on"),
        ({"size": SIZE, "counts": None}, "whole numbers from 0 on"),
        ({"size": SIZE, "counts": ""}, "not COCO compressed"),
        ({"size": SIZE, "counts": "b'"}, "cannot be read"),
        ({"size": SIZE, "counts": "[1, 2"}, "whole numbers from 0 on"),
        ({"size": "64x96", "counts": TEXT}, "image of size '64x96'"),
        ({"size": SIZE}, "must be polygons or run lengths with size and counts"),
        ("mask.png", "must be polygons or run lengths"),
        (3, "must be polygons or run lengths"),
    ],
)
def test_what_cannot_be_read_is_said_and_the_good_parts_stay(segmentation: Any, why: str) -> None:
    counts, problem = read_mask(segmentation, WIDTH, HEIGHT, BOX)
    assert counts is None
    assert problem is not None
    assert why in problem
    if isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], list):
        counts, again = read_mask([*segmentation, RECTANGLE], WIDTH, HEIGHT, BOX)
        assert counts is not None
        assert np.array_equal(rle.decode(counts, WIDTH, HEIGHT), PIXELS)
        assert again == (None if problem == "its mask is empty" else problem)


@pytest.mark.parametrize("size", [SIZE[::-1], None])
@pytest.mark.parametrize("box", [None, (0.0, 0.0, 30.0, 20.0), (20.0, 10.0, 50.0, 33.0)])
def test_a_mask_of_doubtful_size_that_is_not_where_its_box_is(size: Any, box: Any) -> None:
    counts, problem = read_mask({"size": size, "counts": TEXT}, WIDTH, HEIGHT, box)
    assert counts is None
    assert problem is not None
    assert "its pixels are not where its box is" in problem


coordinates = st.floats(-5000, 5000, width=32) | st.integers(-30, 130) | st.sampled_from([0, 96, 64, -1e5])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=6), min_size=1, max_size=3)
)
def test_polygons_far_over_the_edge_are_what_pycocotools_makes_of_them(polygons: list[list[tuple]]) -> None:
    flat = [[float(v) for point in polygon for v in point] for polygon in polygons]
    expected = coco_mask.merge(coco_mask.frPyObjects(flat, HEIGHT, WIDTH))
    counts, problem = read_mask([list(map(list, polygon)) for polygon in polygons], WIDTH, HEIGHT, None)
    if coco_mask.area(expected):
        assert counts is not None
        assert np.array_equal(rle.decode(counts, WIDTH, HEIGHT), coco_mask.decode(expected))
        assert problem is None
    else:
        assert counts is None
        assert problem == "its mask is empty"
