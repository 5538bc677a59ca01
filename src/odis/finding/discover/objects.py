"""Objects in images that nobody annotated, from the patch features of a self-supervised network.

No network here: features are an argument, whoever made them (`odis.finding.discover.discoverer` asks a model
for them). What is found on the patch grid (`spectral`, `seeds`) becomes a mask in pixels (`refine`), and is
kept if it satisfies the rules of `DiscoverConfig`, in this order:

1. it is clear: its score is `min_score` or more;
2. it is of a size: its mask covers from `min_area` to `max_area` of the image;
3. it is new: its box has an IoU of `max_overlap` at most with that of any clearer object that was kept.

Letters: B images, P patches of each (row-major), D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import normalize

from odis.config.discovery import DiscoverConfig, check_discover
from odis.config.wording import counted
from odis.finding.discover.refine import box_of, to_pixels
from odis.finding.discover.seeds import grow_objects
from odis.finding.discover.spectral import Finding, cut_objects
from odis.objects import rle
from odis.objects.edit.compare import iou
from odis.types import Object


def discover(
    features: Tensor,
    grid: tuple[int, int],
    image_sizes: Sequence[tuple[int, int]],
    config: DiscoverConfig,
    guides: Sequence[np.ndarray] | None = None,
) -> list[list[Object]]:
    """Objects of B images whose patches have been embedded.

    Args:
        features: (B, P, D) on any device, of images with one patch grid.
        grid: Rows and columns, P of them.
        image_sizes: Width and height in pixels of each image as it is stored; the grid covers all of it.
        config: Method and rules.
        guides: Luminance (height, width) of each image, to whose edges masks are drawn; None leaves them as
            the patches say.

    Returns:
        For each image its objects, the clearest first: mask, the tight box around it, and its score
        (`clearness`).

    Raises:
        ConfigError: settings that cannot be (`check_discover`).
        ValueError: features of another shape than the grid and the sizes say.
    """
    check_discover(config)
    if features.ndim != 3 or features.shape[1] != grid[0] * grid[1] or len(features) != len(image_sizes):
        raise ValueError(
            f"features {tuple(features.shape)} are not of {counted(len(image_sizes), 'image')} of {grid[0]} "
            f"x {grid[1]} patches"
        )
    features = features.detach().float()
    if config.center:
        features = features - features.mean(dim=1, keepdim=True)
    if config.method == "spectral":
        found = cut_objects(features, grid, tau=config.tau, max_objects=config.max_objects)
    else:
        found = grow_objects(features, grid, k=config.seeds_k, max_objects=config.max_objects)
    unit = normalize(features, dim=-1).cpu().numpy()
    drawn_to = [None] * len(found) if guides is None else guides
    return [_kept(of_one, unit[i], image_sizes[i], drawn_to[i], config) for i, of_one in enumerate(found)]


def clearness(unit: np.ndarray, mask: np.ndarray) -> float:
    """How clearly an object stands out from its surroundings, 0 to 1.

    Args:
        unit: (P, D), l2-normalised.
        mask: bool (rows, columns), its patches.

    Returns:
        Half of: the mean cosine of its patches with their mean, less that of the patches beside it (8
        neighbours). 0 if nothing is beside it.
    """
    beside = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~mask
    if not mask.any() or not beside.any():
        return 0.0
    inside, around = (unit[part.ravel()].astype(np.float64) for part in (mask, beside))
    mean = inside.mean(axis=0)
    mean /= max(float(np.linalg.norm(mean)), 1e-12)
    score = float((inside @ mean).mean() - (around @ mean).mean()) / 2
    return min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0


def _kept(
    found: Sequence[Finding],
    unit: np.ndarray,
    size: tuple[int, int],
    guide: np.ndarray | None,
    config: DiscoverConfig,
) -> list[Object]:
    scores = [clearness(unit, finding.mask) for finding in found]
    kept: list[Object] = []
    for place in np.argsort([-s for s in scores], kind="stable"):
        if scores[place] < config.min_score:
            break
        pixels = to_pixels(found[place], *size, guide, config.edge_radius)
        if not config.min_area <= pixels.mean() <= config.max_area:
            continue
        box = box_of(pixels)
        if kept and iou(np.array([box]), np.array([item.box for item in kept])).max() > config.max_overlap:
            continue
        kept.append(Object(box, rle.encode(pixels), score=scores[place]))
    return kept
