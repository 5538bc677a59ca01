"""`hummingbird` against a slow version written out by the formula, over the whole protocol and its parts."""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from odis.cli import main
from odis.errors import DataError, OdisError
from odis.evaluation.neighbours import NearestNeighbours
from odis.evaluation.protocols.layouts.segmentation import open_segmented
from odis.evaluation.protocols.protocol import IMAGENET_MEAN
from odis.evaluation.protocols.segmentation import hummingbird_memory, hummingbird_search
from odis.evaluation.protocols.segmentation.hummingbird import (
    PUBLISHED_STD,
    HummingbirdSettings,
    evaluate_hummingbird,
)
from odis.evaluation.protocols.segmentation.hummingbird_memory import (
    patch_counts,
    per_view,
    sample_patches,
    soft_labels,
)
from odis.evaluation.protocols.segmentation.hummingbird_search import FaissSearch
from odis.evaluation.protocols.segmentation.segmentation_scores import (
    by_hungarian,
    by_precision,
    iou_counts,
    pixel_table,
)
from odis.evaluation.protocols.segmentation.segmented import LabelCoding
from odis.evaluation.protocols.segmentation.segmented_views import HummingbirdView, SquashBoth
from odis.inference import Encoder

SIDE = 32
SETTINGS = HummingbirdSettings(size=SIDE + 5, memory=(60,), passes=2, k=3, beta=(0.02, 0.5))


def parts(root: Path):
    return open_segmented(root, "", part="train"), open_segmented(root, "", part="val")


# --- the parts -------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(0, 10**6))
def test_labels_of_patches_are_counted_pixel_by_pixel(rows, side, classes, seed):
    labels = np.random.default_rng(seed).integers(-1, classes, (rows * side, rows * side))
    found = patch_counts(labels, (rows, rows), classes)
    for r, c, k in itertools.product(range(rows), range(rows), range(classes)):
        patch = labels[r * side : (r + 1) * side, c * side : (c + 1) * side]
        assert found[r * rows + c, k] == (patch == k).sum()


@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 25), st.integers(0, 10**6))
def test_the_patches_taken_are_those_of_the_lowest_scores(patches, classes, most, seed):
    counts = np.random.default_rng(seed).integers(0, 3, (patches, classes))
    found = sample_patches(counts, most, np.random.default_rng(seed)).tolist()
    uniform = np.random.default_rng(seed).random(patches)
    scores = {}
    for p in range(patches):
        present = [c for c in range(classes) if counts[p, c] > 0]
        if present:
            frequency = sum(sum(counts[q, c] > 0 for q in range(patches)) for c in present)
            scores[p] = frequency * uniform[p]
    assert found == sorted(scores, key=scores.__getitem__)[:most]
    assert found[: most // 2] == sample_patches(counts, most // 2, np.random.default_rng(seed)).tolist()


def test_rare_classes_are_favoured():
    counts = np.zeros((100, 2), np.int16)
    counts[:90, 0], counts[90:, 1] = 9, 9  # a tenth of the patches shows class 1
    taken = np.concatenate([sample_patches(counts, 20, np.random.default_rng(i)) for i in range(200)])
    assert (taken >= 90).mean() > 0.4


def test_how_many_patches_of_each_view():
    assert per_view(10_240_000, 10_582, 2) == 483
    assert per_view(10_240_000, 20_210, 2) == 253
    with pytest.raises(OdisError, match="memory 9 must be at least 10, a patch of each of 5 images, 2 times"):
        per_view(9, 5, 2)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.02, 0.07, 1.0]))
def test_soft_labels_are_the_weighted_mean_of_shares(queries, k, classes, beta):
    rng = np.random.default_rng(queries)
    similarity, counts = rng.uniform(-1, 1, (queries, k)), rng.integers(0, 64, (queries, k, classes))
    found = soft_labels(torch.tensor(similarity), torch.tensor(counts), beta, 64)
    for q in range(queries):
        weights = [np.exp((similarity[q, j] - similarity[q].max()) / beta) for j in range(k)]
        for c in range(classes):
            expected = sum(w * counts[q, j, c] / 64 for j, w in enumerate(weights)) / sum(weights)
            assert float(found[q, c]) == pytest.approx(expected, abs=1e-6)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
