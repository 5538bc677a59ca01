"""Videos with a mask of every object in each frame, as DAVIS 2017 is published:
`JPEGImages/480p/VIDEO/00000.jpg`, `Annotations/480p/VIDEO/00000.png`, `ImageSets/2017/SPLIT.txt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.images import opened, reason_of

_VOID = 255


@dataclass(frozen=True, slots=True)
class Video:
    """A video: its name, its frames, and a label map for each, in order."""

    name: str
    frames: tuple[str, ...]
    maps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Videos:
    """One split."""

    path: str
    videos: tuple[Video, ...]

    @property
    def files(self) -> list[str]:
        """All files."""
        return [file for one in self.videos for file in (*one.frames, *one.maps)]


def open_davis(path: str | Path, split: str = "val") -> Videos:
    """Open a split of DAVIS 2017 at 480p; the folder may be that which holds `DAVIS`.

    Raises:
        DataError: Another layout; a list, video or frame that is missing; a video of fewer than 3 frames.
    """
    root = Path(path)
    if not (root / "JPEGImages").is_dir() and (root / "DAVIS" / "JPEGImages").is_dir():
        root = root / "DAVIS"
    images, maps = root / "JPEGImages" / "480p", root / "Annotations" / "480p"
    for folder in (images, maps):
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder; DAVIS 2017 has JPEGImages/480p, Annotations/480p and "
                "ImageSets/2017"
            )
    listed = root / "ImageSets" / "2017" / f"{split}.txt"
    try:
        names = [line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        there = ", ".join(sorted(one.stem for one in listed.parent.glob("*.txt"))) or "none"
        raise DataError(f"{listed}: cannot be read as a list; splits that are there: {there}") from error
    if not names:
        raise DataError(f"{listed}: lists no video")
    return Videos(str(root), tuple(_video(images, maps, name) for name in dict.fromkeys(names)))


def _video(images: Path, maps: Path, name: str) -> Video:
    if "/" in name or "\\" in name or name in (".", ".."):
        raise DataError(f"{images}: {name!r} is not the name of a video")
    frames = sorted((images / name).glob("*.jpg")) or sorted((images / name).glob("*.png"))
    if len(frames) < 3:
        raise DataError(
            f"{images / name}: has {counted(len(frames), 'frame')}; a video that can be scored has 3 or more"
        )
    of_frames = [maps / name / f"{frame.stem}.png" for frame in frames]
    missing = [one for one in of_frames if not one.is_file()]
    if missing:
        raise DataError(
            f"{missing[0]}: no such file; every frame needs its label map ({len(missing)} of {len(frames)} "
            "miss)"
        )
    return Video(name, tuple(map(str, frames)), tuple(map(str, of_frames)))


def read_map(path: str) -> np.ndarray:
    """Object of each pixel: uint8 (H, W), 0 for none. 255 (void) counts as none.

    Raises:
        DataError: Naming the file.
    """
    with opened(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise DataError(f"{path}: has {image.mode} pixels; a label map has one value a pixel")
        try:
            with quiet_pillow():
                found = np.array(image.convert("L") if image.mode == "1" else image, dtype=np.uint8)
        except Exception as error:  # decoders raise almost anything on bad bytes
            raise DataError(f"{path}: cannot be decoded ({reason_of(error)})") from error
    found[found == _VOID] = 0
    return found


def resize_map(labels: np.ndarray, width: int, height: int) -> np.ndarray:
    """A label map uint8 at another size, by Pillow's nearest pixel."""
    resized: np.ndarray = np.asarray(
        Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    )
    return resized
