"""From an image and its objects to views. An augmentation is changed here.

V views (globals first, then locals), n objects, Q object tokens a view, P patches a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from odis.config.training import ObjectsConfig, PredictionConfig, ViewsConfig
from odis.data.augment.bands import bands_to_chw, resample_bands
from odis.data.augment.cpu import to_chw
from odis.data.augment.draw import Photometrics, apply_photometrics, draw_photometrics
from odis.data.augment.resampling import resample
from odis.data.framing import ChosenObjects, Framing, frame_views, shown_shares
from odis.data.geometry.patches import objects_on_grid, patch_grid
from odis.data.geometry.prediction import keep_visible, prediction_mask
from odis.data.pixels.decode import Decoded, outer_pixels
from odis.machine.compiled import compiled
from odis.types import Crop, ImageObjects, View


@dataclass(frozen=True, slots=True)
class Plan:
    """The geometry of an image's views: all but their pixels. Global views first, then local views."""

    crops: list[Crop]  # V
    sizes: list[int]  # V sides in pixels
    masks: list[Tensor]  # V object masks, bool (Q, P)
    visible: list[Tensor]  # V, bool (Q,)
    hidden: Tensor  # bool (G, P), prediction masks
    chosen: ChosenObjects  # the objects of the slots, the target first


def resized_crop(image: Decoded, crop: Crop, size: int) -> np.ndarray:
    """A crop's pixels, resized to a square (bicubic, antialiased, as torchvision does it), not mirrored.

    Args:
        image: The image. In one decoded at a fraction of its size, crops may begin and end within pixels.
        crop: A crop in pixels of the image at full size.
        size: Side of the result in pixels; a smaller crop is enlarged.

    Returns:
        uint8 (size, size, C).
    """
    if image.shrink == 1:
        # Torch resizes bytes twice as fast if they are contiguous, in the layout of a decoded image.
        part = image.pixels[None, :, crop.y0 : crop.y1, crop.x0 : crop.x1].contiguous(
            memory_format=torch.channels_last
        )
        resized = interpolate(part, size=(size, size), mode="bicubic", antialias=True)[0]
        view: np.ndarray = resized.permute(1, 2, 0).contiguous().numpy()
        return view
    # As in torchvision, the filter sees the pixels of the crop alone.
    x0, y0, x1, y1 = outer_pixels(box := image.box(crop))
    shown = image.pixels[:, y0:y1, x0:x1].permute(1, 2, 0).contiguous().numpy()
    within = box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0
    return resample(shown, *within, size) if shown.shape[2] == 3 else resample_bands(shown, *within, size)


