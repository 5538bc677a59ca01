"""Which annotation format a folder holds, by the names of its files and what these begin with.

Nothing is read whole: of each folder some hundred names, of some files the first bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from odis.errors import DataError, OdisError
from odis.objects.listing import IMAGE_SUFFIXES
from odis.objects.sources import FORMATS, huggingface
from odis.objects.sources.imagefolder import METADATA
from odis.objects.sources.plain_table import TableColumns
from odis.objects.sources.records import ENDINGS, read_records
from odis.objects.sources.yolo_yaml import CLASS_FILES

_NAMES = 400  # of a folder that are looked at

_HEAD = 2**16  # bytes of a file

_FEW = 6  # files of a kind whose beginnings are looked at

_SPLITS = (
    "train",
    "training",
    "val",
    "valid",
    "validation",
    "test",
    "testing",
    "dev",
    "val2017",
    "train2017",
)

_OBJECTS = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')

_LABEL = re.compile(r"\s*\d+(\s+[-+.\deE]+){4,}\s*")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A format that fits, and what shows it."""

    form: str
    because: str


def recognise(root: Path) -> list[Candidate]:
    """The formats that a folder, or a table, is in, in the order of `odis index --help`; `folder` only where
    there are images and nothing else fits.

    Raises:
        DataError: There is no such folder or file, it cannot be read, or it is an object index already.
    """
    if root.is_file():
        return [Candidate("table", f"{root.name}: {_table_columns(root)}")] if _table_columns(root) else []
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    peek = _Peek(root)
    found = {name: why for name, look in _LOOKS.items() if (why := look(peek))}
    for special, general in _HIDES.items():
        if special in found:
            for name in general:
                found.pop(name, None)
    if not found and (image := next(peek.images(), None)):
        found["folder"] = f"images ({image}) without annotations"
    return [Candidate(name, found[name]) for name in FORMATS if name in found]


def recognised(root: Path) -> Candidate:
    """The one format that fits.

    Raises:
        DataError: None fits, or several do; naming them and how to choose.
    """
    found = recognise(root)
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(
            f"{root}: holds no annotations in a layout that is known, and no image; odis index --help lists "
            f"the formats, and a table of your own has columns image, x0, y0, x1, y1"
        )
    fits = " and ".join(f"{one.form} ({one.because})" for one in found)
    ways = " or ".join(f"odis index {one.form} {root}" for one in found)
    raise DataError(f"{root}: fits {fits}; choose one: {ways}")


@dataclass(slots=True)
class _Peek:
    """The first names in a folder and in those below it, each looked at once."""

    root: Path
    _seen: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)

    def _look(self, folder: str) -> tuple[list[str], list[str]]:
        if folder not in self._seen:
            files: list[str] = []
            folders: list[str] = []
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in islice(entries, _NAMES):
                        if not entry.name.startswith("."):
                            (folders if entry.is_dir() else files).append(entry.name)
            except OSError as error:
                if not folder:
                    raise DataError(f"{self.root}: cannot be read ({error.strerror or error})") from error
            self._seen[folder] = sorted(files), sorted(folders)
        return self._seen[folder]

    def files(self, folder: str, *endings: str) -> list[str]:
        """Files of some endings, relative to the root."""
        prefix = f"{folder}/" if folder else ""
        return [f"{prefix}{name}" for name in self._look(folder)[0] if name.lower().endswith(endings)]

    def folders(self, folder: str = "") -> list[str]:
        """Folders in a folder, relative to the root."""
        prefix = f"{folder}/" if folder else ""
        return [f"{prefix}{name}" for name in self._look(folder)[1]]

    def has(self, *paths: str) -> str:
        """The first of some paths that is there; empty if none is."""
        return next((path for path in paths if (self.root / path).exists()), "")

    def near(self) -> Iterator[str]:
        """The root, its folders, and the folders in these."""
        yield ""
        for folder in self.folders()[:40]:
            yield folder
            yield from self.folders(folder)[:10]

    def images(self) -> Iterator[str]:
        """Some images, relative to the root."""
        for folder in self.near():
            yield from self.files(folder, *IMAGE_SUFFIXES)

    def heads(self, *endings: str) -> Iterator[tuple[str, str]]:
        """Files of some endings, and the text that each begins with; some of every folder."""
        for folder in self.near():
            for name in self.files(folder, *endings)[:_FEW]:
                try:
                    with (self.root / name).open("rb") as file:
                        yield name, file.read(_HEAD).replace(b"\0", b"").decode("utf-8", "replace")
                except OSError:
                    continue


def _published(prefix: str) -> Callable[[_Peek], str]:
    def look(peek: _Peek) -> str:
        names = [
            name for name in peek.files("annotations", ".json") if name.startswith(f"annotations/{prefix}")
        ]
        return names[0] if names else ""

    return look


def _coco(peek: _Peek) -> str:
    others = ("lvis_v1_", "zhiyuan_objv2_", "panoptic_")
    for name, head in peek.heads(".json"):
        file = name.rpartition("/")[2]
        ours = _OBJECTS.search(head) and '"shapes"' not in head
        if ours and not file.startswith(others) and not _is_sa1b(name):
            return name
    return ""


def _is_sa1b(name: str) -> bool:
    return re.fullmatch(r"sa_\d+\.json", name.rpartition("/")[2]) is not None


def _sa1b(peek: _Peek) -> str:
    return next((name for name, _ in peek.heads(".json") if _is_sa1b(name)), "")


