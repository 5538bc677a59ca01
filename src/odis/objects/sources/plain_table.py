"""A table of your own, a row an object: CSV, TSV, Parquet or JSON lines with named columns.

| column | names that it may have |
| --- | --- |
| image | `image`, `file_name`, `filename`, `image_path`, `path`, `file`, `image_name`, `img`, `image_id` |
| box | `x0 y0 x1 y1`, `x1 y1 x2 y2`, `xmin ymin xmax ymax`, `x_min y_min ...`, `left top right bottom`; |
| | or a corner and a size: `x y w h`, `x y width height`, `left top width height`; or `bbox`: x, y, w, h |
| class, if any | `label`, `class`, `category`, `class_name`, `category_name`, `label_name` |
| score, if any | `score`, `confidence`, `conf` |
| mask, if any | `segmentation`, `mask`: as in COCO, polygons or run lengths, as JSON in a text |
| size, if any | `image_width image_height`, or `width height` where these are not the box's |

Capitals make no difference, and other columns are counted as not read. Pixels are counted from 0, and x1 and
y1 are exclusive. Rows of an image may stand anywhere. An image with an empty box has no object. Without
columns for a box every image is one object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odis.errors import DataError
from odis.objects.clean import Skip, SkippedObject, Unread
from odis.objects.sources.coco_entries import number, short
from odis.objects.sources.coco_instances import ImageSearch, read_entries
from odis.objects.sources.coco_layout import folder_within, named_path
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader
from odis.objects.sources.records import ENDINGS, Records, is_nothing, read_records
from odis.objects.sources.whole_images import read_whole_images
from odis.types import Skipped

_IMAGES = (
    *("image", "file_name", "filename", "image_path", "path", "file", "image_name", "img", "image_id"),
)
_CORNERS = (
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
_SIZED = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("left", "top", "width", "height"),
)
_LABELS = ("label", "class", "category", "class_name", "category_name", "label_name")
_SCORES = ("score", "confidence", "conf")
_MASKS = ("segmentation", "mask")
_SIZES = (("image_width", "image_height"), ("width", "height"))

_CHUNK = 4096  # objects that are handed on together

NO_LABEL = "(no label)"


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
) -> AnnotationReader:
    """Every image of the table, in the order in which it names them.

    The table is read once, at the beginning; what it says is kept on disk, but for the images' names.

    Args:
        root: Folder that holds the table; names of images begin here.
        split: None, or the name of one of several tables, without ending.
        skip: Called with every image and row that cannot be used.
        trust: Take the sizes that the table states, without opening the images.
        images: Folder of the images, if names begin elsewhere.
        annotations: The table, if there are several.

    Raises:
        DataError: There is no table, or several, or it has no column that names the images.
    """
    path = _find(root, split, annotations)
    base = root if images is None else named_path(root, images, "--images")
    near = folder_within(path, base)
    folders = [folder for folder in (near, "images") if folder != "." and (base / folder).is_dir()]
    advice = "" if images is not None else f"odis index table {path} --images DIR"
    where = ImageSearch(base, ["", *folders], advice=advice)

    def refuse(line: int, why: str) -> None:
        skip(SkippedObject(f"{path}, line {line}", why))

    records = read_records(path, refuse)
    columns = TableColumns.of(path, records.columns)
    for name in columns.unread:
        skip(Unread(f"{path}, column {short(name)}", "columns without a meaning"))
    rows = _TableRows(path, records, columns, skip)
    if columns.box is None and columns.mask is None:
        return read_whole_images(rows.listed(), where, skip)
    return read_entries(path, rows.chunks(), where, skip, noun="line", trust=trust, by_name=True)


FORMAT = AnnotationFormat(
    name="table",
    title="A table of your own (CSV, TSV, Parquet, JSON lines): a row an object, with named columns",
    layout="one table; columns: image, x0, y0, x1, y1 (or x, y, w, h), label, score; or the table itself",
    splits="the name of one of several tables",
    read=read,
    states_sizes=True,
    takes_places=True,
    takes_file=True,
)


def _find(root: Path, split: str | None, annotations: str | None) -> Path:
    folder = root
    if annotations is not None:
        named = named_path(root, annotations, "--annotations")
        if not named.is_dir():
            return named
        folder = named
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    found = [path for path in found if not path.name.endswith(".skipped.jsonl")]
    chosen = [path for path in found if split in (None, path.stem, path.name)]
    if len(chosen) == 1:
        return chosen[0]
    if found:
        there = ", ".join(path.name for path in found)
        raise DataError(f"{folder}: {'no such table' if not chosen else 'several tables'}; there are {there}")
    raise DataError(f"{folder}: no table here ({', '.join(ENDINGS)}); name it: odis index table FILE")


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Which columns mean what, by their names in the table."""

    image: str
    box: tuple[str, ...] | None  # four, or `bbox` alone
    sized: bool  # the box is a corner and a size
    label: str | None
    score: str | None
    mask: str | None
    size: tuple[str, ...] | None
    unread: list[str]

    @classmethod
    def of(cls, path: Path, names: list[str]) -> TableColumns:
        """Find the columns.

        Raises:
            DataError: None names the image.
        """
        known = {name.strip().lower(): name for name in names}

        def first(*choices: tuple[str, ...]) -> tuple[str, ...] | None:
            found = next((one for one in choices if all(name in known for name in one)), None)
            return None if found is None else tuple(known[name] for name in found)

        def single(choices: tuple[str, ...]) -> str | None:
            found = first(*((name,) for name in choices))
            return found[0] if found else None

        image = single(_IMAGES)
        if image is None:
            raise DataError(
                f"{path}: has the columns {', '.join(names) or '(none)'}, of which none names the image; "
                f"call it image, and those of the box x0, y0, x1, y1"
            )
        corners = first(*_CORNERS)
        box = corners or first(*_SIZED) or first(("bbox",))
        label, score, mask = single(_LABELS), single(_SCORES), single(_MASKS)
        left = [one for one in _SIZES if not {known.get(name) for name in one} & set(box or ())]
        size = first(*left)
        used = {image, label, score, mask, *(box or ()), *(size or ())}
        unread = [name for name in names if name not in used]
        return cls(image, box, corners is None, label, score, mask, size, unread)


