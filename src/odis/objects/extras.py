"""What of an image file is not read as 8-bit colours: further pages and bands, half of 16 bits.

All of it is told by the header, which is open when this is asked.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from odis.errors import DataError
from odis.objects.decoding.kinds import is_deep
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.decoding.tiff_files import SAMPLES
from odis.objects.images import opened

LOW_BITS = "lower 8 bits of 16-bit images (views.value_ranges reads them)"

_UNUSED = {"RGBX": 3}  # bands that are pixels, where not all are

_DARK = 4095  # the most that 12 bits hold


def unread_parts(image: Image.Image) -> list[tuple[str, int]]:
    """Kinds of what is not read of an image, and how many there are of each. An alpha band is no news."""
    found = []
    if pages := _further_pages(image):
        found.append((f"further pages of {image.format} files", pages))
    if image.format == "TIFF" and (bands := _further_bands(image)):
        found.append(("further bands of TIFF files (views.channels reads them)", bands))
    if is_deep(image):
        found.append((LOW_BITS, 1))
    return found


def _further_pages(image: Image.Image) -> int:
    try:
        with quiet_pillow():
            return max(0, int(getattr(image, "n_frames", 1)) - 1)
    except Exception:  # a later page is broken: the first is what is read
        return 1


def _further_bands(image: Image.Image) -> int:
    try:
        samples = int(image.tag_v2.get(SAMPLES, 1))  # type: ignore[attr-defined]
    except Exception:  # a tag of another type
        return 0
    return max(0, samples - _UNUSED.get(image.mode, len(image.getbands())))


def is_dark(path: str) -> bool:
    """Whether a 16-bit image holds no value that needs more than 12 bits: read as 16, it is almost black.

    Raises:
        DataError: It cannot be decoded.
    """
    try:
        with quiet_pillow(), opened(path) as image:
            if image.mode not in ("I", "I;16", "I;16B", "I;16L"):
                return False
            values = np.asarray(image)
            return bool(values.size) and int(values.max()) <= _DARK
    except DataError:
        raise
    except Exception as error:  # decoders raise almost anything
        raise DataError(f"{path}: cannot be decoded ({error})") from error
