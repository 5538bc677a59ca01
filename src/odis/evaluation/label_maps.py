"""Ground truth of semantic segmentation: a class for every pixel, from object masks or PNG label maps. Where
label maps lie, see `label_layouts.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from PIL import Image

from odis.config.pixels import RGB, PixelFormat
from odis.errors import DataError, OdisError
from odis.objects import rle
from odis.objects.clean import usable_objects
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.images import header_sizes
from odis.objects.index import ObjectIndex
from odis.objects.pixels import load_pixels
from odis.types import Object, Skipped

IGNORE = -1
"""Label of an ignored pixel (255 in most PNG label maps)."""

BACKGROUND = 0
"""Label of a pixel of no object, in labels made from an object index."""

LABEL_MAPS = "label-maps"
"""Provenance of labels read from label maps."""

REFUSED = -2  # in a lookup: the layout has no such value
_MAP_MODES = frozenset({"P", "L", "1", "I", "I;16"})


class LabelledImages:
    """Images and the class of each of their pixels. Picklable: the workers of a data loader read from it.

    Made by `from_index`, or by a layout of label maps.

    Attributes:
        path: The index or the root of the label maps, to name it in messages.
        provenance: That of the index, or `label-maps`.
        classes: Class names; a label is a position in it.
        background: The label of what is no object; None if there is none.
    """

    def __init__(
        self,
        path: str,
        provenance: str,
        classes: list[str],
        *,
        index: ObjectIndex | None = None,
        boxes: bool = False,
        files: list[tuple[str, str]] | None = None,
        lookup: np.ndarray | None = None,
        values: str = "",
        background: int | None = None,
    ) -> None:
        """Either from an index, or from files.

        Args:
            path: See the class.
            provenance: See the class.
            classes: See the class.
            index: Whose objects become labels.
            boxes: Whether the box of an object without a mask is filled.
            files: Paths of each image and of its label map.
            lookup: int32 (256,), the label each stored value stands for, or `REFUSED`.
            values: The values that a label map may hold, in words.
            background: See the class.
        """
        self.path, self.provenance, self.classes, self.background = path, provenance, classes, background
        self._index, self._boxes = index, boxes
        self._files, self._lookup, self._values = files or [], lookup, values

    @staticmethod
    def from_index(index: ObjectIndex, boxes: bool = False) -> LabelledImages:
        """Labels from the masks of objects: class 0 is the background, an object of label l has class l + 1.

        Of overlapping objects the one of fewer pixels is on top (of equal ones the later): a small object in
        front of a large one is the common case. Unknown pixels are `IGNORE`: those of an object without a
        label, and the box of an object without a mask. Unusable objects are left out, and named by `read`.

        Args:
            index: The images and objects.
            boxes: Give the whole box of an object without a mask its class.

        Raises:
            DataError: The index has no images or no classes.
        """
        if not len(index):
            raise DataError(f"{index.path}: has no images")
        if not index.classes:
            raise DataError(f"{index.path}: has no classes; segmentation needs labelled objects")
        return LabelledImages(
            index.path,
            index.provenance,
            ["background", *index.classes],
            index=index,
            boxes=boxes,
            background=BACKGROUND,
        )

    def __len__(self) -> int:
        return len(self._files) if self._index is None else len(self._index)

    def image_path(self, i: int) -> str:
        """Path of image `i`."""
        return self._files[i][0] if self._index is None else self._index.image_path(i)

    def stated_labels(self, rows: Sequence[int]) -> Iterator[int] | None:
        """Labels that pixels of these images will have, the background first, as long as they are asked for.

        None for label maps: only their pixels tell.
        """
        if self._index is None:
            return None
        objects = (item for i in rows for item in self._objects(self._index, i))
        found = (item.label + 1 for item in objects if item.label is not None and self._fills(item))
        return chain((BACKGROUND,), found)

    def lacks_masks(self) -> bool:
        """Whether objects have labels that no pixel gets, since none of them has a mask."""
        if self._index is None or self._boxes:
            return False
        objects = [item for i in range(len(self)) for item in self._objects(self._index, i)]
        return any(item.label is not None for item in objects) and not any(map(self._fills, objects))

    def _fills(self, item: Object) -> bool:
        return item.mask is not None or self._boxes

    @staticmethod
    def _objects(index: ObjectIndex, i: int) -> Sequence[Object]:
        try:
            return index[i].objects
        except DataError:  # named when the image is read
            return ()

    def files(self, i: int) -> tuple[str, ...]:
        """Paths of all files that image `i` and its labels are read from."""
        return self._files[i] if self._index is None else (self._index.image_path(i), self._index.path)

    def read(self, i: int) -> tuple[Image.Image, np.ndarray, list[Skipped]]:
        """Image `i` and its labels.

        A photo with an EXIF orientation is turned if its labels are, so that the two lie on each other.

        Returns:
            The image as RGB; its labels, int32 (H, W), each `IGNORE` or a position in `classes`; and the
            objects left out.

        Raises:
            DataError: Naming the file: the image or its label map is missing, cannot be decoded, or is of
                another size than the other; the label map has a value that is no class.
        """
        pixels, labels, skipped = self.read_pixels(i, RGB)
        return Image.fromarray(pixels), labels, skipped

    def read_pixels(self, i: int, form: PixelFormat) -> tuple[np.ndarray, np.ndarray, list[Skipped]]:
        """As `read`, with pixels uint8 (H, W, C) in another format than RGB.

        Raises:
            DataError: See `read`.
        """
        if self._index is not None:
            row = self._index[i]
            pixels = load_pixels(self._index.image_path(i), (row.width, row.height), form)
            return pixels, *self.read_labels(i)
        image_path, label_map = self._files[i]
        size = self._map_size(i)
        return load_pixels(image_path, size, form), self._read_map(label_map), []

    def read_labels(self, i: int) -> tuple[np.ndarray, list[Skipped]]:
        """The labels of image `i`, as `read` gives them, for one who has the image already.

        Raises:
            DataError: See `read`.
        """
        if self._index is None:
            self._map_size(i)
            return self._read_map(self._files[i][1]), []
        row = self._index[i]
        usable, regions = usable_objects(row, len(self._index.classes)), []
        for item in usable.objects:
            label = IGNORE if item.label is None or not self._fills(item) else item.label + 1
            regions.append((_pixels(item, row.width, row.height), item, label))
        labels = np.full((row.height, row.width), BACKGROUND, dtype=np.int32)
        for _, item, label in sorted(
            regions, key=lambda region: -region[0]
        ):  # stable: of equal ones the later is on top
            if item.mask is None:
                labels[_filled(item, row.width, row.height)] = label
            else:
                labels[rle.decode(item.mask, row.width, row.height) != 0] = label
        return labels, usable.named(self._index.image_path(i))

    def _map_size(self, i: int) -> tuple[int, int]:
        """Size of a label map, which is that of its image, turned or not."""
        image, label_map = self._files[i]
        sizes, size = header_sizes(image), header_sizes(label_map)[-1]
        if size not in sizes:
            raise DataError(
                f"{label_map}: is {size[0]} x {size[1]} pixels, but its image {image} is {sizes[0][0]} x "
                f"{sizes[0][1]}"
            )
        return size

    def _read_map(self, path: str) -> np.ndarray:
        assert self._lookup is not None
        try:
            with quiet_pillow(), Image.open(path) as image:
                if image.mode not in _MAP_MODES:
                    raise DataError(
                        f"{path}: has {image.mode} pixels; a label map has one value a pixel, as palette "
                        f"or grey"
                    )
                # 1-bit pixels would become bool; as grey they are the 0 and 255 that the file means.
                stored = np.asarray(image.convert("L") if image.mode == "1" else image)
        except DataError:
            raise
        except Exception as error:  # decoders raise almost anything on bad bytes
            raise DataError(f"{path}: cannot be decoded ({str(error) or type(error).__name__})") from error
        inside = (stored >= 0) & (stored < len(self._lookup))
        labels = self._lookup[np.where(inside, stored, 0)]
        refused = ~inside | (labels == REFUSED)
        if refused.any():
            raise DataError(f"{path}: has the value {stored[refused][0]}; its values may be {self._values}")
        return labels


def _pixels(item: Object, width: int, height: int) -> int:
    """How many pixels an object has in the label map."""
    if item.mask is not None:
        return rle.area(item.mask)
    down, across = _filled(item, width, height)
    rows, columns = down.stop - down.start, across.stop - across.start
    return int(rows * columns)


def _filled(item: Object, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of an object's box, rounded to whole pixels, at least one."""
    x0, y0, x1, y1 = item.box

    def span(low: float, high: float, end: int) -> slice:
        first = min(int(max(low, 0.0) + 0.5), end - 1)
        return slice(first, max(int(min(high, end) + 0.5), first + 1))

    return span(y0, y1, height), span(x0, x1, width)


