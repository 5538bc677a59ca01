"""The files of a data set in shards, and which of them are a split's."""

from __future__ import annotations

import os
import re
from pathlib import Path

from odis.errors import DataError
from odis.objects.sources.reader import SPLITS, names_of_split


def files_of_split(root: Path, endings: tuple[str, ...], split: str | None, kind: str) -> list[str]:
    """Files below the root, relative to it with `/` between their parts, sorted.

    A file is of a split whose name is a word of its path (`train-00000-of-00002.parquet`,
    `data/imagenet-val-0007.tar`, `test/0.arrow`), as `datasets` has it.

    Args:
        root: Folder of the data set.
        endings: Of the files, in lower case.
        split: Its name; None for all files, if they are of one split at most.
        kind: What the files are, for messages.

    Raises:
        DataError: There are none, none of the split, or several splits and none is named.
    """
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = Path(folder).relative_to(root).as_posix()
        found += (
            name if place == "." else f"{place}/{name}"
            for name in names
            if name.lower().endswith(endings) and not name.startswith(".")
        )
    found.sort()
    if not found:
        raise DataError(f"{root}: no {kind} ({', '.join(endings)}) in this folder or below")
    words = {file: set(re.split(r"[^a-z0-9]+", file.lower())) for file in found}
    there = [name for name, names in SPLITS.items() if any(of & set(names) for of in words.values())]
    if split is not None:
        wanted = {name.lower() for name in names_of_split(split)}
        chosen = [file for file in found if words[file] & wanted]
        if not chosen:
            raise DataError(f"{root}: no split {split!r}; there are {', '.join(there) or 'none'}")
        return chosen
    if len(there) > 1:
        raise DataError(f"{root}: a split must be named; there are {', '.join(there)}")
    return found
