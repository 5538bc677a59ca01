"""Which files a folder holds: images, indexes, and what nobody reads, counted by kind."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Skip, Unread
from odis.objects.decoding.kinds import NEEDS, SLIDES, installed
from odis.types import Skipped


def _reads_avif() -> bool:
    try:  # Pillow has it since 11.3, in builds with libavif
        return bool(import_module("PIL.AvifImagePlugin").SUPPORTED)
    except ImportError:
        return False


IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".tga"),
        *([".avif"] if _reads_avif() else []),
        *(suffix for suffix in NEEDS if installed(suffix)),
    }
)
"""Endings of image files, in lower case."""

SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev"})

_KIND = re.compile(r"\.(?=[a-z0-9]*[a-z])[a-z0-9]{1,8}")  # of a file's ending; others are parts of names

OTHER = "other files"

SKIPPED_LIST = ".skipped.jsonl"
"""End of the name of the file beside an index that lists what was left out."""

_PICTURES = frozenset(
    {
        *(".heic", ".heif", ".hif", ".avif", ".jxl", ".psd", ".svg", ".exr", ".hdr", ".dng", ".cr2", ".cr3"),
        *(".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".nii", ".fits", ".qoi", ".pfm", ".jxr", ".nd2"),
        *(".czi", ".lif", ".zarr", *NEEDS, *SLIDES),
    }
)  # that somebody may miss


def _way_to_read(suffix: str) -> str:
    """What to do to have files of this kind read; empty if nothing can be done."""
    if suffix in SLIDES:
        return " (`odis index tiles` cuts slides into tiles)"
    if suffix in NEEDS:
        return f" (pip install 'odis[{NEEDS[suffix][1]}]' reads them)"
    return ""


@dataclass(slots=True)
class Listing:
    """The files of a folder, sorted by name. Paths are relative to the folder, with `/` between their
    parts.
    """

    folder: str
    images: list[str] = field(default_factory=list)
    parquet: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # by kind; hidden files are none
    skipped: list[Skipped] = field(default_factory=list)  # odd names, and folders that are closed

    def report(self, skip: Skip, reads: Collection[str] = ()) -> None:
        """Pass what is left out, and the kinds of files that nobody reads, to `skip`.

        Args:
            skip: Called with each.
            reads: Endings of files besides images that the caller does read, such as `.txt`.
        """
        for one in self.skipped:
            skip(one)
        known = {f"{ending} files" for ending in reads}
        for kind, count in sorted(self.others.items()):
            if kind not in known:
                skip(Unread(self.folder, kind + _way_to_read(kind.split(" ")[0]), count))

    def pictures(self) -> str:
        """The files that hold pictures of kinds that are not read, in words; empty if there are none."""
        found = [(kind, n) for kind, n in self.others.most_common() if kind.split(" ")[0] in _PICTURES]
        return ", ".join(f"{count:,} {kind}" for kind, count in found)

    def said(self) -> str:
        """The other files in words: `3 .heic files, 1 .txt files`; `no files` if there are none."""
        return ", ".join(f"{count:,} {kind}" for kind, count in self.others.most_common()) or "no other files"


def list_files(folder: str | Path) -> Listing:
    """Every image and Parquet file under `folder`, at any depth, through links; hidden files and folders are
    left out.

    Raises:
        DataError: The folder cannot be read.
    """
    listing = Listing(str(folder))
    for relative, problem in _walk(str(folder)):
        if problem:
            listing.skipped.append(Skipped(os.path.join(folder, relative), problem))
            continue
        suffix = os.path.splitext(relative)[1].lower()
        if suffix in IMAGE_SUFFIXES:
            if _is_utf8(relative):
                listing.images.append(relative)
            else:
                path = os.path.join(folder, relative)
                listing.skipped.append(Skipped(path, "its name is not UTF-8; rename it"))
        elif suffix == ".parquet":
            listing.parquet.append(relative)
        elif not relative.endswith(SKIPPED_LIST):  # which an index that was written here left behind
            listing.others[f"{suffix} files" if _KIND.fullmatch(suffix) else OTHER] += 1
    listing.images.sort()
    listing.parquet.sort()
    listing.skipped.sort(key=lambda one: one.what)
    return listing


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # the system hands undecodable bytes over as lone surrogates
        return False
    return True


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """The files below a folder, and the folders that cannot be read behind why not."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        prefix, above = pending.pop()
        folder = os.path.join(root, prefix)
        try:
            status = os.stat(folder)
            here = (status.st_dev, status.st_ino)
            if here in above:  # a link that leads back up
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        pending.append((f"{prefix}{entry.name}/", above | {here}))
                    else:
                        yield prefix + entry.name, ""
        except OSError as error:
            if not prefix:
                raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error
            yield prefix, f"this folder cannot be read ({error.strerror or error})"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


