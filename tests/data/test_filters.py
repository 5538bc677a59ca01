"""Colour and blur against torchvision's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from odis.data.filters import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, gaussian_blur, luminance


def picture(seed: int, height: int, width: int) -> torch.Tensor:
    """Random pixels of few values, so that equal channels, black, white and pure colours all occur."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor([0.0, 0.2, 0.5, 128 / 255, 0.9, 1.0])
    coarse = levels[torch.randint(len(levels), (3, height, width), generator=generator)]
    fine = torch.rand(3, height, width, generator=generator)
    return torch.where(torch.rand(height, width, generator=generator) < 0.5, coarse, fine)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20), st.floats(-0.5, 0.5))
def test_hue_equals_torchvisions(seed, height, width, shift):
    image = picture(seed, height, width)
    before = image.clone()
    turned = adjust_hue(image, shift)
    torch.testing.assert_close(turned, F.adjust_hue(image, shift), atol=2e-5, rtol=0)
    assert (image == before).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20), st.floats(0, 2))
def test_colour_equals_torchvisions_and_is_changed_in_place(seed, height, width, factor):
    for ours, theirs in (
        (adjust_brightness, F.adjust_brightness), (adjust_contrast, F.adjust_contrast), (adjust_saturation, F.adjust_saturation),
    ):  # fmt: skip
        image = picture(seed, height, width)
        expected = theirs(image.clone(), factor)
        assert ours(image, factor) is image
        torch.testing.assert_close(image, expected, atol=2e-6, rtol=0)


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_luminance_equals_torchvisions(seed, height, width):
    image = picture(seed, height, width)
    torch.testing.assert_close(luminance(image), F.rgb_to_grayscale(image), atol=1e-6, rtol=0)


def test_hue_by_hand():
    red, grey = torch.tensor([1.0, 0.0, 0.0])[:, None, None], torch.full((3, 1, 1), 0.3)
    assert adjust_hue(red, 1 / 3).flatten().tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    assert adjust_hue(red, -1 / 3).flatten().tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    assert adjust_hue(red, 1 / 12).flatten().tolist() == pytest.approx([1, 0.5, 0], abs=1e-6)
    assert adjust_hue(grey, 0.4).equal(grey)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 20), st.integers(8, 20), st.floats(0.1, 3), st.integers(0, 7))
def test_blur_equals_torchvisions(seed, height, width, sigma, radius):
    image = picture(seed, height, width)
    blurred = gaussian_blur(image, sigma, radius)
    torch.testing.assert_close(blurred, F.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2), atol=1e-5, rtol=0)
