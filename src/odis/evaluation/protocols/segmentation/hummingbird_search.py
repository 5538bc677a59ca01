"""Where a memory's patches are searched: exactly as they come, or by faiss once they are all there."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from odis.errors import OdisError

LISTS, SEARCHED = 512, 32
"""Lists of the approximate index, and how many of them a query looks into: what the published figures had of
ScaNN.
"""

_POINTS_A_LIST = 39  # fewer, and faiss warns that its lists are badly placed
_QUERIES = 1 << 16


class PatchSearch(Protocol):
    """Finds the most similar patches of a memory for every query."""

    def add(self, train: Tensor) -> None:
        """Add patches (n, D)."""

    def read(self) -> tuple[Tensor, Tensor]:
        """Cosines and positions of the nearest, (M, k) each, nearest first."""
        ...


class FaissSearch:
    """Approximate search: patches in lists around centroids, of which each query looks into some.

    Memory holds all patches: 4 N D bytes on the CPU.

    Args:
        queries: (M, D).
        k: Neighbours of each.
        lists: How many lists; fewer where there are few patches. One is an exact search.
        searched: Lists that a query looks into.

    Raises:
        OdisError: faiss is not installed.
    """

    def __init__(self, queries: Tensor, k: int, lists: int = LISTS, searched: int = SEARCHED) -> None:
        self._faiss = _faiss()
        self._queries, self.k, self.lists, self.searched = queries, k, lists, searched
        self._parts: list[Tensor] = []

    def add(self, train: Tensor) -> None:
        """Add patches (n, D)."""
        self._parts.append(normalize(train.float().cpu(), dim=1))

    def read(self) -> tuple[Tensor, Tensor]:
        """Cosines, float32, and positions, int64, of the neighbours: (M, k) each, nearest first."""
        memory = torch.cat(self._parts).numpy()
        self._parts = []
        lists = max(1, min(self.lists, len(memory) // _POINTS_A_LIST))
        flat = self._faiss.IndexFlatIP(memory.shape[1])
        index = self._faiss.IndexIVFFlat(flat, memory.shape[1], lists, self._faiss.METRIC_INNER_PRODUCT)
        index.train(memory)
        index.add(memory)
        index.nprobe = min(self.searched, lists)
        found = []
        for part in self._queries.split(_QUERIES):
            cosines, rows = index.search(normalize(part.float().cpu(), dim=1).numpy(), self.k)
            if (rows < 0).any():
                raise OdisError(
                    f"k {self.k}: {self.searched} lists do not hold as many patches; use --search exact"
                )
            found.append((torch.from_numpy(cosines), torch.from_numpy(rows)))
        return torch.cat([c for c, _ in found]), torch.cat([r for _, r in found])


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")  # an extra that the tests do without
    except ImportError as error:
        raise OdisError("--search faiss: faiss is not installed; pip install 'odis[faiss]'") from error