@dataclass(frozen=True, slots=True)
class FolderLabels:
    """Classes of a folder's images by the folders that they are in. `depth` is which folder, from 0."""

    classes: list[str] = field(default_factory=list)
    depth: int = 0
    warning: str = ""  # what a reader should know of how the folders were taken

    def names(self, image: str) -> str:
        """The folder that would be the class of an image."""
        return image.split("/", self.depth + 1)[self.depth]


def folder_labels(listing: Listing, advice: Callable[[str], str], *, together: bool = False) -> FolderLabels:
    """What the folders in a folder of images say: classes, or splits.

    The folders are splits if all of them are named like one (`train`, `val`, `test`, `dev`, ...), or if two
    or more are that hold no image themselves but folders. Several splits are not mixed: they are refused, and
    one must be named. A single one is read as if it were the folder.

    Else every folder is a class, also one that is called `train` or `test`, if there are two or more and no
    image lies beside them. With `together`, the classes are the folders in the splits.

    Args:
        listing: The folder's files.
        advice: How to name a split, for the error, by its folder.
        together: Take the images of all splits.

    Raises:
        DataError: There are several splits, and none is named.
    """
    images, prefix, passed = listing.images, "", 0
    while True:
        direct, flat = _first_folders(images, passed)
        splits = sorted(name for name in direct if name.lower() in SPLIT_FOLDERS)
        if len(direct) != 1 or flat or splits:
            break
        prefix, passed = f"{prefix}{next(iter(direct))}/", passed + 1
    are_splits = bool(splits) and (len(splits) == len(direct) or sum(not direct[name] for name in splits) > 1)
    if are_splits and len(splits) > 1 and not together:
        raise DataError(
            f"{listing.folder}: its folders are splits ({', '.join(prefix + name for name in splits)}), "
            f"which are not mixed; {advice(prefix + splits[0])}"
        )
    if are_splits:
        below, loose = _first_folders(images, passed + 1)
        classes = sorted(below) if len(below) > 1 and not loose and not flat else []
        return FolderLabels(classes, passed + 1)
    if passed or flat or len(direct) < 2:
        beside = len(direct) > 1 and flat
        return FolderLabels(warning=_BESIDE.format(listing.folder, flat) if beside else "")
    doubtful = len(splits) > 1
    return FolderLabels(sorted(direct), 0, _DOUBTFUL.format(listing.folder, *splits) if doubtful else "")


_BESIDE = (
    "{0}: folders are not taken as classes, since an image lies beside them ({1}); move it, and they are"
)

_DOUBTFUL = "{0}: each folder is taken as a class, also {1} and {2}; if they are splits, read one at a time"


def _first_folders(images: list[str], passed: int) -> tuple[dict[str, bool], str]:
    """The folders at a depth, and whether images lie right in them; and an image that lies in none."""
    found: dict[str, bool] = {}
    loose = ""
    for image in images:
        parts = image.split("/", passed + 2)
        if len(parts) <= passed + 1:
            loose = loose or image
        else:
            found[parts[passed]] = found.get(parts[passed], False) or len(parts) == passed + 2
    return found, loose
