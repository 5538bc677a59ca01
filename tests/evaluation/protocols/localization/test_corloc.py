"""`corloc` against LOST and CorLoc written out slowly; chance by hand, and the ceiling of features that hold
the objects."""

import json
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.backbones.features import patch_features
from odis.cli import main
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.layouts.boxed import BoxedImages, open_boxed
from odis.evaluation.protocols.localization import box_hits as local
from odis.evaluation.protocols.localization import discovery
from odis.evaluation.protocols.localization.corloc import CorlocSettings, evaluate_corloc
from odis.evaluation.protocols.protocol import IMAGENET_MEAN, IMAGENET_STD
from odis.objects.index import write_index
from odis.types import ImageObjects, Object

SETTINGS = CorlocSettings(size=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with a brighter object, at odd sizes, as an index."""
    root, rng, rows = tmp_path_factory.mktemp("corloc"), np.random.default_rng(0), []
    for i in range(9):
        height, width = map(int, rng.integers(25, 45, 2))
        pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
        x0, y0 = map(int, rng.integers(0, 12, 2))
        pixels[y0 : y0 + 13, x0 : x0 + 11] += 130
        Image.fromarray(pixels).save(root / f"{i}.png")
        objects = (Object((x0, y0, x0 + 11, y0 + 13), label=0), Object((0, 0, width, 5), label=0))
        rows.append(ImageObjects(f"{i}.png", width, height, objects[: 1 + i % 2]))
    write_index(root / "index.parquet", rows, root=root, provenance="annotated", classes=["x"])
    return root


def slow_lost(keys: np.ndarray, rows: int, columns: int, side: int, width: int, height: int) -> list[float]:
    """LOST's box by its formulas (section 3): seed, expansion, component, clipped to the image."""
    patches = len(keys)
    degree = [sum(float(keys[p] @ keys[q]) > 0 for q in range(patches) if q != p) for p in range(patches)]
    order = sorted(range(patches), key=lambda p: (degree[p], p))
    seed = order[0]
    similar = [p for p in order[:100] if p == seed or float(keys[p] @ keys[seed]) > 0]
    of_object = {p for p in range(patches) if sum(float(keys[s] @ keys[p]) for s in similar) > 0}
    waiting, part = deque([seed]), {seed}
    while waiting:
        p = waiting.popleft()
        y, x = divmod(p, columns)
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            q = v * columns + u
            if 0 <= v < rows and 0 <= u < columns and q in of_object and q not in part:
                part.add(q)
                waiting.append(q)
    ys, xs = [p // columns for p in part], [p % columns for p in part]
    return [
        min(xs) * side,
        min(ys) * side,
        min((max(xs) + 1) * side, width),
        min((max(ys) + 1) * side, height),
    ]


def test_as_published_seeds_are_the_slow_lost(encoder, folder: Path):
    images, model = (
        open_boxed(folder / "index.parquet"),
        replace(encoder(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    )
    expected, side = [], model.patch_size
    for path, row in zip(images.paths, images.rows, strict=True):
        pixels = np.array(Image.open(path)).astype(np.float64) / 255
        normal = (pixels - IMAGENET_MEAN) / np.array(IMAGENET_STD)
        grid = -(-row.height // side), -(-row.width // side)
        padded = np.zeros((grid[0] * side, grid[1] * side, 3))
        padded[: row.height, : row.width] = normal
        tensor = torch.from_numpy(padded.transpose(2, 0, 1)[None]).float()
        keys = patch_features(model.model, tensor, "key")[0][0].double().numpy()
        box = slow_lost(keys, *grid, side, row.width, row.height)
        expected.append(max(slow_iou(box, true) for true in images.boxes(len(expected)).tolist()) >= 0.5)
        found = discovery.findings_at_own_size(
            replace(model, mean=IMAGENET_MEAN, std=IMAGENET_STD),
            np.array(Image.open(path)),
            CorlocSettings(method=("seeds",)).configs(),
            "key",
        )
        assert discovery.patch_box(found[0][0].mask, side, row.width, row.height) == tuple(box)
    published = CorlocSettings(as_published=True, method=("seeds", "spectral"))
    results = evaluate_corloc(model, images, published)
    row = results["rows"][0]
    assert row["scores"]["CorLoc"]["value"] == pytest.approx(100 * np.mean(expected), abs=1e-3)
    assert "own size, zero-padded" in row["mode"]
    assert row["size"] == "own size"
    assert [r["mode"].split(" (")[0] for r in results["rows"]] == ["seeds", "spectral"]


def slow_iou(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return both / (sum(areas) - both)


BOXES = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 12)] * 2).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@settings(deadline=None, max_examples=60)
@given(BOXES, st.lists(BOXES, min_size=1, max_size=4))
def test_a_box_is_right_from_an_iou_of_one_half_on(box: list[int], truth: list[list[int]]):
    expected = max(slow_iou(list(map(float, box)), list(map(float, t))) for t in truth) >= 0.5
    assert local.is_right(tuple(map(float, box)), np.array(truth, np.float64)) == expected
    assert local.is_right(None, np.array(truth, np.float64)) is False


def test_the_mark_itself_is_right():
    assert local.is_right((0.0, 0.0, 10.0, 10.0), np.array([[0.0, 0.0, 10.0, 5.0]]))
    assert not local.is_right((0.0, 0.0, 10.0, 10.0), np.array([[0.0, 0.0, 10.0, 4.9999]]))


def boxed(boxes: list[list[list[float]]], size: tuple[int, int] = (100, 50)) -> BoxedImages:
    rows = [
        ImageObjects(f"{i}.png", *size, tuple(Object(tuple(b)) for b in of_one))
        for i, of_one in enumerate(boxes)
    ]
    return BoxedImages("x", "annotated", 0, [row.image for row in rows], rows)


def test_chances_are_what_slow_counts_of_drawn_boxes_are():
    images = boxed([[[0, 0, 100, 50]], [[10, 10, 90, 45], [0, 0, 5, 5]], [[0, 0, 50, 50]]])
    assert local.whole_image_hits(images).tolist() == [1, 1, 1]
    assert local.whole_image_hits(boxed([[[0, 0, 49, 50]]])).tolist() == [0]
    # the whole image is met by a random box if the two spans' product is .5: 1/4 + ... by integration
    spans = np.linspace(0, 1, 20001)[1:]  # P(span <= s) = 1 - (1 - s)^2
    density = 2 * (1 - spans)
    exact = float(np.sum(density * np.where(spans >= 0.5, (1 - np.minimum(0.5 / spans, 1)) ** 2, 0)) / 20000)
    many = local.random_box_hits(images, seed=0, draws=60000)
    assert many[0] == pytest.approx(exact, abs=0.005)
    # image 0 is met by the box of image 2 (exactly half) and not by [0, 0, 5, 5]
    others = local.other_box_hits(images, seed=0, draws=20000)
    assert others[0] == pytest.approx(0.5 * 0.5 + 0.5 * 1, abs=0.02)  # 10..90 x 10..45 is .56 of it
    assert others[2] == pytest.approx(0.5 * 1, abs=0.02)
    assert np.isnan(local.other_box_hits(boxed([[[0, 0, 1, 1]]]), 0)).all()
    again = local.random_box_hits(images, seed=0, draws=50)
    assert again.tolist() == local.random_box_hits(images, seed=0, draws=50).tolist()


class _Finder:
    """Stands for discovery: boxes that a function draws."""

    def __init__(self, draw):
        self.draw, self.finder = draw, type("F", (), {"size": 8})()

    def __call__(self, pictures):
        return [[[Object(self.draw(p))] for p in pictures]]


def test_noise_gives_the_chance_beside_it_and_the_truth_gives_100(encoder, monkeypatch, tmp_path):
    rng = np.random.default_rng(1)
    rows = []
    for i in range(400):
        x0, y0 = rng.integers(0, 12, 2)
        box = (float(x0), float(y0), float(rng.integers(x0 + 12, 33)), float(rng.integers(y0 + 12, 25)))
        Image.new("RGB", (32, 24), (int(box[0]), int(box[1]), int(box[2]))).save(tmp_path / f"{i}.png")
        rows.append(ImageObjects(f"{i}.png", 32, 24, (Object(box),)))
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=[])
    images, model = open_boxed(tmp_path / "i.parquet"), encoder()
    only = replace(SETTINGS, method=("seeds",))

    def noise(_):
        corners = np.sort(rng.random((2, 2)), axis=0).reshape(4) * (32, 24, 32, 24)
        return tuple(corners.tolist())

    monkeypatch.setattr(discovery, "OurDiscovery", lambda *_: _Finder(noise))
    scores = evaluate_corloc(model, images, only)["rows"][0]["scores"]
    chance = scores["random box"]["value"]
    assert scores["CorLoc"]["value"] == pytest.approx(chance, abs=300 * np.sqrt(chance / 100 / 400))
    monkeypatch.setattr(discovery, "OurDiscovery", lambda *_: _Finder(lambda p: (0.0, 0.0, 32.0, 24.0)))
    scores = evaluate_corloc(model, images, only)["rows"][0]["scores"]
    assert scores["CorLoc"] == scores["whole image"]
    truth = iter([row.objects[0].box for row in rows])
    monkeypatch.setattr(discovery, "OurDiscovery", lambda *_: _Finder(lambda _: next(truth)))
    assert evaluate_corloc(model, images, only)["rows"][0]["scores"]["CorLoc"]["value"] == 100


def test_features_that_hold_the_object_find_it(encoder, monkeypatch, folder: Path, tmp_path):
    """Keys of +v on an object of whole patches and -v elsewhere: both methods find its box."""
    Image.new("RGB", (60, 44)).save(tmp_path / "a.png")
    row = ImageObjects("a.png", 60, 44, (Object((16.0, 8.0, 40.0, 32.0)),))
    write_index(tmp_path / "i.parquet", [row], root=tmp_path, provenance="annotated", classes=[])

    def features(model, images, facet):
        grid = images.shape[-2] // 8, images.shape[-1] // 8
        one = torch.full((*grid, 4), -1.0)
        one[1:4, 2:5] = 1.0
        return one.reshape(1, -1, 4), grid

    monkeypatch.setattr(discovery, "patch_features", features)
    images = open_boxed(tmp_path / "i.parquet")
    found = evaluate_corloc(encoder(), images, CorlocSettings(as_published=True))
    assert [r["scores"]["CorLoc"]["value"] for r in found["rows"]] == [100, 100]


def test_an_indexs_most_confident_box_is_scored_without_a_model(folder: Path, tmp_path, capsys):
    images = open_boxed(folder / "index.parquet")
    rows = [
        ImageObjects(
            row.image,
            row.width,
            row.height,
            (
                Object((0.0, 0.0, 1.0, 1.0), score=0.2),
                Object(row.objects[0].box, score=0.9 if i % 3 else 0.1),
            ),
        )
        for i, row in enumerate(images.rows[:8])
    ]
    write_index(tmp_path / "p.parquet", rows, root=folder, provenance="detected:x", classes=[])
    out = tmp_path / "c.json"
    arguments = ["--test", str(folder / "index.parquet"), "--predicted", str(tmp_path / "p.parquet")]
    main(["evaluate", "protocol", "corloc", *arguments, "--out", str(out), "--workers", "0"])
    (row,) = json.loads(out.read_text())["rows"]
    assert row["scores"]["CorLoc"]["value"] == pytest.approx(100 * 5 / 9, abs=1e-3)
    assert row["without_a_box"] == row["not_there"] == 1
    assert "detected:x" in capsys.readouterr().out
    write_index(tmp_path / "q.parquet", rows, root=tmp_path, provenance="detected:x", classes=[])
    with pytest.raises(DataError, match="has none of the images"):
        evaluate_corloc([], images, CorlocSettings(), predicted=[str(tmp_path / "q.parquet")])
    with pytest.raises(OdisError, match="nothing to score"):
        evaluate_corloc([], images, CorlocSettings())


def test_it_runs_from_the_command_line(encoder, folder: Path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    out = tmp_path / "c.json"
    arguments = ["--model", "a", "--test", str(folder / "index.parquet"), "--size", "24", "--max-test", "4"]
    main(["evaluate", "protocol", "corloc", *arguments, "--workers", "0", "--out", str(out)])
    written = json.loads(out.read_text())
    assert len(written["rows"]) == 2
    assert written["test"]["images"] == 4
    assert set(written["rows"][0]["scores"]) == {"CorLoc", "whole image", "random box", "another image's box"}
    assert [row["mode"] for row in written["rows"]] == [
        "seeds (LOST), key features",
        "spectral (TokenCut), key features",
    ]
    assert written["rows"][0]["size"] == 24
    told = capsys.readouterr()
    assert "61.9" in told.out
    assert "projected: " in told.err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"method": ("lost",)}, "method 'lost' must be some of seeds, spectral"),
        ({"method": ()}, "must be some of"),
        ({"size": 0}, "size 0"),
        ({"size": 24, "as_published": True}, "own size"),
        ({"tau": 1.5}, "tau 1.5"),
        ({"max_train": 3}, "max-train: this protocol has no such"),
    ],
)
def test_settings_that_cannot_be_are_one_line(change, line: str):
    with pytest.raises(OdisError, match=line):
        CorlocSettings(**change).check()


