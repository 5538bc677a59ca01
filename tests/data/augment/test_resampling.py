"""Resizing a box that begins and ends within pixels against Pillow, and where it does not against
torchvision.
"""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from odis.data.augment.resampling import resample

MANY = 8
"""Pixels a side, read and written, from which on a mean of differences is one over independent values."""


def by_pillow(image: np.ndarray, x0: float, y0: float, x1: float, y1: float, size: int) -> np.ndarray:
    """Lines first, as `resample` and torchvision do it; by itself Pillow begins with either."""
    narrow = Image.fromarray(image).resize(
        (size, image.shape[0]), Image.Resampling.BICUBIC, box=(x0, 0, x1, image.shape[0])
    )
    return np.array(narrow.resize((size, size), Image.Resampling.BICUBIC, box=(0, y0, size, y1)))


def by_formula(line: np.ndarray, start: float, end: float, size: int) -> np.ndarray:
    """One axis, in double precision: every pixel's weight is the cubic at its distance; they sum to 1."""
    step = (end - start) / size
    wide = max(1.0, step)
    out = []
    for i in range(size):
        t = np.abs(np.arange(len(line)) + 0.5 - (start + (i + 0.5) * step)) / wide
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        w = np.where(t < 1, near, np.where(t < 2, far, 0))
        out.append((w[:, None] * line.reshape(len(line), -1)).sum(0) / w.sum())
    return np.array(out).reshape(size, *line.shape[1:])


@st.composite
def boxes(draw) -> tuple[np.ndarray, tuple[float, float, float, float], int]:
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    def side(length: int) -> tuple[float, float]:
        start = draw(st.floats(0, length - 0.5))
        return start, draw(st.floats(start + 0.5, length))

    (x0, x1), (y0, y1) = side(width), side(height)
    return image, (x0, y0, x1, y1), draw(st.integers(1, 40))


@settings(max_examples=300, deadline=None)
@given(boxes())
def test_it_is_the_formula(given_: tuple[np.ndarray, tuple[float, float, float, float], int]):
    image, (x0, y0, x1, y1), size = given_
    narrow = (
        by_formula(image.astype(float).transpose(1, 0, 2), x0, x1, size)
        .transpose(1, 0, 2)
        .round()
        .clip(0, 255)
    )
    expected = by_formula(narrow, y0, y1, size).clip(0, 255)
    found = resample(image, x0, y0, x1, y1, size)
    assert found.dtype == np.uint8
    # Where Pillow's rule for which pixels count leaves out one that the cubic hardly reaches, it is not
    # there.
    difference = np.abs(found - expected)
    assert difference.max() <= 2
    # Rounding is off by .25 in the mean. A line between that is rounded the other way moves all that is read
    # from it, so that few values, or many of the same pixels, may be off by more.
    if min(x1 - x0, y1 - y0, size) >= MANY:
        assert difference.mean() <= 0.5


@settings(max_examples=300, deadline=None)
@given(boxes())
def test_it_is_pillows(given_: tuple[np.ndarray, tuple[float, float, float, float], int]):
    image, box, size = given_
    difference = np.abs(resample(image, *box, size).astype(int) - by_pillow(image, *box, size))
    assert (
        difference.max() <= 2
    )  # Pillow's weights are rounded: a level in between may be the next, and count a bit more than once
    assert difference.mean() < 0.1 or size < 5


@settings(max_examples=100, deadline=None)
@given(
    st.integers(2, 80), st.integers(2, 80), st.integers(2, 60), st.integers(0, 10**6)
)  # of one column torch makes an error
def test_a_whole_image_is_torchvisions(height: int, width: int, size: int, seed: int):
    smooth = np.random.default_rng(seed).integers(
        60, 190, (height, width, 3), dtype=np.uint8
    )  # no crest is cut off in between
    expected = F.resize(
        torch.from_numpy(smooth).permute(2, 0, 1).contiguous(),
        [size, size],
        InterpolationMode.BICUBIC,
        antialias=True,
    )
    found = resample(smooth, 0, 0, width, height, size)
    assert np.abs(found.astype(int) - expected.permute(1, 2, 0).numpy()).max() <= 2


def test_nothing_to_do_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (17, 17, 3), dtype=np.uint8)
    assert (resample(image, 0, 0, 17, 17, 17) == image).all()
    assert (resample(image, 3, 5, 10, 12, 7) == image[5:12, 3:10]).all()
    assert (resample(np.full((9, 5, 3), 255, np.uint8), 0.3, 1.7, 4.1, 8.8, 11) == 255).all()
