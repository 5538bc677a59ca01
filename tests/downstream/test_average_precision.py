"""COCO's AP against pycocotools' own summary, and what is known to go wrong with it."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from odis.downstream.average_precision import FoundObjects, as_found, crowds_in, match
from odis.objects import rle
from odis.types import ImageObjects, Object

ONES = np.ones


def drawn(rng: np.random.Generator, count: int, *, scored: bool, side: int = 400) -> ImageObjects:
    """Random boxes with masks that fill their left halves, in three classes."""
    objects = []
    for _ in range(count):
        x, y = (int(v) for v in rng.integers(0, side // 2, 2))
        w, h = (int(v) for v in rng.choice([15, 60, 180]) * rng.uniform(0.9, 1.1, 2))
        mask = np.zeros((side, side), bool)
        mask[y : y + h, x : x + max(1, w // 2)] = True
        box = (float(x), float(y), float(x + w), float(y + h))
        score = float(rng.random()) if scored else None
        objects.append(Object(box, rle.encode(mask), int(rng.integers(3)), score))
    return ImageObjects("", side, side, tuple(objects))


def nearly(truth: ImageObjects, rng: np.random.Generator) -> ImageObjects:
    """Found objects: some of the true ones, and others."""
    right = [Object(one.box, one.mask, one.label, float(rng.random())) for one in truth.objects[::2]]
    return ImageObjects("", truth.width, truth.height, (*right, *drawn(rng, 6, scored=True).objects))


def summary(truth: list[ImageObjects], found: list[ImageObjects], kind: str) -> np.ndarray:
    """The twelve numbers that pycocotools prints, from annotations as it reads them from files."""

    def entries(row: ImageObjects, image: int, start: int) -> list[dict]:
        made = []
        for k, one in enumerate(row.objects):
            x0, y0, x1, y1 = one.box
            shape = {"size": [row.height, row.width], "counts": one.mask.decode()}
            entry = {"image_id": image, "category_id": one.label + 1}
            if one.score is None:
                area = rle.area(one.mask)
                entry |= {"id": start + k, "iscrowd": 0, "area": area, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                entry["segmentation"] = shape
            else:
                entry |= {"score": one.score}
                entry |= {"segmentation": shape} if kind == "segm" else {"bbox": [x0, y0, x1 - x0, y1 - y0]}
            made.append(entry)
        return made

    data = COCO()
    annotations: list[dict] = []
    for image, row in enumerate(truth, start=1):
        annotations += entries(row, image, len(annotations) + 1)
    data.dataset = {
        "images": [{"id": i, "height": r.height, "width": r.width} for i, r in enumerate(truth, start=1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)],
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
        answers = data.loadRes([e for image, r in enumerate(found, start=1) for e in entries(r, image, 1)])
        evaluation = COCOeval(data, answers, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize(("kind", "theirs"), [("box", "bbox"), ("mask", "segm")])
def test_scores_are_those_that_pycocotools_prints(kind, theirs):
    rng = np.random.default_rng(1)
    truth = [drawn(rng, n, scored=False) for n in (9, 0, 15, 1, 20, 0)]
    found = [nearly(row, rng) for row in truth]
    scores = match(truth, found, 3, [kind]).scores(ONES(6))
    expected = summary(truth, found, theirs)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    for name, value in (*zip(names, expected), ("AR100", expected[8])):
        assert scores[f"{name} {kind}"] == pytest.approx(value, abs=1e-12), name
        assert value > 0
    assert 0 < scores[f"AP {kind}"] < scores[f"AP50 {kind}"] < 1


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_the_truth_as_found_has_ap_1_for_one_object(kind):
    """An annotation with id 0 would count as no match; one class is absent and not averaged as -1."""
    one = Object((3.0, 2.0, 9.0, 30.0), rle.encode(np.eye(40, 50, dtype=bool)), 1, None)
    truth = [ImageObjects("", 50, 40, (one,))]
    found = [ImageObjects("", 50, 40, (Object(one.box, one.mask, 1, 0.3),))]
    scores = match(truth, found, 2, [kind]).scores(ONES(1))
    assert scores[f"AP {kind}"] == scores[f"AR100 {kind}"] == scores[f"APs {kind}"] == 1.0
    assert np.isnan(scores[f"APl {kind}"])


def test_masks_are_read_by_columns_and_sized_by_their_own_area():
    """A thin mask in a large box is small: the area of a box beside it would call it large."""
    mask = np.zeros((200, 300), bool)
    mask[10:190, 20] = True
    one = Object((0.0, 0.0, 300.0, 200.0), rle.encode(mask), 0, None)
    truth = [ImageObjects("", 300, 200, (one,))]
    turned = rle.encode(np.ascontiguousarray(mask.T.reshape(200, 300)))
    right, wrong = (
        [ImageObjects("", 300, 200, (Object(one.box, counts, 0, 0.9),))] for counts in (one.mask, turned)
    )
    assert match(truth, right, 1, ["mask"]).scores(ONES(1))["APs mask"] == 1.0
    assert np.isnan(match(truth, right, 1, ["mask"]).scores(ONES(1))["APl mask"])
    assert match(truth, wrong, 1, ["mask"]).scores(ONES(1))["AP mask"] == 0.0


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_nothing_found_is_0_and_nothing_true_is_no_score(kind):
    rng = np.random.default_rng(0)
    truth, nothing = [drawn(rng, 3, scored=False)], [ImageObjects("", 400, 400)]
    assert match(truth, nothing, 3, [kind]).scores(ONES(1))[f"AP {kind}"] == 0.0
    assert np.isnan(match(nothing, [nearly(truth[0], rng)], 3, [kind]).scores(ONES(1))[f"AP {kind}"])


def test_what_is_found_in_empty_images_at_the_end_counts_as_wrong():
    box = (10.0, 10.0, 60.0, 60.0)
    true, empty = ImageObjects("", 100, 100, (Object(box, None, 0),)), ImageObjects("", 100, 100)
    right = ImageObjects("", 100, 100, (Object(box, None, 0, 0.5),))
    wrong = ImageObjects("", 100, 100, (Object(box, None, 0, 0.9),))
    assert match([true, empty], [right, empty], 1, ["box"]).scores(ONES(2))["AP box"] == 1.0
    found = match([true, empty], [right, wrong], 1, ["box"])
    assert found.scores(ONES(2))["AP box"] == pytest.approx(0.5)
    # A resample that has the empty image twice ranks two wrong ones first.
    assert found.scores(np.array([1.0, 2.0]))["AP box"] == pytest.approx(1 / 3)
    assert np.isnan(found.scores(np.array([0.0, 2.0]))["AP box"])


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong(tmp_path: Path, kind):
    mask = np.zeros((100, 100), bool)
    mask[20:70, 20:70] = True
    inside = np.zeros((100, 100), bool)
    inside[30:50, 30:50] = True
    box, small = (0.0, 0.0, 15.0, 15.0), np.zeros((100, 100), bool)
    small[:15, :15] = True
    truth = [ImageObjects("", 100, 100, (Object(box, rle.encode(small), 1),))]
    found = as_found(
        np.array([box, (30, 30, 50, 50)], np.float32), np.array([1, 1]), np.array([0.5, 0.9]),
        np.stack([small, inside]), (100, 100),
    )  # fmt: skip
    crowd = {
        "id": 5, "image_id": 9, "category_id": 77, "iscrowd": 1, "bbox": [20, 20, 50, 50], "area": 2500,
        "segmentation": {"size": [100, 100], "counts": _runs(mask)},
    }  # fmt: skip
    other = crowd | {"id": 6, "category_id": 3}
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({
        "images": [{"id": 9, "file_name": "a.jpg", "width": 100, "height": 100}],
        "annotations": [crowd, other],
        "categories": [{"id": 77, "name": "cat"}, {"id": 3, "name": "plant"}],
    }))  # fmt: skip
    crowds = crowds_in(str(file), ["a.jpg"], ["dog", "cat"], False)
    assert [[one["category_id"] for one in of_image] for of_image in crowds.values()] == [[2]]
    assert match(truth, [found], 2, [kind]).scores(ONES(1))[f"AP {kind}"] == pytest.approx(0.5)
    assert match(truth, [found], 2, [kind], crowds).scores(ONES(1))[f"AP {kind}"] == 1.0


def _runs(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed runs: by columns, zeros first."""
    flat, runs, value = mask.T.ravel(), [0], False
    for pixel in flat:
        if bool(pixel) != value:
            runs.append(0)
            value = not value
        runs[-1] += 1
    return runs


def test_what_is_kept_in_a_file_gives_the_same_scores():
    rng = np.random.default_rng(2)
    truth = [drawn(rng, n, scored=False) for n in (3, 0, 4)]
    found = match(truth, [nearly(row, rng) for row in truth], 3, ["box", "mask"])
    again = FoundObjects.of(found.tensors())
    for counts in (ONES(3), np.array([2.0, 1.0, 0.0])):
        np.testing.assert_equal(again.scores(counts), found.scores(counts))
    assert again.units == 3


def test_a_resample_scores_as_a_set_that_holds_its_images_so_often():
    rng = np.random.default_rng(3)
    truth = [drawn(rng, n, scored=False) for n in (3, 2, 4)]
    found = [nearly(row, rng) for row in truth]
    taken = [0, 0, 2]
    whole = match([truth[i] for i in taken], [found[i] for i in taken], 3, ["box"]).scores(ONES(3))
    resampled = match(truth, found, 3, ["box"]).scores(np.array([2.0, 0.0, 1.0]))
    for name, value in whole.items():
        # Equal scores of a repeated image rank beside each other, in another order of right and wrong.
        np.testing.assert_allclose(resampled[name], value, atol=0.03, err_msg=name)
