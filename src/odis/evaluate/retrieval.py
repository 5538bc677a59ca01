"""Retrieval: every labelled object (or image) is a query, and those that share a label with it should come first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from odis.errors import DataError, OdisError
from odis.evaluate.asking import Asking, Evaluation, Progress
from odis.evaluate.linear import require_labels
from odis.evaluate.parts import Part, in_train_classes
from odis.evaluate.scores import mean_score
from odis.inference import Encoder, IndexFeatures
from odis.objects.index import ObjectIndex

_TILE = 1 << 23  # similarities ranked at a time: with their order about 170 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSettings(Asking):
    """How models are asked (`Asking`), and what counts.

    Args:
        k: Ranks of the recalls.
        same_image: Keep objects of the query's own image in what is searched. They share its light and surroundings, which makes them easy
            to find; the query itself is never searched.
    """

    k: Sequence[int] = (1, 5, 10)
    same_image: bool = False

    def check(self, encoders: Sequence[Encoder]) -> None:
        """See `Asking.check`."""
        Asking.check(self, encoders)
        if not self.k or min(self.k) < 1:
            raise OdisError(f"k {min(self.k, default=0)} must be 1 or more")


def evaluate_retrieval(
    encoders: Encoder | Sequence[Encoder],
    test: ObjectIndex | Part,
    gallery: ObjectIndex | Part | None,
    settings: RetrievalSettings,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Rank a gallery by cosine similarity to each query of `test`; what shares a label with the query is relevant.

    Args:
        encoders: Models to compare, on the same objects.
        test: Index of the queries, or a part of it.
        gallery: Index that is searched, or a part of it; None searches the test part itself, each query among all others.
        settings: How; `max_train` bounds the gallery.
        progress: Called after each image.

    Returns:
        What `results.json` holds; scores are `mAP` (mean over queries of average precision over the whole ranking) and `R@K` (share of
        queries with a relevant one among the first K), in percent with 95 % bootstrap intervals over query images; `queries` counts
        those that have anything relevant to find, the others are left out.

    Raises:
        OdisError: for labels that are missing, classes that do not go together, or settings that do not fit.
    """
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    settings.check(encoders)
    test = Part.of(test, settings.max_test, settings.seed) if isinstance(test, ObjectIndex) else test
    gallery = Part.of(gallery, settings.max_train, settings.seed) if isinstance(gallery, ObjectIndex) else gallery
    require_labels((test,) if gallery is None else (test, gallery), settings, multi=settings.images)
    run = Evaluation("retrieval", settings, progress)
    for encoder, mode in run.asked(encoders):
        queries = _labelled(run.features(encoder, mode, test, "test"), test)
        searched = queries if gallery is None else _labelled(run.features(encoder, mode, gallery, "gallery"), gallery)
        classes = test.index.classes
        if gallery is not None:
            used = torch.tensor([label for labels in queries.label_sets for label in labels])
            position = in_train_classes(test.index, gallery.index, used).tolist()
            queries.label_sets = [tuple(position[label] for label in labels) for labels in queries.label_sets]
            classes = gallery.index.classes
        image = queries.rows if gallery is None and not settings.same_image else None
        itself = torch.arange(len(queries)) if gallery is None else None
        precision, recall = rank(
            queries.features, searched.features, queries.targets(len(classes)), searched.targets(len(classes)),
            itself=itself, image=image, k=settings.k, device=encoder.device,
        )  # fmt: skip
        scores = {"mAP": mean_score(precision, queries.rows, seed=settings.seed)}
        scores |= {f"R@{k}": mean_score(recall[:, i], queries.rows, seed=settings.seed) for i, k in enumerate(settings.k)}
        run.add(encoder, mode, scores, queries=int(precision.isfinite().sum()))
    return run.results() | {"resampled": "query images"}


def _labelled(found: IndexFeatures, part: Part) -> IndexFeatures:
    usable = torch.tensor([bool(labels) for labels in found.label_sets])
    if not usable.any():
        raise DataError(f"{part.index.path}: none of its images with labels could be used")
    found = found.taken(usable)
    if not found.features.isfinite().all():
        raise OdisError(f"{part.index.path}: features hold values that are not finite: the model's weights or its precision are at fault")
    return found


def rank(
    queries: Tensor,
    gallery: Tensor,
    query_targets: Tensor,
    gallery_targets: Tensor,
    *,
    itself: Tensor | None = None,
    image: Tensor | None = None,
    k: Sequence[int] = (1, 5, 10),
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Average precision and recall at k of each query, by cosine similarity; of equally similar ones the earlier in the gallery is nearer.

    Args:
        queries: (m, D).
        gallery: (n, D).
        query_targets: bool (m, C), labels of the queries.
        gallery_targets: bool (n, C); one that shares a label with the query is relevant to it.
        itself: int64 (m,), where each query is in the gallery: it is not searched. None: it is not there.
        image: int64 (n,), the image of each in the gallery, which holds the queries: those of the query's image are not searched.
        k: Ranks of the recalls.
        device: Where to compute.

    Returns:
        float64 (m,), NaN for a query with nothing relevant to find, and float64 (m, len(k)): 1 where one of the first k is relevant, else
        0, or NaN. On the CPU.
    """
    device = torch.device(device)
    gallery = normalize(gallery.to(device, torch.float32), dim=1)
    gallery_labels = gallery_targets.to(device, torch.float32)
    precision = torch.full((len(queries),), float("nan"), dtype=torch.float64)
    recall = torch.full((len(queries), len(k)), float("nan"), dtype=torch.float64)
    for rows in torch.arange(len(queries)).split(max(1, _TILE // max(1, len(gallery)))):
        similarity = normalize(queries[rows].to(device, torch.float32), dim=1) @ gallery.T
        relevant = query_targets[rows].to(device, torch.float32) @ gallery_labels.T > 0
        searched = torch.ones_like(relevant)
        if itself is not None:
            searched.scatter_(1, itself[rows].to(device)[:, None], False)
            if image is not None:
                searched &= image[itself[rows]].to(device)[:, None] != image.to(device)
        similarity.masked_fill_(~searched, float("-inf"))  # last, where they change no rank of others
        relevant &= searched
        order = similarity.argsort(dim=1, descending=True, stable=True)
        found = relevant.gather(1, order)
        place = torch.arange(1, found.shape[1] + 1, device=device, dtype=torch.float64)
        hits = found.cumsum(1)
        total = hits[:, -1] if found.shape[1] else found.sum(1)
        known = (total > 0).cpu()
        precision[rows[known]] = ((hits / place * found).sum(1) / total).cpu()[known]
        for i, one in enumerate(k):
            recall[rows[known], i] = found[:, :one].any(1).double().cpu()[known]
    return precision, recall