def test_a_broken_image_is_skipped_and_named(encoder, folder: Path):
    images = open_boxed(folder / "index.parquet").select(range(3))
    images.paths[1] = str(folder / "gone.png")
    found = evaluate_corloc(encoder(), images, SETTINGS)
    assert [item["what"] for item in found["skipped"]] == [str(folder / "gone.png")]
    assert found["test"]["images"] == 2
    with pytest.raises(DataError, match=r"gone\.png"):
        evaluate_corloc(encoder(), images, replace(SETTINGS, read=replace(SETTINGS.read, strict=True)))


def test_an_interrupted_call_goes_on(encoder, folder: Path, monkeypatch, tmp_path):
    images, model = open_boxed(folder / "index.parquet"), encoder()
    kept = replace(SETTINGS, cache=str(tmp_path / "kept"), read=replace(SETTINGS.read, batch_size=2))
    monkeypatch.setattr("odis.evaluation.protocols.images.store.FeatureStore.__init__.__defaults__", (4,))
    whole = evaluate_corloc(model, images, SETTINGS)
    shown: list[int] = []
    found = discovery.OurDiscovery.__call__

    def interrupted(self, pictures):
        if len(shown) >= 6:
            raise KeyboardInterrupt
        shown.extend([0] * len(pictures))
        return found(self, pictures)

    monkeypatch.setattr(discovery.OurDiscovery, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_corloc(model, images, kept)
    shown.clear()
    again = evaluate_corloc(model, images, kept)
    assert len(shown) == 5  # of 9 images a chunk of 4 was kept
    for one, other in zip(whole["rows"], again["rows"], strict=True):
        assert one["scores"] == other["scores"]