def test_predicted_classes_are_matched_as_the_best_of_all_assignments(classes, images, seed):
    tables = np.random.default_rng(seed).integers(0, 9, (images, classes, classes))
    table = tables.sum(0)

    def iou(c: int, k: int) -> float:
        union = table[c].sum() + table[:, k].sum() - table[c, k]
        return table[c, k] / union if union else 0.0

    best = max(sum(iou(c, k) for k, c in enumerate(p)) for p in itertools.permutations(range(classes)))
    mapping = by_hungarian(table)
    assert sorted(mapping.tolist()) == list(range(classes))
    assert sum(iou(c, k) for k, c in enumerate(mapping)) == pytest.approx(best)
    counts = iou_counts(tables, mapping)
    for i, c in itertools.product(range(images), range(classes)):
        k = mapping.tolist().index(c)
        assert counts[i, :, c].tolist() == [tables[i, c, k], tables[i, :, k].sum(), tables[i, c].sum()]


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 10**6))
def test_clusters_go_to_the_class_of_most_of_their_pixels(classes, k, seed):
    table = np.random.default_rng(seed).integers(0, 4, (classes, k))
    mapping = by_precision(table)
    for j in range(k):
        assert table[mapping[j], j] == table[:, j].max()
        assert (table[: mapping[j], j] < table[mapping[j], j]).all()  # of equal ones the lowest
    counts = iou_counts(table[None], mapping)[0]
    for c in range(classes):
        of_class = [j for j in range(k) if mapping[j] == c]
        assert counts[:, c].tolist() == [table[c, of_class].sum(), table[:, of_class].sum(), table[c].sum()]


def test_a_table_counts_pixels_by_label_and_prediction():
    labels, predicted = np.array([[0, 1, -1], [1, 1, 0]]), np.array([[2, 0, 1], [0, 2, 2]])
    assert pixel_table(labels, predicted, 2, 3).tolist() == [[0, 0, 2], [2, 0, 1]]


# --- the whole -------------------------------------------------------------------------------------------


