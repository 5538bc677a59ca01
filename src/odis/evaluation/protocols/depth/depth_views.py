"""How images and depth maps of NYU are shown: the random view that a head learns from (after BTS), and pixels
padded to whole patches.

Letters: H, W the view in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

BORDER = (43, 45, 608, 472)
"""Left, upper, right and lower edge of what a train image keeps: without the white border of NYU."""

_HALF = 0.5


@dataclass(frozen=True, slots=True)
class DepthView:
    """The border is cut off; turned by up to 2.5 degrees and mirrored, each half of the time; a random crop;
    gamma, brightness and channels changed half of the time.

    Args:
        height: H.
        width: W.
    """

    height: int = 416
    width: int = 544

    def __call__(
        self, image: Image.Image, depth: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (3, H, W), and metres float32 (H, W), 0 where depth is not known.

        Args:
            image: 640 x 480.
            depth: Metres float32 (480, 640).
            rng: What the view draws from.
        """
        image, metres = image.crop(BORDER), Image.fromarray(depth).crop(BORDER)
        if rng.random() < _HALF:
            angle = float(rng.uniform(-2.5, 2.5))
            image = image.rotate(angle, Image.Resampling.BILINEAR)
            metres = metres.rotate(angle, Image.Resampling.NEAREST)
        pixels, known = np.asarray(image), np.asarray(metres)
        if rng.random() < _HALF:
            pixels, known = pixels[:, ::-1], known[:, ::-1]
        top = int(rng.integers(pixels.shape[0] - self.height + 1))
        left = int(rng.integers(pixels.shape[1] - self.width + 1))
        part = slice(top, top + self.height), slice(left, left + self.width)
        pixels, known = pixels[part], known[part]
        if rng.random() < _HALF:
            pixels = _recoloured(pixels, rng)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)), np.ascontiguousarray(known)


def _recoloured(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gamma, brightness = rng.uniform(0.9, 1.1), rng.uniform(0.75, 1.25)
    channels = rng.uniform(0.9, 1.1, 3)
    values = (pixels / 255) ** gamma * brightness * channels
    changed: np.ndarray = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return changed


def padded(images: Tensor, patch: int) -> tuple[Tensor, tuple[int, int]]:
    """Images (B, C, H, W) with zeros around them to whole patches, as much on either side; and how many rows
    and columns were added above and to the left.
    """
    height, width = -images.shape[-2] % patch, -images.shape[-1] % patch
    top, left = height // 2, width // 2
    return pad(images, (left, width - left, top, height - top)), (top, left)


def resized(maps: Tensor, size: tuple[int, int], patch: int, shown: tuple[int, int]) -> Tensor:
    """Maps (B, h, w) of the patches of padded images at another size, bilinear, without what was padded.

    Args:
        maps: One value a patch.
        size: H and W of the result.
        patch: Side of a patch.
        shown: Height and width of the images before they were padded.
    """
    rows, columns = (-(-side // patch) * patch for side in shown)
    if (rows, columns) != tuple(shown):
        maps = torch.nn.functional.interpolate(maps[:, None], (rows, columns), mode="bilinear")[:, 0]
        top, left = (rows - shown[0]) // 2, (columns - shown[1]) // 2
        maps = maps[:, top : top + shown[0], left : left + shown[1]]
        if tuple(shown) == tuple(size):
            return maps
    return torch.nn.functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
