"""Hue and blur of small images on the CPU, equal to torchvision's up to rounding, in far fewer tensor operations.

Both are most of what photometrics cost: torchvision's hue gathers per pixel, and its blur is a grouped convolution, whose
overhead exceeds its arithmetic at the size of a view.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def adjust_hue(image: Tensor, shift: float) -> Tensor:
    """The image with its hues turned by `shift` of the whole circle; saturation and value (HSV) stay.

    Args:
        image: float (3, H, W), RGB from 0 to 1.
        shift: From -0.5 to 0.5.
    """
    r, g, b = image.unbind(0)
    value = torch.maximum(torch.maximum(r, g), b)
    chroma = value - torch.minimum(torch.minimum(r, g), b)
    # Hue in sixths of the circle, from the largest channel. Where two are largest, both give the same hue; where all three are,
    # any hue will do, since chroma is 0.
    green = g == value
    blue = (b == value).logical_and_(g != value)
    difference = torch.where(green, b - r, torch.where(blue, r - g, g - b))
    hue = difference.div_(chroma.clamp(min=1e-12)).add_(green, alpha=2.0).add_(blue, alpha=4.0)
    # A channel falls short of the value by chroma * a trapezoid of the distance between its hue and its complement's.
    complement = hue.new_tensor([3.0, 5.0, 1.0]).sub_(6.0 * shift)[:, None, None]
    distance = hue - complement
    distance.sub_(distance.mul(1 / 6).round_(), alpha=6.0).abs_()
    return value - distance.neg_().add_(2.0).clamp_(0.0, 1.0).mul_(chroma)


def gaussian_blur(image: Tensor, sigma: float, radius: int) -> Tensor:
    """The image blurred by a Gaussian, reflected at its borders.

    Args:
        image: float (..., H, W), larger than `radius` on both sides.
        sigma: Standard deviation in pixels.
        radius: Pixels to either side at which the Gaussian is cut off.
    """
    weights = torch.arange(-radius, radius + 1, dtype=torch.float64).div_(sigma).square_().mul_(-0.5).softmax(0).tolist()
    height, width = image.shape[-2:]
    wide = pad(image, (radius, radius, radius, radius), mode="reflect")
    rows = wide[..., :height, :] * weights[0]
    for i in range(1, len(weights)):
        rows.add_(wide[..., i : i + height, :], alpha=weights[i])
    out = rows[..., :width] * weights[0]
    for i in range(1, len(weights)):
        out.add_(rows[..., i : i + width], alpha=weights[i])
    return out
