"""Boxes on the patch grid in torch, against the compiled loops that training and inference use."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.data.geometry.patches import object_shapes, objects_on_grid
from odis.exporting.boxes import masks_of_boxes


def by_odis(
    boxes: np.ndarray, rows: int, columns: int, patch: int, coverage: float, margin: int, shape
) -> np.ndarray:
    width, height = columns * patch, rows * patch
    shapes = object_shapes(boxes, [None] * len(boxes), width, height)
    whole = np.array([[0, 0, width, height]])
    return objects_on_grid(shapes, whole, np.zeros(1, bool), (rows, columns), coverage, margin, shape)[0]


coordinate = st.integers(-40, 400).map(lambda v: v / 4)  # quarters of pixels: edges of patches are among them


@settings(max_examples=150)
@given(
    st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), min_size=1, max_size=4),
    st.integers(1, 6), st.integers(1, 6), st.sampled_from([8, 14, 16]),
    st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.integers(0, 2),
    st.sampled_from(["area", "component-boxes"]),
)  # fmt: skip
def test_boxes_cover_the_patches_that_odis_says(corners, rows, columns, patch, coverage, margin, shape):
    boxes = np.array([(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in corners])
    found = masks_of_boxes(
        torch.tensor(boxes[None], dtype=torch.float32), rows, columns, patch, coverage, margin, shape
    )
    assert found.dtype == torch.bool
    assert found[0].numpy().tolist() == by_odis(boxes, rows, columns, patch, coverage, margin, shape).tolist()


@pytest.mark.parametrize("margin", [0, 1])
def test_no_box_is_no_mask(margin: int):
    assert masks_of_boxes(torch.empty(2, 0, 4), 3, 5, 16, 0.5, margin).shape == (2, 0, 3, 5)
