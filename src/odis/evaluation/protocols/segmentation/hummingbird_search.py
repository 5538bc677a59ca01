"""Where a memory's patches are searched: exactly as they come, or by faiss once they are all there."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.neighbours import NearestNeighbours
from odis.evaluation.protocols.training.kept_state import read_tensors, write_tensors

LISTS, SEARCHED = 512, 32
"""Lists of the approximate index, and how many of them a query looks into: what the published figures had of
ScaNN.
"""

_POINTS_A_LIST = 39  # fewer, and faiss warns that its lists are badly placed
_QUERIES = 1 << 16


KEEP = 300.0
"""Seconds between two states of a search that are kept."""


class PatchSearch(Protocol):
    """Finds the most similar patches of a memory for every query.

    Attributes:
        done: Patches that need not be added: a search of them was kept.
    """

    done: int

    def add(self, train: Tensor) -> None:
        """Add patches (n, D)."""

    def read(self) -> tuple[Tensor, Tensor]:
        """Cosines and positions of the nearest, (M, k) each, nearest first."""
        ...


class ExactSearch:
    """Every patch is compared with every query as it comes.

    Args:
        nearest: The search of the queries, in which nothing is yet.
        saved: Where its state is kept now and then, if anywhere; it goes on there.
    """

    def __init__(self, nearest: NearestNeighbours, saved: Path | None) -> None:
        self._nearest, self._saved, self._kept = nearest, saved, time.monotonic()
        found = None if saved is None else read_tensors(saved)
        if found is not None:
            nearest.load(found)
        self.done = nearest.seen

    def add(self, train: Tensor) -> None:
        """Add patches (n, D)."""
        self._nearest.add(train)
        if time.monotonic() - self._kept >= KEEP:
            self._keep()

    def read(self) -> tuple[Tensor, Tensor]:
        """Cosines, float32, and positions, int64, of the neighbours: (M, k) each, nearest first."""
        if self._nearest.seen > self.done:
            self._keep()
        return self._nearest.read()

    def _keep(self) -> None:
        if self._saved is not None:
            write_tensors(self._saved, self._nearest.state())
        self._kept = time.monotonic()


class FaissSearch:
    """Approximate search: patches in lists around centroids, of which each query looks into some.

    Memory holds all patches: 4 N D bytes on the CPU.

    Args:
        queries: (M, D).
        k: Neighbours of each.
        saved: Where what is found is kept now and then, if anywhere; it goes on there.
        lists: How many lists; fewer where there are few patches. One is an exact search.
        searched: Lists that a query looks into.

    Raises:
        OdisError: faiss is not installed.
    """

    done = 0  # the index needs all patches

    def __init__(
        self,
        queries: Tensor,
        k: int,
        saved: Path | None = None,
        *,
        lists: int = LISTS,
        searched: int = SEARCHED,
    ) -> None:
        self._faiss, self._saved = _faiss(), saved
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
        found = self._found()
        kept = time.monotonic()
        for start in range(len(found[0]), len(self._queries), _QUERIES):
            part = normalize(self._queries[start : start + _QUERIES].float().cpu(), dim=1)
            cosines, rows = index.search(part.numpy(), self.k)
            if (rows < 0).any():
                raise OdisError(
                    f"k {self.k}: {counted(self.searched, 'list does', 'lists do')} not hold as many "
                    f"patches; use --search exact"
                )
            found = (
                torch.cat([found[0], torch.from_numpy(cosines)]),
                torch.cat([found[1], torch.from_numpy(rows)]),
            )
            if self._saved is not None and (
                time.monotonic() - kept >= KEEP or len(found[0]) == len(self._queries)
            ):
                write_tensors(self._saved, {"cosines": found[0], "rows": found[1]})
                kept = time.monotonic()
        return found

    def _found(self) -> tuple[Tensor, Tensor]:
        """What was kept, of the first queries."""
        kept = None if self._saved is None else read_tensors(self._saved)
        if kept is None:
            return torch.empty(0, self.k), torch.empty(0, self.k, dtype=torch.int64)
        return kept["cosines"], kept["rows"]


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")  # an extra that the tests do without
    except ImportError as error:
        raise OdisError("--search faiss: faiss is not installed; pip install 'odis[faiss]'") from error
