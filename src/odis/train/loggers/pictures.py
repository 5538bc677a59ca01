"""Pictures of a step, for loggers that show some: what the teacher was shown, and where `[OBJ]` looks."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from odis.backbones.attention_maps import object_attention_maps
from odis.config.training import PretrainConfig
from odis.data.views import as_colours
from odis.errors import OdisError
from odis.method.vit import ObjectViT
from odis.types import Batch

IMAGES = 4
"""Images of a batch that are shown, one a row."""

_TINT = torch.tensor([1.0, 0.55, 0.0])  # of the object's patches

_HIDDEN = 0.25  # brightness of a patch that is hidden from the student


@torch.no_grad()
def step_pictures(batch: Batch, teacher: ObjectViT, config: PretrainConfig) -> dict[str, np.ndarray]:
    """Pictures of the first global view of some images, each of a row.

    Args:
        batch: The step's input.
        teacher: The teacher's backbone; it is left as it is.
        config: The run's config.

    Returns:
        `views`: the view, the view with its target object tinted, and the view with the patches dark that the
        student does not see; `attention`: the view, and the attention of `[OBJ]` to its patches in the last
        block, mean over heads; missing for a backbone whose attention cannot be read. uint8 (height, width,
        3) each.
    """
    n = min(IMAGES, batch.size)
    pixels = batch.global_views[:n]
    masks = batch.global_masks[:n, :1]
    side = int(teacher.patch_embed.patch_size[0])
    rows, columns = (length // side for length in pixels.shape[2:])
    mean, std = (
        torch.tensor(values, device=pixels.device).view(1, -1, 1, 1) for values in config.views.statistics
    )
    shown = as_colours(pixels.float() * std + mean).clamp(0, 1).cpu()

    def spread(patches: Tensor) -> Tensor:
        """(n, 1, H, W) of (n, P)."""
        grid = patches.float().cpu().view(n, 1, rows, columns)
        return F.interpolate(grid, size=shown.shape[2:], mode="nearest")

    inside, hidden = spread(masks[:, 0]), spread(batch.prediction_masks[:n])
    tinted = shown * (1 - 0.5 * inside) + 0.5 * inside * _TINT.view(1, 3, 1, 1)
    dark = shown * (1 - hidden * (1 - _HIDDEN))
    found = {"views": _rows(shown, tinted, dark)}
    try:
        weights = object_attention_maps(teacher, pixels, masks)[:, 0].mean(1)
    except OdisError:
        return found
    heat = spread(weights / weights.amax(1, keepdim=True).clamp_min(1e-12))
    return found | {"attention": _rows(shown, heat.expand(-1, 3, -1, -1))}


def _rows(*columns: Tensor) -> np.ndarray:
    """uint8 (rows x height, columns x width, 3) of (n, 3, height, width) each."""
    row = torch.cat(columns, dim=3)
    stacked = row.permute(0, 2, 3, 1).reshape(-1, row.shape[3], 3)
    return (stacked * 255).round().to(torch.uint8).numpy()
