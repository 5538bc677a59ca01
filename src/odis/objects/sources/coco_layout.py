"""Where the files of a data set in COCO's form are: as it is published, or as tools export it.

Beside the published layout these are found: Roboflow's (`SPLIT/_annotations.coco.json` beside the images),
Label Studio's (`result.json` and `images/`), CVAT's (`annotations/instances_default.json` and
`images/default/`), FiftyOne's (`labels.json` and `data/`), and one file of any name with the images in any
folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from odis.errors import DataError
from odis.objects.sources.json_arrays import UTF_16

_NOISE = "annotations?|instances|coco|labels?|results?|dataset|data|gt|json|images"

_BEFORE = re.compile(rf"^[\W_]*(?:{_NOISE})(?:[\W_]+|$)", re.IGNORECASE)

_BEHIND = re.compile(rf"(?:^|[\W_]+)(?:{_NOISE})[\W_]*$", re.IGNORECASE)

_OTHER_TASKS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")

_HEAD = 2**18  # bytes of a file that say whether it is of COCO's form

_MOST = 50  # JSON files of a folder that are all looked at; a folder of more has one for each image

_LISTS = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')

_ANNOTATIONS = "annotations"

_IMAGE_FOLDERS = ("images", "data", "JPEGImages", "imgs", "img", "image", "photos")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of a data set are called where it is published: `annotations/<prefix>SPLIT.json`, and its
    images below one of `folders`, `{}` in their names being the split.
    """

    format: str
    prefix: str
    folders: tuple[str, ...] = ("{}",)


@dataclass(frozen=True, slots=True)
class Place:
    """An annotation file, and the split that it is of (empty: the only one)."""

    path: Path
    split: str


def annotation_file(layout: Layout, root: Path, split: str | None, named: str | None) -> Place:
    """The annotation file of a split; of the only one, if none is named.

    Args:
        layout: The published one.
        root: Folder of the data set.
        split: As in the names of the files.
        named: A file or folder to take instead, relative to the root or not.

    Raises:
        DataError: There is none, or several; saying which there are.
    """
    folder = None
    if named is not None:
        path = named_path(root, named, "--annotations")
        if not path.is_dir():
            return Place(path, split or split_of(layout, root, path))
        folder = path
    found = _published(layout, root) if folder is None else []
    one = _chosen(root, found, split)
    if one is not None:
        return one
    found += [place for place in _exported(layout, root, folder) if place.path not in {p.path for p in found}]
    one = _chosen(root, found, split)
    if one is not None:
        return one
    wanted = f"no split {split!r}" if split else "a split must be named"
    splits = ", ".join(sorted({place.split or place.path.name for place in found}))
    if splits:
        raise DataError(f"{folder or root}: {wanted}; there are {splits}")
    raise DataError(
        f"{folder or root}: {wanted}; there are none (no annotations/{layout.prefix}SPLIT.json), nor is "
        f"another in COCO's form here or in a folder of it; name yours: odis index {layout.format} {root} "
        f"--annotations FILE --images DIR"
    )


def folder_within(path: Path, base: Path) -> str:
    """The folder of a file relative to another one, `.` if it is that one or lies outside of it."""
    return path.parent.relative_to(base).as_posix() if path.parent.is_relative_to(base) else "."


def named_path(root: Path, named: str, option: str) -> Path:
    """A path that begins at the root, or at the working directory.

    Raises:
        DataError: There is nothing.
    """
    for path in (root / named, Path(named).absolute()):
        if path.exists():
            return path
    raise DataError(f"{root / named}: no such file or folder ({option} {named})")


def image_folders(layout: Layout, root: Path, place: Place) -> list[str]:
    """Folders where the images of an annotation file may be, relative to `root`; those that are there."""
    split = place.split
    near = place.path.parent
    near = near.parent if near.name.lower() == _ANNOTATIONS else near
    beside = near.relative_to(root).as_posix() if near.is_relative_to(root) else "."
    splits = [f"images/{split}", f"data/{split}", f"{split}/images", f"{split}/data"] if split else []
    wanted = [
        *(folder.format(split) for folder in layout.folders if split or "{}" not in folder),
        *splits,
        *(f"{beside}/{folder}/{split}" for folder in _IMAGE_FOLDERS[:2] if split),
        *(f"{beside}/{folder}" for folder in _IMAGE_FOLDERS),
        beside,
        *_IMAGE_FOLDERS,
    ]
    tidy = (os.path.normpath(folder).replace(os.sep, "/") for folder in wanted)
    inside = dict.fromkeys("" if folder == "." else folder for folder in tidy if not folder.startswith(".."))
    return [folder for folder in inside if (root / folder).is_dir()]


def split_of(layout: Layout, root: Path, path: Path) -> str:
    """The split that the name of an annotation file says, or of the folder that it is in."""
    name = path.stem.removeprefix(layout.prefix)
    for task in _OTHER_TASKS:
        name = name.removeprefix(task)
    if name == path.stem:
        while (shorter := _BEHIND.sub("", _BEFORE.sub("", name))) != name:
            name = shorter
    folder = path.parent
    folder = folder.parent if folder.name.lower() == _ANNOTATIONS else folder
    return name or ("" if folder == root or not folder.is_relative_to(root) else folder.name)


def _chosen(root: Path, found: list[Place], split: str | None) -> Place | None:
    """The one that is meant, or None."""
    chosen = [place for place in found if split in (None, place.split)]
    if not chosen and split:
        chosen = [place for place in found if split == place.path.name or place.path.parent == root / split]
    if len(chosen) > 1 and len({place.split for place in chosen}) == 1:
        names = ", ".join(str(place.path) for place in chosen)
        raise DataError(
            f"{root}: several files are of split {chosen[0].split!r}; name one with --annotations: {names}"
        )
    return chosen[0] if len(chosen) == 1 else None


def _published(layout: Layout, root: Path) -> list[Place]:
    paths = sorted((root / _ANNOTATIONS).glob(f"{layout.prefix}*.json"))
    return [Place(path, path.stem.removeprefix(layout.prefix)) for path in paths]


def _exported(layout: Layout, root: Path, folder: Path | None) -> Iterator[Place]:
    """Other files in COCO's form: in a folder, or in the root, its folders and `annotations` in these."""
    if folder is not None:
        folders = [folder]
    else:
        below = _folders(root)
        folders = [
            root,
            *below,
            *(one for each in below for one in _folders(each) if one.name == _ANNOTATIONS),
        ]
    others = []
    some = False
    for one in folders:
        paths = [path for path in _files(one) if _is_coco(path)]
        for path in paths:
            place = Place(path, split_of(layout, root, path))
            if path.name.startswith(_OTHER_TASKS):
                others.append(place)
            else:
                some = True
                yield place
    if not some:
        yield from others


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def _files(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.lower().endswith(".json") and not entry.name.startswith(".") and entry.is_file()
            ]
    except OSError:
        return []
    if len(names) > _MOST:
        names = [name for name in names if _BEFORE.match(name[:-5]) or _BEHIND.search(name[:-5])][:_MOST]
    return [folder / name for name in sorted(names)]


def _is_coco(path: Path) -> bool:
    """Whether the beginning of a file looks like COCO's form."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    text = head.decode("utf-16" if head[:2] in UTF_16 else "utf-8-sig", "replace")
    return text.lstrip()[:1] == "{" and _LISTS.search(text) is not None
