"""Retrieval: every labelled object (or image) is a query, and those that share a label with it should come
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from odis.errors import DataError, OdisError
from odis.evaluation.asking import Asking, Each, Evaluation, Progress
from odis.evaluation.linear import require_labels
from odis.evaluation.parts import Part, in_train_classes
from odis.evaluation.scores import mean_score
from odis.inference import Encoder, IndexFeatures
from odis.objects.index import ObjectIndex

_TILE = 1 << 23  # similarities ranked at a time: with their order about 170 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSettings(Asking):
    """How models are asked (`Asking`), and what counts.

    Args:
        k: Ranks of the recalls.
        same_image: Keep objects of the query's own image in what is searched. They share its light and
            surroundings, which makes them easy to find; the query itself is never searched.
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
    each: Each | None = None,
) -> dict[str, Any]:
    """Rank a gallery by cosine similarity to each query of `test`; what shares a label with the query is
    relevant.

    Args:
        encoders: Models to compare, on the same objects.
        test: Index of the queries, or a part of it.
        gallery: Index that is searched, or a part of it; None searches the test part itself, each query among
            all others.
        settings: How; `max_train` bounds the gallery.
        progress: Called after each image.
        each: Called with the results so far after each row.

    Returns:
        What `results.json` holds; scores are `mAP` (mean over queries of average precision over the whole
        ranking) and `R@K` (share of queries with a relevant one among the first K), in percent with 95 %
        bootstrap intervals over query images; `queries` counts those that have anything relevant to find, the
        others are left out.

    Raises:
        OdisError: for labels that are missing, classes that do not go together, or settings that do not fit.
    """
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    settings.check(encoders)
    test = Part.of(test, settings.max_test, settings.seed) if isinstance(test, ObjectIndex) else test
    gallery = (
        Part.of(gallery, settings.max_train, settings.seed) if isinstance(gallery, ObjectIndex) else gallery
    )
    require_labels((test,) if gallery is None else (test, gallery), settings, multi=settings.images)
    run = Evaluation("retrieval", settings, progress, each, several=settings.images)
    for encoder, mode in run.asked(encoders):
        queries = _labelled(run.features(encoder, mode, test, "test"), test)
        searched = (
            queries
            if gallery is None
            else _labelled(run.features(encoder, mode, gallery, "gallery"), gallery)
        )
        classes = test.index.classes
        if gallery is not None:
            used = torch.tensor([label for labels in queries.label_sets for label in labels])
            position = in_train_classes(test.index, gallery.index, used).tolist()
            queries.label_sets = [tuple(position[label] for label in labels) for labels in queries.label_sets]
            classes = gallery.index.classes
        asked_image, searched_image = _numbered(queries, test, searched, gallery or test)
        precision, recall = rank(
            queries.features,
            searched.features,
            _labels(queries, len(classes), settings),
            _labels(searched, len(classes), settings),
            images=(asked_image, searched_image),
            numbers=(queries.numbers, searched.numbers),
            same_image=settings.same_image,
            k=settings.k,
            device=encoder.device,
        )
        scores = {"mAP": mean_score(precision, queries.rows, seed=settings.seed)}
        scores |= {
            f"R@{k}": mean_score(recall[:, i], queries.rows, seed=settings.seed)
            for i, k in enumerate(settings.k)
        }
        run.add(encoder, mode, scores, queries=int(precision.isfinite().sum()))
    return run.results() | {"resampled": "query images"}


def _numbered(
    one: IndexFeatures, part: Part, other: IndexFeatures, other_part: Part
) -> tuple[Tensor, Tensor]:
    """A number for the image of each row, the same for the same file in both."""
    number: dict[str, int] = {}
    numbered = []
    for found, of in ((one, part), (other, other_part)):
        rows, inverse = found.rows.unique(return_inverse=True)
        numbered.append(
            torch.tensor([number.setdefault(of.index.image_path(row), len(number)) for row in rows.tolist()])[
                inverse
            ]
        )
    return numbered[0], numbered[1]


def _labels(found: IndexFeatures, classes: int, settings: RetrievalSettings) -> Tensor:
    """bool (n, classes) of images, which may have several labels; int64 (n,) of objects, which have one."""
    return (
        found.targets(classes)
        if settings.images
        else torch.tensor([labels[0] for labels in found.label_sets])
    )


def _labelled(found: IndexFeatures, part: Part) -> IndexFeatures:
    usable = torch.tensor([bool(labels) for labels in found.label_sets])
    if not usable.any():
        raise DataError(f"{part.index.path}: none of its images with labels could be used")
    found = found.select(usable)
    if not found.features.isfinite().all():
        raise OdisError(
            f"{part.index.path}: features hold values that are not finite: the model's weights or its "
            f"precision are at fault"
        )
    return found


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
) -> tuple[Tensor, Tensor]:
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
        float64 (m,), NaN for a query with nothing relevant to find, and float64 (m, len(k)): 1 where one of
        the first k is relevant, else 0, or NaN. On the CPU.
    """
    device = torch.device(device)
    gallery = normalize(gallery.to(device, torch.float32), dim=1)
    several = query_labels.ndim == 2
    of_gallery = gallery_labels.to(device, torch.float32 if several else torch.int64)
    precision = torch.full((len(queries),), float("nan"), dtype=torch.float64)
    recall = torch.full((len(queries), len(k)), float("nan"), dtype=torch.float64)
    for rows in torch.arange(len(queries)).split(max(1, _TILE // max(1, len(gallery)))):
        similarity = normalize(queries[rows].to(device, torch.float32), dim=1) @ gallery.T
        asked = query_labels[rows].to(device)
        relevant = asked.float() @ of_gallery.T > 0 if several else asked[:, None] == of_gallery
        if images is not None:
            passed_over = images[0][rows].to(device)[:, None] == images[1].to(device)
            if same_image:
                assert numbers is not None
                passed_over &= numbers[0][rows].to(device)[:, None] == numbers[1].to(device)
            similarity.masked_fill_(passed_over, float("-inf"))  # last, where they change no rank of others
            relevant &= ~passed_over
        order = similarity.argsort(dim=1, descending=True, stable=True)
        found = relevant.gather(1, order)
        place = torch.arange(1, found.shape[1] + 1, device=device, dtype=torch.float64)
        hits = found.cumsum(1)
        total = found.sum(1)
        known = (total > 0).cpu()
        precision[rows[known]] = ((hits / place * found).sum(1) / total).cpu()[known]
        for i, one in enumerate(k):
            recall[rows[known], i] = found[:, :one].any(1).double().cpu()[known]
    return precision, recall
