"""All views of a batch at once, on any device: two batched matrix products resize the crops, photometrics are
batched tensor operations.

Given the same crops and photometrics, the pixels are those of the CPU path (`views.render_views`) up to its
rounding to 8 bits. What differs between views (weights, factors, sigmas) is in tensors. Which views an
operation applies to is computed on the CPU, so that nothing here waits for the device.

n images, V views an image, N views, S side of a view, h and w the sides of the largest image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odis.data.augment.cpu import LUMA
from odis.data.augment.draw import BRIGHTNESS, CONTRAST, HUE, SATURATION, Photometrics


@dataclass(frozen=True, slots=True)
class ViewTable:
    """Geometry and photometrics of N views, a row each."""

    boxes: Tensor  # float32 (N, 4): x0, y0, x1, y1 of the crop in its image
    flip: Tensor  # bool (N,)
    operations: Tensor  # int64 (N, 4): the jitter's operations in order (`augment.draw`), -1 for none
    amounts: Tensor  # float32 (N, 4): the amount of each
    grayscale: Tensor  # bool (N,)
    sigma: Tensor  # float32 (N,): 0 for no blur
    radius: Tensor  # float32 (N,)
    solarize: Tensor  # bool (N,)

    @classmethod
    def of(cls, rows: Tensor) -> ViewTable:
        """The table from the one tensor that workers send: `view_row`s, float32 (N, 17)."""
        flags = rows[:, 4] > 0, rows[:, 13] > 0, rows[:, 16] > 0
        return cls(
            rows[:, :4],
            flags[0],
            rows[:, 5:9].long(),
            rows[:, 9:13],
            flags[1],
            rows[:, 14],
            rows[:, 15],
            flags[2],
        )


def view_row(box: Sequence[float], flip: bool, drawn: Photometrics) -> list[float]:
    """A view's row of the table: box, flip, operations, amounts, grayscale, sigma, radius, solarize."""
    jitter = [*drawn.jitter, *[(-1, 0.0)] * (4 - len(drawn.jitter))]
    operations, amounts = [op for op, _ in jitter], [amount for _, amount in jitter]
    return [*box, flip, *operations, *amounts, drawn.grayscale, drawn.sigma, drawn.radius, drawn.solarize]


@dataclass(frozen=True, slots=True)
class Rows:
    """The views that each operation applies to, as int64 row numbers."""

    hue: tuple[Tensor, ...]  # for each position in the jitter's order
    colour: tuple[bool, ...]  # whether any view has another operation at that position
    grayscale: Tensor
    blur: Tensor

    @classmethod
    def of(cls, table: ViewTable, device: torch.device) -> Rows:
        """Of a table on the CPU, for use on `device`."""

        def numbers(chosen: Tensor) -> Tensor:
            return chosen.nonzero().squeeze(1).to(device, non_blocking=True)

        hue = table.operations == HUE
        other = ((table.operations >= 0) & ~hue).any(0)
        return cls(
            tuple(numbers(place) for place in hue.T),
            tuple(other.tolist()),
            numbers(table.grayscale),
            numbers(table.sigma > 0),
        )


def resize_weights(start: Tensor, end: Tensor, flip: Tensor, size: int, length: int) -> Tensor:
    """Weights of the pixels of a line in a resized crop of it: bicubic (a = -.5), antialiased, as in Pillow
    and torchvision.

    Only pixels that the crop touches have weight, as if it had been cut out first.

    Args:
        start: float32 (N,), where the crop begins on the line, in pixels.
        end: float32 (N,), where it ends.
        flip: bool (N,), whether it is mirrored.
        size: Pixels of the result.
        length: Pixels of the line.

    Returns:
        float32 (N, size, length); rows sum to 1.
    """
    scale = ((end - start) / size)[:, None, None]
    place = torch.arange(size, device=start.device, dtype=torch.float32)
    place = torch.where(flip[:, None], size - 1 - place, place)[..., None]
    centre = start[:, None, None] + (place + 0.5) * scale  # (N, size, 1)
    pixel = torch.arange(length, device=start.device, dtype=torch.float32)
    distance = (pixel + 0.5 - centre).div_(scale.clamp(min=1.0)).abs_()
    # Keys, 1981: 1.5 d^3 - 2.5 d^2 + 1 to a distance of 1, -.5 d^3 + 2.5 d^2 - 4 d + 2 to 2.
    near = ((1.5 * distance - 2.5) * distance).mul_(distance).add_(1.0)
    far = ((2.5 - 0.5 * distance) * distance).sub_(4.0).mul_(distance).add_(2.0)
    weights = torch.where(distance < 1, near, far)
    inside = (pixel >= start.floor()[:, None]) & (pixel < end.ceil()[:, None])  # (N, length)
    weights.mul_((distance < 2) & inside[:, None])
    return weights.div_(weights.sum(2, keepdim=True))


