"""YOLO as Ultralytics, Roboflow, CVAT, Label Studio and labelImg write it: images in folders or lists, and
one text file of objects an image.

`data.yaml` (`yolo_yaml.py`) names the classes and, for each split, a folder, a .txt list of images, or
several of these; without an entry a split is where exporters put it (`images/train`, `train/images`,
`train.txt`). Without a YAML file darknet's `obj.data` (`darknet.py`) says where lists and names are. Without
either the class names are those of `classes.txt`, `obj.names` or `_darknet.labels`, or else the numbers that
the label files have.

The objects of images/a/b.jpg are in labels/a/b.txt (`yolo_places.py`), in lines as `yolo_label.py` says. A
missing file and an empty one mean that there is no object. A file without its image is an image left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Mended, Skip, SkippedObject, keep_usable, usable_size
from odis.objects.sources.darknet import DarknetData
from odis.objects.sources.reader import SPLITS, AnnotationFormat, AnnotationReader, Unit
from odis.objects.sources.text import distinct, read_names, read_text, short
from odis.objects.sources.yolo_label import label_lines, objects_of
from odis.objects.sources.yolo_places import Labels, find_below, images_of, is_place, usual_places
from odis.objects.sources.yolo_yaml import CLASS_FILES, ClassList, DataYaml, find_yaml
from odis.types import ImageObjects, Skipped

_MOST_NUMBERS = 100_000  # classes that label files without a class list may have

_NO_LABELS = ("classes.txt", "predefined_classes.txt", "train.txt", "val.txt", "test.txt")


def read(
    root: Path, split: str | None, skip: Skip, *, images: str | None = None, annotations: str | None = None
) -> AnnotationReader:
    """Every image of a split with its objects, in the order of the folders and lists that name it.

    The names of one folder are held at a time, lists are read line by line; a hash of 8 bytes an image (90 in
    Python) tells which were there before.
    A confidence becomes the score; the provenance is `annotated` also where scores say that a detector wrote
    the files.

    Args:
        root: Folder that holds `data.yaml`, the images and their labels.
        split: `train` (if none is given), `val` or `test`, or another that `data.yaml` has; `valid` is `val`.
        skip: Called with every image and object that cannot be used, or not as it is annotated.
        images: Folder of the images, if elsewhere.
        annotations: Folder of the label files, or the YAML file, if elsewhere.

    Raises:
        DataError: There is nothing that names images, or what names them is ambiguous, wrong, or leads
            nowhere.
    """
    data = _DataSet.find(root, images, annotations)
    places = data.places(split)
    classes = data.classes(places, skip)
    return AnnotationReader(data.units(places, classes, skip), data.root, "annotated", classes.names)


FORMAT = AnnotationFormat(
    name="yolo",
    title="YOLO text files (Ultralytics, Roboflow, CVAT, labelImg): boxes or polygons",
    layout="data.yaml, and the images/ and labels/ that it names; or images/ and labels/ alone",
    splits="train (default), val, test",
    read=read,
    takes_places=True,
)


@dataclass(frozen=True, slots=True)
class _DataSet:
    given: Path  # the root as it was given
    root: Path  # of the images
    yaml: DataYaml | None
    labels: Labels
    images: str | None  # the folder of images that was named, relative to `root`
    darknet: DarknetData | None = None  # if there is no YAML file

    @classmethod
    def find(cls, given: Path, images: str | None, annotations: str | None) -> _DataSet:
        root, folder = given, None
        if images is not None:
            place = Path(os.path.normpath(given / images))
            if not os.path.isdir(place):
                raise DataError(f"{place}: no such folder; --images names the folder of the images")
            inside = os.path.relpath(place, given).replace(os.sep, "/")
            root, folder = (place, ".") if inside.split("/", 1)[0] == ".." else (given, inside)
        notes = None if annotations is None else Path(os.path.normpath(given / annotations))
        if notes is None or os.path.isdir(notes):
            path = find_yaml(given) or (None if notes is None else find_yaml(notes))
        elif notes.suffix.lower() in (".yaml", ".yml"):
            path, notes = notes, None
        else:
            raise DataError(f"{notes}: no such folder of label files, and no .yaml file")
        data = None if path else DarknetData.find(given)
        return cls(given, root, DataYaml.load(path) if path else None, Labels(root, notes), folder, data)

    def places(self, split: str | None) -> list[str]:
        """The folders and lists of a split, relative to the root."""
        wanted = split or "train"
        entry = self.yaml.split(wanted) if self.yaml else None
        if entry is not None:
            return self._entries(wanted, entry)
        if self.images is not None:
            return [self.images] if split is None else self._usual(split, below=self.images)
        listed = self.darknet.split(wanted) if self.darknet else None
        place = find_below(self.root, ["."], listed, is_place) if listed else None
        found = [place] if place is not None else usual_places(self.root, wanted)
        if self.darknet and listed and not found:
            raise DataError(
                f"{self.darknet.path}: {wanted} is {short(listed)}, and there is no such list of images "
                f"below {self.root}"
            )
        if found or split is not None or any(usual_places(self.root, name) for name in SPLITS):
            return found or self._none(wanted)
        for place in ("images", "obj_train_data", "."):
            if os.path.isdir(self.root / place) and (place != "." or self._has_pairs()):
                return [place]
        return self._none(wanted)

    def _entries(self, split: str, entry: object) -> list[str]:
        assert self.yaml is not None
        path, found = self.yaml.path, []
        for one in entry if isinstance(entry, list) else [entry]:
            if not isinstance(one, str) or not one.strip():
                raise DataError(
                    f"{path}: {split} is {short(one)}, must be a path (or, for a split, a list of them)"
                )
            place = find_below(self.root, self.bases(), one, is_place)
            if place is None and self.images is not None:
                place = self.images
            if place is None:
                usual = usual_places(self.root, split)
                way = f"; --images {usual[0]} would read that folder" if usual else "; --images names another"
                raise DataError(
                    f"{path}: {split} is {short(one)}, and there is no such folder or list of images (.txt) "
                    f"below {self.root}{way}"
                )
            found.append(place)
        return found

    def bases(self) -> list[str]:
        """Folders, relative to the root, that entries may begin at."""
        written = self.yaml.value("path") if self.yaml else None
        found = [self.images] if self.images is not None else []
        if written is not None:
            if not isinstance(written, str):
                assert self.yaml is not None
                raise DataError(f"{self.yaml.path}: path is {short(written)}, must be a path")
            base = find_below(self.root, ["."], written, lambda path: os.path.isdir(path))
            found += [base] if base is not None else []
        return [*found, "."]

    def _usual(self, split: str, below: str) -> list[str]:
        """A split in a folder of images that was named; the folder itself if it has no splits."""
        folder = self.root / below
        found = usual_places(folder, split)
        if not found and any(usual_places(folder, name) for name in SPLITS):
            self._none(split, folder)
        return [place if below == "." else f"{below}/{place}" for place in found or [""]][:1]

    def _has_pairs(self) -> bool:
        """Whether images and label files are beside each other in the root, or below it."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.root))
        except OSError as error:
            raise DataError(f"{self.root}: cannot be read ({error.strerror or error})") from error
        return any(name.endswith(".txt") and name not in _NO_LABELS for name in names)

    def _none(self, split: str, folder: Path | None = None) -> list[str]:
        folder = folder or self.root
        there = self.yaml.splits() if self.yaml else []
        there += [name for name in SPLITS if name not in there and usual_places(folder, name)]
        if there:
            where = self.yaml.path if self.yaml else folder
            raise DataError(f"{where}: no split {short(split)}; there are {', '.join(there)}")
        looked = f"images/, images/{split}/, {split}/images/ or {split}.txt"
        if self.yaml:
            raise DataError(
                f"{self.yaml.path}: has no {split}, and there is no {looked}; --images DIR names one"
            )
        below = sorted(path.parent for path in self.root.glob("*/data.yaml"))
        way = f"odis index yolo {below[0]} would read that one" if below else "--images DIR names one"
        raise DataError(f"{self.root}: no data.yaml, and no {looked}; {way}")

    def classes(self, places: list[str], skip: Skip) -> ClassList:
        """The class list: of the YAML file, of another file, or the numbers in the label files."""
        found = self.yaml.classes(skip) if self.yaml else None
        if found is not None:
            return found
        labels = [self.labels.folder(place) for place in places]
        folders = filter(None, (self.given, self.labels.named, self.given / "labels", *labels))
        listed = (one for folder in folders for one in (folder / name for name in CLASS_FILES))
        named = self.darknet.values.get("names") if self.darknet else None
        found_names = find_below(self.given, ["."], named, os.path.isfile) if named else None
        for path in (*([self.given / found_names] if found_names else []), *listed):
            if not os.path.isfile(path):
                continue
            names = read_names(path)
            if not names:
                raise DataError(f"{path}: lists no class")
            if read_text(path).encoding == "gb18030":
                skip(Mended(str(path), "is not UTF-8; its names are read as GB 18030"))
            numbers = list(range(len(names)))
            return ClassList(distinct(names, list(numbers)), {k: k for k in numbers})
        most = -1
        for place in places:
            for image in images_of(self.root, self.bases(), place, lambda skipped: None):
                most = max(most, *_numbers(self.labels.file(image)))
        return ClassList.of({k: str(k) for k in range(most + 1)})

    def units(self, places: list[str], classes: ClassList, skip: Skip) -> Iterator[Unit]:
        """The units of all images, and what is listed twice or has no image."""
        seen: set[int] = set()
        of_images: set[int] = set()  # label files
        for place in places:
            folders = self._label_folders(place)
            for image in images_of(self.root, self.bases(), place, skip):
                if hash(image) in seen:
                    skip(Skipped(str(self.root / image), "was listed before"))
                    continue
                path = self.labels.file(image)
                shared = hash(path) in of_images
                seen.add(hash(image))
                of_images.add(hash(path))
                yield partial(self._row, image, path, classes, shared, skip)
            for label in _label_files(folders):
                if hash(label) not in of_images:
                    of_images.add(hash(label))
                    self._without_image(label, folders[label.parent], skip)

    def _label_folders(self, place: str) -> dict[Path, str]:
        """The folders of label files of a folder of images, each with that of its images; none of a list, for
        its images may be anywhere.
        """
        if not os.path.isdir(self.root / place):
            return {}
        listed = images_of(self.root, [], place, lambda skipped: None)
        images = dict.fromkeys([place, *(image.rpartition("/")[0] or "." for image in listed)])
        found = {self.labels.folder(folder): folder for folder in images}
        own = self.labels.folder(place)
        if own != self.root / place:
            below = (path for path in own.rglob("*") if os.path.isdir(path))
            found = {path: f"{place}/{path.relative_to(own)}" for path in below} | found
        if next(_label_files(found), None) is None:
            raise DataError(
                f"{own}: no label file (.txt) for the images in {self.root / place}; --annotations DIR "
                f"names their folder, and odis index folder reads images without labels"
            )
        return found

    def _without_image(self, path: Path, images: str, skip: Skip) -> None:
        """Name a label file whose image is missing, with its objects."""
        try:
            lines = label_lines(path)
        except DataError:
            return
        folder = self.root / images
        if folder == path.parent and not all(_is_label(line) for _, line in lines):
            return  # notes that lie there, too
        skip(Skipped(str(path), f"has no image{_of_other_kind(folder / path.name)}"))
        for name, _ in lines:
            skip(SkippedObject(name, "its image cannot be used"))

    def _row(
        self, image: str, label: Path, classes: ClassList, shared: bool, skip: Skip
    ) -> ImageObjects | None:
        path = self.root / image
        try:
            lines = label_lines(label)
        except DataError as error:
            skip(Skipped(str(path), f"its label file cannot be used: {error}"))
            return None
        size = usable_size(path, skip, objects=[name for name, _ in lines])
        if size is None:
            return None
        found = keep_usable(
            objects_of(lines, size, classes, skip), size, len(classes.names), skip, masks_are_sound=True
        )
        if shared and found:
            skip(Mended(str(path), f"shares its label file {label.name} with another image of this name"))
        return ImageObjects(image, *size, found)


def _label_files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            if name.lower().endswith(".txt") and name not in _NO_LABELS and os.path.isfile(folder / name):
                yield folder / name


def _of_other_kind(label: Path) -> str:
    """In words, the file that should be the image of a label file, but is of a kind that is not read."""
    try:
        names = sorted(os.listdir(label.parent))
    except OSError:
        return ""
    other = [name for name in names if os.path.splitext(name)[0] == label.stem and name != label.name]
    return f": {other[0]} is of a kind that is not read" if other else ""


def _is_label(line: str) -> bool:
    words = line.split()
    return len(words) > 4 and words[0].isdecimal()


def _numbers(path: Path) -> Iterator[int]:
    """The class numbers in a label file, and -1."""
    yield -1
    try:
        lines = label_lines(path)
    except DataError:
        return  # it is named when its row is due
    for _, line in lines:
        word = line.split()[0]
        if word.isdecimal() and len(word) < 10 and int(word) < _MOST_NUMBERS:
            yield int(word)
