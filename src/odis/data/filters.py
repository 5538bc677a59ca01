"""Colour and blur of small images on the CPU, equal to torchvision's up to rounding, in far fewer passes over the pixels.

torchvision's hue gathers per pixel, its blur is a grouped convolution, whose overhead exceeds its arithmetic at the size of a view, and its
contrast makes a grey image to know the mean of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

LUMA = torch.tensor([0.2989, 0.587, 0.114])


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


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    """`image` (3, H, W), float in 0..1, changed in place: every channel times `factor`, cut off at 0 and 1."""
    return image.mul_(factor).clamp_(0.0, 1.0)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """`image` (3, H, W), float in 0..1, changed in place: moved away from its mean luminance by `factor`, cut off at 0 and 1."""
    mean = float(LUMA @ image.flatten(1).mean(1))
    return image.mul_(factor).add_((1.0 - factor) * mean).clamp_(0.0, 1.0)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """`image` (3, H, W), float in 0..1, changed in place: every pixel moved away from its luminance by `factor`, cut off at 0 and 1."""
    grey = luminance(image)
    return image.mul_(factor).add_(grey, alpha=1.0 - factor).clamp_(0.0, 1.0)


def luminance(image: Tensor) -> Tensor:
    """(1, H, W) of (3, H, W): ITU-R 601, as torchvision and Pillow weigh the channels."""
    return (LUMA @ image.flatten(1)).view(1, *image.shape[1:])
