"""SA-1B as it is published: every image with a JSON file of its masks beside it, `sa_000000/sa_1.jpg` and
`sa_000000/sa_1.json`.

The files may lie in folders below the root, one for each archive, or in the root itself; both are read. There
are no classes. The score of an object is its `predicted_iou`, what the model thought of its own mask.

The provenance is `detected:SAM`: people labelled none of the published masks, the Segment Anything Model made
them all. A model trained on them has learned from SAM, and its results should say so.

A box is that of the mask's pixels. The published `bbox` ends at the index of the last pixel, so that it is
one pixel short in width and height, and a mask one pixel wide would have none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from odis.errors import DataError
from odis.objects.clean import Mended, Skip, SkippedObject, keep_usable, usable_size
from odis.objects.listing import IMAGE_SUFFIXES
from odis.objects.sources.coco_annotation import checked_counts, to_box
from odis.objects.sources.coco_entries import identifier, name_of, number, short, stated_size
from odis.objects.sources.coco_mask import box_of, read_mask
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit
from odis.types import Box, ImageObjects, Object, Skipped

PROVENANCE = "detected:SAM"

_MOST_SCORE = 1e9  # of an estimate that lies about 1: what is larger, or NaN, is no estimate


def read(root: Path, split: str | None, skip: Skip, *, trust: bool = False) -> AnnotationReader:
    """Every image with its masks: those in the root, then folder by folder, each sorted by name. A file is
    read when its row is asked for.

    Args:
        root: Folder that holds the images and JSON files, or folders of them.
        split: A folder in it to read instead, such as `sa_000000`; SA-1B itself is in one part.
        skip: Called with every image and mask that cannot be used, and every image that has no JSON file.
        trust: Take the sizes that the JSON files state, without opening the images.

    Raises:
        DataError: There is no such folder, or no JSON file in it.
    """
    if split and split not in _folders(root):
        raise DataError(
            f"{root / split}: no such folder; in {root} there are {', '.join(_folders(root)) or 'none'}"
        )
    base = root / split if split else root
    folders = [base, *(base / name for name in _folders(base))]
    if not any(entry.name.endswith(".json") for folder in folders for entry in _entries(folder)):
        raise DataError(
            f"{base}: no JSON file in this folder or those in it; SA-1B has one beside each image"
        )

    return AnnotationReader(
        (unit for folder in folders for unit in _units(root, folder, skip, trust)), root, PROVENANCE, []
    )


FORMAT = AnnotationFormat(
    name="sa-1b",
    title="SA-1B: masks made by SAM, no classes",
    layout="sa_N.jpg with sa_N.json beside it, in ROOT or in folders of it",
    splits="a folder in ROOT (default: all)",
    read=read,
    states_sizes=True,
)


def _entries(folder: Path, skip: Skip | None = None) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, but for what is hidden; names that are not UTF-8 go to `skip`."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.encode("utf-8", "ignore").decode() != entry.name:  # bytes come as surrogates
                    if skip is not None:
                        skip(Skipped(entry.path, "its name is not UTF-8; rename it"))
                elif not entry.name.startswith("."):
                    yield entry
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir())


def _units(root: Path, folder: Path, skip: Skip, trust: bool) -> Iterator[Unit]:
    images: dict[str, list[str]] = {}  # by their name without its ending
    annotated = set()
    for entry in _entries(folder, skip):
        stem, suffix = os.path.splitext(entry.name)
        if suffix == ".json":
            annotated.add(stem)
        elif suffix.lower() in IMAGE_SUFFIXES:
            images.setdefault(stem, []).append(entry.name)
    for stem in sorted(annotated | images.keys()):
        names = sorted(images.pop(stem, ()))
        if stem in annotated:
            yield partial(_unit, root, folder, stem, names, skip, trust)
        else:
            for name in names:
                skip(Skipped(str(folder / name), f"has no {stem}.json beside it"))


def _unit(
    root: Path, folder: Path, stem: str, images: list[str], skip: Skip, trust: bool
) -> ImageObjects | None:
    """The row of a JSON file; of the images called like it, those that it does not name are left out."""
    row, named = _row(root, folder, stem, images, skip, trust)
    for name in images[1:] if named is None else [name for name in images if name != named]:
        skip(Skipped(str(folder / name), f"is not the image that {stem}.json names"))
    return row


def _row(
    root: Path, folder: Path, stem: str, images: list[str], skip: Skip, trust: bool
) -> tuple[ImageObjects | None, str | None]:
    """The row of a JSON file, and the image it names; None and None if that cannot be said."""
    path = folder / f"{stem}.json"
    try:
        image, annotations = _load(path)
    except DataError as error:
        skip(Skipped(str(path), str(error)))
        return None, None
    named = list(_named(path, annotations, skip))
    try:
        file_name = _image_name(image, stem, images)
    except DataError as error:
        skip(Skipped(str(path), str(error)))
        for name, _ in named:
            skip(SkippedObject(name, "its image cannot be used"))
        return None, None
    width, height = stated_size(image.get("width"), image.get("height"))
    size = usable_size(
        folder / file_name,
        skip,
        annotated=(width, height) if width else None,
        objects=[name for name, _ in named],
        trust=trust,
    )
    if size is None:
        return None, file_name
    image_path = (folder / file_name).relative_to(root).as_posix()
    return ImageObjects(image_path, *size, _objects(named, size, skip)), file_name


def _objects(
    named: list[tuple[str, dict[str, Any]]], size: tuple[int, int], skip: Skip
) -> tuple[Object, ...]:
    """The objects of an image of `size`; those that are not as they are annotated are named."""
    objects, problems = [], []
    sound = checked_counts([annotation.get("segmentation") for _, annotation in named], [size] * len(named))
    for k, (name, annotation) in enumerate(named):
        try:
            item, problem = _object(annotation, *size, sound.get(k))
        except DataError as error:
            skip(SkippedObject(name, str(error)))
            continue
        objects.append((name, item))
        problems.append(problem)
    kept = keep_usable(objects, size, 0, skip, masks_are_sound=True)
    there = set(map(id, kept))
    for (name, item), problem in zip(objects, problems):
        if problem is not None and id(item) in there:
            skip(Mended(name, problem))
    return kept


def _load(path: Path) -> tuple[dict[str, Any], list[Any]]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text") from error
    except RecursionError as error:
        raise DataError("is not JSON that can be read (nested too deeply)") from error
    except ValueError as error:
        raise DataError(f"is not JSON that can be read ({error})") from error
    image, annotations = (
        (content.get(key) for key in ("image", "annotations")) if isinstance(content, dict) else (None, None)
    )
    if not isinstance(image, dict) or not isinstance(annotations, list):
        raise DataError("is not a file of SA-1B: that has an image and a list of annotations")
    return image, annotations


def _image_name(image: dict[str, Any], stem: str, images: list[str]) -> str:
    """The file that an entry means: nothing but the one beside it, so that no name leads out of the root, and
    no two files share an image.

    Raises:
        DataError: Saying what is wrong with the name.
    """
    name = image.get("file_name")
    if (name is None or name in images) and len(images) == 1:
        return images[0]
    text = re.split(r"[\\/]", name)[-1] if isinstance(name, str) and ".." not in name else ""
    if os.path.splitext(text)[0] != stem or os.path.splitext(text)[1].lower() not in IMAGE_SUFFIXES:
        raise DataError(
            f"its image has file_name {short(name)}, must be that of the image beside it, such as {stem}.jpg"
        )
    other = [one for one in images if one.lower() == text.lower()]
    return other[0] if text not in images and len(other) == 1 else text


def _named(path: Path, annotations: list[Any], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    for k, annotation in enumerate(annotations):
        name = f"{path}, entry {k} of annotations"
        if not isinstance(annotation, dict):
            skip(SkippedObject(name, f"is {short(annotation)}, must be an object with segmentation and bbox"))
            continue
        number = identifier(annotation.get("id"))
        yield name if number is None else f"{path}, {name_of(number)}", annotation


def _object(
    annotation: dict[str, Any], width: int, height: int, sound: bytes | None
) -> tuple[Object, str | None]:
    """The object, and in what it is not as it is annotated, if in anything."""
    problems = []
    box: Box | None = None
    try:
        box = _box(annotation.get("bbox"), width, height)
    except DataError as error:
        problems.append(str(error))
    mask, problem = sound, None
    if mask is None:
        mask, problem = read_mask(annotation.get("segmentation"), width, height, box)
    if mask is None and box is None:
        raise DataError(f"{problem or 'has no mask'}; {problems[0]}")
    if mask is None:
        problems.append(f"{problem}; it has no mask" if problem else "has no mask")
    elif problem is not None:
        problems.append(f"{problem}; that part is left out")
    score = number(annotation.get("predicted_iou"))
    if score is None or not abs(score) < _MOST_SCORE:  # NaN is none either
        problems.append(f"predicted_iou is {short(annotation.get('predicted_iou'))}; it has no score")
        score = None
    exact = box if mask is None else box_of(mask, width, height)
    assert exact is not None
    return Object(exact, mask, score=None if score is None else float(score)), "; ".join(problems) or None


def _box(bbox: Any, width: int, height: int) -> Box:
    """The box of an object whose mask may not be read; a published one ends at the index of a pixel."""
    x0, y0, x1, y1 = to_box(bbox)
    if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):  # NaN is refused too
        raise DataError(f"bbox is {short(bbox)}, must be in the image of {width} x {height} pixels")
    return x0, y0, min(x1 + 1, width), min(y1 + 1, height)
