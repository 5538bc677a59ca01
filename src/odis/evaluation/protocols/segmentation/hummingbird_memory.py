"""The memory of in-context segmentation: which patches it holds, and what a query reads from it.

Letters: P patches of an image, N patches of the memory, D width, C classes, M queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.label_maps import IGNORE
from odis.evaluation.protocols.segmentation.hummingbird_search import PatchSearch

_FLUSH = 8192  # patches that are searched at a time, the tile of NearestNeighbours


def patch_counts(labels: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """How many pixels of each patch have each class, ignored ones left out: int16 (P, C).

    Args:
        labels: int (S, S), from 0 to C - 1 or IGNORE.
        grid: Rows and columns of patches, which tile the map.
        classes: C.
    """
    rows, columns = grid
    height, width = labels.shape
    patch = np.arange(rows).repeat(height // rows)[:, None] * columns + np.arange(columns).repeat(
        width // columns
    )
    known = labels != IGNORE
    pairs = patch[known] * classes + labels[known]
    return np.bincount(pairs, minlength=rows * columns * classes).reshape(-1, classes).astype(np.int16)


def sample_patches(counts: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """The patches of an image that the memory takes: rare classes are favoured.

    The score of a patch is the sum, over the classes that it shows, of how many patches of the image show the
    class, times a uniform number; the lowest are taken. So the choice of fewer is the beginning of that of
    more. A patch without a labelled pixel is never taken.

    Args:
        counts: (P, C), see `patch_counts`.
        most: How many.
        rng: Draws P numbers.

    Returns:
        int64, from the lowest score on, at most `most`.
    """
    shown = counts > 0
    scores = (shown @ shown.sum(0).astype(np.float64)) * rng.random(len(counts))
    usable = np.flatnonzero(shown.any(1))
    return usable[np.argsort(scores[usable], kind="stable")][:most]


def per_view(memory: int, images: int, passes: int) -> int:
    """How many patches of each view fit into a memory.

    Raises:
        OdisError: Not one.
    """
    fits = memory // (images * passes)
    if not fits:
        raise OdisError(
            f"memory {memory:,} must be at least {images * passes:,}, a patch of each of "
            f"{counted(images, 'image')}, {counted(passes, 'time')}"
        )
    return fits


class Memory:
    """Patches of the train part with their classes. Features are searched as they come, and not kept.

    Args:
        name: Which images it is made of.
        rows: Their rows.
        size: Patches that were asked for.
        passes: Views of each image.

    Attributes:
        most: Patches of each view.
        full: Patches if every view has as many.
        held: Patches so far.
    """

    def __init__(self, name: str, rows: Sequence[int], size: int, passes: int) -> None:
        self.name, self.rows, self.size = name, frozenset(rows), size
        self.most, self.held = per_view(size, len(rows), passes), 0
        self.full = self.most * len(rows) * passes
        self._search: PatchSearch | None = None
        self._waiting: list[Tensor] = []
        self._counts: list[np.ndarray] = []

    def begin(self, search: PatchSearch) -> None:
        """Forget what was added, for the queries of another model."""
        self._search, self._waiting, self._counts, self.held = search, [], [], 0

    def add(self, features: np.ndarray, counts: np.ndarray) -> None:
        """Add patches of a view, (k, D) and (k, C), of which the first `most` are taken."""
        assert self._search is not None
        if not len(features):
            return
        # Without copies, the whole view would stay in memory.
        self._counts.append(counts[: self.most].copy())
        new = max(0, self._search.done - self.held)  # those before were searched by a call that was cut off
        self.held += len(self._counts[-1])
        if new < len(self._counts[-1]):
            self._waiting.append(torch.from_numpy(features[new : self.most].copy()))
        if sum(map(len, self._waiting)) >= _FLUSH:
            self._flush(_FLUSH)

    def _flush(self, multiple: int) -> None:
        """Search what waits, in whole multiples; the rest waits on."""
        assert self._search is not None
        waiting = torch.cat(self._waiting)
        ready = len(waiting) // multiple * multiple
        self._search.add(waiting[:ready])
        self._waiting = [waiting[ready:].clone()] if ready < len(waiting) else []

    def read(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines and positions of the nearest patches of each query, (M, k), and the counts of all, (N, C).

        Raises:
            OdisError: It holds fewer than k patches.
        """
        assert self._search is not None
        if self.held < k:
            raise OdisError(
                f"k {k}: the memory of {self.name} holds {counted(self.held, 'patch')} with a label"
            )
        if self._waiting:
            self._flush(1)
        similarity, rows = self._search.read()
        return similarity, rows, torch.from_numpy(np.concatenate(self._counts))


def soft_labels(similarity: Tensor, counts: Tensor, beta: float, area: int) -> Tensor:
    """What queries read: the class shares of their neighbours, weighted by a softmax of cosine / beta.

    Args:
        similarity: (M, k).
        counts: (M, k, C), pixels of each class in each neighbour.
        beta: Temperature.
        area: Pixels of a patch.

    Returns:
        (M, C), as exact as `similarity`; they sum to at most 1.
    """
    weights = (similarity / beta).softmax(dim=1)
    return torch.einsum("mk,mkc->mc", weights, counts.to(weights.device, weights.dtype)) / area
