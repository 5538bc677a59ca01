"""Where the files of a format are that has one file an image, and the folders of their splits.

The files lie beside the images, in folders of splits or not, or in a folder of their own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from odis.errors import DataError
from odis.objects.sources.reader import SPLITS, names_of_split
from odis.objects.sources.text import short
from odis.objects.sources.voc_layout import subfolders
from odis.objects.sources.voc_xml import leads_out


@dataclass(frozen=True, slots=True)
class Sidecars:
    """Where a split is: its images, and its files, `names` of which are relative to `notes`, in order."""

    root: Path  # that rows are relative to
    images: Path
    notes: Path
    names: list[str]

    @property
    def inside(self) -> str:
        """The folder of the images, relative to the root; `.` if it is the root."""
        return os.path.relpath(self.images, self.root).replace(os.sep, "/")

    @property
    def notes_inside(self) -> str:
        """The folder of the files likewise; it may lead out of the root."""
        return os.path.relpath(self.notes, self.root).replace(os.sep, "/")


def find_sidecars(
    root: Path, split: str | None, images: str | None, annotations: str | None, ending: str, what: str
) -> Sidecars:
    """Find a split.

    Args:
        root: The data set's folder.
        split: A folder in it, or in that of the files; None where there are none, or only one.
        images: Folder of the images, if named.
        annotations: Folder of the files, if named.
        ending: Of the files, in lower case.
        what: What they are called in messages.

    Raises:
        DataError: A folder or split is missing, or not named, or there are no files.
    """
    pictures = _named(root, images, "--images", "images") or root
    notes = _named(root, annotations, "--annotations", what) or root
    top = pictures if os.path.relpath(pictures, root).split(os.sep, 1)[0] == ".." else root
    if split is not None:
        for name in names_of_split(split):
            if not leads_out(name) and (names := files_below(notes / name, ending)):
                own = pictures / name
                return Sidecars(top, own if os.path.isdir(own) else pictures, notes / name, names)
        there = [one.name for one in subfolders(notes) if files_below(one, ending)]
        said = f"; there are {', '.join(there)}" if there else f"; without --split all of {notes} is read"
        raise DataError(f"{root}: no split {short(split)}{said}")
    names = files_below(notes, ending)
    if not names:
        raise DataError(f"{notes}: no {what} here or below; --annotations DIR names their folder")
    folders = sorted({name.split("/", 1)[0] if "/" in name else "" for name in names})
    if len(folders) > 1 and all(any(one.lower() in split for split in SPLITS.values()) for one in folders):
        raise DataError(f"{root}: a split must be named; there are {', '.join(folders)}")
    return Sidecars(top, pictures, notes, names)


def files_below(folder: Path, ending: str) -> list[str]:
    """The files of an ending below a folder, relative to it, sorted; hidden ones are left out."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        found += [
            f"{prefix}{name}"
            for name in files
            if name.lower().endswith(ending) and not name.startswith(".") and _is_utf8(prefix + name)
        ]
    return sorted(found)


def _is_utf8(name: str) -> bool:
    return name.encode(errors="ignore").decode() == name


def _named(root: Path, place: str | None, option: str, what: str) -> Path | None:
    if place is None:
        return None
    path = Path(os.path.normpath(root / place))
    if not os.path.isdir(path):
        raise DataError(f"{path}: no such folder; {option} names the folder of the {what}")
    return path
