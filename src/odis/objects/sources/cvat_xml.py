"""CVAT's XML 1.1, read a piece at a time: a file of any length costs the memory of one image or track.

A file that declares a DOCTYPE is refused: CVAT writes none, and a few hundred bytes of entities can grow to
gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from odis.errors import DataError
from odis.objects.sources.text import short

_PIECE = 2**18  # bytes read at a time

_DEEPEST = 30

_MOST_ATTRIBUTES = 2**28  # characters of the attributes of one image or track

SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton", "tag")


@dataclass(slots=True)
class CvatShape:
    """One shape as it stands in the file; the points of a skeleton are in `parts`."""

    tag: str
    values: dict[str, str]
    parts: list[CvatShape] = field(default_factory=list)


@dataclass(slots=True)
class CvatItem:
    """An `image` or a `track`, with its shapes."""

    tag: str
    values: dict[str, str]
    shapes: list[CvatShape] = field(default_factory=list)


@dataclass(slots=True)
class CvatMeta:
    """What the head of a file says; complete as soon as the first item comes."""

    labels: list[str] = field(default_factory=list)  # without those of a skeleton's points
    size: tuple[str, str] | None = None  # width and height of a video's frames


class CvatFile:
    """The items of a file, in their order, and what its head says."""

    def __init__(self, path: Path) -> None:
        self.path, self.meta = path, CvatMeta()
        self._stack: list[str] = []
        self._items: list[CvatItem] = []
        self._open: CvatItem | None = None
        self._shape: CvatShape | None = None
        self._text: dict[str, str] = {}
        self._held = 0

    def items(self) -> Iterator[CvatItem]:
        """Images and tracks.

        Raises:
            DataError: The file cannot be read, is not XML, is not of CVAT, or declares a DOCTYPE.
        """
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._refuse
        try:
            with self.path.open("rb") as file:
                while piece := file.read(_PIECE):
                    parser.Parse(piece, False)
                    yield from self._taken()
                parser.Parse(b"", True)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        except (expat.ExpatError, LookupError, ValueError) as error:
            raise DataError(f"{self.path}: is not XML ({error})") from error
        yield from self._taken()

    def _taken(self) -> list[CvatItem]:
        done, self._items = self._items, []
        return done

    def _refuse(self, *declared: object) -> None:
        raise DataError(f"{self.path}: contains <!DOCTYPE, which no file of CVAT needs; it is not parsed")

    def _start(self, tag: str, values: dict[str, str]) -> None:
        depth = len(self._stack)
        if depth == 0 and tag != "annotations":
            raise DataError(f"{self.path}: its outermost tag is {short(tag)}, must be annotations")
        if depth > _DEEPEST:
            raise DataError(f"{self.path}: has more than {_DEEPEST} elements in each other")
        self._stack.append(tag)
        if depth == 1 and tag in ("image", "track"):
            self._open, self._held = CvatItem(tag, values), 0
        elif self._open is not None and tag in SHAPES:
            self._held += sum(map(len, values.values()))
            if self._held > _MOST_ATTRIBUTES:
                raise DataError(
                    f"{self.path}: an {self._open.tag} has more than {_MOST_ATTRIBUTES:,} characters"
                )
            shape = CvatShape(tag, values)
            if self._shape is not None and self._shape.tag == "skeleton":
                self._shape.parts.append(shape)
            else:
                self._open.shapes.append(shape)
                self._shape = shape
        elif tag == "label":
            self._text = {}

    def _characters(self, text: str) -> None:
        if len(self._stack) > 2 and self._stack[1] == "meta" and len(text) < _PIECE:
            tag = self._stack[-1]
            if self._stack[-2] in ("label", "original_size"):
                self._text[tag] = self._text.get(tag, "") + text

    def _end(self, tag: str) -> None:
        self._stack.pop()
        if len(self._stack) == 1 and self._open is not None and tag == self._open.tag:
            self._items.append(self._open)
            self._open = self._shape = None
        elif self._shape is not None and tag == self._shape.tag and len(self._stack) == 2:
            self._shape = None
        elif tag == "label" and self._open is None:
            name = self._text.get("name", "").strip()
            if name and "parent" not in self._text and name not in self.meta.labels:
                self.meta.labels.append(name)
        elif tag == "original_size":
            self.meta.size = self._text.get("width", ""), self._text.get("height", "")
