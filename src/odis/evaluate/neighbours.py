"""Weighted k-nearest-neighbour classification of features by cosine similarity (DINO, appendix F.1; Wu et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from odis.errors import OdisError

_TEST_CHUNK, _TRAIN_CHUNK = 512, 16384  # one tile of similarities with its sort keys: about 170 MB
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    k: Sequence[int],
    *,
    temperature: float = 0.07,
    classes: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[int, Tensor]:
    """Classify each test feature by its k most similar train features, each voting exp(cosine / temperature) for its class.

    Memory is bounded: similarities are made tile by tile, never all at once. Ties are defined: of equally similar train
    features the one with the lower row is the nearer, of classes with equal votes the lower one wins.

    Args:
        train_features: (n, D), any length; they are l2-normalised here.
        train_labels: int64 (n,), from 0 to classes - 1.
        test_features: (m, D).
        k: Numbers of neighbours, each from 1 to n; all are answered in one pass.
        temperature: Of the votes.
        classes: How many there are; by default one more than the largest train label.
        device: Where to compute. Features may stay in main memory: they pass through in parts.

    Returns:
        For each k the predicted classes, int64 (m,), on the CPU.

    Raises:
        OdisError: if a k or the temperature is out of range, or a feature is not finite.
    """
    n, largest = len(train_features), max(k, default=0)
    for one in k:
        if not 1 <= one <= n:
            raise OdisError(f"k {one} must be from 1 to the {n} train objects")
    if not temperature > 0:
        raise OdisError(f"temperature {temperature} must be above 0")
    for name, features in (("train", train_features), ("test", test_features)):
        if not features.isfinite().all():
            raise OdisError(f"{name} features hold values that are not finite: the model's weights or its precision are at fault")
    classes = int(train_labels.max()) + 1 if classes is None else classes
    labels = train_labels.to(device)
    predictions: dict[int, list[Tensor]] = {one: [] for one in k}
    for keys in _nearest(train_features, test_features, largest, torch.device(device)).split(_TEST_CHUNK):
        similarity, rows = _read_keys(keys)
        # Only ratios of votes matter: measured from the nearest neighbour they cannot overflow.
        votes = ((similarity - similarity[:, :1]) / temperature).double().exp()
        for one in k:
            total = votes.new_zeros(len(votes), classes).scatter_add_(1, labels[rows[:, :one]], votes[:, :one])
            predictions[one].append(total.argmax(1).cpu())  # the first of equals
    empty = torch.empty(0, dtype=torch.int64)
    return {one: torch.cat(parts) if parts else empty for one, parts in predictions.items()}


def _nearest(train: Tensor, test: Tensor, k: int, device: torch.device) -> Tensor:
    """Keys of the k nearest train features of each test feature, nearest first: int64 (m, k)."""
    best = torch.empty(len(test), 0, dtype=torch.int64, device=device)
    for start in range(0, len(train), _TRAIN_CHUNK):
        reference = _unit(train[start : start + _TRAIN_CHUNK], device)
        parts = []
        for queries, found in zip(test.split(_TEST_CHUNK), best.split(_TEST_CHUNK)):
            found = torch.cat([found, _keys(_unit(queries, device) @ reference.T, start)], dim=1)
            parts.append(found.topk(min(k, found.shape[1]), dim=1).values)
        best = torch.cat(parts) if parts else best
    return best


def _unit(features: Tensor, device: torch.device) -> Tensor:
    return normalize(features.to(device, torch.float32), dim=1)


def _keys(similarity: Tensor, start: int) -> Tensor:
    """int64 keys that sort as (similarity, then lower row first): topk alone does not say which of equal values it takes."""
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0: minus zero and zero are one similarity
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative floats descend in their bits; turned, all ascend
    rows = torch.arange(start, start + similarity.shape[1], device=similarity.device)
    return (ordered.long() << _INDEX_BITS) | (_INDEX_MASK - rows)


def _read_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The similarities and train rows that `_keys` packed."""
    ordered = (keys >> _INDEX_BITS).to(torch.int32)
    similarity = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return similarity, _INDEX_MASK - (keys & _INDEX_MASK)
