"""Views against torchvision's transforms, which the references use."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as tv

from odis.evaluation.protocols.images.views import CenterCrop, Squash


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(st.integers(3, 90), st.integers(3, 90), st.sampled_from([(32, 28), (16, 16), (10, 14)]))
def test_a_centre_crop_is_that_of_torchvision(width: int, height: int, sizes: tuple[int, int]):
    image, (resize, crop) = picture(width, height), sizes
    reference = tv.Compose(
        [
            tv.Resize(resize, interpolation=tv.InterpolationMode.BICUBIC),
            tv.CenterCrop(crop),
            tv.PILToTensor(),
        ]
    )
    assert np.array_equal(CenterCrop(resize, crop)(image), reference(image).numpy())


@given(st.integers(30, 90), st.integers(30, 90))
def test_boxes_follow_the_resize_and_the_crop(width: int, height: int):
    """A white square is found in the view where its box is said to be."""
    view = CenterCrop(64, 56)
    array = np.zeros((height, width, 3), dtype=np.uint8)
    x0, y0 = width // 2 - 6, height // 2 - 5
    array[y0 : y0 + 11, x0 : x0 + 13] = 255
    box = np.array([[x0, y0, x0 + 13, y0 + 11]], dtype=np.float64)
    moved = view.boxes(box, (width, height))[0]
    shown = view(Image.fromarray(array))[0] > 127
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(moved.clip(0, 56) - found).max() <= 1  # pixels are whole


@pytest.mark.parametrize("size", [(40, 30), (17, 60)])
def test_a_squashed_image_and_its_labels_lie_on_each_other(size: tuple[int, int]):
    image = picture(*size)
    reference = tv.Compose(
        [tv.Resize((24, 24), interpolation=tv.InterpolationMode.BILINEAR), tv.PILToTensor()]
    )
    assert np.array_equal(Squash(24)(image), reference(image).numpy())
    labels = np.random.default_rng(0).integers(-1, 200, (size[1], size[0])).astype(np.int32)
    # nearest: the pixel under the middle of the small one
    rows = ((np.arange(24) + 0.5) * size[1] / 24).astype(int)
    columns = ((np.arange(24) + 0.5) * size[0] / 24).astype(int)
    assert np.array_equal(Squash(24).labels(labels), labels[rows][:, columns])
