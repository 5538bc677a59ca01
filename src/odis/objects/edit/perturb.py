"""Box noise: from an object index to another whose boxes are moved, resized, missing or false.

Objects that a detector or a discovery method found are never as good as annotated ones. Noise of a known
amount on annotated objects says how good they must be: train or evaluate on the noisy index as on any other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from odis.config.wording import counted
from odis.errors import ConfigError, DataError
from odis.objects.clean import Skip, SkippedObject, reason, usable_objects
from odis.objects.index import ObjectIndex, write_index
from odis.types import Box, ImageObjects, Object, Skipped

_MOST = 10.0  # of a box side, of a logarithm, of false boxes an object: beyond it every box is a chance box


@dataclass(frozen=True, slots=True)
class Noise:
    """How much noise, and its seed.

    With the same seed, amounts can be compared in pairs: twice the jitter moves every box twice as far the
    same way, and what a smaller drop or false share drops or adds, a larger one drops or adds too.

    Args:
        jitter: Standard deviation of the move of a box's centre along each axis, in sides of the box along
            that axis.
        scale: Standard deviation of the logarithm of the factor of each side.
        drop: Probability that an object is dropped.
        false_boxes: Mean number of false boxes added for each object of the source.
        seed: Seed of all randomness.
    """

    jitter: float = 0.0
    scale: float = 0.0
    drop: float = 0.0
    false_boxes: float = 0.0
    seed: int = 0

    @property
    def moves_boxes(self) -> bool:
        """Whether boxes are moved or resized, so that masks no longer say where their boxes are."""
        return self.jitter > 0 or self.scale > 0

    def check(self) -> None:
        """Refuse amounts that make no sense.

        Raises:
            ConfigError: Naming the first option that is out of range, and what is allowed; or if nothing
                would change.
        """
        amounts = self._amounts()
        for option, value in amounts.items():
            most = 1.0 if option == "drop" else _MOST
            if not 0 <= value <= most:  # NaN is refused too
                raise ConfigError(f"{option}: is {value:g}, must be from 0 to {most:g}")
        if self.seed < 0:
            raise ConfigError(f"seed: is {self.seed}, must be 0 or more")
        if not any(amounts.values()):
            raise ConfigError(f"{', '.join(amounts)}: are all 0, so nothing would change; give at least one")

    def describe(self) -> str:
        """The amounts that are not 0 and the seed: `noise(jitter=0.1,drop=0.3,seed=0)`."""
        shown = "".join(f"{option}={value:.12g}," for option, value in self._amounts().items() if value)
        return f"noise({shown}seed={self.seed})"

    def _amounts(self) -> dict[str, float]:
        """The amounts by the names their options have; `false` alone can be no name in Python."""
        return {"jitter": self.jitter, "scale": self.scale, "drop": self.drop, "false": self.false_boxes}


@dataclass(slots=True)
class Perturbed:
    """What became of an index's images and objects: objects = kept + dropped + left_out; the new index has
    kept + added.
    """

    out: str
    provenance: str
    images: int = 0  # written
    images_skipped: int = 0
    objects: int = 0
    kept: int = 0
    dropped: int = 0
    left_out: int = 0  # unusable in the source
    added: int = 0  # false boxes

    def __str__(self) -> str:
        return (
            f"{self.out}: {counted(self.images, 'image')} ({self.images_skipped:,} skipped), {self.kept:,} "
            f"of {counted(self.objects, 'object')} kept ({self.dropped:,} dropped, {self.left_out:,} "
            f"unusable), {counted(self.added, 'false box')} added, {self.provenance}"
        )


def perturb_row(
    row: ImageObjects, noise: Noise, rng: np.random.Generator
) -> tuple[tuple[Object, ...], tuple[Object, ...]]:
    """Noise on the objects of an image: those that are kept, in order, and the false boxes.

    - Jitter and scale act on the part of a box inside the image, jitter in its sides before they are scaled.
      The result is cut at the image's edges again. A side is at least a pixel, also where a box was pushed
      out of the image: a strip at the edge stays. Labels and scores stay with their objects; the masks are
      left out, since they would say another place than the boxes. With neither jitter nor scale, objects stay
      exactly as they are, with their masks.
    - Each object is dropped with probability `drop`, so an image may be left without objects.
    - For each object, dropped or not, the whole part of `false_boxes` is added in false boxes, and one more
      with the probability of the rest: .3 is one box with probability .3; 1.5 is one or two, as likely. n
      objects bring `false_boxes * n` on average, and an image without objects none. Each false box has the
      size of its object (inside the image, without noise) and a position uniform among those inside the
      image, so that of an object that fills the image is the whole image again. It has no label, score or
      mask, and it may lie on a true object by chance.

    Args:
        row: An image and its objects, all usable (`usable_objects`).
        noise: How much noise.
        rng: Source of all randomness; every amount uses the same numbers of it, more false boxes further
            ones.
    """
    n = len(row.objects)
    size = np.array([row.width, row.height], dtype=np.float64)
    ends = np.array([item.box for item in row.objects], dtype=np.float64).reshape(
        n, 2, 2
    )  # object, low and high, x and y
    low, high = np.moveaxis(np.clip(ends, 0, size), 1, 0)
    move, grow = rng.standard_normal((2, n, 2))
    drop, more = rng.random((2, n))
    places = rng.random((math.ceil(noise.false_boxes), n, 2))

    kept = row.objects
    if noise.moves_boxes:
        centre = (low + high) / 2 + noise.jitter * (high - low) * move
        half = np.maximum((high - low) * np.exp(noise.scale * grow), 1.0) / 2
        boxes = _inside(centre - half, centre + half, size)
        kept = tuple(replace(item, box=box, mask=None) for item, box in zip(kept, boxes))
    kept = tuple(item for item, u in zip(kept, drop.tolist()) if u >= noise.drop)

    count = np.floor(noise.false_boxes + more)
    which, of = np.nonzero(np.arange(len(places))[:, None] < count)
    side = np.maximum(high - low, 1.0)[of]
    corner = places[which, of] * (size - side)
    return kept, tuple(Object(box) for box in _inside(corner, corner + side, size))


def _inside(low: np.ndarray, high: np.ndarray, size: np.ndarray) -> list[Box]:
    """Boxes cut at the image's edges, but no side below a pixel, as an index stores them: rounded to float32.

    Args:
        low: (n, 2), x0 and y0.
        high: (n, 2), x1 and y1.
        size: (2,), width and height of the image.
    """
    low = np.clip(low, 0, size - 1)
    high = np.maximum(np.minimum(high, size), low + 1)
    return [
        (x0, y0, x1, y1) for x0, y0, x1, y1 in np.concatenate([low, high], axis=1).astype(np.float32).tolist()
    ]


def perturb_index(index: ObjectIndex, out: str | Path, noise: Noise, report: Skip | None = None) -> Perturbed:
    """Write `index` with noise on its objects as another index, row by row; its images and classes stay the
    same.

    The noise of an image depends on the seed and the image's row number alone. Objects that cannot be used
    are left out, as if the source had never had them. In a folder of images every image is one object, so
    jitter and scale make sub-boxes, and images without a readable header are skipped. The provenance is the
    source's and the noise; noise on a noisy index is added with its own randomness, also under the same seed.

    Args:
        index: The source; not changed.
        out: Parquet file to write.
        noise: How much noise (`perturb_row` says what it does).
        report: Called with every image and object left out, as it is met.

    Raises:
        ConfigError: An amount is out of range, or all are 0.
        DataError: `out` is the source or inside its folder, it cannot be written, or no image can be used.
    """
    noise.check()
    _refuse_to_write_over(index, out)
    summary = Perturbed(str(out), f"{index.provenance}+{noise.describe()}")
    earlier = index.provenance.count("+noise(")
    first: list[Skipped] = []

    def skip(skipped: Skipped) -> None:
        if isinstance(skipped, SkippedObject):
            summary.left_out += 1
        else:
            summary.images_skipped += 1
        if not first:
            first.append(skipped)
        if report is not None:
            report(skipped)

    def rows() -> Iterator[ImageObjects]:
        for i in range(len(index)):
            path = index.image_path(i)
            try:
                row = index[i]
            except DataError as error:
                if not index.is_folder:
                    raise
                skip(Skipped(path, reason(error, path)))
                continue
            usable = usable_objects(row, len(index.classes))
            for skipped in usable.skipped(path):
                skip(skipped)
            kept, false = perturb_row(usable.row, noise, np.random.default_rng([noise.seed, i, earlier]))
            summary.images += 1
            summary.objects += len(row.objects)
            summary.kept += len(kept)
            summary.dropped += len(usable.objects) - len(kept)
            summary.added += len(false)
            yield replace(row, objects=kept + false)
        if not summary.images:
            why = f"; the first: {first[0].what}: {first[0].why}" if first else ""
            raise DataError(f"{index.path}: no image that can be used{why}")

    write_index(out, rows(), root=index.image_root, provenance=summary.provenance, classes=index.classes)
    return summary


def _refuse_to_write_over(index: ObjectIndex, out: str | Path) -> None:
    """Refuse an `out` that would destroy the source, or become a part of it: a folder is an index of all its
    Parquet files.
    """
    if os.path.isdir(index.path):
        if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(index.path)):
            raise DataError(
                f"{out}: is inside {index.path}, the index that is read; write the noisy index elsewhere "
                f"(out)"
            )
    elif os.path.exists(out) and os.path.samefile(index.path, out):
        raise DataError(f"{out}: is the index that is read; write the noisy index to another file (out)")
