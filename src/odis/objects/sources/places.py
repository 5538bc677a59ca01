"""Where the images are that an exporter named: the plain place first, then what tools make of a name.

A name may come from another machine (`/mnt/disk/a.jpg`, or with a drive and backslashes), from a server
(`/data/upload/4/a.jpg`, `https://host/a%20b.jpg`), begin at another folder than the images do (`train/a.jpg`,
`images/a.jpg`), or be spelled in another way (an accent as a character of its own, `.JPG`). An image is only
ever taken from the folder of the data set. Folders in a name that say which image is meant are not passed
over: `b/1.jpg` is not `a/1.jpg`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import numpy as np

from odis.errors import DataError
from odis.objects.listing import IMAGE_SUFFIXES, SPLIT_FOLDERS, list_files

LEADS_OUT = "its name leads out of the data set's folder, or names no file"

MISSING = "no such file"

_GENERIC = frozenset(
    (
        *("all", "data", "dataset", "datasets", "default", "file", "files", "image", "images", "img", "imgs"),
        *("jpegimages", "local-files", "media", "photos", "pictures", "raw", "upload", "uploads"),
    )
)
"""Names of folders that do not say which image is meant, in lower case."""

_SERVER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/?]*")

_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])")

_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # Label Studio's names of uploaded files

_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")  # where a name has none

_MOST_FOLDERS = 10_000  # that it is remembered of whether they are there

_DEEPEST = 32  # parts of a name that are looked at


Settled = Literal["plain", "elsewhere", "nowhere"]
"""Where images are: at their plain places, to be found by their names, or not at all."""


class ImagePlaces:
    """Finds images below a folder by the names that annotations give them.

    Args:
        root: Folder that no image leads out of.
        folders: Where names may begin, relative to `root`, which is one of them too (`""`): in the first one
            if nothing speaks against it.
        parts: Names of further folders that do not say which image is meant, such as the split's.
        names: All names of the data set; asked for once, when it matters whether two of them end alike.
        shorten: The part of a name that says where an image is in a folder.
    """

    def __init__(
        self,
        root: Path,
        folders: Sequence[str],
        parts: Collection[str] = (),
        names: Callable[[], Iterable[str]] = tuple,
        shorten: Callable[[str], str] | None = None,
    ) -> None:
        self.root = root
        self.folders = list(dict.fromkeys([*folders, ""]))
        of_folders = (part for folder in (root.name, *folders) for part in folder.split("/"))
        self._parts = _GENERIC | {part.lower() for part in (*parts, *of_folders) if part}
        self._names, self._shorten = names, shorten
        self._ends: dict[int, np.ndarray] = {}
        self._plain: np.ndarray | None = None
        self._before = f"{self.folders[0]}/" if self.folders[0] else ""
        self._there: dict[str, bool] = {}  # folders that were asked for
        self._listing: _Listing | None = None

    def settle(self, names: Iterable[str]) -> Settled:
        """Put that folder first in which most of these names begin; where their images are."""
        names = list(names)
        short = [
            one
            for one in (names if self._shorten is None else map(self._shorten, names))
            if stays_inside(one)
        ]
        counts: dict[str, int] = {}
        for folder in self.folders:
            counts[folder] = sum(self.is_there(_join(folder, name)) for name in short)
            if counts[folder] == len(names):
                break
        best = max(counts, key=lambda folder: counts[folder])
        if not counts[best]:
            for name in names:
                with suppress(DataError):
                    place = self.find(name)
                    if place.endswith(f"/{name}"):
                        self._put_first(place[: -len(name) - 1])
                        return "plain"
                    return "elsewhere"
            return "nowhere"
        self._put_first(best)
        return "plain"

    def _put_first(self, folder: str) -> None:
        self.folders = list(dict.fromkeys([folder, *self.folders]))
        self._plain = None
        self._before = f"{folder}/" if folder else ""

    def plain(self, name: str) -> str | None:
        """Where an image is if its name begins in the first folder, relative to `root`; None if it would lead
        out of that.
        """
        if self._shorten is not None:
            name = self._shorten(name)
        return self._before + name if stays_inside(name) else None

    def place(self, name: str) -> str:
        """Where an image is, relative to `root`: the plain place, or what `find` finds."""
        plain = self.plain(name)
        return plain if plain is not None and os.path.lexists(self.root / plain) else self.find(name)

    def called(self, name: str) -> str:
        """The path that messages call an image by."""
        short = name if self._shorten is None else self._shorten(name)
        return str(self.root / (self._before + short).encode(errors="replace").decode())

    def is_there(self, place: str) -> bool:
        """Whether there is a file at a place relative to `root`."""
        folder = place.rpartition("/")[0]
        there = self._there.get(folder)
        if there is None:
            if len(self._there) >= _MOST_FOLDERS:
                self._there.clear()
            there = self._there[folder] = os.path.isdir(os.path.join(self.root, folder))
        return there and os.path.isfile(f"{self.root}{os.sep}{place}")

    def find(self, name: str) -> str:
        """Where an image is that is not at its plain place, relative to `root`.

        Raises:
            DataError: It is nowhere, or cannot be told from another one; saying so, without the name.
        """
        forms = list(_forms(name, self.root))
        depths = range(max((len(parts) for parts, _ in forms), default=0), 0, -1)
        tries = (self._at(forms, depth, how) for how in (_as_it_is, _spellings) for depth in depths)
        found = next((place for place in tries if place is not None), None) or self._listed(forms)
        if found is None:
            raise DataError(LEADS_OUT if self.plain(name) is None else MISSING)
        if self._is_plain(found):
            raise DataError(f"{MISSING}; {found} is another image that is listed")
        return found

    def _at(
        self,
        forms: list[tuple[list[str], bool]],
        depth: int,
        spelled: Callable[[str], Iterable[str]],
    ) -> str | None:
        """The place of the last `depth` parts of a name in one of the folders."""
        for parts, free in forms:
            if len(parts) < depth or not self._may_drop(parts[:-depth], free):
                continue
            end = parts[-depth:]
            places: dict[str, str] = {}
            for folder in self.folders:
                for one in spelled("/".join(end)):
                    place = _join(folder, one)
                    if self.is_there(place):
                        places.setdefault(place, folder)
            if places:
                first = next(iter(places))
                return self._only(
                    [first] if places[first] == self.folders[0] else list(places),
                    end if len(parts) > depth else None,
                )
        return None

    def _listed(self, forms: list[tuple[list[str], bool]]) -> str | None:
        """The place of an image of the same name in any folder that does not say which image is meant."""
        if self._listing is None:
            self._listing = _Listing(self.root)
        best: tuple[int, list[str], list[str]] | None = None
        for parts, free in _with_uploaded(forms):
            for place in self._listing.find(parts[-1]):
                there = place.split("/")
                same = _common(parts, there)
                if not self._may_drop(parts[:-same], free) or not self._may_hold(
                    there[:-same], parts[:-same]
                ):
                    continue
                if best is None or same > best[0]:
                    best = same, [place], parts
                elif same == best[0] and place not in best[1]:
                    best[1].append(place)
        if best is None:
            return None
        depth, places, parts = best
        exact = [place for place in places if place.split("/")[-depth:] == parts[-depth:]]
        return self._only(exact or places, parts[-depth:])

    def _may_drop(self, parts: list[str], free: bool) -> bool:
        """Whether leading parts do not say which image is meant; numbers behind others that do not are a
        server's.
        """
        return free or all(
            part.lower() in self._parts or (k > 0 and part.isdigit()) for k, part in enumerate(parts)
        )

    def _may_hold(self, folders: list[str], parts: list[str]) -> bool:
        """Whether an image may be in folders of which its name says nothing, but other `parts`: in any but
        other splits', if these do not say which image is meant either.
        """
        if not self._may_drop(parts, False):
            return self._may_drop(folders, False)
        return all(one in self._parts or one not in SPLIT_FOLDERS for one in map(str.lower, folders))

    def _only(self, places: list[str], end: list[str] | None) -> str:
        """The one place there is, if no other name ends like this one."""
        if len(places) > 1:
            raise DataError(f"could be {places[0]} or {places[1]}; name the folder of the images")
        if end is not None and self._count(end) > 1:
            raise DataError(f"could be {places[0]}, but names of several images end in {'/'.join(end)}")
        return places[0]

    def _is_plain(self, place: str) -> bool:
        """Whether another name of the data set says that its image is at this place."""
        if self._plain is None:
            numbers = (hash(self.plain(name)) for name in self._names())
            self._plain = np.sort(np.fromiter(numbers, np.int64))
        return _how_many(self._plain, hash(place)) > 0

    def _count(self, end: list[str]) -> int:
        """How many names of the data set end in these parts."""
        depth = len(end)
        if depth not in self._ends:
            numbers = array("q")
            for name in self._names():
                numbers.extend({hash(_end(parts, depth)) for parts, _ in _forms(name, self.root)})
            self._ends[depth] = np.sort(np.array(numbers, np.int64))
        return _how_many(self._ends[depth], hash(_end(end, depth)))


def _how_many(numbers: np.ndarray, one: int) -> int:
    """How often a number is among sorted ones."""
    return int(np.searchsorted(numbers, one, "right") - np.searchsorted(numbers, one, "left"))


def stays_inside(name: str) -> bool:
    """Whether a name is a relative path that stays in its folder."""
    if name.isascii() and ".." not in name and "\\" not in name and ":" not in name and name[:1] != "/":
        return bool(name.strip("./"))
    parts = [part for part in name.split("/") if part not in ("", ".")]
    try:
        name.encode()  # half a surrogate pair, which JSON may hold, names no file
    except UnicodeEncodeError:
        return False
    return (
        bool(parts)
        and ".." not in parts
        and not name.startswith("/")
        and "\\" not in name
        and ":" not in parts[0]
    )


def _forms(name: str, root: Path) -> Iterator[tuple[list[str], bool]]:
    """The parts of a name, and whether its leading ones belong to another machine; of the name as it stands,
    of what a server's address asks for, and with what is written as `%20` decoded.
    """
    texts = [name]
    local = "?d=" in name  # Label Studio's address of a file on its machine
    if local:
        texts = [name.split("?d=", 1)[1]]
    elif _SERVER.match(name):
        texts = [re.split("[?#]", name, maxsplit=1)[0]]
    if "%" in texts[0]:
        texts.append(unquote(texts[0]))
    for text in texts:
        free = local or bool(_SERVER.match(text) or _DRIVE.match(text)) or text[:1] in "/\\"
        inner = text[len(str(root)) :] if text.startswith(f"{root}/") else None
        text = _SERVER.sub("", text if inner is None else inner, count=1)
        parts: list[str] = []
        for part in _DRIVE.sub("", text, count=1).replace("\\", "/").split("/"):
            if part == "..":
                free |= not parts
                del parts[-1:]
            elif part not in ("", "."):
                parts.append(part)
        if parts and "\0" not in text and _is_text(text):
            yield parts[-_DEEPEST:], free


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_it_is(end: str) -> Iterable[str]:
    return (end,)


def _spellings(end: str) -> Iterator[str]:
    """Other spellings of a name: accents as characters of their own or not, the ending in other letters or
    not written.
    """
    stem, suffix = os.path.splitext(end)
    endings = (
        (suffix, suffix.lower(), suffix.upper()) if suffix.lower() in IMAGE_SUFFIXES else ("", *_ENDINGS)
    )
    stem = stem if suffix.lower() in IMAGE_SUFFIXES else end
    for form in (stem,) if stem.isascii() else (unicodedata.normalize(one, stem) for one in ("NFC", "NFD")):
        for ending in dict.fromkeys(endings):
            if form + ending != end:
                yield form + ending


def _with_uploaded(forms: list[tuple[list[str], bool]]) -> Iterator[tuple[list[str], bool]]:
    """And names without what Label Studio puts before them."""
    yield from forms
    for parts, free in forms:
        uploaded = _UPLOADED.fullmatch(parts[-1])
        if uploaded:
            yield [*parts[:-1], uploaded[1]], free


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _common(one: list[str], other: list[str]) -> int:
    """How many parts at the end of two names are the same."""
    count = 0
    for a, b in zip(reversed(one), reversed(other)):
        if _folded(a) != _folded(b):
            break
        count += 1
    return count


def _end(parts: list[str], depth: int) -> str:
    return _folded("/".join(parts[-depth:]))


class _Listing:
    """The images below a folder by their own names: some 50 bytes each."""

    def __init__(self, root: Path) -> None:
        numbers, starts, text = array("q"), array("q", [0]), bytearray()
        for image in list_files(root).images:
            numbers.append(hash(_folded(image.rsplit("/", 1)[-1])))
            text += os.fsencode(image)
            starts.append(len(text))
        found = np.array(numbers, np.int64)
        self._order = np.argsort(found, kind="stable")
        self._numbers = found[self._order]
        self._starts, self._text = starts, bytes(text)

    def find(self, name: str) -> Iterator[str]:
        """Places of the images of this name, in any spelling."""
        wanted = _folded(name)
        number = hash(wanted)
        at = int(np.searchsorted(self._numbers, number))
        while at < len(self._numbers) and self._numbers[at] == number:
            k = int(self._order[at])
            place = os.fsdecode(self._text[self._starts[k] : self._starts[k + 1]])
            if _folded(place.rsplit("/", 1)[-1]) == wanted:
                yield place
            at += 1