def crop_and_resize(images: Tensor, table: ViewTable, size: int) -> Tensor:
    """V crops of each of n images, resized to squares: columns, then rows, each rounded to 8 bits.

    Args:
        images: float32 (n, h, C, w), 0 to 255; smaller images are padded at the right and bottom.
        table: n * V views, image by image.
        size: Side of the result in pixels.

    Returns:
        float32 (n * V, C, size, size), whole numbers from 0 to 255.
    """
    n, height, channels, width = images.shape
    boxes = table.boxes
    columns = resize_weights(boxes[:, 0], boxes[:, 2], table.flip, size, width)
    rows = resize_weights(boxes[:, 1], boxes[:, 3], torch.zeros_like(table.flip), size, height)
    narrow = images.flatten(1, 2) @ columns.reshape(n, -1, width).transpose(1, 2)  # (n, h * C, V * S)
    narrow = narrow.round_().clamp_(0.0, 255.0).view(n, height, channels, -1, size)
    narrow = narrow.permute(0, 3, 1, 2, 4).reshape(len(boxes), height, channels * size)
    return (rows @ narrow).round_().clamp_(0.0, 255.0).view(-1, size, channels, size).transpose(1, 2)


def photometrics_of_all(pixels: Tensor, table: ViewTable, rows: Rows) -> Tensor:
    """`draw.apply_photometrics` of N views at once, without the normalisation.

    Args:
        pixels: float32 (N, C, S, S), whole numbers from 0 to 255.
        table: Of these views.
        rows: Of this table.

    Returns:
        float32 (N, C, S, S), whole numbers from 0 to 255.
    """
    image, channels = pixels / 255, pixels.shape[1]
    for k, hue in enumerate(rows.hue):
        if rows.colour[k]:
            image = _adjust_colour(image, table.operations[:, k], table.amounts[:, k])
        if len(hue):
            image[hue] = _turn_hues(image[hue], table.amounts[hue, k])
    if len(rows.grayscale):
        image[rows.grayscale] = _luminance(image[rows.grayscale]).expand(-1, channels, -1, -1)
    if len(rows.blur):
        image[rows.blur] = _blur(image[rows.blur], table.sigma[rows.blur], table.radius[rows.blur])
    image = image.mul_(255).round_()
    return torch.where(table.solarize[:, None, None, None], torch.minimum(image, 255 - image), image)


def _luminance(image: Tensor) -> Tensor:
    if image.shape[1] != 3:
        return image.mean(1, keepdim=True)
    return image[:, :1] * LUMA[0] + image[:, 1:2] * LUMA[1] + image[:, 2:] * LUMA[2]


def _adjust_colour(image: Tensor, operation: Tensor, amount: Tensor) -> Tensor:
    """Brightness, contrast and saturation: all scale the distance to something, which is black, the mean
    luminance, or each pixel's luminance.
    """
    luminance = _luminance(image)
    operation, amount = operation[:, None, None, None], amount[:, None, None, None]
    towards = torch.where(operation == SATURATION, luminance, 0.0)
    of_all = luminance if image.shape[1] == 3 else image  # what is no colour has a mean of its own
    towards = torch.where(operation == CONTRAST, of_all.mean((2, 3), keepdim=True), towards)
    chosen = (operation == BRIGHTNESS) | (operation == CONTRAST) | (operation == SATURATION)
    factor = torch.where(chosen, amount, 1.0)
    return (image * factor).add_((1.0 - factor) * towards).clamp_(0.0, 1.0)


def _turn_hues(image: Tensor, shift: Tensor) -> Tensor:
    """`cpu.adjust_hue` with a shift for each view. It goes through the hue, since whole sixths differ between
    views.
    """
    r, g, b = image.unbind(1)
    value, least = image.amax(1), image.amin(1)
    chroma = value - least
    green = g == value
    blue = (b == value) & ~green
    difference = torch.where(green, b - r, torch.where(blue, r - g, g - b))
    hue = difference / chroma.clamp(min=1e-12) + 2.0 * green + 4.0 * blue
    opposite = (
        3.0 + 2.0 * torch.arange(3, device=image.device)[:, None, None]
    ) % 6.0  # of red, green and blue, in sixths of the circle
    complement = opposite - 6.0 * shift[:, None, None, None]  # (N, 3, 1, 1)
    distance = hue[:, None] - complement
    distance = (distance - 6.0 * (distance / 6.0).round()).abs()
    return value[:, None] - (2.0 - distance).clamp_(0.0, 1.0) * chroma[:, None]


def _blur(image: Tensor, sigma: Tensor, radius: Tensor) -> Tensor:
    """`cpu.gaussian_blur` with a width for each view, as two products with a matrix that holds the
    reflections.
    """
    size = image.shape[-1]
    i = torch.arange(size, device=image.device, dtype=torch.float32)
    sigma, radius = sigma[:, None, None], radius[:, None, None]

    def weight(distance: Tensor) -> Tensor:
        return torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= radius)

    # Reflected: the pixel `k` beyond a border is the one `k` before it; the border is not repeated.
    before, after = i[:, None] + i, 2 * (size - 1) - i[:, None] - i
    matrix = weight(i[:, None] - i) + weight(before) * (i > 0) + weight(after) * (i < size - 1)
    matrix = (matrix / matrix.sum(2, keepdim=True))[:, None]  # (N, 1, S, S)
    return matrix @ image @ matrix.transpose(2, 3)


def normalize_batch(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`views.normalize_pixels` of float32 (N, C, S, S) pixels in 0..255, in place."""
    for c in range(pixels.shape[1]):  # plain numbers: a tensor would first have to be sent to the device
        pixels[:, c].sub_(255 * mean[c]).div_(255 * std[c])
    return pixels
