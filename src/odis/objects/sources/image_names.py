"""The images of a folder by their names without ending, as annotations beside them name them."""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path

from odis.objects.clean import Skip
from odis.objects.listing import Listing, list_files

_FIRST = (".jpg", ".jpeg", ".png")


class ImageNames:
    """Finds images below a folder by the name of their annotation. The folder is listed once, when the first
    is asked for.
    """

    def __init__(self, folder: Path, suffixes: frozenset[str] | None = None) -> None:
        """Only those of some endings, in lower case, or all."""
        self.folder, self._suffixes = folder, suffixes

    @cached_property
    def _listing(self) -> Listing:
        return list_files(self.folder) if os.path.isdir(self.folder) else Listing(str(self.folder))

    def report(self, skip: Skip, reads: tuple[str, ...]) -> None:
        """Pass what else lies in the folder to `skip`, but for files of the endings that are read."""
        self._listing.report(skip, reads)

    @cached_property
    def images(self) -> list[str]:
        """All images, relative to the folder."""
        found = self._listing.images
        if self._suffixes is None:
            return found
        return [image for image in found if image[len(stem(image)) :].lower() in self._suffixes]

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for image in self.images:
            found[stem(image)].append(image)
        for images in found.values():
            images.sort(key=_order)
        return dict(found)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for image in self.images:
            found[stem(image).rpartition("/")[2]].append(image)
        return dict(found)

    @cached_property
    def _by_letters(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name, images in self._by_name.items():
            found[name.casefold()] += images
        return dict(found)

    @cached_property
    def _all(self) -> frozenset[str]:
        return frozenset(self.images)

    def of(self, name: str) -> list[str]:
        """The images of a name, `.jpg` first: `a.jpg` and `a.png` of `a`, and `a.png` of `a.png`."""
        return self._by_stem.get(name) or ([name] if name in self._all else [])

    def alike(self, name: str) -> str | None:
        """The image of this name in whichever folder, or of this name in capitals or small letters, if there
        is only one.
        """
        file = name.rpartition("/")[2]
        found = self._by_name.get(file) or self._by_letters.get(file.casefold(), [])
        return found[0] if len(found) == 1 else None

    def called(self, name: str) -> str | None:
        """The image of this path, or the only one of this file name in whichever folder."""
        if name in self._all:
            return name
        alike = self._by_name.get(stem(name).rpartition("/")[2], [])
        found = [image for image in alike if f"/{image}".endswith(f"/{name}")]
        return found[0] if len(found) == 1 else None


def stem(name: str) -> str:
    """A path without its ending."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.rpartition('.')[0] or file}"


def _order(image: str) -> tuple[int, bool, str]:
    suffix = image[len(stem(image)) :]
    lower = suffix.lower()
    return (_FIRST.index(lower) if lower in _FIRST else len(_FIRST)), suffix != lower, image