def slow(model: Encoder, root: Path, settings: HummingbirdSettings, beta: float) -> tuple[float, float]:
    """Plain and matched mIoU in percent, patch by patch and pixel by pixel."""
    train, test = parts(root)
    published = settings.as_published
    mean, std = (IMAGENET_MEAN, PUBLISHED_STD) if published else (model.mean, model.std)
    classes, per = 21, settings.memory[0] // (train.count * settings.passes)

    def patches(pixels: np.ndarray) -> np.ndarray:
        scaled = (pixels / 255 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
        with torch.no_grad():
            found = model.model.eval()(torch.tensor(scaled[None], dtype=torch.float32)).patches[0].double()
        return (found / found.norm(dim=1, keepdim=True)).numpy()

    memory, shares = [], []
    for turn, row in itertools.product(range(settings.passes), range(train.count)):
        image, labels, _ = train.images.read(row)
        rng = np.random.default_rng([settings.seed, turn, row])
        pixels, labels = HummingbirdView(SIDE)(image, labels, rng)
        if published:
            labels = np.where(labels < 0, 0, labels)
        counts = patch_counts(labels, (4, 4), classes)
        chosen = sample_patches(counts, per, np.random.default_rng([settings.seed, 1, turn, row]))
        memory.append(patches(pixels)[chosen])
        shares.append(counts[chosen] / 64)
    bank, of_bank = np.concatenate(memory), np.concatenate(shares)
    confusion = np.zeros((classes, classes))
    for row in range(test.count):
        image, labels, _ = test.images.read(row)
        pixels, labels = SquashBoth(SIDE)(image, labels, np.random.default_rng(0))
        soft = np.zeros((16, classes))
        for p, query in enumerate(patches(pixels)):
            cosine = bank @ query
            near = np.argsort(-cosine, kind="stable")[: settings.k]
            weight = np.exp((cosine[near] - cosine[near].max()) / beta)
            soft[p] = (weight[:, None] * of_bank[near]).sum(0) / weight.sum()
        maps = torch.tensor(soft.T.reshape(1, classes, 4, 4), dtype=torch.float32)
        large = torch.nn.functional.interpolate(maps, (SIDE, SIDE), mode="bilinear")[0].argmax(0).numpy()
        for truth, said in zip(labels.ravel(), large.ravel(), strict=True):
            if truth >= 0:
                confusion[truth, said] += 1
    matched = confusion[:, np.argsort(by_hungarian(confusion))]

    def mean_iou(table: np.ndarray) -> float:
        union = table.sum(0) + table.sum(1) - np.diag(table)
        iou = np.diag(table) / np.maximum(union, 1)
        return 100 * float(iou.mean() if published else iou[union > 0].mean())

    return mean_iou(confusion), mean_iou(matched)


@pytest.mark.parametrize("published", [False, True])
def test_it_is_the_slow_version(encoder, segmented, published: bool):
    root, model = segmented(), replace(encoder(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    settings = replace(SETTINGS, as_published=published)
    found = evaluate_hummingbird(model, *parts(root), settings)
    (row,) = found["rows"]
    assert len(row["scores"]) == (2 if published else 4)
    for beta in (0.02,) if published else settings.beta:
        plain, matched = slow(model, root, settings, beta)
        assert row["scores"][f"mIoU, beta {beta:g}"]["value"] == pytest.approx(plain, abs=2e-3)
        assert row["scores"][f"matched, beta {beta:g}"]["value"] == pytest.approx(matched, abs=2e-3)
    assert row["size"] == SIDE
    assert row["memory"] == 60 if published else row["memory"] <= 60
    assert found["train"]["images"] == 5
    assert found["test"]["images"] == 4


def test_lists_sizes_and_models_share_one_pass_and_equal_runs_of_their_own(
    encoder, segmented, tmp_path, monkeypatch
):
    root, model = segmented(), encoder()
    train, test = parts(root)
    lists = []
    for i, rows in enumerate(((0, 3), (1, 2), (0, 1, 4))):
        lists.append(str(tmp_path / f"{i}.txt"))
        Path(lists[-1]).write_text("\n".join(train.names[row] for row in rows))
    seen: list[int] = []
    original = Encoder.tokens

    def tokens(self, pixels, masks=None):
        seen.append(len(pixels))
        return original(self, pixels, masks)

    monkeypatch.setattr(Encoder, "tokens", tokens)
    together = replace(SETTINGS, lists=("all", *lists), memory=(60, 30))
    found = evaluate_hummingbird(model, train, test, together)
    assert sum(seen) == test.count + 2 * train.count
    alone = {}
    for name, size in itertools.product(together.lists, together.memory):
        row = evaluate_hummingbird(model, train, test, replace(SETTINGS, lists=(name,), memory=(size,)))[
            "rows"
        ][0]
        alone[row["mode"]] = row["scores"]
    rows = {row["mode"]: row["scores"] for row in found["rows"]}
    means = {name: rows.pop(name) for name in list(rows) if name.startswith("mean")}
    assert rows == alone
    assert list(means) == [
        "mean of 2 lists of 2 images, memory 60 asked for",
        "mean of 2 lists of 2 images, memory 30 asked for",
    ]
    of_two = [s["mIoU, beta 0.02"]["value"] for n, s in rows.items() if ", 2 images" in n][::2]
    assert means["mean of 2 lists of 2 images, memory 60 asked for"]["mIoU, beta 0.02"][
        "value"
    ] == pytest.approx(np.mean(of_two), abs=1e-3)


def test_noise_gives_chance_and_labels_the_ceiling_of_patches(encoder, segmented, monkeypatch):
    """Neighbours by chance: all of the memory votes alike, so its most frequent class is everywhere. Features
    that hold the labels: each patch reads shares like its own.
    """
    root, model = segmented(train=6, val=6, ignored=False), encoder()
    train, test = parts(root)
    views = [SquashBoth(SIDE)(*test.images.read(row)[:2], np.random.default_rng(0))[1] for row in range(6)]
    share = np.bincount(np.concatenate([v.ravel() for v in views]), minlength=21) / (6 * SIDE * SIDE)

    def noise(self, pixels, masks=None):
        patches = torch.randn(len(pixels), 16, 8, generator=torch.Generator().manual_seed(len(pixels)))
        return type("Tokens", (), {"patches": patches, "grid": (4, 4)})()

    monkeypatch.setattr(Encoder, "tokens", noise)
    settings = replace(SETTINGS, memory=(192,), k=192, beta=(1e6,))
    row = evaluate_hummingbird(model, train, test, settings)["rows"][0]
    (guess,) = [c for c, iou in row["iou"].items() if iou > 0]
    position = train.images.classes.index(guess)
    assert row["scores"]["mIoU, beta 1e+06"]["value"] == pytest.approx(100 * share[position] / 4, abs=1e-3)

    order = iter([*views, *views])

    def told(self, pixels, masks=None):
        made = [patch_counts(next(order), (4, 4), 21) / 64 for _ in pixels]
        return type("Tokens", (), {"patches": torch.tensor(np.stack(made)), "grid": (4, 4)})()

    monkeypatch.setattr(Encoder, "tokens", told)
    monkeypatch.setattr(HummingbirdView, "__call__", lambda self, *given: SquashBoth(SIDE)(*given))
    settings = replace(SETTINGS, memory=(96,), k=1, passes=1)
    found = evaluate_hummingbird(model, test, test, settings)
    counts = np.zeros((21, 21))
    for view in views:
        soft = torch.tensor((patch_counts(view, (4, 4), 21) / 64).T.reshape(1, 21, 4, 4))
        said = torch.nn.functional.interpolate(soft, (SIDE, SIDE), mode="bilinear")[0].argmax(0)
        counts += pixel_table(view, said, 21, 21)
    union = (counts.sum(0) + counts.sum(1) - np.diag(counts))[:4]
    ceiling = 100 * (np.diag(counts)[:4] / union).mean()
    assert found["rows"][0]["scores"]["mIoU, beta 0.02"]["value"] == pytest.approx(ceiling, abs=1e-3)
    assert any("6 images are in the test and the train part" in note for note in found["notes"])


def ade(root: Path) -> Path:
    """ADE20K's layout: patches of three classes and of 0."""
    rng = np.random.default_rng(0)
    for split, count in (("training", 4), ("validation", 3)):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            labels = np.kron(rng.choice([0, 1, 2, 150], (4, 4)), np.ones((8, 8))).astype(np.uint8)
            pixels = np.stack([labels] * 3, axis=2) * 40 + rng.integers(0, 9, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{i}.jpg", quality=95)
            Image.fromarray(labels).save(root / "annotations" / split / f"{i}.png")
    return root


def test_ade20k_as_published_has_a_class_0_that_is_never_right(encoder, tmp_path, monkeypatch):
    train, test = parts(ade(tmp_path))
    ours = LabelCoding.of(train, train, published=False)
    theirs = LabelCoding.of(train, train, published=True, fill=0)
    scored = LabelCoding.of(test, train, published=True)
    stored = np.array([[-1, 0, 149]])  # 0, 1 and 150 in the file
    assert ours(stored).tolist() == [[-1, 0, 149]]
    assert theirs(stored).tolist() == [[0, 1, 150]]
    assert scored(stored).tolist() == [[-1, 1, 150]]
    assert len(theirs.classes) == 151

    views = [SquashBoth(SIDE)(*test.images.read(row)[:2], np.random.default_rng(0))[1] for row in range(3)]
    order = iter([*views, *views])

    def told(self, pixels, masks=None):
        made = [np.eye(151)[next(order)[::8, ::8].ravel() + 1] for _ in pixels]
        return type("Tokens", (), {"patches": torch.tensor(np.stack(made)), "grid": (4, 4)})()

    monkeypatch.setattr(Encoder, "tokens", told)
    monkeypatch.setattr(HummingbirdView, "__call__", lambda self, *given: SquashBoth(SIDE)(*given))
    settings = replace(SETTINGS, memory=(48,), k=1, passes=1, as_published=True)
    row = evaluate_hummingbird(model := encoder(), test, test, settings)["rows"][0]
    # Each class as patches of this size can show it, and 148 of 151 that are nowhere as 0.
    seen = [value for name, value in row["iou"].items() if name != "unlabelled"]
    assert len(seen) == 3
    assert row["scores"]["mIoU, beta 0.02"]["value"] == pytest.approx(sum(seen) / 151, abs=2e-3)
    order = iter([*views, *views])
    plain = evaluate_hummingbird(model, test, test, replace(settings, as_published=False))["rows"][0]
    assert plain["scores"]["mIoU, beta 0.02"]["value"] == pytest.approx(
        np.mean(list(plain["iou"].values())), abs=2e-3
    )
    assert "unlabelled" not in plain["iou"]


def test_faiss_finds_what_brute_force_finds(encoder, segmented):
    pytest.importorskip("faiss")
    torch.manual_seed(0)
    queries, memory = torch.randn(50, 8), torch.randn(2000, 8)
    cosines = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(memory, dim=1).T
    best = cosines.topk(5, dim=1)
    whole = FaissSearch(queries, 5, lists=20, searched=20)  # in every list
    for part in memory.split(300):
        whole.add(part)
    found, rows = whole.read()
    assert torch.equal(rows, best.indices)
    torch.testing.assert_close(found, best.values, atol=1e-6, rtol=0)
    some = FaissSearch(queries, 5, lists=20, searched=4)
    some.add(memory)
    recall = np.mean([len({*a.tolist()} & {*b.tolist()}) / 5 for a, b in zip(some.read()[1], best.indices)])
    assert 0.5 < recall < 1
    root, model = segmented(), encoder()
    exact, by_faiss = (
        evaluate_hummingbird(model, *parts(root), replace(SETTINGS, search=search))["rows"][0]["scores"]
        for search in ("exact", "faiss")
    )
    assert exact == by_faiss  # a memory this small has one list


def test_without_faiss_it_says_what_to_install(encoder, segmented, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        OdisError, match=r"--search faiss: faiss is not installed; pip install 'odis\[faiss\]'"
    ):
        evaluate_hummingbird(encoder(), *parts(segmented()), replace(SETTINGS, search="faiss"))


def test_an_interrupted_call_goes_on_and_embeds_nothing_twice(encoder, segmented, tmp_path, monkeypatch):
    root, model = segmented(), encoder()
    settings = replace(SETTINGS, cache=str(tmp_path / "cache"))
    expected = evaluate_hummingbird(model, *parts(root), SETTINGS)["rows"][0]["scores"]
    original, shown = Encoder.tokens, [0]

    def stops(self, pixels, masks=None):
        shown[0] += 1
        if shown[0] == 2:  # the memory
            raise KeyboardInterrupt
        return original(self, pixels, masks)

    monkeypatch.setattr(Encoder, "tokens", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate_hummingbird(model, *parts(root), settings)
    assert evaluate_hummingbird(model, *parts(root), settings)["rows"][0]["scores"] == expected
    assert shown[0] == 3  # the test images are not shown again
    assert evaluate_hummingbird(model, *parts(root), settings)["rows"][0]["scores"] == expected
    assert shown[0] == 3
    other = replace(settings, seed=1)
    assert evaluate_hummingbird(model, *parts(root), other)["rows"][0]["scores"] != expected


@pytest.mark.parametrize("search", ["exact", "faiss"])
def test_an_interrupted_search_goes_on(encoder, segmented, tmp_path, monkeypatch, search: str):
    if search == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.setattr(hummingbird_search, "KEEP", 0.0)  # after every part
    monkeypatch.setattr(hummingbird_memory, "_FLUSH", 8)
    monkeypatch.setattr(hummingbird_search, "_QUERIES", 16)
    root, model = segmented(), encoder()
    settings = replace(SETTINGS, memory=(60, 30), search=search)
    expected = [row["scores"] for row in evaluate_hummingbird(model, *parts(root), settings)["rows"]]
    settings, looked = replace(settings, cache=str(tmp_path)), [0, 0]
    where = (NearestNeighbours, "_add") if search == "exact" else (hummingbird_search, "normalize")
    original = getattr(*where)

    def stops(*given, **how):
        looked[0] += 1
        looked[1] += len(given[-1] if search == "exact" else given[0])
        if looked[0] == 9:
            raise KeyboardInterrupt
        return original(*given, **how)

    monkeypatch.setattr(*where, stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate_hummingbird(model, *parts(root), settings)
    before = looked[1]
    found = evaluate_hummingbird(model, *parts(root), settings)["rows"]
    assert [row["scores"] for row in found] == expected
    whole = looked[1] - before
    looked[1] = 0
    again = evaluate_hummingbird(model, *parts(root), settings)["rows"]
    assert [row["scores"] for row in again] == expected
    if search == "exact":
        assert 0 < whole < sum(row["memory"] for row in found)  # what was searched before is not again
        assert looked[1] == 0
    else:  # the index is built anew, the queries are not asked again
        assert looked[1] == sum(row["memory"] for row in found) < whole


def test_what_cannot_be_measured_is_one_line(encoder, segmented, tmp_path):
    train, test = parts(segmented())
    model = encoder()
    with pytest.raises(OdisError, match="memory 9 must be at least 10"):
        evaluate_hummingbird(model, train, test, replace(SETTINGS, memory=(9,)))
    with pytest.raises(OdisError, match=r"k 500: the memory of all holds \d+ patches"):
        evaluate_hummingbird(model, train, test, replace(SETTINGS, k=500))
    with pytest.raises(OdisError, match="size 5 is less than a patch of 8 pixels"):
        evaluate_hummingbird(model, train, test, replace(SETTINGS, size=5))
    with pytest.raises(OdisError, match=r"beta 0.5: as published it is 0.02"):
        replace(SETTINGS, beta=(0.5,), as_published=True).check()
    with pytest.raises(OdisError, match="passes 0"):
        replace(SETTINGS, passes=0).check()
    (tmp_path / "l.txt").write_text("2007_999999\n")
    with pytest.raises(DataError, match="names '2007_999999', which"):
        evaluate_hummingbird(model, train, test, replace(SETTINGS, lists=(str(tmp_path / "l.txt"),)))
    root = segmented(train=1, val=1, seed=3)
    Image.fromarray(np.zeros((36, 44), np.uint8)).save(sorted((root / "SegmentationClass").iterdir())[0])
    with pytest.raises(DataError, match="background"):
        evaluate_hummingbird(model, *parts(root), SETTINGS)
    file = sorted((root / "SegmentationClass").iterdir())
    file[0].write_bytes(file[1].read_bytes())
    Image.fromarray(np.full((36, 44), 255, np.uint8)).save(file[1])
    with pytest.raises(DataError, match="none of its pixels has a label"):
        evaluate_hummingbird(model, *parts(root), SETTINGS)


def test_it_runs_from_the_command_line(encoder, segmented, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    root = segmented()
    (root / "JPEGImages" / "2007_000001.png").write_bytes(b"no image")
    out = tmp_path / "h.json"
    options = [
        "--model",
        "a",
        "--model",
        "b",
        "--train",
        str(root.parent),
        "--test",
        str(root),
        "--size",
        "32",
    ]
    options += ["--memory", "60", "--k", "3", "--workers", "0", "--out", str(out), "--max-test", "3"]
    main(["evaluate", "protocol", "hummingbird", *options])
    told = capsys.readouterr()
    shown = " ".join(told.out.split())
    assert "projected: " in told.err
    assert "CrIBo ViT-S/16" in shown
    assert "differs from the reference: the search is exact" in shown
    assert "cache" not in json.loads(out.read_text())["settings"]
    written = json.loads(out.read_text())
    assert [row["model"] for row in written["rows"]] == ["a", "b"]
    assert [item["what"] for item in written["skipped"]] == [str(root / "JPEGImages" / "2007_000001.png")]
    assert written["train"] | {"images": 4, "skipped": 1} == written["train"]
    assert any("max-test 3" in note for note in written["notes"])
