"""Views of a batch at once against torchvision, Pillow and the CPU path, one view at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from odis.config.training import ViewsConfig
from odis.data.augment.cpu import to_chw
from odis.data.augment.device import (
    Rows,
    ViewTable,
    crop_and_resize,
    normalize_batch,
    photometrics_of_all,
    resize_weights,
    view_row,
)
from odis.data.augment.draw import Photometrics, apply_photometrics, draw_photometrics
from odis.data.pixels.decode import Decoded
from odis.data.views import normalize_pixels, resized_crop
from odis.types import Crop

NOTHING = Photometrics()
CPU = torch.device("cpu")


def render(image: Decoded, crop: Crop, size: int) -> torch.Tensor:
    """A crop as a view: uint8 (3, size, size)."""
    return torch.from_numpy(to_chw(resized_crop(image, crop, size), crop.flip)).to(torch.uint8)


def rough(seed: int, height: int, width: int) -> torch.Tensor:
    """Random pixels, some of them black and white, uint8 (3, height, width)."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[rng.random((height, width)) < 0.3] = 0
    pixels[rng.random((height, width)) < 0.3] = 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def table(boxes: list, flips: list[bool], drawn: list[Photometrics]) -> ViewTable:
    return ViewTable.of(
        torch.tensor([view_row(*row) for row in zip(boxes, flips, drawn)], dtype=torch.float32)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([1, 2, 7, 16, 33]),
    st.booleans(),
)
def test_weights_are_those_of_torchvisions_antialiased_resizing(seed, height, width, size, flip):
    rng = np.random.default_rng(seed)
    (x0, x1), (y0, y1) = (sorted(rng.choice(side + 1, 2, replace=False).tolist()) for side in (width, height))
    image = torch.from_numpy(rng.random((3, height, width), dtype=np.float32))
    start, end = torch.tensor([float(x0), float(y0)]), torch.tensor([float(x1), float(y1)])
    columns = resize_weights(start[:1], end[:1], torch.tensor([flip]), size, width)[0]
    rows = resize_weights(start[1:], end[1:], torch.tensor([False]), size, height)[0]
    box = (y0, x0, y1 - y0, x1 - x0)
    expected = F.resized_crop(image, *box, [size, size], InterpolationMode.BICUBIC, antialias=True)
    expected = F.horizontal_flip(expected) if flip else expected
    torch.testing.assert_close(rows @ image @ columns.T, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("size", [1, 16, 48])
def test_many_crops_of_several_images_equal_one_at_a_time(size):
    """To one level: what is rounded after the columns rarely falls to the other side."""
    rng, images = (
        np.random.default_rng(size),
        [rough(i, *sides) for i, sides in enumerate([(50, 70), (61, 33), (1, 1), (80, 2)])],
    )
    crops = []
    for image in images:
        height, width = image.shape[1:]
        for _ in range(3):
            (x0, x1), (y0, y1) = (
                sorted(rng.choice(side + 1, 2, replace=False).tolist()) for side in (width, height)
            )
            crops.append(Crop(x0, y0, x1, y1, bool(rng.integers(2))))
    padded = torch.zeros(4, 80, 3, 70)
    for i, image in enumerate(images):
        padded[i, : image.shape[1], :, : image.shape[2]] = image.transpose(0, 1)
    views = table([(c.x0, c.y0, c.x1, c.y1) for c in crops], [c.flip for c in crops], [NOTHING] * 12)
    got = crop_and_resize(padded, views, size)
    assert got.equal(got.round())
    differences = torch.stack(
        [got[v] - render(Decoded(images[v // 3]), crop, size) for v, crop in enumerate(crops)]
    ).abs()
    assert differences.max() <= 1
    assert differences.mean() < 0.03


def test_crops_that_begin_within_pixels_equal_pillows():
    image, rng = rough(0, 40, 50), np.random.default_rng(0)
    for _ in range(20):
        x0, y0 = rng.uniform(0, 20, 2)
        x1, y1 = x0 + rng.uniform(5, 29), y0 + rng.uniform(5, 19)
        left, top, right, bottom = int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))
        cut = Image.fromarray(image[:, top:bottom, left:right].permute(1, 2, 0).numpy())
        # One axis at a time: by itself Pillow begins with either, which shows where a crest is cut off in
        # between.
        narrow = cut.resize(
            (16, cut.height), Image.Resampling.BICUBIC, box=(x0 - left, 0, x1 - left, cut.height)
        )
        view = narrow.resize((16, 16), Image.Resampling.BICUBIC, box=(0, y0 - top, 16, y1 - top))
        got = crop_and_resize(
            image.transpose(0, 1)[None].float(), table([(x0, y0, x1, y1)], [False], [NOTHING]), 16
        )[0]
        assert (got - torch.from_numpy(np.array(view)).permute(2, 0, 1)).abs().max() <= 1


@pytest.mark.parametrize("strength", [(0.4, 0.4, 0.2, 0.1), (0.9, 0, 0, 0.5), (0, 0.9, 1, 0)])
@pytest.mark.parametrize("size", [1, 2, 24, 64])
def test_photometrics_of_many_views_equal_one_at_a_time(size, strength):
    views = ViewsConfig(
        jitter_strength=strength, grayscale=0.3, blur=(0.5, 0.5, 0.5), solarize=(0.3, 0.3, 0.3)
    )
    rng = np.random.default_rng(size)
    drawn = [draw_photometrics(rng, size, k % 3, views) for k in range(80)]
    orders = {tuple(op for op, _ in d.jitter) for d in drawn}
    assert len(orders) > 3 or strength[0] != 0.4
    pixels = torch.stack(
        [
            rough(k, size, size) if k % 4 else render(Decoded(rough(k, 9, 9)), Crop(0, 0, 9, 9), size)
            for k in range(80)
        ]
    )
    views_of_all = table([(0, 0, 1, 1)] * 80, [False] * 80, drawn)
    got = photometrics_of_all(pixels.float(), views_of_all, Rows.of(views_of_all, CPU))
    expected, none, one = torch.empty(pixels.shape), np.zeros(3, np.float32), np.ones(3, np.float32)
    for p, d, out in zip(pixels, drawn, expected):
        apply_photometrics(p.float().numpy(), d, none, one, out.numpy())
    assert (got - expected).abs().max() <= 1
    assert (got != expected).float().mean() < 0.01
    quiet = table([(0, 0, 1, 1)] * 80, [False] * 80, [NOTHING] * 80)
    assert photometrics_of_all(pixels.float(), quiet, Rows.of(quiet, CPU)).equal(pixels.float())


def test_normalising_is_that_of_the_cpu_path():
    pixels, views = torch.stack([rough(k, 8, 8) for k in range(3)]), ViewsConfig()
    torch.testing.assert_close(
        normalize_batch(pixels.float(), *views.statistics),
        normalize_pixels(pixels, *views.statistics),
    )
