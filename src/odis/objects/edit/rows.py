"""Indexes made of indexes: a sample, a filtered one, several merged. Rows pass one by one; images stay where
they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from odis.errors import ConfigError, DataError
from odis.objects.index import ObjectIndex, write_index
from odis.objects.storage.address import relative
from odis.types import ImageObjects, Object


@dataclass(frozen=True, slots=True)
class Filter:
    """Which objects are kept.

    Args:
        min_score: Least score; an object without one is kept.
        min_size: Least side of the box in pixels, the shorter one.
        classes: Names; None keeps all, and what has no label is kept only then.
        with_objects: Leave out images that have no object, or none left.
    """

    min_score: float | None = None
    min_size: float = 0.0
    classes: Sequence[str] | None = None
    with_objects: bool = False

    def check(self, index: ObjectIndex) -> None:
        """Refuse what keeps everything, or classes the index does not have.

        Raises:
            ConfigError: naming the setting.
        """
        if self == Filter():
            raise ConfigError(
                "min-score, min-size, classes, with-objects: none is given, so nothing would change; "
                "give at least one"
            )
        if self.min_size < 0:
            raise ConfigError(f"min-size: is {self.min_size:g}, must be 0 or more pixels")
        unknown = [name for name in self.classes or () if name not in index.classes]
        if unknown:
            raise ConfigError(
                f"classes: {index.path} has no class {unknown[0]!r}; it has "
                f"{', '.join(index.classes[:10]) or 'none'}"
            )

    def keeps(self, item: Object, classes: Sequence[str]) -> bool:
        """Whether an object of an index with these classes stays."""
        x0, y0, x1, y1 = item.box
        if not min(x1 - x0, y1 - y0) >= self.min_size:
            return False
        if self.min_score is not None and item.score is not None and not item.score >= self.min_score:
            return False
        return self.classes is None or (item.label is not None and classes[item.label] in self.classes)


def filter_index(index: ObjectIndex, out: Path, kept: Filter) -> tuple[int, int]:
    """Write the objects of an index that a filter keeps; labels and classes stay as they are.

    Returns:
        How many images and objects were written.

    Raises:
        ConfigError: see `Filter.check`.
        DataError: The output is the index itself, or cannot be written.
    """
    kept.check(index)

    def rows() -> Iterator[ImageObjects]:
        for row in index:
            objects = tuple(item for item in row.objects if kept.keeps(item, index.classes))
            if objects or not kept.with_objects:
                yield replace(row, objects=objects)

    return _write([index], out, rows(), index.image_root, index.provenance, index.classes)


def sample_index(index: ObjectIndex, out: Path, images: int, seed: int) -> tuple[int, int]:
    """Write so many images of an index, drawn by a seed, in the index's order; see `filter_index` for what is
    returned and raised.
    """
    if not 1 <= images <= len(index):
        raise ConfigError(f"images: is {images}, must be from 1 to the {len(index)} of {index.path}")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(index))[:images])
    return _write(
        [index], out, (index[int(i)] for i in chosen), index.image_root, index.provenance, index.classes
    )


def merge_indexes(indexes: Sequence[ObjectIndex], out: Path) -> tuple[int, int]:
    """Write the images of several indexes into one, below the folder that holds all of their roots; classes
    are joined by name.

    Returns:
        How many images and objects were written.

    Raises:
        ConfigError: Fewer than two indexes.
        DataError: An image is in two of them, two classes of one have one name, the roots have no folder in
            common, or see `filter_index`.
    """
    if len(indexes) < 2:
        raise ConfigError("merge: takes two or more indexes")
    try:
        root = Path(os.path.commonpath([os.path.normpath(index.root) for index in indexes]))
    except ValueError as error:
        raise DataError(
            f"the images of {indexes[0].path} and another index are on different drives"
        ) from error
    for index in indexes:
        if len(set(index.classes)) < len(index.classes):
            raise DataError(
                f"{index.path}: two of its classes have one name, so they cannot be joined with another "
                f"index's"
            )
    classes = list(dict.fromkeys(name for index in indexes for name in index.classes))
    position = {name: i for i, name in enumerate(classes)}
    seen: set[str] = set()

    def rows() -> Iterator[ImageObjects]:
        for index in indexes:
            labels = [position[name] for name in index.classes]
            for i, row in enumerate(index):
                path = index.image_path(i)
                name = relative(root, path)
                if name in seen:
                    raise DataError(f"{path}: is in two of the indexes; an image is in an index once")
                seen.add(name)
                moved = (
                    item if item.label is None else replace(item, label=labels[item.label])
                    for item in row.objects
                )
                yield replace(row, image=name, objects=tuple(moved))

    provenance = "+".join(dict.fromkeys(index.provenance for index in indexes))
    return _write(indexes, out, rows(), root, provenance, classes)


def _write(
    sources: Sequence[ObjectIndex],
    out: Path,
    rows: Iterator[ImageObjects],
    root: str | Path,
    provenance: str,
    classes: list[str],
) -> tuple[int, int]:
    if any(os.path.abspath(index.path) == os.path.abspath(out) for index in sources):
        raise DataError(f"{out}: is what is read; give another file with --out")
    counts = [0, 0]

    def counted() -> Iterator[ImageObjects]:
        for row in rows:
            counts[0] += 1
            counts[1] += len(row.objects)
            yield row

    write_index(out, counted(), root=root, provenance=provenance, classes=classes)
    return counts[0], counts[1]
