"""Photometrics of channels that are no colours: against formulas in float64, on both devices."""

import numpy as np
import pytest
import torch

from odis.config.training import ViewsConfig
from odis.data.augment.bands import bands_to_chw, contrast_of_each, mean_of_all, resample_bands
from odis.data.augment.device import Rows, ViewTable, crop_and_resize, photometrics_of_all, view_row
from odis.data.augment.draw import BRIGHTNESS, CONTRAST, apply_photometrics, draw_photometrics
from odis.data.augment.resampling import resample
from odis.data.pixels.decode import Decoded
from odis.data.views import resized_crop
from odis.types import Crop

RNG = np.random.default_rng(0)


def pixels(channels: int, side: int = 20) -> np.ndarray:
    return RNG.integers(0, 256, (channels, side, side)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_contrast_is_about_the_mean_of_each_channel(channels: int) -> None:
    image = pixels(channels)
    exact = image.astype(np.float64)
    mean = exact.mean((1, 2), keepdims=True)
    expected = np.clip(mean + 1.4 * (exact - mean), 0, 255)
    assert np.abs(contrast_of_each(image.copy(), 1.4) - expected).max() < 255 * 2**-20


def test_grayscale_is_the_mean_of_all_channels() -> None:
    image = pixels(7)
    assert np.abs(mean_of_all(image) - image.astype(np.float64).mean(0)).max() < 255 * 2**-20


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_channels_are_resized_and_mirrored_one_by_one(channels: int) -> None:
    image = RNG.integers(0, 256, (40, 50, channels)).astype(np.uint8)
    each = [
        resample(np.ascontiguousarray(image[..., [c] * 3]), 1.3, 2.0, 33.6, 30.2, 16)[..., 0]
        for c in range(channels)
    ]
    assert np.array_equal(resample_bands(image, 1.3, 2.0, 33.6, 30.2, 16), np.stack(each, 2))
    assert np.array_equal(bands_to_chw(image, True), image[:, ::-1].transpose(2, 0, 1))
    decoded, crop = Decoded(torch.from_numpy(image).permute(2, 0, 1)), Crop(3, 4, 37, 39)
    one = [
        resized_crop(Decoded(torch.from_numpy(image[..., [c] * 3].copy()).permute(2, 0, 1)), crop, 16)
        for c in range(channels)
    ]
    assert np.array_equal(resized_crop(decoded, crop, 16), np.stack([shown[..., 0] for shown in one], axis=2))


@pytest.mark.parametrize("channels", [1, 13])
def test_saturation_and_hue_are_not_drawn_and_nothing_else_moves(channels: int) -> None:
    views = ViewsConfig(jitter=1.0, grayscale=0.5)
    for seed in range(20):
        colours = draw_photometrics(np.random.default_rng(seed), 32, 0, views)
        other = draw_photometrics(
            np.random.default_rng(seed), 32, 0, ViewsConfig(jitter=1.0, grayscale=0.5, channels=channels)
        )
        kept = tuple(one for one in colours.jitter if one[0] in (BRIGHTNESS, CONTRAST))
        assert other.jitter == kept
        assert len(kept) == 2
        assert (other.grayscale, other.sigma, other.radius, other.solarize) == (
            colours.grayscale, colours.sigma, colours.radius, colours.solarize,
        )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 5])
def test_the_device_renders_the_views_of_the_cpu(channels: int) -> None:
    side, views = 16, ViewsConfig(jitter=1.0, grayscale=0.5, solarize=(0.5,) * 3, channels=channels)
    image = RNG.integers(0, 256, (30, 40, channels)).astype(np.uint8)
    crops = [Crop(2, 3, 30, 29, flip) for flip in (False, True, False)]
    drawn = [draw_photometrics(np.random.default_rng(k), side, 0, views) for k in range(3)]
    decoded = Decoded(torch.from_numpy(image).permute(2, 0, 1))
    rows = [view_row((c.x0, c.y0, c.x1, c.y1), c.flip, done) for c, done in zip(crops, drawn)]
    table = ViewTable.of(torch.tensor(rows, dtype=torch.float32))
    given = torch.from_numpy(image).permute(0, 2, 1)[None].float()
    found = photometrics_of_all(
        crop_and_resize(given, table, side), table, Rows.of(table, torch.device("cpu"))
    )
    zero, one = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    for k, (crop, done) in enumerate(zip(crops, drawn)):
        expected = np.empty((channels, side, side), np.float32)
        made = bands_to_chw(resized_crop(decoded, crop, side), crop.flip)
        apply_photometrics(made, done, zero, one, expected)
        # Crops are rounded to 8 bits in between on both; a level there is at most 1.4 levels after contrast.
        assert np.abs(found[k].numpy() - expected).max() <= 3
        assert np.abs(found[k].numpy() - expected).mean() < 0.5
