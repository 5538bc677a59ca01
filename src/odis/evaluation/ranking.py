"""Ranking by cosine similarity: average precision and recall of each query."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

_TILE = 1 << 23  # similarities ranked at a time: with their order about 170 MB


def rank(
    queries: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    images: tuple[Tensor, Tensor] | None = None,
    numbers: tuple[Tensor, Tensor] | None = None,
    same_image: bool = False,
    k: Sequence[int] = (1, 5, 10),
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor, Tensor]:
    """Average precision and recall at k of each query, by cosine similarity; of equally similar ones the
    earlier in the gallery is nearer.

    Args:
        queries: (m, D).
        gallery: (n, D).
        query_labels: int64 (m,), or bool (m, C) where there may be several.
        gallery_labels: int64 (n,) or bool (n, C); one that shares a label with the query is relevant to it.
        images: int64 (m,) and (n,), the image of each: the query's is not searched. None: the two have no
            image in common.
        numbers: int64 (m,) and (n,), the object in its image: with `same_image` only the query itself is not
            searched.
        same_image: See `numbers`.
        k: Ranks of the recalls.
        device: Where to compute.

    Returns:
        float64 (m,), NaN for a query with nothing relevant to find; float64 (m, len(k)): 1 where one of the
        first k is relevant, else 0, or NaN; and bool (m,): whether something relevant is searched and
        something that is not, so that the ranking matters. On the CPU.
    """
    device = torch.device(device)
    gallery = normalize(gallery.to(device, torch.float32), dim=1)
    several = query_labels.ndim == 2
    of_gallery = gallery_labels.to(device, torch.float32 if several else torch.int64)
    precision = torch.full((len(queries),), float("nan"), dtype=torch.float64)
    recall = torch.full((len(queries), len(k)), float("nan"), dtype=torch.float64)
    open_ = torch.zeros(len(queries), dtype=torch.bool)
    for rows in torch.arange(len(queries)).split(max(1, _TILE // max(1, len(gallery)))):
        similarity = normalize(queries[rows].to(device, torch.float32), dim=1) @ gallery.T
        labels = query_labels[rows].to(device)
        relevant = labels.float() @ of_gallery.T > 0 if several else labels[:, None] == of_gallery
        searched = torch.tensor(len(gallery), device=device)
        if images is not None:
            passed_over = images[0][rows].to(device)[:, None] == images[1].to(device)
            if same_image:
                assert numbers is not None
                passed_over &= numbers[0][rows].to(device)[:, None] == numbers[1].to(device)
            similarity.masked_fill_(passed_over, float("-inf"))  # last, where they change no rank of others
            relevant &= ~passed_over
            searched = (~passed_over).sum(1)
        order = similarity.argsort(dim=1, descending=True, stable=True)
        found = relevant.gather(1, order)
        place = torch.arange(1, found.shape[1] + 1, device=device, dtype=torch.float64)
        hits = found.cumsum(1)
        total = found.sum(1)
        known = (total > 0).cpu()
        open_[rows] = ((total > 0) & (total < searched)).cpu()
        precision[rows[known]] = ((hits / place * found).sum(1) / total).cpu()[known]
        for i, one in enumerate(k):
            recall[rows[known], i] = found[:, :one].any(1).double().cpu()[known]
    return precision, recall, open_