def _labelme(peek: _Peek) -> str:
    return next((name for name, head in peek.heads(".json") if re.search(r'"shapes"\s*:\s*\[', head)), "")


def _voc(peek: _Peek) -> str:
    return next((name for name, head in peek.heads(".xml") if re.search(r"<annotation[\s>]", head)), "")


def _cvat(peek: _Peek) -> str:
    return next((name for name, head in peek.heads(".xml") if re.search(r"<annotations[\s>]", head)), "")


def _imagenet(peek: _Peek) -> str:
    wnid = re.compile(r"(train/|val/)?n\d{8}")
    folders = [one for one in (*peek.folders("train"), *peek.folders("val")) if wnid.fullmatch(one)]
    tiny = peek.has("wnids.txt")
    return (
        "" if tiny else peek.has("Data/CLS-LOC", "LOC_train_solution.csv") or (folders[0] if folders else "")
    )


def _tiny_imagenet(peek: _Peek) -> str:
    return "wnids.txt" if peek.has("wnids.txt") and peek.has("train", "val") else ""


def _open_images(peek: _Peek) -> str:
    found = [*peek.files("", "-annotations-bbox.csv"), *peek.files("annotations", "-annotations-bbox.csv")]
    return found[0] if found else ""


def _yolo(peek: _Peek) -> str:
    for name in peek.files("", ".yaml", ".yml"):
        text = next((head for one, head in peek.heads(".yaml", ".yml") if one == name), "")
        if re.search(r"^(train|val|names)\s*:", text, re.MULTILINE):
            return name
    if named := peek.has("obj.data", *CLASS_FILES):
        return named
    stems = {os.path.splitext(image.rpartition("/")[2])[0] for image in islice(peek.images(), 5 * _NAMES)}
    for name, head in peek.heads(".txt"):
        lines = [line for line in head.splitlines()[:5] if line.strip()]
        paired = os.path.splitext(name.rpartition("/")[2])[0] in stems
        if paired and lines and all(_LABEL.fullmatch(line) for line in lines):
            return name
    return ""


def _label_maps(peek: _Peek) -> str:
    for name in ("SegmentationClass", "SegmentationClassPNG"):
        if peek.files(name, ".png"):
            return f"{name}/*.png"
    for split in ("training", "validation"):
        if peek.files(f"annotations/{split}", ".png") and peek.has(f"images/{split}"):
            return f"annotations/{split}/*.png"
    return ""


def _imagefolder(peek: _Peek) -> str:
    for folder in ("", "data", *(one for one in (*peek.folders(), *peek.folders("data")) if _is_split(one))):
        for name in METADATA:
            if f"{folder}/{name}".lstrip("/") in peek.files(folder, name):
                return f"{folder}/{name}".lstrip("/")
    return ""


def _is_split(folder: str) -> bool:
    return folder.rpartition("/")[2].lower() in _SPLITS


def _table(peek: _Peek) -> str:
    for name in peek.files("", *ENDINGS):
        if name.endswith(".skipped.jsonl") or name in METADATA:
            continue
        if columns := _table_columns(peek.root / name):
            return f"{name}: {columns}"
    return ""


def _table_columns(path: Path) -> str:
    """In words, the columns of a table that names images; empty if it is none."""
    if path.suffix.lower() == ".parquet" and _is_index(path):
        raise DataError(f"{path}: is an object index already; odis index stats {path} looks into it")
    try:
        columns = TableColumns.of(path, read_records(path, lambda *refused: None).columns)
    except OdisError:
        return ""
    box = ", ".join(columns.box or ()) or "no box"
    return f"columns {columns.image}, {box}{f', {columns.label}' if columns.label else ''}"


def _is_index(path: Path) -> bool:
    from odis.objects.table import read_schema  # pyarrow: not for the help of a command

    try:
        read_schema(path)
    except DataError:
        return False
    return True


def _huggingface(peek: _Peek) -> str:
    from odis.objects.storage.image_tables import image_columns, open_table  # pyarrow: not for the help

    for folder in peek.near():
        for name in peek.files(folder, *huggingface.ENDINGS)[:1]:
            try:
                images = image_columns(open_table(peek.root / name).schema)
            except DataError:
                continue
            if images:
                return f"{name}: images in {images[0]}"
    return ""


def _webdataset(peek: _Peek) -> str:
    return next((name for folder in peek.near() for name in peek.files(folder, ".tar")), "")


_LOOKS: dict[str, Callable[[_Peek], str]] = {
    "coco": _coco,
    "coco-panoptic": _published("panoptic_"),
    "lvis": _published("lvis_v1_"),
    "objects365": _published("zhiyuan_objv2_"),
    "voc": _voc,
    "imagenet": _imagenet,
    "open-images": _open_images,
    "yolo": _yolo,
    "sa-1b": _sa1b,
    "label-maps": _label_maps,
    "tiny-imagenet": _tiny_imagenet,
    "labelme": _labelme,
    "cvat": _cvat,
    "imagefolder": _imagefolder,
    "huggingface": _huggingface,
    "webdataset": _webdataset,
    "table": _table,
}
"""For each format, what shows that a folder holds it: a file or folder; empty if nothing does."""

_HIDES = {
    "imagenet": ("voc", "table", "imagefolder"),
    "tiny-imagenet": ("table", "yolo"),
    "open-images": ("table",),
    "imagefolder": ("table",),
    "huggingface": ("table", "imagefolder"),
}
"""Formats whose files look like those of others."""
