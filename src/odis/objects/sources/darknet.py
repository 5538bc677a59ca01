"""darknet's `obj.data`, which CVAT's YOLO 1.1 writes too: where the lists of images and the class names are.

A line is `key = value`: `train`, `valid` and `test` are lists of images, `names` is the list of classes.
`classes` and `backup` are not needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from odis.errors import DataError
from odis.objects.sources.reader import names_of_split
from odis.objects.sources.text import read_text, short

_KEYS = ("classes", "train", "valid", "val", "test", "names", "backup", "eval")


@dataclass(frozen=True, slots=True)
class DarknetData:
    """A data file: its path, and what stands at its keys."""

    path: Path
    values: dict[str, str]

    @classmethod
    def find(cls, root: Path) -> DarknetData | None:
        """The data file in a folder: `obj.data`, or the only one; None if there is none.

        Raises:
            DataError: There are several, or it cannot be read.
        """
        path = root / "obj.data"
        if not os.path.isfile(path):
            found = [one for one in sorted(root.glob("*.data")) if os.path.isfile(one)]
            if not found:
                return None
            if len(found) > 1:
                names = ", ".join(one.name for one in found)
                raise DataError(f"{root}: no data.yaml or obj.data, but {names}; remove all but one")
            path = found[0]
        values = {}
        for number, line in read_text(path).lines:
            key, equals, value = line.partition("=")
            key = key.strip().lower()
            if line.startswith(("#", ";")) or key not in _KEYS:
                continue
            if not equals or not value.strip():
                raise DataError(f"{path}: line {number} is {short(line)}, must be {key} = a path")
            values[key] = value.strip()
        return cls(path, values)

    def split(self, name: str) -> str | None:
        """The list of a split, under whatever of its names; None if there is none."""
        return next((self.values[key] for key in (name, *names_of_split(name)) if key in self.values), None)