def patch_label_shares(labels: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Exact share of each patch's area in each class: a pixel cut by a patch border counts by its part.

    `IGNORE` pixels do not count: the shares of a patch sum to its labelled area, at most 1.

    Args:
        labels: int (H, W), each `IGNORE` or from 0 to classes - 1.
        grid: Rows and columns of patches; they cover the whole map. They need not divide H and W, and may be
            more.
        classes: How many there are.

    Returns:
        float32 (rows * columns, classes), patches row by row.

    Raises:
        OdisError: The map is empty, or a label is out of range.
    """
    height, width = labels.shape
    if not labels.size or labels.min() < IGNORE or labels.max() >= classes:
        raise OdisError(
            f"labels of {height} x {width} pixels must be from 0 to {classes - 1}, or {IGNORE} where they "
            f"are ignored"
        )
    row, patch_row, high = _pieces(height, grid[0])
    column, patch_column, wide = _pieces(width, grid[1])
    # One bincount over all pieces; ignored pixels land in a first column that is dropped.
    place = labels.take(row, axis=0).take(column, axis=1).astype(np.int64)
    place += (patch_row * grid[1] * (classes + 1))[:, None]
    place += patch_column * (classes + 1) - IGNORE
    area = np.bincount(
        place.ravel(), weights=np.outer(high, wide).ravel(), minlength=grid[0] * grid[1] * (classes + 1)
    )
    return (area.reshape(-1, classes + 1)[:, 1:] / labels.size).astype(np.float32)


def _pieces(pixels: int, parts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A line of pixels cut at the borders of its pixels and of `parts` equal parts: pixel, part and length of
    each piece.

    In units of 1 / parts of a pixel all borders are whole numbers, so nothing is rounded. A part is `pixels`
    units long.
    """
    borders = np.union1d(np.arange(pixels + 1) * parts, np.arange(parts + 1) * pixels)
    starts = borders[:-1]
    return starts // parts, starts // pixels, np.diff(borders)
