"""Pixels equal a slow bilinear enlargement; boxes are tight."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.finding.discover.refine import box_of, guided_filter, luminance, to_pixels
from odis.finding.discover.spectral import Finding, connected


def slow_field(finding: Finding, width: int, height: int) -> np.ndarray:
    """The enlarged field that `to_pixels` cuts at .5, pixel by pixel."""
    rows, columns = finding.mask.shape
    inside = [abs(v - 0.5) for v, m in zip(finding.field.flat, finding.mask.flat) if m]
    outside = [abs(v - 0.5) for v, m in zip(finding.field.flat, finding.mask.flat) if not m]

    def value(r: int, c: int) -> float:
        r, c = min(max(r, 0), rows - 1), min(max(c, 0), columns - 1)
        side = inside if finding.mask[r, c] else outside
        mean = sum(side) / len(side)
        share = (min(abs(finding.field[r, c] - 0.5) / mean, 1) if mean > 0 else 1) / 2
        return 0.5 + share if finding.mask[r, c] else 0.5 - share

    pixels = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v, u = max((y + 0.5) * rows / height - 0.5, 0), max((x + 0.5) * columns / width - 0.5, 0)
            r, c = math.floor(v), math.floor(u)
            a, b = v - r, u - c
            top = (1 - b) * value(r, c) + b * value(r, c + 1)
            bottom = (1 - b) * value(r + 1, c) + b * value(r + 1, c + 1)
            pixels[y, x] = (1 - a) * top + a * bottom
    return pixels


def finding_of(rng: np.random.Generator, rows: int, columns: int) -> Finding:
    field = rng.random((rows, columns))
    seed = int(field.argmax())
    return Finding(connected((field >= 0.5) | (field == field.max()), seed), field, seed, 1.0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    width=st.integers(1, 20),
    height=st.integers(1, 20),
)
def test_pixels_are_the_field_enlarged_bilinearly(
    seed: int, rows: int, columns: int, width: int, height: int
):
    finding = finding_of(np.random.default_rng(seed), rows, columns)
    found, above = to_pixels(finding, width, height), slow_field(finding, width, height) - 0.5
    rounding = 1e-12  # a pixel this close to the edge may fall either way
    if (above > rounding).any():
        sure = np.abs(above) > rounding
        np.testing.assert_array_equal(found[sure], above[sure] > 0)
    elif not (above > -rounding).any():
        assert found.sum() == 1


@pytest.mark.parametrize("edge", [0.0, 0.4, 0.5])
def test_an_edge_between_patches_that_are_sure_is_where_the_patches_meet(edge: float):
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 2:5] = True
    pixels = to_pixels(Finding(mask, np.where(mask, 1.0, edge), 8, 1.0), 60, 32)
    assert box_of(pixels) == (20, 8, 50, 24)
    assert pixels[10:22, 23:47].all()


def test_patches_of_the_same_side_that_are_not_the_object_are_outside():
    field = np.array([[1.0, 0.0, 1.0, 1.0]])
    pixels = to_pixels(Finding(np.array([[False, False, True, True]]), field, 2, 1.0), 40, 10)
    assert box_of(pixels) == (20, 0, 40, 10)


def test_an_image_smaller_than_its_grid_still_has_its_object():
    field = np.zeros((9, 9))
    field[4, 3] = 0.6
    mask = field > 0.5
    pixels = to_pixels(Finding(mask, field, int(mask.argmax()), 1.0), 3, 3)
    assert box_of(pixels) == (1, 1, 2, 2)


def slow_guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """He et al., equations 5, 6 and 8, window by window."""
    height, width = guide.shape

    def window(y: int, x: int) -> list[tuple[int, int]]:
        ys = range(max(y - radius, 0), min(y + radius, height - 1) + 1)
        xs = range(max(x - radius, 0), min(x + radius, width - 1) + 1)
        return [(v, u) for v in ys for u in xs]

    a, b = np.zeros(guide.shape), np.zeros(guide.shape)
    for y in range(height):
        for x in range(width):
            places = window(y, x)
            g, p = np.array([guide[i] for i in places]), np.array([values[i] for i in places])
            a[y, x] = ((g - g.mean()) * (p - p.mean())).mean() / (((g - g.mean()) ** 2).mean() + epsilon)
            b[y, x] = p.mean() - a[y, x] * g.mean()
    out = np.zeros(guide.shape)
    for y in range(height):
        for x in range(width):
            places = window(y, x)
            out[y, x] = np.mean([a[i] for i in places]) * guide[y, x] + np.mean([b[i] for i in places])
    return out


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), width=st.integers(1, 9), height=st.integers(1, 9), radius=st.integers(0, 5)
)
def test_guided_filter_is_the_papers(seed: int, width: int, height: int, radius: int):
    rng = np.random.default_rng(seed)
    guide, values = rng.random((height, width)), rng.random((height, width))
    assert guided_filter(guide, values, radius, 1e-3) == pytest.approx(
        slow_guided_filter(guide, values, radius, 1e-3), abs=1e-6
    )


def test_a_mask_is_drawn_to_the_edges_of_the_image():
    """Patches of 8 pixels say that there is something; the image says where it ends."""
    guide = np.full((32, 48), 0.2)
    guide[10:22, 11:37] = 0.9
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 1:5] = True
    finding = Finding(mask, np.where(mask, 1.0, 0.0), 7, 1.0)
    assert box_of(to_pixels(finding, 48, 32)) == (8, 8, 40, 24)
    assert box_of(to_pixels(finding, 48, 32, guide, 0)) == (8, 8, 40, 24)
    assert np.array_equal(to_pixels(finding, 48, 32, guide, 1), guide > 0.5)
    flat = to_pixels(finding, 48, 32, np.full_like(guide, 0.5), 1)
    assert box_of(flat) == pytest.approx((8, 8, 40, 24), abs=4), (
        "with nothing to follow, corners are rounded and little else"
    )


def test_of_what_edges_cut_apart_the_largest_part_is_the_object():
    guide = np.full((32, 48), 0.2)
    guide[10:22, 10:14] = guide[10:22, 18:38] = 0.9
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 1:5] = True
    pixels = to_pixels(Finding(mask, mask.astype(float), 7, 1.0), 48, 32, guide, 1)
    assert box_of(pixels) == (18, 10, 38, 22)


def test_luminance_is_between_0_and_1():
    image = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], dtype=np.uint8)
    assert luminance(image)[0] == pytest.approx([0, 1, 0.299])


@pytest.mark.parametrize(("y", "x"), [(0, 0), (6, 9), (3, 4)])
def test_a_box_is_tight(y: int, x: int):
    mask = np.zeros((7, 10), dtype=bool)
    mask[y, x] = mask[2, 4] = True
    assert box_of(mask) == (min(x, 4), min(y, 2), max(x, 4) + 1, max(y, 2) + 1)
