"""The Revisited Oxford and Paris benchmarks: landmarks, cut out or asked about in their images, searched
among whole images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from odis.errors import DataError
from odis.evaluation.asking import Asking, Each, Evaluation, Progress
from odis.evaluation.landmarks import SETUPS, Landmarks, landmark_scores, load_ground_truth
from odis.evaluation.parts import Part
from odis.evaluation.scores import Score, mean_score
from odis.inference import Encoder
from odis.objects.clean import verified_size
from odis.objects.index import WHOLE_IMAGE, ObjectIndex, write_index
from odis.types import ImageObjects, Object

RANKS = (1, 5, 10)


def evaluate_landmarks(
    encoders: Encoder | Sequence[Encoder],
    ground_truth: str | Path,
    images: str | Path | None,
    settings: Asking,
    progress: Progress | None = None,
    each: Each | None = None,
) -> dict[str, Any]:
    """The protocol of Radenovic et al. (arXiv 1803.11285) on a published ground-truth file.

    Queries are asked about as objects, in each mode (`crop` is the published way: the box, cut out); the
    database is asked as whole images.

    Args:
        encoders: Models to compare.
        ground_truth: `gnd_roxford5k.pkl` or `gnd_rparis6k.pkl`; no code in it is run.
        images: Folder of the images, NAME.jpg; by default `jpg` beside the file.
        settings: How models are asked; the protocol takes all images.
        progress: Called after each image.
        each: Called with the results so far after each row.

    Returns:
        What `results.json` holds; scores are mAP of `easy`, `medium` and `hard`, and mP@1, @5 and @10 of
        medium and hard, in percent, with 95 % bootstrap intervals over queries.

    Raises:
        DataError: for a file that is not such a ground truth, or an image that is missing or damaged: the
            protocol needs all of them.
    """
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    settings.check(encoders)
    truth = load_ground_truth(ground_truth)
    folder = Path(images) if images is not None else Path(ground_truth).parent / "jpg"
    run = Evaluation("landmarks", settings, progress, each)
    with tempfile.TemporaryDirectory() as scratch:
        queries, gallery = _indexes(truth, folder, Path(scratch))
        for encoder, mode in run.asked(encoders):
            asked = run.features(encoder, mode, Part(queries, range(len(queries))), "test")
            searched = run.features(encoder, "whole-image", Part(gallery, range(len(gallery))), "gallery")
            for found, names in ((asked, [q.name for q in truth.queries]), (searched, truth.images)):
                if len(found) != len(names):
                    what = found.skipped[0]
                    raise DataError(f"{what.what}: {what.why}; the protocol needs every image")
            similarity = (
                normalize(asked.features.to(torch.float32), dim=1)
                @ normalize(searched.features.to(torch.float32), dim=1).T
            )
            run.add(encoder, mode, _scores(landmark_scores(similarity, truth, RANKS), settings.seed))
    results = run.results() | {"resampled": "queries"}
    results["test"]["index"] = results["gallery"]["index"] = str(ground_truth)
    return results


def _indexes(truth: Landmarks, folder: Path, scratch: Path) -> tuple[ObjectIndex, ObjectIndex]:
    """The queries and the database as object indexes."""

    def row(name: str, box: tuple[float, float, float, float] | None) -> ImageObjects:
        path = folder / f"{name}.jpg"
        width, height = verified_size(path)
        return ImageObjects(
            path.name, width, height, (Object(box or (0.0, 0.0, float(width), float(height)), label=0),)
        )

    rows = {
        "queries": [row(q.name, q.box) for q in truth.queries],
        "gallery": [row(name, None) for name in truth.images],
    }
    for name, provenance in (("queries", "annotated"), ("gallery", WHOLE_IMAGE)):
        write_index(
            scratch / f"{name}.parquet", rows[name], root=folder, provenance=provenance, classes=["landmark"]
        )
    queries, gallery = (ObjectIndex.open(scratch / f"{name}.parquet") for name in ("queries", "gallery"))
    return queries, gallery


def _scores(measured: dict[str, dict[str, Any]], seed: int) -> dict[str, Score]:
    scores = {f"{setup} mAP": mean_score(measured[setup]["ap"], seed=seed) for setup in SETUPS}
    return scores | {
        f"{setup} mP@{k}": mean_score(measured[setup][f"p@{k}"], seed=seed)
        for setup in ("medium", "hard")
        for k in RANKS
    }
