"""`overcluster` against a version by scikit-learn and loops; chance and ceiling."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from odis.cli import main
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.layouts.segmentation import open_segmented
from odis.evaluation.protocols.protocol import IMAGENET_MEAN, IMAGENET_STD
from odis.evaluation.protocols.segmentation import clustering
from odis.evaluation.protocols.segmentation.clustering import k_means
from odis.evaluation.protocols.segmentation.linear_seg_head import nearest_labels
from odis.evaluation.protocols.segmentation.overcluster import (
    OverclusterSettings,
    evaluate_overcluster,
    grown,
)
from odis.evaluation.protocols.segmentation.segmentation_scores import by_hungarian
from odis.evaluation.protocols.segmentation.segmented_views import SquashBoth
from odis.inference import Encoder

SIDE = 32
SETTINGS = OverclusterSettings(size=SIDE, clusters=(0, 30), components=5, iterations=20, restarts=2, seeds=2)


def open_val(root):
    return open_segmented(root, "", part="val")


@pytest.mark.parametrize("published", [False, True])
def test_it_is_the_version_by_scikit_learn_and_loops(encoder, segmented, published: bool):
    test, model = open_val(segmented(val=4)), replace(encoder(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    settings = replace(SETTINGS, as_published=published)
    found = evaluate_overcluster(model, test, settings)["rows"][0]
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if published else (model.mean, model.std)
    tokens, maps = [], []
    for row in range(4):
        image, labels, _ = test.images.read(row)
        pixels, labels = SquashBoth(SIDE)(image, labels, np.random.default_rng(0))
        scaled = (pixels / 255 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
        with torch.no_grad():
            tokens.append(
                model.model.eval()(torch.tensor(scaled[None], dtype=torch.float32)).patches[0].numpy()
            )
        maps.append([[labels[i * SIDE // 100, j * SIDE // 100] for j in range(100)] for i in range(100)])
    points = PCA(5, svd_solver="full").fit_transform(StandardScaler().fit_transform(np.concatenate(tokens)))
    for k in (21, 30):
        of_seeds = []
        for seed in (0, 1):
            # The same draws; a change of sign of a component changes no distance.
            clusters = k_means(
                torch.tensor(points, dtype=torch.float32), k, iterations=20, restarts=2, seed=seed
            ).reshape(4, 4, 4)
            table = np.zeros((21, k))
            for image, truth in enumerate(maps):
                for i in range(100):
                    for j in range(100):
                        if truth[i][j] >= 0:
                            table[truth[i][j], clusters[image, i * 4 // 100, j * 4 // 100]] += 1
            mapping = by_hungarian(table) if k == 21 else table.argmax(0)
            confusion = np.zeros((21, 21))
            for j in range(k):
                confusion[:, mapping[j]] += table[:, j]
            union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
            iou = np.diag(confusion) / np.maximum(union, 1)
            of_seeds.append(100 * (iou.mean() if published else iou[union > 0].mean()))
        assert found["by_seed"][f"K={k}"] == pytest.approx(of_seeds, abs=2e-3)
        assert found["scores"][f"K={k}"]["value"] == pytest.approx(np.mean(of_seeds), abs=2e-3)
    assert found["trained_on"] == {"K=21": 64, "K=30": 64}


def test_as_published_stops_after_whole_batches_of_60(encoder, segmented):
    root = segmented(val=4)
    names = (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    for i in range(61):
        for folder in ("JPEGImages", "SegmentationClass"):
            (root / folder / f"x{i}.png").write_bytes((root / folder / f"{names[i % 4]}.png").read_bytes())
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(f"x{i}" for i in range(61)))
    settings = replace(SETTINGS, clusters=(0,), seeds=1, restarts=1, iterations=2)
    test, model = open_val(root), encoder()
    assert evaluate_overcluster(model, test, settings)["test"]["images"] == 61
    assert evaluate_overcluster(model, test, replace(settings, as_published=True))["test"]["images"] == 60


def test_noise_gives_chance_and_labels_the_ceiling_of_patches(encoder, segmented, monkeypatch):
    """Every patch alike: one cluster has them all, and is the most frequent class. Patches that hold their
    label: each is the class at the pixel that the enlarged map shows.
    """
    test, model = open_val(segmented(val=6, ignored=False)), encoder()
    views = [SquashBoth(SIDE)(*test.images.read(r)[:2], np.random.default_rng(0))[1] for r in range(6)]
    small = [nearest_labels(view, 100) for view in views]
    share = np.bincount(np.concatenate([s.ravel() for s in small]), minlength=21) / 60_000

    def alike(self, pixels, masks=None):
        return type("Tokens", (), {"patches": torch.ones(len(pixels), 16, 8), "grid": (4, 4)})()

    monkeypatch.setattr(Encoder, "tokens", alike)
    settings = replace(SETTINGS, clusters=(21, 40), seeds=1)
    row = evaluate_overcluster(model, test, settings)["rows"][0]
    assert row["scores"]["K=40"]["value"] == pytest.approx(100 * share.max() / 4, abs=1e-3)

    order = iter(views)

    def told(self, pixels, masks=None):
        made = [np.eye(21)[next(order)[4::8, 4::8].ravel()] for _ in pixels]
        return type("Tokens", (), {"patches": torch.tensor(np.stack(made)), "grid": (4, 4)})()

    monkeypatch.setattr(Encoder, "tokens", told)
    row = evaluate_overcluster(model, test, replace(settings, components=21))["rows"][0]
    table = np.zeros((21, 21))
    for view, truth in zip(views, small, strict=True):
        np.add.at(table, (truth, grown(view[4::8, 4::8])), 1)
    table = table[:4, :4]
    ceiling = 100 * (np.diag(table) / (table.sum(0) + table.sum(1) - np.diag(table))).mean()
    for k in (21, 40):
        assert row["scores"][f"K={k}"]["value"] == pytest.approx(ceiling, abs=1e-3)


def test_runs_of_k_means_that_are_done_are_not_done_again(encoder, segmented, tmp_path, monkeypatch):
    test, model = open_val(segmented()), encoder()
    expected = evaluate_overcluster(model, test, SETTINGS)["rows"][0]
    settings, done = replace(SETTINGS, cache=str(tmp_path)), []

    def stops(points, k, **how):
        done.append((k, how["seed"]))
        if len(done) == 3:
            raise KeyboardInterrupt
        return k_means(points, k, **how)

    monkeypatch.setattr(clustering, "k_means", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate_overcluster(model, test, settings)
    found = evaluate_overcluster(model, test, settings)["rows"][0]
    assert done == [(21, 0), (21, 1), (30, 0), (30, 0), (30, 1)]
    assert found["scores"] == expected["scores"]
    assert found["by_seed"] == expected["by_seed"]
    for change in ({"components": 4}, {"iterations": 19}, {"restarts": 1}, {"per_cluster": 1}):
        done[:] = []
        evaluate_overcluster(model, test, replace(settings, clusters=(0,), seeds=1, **change))
        assert len(done) == 1


def test_what_cannot_be_measured_is_one_line(encoder, segmented):
    root = segmented()
    test, model = open_val(root), encoder()
    with pytest.raises(OdisError, match="clusters 5 are fewer than the 21 classes"):
        evaluate_overcluster(model, test, replace(SETTINGS, clusters=(5,)))
    with pytest.raises(OdisError, match="clusters 500: there are 64 patches"):
        evaluate_overcluster(model, test, replace(SETTINGS, clusters=(500,)))
    with pytest.raises(OdisError, match="max-train: this protocol has no such setting"):
        replace(SETTINGS, max_train=3).check()
    for change in (
        {"clusters": (1,)},
        {"clusters": ()},
        {"seeds": 0},
        {"per_cluster": -1},
        {"components": 0},
    ):
        with pytest.raises(OdisError, match=next(iter(change)).replace("_", "-")):
            replace(SETTINGS, **change).check()
    for file in (root / "SegmentationClass").iterdir():
        Image.fromarray(np.full((36, 44), 3, np.uint8)).save(file)
    with pytest.raises(DataError, match="all its labelled pixels are of one class"):
        evaluate_overcluster(model, open_val(root), SETTINGS)


def test_it_runs_from_the_command_line(encoder, segmented, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    out = tmp_path / "o.json"
    options = [
        "--model",
        "a",
        "--model",
        "b",
        "--test",
        str(segmented()),
        "--size",
        "32",
        "--clusters",
        "0,30",
    ]
    options += ["--seeds", "2", "--restarts", "1", "--workers", "0", "--out", str(out)]
    options += ["--cache", str(tmp_path / "cache")]
    for _ in range(2):  # the second time from the cache
        main(["evaluate", "protocol", "overcluster", *options])
        told = capsys.readouterr()
        shown = " ".join(told.out.split())
        assert "projected: " in told.err
        assert "Leopart ViT-S/16" in shown
        written = json.loads(out.read_text())
        assert [row["model"] for row in written["rows"]] == ["a", "b"]
        assert written["rows"][0]["scores"] == written["rows"][1]["scores"]
    assert any("at most 256 patches a cluster" in note for note in written["notes"])
