"""AP and recall without classes against pycocotools' own summary and a slow count."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from odis.evaluation.protocols.localization import coco_scores as ours
from odis.objects import rle
from odis.types import ImageObjects, Object

SIZE = 24


def objects(rng: np.random.Generator, count: int, scored: bool) -> tuple[Object, ...]:
    found = []
    for _ in range(count):
        x0, y0 = rng.integers(0, 14, 2)
        x1, y1 = x0 + rng.integers(3, 10), y0 + rng.integers(3, 10)
        mask = np.zeros((SIZE, SIZE), bool)
        mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.8
        mask[y0, x0] = True
        score = float(rng.choice([0.1, 0.5, 0.5, 0.9])) if scored else None
        found.append(Object((float(x0), float(y0), float(x1), float(y1)), rle.encode(mask), score=score))
    return tuple(found)


def rows(seed: int, scored: bool) -> list[ImageObjects]:
    rng = np.random.default_rng([seed, scored])
    return [ImageObjects(f"{i}", SIZE, SIZE, objects(rng, int(rng.integers(0, 5)), scored)) for i in range(7)]


def reference(truth, found, kind: str, crowds) -> list[float]:
    """COCOeval as people call it: files in, `summarize` out."""
    annotations = []
    for i, row in enumerate(truth):
        for one in row.objects:
            x0, y0, x1, y1 = one.box
            annotations.append(
                {
                    "image_id": i,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                    "segmentation": {"size": [SIZE, SIZE], "counts": one.mask.decode()},
                }
            )
    annotations += [{**one, "image_id": i} for i, of_one in crowds.items() for one in of_one]
    for n, one in enumerate(annotations, start=1):
        one |= {"id": n, "category_id": 1 + n % 3, "area": one["bbox"][2] * one["bbox"][3]}
    detections = []
    for i, row in enumerate(found):
        for one in row.objects:
            x0, y0, x1, y1 = one.box
            where = (
                {"bbox": [x0, y0, x1 - x0, y1 - y0]}
                if kind == "bbox"
                else {"segmentation": {"size": [SIZE, SIZE], "counts": one.mask.decode()}}
            )
            detections.append({"image_id": i, "category_id": 1, "score": one.score, **where})
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": i, "height": SIZE, "width": SIZE} for i in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)],
        }
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(detections), kind)
        evaluation.params.useCats = 0  # class-agnostic
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * evaluation.stats[1], 100 * evaluation.stats[0], 100 * evaluation.stats[8]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("kind", "theirs"), [("box", "bbox"), ("mask", "segm")])
def test_they_are_pycocotools_own_without_classes(seed: int, kind, theirs: str):
    truth, found = rows(seed, False), rows(seed, True)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:12] = 1
    crowd = {"bbox": [0, 0, SIZE, 12], "iscrowd": 1}
    crowd["segmentation"] = {"size": [SIZE, SIZE], "counts": rle.encode(mask).decode()}
    crowds = {} if seed % 2 else {2: [crowd], 4: [dict(crowd)]}
    expected = reference(truth, found, theirs, crowds)
    scores = ours.coco_scores(truth, found, kind, crowds=crowds, resamples=20)
    assert [round(scores[f"{n} {kind}"].value, 8) for n in ("AP50", "AP", "AR100")] == [
        pytest.approx(value, abs=1e-6) for value in expected
    ]
    matches, precision, recall = ours._matched(truth, found, kind, crowds)
    np.testing.assert_allclose(matches.precision(np.ones(7)), precision, atol=1e-9)
    np.testing.assert_allclose(matches.recall(np.ones(7)), recall, atol=1e-9)
    # an image taken twice is two images
    drawn = [0, 0, 3, 5, 5, 5, 6]
    again = ours._matched([truth[i] for i in drawn], [found[i] for i in drawn], kind, {})
    plain = ours._matched(truth, found, kind, {})[0]
    counts = np.bincount(drawn, minlength=7).astype(float)
    np.testing.assert_allclose(plain.recall(counts), again[2], atol=1e-9)
    np.testing.assert_allclose(plain.precision(counts), again[1], atol=0.05)  # equal scores lie otherwise
    assert scores[f"AP50 {kind}"].low <= scores[f"AP50 {kind}"].value <= scores[f"AP50 {kind}"].high


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_the_truth_reaches_100_and_nothing_0(kind):
    truth = rows(0, False)
    assert ours.coco_scores(truth, truth, kind)[f"AP {kind}"].value == pytest.approx(100)
    nothing = [ImageObjects(row.image, SIZE, SIZE) for row in truth]
    assert ours.coco_scores(truth, nothing, kind)[f"AP {kind}"].value == 0


def test_crowds_are_found_by_the_names_of_their_images(tmp_path: Path):
    file = tmp_path / "i.json"
    crowd = {"id": 4, "image_id": 9, "bbox": [1, 2, 3, 4], "iscrowd": 1}
    content = {
        "annotations": [crowd, {**crowd, "iscrowd": 0}, {**crowd, "image_id": 8}],
        "images": [{"id": 9, "file_name": "b.jpg"}, {"id": 8, "file_name": "gone.jpg"}],
    }
    file.write_text(json.dumps(content))
    assert ours.crowds_of(str(file), ["a.jpg", "b.jpg"]) == {1: [crowd]}
