"""From objects to patches, against loops over pixels, supersampling, and numpy one object at a time."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.data.geometry.patches import (
    mask_rectangles,
    object_shapes,
    objects_on_grid,
    patch_coverage,
    patch_grid,
)
from odis.errors import DataError
from odis.objects import rle
from odis.types import Crop, Object

FINE = 48  # a patch is looked at in FINE x FINE points


def supersampled(inside, crop: Crop, grid: tuple[int, int]) -> np.ndarray:
    """Share of points of each patch for which `inside(x, y)` holds, x and y in pixels of the image."""
    rows, columns = grid
    x = crop.x0 + (np.arange(columns * FINE) + 0.5) * crop.width / (columns * FINE)
    y = crop.y0 + (np.arange(rows * FINE) + 0.5) * crop.height / (rows * FINE)
    points = inside(*np.meshgrid(x, y)).astype(float)
    if crop.flip:
        points = points[:, ::-1]
    return points.reshape(rows, FINE, columns, FINE).mean((1, 3))


def pixel_loop(mask: np.ndarray, crop: Crop, grid: tuple[int, int]) -> np.ndarray:
    """Area of each pixel of the mask in each patch, summed one after the other."""
    rows, columns = grid
    height, width = crop.height / rows, crop.width / columns
    shares = np.zeros(grid)
    for r in range(rows):
        for c in range(columns):
            top = crop.y0 + r * height
            left = crop.x0 + (columns - 1 - c if crop.flip else c) * width
            for y in range(crop.y0, crop.y1):
                for x in range(crop.x0, crop.x1):
                    if mask[y, x]:
                        down = max(0.0, min(y + 1, top + height) - max(y, top))
                        across = max(0.0, min(x + 1, left + width) - max(x, left))
                        shares[r, c] += down * across / (height * width)
    return shares


grids = st.tuples(st.integers(1, 6), st.integers(1, 6))


@st.composite
def crops(draw, width=30, height=24):
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return Crop(x0, y0, x1, y1, draw(st.booleans()))


@st.composite
def boxes(draw):
    x, y = st.floats(-5, 35), st.floats(-5, 29)
    x0, x1 = sorted((draw(x), draw(x)))
    y0, y1 = sorted((draw(y), draw(y)))
    return np.array([x0, y0, x1, y1])


def corners_of(views: list[Crop]) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array([[c.x0, c.y0, c.x1, c.y1] for c in views], dtype=np.float64).reshape(-1, 4)
    return corners, np.array([c.flip for c in views], dtype=bool)


def coverage_of(
    rectangles: np.ndarray, crop: Crop, grid: tuple[int, int], sliver: float = 1e-7
) -> np.ndarray:
    return patch_coverage(rectangles.astype(np.float64), *corners_of([crop]), *grid, sliver)[0]


def rectangles_of(mask: np.ndarray) -> np.ndarray:
    return mask_rectangles(rle.run_lengths(rle.encode(mask)), len(mask))


def covered_by(box, crop: Crop, grid: tuple[int, int], threshold: float, margin: int = 0) -> np.ndarray:
    shapes = object_shapes(np.array([box]), [None], 30, 24)
    return objects_on_grid(shapes, *corners_of([crop]), grid, threshold, margin)[0, 0]


@settings(max_examples=60, deadline=None)
@given(boxes(), crops(), grids)
def test_box_coverage_equals_supersampling_and_keeps_area(box, crop, grid):
    shares = coverage_of(box[None], crop, grid, 0.0)
    points = supersampled(
        lambda x, y: (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3]), crop, grid
    )
    assert shares == pytest.approx(points, abs=2.1 / FINE)  # a point more or less on each side
    across = max(0.0, min(box[2], crop.x1) - max(box[0], crop.x0))
    down = max(0.0, min(box[3], crop.y1) - max(box[1], crop.y0))
    assert shares.sum() * crop.width * crop.height / (grid[0] * grid[1]) == pytest.approx(
        across * down, abs=1e-9
    )


@settings(max_examples=80, deadline=None)
@given(st.data(), st.lists(crops(), min_size=0, max_size=4), grids, st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_coverage_of_a_mask_equals_the_pixel_loop(slow, data, views, grid, share):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    mask = (rng.random((24, 30)) < share).astype(np.uint8)
    if data.draw(st.booleans()):  # columns that are whole, and runs that go on in the next one
        mask[:, 3 : data.draw(st.integers(3, 12))] = 1
        mask[data.draw(st.integers(0, 23)) :, 20] = mask[: data.draw(st.integers(0, 24)), 21] = 1
    rectangles = rectangles_of(mask)
    painted = np.zeros_like(mask)
    for x0, y0, x1, y1 in rectangles:
        assert (x0, y0) < (x1, y1)
        painted[y0:y1, x0:x1] += 1
    assert (painted == mask).all()
    found = patch_coverage(rectangles.astype(float), *corners_of(views), *grid, 1e-7)
    assert found.shape == (len(views), *grid)
    for shares, crop in zip(found, views):
        expected = pixel_loop(mask, crop, grid)
        assert shares == pytest.approx(expected, abs=1e-9)
        assert slow.mask_shares(mask, crop, grid) == pytest.approx(expected, abs=1e-9)
        assert ((shares > 0) == (expected > 1e-7)).all()


def test_the_many_rectangles_of_a_mask_of_noise_add_up(slow):
    mask = np.random.default_rng(0).random((150, 200)) < 0.5
    rectangles, crop = rectangles_of(mask), Crop(20, 10, 140, 130, True)
    assert len(rectangles) > 4096
    expected = slow.mask_shares(mask, crop, (5, 6))
    assert coverage_of(rectangles, crop, (5, 6)) == pytest.approx(expected, abs=1e-9)


def test_a_large_mask_leaves_nothing_where_nothing_is():
    mask = np.ones((3000, 4000), dtype=np.uint8)
    mask[1000:2000, 1500:2500] = 0
    rectangles = rectangles_of(mask)
    for grid in ((7, 7), (14, 13), (1, 1)):
        assert (coverage_of(rectangles, Crop(1500, 1000, 2500, 2000), grid) == 0).all()
        whole = coverage_of(rectangles, Crop(0, 0, 1400, 900, True), grid)
        assert whole == pytest.approx(1, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 29), st.integers(0, 23)),
    st.tuples(st.integers(1, 30), st.integers(1, 24)),
    crops(),
    grids,
)
def test_a_box_of_whole_pixels_covers_what_its_mask_covers(corner, size, crop, grid):
    x0, y0 = corner
    x1, y1 = min(30, x0 + size[0]), min(24, y0 + size[1])
    mask = np.zeros((24, 30), dtype=bool)
    mask[y0:y1, x0:x1] = True
    box = np.array([[x0, y0, x1, y1]])
    of_box = coverage_of(box, crop, grid, 0.0)
    assert coverage_of(rectangles_of(mask), crop, grid) == pytest.approx(of_box, abs=1e-9)
    both = object_shapes(np.concatenate([box, box]), [None, rle.encode(mask)], 30, 24)
    patches = objects_on_grid(both, *corners_of([crop]), grid, 0.5, 0)[0]
    assert (patches[0] == patches[1]).all()


@settings(max_examples=100, deadline=None)
@given(boxes(), crops(), grids, st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 3))
def test_objects_keep_what_they_cover_enough_and_never_vanish(box, crop, grid, threshold, margin):
    shares = coverage_of(box[None], crop, grid, 0.0)
    mask = covered_by(box, crop, grid, threshold)
    assert mask.any() == (shares > 0).any()
    if shares.max() > 0:
        enough = threshold * shares.max()
        assert mask[shares == shares.max()].all()
        assert mask[shares >= enough].all()
        assert not mask[shares < enough * (1 - 1e-6)].any()
    wide = covered_by(box, crop, grid, threshold, margin)
    for r in range(grid[0]):
        for c in range(grid[1]):
            near = mask[max(0, r - margin) : r + margin + 1, max(0, c - margin) : c + margin + 1]
            assert wide[r, c] == near.any()


def test_patches_of_an_object_by_hand():
    crop = Crop(0, 0, 30, 20)  # 2 x 3 patches of 10 x 10 pixels
    assert covered_by((10, 5, 25, 20), crop, (2, 3), 0.5).tolist() == [
        [False, True, False],
        [False, True, True],
    ]
    thin = covered_by((10, 5, 25, 5.5), crop, (2, 3), 0.5)  # covers no patch by more than 1/20
    assert thin.tolist() == [[False, True, True], [False, False, False]]
    assert covered_by((10, 5, 25, 20), crop, (2, 3), 1.0).tolist() == [[False] * 3, [False, True, False]]
    third = covered_by((0, 0, 10 + 10 / 3, 10), crop, (2, 3), 1 / 3)  # just enough, but for rounding
    assert third.tolist() == [[True, True, False], [False] * 3]
    assert covered_by((0, 0, 5, 5), crop, (2, 3), 0.5, 1).tolist() == [[True, True, False]] * 2
    assert covered_by((0, 0, 5, 5), crop, (2, 3), 0.5, 9).all()
    assert covered_by((29, 19, 30, 20), crop, (2, 3), 0.5, 1).tolist() == [[False, True, True]] * 2
    assert not covered_by((40, 0, 50, 5), crop, (2, 3), 0.5, 2).any()


@settings(max_examples=60, deadline=None)
@given(crops(), grids, st.floats(0.01, 1))
def test_the_whole_image_fills_every_view(crop, grid, threshold):
    box, mask = np.array([[0, 0, 30, 24]]), rle.encode(np.ones((24, 30)))
    both = object_shapes(np.concatenate([box, box]), [None, mask], 30, 24)
    assert objects_on_grid(both, *corners_of([crop]), grid, threshold, 0).all()


@settings(max_examples=100, deadline=None)
@given(
    st.data(),
    st.lists(crops(), min_size=0, max_size=4),
    grids,
    st.integers(0, 4),
    st.integers(0, 2),
    st.sampled_from(["area", "component-boxes"]),
)
def test_all_objects_in_all_views_equal_each_in_each(slow, data, views, grid, n, margin, mask_shape):
    """Boxes and pixel masks mixed, in views mirrored or not, against numpy, one object in one view."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    threshold, exact = data.draw(st.sampled_from([0, 1e-3, 0.5, 1.0])), data.draw(st.booleans())
    objects = []
    for _ in range(n):
        low, size = rng.integers(0, (28, 22)), rng.integers(1, 12, 2)
        x0, y0, x1, y1 = *low, *np.minimum(low + size, (30, 24))
        mask = np.zeros((24, 30), dtype=np.uint8)
        mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.6
        moved = 0 if exact else np.tile(rng.uniform(-6, 3, 2), 2)  # over the border, too
        box = tuple((np.array([x0, y0, x1, y1]) + moved).tolist())
        objects.append(Object(box, rle.encode(mask) if mask.any() and rng.random() < 0.6 else None))
    boxes = np.array([item.box for item in objects]).reshape(-1, 4)
    shapes = object_shapes(boxes, [item.mask for item in objects], 30, 24)
    found = objects_on_grid(shapes, *corners_of(views), grid, threshold, margin, mask_shape)
    assert found.shape == (len(views), n, *grid)
    assert found.dtype == bool
    for v, crop in enumerate(views):
        for k, item in enumerate(objects):
            rule = slow.object_mask(item, (30, 24), crop, grid, threshold, margin, mask_shape)
            assert (found[v, k] == rule).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.003, 0.02, 0.1]),
    crops(),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.integers(0, 1),
)
def test_any_pixel_and_component_boxes_pixel_by_pixel(seed, share, crop, grid, margin):
    """Every pixel marks the patches that it touches, the patches that touch are joined, and of each group the
    box is filled: as it would be written down, without a share of anything.
    """
    mask = np.random.default_rng(seed).random((24, 30)) < share
    mask[0, 0] = True
    height, width = Fraction(crop.height, grid[0]), Fraction(crop.width, grid[1])
    touched = set()
    for y, x in np.argwhere(mask[crop.y0 : crop.y1, crop.x0 : crop.x1]).tolist():
        for r in range(grid[0]):
            for c in range(grid[1]):
                across = x + 1 > c * width and x < (c + 1) * width
                if across and y + 1 > r * height and y < (r + 1) * height:
                    touched.add((r, grid[1] - 1 - c if crop.flip else c))
    groups: list[set] = []
    for r, c in touched:
        near = [g for g in groups if any(abs(r - y) <= 1 and abs(c - x) <= 1 for y, x in g)]
        groups = [g for g in groups if g not in near] + [{(r, c)}.union(*near)]
    expected = np.zeros(grid, dtype=bool)
    for group in groups:
        rows, columns = zip(*group)
        for r in range(max(min(rows) - margin, 0), min(max(rows) + margin + 1, grid[0])):
            for c in range(max(min(columns) - margin, 0), min(max(columns) + margin + 1, grid[1])):
                expected[r, c] = True
    shapes = object_shapes(np.array([[0, 0, 30, 24]]), [rle.encode(mask)], 30, 24)
    found = objects_on_grid(shapes, *corners_of([crop]), grid, 0, margin, "component-boxes")
    assert (found[0, 0] == expected).all()


