"""Colour and blur against torchvision's, on pixels from 0 to 255."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from odis.data.augment.cpu import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    luminance,
    normalize,
    to_chw,
)


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Random pixels of few values, so that equal channels, black, white and pure colours all occur; float32
    (3, height, width).
    """
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0.0, 51.0, 127.0, 128.0, 230.0, 255.0], (3, height, width))
    fine = 255 * rng.random((3, height, width))
    return np.where(rng.random((height, width)) < 0.5, coarse, fine).astype(np.float32)


def assert_close(ours: np.ndarray, theirs: torch.Tensor, levels: float) -> None:
    """`theirs` is in 0..1."""
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, 255 * theirs.numpy(), atol=levels, rtol=0)


def unit(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image / 255)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20), st.floats(-0.5, 0.5))
def test_hue_equals_torchvisions(seed, height, width, shift):
    image = picture(seed, height, width)
    before = image.copy()
    assert_close(adjust_hue(image, shift), F.adjust_hue(unit(image), shift), 5e-3)
    assert (image == before).all()


@pytest.mark.parametrize("sixths", range(-3, 4))
def test_hue_turns_by_whole_sixths(sixths):
    image = picture(sixths + 3, 12, 12)
    assert_close(adjust_hue(image, sixths / 6), F.adjust_hue(unit(image), sixths / 6), 5e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20), st.floats(0, 2))
def test_colour_equals_torchvisions_and_is_changed_in_place(seed, height, width, factor):
    for ours, theirs in (
        (adjust_brightness, F.adjust_brightness),
        (adjust_contrast, F.adjust_contrast),
        (adjust_saturation, F.adjust_saturation),
    ):
        image = picture(seed, height, width)
        expected = theirs(unit(image), factor)
        assert ours(image, factor) is image
        assert_close(image, expected, 5e-4)


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_luminance_equals_torchvisions(seed, height, width):
    image = picture(seed, height, width)
    assert_close(luminance(image)[None], F.rgb_to_grayscale(unit(image)), 3e-4)


def test_hue_by_hand():
    red, grayscale = (
        np.array([255.0, 0.0, 0.0], np.float32)[:, None, None],
        np.full((3, 1, 1), 77, np.float32),
    )
    assert adjust_hue(red, 1 / 3).ravel().tolist() == pytest.approx([0, 255, 0], abs=1e-3)
    assert adjust_hue(red, -1 / 3).ravel().tolist() == pytest.approx([0, 0, 255], abs=1e-3)
    assert adjust_hue(red, 1 / 12).ravel().tolist() == pytest.approx([255, 127.5, 0], abs=1e-3)
    assert (adjust_hue(grayscale, 0.4) == grayscale).all()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 20), st.integers(8, 20), st.floats(0.1, 3), st.integers(0, 7))
def test_blur_equals_torchvisions(seed, height, width, sigma, radius):
    image = picture(seed, height, width)
    before = image.copy()
    assert_close(
        gaussian_blur(image, sigma, radius),
        F.gaussian_blur(unit(image), [2 * radius + 1] * 2, [sigma] * 2),
        3e-3,
    )
    assert (image == before).all()


def test_blur_reaches_across_the_whole_image():
    for side in (2, 3, 5):
        image = picture(side, side, side)
        expected = F.gaussian_blur(unit(image), [2 * side - 1] * 2, [2.0] * 2)
        assert_close(gaussian_blur(image, 2.0, side - 1), expected, 3e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_planes_are_the_pixels_mirrored_if_asked(seed, height, width, flip):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = pixels.transpose(2, 0, 1)[..., :: -1 if flip else 1]
    found = to_chw(pixels, flip)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert (found == expected).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_finish_rounds_solarises_and_normalises_as_torchvision(seed, height, width, solarize):
    image = picture(seed, height, width)
    before, out = image.copy(), np.full_like(image, np.nan)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalize(image, solarize, 255 * np.array(mean, np.float32), 255 * np.array(std, np.float32), out)
    whole = torch.from_numpy(image).round().to(torch.uint8)
    shown = F.solarize(whole, 128) if solarize else whole
    np.testing.assert_allclose(
        out, F.normalize(F.to_dtype(shown, torch.float32, scale=True), mean, std).numpy(), atol=1e-5, rtol=0
    )
    assert (image == before).all()
    normalize(image, solarize, np.zeros(3, np.float32), np.ones(3, np.float32), image)
    assert (image == shown.numpy()).all()