def normalize_pixels(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels as a network takes them: `(pixels / 255 - mean) / std` in each channel.

    Args:
        pixels: uint8 (..., C, H, W).
        mean: Channel means, of pixels in 0..1.
        std: Channel deviations.

    Returns:
        float32 (..., C, H, W).
    """
    offset, scale = (
        torch.tensor(v, dtype=torch.float32, device=pixels.device).mul_(255)[:, None, None]
        for v in (mean, std)
    )
    return pixels.float().sub_(offset).div_(scale)


def as_colours(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) of pixels (..., C, H, W), to look at: the first three channels, or in grey the first."""
    if pixels.shape[-3] >= 3:
        return pixels[..., :3, :, :]
    return pixels[..., :1, :, :].expand(*pixels.shape[:-3], 3, -1, -1)


def make_sample(
    rng: np.random.Generator,
    image: Tensor,
    row: ImageObjects,
    objects: ObjectsConfig,
    views: ViewsConfig,
    prediction: PredictionConfig,
    patch_size: int,
) -> tuple[list[View], list[View], Tensor]:
    """All views of one image, with the target object in slot 0 and other objects, drawn at random, after it.

    An image without objects is one object itself, and so is every image if `objects.use` is false: its crops
    are plain random-resized-crops and its object masks all-true, as in DINO and iBOT. A slot without an
    object, or whose object the view does not show, is not visible. Its mask is all-true; with `objects.target
    first-crop` it is empty, as in the code that this is from: `[OBJ]` reads no patch of such a view.

    Args:
        rng: Source of all randomness. Geometry is drawn before photometrics, so it does not depend on them.
        image: uint8 (C, H, W).
        row: Its objects, in pixels of `image`.
        objects: Which objects are used.
        views: Crops, photometrics and object masks.
        prediction: Prediction masks of the global views.
        patch_size: Side of a patch in pixels of a view.

    Returns:
        Global views, local views, and prediction masks, bool (G, P).

    Raises:
        DataError: A mask of the row is no mask of that image.
    """
    plan = plan_views(rng, row, image.shape[-1], image.shape[-2], objects, views, prediction, patch_size)
    return render_views(plan, Decoded(image), views, draw_all(rng, plan, views))


def plan_views(
    rng: np.random.Generator,
    row: ImageObjects,
    width: int,
    height: int,
    objects: ObjectsConfig,
    views: ViewsConfig,
    prediction: PredictionConfig,
    patch_size: int,
) -> Plan:
    """Draw the geometry of all views of an image of `width` x `height` pixels: the first half of
    `make_sample`.

    Raises:
        DataError: A mask of the row is no mask of that image.
    """
    framing = frame_views(rng, row, width, height, objects, views)
    flips = rng.random(len(framing.crops)) < views.flip
    grid = patch_grid(views.global_size, patch_size)
    hidden = [
        prediction_mask(rng, grid, prediction.probability, prediction.ratio, prediction.spread)
        for _ in range(views.global_views)
    ]
    geometry = [
        Crop(x0, y0, x1, y1, flip) for (x0, y0, x1, y1), flip in zip(framing.crops.tolist(), flips.tolist())
    ]
    masks: list[Tensor] = []
    visible: list[Tensor] = []
    g = views.global_views
    for part, size, masked in (
        (slice(g), views.global_size, True),
        (slice(g, None), views.local_size, views.local_masks),
    ):
        in_views, seen = _object_masks(
            framing, part, flips[part], patch_grid(size, patch_size), objects, views, masked
        )
        masks.extend(torch.from_numpy(in_views))
        visible.extend(torch.from_numpy(seen))
    if prediction.keep_object:
        for v in range(g):
            if visible[v][0]:
                target = masks[v][0].view(grid).numpy()
                hidden[v] = keep_visible(rng, hidden[v], target, prediction.keep_object)
    sizes = [views.global_size] * g + [views.local_size] * (len(geometry) - g)
    return Plan(
        geometry, sizes, masks, visible, torch.from_numpy(np.stack(hidden)).flatten(1), framing.chosen
    )


def draw_all(rng: np.random.Generator, plan: Plan, views: ViewsConfig) -> list[Photometrics]:
    """Draw the photometrics of all views of a plan, after its geometry."""
    first_locals = views.global_views
    return [
        draw_photometrics(rng, size, min(v, 1) if v < first_locals else 2, views)
        for v, size in enumerate(plan.sizes)
    ]


def render_views(
    plan: Plan, image: Decoded, views: ViewsConfig, drawn: list[Photometrics]
) -> tuple[list[View], list[View], Tensor]:
    """Render the views of a plan on the CPU: the second half of `make_sample`, whose result it returns."""
    made: list[View] = []
    offset, scale = (
        np.array(v, dtype=np.float32) * np.float32(255) for v in views.statistics
    )  # as in `normalize_pixels`
    to_planes = to_chw if views.channels == 3 else bands_to_chw
    for part in (slice(0, views.global_views), slice(views.global_views, len(plan.crops))):
        side = plan.sizes[part][0] if plan.sizes[part] else 0
        shown = np.empty((len(plan.sizes[part]), views.channels, side, side), dtype=np.float32)
        for view, crop, done in zip(shown, plan.crops[part], drawn[part]):
            pixels = to_planes(resized_crop(image, crop, side), crop.flip)
            apply_photometrics(pixels, done, offset, scale, view)
        made += [
            View(*view)
            for view in zip(torch.from_numpy(shown), plan.crops[part], plan.masks[part], plan.visible[part])
        ]
    return made[: views.global_views], made[views.global_views :], plan.hidden


def _object_masks(
    framing: Framing,
    part: slice,
    flips: np.ndarray,
    grid: tuple[int, int],
    objects: ObjectsConfig,
    views: ViewsConfig,
    masked: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of some of the views, bool (V, Q, P), and which slots are visible, bool (V, Q). If they are not
    masked, each view stands for the object as it is.
    """
    corners, shapes = framing.crops[part].astype(np.float64), framing.chosen.shapes
    absent = objects.target != "first-crop"
    if not masked:
        found = np.ones((len(corners), len(shapes.boxes), *grid), dtype=np.bool_)
        return _in_slots(found, found[..., 0, 0], objects.per_image, False, absent)
    found = objects_on_grid(
        shapes, corners, flips, grid, views.mask_coverage, views.mask_margin, views.mask_shape
    )
    shown = shown_shares(corners, framing.chosen, objects) >= objects.min_visible
    shown[:, :1] &= ~framing.lost[part, None]
    return _in_slots(found, shown, objects.per_image, views.object_masks, absent)


@compiled()
def _in_slots(
    found: np.ndarray, shown: np.ndarray, slots: int, use_masks: bool, absent: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (V, n, rows, columns) in Q >= n slots; visible are those that are shown (V, n) and not empty; the
    others are all true or all false, as `absent` says.
    """
    views, objects, rows, columns = found.shape
    masks = np.full((views, slots, rows * columns), absent)
    visible = np.zeros((views, slots), dtype=np.bool_)
    for v in range(views):
        for k in range(objects):
            if shown[v, k] and found[v, k].any():
                visible[v, k] = True
                masks[v, k] = found[v, k].ravel() | (not use_masks)
    return masks, visible
