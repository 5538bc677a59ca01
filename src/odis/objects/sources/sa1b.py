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
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from odis.errors import DataError
from odis.objects import rle
from odis.objects.clean import Skip, SkippedObject, keep_usable, usable_size
from odis.objects.listing import IMAGE_SUFFIXES
from odis.objects.sources.coco_annotation import checked_counts
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit
from odis.types import ImageObjects, Object, Skipped

PROVENANCE = "detected:SAM"

_MOST_SCORE = 1e9  # of an estimate that lies about 1: what is larger, or NaN, is no estimate

_IMAGE_FIELDS: dict[str, type] = {"width": int, "height": int, "file_name": str}


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


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if (
                    entry.name.encode("utf-8", "ignore").decode() != entry.name
                ):  # undecodable bytes come as lone surrogates
                    raise DataError(f"{entry.path!r}: its name is not UTF-8; rename it")
                if not entry.name.startswith("."):
                    yield entry
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir())


def _units(root: Path, folder: Path, skip: Skip, trust: bool) -> Iterator[Unit]:
    images: dict[str, list[str]] = {}  # by their name without its ending
    annotated = set()
    for entry in _entries(folder):
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
    row, named = _row(root, folder, stem, skip, trust)
    for name in images[1:] if named is None else [name for name in images if name != named]:
        skip(Skipped(str(folder / name), f"is not the image that {stem}.json names"))
    return row


def _row(
    root: Path, folder: Path, stem: str, skip: Skip, trust: bool
) -> tuple[ImageObjects | None, str | None]:
    """The row of a JSON file, and the image it names; None and None if that cannot be said."""
    path = folder / f"{stem}.json"
    try:
        image, annotations = _load(path)
    except DataError as error:
        skip(Skipped(str(path), str(error)))
        return None, None
    named = list(_named(path, annotations, skip))
    problem = _image_problem(image, stem)
    if problem is not None:
        skip(Skipped(str(path), problem))
        for name, _ in named:
            skip(SkippedObject(name, "its image cannot be used"))
        return None, None
    file_name, size = image["file_name"], (image["width"], image["height"])
    if (
        usable_size(
            folder / file_name, skip, annotated=size, objects=[name for name, _ in named], trust=trust
        )
        is None
    ):
        return None, file_name
    objects = []
    sound = checked_counts([annotation.get("segmentation") for _, annotation in named], [size] * len(named))
    for k, (name, annotation) in enumerate(named):
        try:
            objects.append((name, _object(annotation, *size, sound.get(k))))
        except DataError as error:
            skip(SkippedObject(name, str(error)))
    image_path = (folder / file_name).relative_to(root).as_posix()
    return ImageObjects(
        image_path, *size, keep_usable(objects, size, 0, skip, masks_are_sound=True)
    ), file_name


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


def _image_problem(image: dict[str, Any], stem: str) -> str | None:
    for key, kind in _IMAGE_FIELDS.items():
        if not isinstance(image.get(key), kind) or isinstance(image[key], bool):
            return f"its image has no {key}, or not one of the right type"
    # Nothing but the file beside it: so no name leads out of the root, and no two files share an image.
    if (
        os.path.splitext(image["file_name"])[0] != stem
        or os.path.splitext(image["file_name"])[1].lower() not in IMAGE_SUFFIXES
    ):
        return (
            f"its image has file_name {_short(image['file_name'])}, must be that of the image beside "
            f"it, such as {stem}.jpg"
        )
    return None


def _named(path: Path, annotations: list[Any], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    listed: set[int] = set()
    for k, annotation in enumerate(annotations):
        number = annotation.get("id") if isinstance(annotation, dict) else None
        if not isinstance(number, int) or isinstance(number, bool):
            skip(
                SkippedObject(
                    f"{path}, entry {k} of annotations", "has no id, or not one that is a whole number"
                )
            )
        elif number in listed:
            skip(SkippedObject(f"{path}, annotation {number}", "this number was listed before"))
        else:
            listed.add(number)
            yield f"{path}, annotation {number}", annotation


def _object(annotation: dict[str, Any], width: int, height: int, sound: bytes | None) -> Object:
    mask = _mask(annotation.get("segmentation"), width, height, sound)
    bbox: Any = annotation.get("bbox")
    score: Any = annotation.get("predicted_iou")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise DataError(f"bbox is {_short(bbox)}, must be four numbers (x, y, width, height)")
    if not all(0 <= v <= max(width, height) for v in bbox):  # NaN is refused too
        raise DataError(f"bbox is {_short(bbox)}, must be in the image of {width} x {height} pixels")
    if not _is_number(score) or not abs(score) < _MOST_SCORE:
        raise DataError(f"predicted_iou is {_short(score)}, must be a finite number")
    x, y, w, h = map(float, coco_mask.toBbox({"size": [height, width], "counts": mask}))
    return Object((x, y, x + w, y + h), mask, score=float(score))


def _mask(segmentation: Any, width: int, height: int, sound: bytes | None) -> bytes:
    """Compressed counts, checked before the C library sees them: it checks nothing. `sound` are those that
    were checked already.
    """
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(counts, str) or not counts.isascii():
        raise DataError(
            f"segmentation is {_short(segmentation)}, must be compressed run lengths with size and counts"
        )
    if segmentation.get("size") != [height, width]:
        raise DataError(
            f"mask is for an image of size {_short(segmentation.get('size'))} (height, width), but the "
            f"image has {[height, width]}"
        )
    if sound is not None:
        return sound
    mask = counts.encode("ascii")
    if not rle.check(mask, width, height):
        raise DataError("mask is empty")
    return mask


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
