"""Is what was exported the same network? Pictures that nothing was traced with, asked of both.

Letters: B images, Q objects, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis.config.query import QueryConfig
from odis.config.wording import counted
from odis.data.geometry.patches import object_shapes, objects_on_grid
from odis.data.views import normalize_pixels
from odis.errors import OdisError
from odis.exporting.network import Exported
from odis.inference.queries import Query
from odis.types import Tokens

TOLERANCE = 1e-4
"""Largest difference in fp32, in shares of the largest feature or of 1."""

Outputs = dict[str, Tensor]
"""`objects` (B, Q, D), `image` (B, D) and `patches` (B, P, D); a target may lack some."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Pictures of one size, and objects in them."""

    pixels: np.ndarray  # uint8 (B, C, H, W)
    masks: Tensor  # bool (B, Q, rows, columns)
    boxes: Tensor | None = None  # float32 (B, Q, 4) in pixels, where the masks are those of boxes

    def normalized(self, exported: Exported) -> Tensor:
        """float32 (B, C, H, W), as the network takes them."""
        return normalize_pixels(
            torch.from_numpy(self.pixels.copy()), exported.encoder.mean, exported.encoder.std
        )


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far an export is from odis, at one size.

    Args:
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        images: How many.
        objects: Of each image; 0 where objects were not asked for.
        largest: Largest absolute difference of each output.
        scale: Largest absolute value of all outputs.
        cosine: Smallest cosine similarity of two vectors.
    """

    height: int
    width: int
    images: int
    objects: int
    largest: dict[str, float]
    scale: float
    cosine: float

    @property
    def share(self) -> float:
        """The largest difference, in shares of the largest feature or of 1."""
        return max(self.largest.values()) / max(1.0, self.scale)

    def as_dict(self) -> dict[str, Any]:
        """For `export.json`."""
        return asdict(self)


def probe(rows: int, columns: int, patch: int, images: int, objects: int, channels: int = 3) -> Probe:
    """Pictures that are hard on arithmetic (black and white, flat, noise), with objects of all kinds.

    Of Q objects the first has no patch, the second all, and others some.

    Args:
        rows: Rows of patches.
        columns: Columns of patches.
        patch: Side of a patch in pixels.
        images: B.
        objects: Q.
        channels: C.
    """
    rng = np.random.default_rng([rows, columns, images, objects])
    height, width = rows * patch, columns * patch
    y, x = np.mgrid[:height, :width]
    board = np.where((x // 5 + y // 7) % 2, 255, 0)
    ramp = 255 * (x + y) // (height + width)
    hard = [[board, 255 - board, board], [ramp, ramp[::-1], ramp[:, ::-1]]]
    pictures = [np.stack([planes[c % 3] for c in range(channels)]) for planes in hard]
    while len(pictures) < images:
        pictures.append(rng.integers(0, 256, (channels, height, width)))
    masks = rng.random((images, objects, rows, columns)) < 0.4
    masks[:, :1], masks[:, 1:2] = False, True
    return Probe(np.stack(pictures[:images]).astype(np.uint8), torch.from_numpy(masks))


def probes(exported: Exported, *, sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> Iterator[Probe]:
    """A probe for each size, given as rows and columns of patches, with these numbers of objects in turn."""
    for number, (rows, columns) in enumerate(sizes):
        patch, channels = exported.encoder.patch_size, exported.encoder.pixels.channels
        yield probe(rows, columns, patch, 1 + number % 3, counts[number % len(counts)], channels)


def with_boxes(given: Probe, exported: Exported) -> Probe:
    """The same pictures with boxes as objects, anywhere and on the edges of patches; their masks are those
    that odis makes.
    """
    images, count, rows, columns = given.masks.shape
    patch, encoder = exported.encoder.patch_size, exported.encoder
    rng = np.random.default_rng([rows, columns, images, count])
    sides = np.array([columns, rows]) * patch
    start = np.floor(rng.random((images, count, 2)) * 0.7 * sides)
    end = start + 1 + np.floor(rng.random((images, count, 2)) * (sides - start - 1))
    boxes = np.concatenate([start, end], axis=-1)
    boxes[:, ::3] += rng.random(boxes[:, ::3].shape) * [0, 0, 0.9, 0.9]
    boxes[:, 1::3] = [0, 0, patch, 2 * patch]
    boxes = np.minimum(boxes, np.tile(sides, 2)).astype(np.float32)
    masks = np.zeros((images, count, rows, columns), dtype=bool)
    whole, flips = np.array([[0, 0, columns * patch, rows * patch]]), np.zeros(1, dtype=bool)
    for i in range(images):
        shapes = object_shapes(boxes[i], [None] * count, columns * patch, rows * patch)
        masks[i] = objects_on_grid(
            shapes,
            whole,
            flips,
            (rows, columns),
            encoder.mask_coverage,
            encoder.mask_margin,
            encoder.mask_shape,
        )[0]
    return Probe(given.pixels, torch.from_numpy(masks), torch.from_numpy(boxes))


def odis_outputs(exported: Exported, given: Probe) -> Outputs:
    """What odis answers: `Encoder.run_queries`, as `odis.load(...).embed` uses it."""
    encoder = exported.encoder
    builder = encoder.query_builder(QueryConfig())
    images, count, cells = given.masks.flatten(2).shape
    masks = given.masks.flatten(2).numpy()
    whole = np.ones((1, cells), dtype=bool)

    def queries() -> Iterator[tuple[tuple[int, int], Query]]:
        for i in range(images):
            of_image = np.concatenate([masks[i], whole])
            if builder.one_each:
                for n in range(count + 1):
                    yield (i, n), Query(given.pixels[i], of_image[n : n + 1])
            else:
                yield (i, 0), Query(given.pixels[i], of_image)

    answers: dict[tuple[int, int], Tensor] = {}
    patches: dict[int, Tensor] = {}
    for batch, objects, tokens in encoder.run_queries(queries(), builder, 8):
        for b, ((i, n), query) in enumerate(batch):
            for k in range(len(query.masks)):
                answers[i, n + k] = objects[b, k]
            if n + len(query.masks) == count + 1:  # the whole image is in it
                patches[i] = tokens.patches[b]
    features = torch.stack([torch.stack([answers[i, n] for n in range(count + 1)]) for i in range(images)])
    return {
        "objects": features[:, :-1],
        "image": features[:, -1],
        "patches": torch.stack([patches[i] for i in range(images)]),
    }


def class_token(exported: Exported, given: Probe) -> Tensor:
    """`[CLS]` (B, D) of the whole image, or the mean of the patches for a model that reads those."""
    tokens = whole_pass(exported, given)
    if exported.pooled or tokens.image is None:
        return tokens.patches.mean(dim=1)
    return tokens.image


def whole_pass(exported: Exported, given: Probe) -> Tokens:
    """All tokens of the images, asked about no object, or as one where the network always has one."""
    whole = None
    if exported.network.object_tokens == "beside":
        rows, columns = given.masks.shape[2:]
        whole = torch.ones(len(given.pixels), 1, rows * columns, dtype=torch.bool)
    return exported.encoder.tokens(given.pixels, whole)


def difference(given: Probe, found: Outputs, expected: Outputs) -> Deviation:
    """How far some outputs are from what they should be.

    Raises:
        OdisError: a feature has another shape, or is not finite.
    """
    largest, cosines, scale = {}, [1.0], 0.0
    for name, value in found.items():
        wanted = expected[name].double()
        if value.shape != wanted.shape:
            raise OdisError(f"{name} are {tuple(value.shape)}, odis makes {tuple(wanted.shape)}")
        if not bool(value.isfinite().all()):
            raise OdisError(f"{name} hold values that are not finite")
        if value.numel():
            largest[name] = float((value.double() - wanted).abs().max())
            scale = max(scale, float(wanted.abs().max()))
            cosines.append(_smallest_cosine(value.double(), wanted))
        else:
            largest[name] = 0.0
    height, width = given.pixels.shape[2:]
    objects = given.masks.shape[1] if "objects" in found else 0
    return Deviation(height, width, len(given.pixels), objects, largest, scale, min(cosines))


def _smallest_cosine(value: Tensor, wanted: Tensor) -> float:
    """Of the last axis; two vectors of zeros are alike."""
    lengths = value.norm(dim=-1) * wanted.norm(dim=-1)
    cosines = (value * wanted).sum(dim=-1) / lengths.clamp_min(1e-300)
    alike = (value == 0).all(dim=-1) & (wanted == 0).all(dim=-1)
    return float(torch.where(alike, 1.0, cosines).min())


def compare(
    what: str,
    exported: Exported,
    ask: Callable[[Probe], Outputs],
    given: Sequence[Probe],
    *,
    expected: Callable[[Probe], Outputs] | None = None,
    tolerance: float | None = TOLERANCE,
    cosine: float = -1.0,
) -> list[Deviation]:
    """Hold an export against odis.

    Args:
        what: Its name, for messages.
        exported: The model.
        ask: What the export answers.
        given: What is asked.
        expected: What odis answers; by default `odis_outputs`.
        tolerance: Largest difference, see `TOLERANCE`; None for any.
        cosine: Smallest similarity.

    Raises:
        OdisError: It differs by more.
    """
    differences = []
    for one in given:
        height, width = one.pixels.shape[2:]
        at = f"{what} at {height} x {width} pixels, {counted(one.masks.shape[1], 'object')}"
        try:
            found = difference(one, ask(one), (expected or (lambda p: odis_outputs(exported, p)))(one))
        except OdisError as error:
            raise OdisError(f"{at}: {error}; nothing is written") from error
        if tolerance is not None and found.share > tolerance:
            raise OdisError(
                f"{at} differs from odis by {max(found.largest.values()):.2g} of {found.scale:.2g}, more "
                f"than {tolerance:g} of it; nothing is written"
            )
        if found.cosine < cosine:
            raise OdisError(
                f"{at} has a cosine of {found.cosine:.4f} to odis, less than {cosine:g}; nothing is written"
            )
        differences.append(found)
    return differences


def in_words(what: str, differences: Sequence[Deviation]) -> str:
    """One line: how far an export is from odis."""
    largest = max(max(one.largest.values()) for one in differences)
    cosine = min(one.cosine for one in differences)
    sizes = ", ".join(dict.fromkeys(f"{one.height} x {one.width}" for one in differences))
    counts = sorted({one.objects for one in differences})
    several = "".join(f"{count}, " for count in counts[:-1])
    objects = f"; {several}{counted(counts[-1], 'object')}" if counts != [0] else ""
    return (
        f"{what}: differs from odis by at most {largest:.2g} (cosine {cosine:.6f}) at {sizes} pixels{objects}"
    )
