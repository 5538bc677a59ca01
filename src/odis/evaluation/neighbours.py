"""Weighted k-nearest-neighbour classification of features by cosine similarity (DINO, appendix F.1; Wu et
al., 2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from odis.config.wording import counted
from odis.errors import OdisError

_TEST_CHUNK, _TRAIN_CHUNK = 512, 8192  # one tile of similarities: 17 MB
_BLOCK = 64  # train features whose largest similarity is looked at first
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


class NearestNeighbours:
    """The most similar train features of each test feature, updated while train features are streamed.

    Memory holds the test features and k keys for each of them. Train features are seen once, in chunks. Of
    equally similar train features the earlier one is nearer.

    Args:
        test: (m, D), l2-normalised here.
        k: Neighbours to keep.
        device: Where to compute, and to hold test features and keys: 4 m D + 8 m k bytes.

    Raises:
        OdisError: for a k below 1 or test features that are not finite.
    """

    def __init__(self, test: Tensor, k: int, device: torch.device | str = "cpu") -> None:
        if k < 1:
            raise OdisError(f"k {k} must be 1 or more")
        self.k, self.device, self.seen = k, torch.device(device), 0
        self._test = _unit(test.to(self.device, torch.float32), "test")
        self._best = torch.empty(len(test), 0, dtype=torch.int64, device=self.device)  # keys, nearest first

    def again(self) -> NearestNeighbours:
        """Another search for the same test features, which are held once."""
        other = NearestNeighbours(self._test[:0], self.k, self.device)
        other._test, other._best = self._test, self._best.new_empty(len(self._test), 0)
        return other

    def state(self) -> dict[str, Tensor]:
        """What a search of the same test features goes on from."""
        return {"best": self._best, "seen": torch.tensor(self.seen)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._best, self.seen = state["best"].to(self.device), int(state["seen"])

    def add(self, train: Tensor) -> None:
        """Add the next train features (n, D), of any float type and on any device, in chunks.

        Raises:
            OdisError: if one is not finite.
        """
        for part in train.split(_TRAIN_CHUNK):
            self._add(_unit(part.to(self.device, torch.float32), "train"))

    def _add(self, train: Tensor) -> None:
        best = self._best
        if best.shape[1] < min(self.k, self.seen + len(train)):  # the first parts, until there are k
            wider = best.new_empty(len(best), min(self.k, self.seen + len(train)))
        else:
            wider = best
        for start in range(0, len(self._test), _TEST_CHUNK):
            rows = slice(start, start + _TEST_CHUNK)
            wider[rows] = self._merged(best[rows], self._test[rows] @ train.T, wider.shape[1])
        self._best = wider
        self.seen += len(train)

    def _merged(self, best: Tensor, similarity: Tensor, width: int) -> Tensor:
        """The keys of the `width` nearest among those known and a tile of similarities (tests, trains)."""
        # Not k yet, where every feature may count; or the odd last tile.
        if best.shape[1] < self.k or similarity.shape[1] % _BLOCK:
            return _nearest_keys(torch.cat([best, self._top(similarity)], dim=1), width)
        # A new feature counts only if it is nearer than the last neighbour known; an equal one came later. In
        # a long stream few are. Maxima of blocks find them in one pass over the tile; top-k takes several.
        worst = _read_keys(best[:, -1:])[0]
        blocks = similarity.unflatten(1, (-1, _BLOCK))
        row, block = (blocks.amax(2) > worst).nonzero(as_tuple=True)  # sorted by row
        if not len(row):
            return best
        if len(row) > 2 * self.k * len(best):  # early in the stream most blocks hold some
            return _nearest_keys(torch.cat([best, self._top(similarity)], dim=1), width)
        of_blocks = blocks[row, block]  # (found, _BLOCK)
        found, inside = (of_blocks > worst[row]).nonzero(as_tuple=True)
        row, column = row[found], block[found] * _BLOCK + inside
        counts = torch.bincount(row, minlength=len(best))
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        newcomers = best.new_full((len(best), int(counts.max())), torch.iinfo(torch.int64).min)
        newcomers[row, place] = _keys_at(of_blocks[found, inside], column + self.seen)
        return _nearest_keys(torch.cat([best, newcomers], dim=1), width)

    def _top(self, similarity: Tensor) -> Tensor:
        """Keys of the k nearest of a tile, or of all of a smaller one, in no order."""
        if similarity.shape[1] <= self.k:
            return _keys(similarity, self.seen)
        values, columns = similarity.topk(self.k + 1, dim=1)
        keys = _keys_at(values[:, :-1], columns[:, :-1] + self.seen)
        # topk does not define which of equal values it takes; it matters at the k-th place only.
        tied = (values[:, -1] == values[:, -2]).nonzero()[:, 0]
        if len(tied):
            keys[tied] = _nearest_keys(_keys(similarity[tied], self.seen), self.k)
        return keys

    def read(self) -> tuple[Tensor, Tensor]:
        """Cosine similarities, float32, and positions in the stream, int64, of the neighbours: (m, k) each,
        nearest first.

        There are fewer than k columns after fewer train features.
        """
        return _read_keys(self._best)


def vote(
    similarity: Tensor, labels: Tensor, k: Sequence[int], *, temperature: float, classes: int
) -> dict[int, Tensor]:
    """Classify by neighbours, each voting exp(cosine / temperature) for its class; of equal classes the lower
    wins.

    Args:
        similarity: (m, K), nearest first.
        labels: int64 (m, K), classes of the neighbours.
        k: Numbers of neighbours that vote, each from 1 to K.
        temperature: Of the votes.
        classes: How many there are.

    Returns:
        For each k the predicted classes, int64 (m,), on the CPU.

    Raises:
        OdisError: if a k or the temperature is out of range.
    """
    for one in k:
        if not 1 <= one <= similarity.shape[1]:
            raise OdisError(f"k {one} must be from 1 to the {counted(similarity.shape[1], 'train object')}")
    if not temperature > 0:
        raise OdisError(f"temperature {temperature} must be above 0")
    k = list(dict.fromkeys(k))
    predictions: dict[int, list[Tensor]] = {one: [] for one in k}
    for near, of in zip(similarity.split(_TEST_CHUNK), labels.split(_TEST_CHUNK)):
        # Only ratios of votes matter: relative to the nearest neighbour they cannot overflow.
        votes = ((near - near[:, :1]) / temperature).double().exp()
        for one in k:
            total = votes.new_zeros(len(votes), classes).scatter_add_(1, of[:, :one], votes[:, :one])
            predictions[one].append(total.argmax(1).cpu())  # the first of equals
    empty = torch.empty(0, dtype=torch.int64)
    return {one: torch.cat(parts) if parts else empty for one, parts in predictions.items()}


def _unit(features: Tensor, name: str) -> Tensor:
    """Rows of length 1; zero rows stay. The length of a row that is not finite is not finite either."""
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    if not length.isfinite().all():
        raise OdisError(
            f"{name} features hold values that are not finite: the model's weights or its precision are "
            f"at fault"
        )
    unit: Tensor = features / length.clamp_min(1e-12)
    return unit


def _nearest_keys(keys: Tensor, width: int) -> Tensor:
    """The `width` nearest, nearest first."""
    return keys.topk(width, dim=1).values


def _keys(similarity: Tensor, start: int) -> Tensor:
    """int64 keys that sort by similarity, then lower row first: topk does not define the order of ties."""
    return _keys_at(similarity, torch.arange(start, start + similarity.shape[1], device=similarity.device))


def _keys_at(similarity: Tensor, rows: Tensor) -> Tensor:
    """The keys of similarities to train features of known `rows`, which broadcast against them."""
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0: minus zero and zero are one similarity
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative floats descend in their bits; turned, all ascend
    return (ordered.long() << _INDEX_BITS) | (_INDEX_MASK - rows)


def _read_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The similarities and train rows that `_keys` packed."""
    ordered = (keys >> _INDEX_BITS).to(torch.int32)
    similarity = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return similarity, _INDEX_MASK - (keys & _INDEX_MASK)
