"""Patch tokens of images of any shape: what the protocols read that show no square.

Letters: B images, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from odis.backbones.features import keeps_aspect, patch_features
from odis.data.views import normalize_pixels
from odis.errors import OdisError
from odis.inference import Encoder
from odis.machine.devices import DTYPES


def check_any_shape(encoders: Sequence[Encoder], protocol: str) -> None:
    """Refuse models that take squares of one size alone.

    Raises:
        OdisError: Naming the first of them.
    """
    for encoder in encoders:
        if not keeps_aspect(encoder.model):
            raise OdisError(
                f"{encoder.source or 'this model'} takes squares of one size alone; {protocol} needs a ViT "
                f"that takes images of any shape"
            )


@torch.no_grad()
def patch_tokens(encoder: Encoder, pixels: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
    """Patches of the last block after the final norm: float32 (B, P, D) on the device, and rows and columns.

    Args:
        encoder: The model; see `check_any_shape`.
        pixels: uint8 (B, 3, H, W), sides of whole patches.

    Raises:
        OdisError: They are not finite.
    """
    images = normalize_pixels(torch.from_numpy(pixels).to(encoder.device), encoder.mean, encoder.std)
    return normalized_tokens(encoder, images)


@torch.no_grad()
def normalized_tokens(encoder: Encoder, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The same of images (B, 3, H, W) whose pixels are normalised, on the device."""
    dtype = DTYPES[encoder.precision]
    with torch.autocast(encoder.device.type, dtype=dtype, enabled=dtype != torch.float32):
        found, grid = patch_features(encoder.model, images, "token")
    patches = found.float()
    if not bool(patches.isfinite().all()):
        raise OdisError(
            "features hold values that are not finite: the model's weights or its precision are at fault"
        )
    return patches, grid
