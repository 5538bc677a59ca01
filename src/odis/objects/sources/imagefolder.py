"""Hugging Face's `imagefolder`: images with `metadata.jsonl`, `metadata.csv` or `metadata.parquet` beside
them, or in the folder of their split.

A row names its image in `file_name`, relative to the metadata. Its objects are in `objects`, as the guides of
`datasets` and AutoTrain write them, lists of one length (`bbox`, `category`) or a list of objects; or in
columns of their own. A `bbox` is x, y, width, height in pixels. In CSV they are JSON in a text.

Rows without any objects are whole images, labelled with their `label` if they have one. Classes that are
numbers stay numbers: their names are in the data set's card, which is not read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from odis.errors import DataError
from odis.objects.clean import Skip, SkippedObject, Unread
from odis.objects.listing import SPLIT_FOLDERS
from odis.objects.sources.coco_entries import short
from odis.objects.sources.coco_instances import ImageSearch, read_entries
from odis.objects.sources.coco_layout import folder_within, named_path
from odis.objects.sources.described import LABELS, described_objects, first_of, has_objects, label_text
from odis.objects.sources.image_names import ImageNames
from odis.objects.sources.plain_table import NO_LABEL
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, names_of_split
from odis.objects.sources.records import read_records
from odis.objects.sources.voc_layout import subfolders
from odis.objects.sources.voc_xml import leads_out
from odis.objects.sources.whole_images import read_whole_images
from odis.types import Skipped

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

_LOOKED_AT = 100  # rows that show whether there are objects

_CHUNK = 4096  # objects that are handed on together


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
) -> AnnotationReader:
    """Every image that the metadata names, in its order.

    The metadata are read once, at the beginning; what they say is kept on disk, but for the images' names.

    Args:
        root: Folder that holds the images and the metadata, or folders of splits that do.
        split: `train`, `validation`, `test`, or another folder; needed where there are several.
        skip: Called with every image and object that cannot be used.
        trust: Take the sizes that the metadata state (`width`, `height`), without opening the images.
        images: Folder of the images, if elsewhere.
        annotations: The metadata, if called otherwise.

    Raises:
        DataError: There are no metadata, or of several splits and none is named, or they name no images.
    """
    path, within = _find(root, split, annotations)
    base = root if images is None else named_path(root, images, "--images")
    near = folder_within(path, base)
    advice = "" if images is not None else f"odis index imagefolder {root} --images DIR"
    where = ImageSearch(base, ["" if near == "." else near], advice=advice)

    def refuse(line: int, why: str) -> None:
        skip(Skipped(f"{path}, line {line}", why))

    records = read_records(path, refuse)
    if "file_name" not in records.columns:
        raise DataError(
            f"{path}: has the columns {', '.join(records.columns) or '(none)'}; imagefolder's metadata name "
            f"the image in file_name"
        )
    first = list(islice(records.rows, _LOOKED_AT))
    pictures = ImageNames(base / near)
    rows = _Rows(path, chain(first, records.rows), within, pictures, skip)
    if not any(has_objects(row) for _, row in first):
        return read_whole_images(rows.listed(), where, skip)
    return read_entries(path, rows.chunks(), where, skip, noun="object", trust=trust, by_name=True)


FORMAT = AnnotationFormat(
    name="imagefolder",
    title="Hugging Face imagefolder: images with metadata.jsonl, .csv or .parquet; boxes or labels",
    layout="metadata.jsonl with file_name and objects beside the images, or in each folder of a split",
    splits="train, validation, test (needed if there are several)",
    read=read,
    states_sizes=True,
    takes_places=True,
)


def find_metadata(folder: Path) -> Path | None:
    """The metadata in a folder; None if there are none."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _find(root: Path, split: str | None, annotations: str | None) -> tuple[Path, tuple[str, ...]]:
    """The metadata, and the names of the folder of which alone they are asked for, if they hold several."""
    if annotations is not None:
        named = named_path(root, annotations, "--annotations")
        found = find_metadata(named) if named.is_dir() else named
        if found is None:
            raise DataError(f"{named}: holds none of {', '.join(METADATA)}")
        return found, names_of_split(split) if split else ()
    own = find_metadata(root)
    data = root / "data"
    below = [one for folder in (root, data) if folder.is_dir() for one in subfolders(folder)]
    there = {one.name: found for one in below if (found := find_metadata(one)) is not None}
    if split is not None:
        for name in names_of_split(split):
            if name in there:
                return there[name], ()
        if own is not None:
            return own, names_of_split(split)
        raise DataError(f"{root}: no split {split!r}; there are {', '.join(there) or 'none with metadata'}")
    if own is not None:
        return own, ()
    if len(there) == 1:
        return next(iter(there.values())), ()
    if there:
        raise DataError(f"{root}: a split must be named; there are {', '.join(there)}")
    raise DataError(
        f"{root}: none of {', '.join(METADATA)} here or in a folder of it; --annotations FILE names another, "
        f"and odis index folder reads images without metadata"
    )


