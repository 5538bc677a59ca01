"""An index in parts, for training and for tests, so that what belongs together stays in one of them.

Images of one group (a folder, a patient, a video) are never in two parts: what a network saw of the one it
would know of the other.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from odis.config.wording import counted
from odis.errors import ConfigError, DataError
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects

_SUM = 1e-6  # that shares may miss 1 by


@dataclass(slots=True)
class IndexPart:
    """One part: its file, and what is in it."""

    name: str
    path: Path
    images: int = 0
    groups: int = 0
    objects: int = 0
    classes: Counter[int | None] = field(default_factory=Counter)  # objects by label


def split_index(
    index: ObjectIndex, out: Path, shares: dict[str, float], seed: int = 0, group: str | None = None
) -> list[IndexPart]:
    """Write `OUT/NAME.parquet` for each part; every image is in one, in the index's order.

    Groups are taken in an order that the seed draws, and each goes to the part that is furthest behind its
    share of the images so far.

    Args:
        index: The index.
        out: Folder of the parts.
        shares: Of the images, by the names of the parts; together 1.
        seed: Another seed makes another split.
        group: What keeps images together: `folder` (theirs), `folder:2` (the first two folders of the path),
            `pattern:REGEX` (what a regular expression finds in the path; its first group, if it has one),
            or `column:NAME` (a column of the Parquet file). Without it every image is for itself.

    Returns:
        The parts, and what is in each.

    Raises:
        ConfigError: Shares that do not make up 1, or names that are none; a group that is none; a part that
            would be empty.
        DataError: A path that the pattern does not match, a column that is missing, or a file that cannot be
            written.
    """
    _check(shares)
    keys = group_keys(index, group)
    names = list(shares)
    chosen = _assign(keys, list(shares.values()), seed)
    for k, name in enumerate(names):
        if not (chosen == k).any():
            raise ConfigError(
                f"shares: {name} would be empty: {counted(len(index), 'image')} in "
                f"{counted(len(set(keys)), 'group does', 'groups do')} not make "
                f"{counted(len(names), 'part')} of these shares"
            )
    parts = [IndexPart(name, out / f"{name}.parquet") for name in names]
    sources = {
        os.path.abspath(index.path),
        *map(os.path.abspath, map(str, Path(index.path).glob("*.parquet"))),
    }
    for part in parts:
        if os.path.abspath(part.path) in sources:
            raise DataError(f"{part.path}: is what is read; give another folder with --out")
    written: list[Path] = []
    try:
        for k, part in enumerate(parts):
            part.groups = len({keys[i] for i in np.flatnonzero(chosen == k).tolist()})
            new = not part.path.exists()
            rows = _rows(index, np.flatnonzero(chosen == k).tolist(), part)
            write_index(
                part.path, rows, root=index.image_root, provenance=index.provenance, classes=index.classes
            )
            if new:
                written.append(part.path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return parts


def _check(shares: dict[str, float]) -> None:
    if len(shares) < 2:
        raise ConfigError("shares: two or more parts are needed: train=0.8,val=0.2")
    for name, share in shares.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
            raise ConfigError(f"shares: {name!r} is no name of a file; letters, digits, _ - . are")
        if not 0 < share < 1:
            raise ConfigError(f"shares: {name} is {share:g}, must be between 0 and 1")
    if abs(sum(shares.values()) - 1) > _SUM:
        raise ConfigError(f"shares: make up {sum(shares.values()):g}, must make up 1")


def group_keys(index: ObjectIndex, group: str | None) -> list[Any]:
    """What group each image is in; see `split_index`."""
    if group is None:
        return list(range(len(index)))
    kind, _, value = group.partition(":")
    if kind == "column" and value:
        return _column(index, value)
    names = [index.image_name(i) for i in range(len(index))]
    if kind == "folder" and (not value or (value.isdecimal() and int(value) > 0)):
        depth = int(value) if value else None
        return ["/".join(name.split("/")[:-1][:depth]) for name in names]
    if kind == "pattern" and value:
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise ConfigError(f"group: {value!r} is no regular expression ({error})") from error
        found = []
        for name in names:
            match = pattern.search(name)
            if match is None:
                raise DataError(f"{name}: the pattern {value!r} finds nothing in this path")
            found.append(match[1] if pattern.groups else match[0])
        return found
    raise ConfigError(f"group: is {group!r}, must be folder, folder:N, pattern:REGEX or column:NAME")


def _column(index: ObjectIndex, name: str) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if index.is_folder:
        raise ConfigError(f"group: {index.path} is a folder of images, which has no columns")
    path = Path(index.path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        names = pq.read_schema(files[0]).names
        if name not in names:
            raise DataError(f"{files[0]}: has no column {name!r}; it has {', '.join(names)}")
        found = [value for file in files for value in pq.read_table(file, columns=[name])[name].to_pylist()]
        return [str(value) if isinstance(value, list | dict) else value for value in found]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: column {name!r} cannot be read ({str(error).splitlines()[0]})") from error


def _assign(keys: Sequence[Any], shares: list[float], seed: int) -> np.ndarray:
    """int64 (n,): the part of each image."""
    sizes = Counter(keys)
    groups = list(sizes)
    counts = np.zeros(len(shares))
    part: dict[Any, int] = {}
    total = 0
    for k in np.random.default_rng(seed).permutation(len(groups)).tolist():
        total += sizes[groups[k]]
        behind = int(np.argmax(np.array(shares) * total - counts))
        part[groups[k]] = behind
        counts[behind] += sizes[groups[k]]
    return np.array([part[key] for key in keys], np.int64)


def _rows(index: ObjectIndex, chosen: list[int], part: IndexPart) -> Iterator[ImageObjects]:
    for i in chosen:
        row = index[i]
        part.images += 1
        part.objects += len(row.objects)
        part.classes.update(item.label for item in row.objects)
        yield row
