"""The Revisited Oxford and Paris benchmarks: landmarks, cut out or in their images, searched among images."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.errors import DataError
from odis.evaluation.evaluation import OnRow, Progress, Titles
from odis.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from odis.evaluation.landmark_scores import Landmarks
    from odis.inference import Encoder
    from odis.objects.index import ObjectIndex
    from odis.types import ImageObjects

RANKS = (1, 5, 10)

LANDMARK_TITLES = Titles(
    "retrieval of landmarks: {test}, searched in {gallery}",
    "Landmark retrieval",
    "Mean average precision of Revisited Oxford and Paris. Higher is better.",
)


def evaluate_landmarks(
    encoders: Encoder | Sequence[Encoder],
    ground_truth: str | Path,
    images: str | Path | None,
    settings: EvaluationSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """The protocol of Radenovic et al. (arXiv 1803.11285) on a published ground-truth file.

    Landmarks are queried as objects, in each mode (`crop` is the published way: the box, cut out); the
    database is queried as whole images.

    Args:
        encoders: Models to compare.
        ground_truth: `gnd_roxford5k.pkl` or `gnd_rparis6k.pkl`; no code in it is run.
        images: Folder of the images, NAME.jpg; by default `jpg` beside the file.
        settings: How models are queried; the protocol takes all images.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; scores are mAP of `easy`, `medium` and `hard`, and mP@1, @5 and @10 of
        medium and hard, in percent, with 95 % bootstrap intervals over queries.

    Raises:
        DataError: for a file that is not such a ground truth, or an image that is missing or damaged: the
            protocol needs all of them.
    """
    import numpy as np
    import torch
    from torch.nn.functional import normalize

    from odis.evaluation.ground_truth import load_ground_truth
    from odis.evaluation.landmark_scores import SETUPS, landmark_scores
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import mean_score
    from odis.evaluation.subset import Subset

    run = EvaluationRun("landmarks", encoders, settings, progress, on_row)
    truth = load_ground_truth(ground_truth)
    folder = Path(images) if images is not None else Path(ground_truth).parent / "jpg"
    with tempfile.TemporaryDirectory() as scratch:
        queries, gallery = (Subset(i, range(len(i))) for i in _indexes(truth, folder, Path(scratch)))
        for encoder, mode in run.models():
            sought = run.features(encoder, mode, queries, "test")
            searched = run.features(encoder, "whole-image", gallery, "gallery")
            for found, count in ((sought, len(truth.queries)), (searched, len(truth.images))):
                if len(found) != count:
                    missing = found.skipped[0]
                    raise DataError(f"{missing.what}: {missing.why}; the protocol needs every image")
            unit = [normalize(found.features.to(torch.float32), dim=1) for found in (sought, searched)]
            measured = landmark_scores(unit[0] @ unit[1].T, truth, RANKS)
            named = {f"{setup} mAP": measured[setup]["ap"] for setup in SETUPS} | {
                f"{setup} mP@{k}": measured[setup][f"p@{k}"] for setup in ("medium", "hard") for k in RANKS
            }
            if not any(np.isfinite(values).any() for values in named.values()):
                raise DataError(f"{ground_truth}: no query has an image to find, so nothing is measured")
            scores = {name: mean_score(values, seed=settings.seed) for name, values in named.items()}
            run.add(encoder, mode, scores)
    results = run.results() | {"resampled": "queries"}
    results["test"]["index"] = results["gallery"]["index"] = str(ground_truth)
    return results


def _indexes(truth: Landmarks, folder: Path, scratch: Path) -> tuple[ObjectIndex, ObjectIndex]:
    """The queries and the database as object indexes."""
    from odis.objects.clean import verified_size
    from odis.objects.index import WHOLE_IMAGE, ObjectIndex, write_index
    from odis.types import ImageObjects, Object

    def row(name: str, box: tuple[float, float, float, float] | None) -> ImageObjects:
        path = folder / f"{name}.jpg"
        width, height = verified_size(path)
        item = Object(box or (0.0, 0.0, float(width), float(height)), label=0)
        return ImageObjects(path.name, width, height, (item,))

    rows = [row(query.name, query.box) for query in truth.queries], [row(name, None) for name in truth.images]
    paths = scratch / "queries.parquet", scratch / "gallery.parquet"
    for path, some, provenance in zip(paths, rows, ("annotated", WHOLE_IMAGE)):
        write_index(path, some, root=folder, provenance=provenance, classes=["landmark"])
    return ObjectIndex.open(paths[0]), ObjectIndex.open(paths[1])
