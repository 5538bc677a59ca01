"""Where the images and label files of a YOLO data set are: as its entries say, or where they lead once the
data set has been moved.

An entry that leads nowhere is shortened from its front until it names something: `../train/images` as
Roboflow writes it, `/content/datasets/x/images/train` of another machine, `D:\\x\\images\\train`. At least
two of its parts are left, or all below the data set's own name. Nothing outside of the data set's folder, or
of a folder that the user names, is looked at.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Skip
from odis.objects.listing import list_files
from odis.objects.sources.reader import names_of_split
from odis.objects.sources.text import UNKNOWN, decode, short
from odis.types import Skipped

_DRIVE = re.compile(r"[A-Za-z]:")

_READ = (".txt", ".yaml", ".yml", ".names", ".data", ".labels", ".cache")  # beside the images

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def plain(text: str) -> str:
    """An entry with `/` between its parts and without a drive, also if it was written on Windows."""
    path = _DRIVE.sub("", text.strip().replace("\\", "/"), count=1) if _DRIVE.match(text.strip()) else text
    return posixpath.normpath(path.strip().replace("\\", "/")) if path.strip() else ""


def find_below(root: Path, bases: list[str], text: str, is_there: Callable[[Path], bool]) -> str | None:
    """Where an entry leads, relative to `root`; None if to nothing below it.

    Args:
        root: The folder that everything is in.
        bases: Folders, relative to it, that the entry may begin at; the first that it is found below counts.
        text: The entry.
        is_there: Whether a path is what is looked for.
    """
    if not text.strip() or any(ord(character) < 32 for character in text):
        return None
    written = plain(text)
    for base in bases:
        inside = posixpath.normpath(posixpath.join(str(root), base, written))
        inside = os.path.relpath(inside, root).replace(os.sep, "/")
        if inside.split("/", 1)[0] != ".." and is_there(root / inside):
            return inside
    parts = [part for part in written.split("/") if part not in ("", ".", "..")]
    for k in range(len(parts)):
        inside = "/".join(parts[k:])
        # one word that is left of many, as `images`, may be that of another data set
        if (k == 0 or len(parts) - k > 1 or parts[k - 1] == root.name) and is_there(root / inside):
            return inside
    return None


def is_place(path: Path) -> bool:
    """Whether it is a folder, or a list of images."""
    try:
        return os.path.isdir(path) or (path.suffix.lower() == ".txt" and os.path.isfile(path))
    except (OSError, ValueError):  # a name that is too long
        return False


def usual_places(root: Path, split: str) -> list[str]:
    """Where exporters put a split that no entry names: `images/train`, `train/images`, `train.txt`, `train`.

    Args:
        root: The data set's folder.
        split: One of `SPLITS`, or another name.
    """
    for name in names_of_split(split):
        for place in (f"images/{name}", f"{name}/images", f"{name}.txt", name):
            if is_place(root / place):
                return [place]
    return []


@dataclass(frozen=True, slots=True)
class Labels:
    """Finds the label file of an image.

    It is below the folder that the user names, if one is named. Else the last folder `images` of the image's
    path becomes `labels`; without one, or where there is no such folder, the file is beside the image. A name
    that differs in capital letters alone is taken if no other image has it.
    """

    root: Path
    named: Path | None = None
    _found: dict[str, Path] = field(default_factory=dict)
    _letters: dict[Path, dict[str, str]] = field(default_factory=dict)

    def folder(self, images: str) -> Path:
        """Folder of the label files of the images in a folder, which is relative to the root."""
        if images not in self._found:
            among = (folder for folder in self._folders(images) if os.path.isdir(folder))
            self._found[images] = next(among, self.root / images)
        return self._found[images]

    def file(self, image: str) -> Path:
        """The label file of an image; it need not exist."""
        folder, _, name = image.rpartition("/")
        stem, ending = os.path.splitext(name)
        path = self.folder(folder or ".") / f"{stem}.txt"
        if os.path.isfile(path):
            return path
        other = self._in_letters(path.parent).get(path.name.casefold())
        if other is None:
            return path
        of_another = self.root / folder / f"{os.path.splitext(other)[0]}{ending}"
        same = os.path.splitext(other)[0] == stem  # but for the letters of `.TXT`
        return path if os.path.isfile(of_another) and not same else path.with_name(other)

    def _in_letters(self, folder: Path) -> dict[str, str]:
        """The label files of a folder by their names in small letters, if those are of one file only."""
        if folder not in self._letters:
            found: dict[str, list[str]] = {}
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if name.lower().endswith(".txt"):
                    found.setdefault(name.casefold(), []).append(name)
            self._letters[folder] = {letters: names[0] for letters, names in found.items() if len(names) == 1}
        return self._letters[folder]

    def _folders(self, images: str) -> Iterator[Path]:
        parts = [part for part in images.split("/") if part != "."]
        if self.named is not None:
            for found in (parts, [part for part in parts if part != "images"]):
                yield from (self.named / "/".join(found[k:]) for k in range(len(found)))
            yield self.named
            return
        at = next((k for k in range(len(parts) - 1, -1, -1) if parts[k].lower() == "images"), None)
        if at is not None:
            for name in ("labels", "Labels", "LABELS"):
                yield self.root / "/".join([*parts[:at], name, *parts[at + 1 :]])


def images_of(root: Path, bases: list[str], place: str, skip: Skip) -> Iterator[str]:
    """The images of a folder or list, relative to the root.

    Args:
        root: The folder that everything is in.
        bases: Folders, relative to it, that the lines of a list may begin at.
        place: The folder or list, relative to the root.
        skip: Called with every line of a list that leads to nothing that may be read, and with what else
            lies in the folder.

    Raises:
        DataError: It holds or lists no image, or cannot be read.
    """
    path = root / place
    if os.path.isdir(path):
        listing = list_files(path)
        listing.report(skip, reads=_READ)
        images = listing.images
        if not images:
            raise DataError(f"{path}: no image in this folder or below")
        yield from (image if place == "." else f"{place}/{image}" for image in images)
        return
    empty = True
    beside = posixpath.dirname(place) or "."
    for number, content in _lines(path):
        text = decode(content).text.strip()
        if not text:
            continue
        empty = False
        bases_of = [beside, *bases] if text.startswith(("./", ".\\")) else [*bases, beside]
        image = None if UNKNOWN in text else find_below(root, bases_of, text, os.path.isfile)
        if image is None:
            image = _missing(root, bases_of[0], f"{path}, line {number}", text, skip)
        if image is not None:
            yield image
    if empty:
        raise DataError(f"{path}: lists no image")


def _missing(root: Path, base: str, what: str, text: str, skip: Skip) -> str | None:
    """The path of a listed image that is not there, to be named when its row is due; None if it has none
    below the root, which is said at once.
    """
    if UNKNOWN in text:
        skip(Skipped(what, "is not UTF-8"))
    elif any(ord(character) < 32 for character in text):
        skip(Skipped(what, f"{short(text)} has control characters"))
    else:
        inside = os.path.relpath(posixpath.normpath(posixpath.join(str(root), base, plain(text))), root)
        if inside.split(os.sep, 1)[0] != "..":
            return inside.replace(os.sep, "/")
        skip(Skipped(what, f"{short(text)} leads out of {root}, and there is no such image below it"))
    return None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a list, behind their numbers; line by line unless it is in UTF-16."""
    try:
        with path.open("rb") as file:
            if file.read(2) in _UTF16:
                file.seek(0)
                yield from (
                    (number, line.encode(errors="replace"))
                    for number, line in enumerate(decode(file.read()).text.split("\n"), start=1)
                )
                return
            file.seek(0)
            yield from enumerate(file, start=1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
