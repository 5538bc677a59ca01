"""A pyramid of features from the one map of a plain ViT (ViTDet, arXiv 2203.16527, section 3).

Letters: B images, D width of the backbone, C channels, p patch size in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from odis.backbones.features import as_one_object
from odis.method.vit import ObjectViT


def patch_map(backbone: ObjectViT, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Patches (B, D, rows, columns) of whole images (B, 3, H, W) after the final norm, in `dtype`."""
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
        tokens = as_one_object(backbone, images)
    found: Tensor = tokens.patches.transpose(1, 2).unflatten(2, tokens.grid)
    return found


class SimplePyramid(nn.Module):
    """Maps of C channels at several resolutions, each made of the last map alone.

    Transposed convolutions enlarge it, max pooling shrinks it; then come a 1 x 1 and a 3 x 3 convolution with
    layer norms, as in ViTDet.

    Args:
        width: D.
        channels: C.
        scales: Resolution of each map over that of the patches: some of 4, 2, 1, 0.5.
    """

    def __init__(self, width: int, channels: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.levels = nn.ModuleList(_level(width, channels, scale) for scale in self.scales)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, rows * scale, columns * scale) for each scale, of x (B, D, rows, columns)."""
        return [level(x) for level in self.levels]


def strides(patch: int, scales: Sequence[float]) -> list[float]:
    """Pixels of an image from one cell of each map to the next; not whole for a patch of 14."""
    return [patch / scale for scale in scales]


def canvas_side(size: int, patch: int, scales: Sequence[float]) -> int:
    """The least side in pixels, `size` or more, that patches tile, and the pyramid with one more level of
    half the coarsest resolution.
    """
    step = patch * max(1, round(2 / min(scales)))
    return -(-size // step) * step


def padded(pixels: Tensor, side: int) -> Tensor:
    """Normalised pixels (3, h, w) with zeros below and to the right: (3, side, side)."""
    return F.pad(pixels, (0, side - pixels.shape[2], 0, side - pixels.shape[1]))


def _level(width: int, channels: int, scale: float) -> nn.Sequential:
    parts: list[nn.Module] = []
    if scale >= 2:
        half = max(1, width // 2)
        parts.append(nn.ConvTranspose2d(width, half, 2, 2))
        if scale == 4:
            parts += [LayerNorm2d(half), nn.GELU(), nn.ConvTranspose2d(half, max(1, half // 2), 2, 2)]
            half = max(1, half // 2)
        width = half
    elif scale == 0.5:
        parts.append(nn.MaxPool2d(2, 2))
    parts += [nn.Conv2d(width, channels, 1, bias=False), LayerNorm2d(channels)]
    parts += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels)]
    return nn.Sequential(*parts)
