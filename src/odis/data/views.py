"""Crops to pixels: everything one image turns into. An augmentation is changed here.

V views (globals first, then locals), n objects, Q object tokens a view, P patches a view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from odis.config import ObjectsConfig, PredictionConfig, ViewsConfig
from odis.data.crops import choose_target, clip_boxes, coverage, object_aware_crops, propose_crops
from odis.data.filters import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, gaussian_blur, luminance
from odis.data.masks import area_table, mask_window, object_mask, patch_coverage_of_boxes, patch_coverage_of_table, prediction_mask
from odis.objects import rle
from odis.types import Crop, ImageObjects, View

Table = tuple[np.ndarray, tuple[int, int]]
"""Areas of the part of a pixel mask that holds an object (`masks.area_table`), and that part's corner in the image."""


def render(image: Tensor, crop: Crop, size: int) -> Tensor:
    """The crop's pixels, resized (bicubic, antialiased) to a square, mirrored if the crop is.

    Args:
        image: uint8 (3, H, W).
        crop: A crop inside the image.
        size: Side of the result in pixels; a smaller crop is enlarged.

    Returns:
        uint8 (3, size, size).
    """
    side = [size, size]
    pixels = F.resized_crop(image, crop.y0, crop.x0, crop.height, crop.width, side, InterpolationMode.BICUBIC, antialias=True)
    return F.horizontal_flip(pixels) if crop.flip else pixels


def photometrics(rng: np.random.Generator, pixels: Tensor, kind: int, views: ViewsConfig) -> Tensor:
    """Colour jitter, grey, blur and solarisation, as in DINO (arXiv 2104.14294) and BYOL (arXiv 2006.07733, appendix B).

    Jitter takes brightness, contrast, saturation and hue in random order. Blur has a standard deviation of .1 to 2 pixels, cut
    off at three of them or at a twentieth of the view's side (a kernel of a tenth of it), whichever is less.

    Args:
        rng: Source of all randomness.
        pixels: uint8 (3, S, S); not changed.
        kind: Position in `views.blur` and `views.solarise`: 0 the first global view, 1 the other global views, 2 local views.
        views: Probabilities and strengths.

    Returns:
        uint8 (3, S, S).
    """
    jitter, grey, blur, solarise = rng.random(4) < (views.jitter, views.grey, views.blur[kind], views.solarise[kind])
    if jitter or grey or blur:
        image = pixels.float().div_(255)
        if jitter:
            image = _jitter(rng, image, views.jitter_strength)
        if grey:
            image = luminance(image).expand(3, -1, -1)
        if blur:
            sigma = float(rng.uniform(0.1, 2.0))
            radius = min(max(1, round(pixels.shape[-1] / 20)), math.ceil(3 * sigma), pixels.shape[-1] - 1)
            image = gaussian_blur(image, sigma, radius)
        pixels = image.mul(255).round_().to(torch.uint8)
    # Inverts what is 128 or more: of a value and its inverse the darker.
    return torch.minimum(pixels, pixels.bitwise_not()) if solarise else pixels


