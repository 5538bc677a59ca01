"""Where the XML files of a data set in Pascal VOC's form are, and their images: as VOC was published, and as
Roboflow, CVAT and labelImg write it.

- VOC, CVAT: `Annotations/NAME.xml`, `JPEGImages/NAME.jpg`, `ImageSets/Main/SPLIT.txt` (one name a line).
- Without lists: all of `Annotations` and `JPEGImages` (or `annotations` and `images`), or their folder of the
  split.
- Roboflow: `SPLIT/NAME.xml` and `SPLIT/NAME.jpg` beside each other. labelImg: the same without splits.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Skip
from odis.objects.listing import IMAGE_SUFFIXES
from odis.objects.sources.reader import SPLITS, names_of_split
from odis.objects.sources.text import UNKNOWN, read_text, short
from odis.objects.sources.voc_xml import leads_out
from odis.types import Skipped

_XML_FOLDERS = ("Annotations", "annotations", "Annotation")

_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")

_DEEPEST = 3  # folders of a split that a data set may be in


@dataclass(frozen=True, slots=True)
class VocLayout:
    """Where a split is. `names` are those of its XML files below `annotations`, without ending."""

    root: Path  # that rows are relative to
    annotations: Path
    images: Path
    names: list[str]
    listed: Path | None = None  # the list that names them; else they are all that there are

    @property
    def folder(self) -> str:
        """The folder of images, relative to the root, with a slash behind it; empty if it is the root."""
        inside = os.path.relpath(self.images, self.root).replace(os.sep, "/")
        return "" if inside == "." else f"{inside}/"


def find_layout(
    root: Path, split: str | None, images: str | None, annotations: str | None, skip: Skip
) -> VocLayout:
    """Find a split.

    Args:
        root: The data set's folder.
        split: Its name; None where there are no splits, or only one.
        images: Folder of the images, if named.
        annotations: Folder of the XML files, if named.
        skip: Called with every line of a list that names no image.

    Raises:
        DataError: A folder or split is missing, or not named, or there are no XML files.
    """
    named = _named(root, images, "images"), _named(root, annotations, "annotations")
    found = _find(root, split, *named, skip, 0)
    inside = os.path.relpath(found.images, root).split(os.sep, 1)[0]
    return replace(found, root=found.images) if inside == ".." else found


def _named(root: Path, place: str | None, option: str) -> Path | None:
    if place is None:
        return None
    path = Path(os.path.normpath(root / place))
    if not os.path.isdir(path):
        raise DataError(f"{path}: no such folder; --{option} names the folder of the {_WHAT[option]}")
    return path


_WHAT = {"images": "images", "annotations": "XML files"}


def _find(
    root: Path, split: str | None, images: Path | None, annotations: Path | None, skip: Skip, depth: int
) -> VocLayout:
    xml = annotations or next((root / name for name in _XML_FOLDERS if os.path.isdir(root / name)), None)
    pictures = images or next((root / name for name in _IMAGE_FOLDERS if os.path.isdir(root / name)), root)
    lists = split_lists(root)
    if xml is not None and lists and (split is None or split in lists):
        if split is None and len(lists) > 1:
            raise DataError(f"{root}: a split must be named; there are {', '.join(lists)}")
        path = list_folder(root, "Main") / f"{split or lists[0]}.txt"
        return VocLayout(root, xml, pictures, listed_names(path, pictures, skip), path)
    if split is None:
        if xml is None:  # beside their images
            xml = pictures = images or root
        names = xml_below(xml, skip)
        splits = sorted({name.split("/", 1)[0] for name in names if "/" in name})
        if len(splits) > 1 and all(_is_split(name) for name in splits):
            raise DataError(f"{root}: a split must be named; there are {', '.join(splits)}")
        if not names:
            raise DataError(f"{xml}: no XML file here or below; {_other(root, split)}")
        return VocLayout(root, xml, pictures, names)
    for name in names_of_split(split):
        if leads_out(name):
            break
        if xml is not None and (names := xml_below(xml / name, skip)):
            own = pictures / name
            return VocLayout(root, xml / name, own if os.path.isdir(own) else pictures, names)
        if xml is None and depth < _DEEPEST and xml_below(root / name):
            return replace(_find(root / name, None, images, None, skip, depth + 1), root=root)
    raise DataError(f"{root}: no split {short(split)}{_splits(root, split, xml, lists)}")


def _splits(root: Path, split: str, xml: Path | None, lists: list[str]) -> str:
    """In words, which splits there are, or what would be read without one."""
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not leads_out(split) and os.path.isfile(path) and split not in lists:
        lists = [*lists, f"{path.name}, a list of one class, is none"]
    inner = [] if xml is not None else _sets(root)
    folders = [path for path in subfolders(xml or root) if path not in inner]
    there = lists or [path.name for path in folders if (xml or _is_split(path.name)) and xml_below(path)]
    if there:
        return f"; there are {', '.join(there)}"
    if xml is not None and xml_below(xml):
        return f"; without --split all of {xml} is read"
    return f": no ImageSets/Main/{split}.txt, and no {split}/*.xml; {_other(root, split)}"


def _other(root: Path, split: str | None) -> str:
    """In words, what would read the data set if it is a folder further down, or elsewhere."""
    below = _sets(root)
    if not below:
        return "--annotations DIR names the folder of the XML files"
    return f"odis index voc {below[0]}{f' --split {split}' if split else ''} would read that one"


def _sets(root: Path) -> list[Path]:
    below = subfolders(root)
    below += [path for folder in below for path in subfolders(folder)]
    return [path for path in below if any(os.path.isdir(path / name) for name in _XML_FOLDERS)]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, hidden ones left out.

    Raises:
        DataError: It cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error
    return [folder / name for name in names if not name.startswith(".") and os.path.isdir(folder / name)]


def _is_split(name: str) -> bool:
    return any(name.lower() in names for names in SPLITS.values())


def xml_below(folder: Path, skip: Skip = lambda skipped: None) -> list[str]:
    """The XML files below a folder, without ending, in the order of their names; none if there is no such
    folder.

    Args:
        folder: The folder.
        skip: Called with what cannot be read, or has a name that is none.
    """

    def closed(error: OSError) -> None:
        if error.filename != str(folder):
            skip(Skipped(str(error.filename), f"this folder cannot be read ({error.strerror})"))

    found = []
    for place, folders, files in os.walk(folder, onerror=closed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        for name in files:
            if name.lower().endswith(".xml") and not name.startswith("."):
                try:
                    f"{prefix}{name}".encode()
                except UnicodeEncodeError:  # the system hands undecodable bytes over as lone surrogates
                    shown = f"{place}/{name}".encode(errors="backslashreplace").decode()
                    skip(Skipped(shown, "its name is not UTF-8; rename it"))
                else:
                    found.append(f"{prefix}{name[:-4]}")
    return sorted(found)


def list_folder(root: Path, kind: str) -> Path:
    """The folder of the lists of splits: `ImageSets/Main` (or of another kind), or `ImageSets` itself."""
    folder = root / "ImageSets" / kind
    return folder if os.path.isdir(folder) else root / "ImageSets"


def split_lists(root: Path, kind: str = "Main") -> list[str]:
    """Names of the lists in `ImageSets/Main` (or of another kind) that are splits, and not of one class."""
    there = []
    for path in sorted(list_folder(root, kind).glob("*.txt")):
        try:
            lines = read_text(path).lines
        except (OSError, DataError):
            continue
        if not lines or not _marks_a_class(lines[0][1]):
            there.append(path.stem)
    return there


def listed_names(path: Path, images: Path, skip: Skip) -> list[str]:
    """The names in a list, each once; what is no name of an image in a folder is passed to `skip`.

    Raises:
        DataError: The list is missing or empty.
    """
    try:
        lines = read_text(path).lines
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    if not lines:
        raise DataError(f"{path}: lists no image")
    seen: dict[str, None] = {}
    for number, line in lines:
        name = _name(line)
        if UNKNOWN in line:
            skip(Skipped(f"{path}, line {number}", "is not UTF-8"))
        elif leads_out(name):
            skip(Skipped(f"{path}, line {number}", f"{short(line)} is not the name of an image in {images}"))
        elif name in seen:
            skip(Skipped(f"{path}, line {number}", f"{short(line)} was listed before"))
        else:
            seen[name] = None
    return list(seen)


def _name(line: str) -> str:
    """A name in a list: without quotes, without the ending of an image, with `/` between its parts."""
    if len(line) > 1 and line[0] == line[-1] == '"':
        line = line[1:-1]
    stem, suffix = os.path.splitext(line)
    return (stem if suffix.lower() in IMAGE_SUFFIXES else line).replace("\\", "/")


def _marks_a_class(line: str) -> bool:
    """Whether a line is of a list of one class: a name, and 1, 0 or -1 for there, difficult, not there."""
    words = line.split()
    return len(words) == 2 and words[1] in ("-1", "0", "1")
