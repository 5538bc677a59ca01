"""Batches that the device renders (`loader.render device`): what workers send, and the batch it becomes.

Workers send decoded pixels, crops and drawn photometrics. `RawBatch.to` renders all views at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from odis.config.training import ViewsConfig
from odis.data.augment.device import (
    Rows,
    ViewTable,
    crop_and_resize,
    normalize_batch,
    photometrics_of_all,
    view_row,
)
from odis.data.augment.draw import Photometrics
from odis.data.pixels.decode import Decoded, outer_pixels
from odis.data.pixels.device import CacheRef, DeviceCache
from odis.data.views import Plan
from odis.types import Batch, Sample, Skipped, View

# Images are rendered in parts of a batch, so that temporaries stay at about this many numbers (2 GiB).
_NUMBERS = 2**29


@dataclass(slots=True)
class RawSample:
    """One image as a worker sends it: a sample without its views' pixels, and what they are rendered from."""

    sample: Sample
    # uint8 (h, w, C): the part of the image that views show; with a reference the whole image, or nothing
    pixels: Tensor
    table: (
        np.ndarray
    )  # float32 (V, 17), see `augment.device.ViewTable`; boxes are in the part that views show
    shape: tuple[int, int]  # height and width of that part
    ref: CacheRef | None = None  # the image in the device's cache


def make_raw_sample(
    image: Decoded,
    plan: Plan,
    drawn: list[Photometrics],
    views: ViewsConfig,
    *,
    index: int,
    path: str,
    skipped: list[Skipped],
) -> RawSample:
    """What one image's views are rendered from.

    Args:
        image: The decoded image; without pixels (on `meta`) if the device has them.
        plan: The geometry of its views.
        drawn: Their photometrics.
        views: How many of them are global.
        index: Its row of the object index.
        path: Its path.
        skipped: Rows passed over on the way to it.
    """
    boxes = np.array([image.box(crop) for crop in plan.crops])
    x0, y0, x1, y1 = outer_pixels(
        (boxes[:, 0].min(), boxes[:, 1].min(), boxes[:, 2].max(), boxes[:, 3].max())
    )
    ref = None
    if image.kept_as is None:
        pixels = image.pixels[:, y0:y1, x0:x1].permute(1, 2, 0).contiguous()
    elif image.pixels.is_meta:
        pixels = torch.empty(0, 0, views.channels, dtype=torch.uint8)
        ref = CacheRef(index, image.kept_as, (x0, y0, x1, y1), None)
    else:
        pixels = image.pixels.permute(1, 2, 0).contiguous()
        whole = (pixels.shape[0], pixels.shape[1])
        ref = CacheRef(index, image.kept_as, (x0, y0, x1, y1), whole, image.shrink, image.offset)
    boxes -= (x0, y0, x0, y0)
    rows = [view_row(box, crop.flip, done) for box, crop, done in zip(boxes.tolist(), plan.crops, drawn)]
    nothing = torch.empty(views.channels, 0, 0)
    made = [View(nothing, *rest) for rest in zip(plan.crops, plan.masks, plan.visible)]
    g = views.global_views
    sample = Sample(made[:g], made[g:], plan.hidden, index=index, path=path, skipped=skipped)
    return RawSample(sample, pixels, np.array(rows, dtype=np.float32), (y1 - y0, x1 - x0), ref)