def _jitter(rng: np.random.Generator, image: Tensor, strength: tuple[float, float, float, float]) -> Tensor:
    """Brightness, contrast, saturation and hue of a float (3, S, S) image in 0..1, changed in random order."""
    change = rng.uniform(-1.0, 1.0, 4) * strength
    adjust = (adjust_brightness, adjust_contrast, adjust_saturation)
    for op in rng.permutation(4).tolist():
        if strength[op] > 0:
            image = adjust_hue(image, float(change[op])) if op == 3 else adjust[op](image, 1.0 + float(change[op]))
    return image


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels as the network takes them: `(pixels / 255 - mean) / std` in each channel.

    Args:
        pixels: uint8 (..., 3, H, W).
        mean: Channel means, of pixels in 0..1.
        std: Channel deviations.

    Returns:
        float32 (..., 3, H, W).
    """
    offset, scale = (torch.tensor(v, dtype=torch.float32, device=pixels.device).mul_(255)[:, None, None] for v in (mean, std))
    return pixels.float().sub_(offset).div_(scale)


def make_sample(
    rng: np.random.Generator,
    image: Tensor,
    row: ImageObjects,
    objects: ObjectsConfig,
    views: ViewsConfig,
    prediction: PredictionConfig,
    patch_size: int,
) -> tuple[list[View], list[View], Tensor]:
    """All views of one image: the target object in slot 0, other objects at random in the slots after it.

    An image without objects, and every image if `objects.use` is false, is one object itself: its crops are plain
    random-resized-crops and its object masks all-true, as in DINO and iBOT. Slots without an object, and objects that a view
    does not show, have an all-true mask and are not visible.

    Args:
        rng: Source of all randomness. Geometry is drawn before photometrics, so these do not change it.
        image: uint8 (3, H, W).
        row: Its objects, in pixels of `image`.
        objects: Which objects are taken.
        views: Crops, photometrics and object masks.
        prediction: Prediction masks of the global views.
        patch_size: Side of a patch in pixels of a view.

    Returns:
        Global views, local views, and prediction masks, bool (G, P).

    Raises:
        DataError: A mask of the row is no mask of that image.
    """
    height, width = image.shape[-2:]
    boxes, tables = choose_objects(rng, row, width, height, objects)
    crops = _draw_crops(rng, width, height, boxes[0], views)
    flips = rng.random(len(crops)) < views.flip
    grid = (views.global_size // patch_size,) * 2
    hidden = [prediction_mask(rng, grid, prediction.probability, prediction.ratio, prediction.spread) for _ in range(views.global_views)]
    rendered: list[list[View]] = []
    for part, size in ((slice(0, views.global_views), views.global_size), (slice(views.global_views, None), views.local_size)):
        geometry = [Crop(x0, y0, x1, y1, flip) for (x0, y0, x1, y1), flip in zip(crops[part].tolist(), flips[part].tolist())]
        masks, visible = _object_masks(boxes, tables, geometry, size // patch_size, objects, views)
        kinds = [2] * len(geometry) if rendered else [min(v, 1) for v in range(len(geometry))]
        shown = [photometrics(rng, render(image, crop, size), kind, views) for crop, kind in zip(geometry, kinds)]
        pixels = normalise(torch.stack(shown), views.mean, views.std) if shown else torch.empty(0)
        rendered.append([View(*view) for view in zip(pixels, geometry, masks, visible)])
    return rendered[0], rendered[1], torch.from_numpy(np.stack(hidden)).flatten(1)


def choose_objects(
    rng: np.random.Generator, row: ImageObjects, width: int, height: int, objects: ObjectsConfig
) -> tuple[np.ndarray, list[Table | None]]:
    """Boxes (n, 4) of the target and up to `per_image - 1` other objects, clipped to the image, and the masks of those that have one."""
    clipped, keep = clip_boxes(row.boxes, width, height, objects.min_size)
    usable = np.flatnonzero(keep) if objects.use else np.array([], dtype=np.int64)
    if not len(usable):
        return np.array([[0.0, 0.0, width, height]]), [None]
    target = choose_target(rng, clipped[usable], objects.sampling)
    others = rng.permutation(np.delete(usable, target))[: objects.per_image - 1]
    chosen = [int(usable[target]), *others.tolist()]
    masks = [row.objects[k].mask for k in chosen]
    return clipped[chosen], [None if counts is None else _table(rle.decode(counts, width, height)) for counts in masks]


def _table(mask: np.ndarray) -> Table:
    window, corner = mask_window(mask)
    return area_table(window), corner


def _draw_crops(rng: np.random.Generator, width: int, height: int, target: np.ndarray, views: ViewsConfig) -> np.ndarray:
    """int64 (V, 4): the crops of the global views, then of the local views."""
    crops = []
    for count, scale, aware, min_coverage in (
        (views.global_views, views.global_scale, views.object_crops, views.min_coverage),
        (views.local_views, views.local_scale, views.local_crops == "object-aware", 0.0),
    ):
        if aware:
            drawn = object_aware_crops(
                rng,
                width,
                height,
                target,
                count,
                scale=scale,
                ratio=views.ratio,
                min_coverage=min_coverage,
                candidates=views.candidates,
            )
        else:
            drawn = propose_crops(rng, width, height, (count,), scale, views.ratio)
        crops.append(drawn)
    return np.concatenate(crops)


def _object_masks(
    boxes: np.ndarray, tables: list[Table | None], crops: list[Crop], side: int, objects: ObjectsConfig, views: ViewsConfig
) -> tuple[Tensor, Tensor]:
    """Object masks bool (V, Q, P) and visibility bool (V, Q) of n <= Q objects on grids of `side` x `side` patches."""
    corners = np.array([(crop.x0, crop.y0, crop.x1, crop.y1) for crop in crops], dtype=np.float64).reshape(-1, 4)
    flips = np.array([crop.flip for crop in crops], dtype=bool)
    shown = object_mask(patch_coverage_of_boxes(boxes, corners, flips, (side, side)), views.mask_coverage, views.mask_margin)
    for slot, table in enumerate(tables):
        if table is not None:
            covered = patch_coverage_of_table(table[0], corners, flips, (side, side), table[1])
            shown[:, slot] = object_mask(covered, views.mask_coverage)
    share = coverage(corners[:, None], boxes)
    n = len(boxes)
    visible = np.zeros((len(crops), objects.per_image), dtype=bool)
    visible[:, :n] = (share >= objects.min_visible) & shown.any((2, 3))  # no overlap, no patch
    masks = np.ones((len(crops), objects.per_image, side * side), dtype=bool)
    if views.object_masks:
        masks[:, :n] = shown.reshape(len(crops), n, side * side) | ~visible[:, :n, None]
    return torch.from_numpy(masks), torch.from_numpy(visible)
