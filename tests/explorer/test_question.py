"""Regions of a picture: objects of the index, boxes, painted masks, all of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from odis.explorer.explorer import Explorer, runs
from odis.explorer.question import read_region
from odis.explorer.refusal import RefusedError
from odis.objects import rle


def test_a_region_is_what_was_drawn(explorer: Explorer) -> None:
    picture = explorer.pictures.of_index(1)
    assert read_region({"box": [-3, 2.5, 20, 30]}, picture).box == (-3, 2.5, 20, 30)
    assert read_region({"whole": True}, picture).box == (0, 0, 48, 40)
    assert read_region({"object": 1}, picture) == explorer.index[1].objects[1]


@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.booleans()))
def test_runs_of_a_mask_come_back_as_the_mask(mask: np.ndarray) -> None:
    lengths = runs(mask)
    assert sum(lengths) == mask.size
    value, cells = False, []
    for length in lengths:  # by hand
        cells += [value] * length
        value = not value
    assert cells == mask.ravel().tolist()


@given(arrays(bool, (10, 12), elements=st.booleans()))
def test_a_painted_mask_covers_its_cells(explorer: Explorer, mask: np.ndarray) -> None:
    picture = explorer.pictures.of_index(1)  # four times as large
    region = {"mask": {"width": 12, "height": 10, "runs": runs(mask)}}
    if not mask.any():
        with pytest.raises(RefusedError, match="the mask is empty"):
            read_region(region, picture)
        return
    item = read_region(region, picture)
    expected = mask.repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(rle.decode(item.mask, 48, 40), expected)
    y, x = np.nonzero(expected)
    assert item.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)


@pytest.mark.parametrize(
    ("region", "why"),
    [
        ({}, "region must have one of"),
        ({"box": [0, 0, 1, 1], "whole": True}, "region must have one of"),
        ({"circle": 3}, "region must have one of"),
        ({"box": [5, 5, 5, 9]}, "is empty"),
        ({"box": [9, 5, 5, 9]}, "is inverted"),
        ({"box": [50, 5, 60, 9]}, "is outside the image"),
        ({"box": [0, 0, 1e300, 1]}, "is not finite"),
        ({"box": [0, 0, 1, "1"]}, "four numbers"),
        ({"box": [0, 0, 1, True]}, "four numbers"),
        ({"object": 2}, "has no object 2"),
        ({"object": -1}, "has no object -1"),
        ({"mask": {"width": 4, "height": 4, "runs": [8, 7]}}, "add up to its 16 cells"),
        ({"mask": {"width": 4, "height": 4, "runs": [20, -4]}}, "add up"),
        ({"mask": {"width": 4, "height": 4, "runs": [16] + [0] * 17}}, "add up"),
        ({"mask": {"width": 513, "height": 4, "runs": [2052]}}, "from 1 to 512"),
        ({"mask": {"width": 2, "height": 2, "runs": [0, 2.0, 2]}}, "add up"),
        ({"mask": [1]}, "JSON object"),
    ],
    ids=str,
)
def test_what_is_no_region_is_refused_in_a_line(explorer: Explorer, region: dict, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        read_region(region, explorer.pictures.of_index(1))