def test_component_boxes_by_hand():
    """Two strokes that meet at a corner are one component; a dot two patches away is another."""
    mask = np.zeros((24, 30), dtype=bool)
    mask[0:4, 0:4] = mask[4:8, 4:8] = mask[16:20, 20:24] = True  # patches of 4 x 5 pixels
    shapes = object_shapes(np.array([[0, 0, 24, 20]]), [rle.encode(mask)], 30, 24)
    view = corners_of([Crop(0, 0, 30, 24)])
    exact = objects_on_grid(shapes, *view, (6, 6), 0, 0, "area")[0, 0]
    assert np.argwhere(exact).tolist() == [[0, 0], [1, 0], [1, 1], [4, 4]]
    boxed = objects_on_grid(shapes, *view, (6, 6), 0, 0, "component-boxes")[0, 0]
    assert np.argwhere(boxed).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [4, 4]]
    wide = objects_on_grid(shapes, *view, (6, 6), 0, 1, "component-boxes")[0, 0]
    assert wide.tolist() == [[c < 3 for c in range(6)]] * 3 + [[c > 2 for c in range(6)]] * 3
    assert (objects_on_grid(shapes, *view, (6, 6), 0, 1, "area")[0, 0] == exact).all()  # as of a mask


def test_a_box_that_ends_where_a_patch_begins_does_not_touch_it():
    crop, third = Crop(3, 0, 13, 10), 10 / 3
    for k in range(1, 3):
        box = (3, 0, 3 + k * third, 10)  # as rounded, a little short or a little long
        assert covered_by(box, crop, (1, 3), 0).tolist() == [[c < k for c in range(3)]]


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(DataError, match="mask has 100 pixels, but the image has 30 x 24"):
        object_shapes(np.array([[0, 0, 5, 5]]), [rle.encode(np.ones((10, 10)))], 30, 24)


def test_square_views_have_as_many_patches_as_fit():
    assert patch_grid(224, 16) == (14, 14)
    assert patch_grid(100, 16) == (6, 6)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.integers(1, 32))
def test_grids_keep_area_and_aspect(width: int, height: int, side: int, patch: int) -> None:
    rows, columns = patch_grid(side * patch, patch, (height, width))
    assert 1 <= rows <= side * side
    assert 1 <= columns <= side * side
    if min(rows, columns) > 1:  # neither at its limit: each side is right to half a patch
        assert abs(rows - side * math.sqrt(height / width)) <= 0.5 + 1e-6
        assert abs(columns - side * math.sqrt(width / height)) <= 0.5 + 1e-6
    if width == height:
        assert rows == columns == side
