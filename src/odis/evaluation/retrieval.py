"""Retrieval: every labelled object (or image) is a query, and those that share a label with it should rank
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from odis.errors import DataError, OdisError
from odis.evaluation.evaluation import Evaluation, Models, OnRow, Progress, Titles
from odis.evaluation.landmarks import LANDMARK_TITLES, evaluate_landmarks
from odis.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from torch import Tensor

    from odis.evaluation.subset import Subset
    from odis.inference import Encoder, IndexFeatures
    from odis.objects.index import ObjectIndex


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings(EvaluationSettings):
    """Settings of the retrieval.

    Args:
        k: Ranks of the recalls.
        same_image: Search objects of the query's own image too. They share its light and surroundings, which
            makes them easy to find. The query itself is never searched.
    """

    k: Sequence[int] = (1, 5, 10)
    same_image: bool = False

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        EvaluationSettings.check(self)
        if not self.k or min(self.k) < 1:
            raise OdisError(f"k {min(self.k, default=0)} must be 1 or more")


@dataclass(frozen=True, slots=True)
class RetrievalData:
    """What is searched, and for what.

    Args:
        test: Object index or folder of images, with labels: the queries.
        gallery: What is searched; by default the queries, each among all others.
        landmarks: Published ground truth, gnd_roxford5k.pkl or gnd_rparis6k.pkl, in place of --test.
        jpg: Folder of the landmarks' images; by default jpg beside the ground truth.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ()  # --test or --landmarks

    test: str | None = None
    gallery: str | None = None
    landmarks: str | None = None
    jpg: str | None = None


def evaluate_retrieval(
    encoders: Encoder | Sequence[Encoder],
    test: ObjectIndex | Subset,
    gallery: ObjectIndex | Subset | None,
    settings: RetrievalSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Rank a gallery by cosine similarity to each query of `test`; what shares a label with the query is
    relevant.

    Args:
        encoders: Models to compare, on the same objects.
        test: Index of the queries, or a subset of it.
        gallery: Index that is searched, or a subset of it; None searches the queries themselves, each among
            all others.
        settings: How; `max_train` bounds the gallery.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; scores are `mAP` (mean over queries of average precision over the whole
        ranking) and `R@K` (share of queries with a relevant one among the first K), in percent with 95 %
        bootstrap intervals over query images; `queries` counts those that have anything relevant to find, the
        others are left out.

    Raises:
        OdisError: for labels that are missing, classes that do not go together, or settings that do not fit.
    """
    from odis.evaluation.labels import require_took_part, to_train_classes
    from odis.evaluation.measurable import labels_of, require_measurable
    from odis.evaluation.ranking import rank
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import mean_score
    from odis.evaluation.subset import Subset

    images = settings.query.images
    run = EvaluationRun("retrieval", encoders, settings, progress, on_row, multi_label=images)
    test = Subset.of(test, settings.max_test, settings.seed)
    searched = test if gallery is None else Subset.of(gallery, settings.max_train, settings.seed)
    require_measurable(*(labels_of(part, images=images, multi_label=images) for part in (searched, test)))
    for encoder, mode in run.models():
        queries = _labelled(run.features(encoder, mode, test, "test"), test)
        found = queries
        if gallery is not None:
            found = _labelled(run.features(encoder, mode, searched, "gallery"), searched)
            to_train_classes(queries, test, searched)
        require_took_part(run, searched, found, test, queries)
        classes = len(searched.index.classes)
        precision, recall, open_ = rank(
            queries.features,
            found.features,
            _targets(queries, classes, images),
            _targets(found, classes, images),
            images=_image_numbers(queries, test, found, searched),
            numbers=(queries.numbers, found.numbers),
            same_image=settings.same_image,
            k=settings.k,
            device=encoder.device,
        )
        _require_open(test, precision, open_)
        scores = {"mAP": mean_score(precision, queries.rows, seed=settings.seed)}
        scores |= {
            f"R@{k}": mean_score(recall[:, i], queries.rows, seed=settings.seed)
            for i, k in enumerate(settings.k)
        }
        run.add(encoder, mode, scores, queries=int(precision.isfinite().sum()))
    return run.results() | {"resampled": "query images"}


def _require_open(test: Subset, precision: Tensor, open_: Tensor) -> None:
    """Refuse queries that have nothing relevant to find, or nothing else.

    Raises:
        DataError: None of them has both.
    """
    if open_.any():
        return
    why = "nothing of their class to find"
    if precision.isfinite().any():
        why = "nothing but their class to find: any features would score 100"
    raise DataError(
        f"{test.index.path}: its queries have {why}, so nothing is measured (a query's own image is searched "
        f"with --same-image only)"
    )


def _image_numbers(
    one: IndexFeatures, subset: Subset, other: IndexFeatures, other_subset: Subset
) -> tuple[Tensor, Tensor]:
    """A number for the image of each row, the same for the same file in both."""
    import torch

    number: dict[str, int] = {}
    numbered = []
    for found, of in ((one, subset), (other, other_subset)):
        rows, inverse = found.rows.unique(return_inverse=True)
        paths = [of.index.image_path(row) for row in rows.tolist()]
        numbered.append(torch.tensor([number.setdefault(path, len(number)) for path in paths])[inverse])
    return numbered[0], numbered[1]


def _targets(found: IndexFeatures, classes: int, images: bool) -> Tensor:
    """bool (n, classes) of images, which may have several labels; int64 (n,) of objects, which have one."""
    import torch

    if images:
        return found.targets(classes)
    return torch.tensor([labels[0] for labels in found.label_sets])


def _labelled(found: IndexFeatures, subset: Subset) -> IndexFeatures:
    import torch

    from odis.evaluation.labels import require_finite

    usable = torch.tensor([bool(labels) for labels in found.label_sets])
    if not usable.any():
        raise DataError(f"{subset.index.path}: none of its images with labels could be used")
    found = found.select(usable)
    require_finite(found, f"{subset.index.path}:")
    return found


def _run(
    models: Models,
    data: RetrievalData,
    settings: RetrievalSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    from odis.objects.index import ObjectIndex

    if (data.test is None) == (data.landmarks is None):
        raise OdisError("give --test, or --landmarks; one of the two")
    if data.landmarks is not None:
        plain = EvaluationSettings(query=settings.query, read=settings.read, seed=settings.seed)
        alone = RetrievalSettings(query=settings.query, read=settings.read, seed=settings.seed)
        if data.gallery is not None or settings.query.images or settings != alone:
            raise OdisError(
                "--landmarks says what is queried and searched: no --images, --gallery, --max-train and the "
                "like"
            )
        return evaluate_landmarks(models(), data.landmarks, data.jpg, plain, progress, on_row)
    if data.jpg is not None:
        raise OdisError("--jpg goes with --landmarks")
    assert data.test is not None
    test = ObjectIndex.open(data.test)
    gallery = None if data.gallery is None else ObjectIndex.open(data.gallery)
    return evaluate_retrieval(models(), test, gallery, settings, progress, on_row)


EVALUATION = Evaluation(
    name="retrieval",
    summary="Rank objects or images by similarity: mAP and recall; or the Revisited Oxford and Paris "
    "benchmarks",
    data=RetrievalData(),
    settings=RetrievalSettings(),
    run=_run,
    titles={
        "retrieval": Titles(
            "retrieval: {test}, searched in {gallery}",
            "Retrieval",
            "How often the objects most alike are of the same class. Higher is better.",
        ),
        "landmarks": LANDMARK_TITLES,
    },
)
