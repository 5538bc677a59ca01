"""The linear head of depth: bins of depth, its loss, and its error (DINOv3, appendix D.2).

Letters: B images, P patches (h rows, w columns), D width, K bins, n pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from odis.evaluation.protocols.layouts.nyu import DEEPEST, SHALLOWEST

BINS = 256
EIGEN = (slice(45, 471), slice(41, 601))
"""Rows and columns on which depth is scored: Eigen's crop."""


class DepthHead(nn.Module):
    """Batch norm and a 1 x 1 convolution to K bins; depth is the mean of their depths, weighted linearly.

        w = ReLU(x) + .1;  depth = sum(w * bins) / sum(w),  bins: K values evenly from .001 to 10 m

    Args:
        width: D.
        bins: K.
    """

    bins: Tensor

    def __init__(self, width: int, bins: int = BINS) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, bins, 1)
        self.register_buffer("bins", torch.linspace(SHALLOWEST, DEEPEST, bins), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Metres (B, h, w) of features (B, D, h, w)."""
        weights = self.conv(self.norm(features)).relu() + 0.1
        depth: Tensor = (weights * self.bins[:, None, None]).sum(dim=1) / weights.sum(dim=1)
        return depth


def depth_loss(predicted: Tensor, truth: Tensor, *, variance: bool = True) -> Tensor:
    """Root of the variance of the difference of logarithms plus .15 times its squared mean, over known
    pixels.

    Args:
        predicted: Metres, of any shape.
        truth: Of that shape; 0 where it is not known.
        variance: Leave the variance out, as in the first iterations, if false.
    """
    known = truth > 0
    if int(known.sum()) < 2:
        return predicted.sum() * 0
    difference = predicted[known].log() - truth[known].log()
    spread = difference.var() if variance else 0.0
    # the root has no slope at 0
    return (spread + 0.15 * difference.mean() ** 2).clamp_min(1e-12).sqrt()


def learning_rate(iteration: int, iterations: int, warm_up: int) -> float:
    """Share of the learning rate: a line from 1/1,000 to 1 over the warm-up, times the cosine that runs over
    all iterations from 1 to 1/25,000.
    """
    warm = 1.0 if iteration >= warm_up else 1e-3 + (1 - 1e-3) * iteration / warm_up
    end = 1 / 25000
    return warm * (end + (1 - end) * (1 + math.cos(math.pi * iteration / iterations)) / 2)


def first_beta(iteration: int, iterations: int, warm_up: int, as_published: bool) -> float:
    """AdamW's beta1: .85 at the end of the warm-up, .95 at the end; in the warm-up 0 as released, else
    .85.
    """
    if iteration < warm_up:
        return 0.0 if as_published else 0.85
    done = (iteration - warm_up) / max(1, iterations - warm_up)
    return 0.95 - 0.1 * (1 + math.cos(math.pi * done)) / 2


def image_rmse(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Root of the mean squared error of one image in metres, over its known pixels in Eigen's crop; NaN where
    none is known.

    Args:
        predicted: Metres (480, 640); clamped to .001 to 10.
        truth: The same, 0 where it is not known.
    """
    said, true = predicted[EIGEN].astype(np.float64), truth[EIGEN].astype(np.float64)
    known = true > 0
    if not known.any():
        return math.nan
    return float(np.sqrt(np.mean((np.clip(said, SHALLOWEST, DEEPEST)[known] - true[known]) ** 2)))


def patch_depth(truth: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The mean known depth of each patch, float32 (h, w); where a patch knows none, that of the nearest one
    that does. Patches tile the map.
    """
    from scipy import ndimage

    rows, columns = truth.shape[0] // grid[0], truth.shape[1] // grid[1]
    tiles = truth[: rows * grid[0], : columns * grid[1]].reshape(grid[0], rows, grid[1], columns)
    count = (tiles > 0).sum(axis=(1, 3))
    means = tiles.sum(axis=(1, 3)) / np.maximum(count, 1)
    if (count == 0).any() and count.any():
        nearest = ndimage.distance_transform_edt(count == 0, return_distances=False, return_indices=True)
        means = means[tuple(nearest)]
    found: np.ndarray = means.astype(np.float32)
    return found
