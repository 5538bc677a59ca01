"""By how much an image can be decoded smaller without any view losing sharpness."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np

from odis.config.training import ViewsConfig
from odis.errors import DataError
from odis.objects.index import ObjectIndex
from odis.types import Crop

# Below a million pixels decoding costs less than the sharpness a view would lose: decode those whole.
LARGE = 2**20

_SAMPLED = 50  # images of an index
# A photograph of 5 megapixels, with the usual views, is read in a quarter of the time from a copy this small.
_LARGE_SHRINK = 4


def needed_shrink(width: int, height: int, crops: Sequence[Crop], sizes: Sequence[int]) -> int:
    """The largest power of two by which an image can be shrunk so that no view has to be enlarged because of
    it.

    Args:
        width: Image width in pixels.
        height: Image height in pixels.
        crops: The crops of all views of the image.
        sizes: The sides of these views in pixels.

    Returns:
        1 for an image of less than `LARGE` pixels, else 1, 2, 4, 8, ...
    """
    if width * height < LARGE:
        return 1
    return _power_of_two(min(min(crop.width, crop.height) // size for crop, size in zip(crops, sizes)))


def guaranteed_shrink(width: int, height: int, views: ViewsConfig) -> int:
    """The largest power of two that `needed_shrink` never falls below, whatever crops are drawn.

    Args:
        width: Image width in pixels.
        height: Image height in pixels.
        views: Sizes, counts, scales and shapes of the views.
    """
    if width * height < LARGE:
        return 1
    narrow, wide = views.ratio
    least = math.inf
    for count, size, scale in (
        (views.global_views, views.global_size, views.global_scale),
        (views.local_views, views.local_size, views.local_scale),
    ):
        if count:
            # Rounding takes less than a pixel of a crop. An image that is too long gives its central crop.
            by_area = math.sqrt(scale[0] * width * height * min(narrow, 1 / wide)) - 1
            by_shape = min(width, height) * min(1.0, wide, 1 / narrow) - 1
            least = min(least, min(by_area, by_shape) / size)
    return _power_of_two(int(least))


def _power_of_two(most: int) -> int:
    return 1 << (most.bit_length() - 1) if most > 1 else 1


def are_large(index: ObjectIndex, views: ViewsConfig) -> bool:
    """Whether most images of an index are photographs of which copies of a quarter of their sides would do.

    Some fifty images are looked at.
    """
    found = []
    for row in np.linspace(0, len(index) - 1, min(len(index), _SAMPLED)).astype(int).tolist():
        with contextlib.suppress(DataError):  # the loader will say what is wrong with it
            image = index[row]
            found.append(guaranteed_shrink(image.width, image.height, views) >= _LARGE_SHRINK)
    return bool(found) and sum(found) > len(found) / 2
