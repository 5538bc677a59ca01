"""From patches to pixels: the part of an image that a finding on its patch grid covers.

Patches are coarse: their edge is drawn to the image's own edges by a guided filter (He, Sun and Tang, ECCV
2010, section 3), which makes the object's field, in every window, the linear function of luminance that fits
it best.

Letters: H, W the image in pixels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from odis.finding.discover.spectral import Finding

EPSILON = 1e-3  # variance of luminance, of 0..1, below which a window has no edge
_LUMA = np.array([0.299, 0.587, 0.114]) / 255


def luminance(image: np.ndarray) -> np.ndarray:
    """Luma (H, W) from 0 to 1 of an image uint8 (H, W, 3)."""
    return image @ _LUMA


def to_pixels(
    finding: Finding, width: int, height: int, guide: np.ndarray | None = None, radius: float = 0.0
) -> np.ndarray:
    """The pixels of a finding: bool (H, W), at least one.

    The field, .5 at the object's edge, is enlarged bilinearly, and what is above .5 belongs to the object.
    Both sides of the field are scaled by their own mean (up to 0 and 1), so that the edge lies between
    patches as the two sides say, and is not drawn to the larger numbers. Patches of the object's side that
    are not of the object count as the other side. With a guide the enlarged field is filtered first, and the
    largest part of what is left (4 neighbours) is the object.

    Args:
        finding: An object on the patch grid.
        width: W.
        height: H.
        guide: Luminance (H, W), or None.
        radius: Of the guided filter, in patches; 0 filters nothing.
    """
    inside = finding.mask
    distance = np.abs(finding.field - 0.5)
    field = np.empty(inside.shape)
    field[inside], field[~inside] = (
        0.5 + _of_mean(distance[inside]) / 2,
        0.5 - _of_mean(distance[~inside]) / 2,
    )
    tensor = torch.from_numpy(field)[None, None]
    enlarged = F.interpolate(tensor, size=(height, width), mode="bilinear", align_corners=False)[0, 0].numpy()
    rows, columns = inside.shape
    if guide is not None and radius > 0:
        reach = round(radius * (height * width / (rows * columns)) ** 0.5)
        filtered = guided_filter(guide, enlarged, reach, EPSILON) > 0.5
        if filtered.any():
            labels, _ = ndimage.label(filtered)
            largest: np.ndarray = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
            return largest
    pixels = enlarged > 0.5
    if not pixels.any():  # smaller than what bilinear weights leave of it
        top, left = np.unravel_index(int(np.where(inside, finding.field, -1).argmax()), inside.shape)
        y, x = (
            min(int((top + 0.5) * height / rows), height - 1),
            min(int((left + 0.5) * width / columns), width - 1),
        )
        pixels[y, x] = True
    return pixels


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Values that follow the edges of a guide (He et al., equations 5, 6 and 8), float64 (H, W).

        for each window w: a[w] = cov(guide, values in w) / (var(guide in w) + epsilon), b[w] = mean(values in
        w) - a[w] mean(guide in w) for each pixel: mean of a[w] over the windows w it is in, times its guide,
        plus mean of b[w]

    Args:
        guide: (H, W).
        values: (H, W).
        radius: Windows are the 2 radius + 1 pixels wide squares around every pixel, cut off at the image's
            border.
        epsilon: Variance of the guide that is too little to follow.
    """
    size = 2 * radius + 1
    guide, values = guide.astype(np.float64), values.astype(np.float64)
    count = ndimage.uniform_filter(np.ones(guide.shape), size, mode="constant")

    def mean(of: np.ndarray) -> np.ndarray:
        means: np.ndarray = ndimage.uniform_filter(of, size, mode="constant") / count
        return means

    of_guide, of_values = mean(guide), mean(values)
    slope = (mean(guide * values) - of_guide * of_values) / (mean(guide * guide) - of_guide**2 + epsilon)
    filtered: np.ndarray = mean(slope) * guide + mean(of_values - slope * of_guide)
    return filtered


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The tight box of a bool (H, W) mask that is not empty."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)


def _of_mean(values: np.ndarray) -> np.ndarray:
    """Values as a share of their mean, up to 1; all 1 if they are all 0, as they are if they are all
    alike.
    """
    mean = float(values.mean()) if values.size else 0.0
    return np.minimum(values / mean, 1) if mean > 0 else np.ones_like(values)