@dataclass(slots=True)
class _Rows:
    path: Path
    rows: Iterator[tuple[int, dict[str, Any]]]
    within: tuple[str, ...]  # names of the folder of which rows are asked for; empty: all
    pictures: ImageNames  # beside the metadata
    skip: Skip
    images: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def _named(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """The rows that are asked for, with the names of their images."""
        for line, row in self.rows:
            name = row.get("file_name")
            if not isinstance(name, str) or not name.strip():
                self.skip(Skipped(f"{self.path}, line {line}", f"has file_name {short(name)}, no name"))
                continue
            plain = name.strip().replace("\\", "/").removeprefix("./")
            folder = plain.removeprefix("data/").split("/", 1)[0] if "/" in plain else ""
            self.folders.add(folder)
            if self.within and folder not in self.within:
                continue
            yield line, name.strip() if leads_out(plain) else plain, row
        there = ", ".join(sorted(self.folders - {""})) or "none"
        if self.within and not self.folders & set(self.within):
            raise DataError(f"{self.path}: no split {self.within[0]!r}; there are {there}")
        if (
            not self.within
            and len(self.folders) > 1
            and {one.lower() for one in self.folders} <= SPLIT_FOLDERS
        ):
            raise DataError(f"{self.path}: a split must be named; there are {there}")
        if not self.folders:
            raise DataError(f"{self.path}: names no image")

    def listed(self) -> dict[str, str | None]:
        """The images and their labels, where no row has objects."""
        found: dict[str, str | None] = {}
        for line, name, row in self._named():
            if name in found:
                self.skip(Skipped(f"{self.path}, line {line}", f"{short(name)} was listed before"))
            else:
                found[name] = label_text(first_of(row, LABELS))
        self._tell_others(found)
        return found

    def chunks(self) -> Iterator[tuple[str, list[Any]]]:
        """Annotations, then images, then the categories."""
        held: list[dict[str, Any]] = []
        entries: list[dict[str, Any]] = []
        for line, name, row in self._named():
            k = self.images.setdefault(name, len(self.images))
            if k == len(entries):
                entries.append(
                    {"id": k, "file_name": name, "width": row.get("width"), "height": row.get("height")}
                )
            try:
                held += ({**self._entry(entry), "image_id": k} for entry in described_objects(row))
            except DataError as error:
                self.skip(SkippedObject(f"{self.path}, line {line}", str(error)))
            if len(held) >= _CHUNK:
                yield "annotations", held
                held = []
        yield "annotations", held
        yield "images", entries
        yield "categories", [{"id": number, "name": label} for label, number in self.labels.items()]
        self._tell_others(self.images)

    def _tell_others(self, named: Collection[str]) -> None:
        """Name the images that no row names, and what else lies there; not those of other splits."""
        self.pictures.report(self.skip, (".jsonl", ".csv", ".md", ".txt"))
        folders = [f"{folder}/" for folder in self.within]
        for image in self.pictures.images:
            if image not in named and (not folders or image.removeprefix("data/").startswith(tuple(folders))):
                self.skip(Unread(str(self.pictures.folder / image), "images that no row names"))

    def _entry(self, one: dict[str, Any]) -> dict[str, Any]:
        label = one.pop("label")
        number = NO_LABEL if label is None else self.labels.setdefault(label, len(self.labels))
        return {**one, "category_id": number}