@dataclass(slots=True)
class RawBatch:
    """A batch whose views are still to be rendered: `to` renders them on the device it moves to."""

    batch: Batch  # without pixels
    pixels: Tensor  # uint8: the images one after the other, each (h, w, C)
    shapes: list[tuple[int, int]]  # B heights and widths of what views show
    table: Tensor  # float32 (B, V, 17), see `augment.device.ViewTable`
    views: ViewsConfig
    refs: list[CacheRef | None]  # B: images in the device's cache come whole, or not at all
    device_cache: DeviceCache | None = None

    @property
    def size(self) -> int:
        """B, the number of images."""
        return self.batch.size

    @property
    def paths(self) -> list[str]:
        """B image paths."""
        return self.batch.paths

    @property
    def skipped(self) -> list[Skipped]:
        """Rows passed over."""
        return self.batch.skipped

    def pin_memory(self) -> RawBatch:
        """The same batch in page-locked memory (called by the data loader)."""
        return replace(
            self,
            batch=self.batch.pin_memory(),
            pixels=self.pixels.pin_memory(),
            table=self.table.pin_memory(),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`, with the pixels of all views, rendered there."""
        device, views = torch.device(device), self.views
        images, table = self._images(device), self.table.to(device, non_blocking=True)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            made = []
            for part, size in (
                (slice(0, views.global_views), views.global_size),
                (slice(views.global_views, None), views.local_size),
            ):
                made.append(self._render(images, table[:, part], self.table[:, part], size))
        batch = self.batch.to(device)
        return replace(batch, global_views=made[0], local_views=made[1] if len(made[1]) else made[0][:0])

    def _images(self, device: torch.device) -> list[Tensor]:
        """What views show of each image, uint8 (h, w, C), on the device."""
        sides = [shape if ref is None else ref.sent or (0, 0) for shape, ref in zip(self.shapes, self.refs)]
        pixels = self.pixels.to(device, non_blocking=True).split(
            [self.views.channels * h * w for h, w in sides]
        )
        shown = []
        for (h, w), ref, sent in zip(sides, self.refs, pixels):
            image = sent.view(h, w, self.views.channels)
            if ref is not None:
                assert self.device_cache is not None
                image = self.device_cache.shown(ref, image if ref.sent else None)
            shown.append(image)
        return shown

    def _render(self, shown: list[Tensor], table: Tensor, on_cpu: Tensor, size: int) -> Tensor:
        """float32 (V * B, C, size, size), view-major: one part of the views of all images."""
        (images, count), channels = table.shape[:2], self.views.channels
        out = torch.empty(count, images, channels, size, size, device=table.device)
        for first, end in parts_of(self.shapes, count, size, channels) if count else ():
            height, width = (max(shape[axis] for shape in self.shapes[first:end]) for axis in (0, 1))
            padded = torch.zeros(end - first, height, channels, width, device=table.device)
            for i in range(first, end):
                h, w = self.shapes[i]
                padded[i - first, :h, :, :w] = shown[i].transpose(1, 2)
            rows = Rows.of(ViewTable.of(on_cpu[first:end].flatten(0, 1)), table.device)
            there = ViewTable.of(table[first:end].flatten(0, 1))
            made = photometrics_of_all(crop_and_resize(padded, there, size), there, rows)
            made = normalize_batch(made, *self.views.statistics)
            out[:, first:end] = made.unflatten(0, (-1, count)).transpose(0, 1)
        return out.flatten(0, 1)


def parts_of(
    shapes: list[tuple[int, int]], views: int, size: int, channels: int = 3
) -> list[tuple[int, int]]:
    """First and end of runs of images that are rendered together, within a bound on temporary memory.

    Args:
        shapes: Heights and widths of the images.
        views: Views an image.
        size: Their side in pixels.
        channels: Of an image.
    """
    parts: list[tuple[int, int]] = []
    first, height, width = 0, 0, 0
    for i, (h, w) in enumerate(shapes):
        taller, wider = max(height, h), max(width, w)
        # The padded image; weights of columns and rows; the crops after the first product, twice; a few
        # copies of the views.
        copies = channels * (6 * taller + 20 * size) // 3
        each = channels * taller * wider + views * size * (4 * (taller + wider) + copies)
        if i > first and each * (i + 1 - first) > _NUMBERS:
            parts.append((first, i))
            first, taller, wider = i, h, w
        height, width = taller, wider
    return [*parts, (first, len(shapes))]


def collate_raw(samples: list[RawSample], batch: Batch, views: ViewsConfig) -> RawBatch:
    """The batch of these samples.

    Args:
        samples: B images.
        batch: Of their samples, without pixels.
        views: Sizes, counts and normalisation.
    """
    pixels = torch.cat([raw.pixels.flatten() for raw in samples])
    table = torch.from_numpy(np.stack([raw.table for raw in samples]))
    return RawBatch(
        batch,
        pixels,
        [raw.shape for raw in samples],
        table,
        views,
        [raw.ref for raw in samples],
    )
