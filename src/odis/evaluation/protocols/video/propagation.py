"""Labels of patches carried from frame to frame by the similarity of their features (DINO,
`eval_video_segmentation.py`; Jabri et al., 2020).

Letters: P patches of a frame (h rows, w columns), D width, N context frames, C labels (0: no object).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from odis.evaluation.protocols.layouts.davis import resize_map

_AT_ONCE = 1 << 24  # similarities held at a time: 128 MB


@dataclass(frozen=True, slots=True)
class Propagation:
    """How labels are carried.

    Args:
        context: Frames before the current one that are looked at, besides the first.
        radius: Patches of the context lie in a square of 2 radius + 1 patches around the patch.
        top: Patches that give their labels, those of all context frames together.
        temperature: A patch has the weight exp(cosine / temperature).
    """

    context: int = 7
    radius: int = 12
    top: int = 5
    temperature: float = 0.1


def shown_size(width: int, height: int, patch: int, short: int = 480) -> tuple[int, int]:
    """Width and height at which a frame is shown.

    The shorter side becomes 480 and the longer one is cut to a multiple of 64 (854 becomes 832). Where whole
    patches do not tile 64 pixels, as those of 14, the shorter side has as many patches as 480 pixels have of
    16 (30, so 420 pixels), and the longer one the nearest number of patches.

    Args:
        width: Of the frame.
        height: Of the frame.
        patch: Side of a patch in pixels.
        short: The shorter side.
    """
    ratio = max(width, height) / min(width, height)
    if 64 % patch == 0:
        long = max(64, int(int(short * ratio) // 64 * 64))
    else:
        short = max(1, round(short / 16)) * patch
        long = max(1, round(short * ratio / patch)) * patch
    return (long, short) if width >= height else (short, long)


def propagate(
    features: Iterable[Tensor], first: Tensor, grid: tuple[int, int], settings: Propagation
) -> Iterator[Tensor]:
    """Labels of every frame but the first: (P, C) shares, which sum to 1.

    In float64: exp(cosine / .1) has ten times the rounding of a cosine, and the carried labels are summed up
    from frame to frame.

    Args:
        features: (P, D) of each frame, on any device; they are used at length 1.
        first: (P, C), those of the first frame.
        grid: h and w.
        settings: How.
    """
    frames = iter(features)
    start = _unit(next(frames))
    window = near(grid, settings.radius, start.device)
    context: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.context)
    first = first.to(start)
    for frame in frames:
        current = _unit(frame)
        sources = [(start, first), *context]
        labels = carry(
            current,
            torch.stack([one for one, _ in sources]),
            torch.cat([label for _, label in sources]),
            window,
            settings,
        )
        context.append((current, labels))
        yield labels


def _unit(features: Tensor) -> Tensor:
    exact = torch.float32 if features.device.type == "mps" else torch.float64  # MPS has no float64
    return F.normalize(features.to(exact), dim=1)


def near(grid: tuple[int, int], radius: int, device: torch.device | None = None) -> Tensor:
    """Which patches lie in the square window of each: bool (P, P)."""
    places = torch.arange(grid[0] * grid[1], device=device)
    rows, columns = places // grid[1], places % grid[1]
    in_rows = (rows[:, None] - rows[None]).abs() <= radius
    return in_rows & ((columns[:, None] - columns[None]).abs() <= radius)


def carry(current: Tensor, sources: Tensor, labels: Tensor, window: Tensor, settings: Propagation) -> Tensor:
    """Labels (P, C) of a frame from those of its context.

        for each patch: w = exp(cosine / temperature) inside the window, else 0, over all context frames
                        w below the `top`-th largest = 0 (patches that equal it stay)
                        its label = sum(w * label) / sum(w)

    Args:
        current: (P, D), of length 1.
        sources: (N, P, D), of length 1.
        labels: (N P, C).
        window: bool (P, P).
        settings: How.
    """
    frames, patches, _ = sources.shape
    flat = sources.flatten(0, 1)
    found = []
    rows = max(1, _AT_ONCE // (frames * patches))
    for start in range(0, patches, rows):
        part = slice(start, start + rows)
        weights = torch.exp(current[part] @ flat.T / settings.temperature)
        weights = weights * window[part].repeat(1, frames)
        lowest = weights.topk(min(settings.top, weights.shape[1]), dim=1).values[:, -1:]
        weights = torch.where(weights < lowest, 0, weights)
        found.append(weights @ labels / weights.sum(dim=1, keepdim=True))
    return torch.cat(found)


def one_hot(labels: np.ndarray, grid: tuple[int, int], size: tuple[int, int], objects: int) -> Tensor:
    """Labels of a frame's patches (P, C) from its label map (H, W), by nearest pixel; C is objects + 1.

    Args:
        labels: uint8 (H, W).
        grid: h and w.
        size: Width and height at which the frame is shown; the grid covers all of it.
        objects: The largest label.
    """
    small = resize_map(labels, grid[1], grid[0])
    return F.one_hot(torch.from_numpy(small.astype(np.int64)), objects + 1).reshape(-1, objects + 1).float()


def to_frame(shares: Tensor, grid: tuple[int, int], patch: int, width: int, height: int) -> np.ndarray:
    """The label map uint8 (height, width) of shares (P, C): enlarged bilinearly by the side of a patch, each
    label scaled from its lowest to its highest value, the largest taken, by nearest pixel to the frame's
    size.
    """
    maps = shares.T.reshape(1, -1, *grid)
    large = F.interpolate(maps, scale_factor=float(patch), mode="bilinear", align_corners=False)[0]
    low, high = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
    scaled = torch.where(high > 0, (large - low) / (high - low), large)
    # A label that is the same everywhere has no scale: the reference divides by zero there.
    scaled = torch.where(scaled.isfinite(), scaled, large)
    return resize_map(scaled.argmax(dim=0).to(torch.uint8).cpu().numpy(), width, height)