@dataclass(slots=True)
class _TableRows:
    path: Path
    records: Records
    columns: TableColumns
    skip: Skip
    images: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def listed(self) -> dict[str, str | None]:
        """The images and their labels, where no row has a box."""
        found: dict[str, str | None] = {}
        for line, row in self.records.rows:
            name = self._name(line, row)
            if name is None:
                continue
            if name in found:
                self.skip(Skipped(f"{self.path}, line {line}", f"{short(name)} was listed before"))
            else:
                found[name] = self._label(row)
        if not found:
            raise DataError(f"{self.path}: has no row")
        return found

    def chunks(self) -> Iterator[tuple[str, list[Any]]]:
        """Annotations, then images, then the categories."""
        held: list[dict[str, Any]] = []
        entries: list[dict[str, Any]] = []
        for line, row in self.records.rows:
            name = self._name(line, row)
            if name is None:
                continue
            k = self.images.setdefault(name, len(self.images))
            if k == len(entries):
                width, height = (row[one] for one in self.columns.size) if self.columns.size else (None, None)
                entries.append({"id": k, "file_name": name, "width": width, "height": height})
            entry = self._entry(line, row)
            if entry is not None:
                held.append({**entry, "image_id": k})
            if len(held) >= _CHUNK:
                yield "annotations", held
                held = []
        if not entries:
            raise DataError(f"{self.path}: has no row")
        yield "annotations", held
        yield "images", entries
        yield "categories", [{"id": number, "name": label} for label, number in self.labels.items()]

    def _name(self, line: int, row: dict[str, Any]) -> str | None:
        value = row.get(self.columns.image)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
        self.skip(
            SkippedObject(f"{self.path}, line {line}", f"has {self.columns.image} {short(value)}, no name")
        )
        return None

    def _label(self, row: dict[str, Any]) -> str | None:
        value = row.get(self.columns.label) if self.columns.label else None
        if is_nothing(value) or not isinstance(value, str | int | float):
            return None
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

    def _entry(self, line: int, row: dict[str, Any]) -> dict[str, Any] | None:
        """The annotation of a row; None if it has no object, or none that can be used."""
        cells = [row.get(name) for name in self.columns.box or ()]
        mask = row.get(self.columns.mask) if self.columns.mask else None
        if all(is_nothing(cell) for cell in [*cells, mask]):
            return None
        label = self._label(row)
        entry: dict[str, Any] = {"id": line, "iscrowd": 0}
        if self.columns.label is not None:
            entry["category_id"] = (
                NO_LABEL if label is None else self.labels.setdefault(label, len(self.labels))
            )
        else:
            entry["category_id"] = None
        if len(cells) == 1:
            entry["bbox"] = None if is_nothing(cells[0]) else _listed(cells[0])
        elif not all(is_nothing(cell) for cell in cells):
            values = [number(cell) for cell in cells]
            wrong = next((k for k, value in enumerate(values) if value is None), None)
            if wrong is not None:
                name = (self.columns.box or ())[wrong]
                why = f"has {name} {short(cells[wrong])}, must be a number of pixels"
                self.skip(SkippedObject(f"{self.path}, line {line}", why))
                return None
            x, y, right, down = (float(value or 0) for value in values)
            entry["bbox"] = [x, y, right, down] if self.columns.sized else [x, y, right - x, down - y]
        if not is_nothing(mask):
            entry["segmentation"] = _listed(mask)
        score = row.get(self.columns.score) if self.columns.score else None
        if not is_nothing(score):
            entry["score"] = score
        return entry


def _listed(value: Any) -> Any:
    """A list that a cell holds, perhaps as JSON or as Python prints one."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        return json.loads(text.replace("(", "[").replace(")", "]"))
    except (ValueError, RecursionError):
        return text
