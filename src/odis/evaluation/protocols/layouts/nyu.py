"""NYU Depth v2 as BTS publishes it: photographs of 640 x 480 pixels and their depth in millimetres, 16-bit
PNG.

- Lists: `nyu_train.txt` and `nyu_test.txt`, or `nyudepthv2_train_files_with_gt.txt` and
  `nyudepthv2_test_files_with_gt.txt`; a line is `/kitchen_0028b/rgb_00045.jpg
  /kitchen_0028b/sync_depth_00045.png 518.8579`.
- Files: in the root, in `sync` (train) and in `official_splits/test` (test), wherever a list's first one is.
- Without a list: all pairs `rgb_N.jpg`, `sync_depth_N.png` below `sync`, or below `official_splits/test`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from odis.errors import DataError
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.images import opened, reason_of

SIZE = (640, 480)
"""Width and height of every image."""

SHALLOWEST, DEEPEST = 0.001, 10.0
"""Metres; what lies outside is not known."""

_LISTS = ("nyu_{}.txt", "nyudepthv2_{}_files_with_gt.txt", "{}_files_with_gt.txt", "{}.txt")
_FOLDERS = {"train": ("", "sync", "train", "nyu"), "test": ("", "official_splits/test", "test", "nyu")}


@dataclass(frozen=True, slots=True)
class DepthImages:
    """One part: photographs and their depth maps.

    Attributes:
        path: Where they are, to name it in messages.
        pairs: Files of each image and of its depth.
        unpaired: Lines of the list without a depth map, which are left out.
    """

    path: str
    pairs: tuple[tuple[str, str], ...]
    unpaired: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def select(self, numbers: Sequence[int]) -> DepthImages:
        """Some of the images."""
        return replace(self, pairs=tuple(self.pairs[i] for i in numbers))


def open_nyu(path: str | Path, part: str, listed: str | Path | None = None) -> DepthImages:
    """Open a part.

    Args:
        path: The root.
        part: `train` or `test`.
        listed: The list, if it is not one of the names above in the root.

    Raises:
        DataError: Nothing of this kind; a list that cannot be read or whose first image is nowhere.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    file = Path(listed) if listed is not None else _find_list(root, part)
    if file is None:
        return _all_pairs(root, part)
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    known = [line for line in lines if len(line) >= 2 and line[1].lower() not in ("none", "-")]
    if not known:
        raise DataError(f"{file}: lists no image with its depth map (IMAGE DEPTH, a pair a line)")
    first = known[0][0].lstrip("/")
    folder = next((root / name for name in _FOLDERS[part] if (root / name / first).is_file()), None)
    if folder is None:
        places = ", ".join(str(root / name) for name in _FOLDERS[part])
        raise DataError(f"{file}: its first image {first} is in none of {places}")
    pairs = tuple((str(folder / line[0].lstrip("/")), str(folder / line[1].lstrip("/"))) for line in known)
    return DepthImages(str(root), pairs, len(lines) - len(known))


def _find_list(root: Path, part: str) -> Path | None:
    return next((root / n for name in _LISTS if (root / (n := name.format(part))).is_file()), None)


def _all_pairs(root: Path, part: str) -> DepthImages:
    folder = root / _FOLDERS[part][1]
    if not folder.is_dir():
        folder = root / part
    found, unpaired = [], 0
    for image in sorted(folder.rglob("rgb_*.jpg")):
        depth = image.with_name(image.stem.replace("rgb_", "sync_depth_", 1) + ".png")
        if depth.is_file():
            found.append((str(image), str(depth)))
        else:
            unpaired += 1
    if not found:
        raise DataError(
            f"{root}: holds neither a list (nyu_{part}.txt, nyudepthv2_{part}_files_with_gt.txt) nor pairs "
            f"rgb_N.jpg, sync_depth_N.png below {_FOLDERS[part][1]}"
        )
    return DepthImages(str(root), tuple(found), unpaired)


def read_depth(path: str) -> np.ndarray:
    """Depth in metres, float32 (480, 640); 0 where it is not known.

    Raises:
        DataError: Naming the file.
    """
    with opened(path) as image:
        if not image.mode.startswith("I"):
            raise DataError(f"{path}: has {image.mode} pixels; depth is 16-bit grey, in millimetres")
        if image.size != SIZE:
            raise DataError(f"{path}: is {image.width} x {image.height} pixels, must be 640 x 480")
        try:
            with quiet_pillow():
                metres = np.asarray(image).astype(np.float32) / 1000
        except Exception as error:  # decoders raise almost anything on bad bytes
            raise DataError(f"{path}: cannot be decoded ({reason_of(error)})") from error
    metres[(metres < SHALLOWEST) | (metres > DEEPEST)] = 0
    return metres
