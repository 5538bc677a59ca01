"""`overcluster`: unsupervised segmentation by k-means of patches, as Leopart measures it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.protocol import Protocol, not_offered, results_of, statistics_of
from odis.evaluation.protocols.publications.overcluster import ABOUT
from odis.evaluation.protocols.segmentation.segmented_settings import (
    PATCHES,
    SegmentedSettings,
    SegmentedTest,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from odis.evaluation.protocols.images.store import Made
    from odis.evaluation.protocols.layouts.segmentation import SegmentedImages
    from odis.evaluation.protocols.projection import Work
    from odis.evaluation.protocols.segmentation.segmented import SegmentedReader, SegmentedViews
    from odis.inference import Encoder

SCORED_AT = 100
"""Side in pixels of the maps that are compared."""

TEST = "overcluster"
"""What is kept of images."""

_OF_CLUSTERS = ("components", "iterations", "restarts", "per_cluster")

_PUBLISHED_BATCH, _PUBLISHED_BATCHES = 60, 30


@dataclass(frozen=True, kw_only=True)
class OverclusterSettings(SegmentedSettings):
    """Settings of the protocol.

    Args:
        clusters: Numbers of clusters; 0 is the number of classes, matched one to one, more go to the class of
            most of their pixels.
        components: Principal components that are clustered.
        iterations: Of k-means.
        restarts: Of k-means; the best counts.
        seeds: Runs of k-means from seed on, whose mean is the score.
        per_cluster: Centres are found on at most this many patches a cluster; 0 is all.
    """

    max_train: int | None = not_offered()
    clusters: Sequence[int] = (0, 500)
    components: int = 50
    iterations: int = 100
    restarts: int = 5
    seeds: int = 5
    per_cluster: int = 256

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        SegmentedSettings.check(self)
        if not self.clusters or min(self.clusters) < 0 or 1 in self.clusters:
            raise OdisError(
                f"clusters {','.join(map(str, self.clusters))!r} must be 0 (the classes), or above 1"
            )
        counts = ("components", "iterations", "restarts", "seeds")
        for name, value in ((name, getattr(self, name)) for name in counts):
            if value < 1:
                raise OdisError(f"{name} {value} must be 1 or more")
        if self.per_cluster < 0:
            raise OdisError(f"per-cluster {self.per_cluster} must be 0 or more")


def evaluate_overcluster(
    encoders: Encoder | Sequence[Encoder],
    test: SegmentedImages,
    settings: OverclusterSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Cluster the patches of a set of images, and score the clusters as a segmentation of it.

    Args:
        encoders: Models to compare.
        test: The images.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; `K=k` is mIoU in percent, the mean over seeds, with 95 % bootstrap
        intervals over images; `by_seed` has that of each seed.

    Raises:
        OdisError: For too few patches or clusters, or settings that do not fit.
    """
    from odis.evaluation.protocols.projection import project
    from odis.evaluation.protocols.segmentation.segmented import (
        LabelCoding,
        SegmentedReader,
        SegmentedViews,
        draw_test,
    )
    from odis.evaluation.protocols.segmentation.segmented_views import SquashBoth
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import iou_score

    run = EvaluationRun("overcluster", encoders, settings, progress, on_row)
    rows = draw_test(run, test)
    if settings.as_published and len(rows) >= _PUBLISHED_BATCH:
        rows = rows[: min(len(rows) // _PUBLISHED_BATCH, _PUBLISHED_BATCHES) * _PUBLISHED_BATCH]
    coding = LabelCoding.of(test, test, published=settings.as_published)
    classes = len(coding.classes)
    wanted = list(dict.fromkeys(k or classes for k in settings.clusters))
    if few := [k for k in wanted if k < classes]:
        raise OdisError(f"clusters {few[0]} are fewer than the {counted(classes, 'class')}")

    def measured(source: Encoder) -> _ClusteredPatches:
        reader = SegmentedReader(run, statistics_of(source, settings), settings)
        view = SquashBoth(settings.side_of(source))
        return _ClusteredPatches(reader, settings, SegmentedViews(test, rows, view, coding))

    project(run, lambda source: measured(source).works(wanted))
    for source in run.encoders:
        run.start()
        measure = measured(source)
        measure.read()
        scores, by_seed, by_class = {}, {}, {}
        for k in wanted:
            counts = measure.counts(k, classes)
            score, of_classes = iou_score(counts, all_classes=settings.as_published, seed=settings.seed)
            scores[f"K={k}"] = score
            singly = (
                iou_score(one, all_classes=settings.as_published, resamples=0)[0].value for one in counts
            )
            by_seed[f"K={k}"] = [round(value, 3) for value in singly]
            by_class[f"K={k}"] = {
                name: round(float(v), 3) for name, v in zip(coding.classes, of_classes, strict=True) if v == v
            }
        trained = {
            f"K={k}": min(measure.patches, k * settings.per_cluster or measure.patches) for k in wanted
        }
        run.add(
            source,
            PATCHES,
            scores,
            size=settings.side_of(source),
            by_seed=by_seed,
            iou=by_class,
            trained_on=trained,
        )
    points = (
        f"at most {counted(settings.per_cluster, 'patch')} a cluster"
        if settings.per_cluster
        else "all patches"
    )
    run.notes.append(f"k-means found its centres on {points}")
    return results_of(run, ABOUT, settings)


class _ClusteredPatches:
    """One model: the projected patches of all images, and their labels."""

    def __init__(self, reader: SegmentedReader, settings: OverclusterSettings, views: SegmentedViews) -> None:
        self.reader, self.settings, self.views = reader, settings, views
        self.labels: list[np.ndarray] = []
        self.points: Tensor | None = None

    @property
    def patches(self) -> int:
        """How many there are."""
        return 0 if self.points is None else len(self.points)

    def kept(self, number: int, patches: Tensor, labels: np.ndarray) -> Made:
        """Of an image its patches, and labels as they are scored."""
        from odis.evaluation.protocols.segmentation.linear_seg_head import nearest_labels

        return {"patches": patches.cpu().numpy(), "labels": nearest_labels(labels, SCORED_AT)}

    def works(self, wanted: Sequence[int]) -> Iterator[Work]:
        """What there is to do for the model, measured: k-means at its full number of iterations."""
        import numpy as np
        import torch

        from odis.evaluation.protocols.projection import Work, seconds_each
        from odis.evaluation.protocols.segmentation.clustering import lloyd

        reader, settings, views = self.reader, self.settings, self.views
        seconds = reader.seconds(views, self.kept)
        yield Work("images", reader.store(views, what=TEST).missing(len(views)), seconds)
        side = settings.side_of(reader.encoder)
        found, _ = reader.patches(np.zeros((1, 3, side, side), np.uint8), "test")
        count, device = len(views) * found.shape[1], reader.encoder.device
        for k in wanted:
            runs = sum(not self._is_kept(k, seed) for seed in self.seeds)
            points = min(count, k * settings.per_cluster or count)
            centres = torch.randn(k, min(settings.components, found.shape[2]), device=device)
            data = torch.randn(min(points, 16384), centres.shape[1], device=device)

            def cluster(n: int, data: Tensor = data, centres: Tensor = centres) -> None:
                lloyd(data[: n * 1024], centres, 1)  # finds the nearest centres twice

            each = seconds_each(cluster, max(1, len(data) // 1024), device) / min(1024, len(data)) / 2
            steps = runs * settings.restarts * settings.iterations
            yield Work(f"k-means K={k}", steps * points, each)

    @property
    def seeds(self) -> range:
        """Of the runs of k-means."""
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    def read(self) -> None:
        """Embed the images, standardise their patches and reduce them."""
        from odis.evaluation.protocols.segmentation.clustering import Moments, parts_of, project

        tokens, self.labels = self.reader.collect(self.views, self.kept, TEST)
        device = self.reader.encoder.device
        # MPS has no float64: the moments are then summed on the CPU.
        moments = Moments(tokens[0].shape[1], "cpu" if device.type == "mps" else device)
        for part in parts_of(tokens):
            moments.add(part)
        mean, matrix = moments.projection(self.settings.components)
        self.points = project(parts_of(tokens), mean, matrix)

    def clusters(self, k: int, seed: int) -> np.ndarray:
        """The cluster of each patch, int64 (N,); of a run that was kept, as it was."""
        import torch

        from odis.evaluation.protocols.segmentation.clustering import k_means
        from odis.evaluation.protocols.training.kept_state import read_tensors, write_tensors

        assert self.points is not None
        settings, saved = self.settings, self._saved(k, seed)
        kept = None if saved is None else read_tensors(saved)
        if kept is not None:
            return kept["clusters"].long().numpy()
        found = k_means(
            self.points,
            k,
            iterations=settings.iterations,
            restarts=settings.restarts,
            per_cluster=settings.per_cluster,
            seed=seed,
        ).cpu()
        if saved is not None:
            write_tensors(saved, {"clusters": found.to(torch.int32)})
        return found.numpy()

    def _saved(self, k: int, seed: int) -> Path | None:
        """Where a run of k-means is kept, if there is a cache."""
        from pathlib import Path

        from odis.evaluation.protocols.images.store import key_digest

        settings = self.settings
        if not settings.cache:
            return None
        asked = {name: getattr(settings, name) for name in _OF_CLUSTERS}
        key = self.reader.key(self.views) | asked | {"k": k, "run": seed}
        return Path(settings.cache) / f"overcluster-{key_digest(key)}.safetensors"

    def _is_kept(self, k: int, seed: int) -> bool:
        saved = self._saved(k, seed)
        return saved is not None and saved.is_file()

    def counts(self, k: int, classes: int) -> np.ndarray:
        """Pixels in both, predicted and labelled, by seed and image: int64 (seeds, n, 3, C)."""
        import numpy as np

        from odis.evaluation.protocols.segmentation.segmentation_scores import (
            by_hungarian,
            by_precision,
            iou_counts,
            pixel_table,
        )

        found = []
        for done, seed in enumerate(self.seeds, start=1):
            maps = self.clusters(k, seed).reshape(len(self.labels), *self.reader.grid)
            tables = np.stack(
                [
                    pixel_table(labels, grown(clusters), classes, k).astype(np.int16)
                    for labels, clusters in zip(self.labels, maps, strict=True)
                ]
            )
            table = tables.sum(0, dtype=np.int64)
            mapping = by_hungarian(table) if k == classes else by_precision(table)
            found.append(iou_counts(tables, mapping))
            if self.reader.run.progress is not None:
                what = f"{self.reader.encoder.source or 'model'}, K {k}"
                self.reader.run.progress(what, done, len(self.seeds))
        return np.stack(found)


def grown(clusters: np.ndarray) -> np.ndarray:
    """A map of clusters (h, w) at the size of the scored maps, by torch's nearest pixel: int64."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    maps = torch.from_numpy(clusters.astype(np.float32))[None, None]
    large = F.interpolate(maps, (SCORED_AT, SCORED_AT), mode="nearest")[0, 0].numpy()
    return large.astype(np.int64)


def _run(
    models: Models,
    data: SegmentedTest,
    settings: OverclusterSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    test = data.open_test()
    return evaluate_overcluster(models(), test, settings, progress, on_row)


PROTOCOL = Protocol(
    name="overcluster",
    summary="Segmentation by k-means of patches (Leopart): mIoU at K classes and at larger K",
    data=SegmentedTest(),
    settings=OverclusterSettings(),
    run=_run,
    titles={
        "overcluster": Titles(
            "overcluster: {test}",
            "Overclustering",
            "Patches are clustered, and each cluster named by a class. mIoU; higher is better.",
        )
    },
    about=ABOUT,
)
