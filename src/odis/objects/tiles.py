"""An index of the tiles of slides: squares of tissue on one level of magnification."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odis.config.wording import counted
from odis.errors import ConfigError, DataError
from odis.objects.clean import reason
from odis.objects.decoding.kinds import SLIDES, TIFF
from odis.objects.decoding.slide_tiles import open_slide
from odis.objects.index import write_index
from odis.objects.listing import Listing, folder_labels, list_files
from odis.objects.storage.address import Tile
from odis.types import ImageObjects, Object, Skipped

_THUMBNAIL = 2048  # pixels of the longer side, on which tissue is looked for
_SATURATION = 0.07  # of HSV: glass and paper have less, stained tissue has more
_MPP = ("openslide.mpp-x", "openslide.mpp-y")


@dataclass(slots=True)
class TileCounts:
    """What was written, and what was left out."""

    slides: int = 0
    tiles: int = 0
    blank: int = 0


@dataclass(frozen=True, slots=True)
class Tiling:
    """How slides are cut.

    Args:
        side: Pixels of a tile's side at the wanted magnification.
        mpp: Micrometres of a pixel that are wanted: 0.5 is what 20 x objectives give. None takes the largest
            level as it is.
        tissue: Share of a tile that must be tissue.
    """

    side: int = 512
    mpp: float | None = None
    tissue: float = 0.25

    def check(self) -> None:
        """Refuse what cuts nothing.

        Raises:
            ConfigError: Naming the option.
        """
        if self.side < 16:
            raise ConfigError(f"--side: is {self.side}, must be 16 pixels or more")
        if self.mpp is not None and not 0 < self.mpp < math.inf:
            raise ConfigError(f"--mpp: is {self.mpp:g}, must be above 0 micrometres a pixel")
        if not 0 <= self.tissue <= 1:
            raise ConfigError(f"--tissue: is {self.tissue:g}, must be from 0 to 1")


def tile_slides(
    slides: str | Path, out: str | Path, tiling: Tiling, report: Callable[[Skipped], None]
) -> TileCounts:
    """Write the index of all tiles of the slides of a folder. Folders are classes as for `odis index folder`.

    A tile covers `side` x `mpp` micrometres. It is read from the level next to that magnification, at least
    as fine, so it may have more pixels than `side`; views resize it.

    Args:
        slides: Folder, or one slide.
        out: The index's file.
        tiling: How they are cut.
        report: Called with each slide that cannot be used.

    Raises:
        DataError: There is no slide, or no tile with tissue.
    """
    tiling.check()
    root, names = _slides_of(Path(slides))
    labels = folder_labels(Listing(str(root), images=names), lambda split: f"give {split} alone")
    counts = TileCounts()

    def rows() -> Iterator[ImageObjects]:
        for name in names:
            label = labels.classes.index(labels.names(name)) if labels.classes else None
            try:
                tiles, blank = tiles_of(root / name, tiling)
            except DataError as error:
                report(Skipped(str(root / name), reason(error, root / name)))
                continue
            counts.slides += 1
            counts.blank += blank
            counts.tiles += len(tiles)
            for tile in tiles:
                box = (0.0, 0.0, float(tile.width), float(tile.height))
                address = Tile(name, tile.level, tile.x, tile.y, tile.width, tile.height).address
                yield ImageObjects(address, tile.width, tile.height, (Object(box, label=label),))
        if not counts.tiles:
            raise DataError(f"{slides}: no tile of its {counted(len(names), 'slide')} has so much tissue")

    write_index(out, rows(), root=root, provenance="whole-image", classes=labels.classes)
    return counts


def _slides_of(slides: Path) -> tuple[Path, list[str]]:
    """The folder of slides, and their paths in it."""
    if slides.is_file():
        return slides.parent, [slides.name]
    if not slides.is_dir():
        raise DataError(f"{slides}: no such file or folder")
    found = [name for name in list_files(slides).images if os.path.splitext(name)[1].lower() in TIFF]
    found += [
        str(path.relative_to(slides))
        for path in slides.rglob("*")
        if path.suffix.lower() in SLIDES and path.is_file()
    ]
    if not found:
        kinds = ", ".join(sorted({*SLIDES, *TIFF}))
        raise DataError(f"{slides}: holds no slide ({kinds})")
    return slides, sorted(found)


def tiles_of(path: Path, tiling: Tiling) -> tuple[list[Tile], int]:
    """The tiles of a slide that hold tissue, row by row, and how many do not.

    Raises:
        DataError: It is no slide that can be read, or does not say its micrometres a pixel where these are
            asked for.
    """
    slide = open_slide(str(path))
    wanted = 1.0 if tiling.mpp is None else tiling.mpp / _micrometres(slide, path)
    level = int(slide.get_best_level_for_downsample(max(1.0, wanted * (1 + 1e-6))))
    scale = float(slide.level_downsamples[level])
    step = tiling.side * wanted  # in pixels of the largest level
    pixels = max(1, round(step / scale))
    width, height = slide.dimensions
    tissue = _tissue(slide)
    found, blank = [], 0
    for row in range(int(height / step + 1e-6)):
        for column in range(int(width / step + 1e-6)):
            x, y = column * step, row * step
            box = (x / width, y / height, (x + step) / width, (y + step) / height)
            if _share(tissue, box) < tiling.tissue:
                blank += 1
                continue
            found.append(Tile(str(path), level, round(x), round(y), pixels, pixels))
    return found, blank


def _micrometres(slide: Any, path: Path) -> float:
    try:
        across, down = (float(slide.properties[name]) for name in _MPP)
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: does not say its micrometres a pixel; leave out --mpp") from error
    if not (across > 0 and down > 0):
        raise DataError(f"{path}: says it has {across:g} x {down:g} micrometres a pixel")
    return math.sqrt(across * down)


def _tissue(slide: Any) -> np.ndarray:
    """Where a small picture of the slide is coloured: bool (rows, columns)."""
    small = np.asarray(slide.get_thumbnail((_THUMBNAIL, _THUMBNAIL)).convert("RGB")).astype(np.float32)
    most, least = small.max(2), small.min(2)
    coloured: np.ndarray = (most - least) >= _SATURATION * np.maximum(most, 1.0)
    return coloured


def _share(mask: np.ndarray, box: tuple[float, float, float, float]) -> float:
    """Share of a box, in parts of the mask's sides, that is set."""
    rows, columns = mask.shape
    x0, x1 = math.floor(box[0] * columns), max(math.floor(box[0] * columns) + 1, round(box[2] * columns))
    y0, y1 = math.floor(box[1] * rows), max(math.floor(box[1] * rows) + 1, round(box[3] * rows))
    return float(mask[y0:y1, x0:x1].mean()) if mask[y0:y1, x0:x1].size else 0.0
