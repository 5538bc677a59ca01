"""Segmentation by neighbours and by a linear head, against slow formulas and scikit-learn, from an index and
from label maps.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import jaccard_score
from torch import Tensor

from odis.backbones.build import build_vit
from odis.cli import main
from odis.config.query import QueryConfig, ReadConfig
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import DataError, OdisError
from odis.evaluation import dense, probe
from odis.evaluation.dense import DenseReader, label_pixels, open_labelled
from odis.evaluation.dense_knn import DenseKnnSettings, evaluate_dense_knn, neighbour_shares
from odis.evaluation.dense_settings import DenseSettings
from odis.evaluation.label_maps import LabelledImages, patch_label_shares
from odis.evaluation.probe import patch_miou
from odis.evaluation.runner import EvaluationRun
from odis.evaluation.segment import SegmentSettings, evaluate_segment
from odis.evaluation.settings import Grid
from odis.inference import Encoder
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

MODEL = ModelConfig(
    "vit_tiny_patch16_224", None, "read-only", patch_size=8, embed_dim=32, depth=1, num_heads=2
)
GRID = Grid(lrs=(0.03, 0.3), weight_decays=(0.0,), steps=150, batch=64)
COLOURS = np.array([(128, 128, 128), (220, 30, 30), (30, 30, 220)], dtype=np.float64)


def encoder(source: str = "tiny") -> Encoder:
    torch.manual_seed(0)
    return Encoder.of(
        build_vit(MODEL, 32, drop_path=0.0),
        PretrainConfig(model=MODEL, views=ViewsConfig(global_size=32)),
        source=source,
    )


def painted(rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, list[Object]]:
    """A grey picture with a red and a blue disc or block; the objects have masks."""
    pixels, objects = rng.normal(COLOURS[0], 15, (height, width, 3)), []
    y, x = np.mgrid[:height, :width]
    for label in range(2):
        centre = rng.uniform((8, 8), (height - 8, width - 8))
        mask = np.hypot(y - centre[0], x - centre[1]) < rng.uniform(6, 11)
        if label == 1:
            mask &= ~(objects[0][0] if objects else np.zeros_like(mask))
        pixels[mask] = rng.normal(COLOURS[label + 1], 15, (int(mask.sum()), 3))
        objects.append((mask, label))
    items = []
    for mask, label in objects:
        if mask.any():
            rows, columns = np.nonzero(mask)
            box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
            items.append(Object(box, rle.encode(mask.astype(np.uint8)), label))
    return np.clip(pixels, 0, 255).astype(np.uint8), items


def paintings(folder: Path, count: int, seed: int, classes: list[str]) -> ObjectIndex:
    folder.mkdir()
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        width, height = (48, 32) if i % 2 else (32, 40)
        pixels, objects = painted(rng, width, height)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        if classes[0] == "blue":
            objects = [Object(o.box, o.mask, 1 - (o.label or 0)) for o in objects]
        rows.append(ImageObjects(f"{i}.png", width, height, tuple(objects)))
    write_index(folder / "index.parquet", rows, root=folder, provenance="annotated", classes=classes)
    return ObjectIndex.open(folder / "index.parquet")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledImages, LabelledImages]:
    folder = tmp_path_factory.mktemp("paintings")
    train, test = (
        paintings(folder / "train", 12, 0, ["red", "blue"]),
        paintings(folder / "test", 6, 1, ["blue", "red"]),
    )
    return LabelledImages.from_index(train), LabelledImages.from_index(test)


def patches_of(data: LabelledImages, i: int) -> tuple[Tensor, tuple[int, int], np.ndarray]:
    image, labels, _ = data.read(i)
    found = encoder().embed(image, mode="whole-image")
    return found.patches, found.grid, labels


def miou(predicted: list[np.ndarray], labels: list[np.ndarray], classes: int) -> float:
    p, t = (np.concatenate([a.ravel() for a in arrays]) for arrays in (predicted, labels))
    occurring = sorted(set(p[t >= 0]) | set(t[t >= 0]))
    return 100 * jaccard_score(t[t >= 0], p[t >= 0], labels=occurring, average="macro")


def test_neighbours_label_pixels_as_the_slow_formula_does(
    parts: tuple[LabelledImages, LabelledImages],
) -> None:
    train, test = parts
    results = evaluate_dense_knn(
        encoder(), train, test, DenseKnnSettings(read=ReadConfig(batch_size=3), k=5, temperature=0.1)
    )
    bank = [patches_of(train, i) for i in range(len(train))]
    features = torch.cat([patches for patches, _, _ in bank]).double()
    shares = np.concatenate([patch_label_shares(labels, grid, 3) for _, grid, labels in bank])
    predicted, truth = [], []
    for i in range(len(test)):
        patches, grid, labels = patches_of(test, i)
        votes = np.zeros((len(patches), 3))
        for n, patch in enumerate(patches.double()):
            cosine = F.cosine_similarity(patch[None], features).numpy()
            nearest = np.argsort(-cosine, kind="stable")[:5]
            weight = np.exp(cosine[nearest] / 0.1)
            votes[n] = (weight[:, None] / weight.sum() * shares[nearest]).sum(0)
        maps = torch.from_numpy(votes.T.reshape(1, 3, *grid)).float()
        predicted.append(F.interpolate(maps, labels.shape, mode="bilinear")[0].argmax(0).numpy())
        truth.append(np.array([0, 2, 1])[labels])  # blue and red are listed the other way round
    (row,) = results["rows"]
    assert row["scores"]["mIoU"]["value"] == pytest.approx(miou(predicted, truth, 3), abs=0.05)
    assert set(row["iou"]) == {"background", "red", "blue"}
    assert np.mean(list(row["iou"].values())) == pytest.approx(row["scores"]["mIoU"]["value"], abs=1e-2)
    assert row["scores"]["mIoU"]["value"] > 50, "colour is enough to tell"
    assert (row["mode"], row["train_patches"], results["train"]["images"], results["test"]["images"]) == (
        "patches",
        len(features),
        12,
        6,
    )


def test_a_linear_head_learns_to_label_pixels(parts: tuple[LabelledImages, LabelledImages]) -> None:
    settings = SegmentSettings(grid=GRID, held_out=0.25)
    results = evaluate_segment([encoder("one"), encoder("two")], *parts, settings)
    one, two = results["rows"]
    assert one["scores"] == two["scores"]
    assert one["scores"]["mIoU"]["value"] > 50
    assert one["chosen"]["lr"] in GRID.lrs
    workers = evaluate_segment(
        encoder("one"),
        *parts,
        SegmentSettings(read=ReadConfig(workers=2, batch_size=5), grid=GRID, held_out=0.25),
    )
    assert workers["rows"][0]["scores"]["mIoU"]["value"] == pytest.approx(
        one["scores"]["mIoU"]["value"], abs=0.3
    )


def test_the_linear_head_labels_pixels_as_the_slow_way_does(
    parts: tuple[LabelledImages, LabelledImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []
    choose = probe.choose_and_train
    monkeypatch.setattr(
        probe, "choose_and_train", lambda *a, **k: chosen.append(choose(*a, **k)) or chosen[-1]
    )
    results = evaluate_segment(encoder(), *parts, SegmentSettings(grid=GRID, held_out=0.25))
    head, predicted, truth = chosen[0].classifiers, [], []
    for i in range(len(parts[1])):
        patches, grid, labels = patches_of(parts[1], i)
        logits = ((patches - head.mean) * head.scale) @ head.weight[:, 0] + head.bias[0]
        maps = logits.T.reshape(1, 3, *grid)
        predicted.append(F.interpolate(maps, labels.shape, mode="bilinear")[0].argmax(0).numpy())
        truth.append(np.array([0, 2, 1])[labels])
    assert results["rows"][0]["scores"]["mIoU"]["value"] == pytest.approx(miou(predicted, truth, 3), abs=0.05)


def test_the_bank_takes_equally_many_patches_of_each_image(
    parts: tuple[LabelledImages, LabelledImages],
) -> None:
    settings = DenseSettings(max_patches=40, seed=3)
    for _ in range(2):
        enc = encoder()
        reader = DenseReader(EvaluationRun("x", enc, settings), settings, enc, parts[0])
        features, shares, images = reader.bank(range(12))
        assert images.bincount().tolist() == [3] * 12
        whole, grid, labels = patches_of(parts[0], 5)
        all_shares = torch.from_numpy(patch_label_shares(labels, grid, 3))
        for feature, share in zip(features[images == 5], shares[images == 5]):
            at = (whole - feature).abs().sum(1).argmin()
            torch.testing.assert_close(whole[at], feature, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(all_shares[at], share)


def test_votes_of_neighbours_split_as_their_area_is() -> None:
    features, shares = torch.eye(3), torch.tensor([[1.0, 0.0], [0.25, 0.5], [0.0, 0.0]])
    found = neighbour_shares(torch.tensor([[3.0, 3.0, 0.0]]), features, shares, 2, 0.07)
    torch.testing.assert_close(found, torch.tensor([[0.625, 0.25]]))


def test_many_classes_are_resized_one_by_one_to_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    at_once = label_pixels(scores, (3, 4), (31, 45))
    big = F.interpolate(scores.T.reshape(1, 7, 3, 4), (31, 45), mode="bilinear")[0].argmax(0)
    assert torch.equal(at_once, big)
    monkeypatch.setattr(dense, "_AT_ONCE", 10)
    assert torch.equal(label_pixels(scores, (3, 4), (31, 45)), big)


def test_patch_miou_is_that_of_pixels_that_have_their_patchs_class() -> None:
    labels = np.random.default_rng(0).integers(-1, 3, (16, 24))
    shares = torch.from_numpy(patch_label_shares(labels, (2, 3), 4))
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    pixels = logits.argmax(1).reshape(2, 3).repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
    assert patch_miou(logits, shares) == pytest.approx(miou([pixels], [labels], 4), abs=1e-3)


def test_label_maps_in_vocs_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    root, rng = tmp_path / "VOC", np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names = [f"im{i}" for i in range(6)]
    for name in names:
        pixels, objects = painted(rng, 48, 32)
        labels = np.zeros((32, 48), dtype=np.uint8)
        for item in objects:
            labels[rle.decode(item.mask, 48, 32) > 0] = 1 + (item.label or 0)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(labels).save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names[:4]) + "\n")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names[4:]) + "\n")
    assert open_labelled(root, "val").classes == ["background", "class 1", "class 2"]  # it is not VOC
    how = ["--model", "a", "--train", str(root), "--test", str(root), "--workers", "0"]
    main(["evaluate", "dense-knn", *how, "--k", "5", "--out", str(tmp_path / "k.json")])
    main(
        [
            "evaluate",
            "segment",
            *how,
            "--steps",
            "20",
            "--lrs",
            "0.1",
            "--weight-decays",
            "0",
            "--out",
            str(tmp_path / "s.json"),
        ]
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "k-NN of patches: 2 images (label-maps, 3 classes), labelled by 4 images (label-maps, 3 classes)"
        in shown
    )
    assert "linear segmentation: 2 images" in shown
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "segment", *how, "--test-split", "test"])
    assert stop.value.code == 2
    assert "test" in capsys.readouterr().err


def test_refusals(parts: tuple[LabelledImages, LabelledImages], tmp_path: Path) -> None:
    train, test = parts
    for settings, message in (
        (DenseKnnSettings(k=0), "k 0 must be 1 or more"),
        (DenseKnnSettings(temperature=0), "temperature 0 must be above 0"),
        (DenseKnnSettings(max_patches=0), "max-patches 0 must be 1 or more"),
        (DenseKnnSettings(query=QueryConfig(size=30)), "size 30 must be a multiple of the patch size 8"),
        (DenseKnnSettings(k=1000), "k 1000 must be from 1 to the"),
    ):
        with pytest.raises(OdisError, match=message):
            evaluate_dense_knn(encoder(), train, test, settings)
    with pytest.raises(OdisError, match="held-out 1 must be"):
        evaluate_segment(encoder(), train, test, SegmentSettings(held_out=1))
    foreign = paintings(tmp_path / "foreign", 2, 0, ["red", "cat"])
    with pytest.raises(DataError, match=r"shows 'cat', a class that .* does not list"):
        evaluate_dense_knn(encoder(), train, LabelledImages.from_index(foreign), DenseKnnSettings(k=1))
    boxes = [
        ImageObjects(r.image, r.width, r.height, (Object((0.0, 0.0, r.width / 2, r.height), label=0),))
        for r in foreign
    ]
    write_index(tmp_path / "boxes.parquet", boxes, root=foreign.root, provenance="x", classes=["red", "cat"])
    only_boxes = open_labelled(tmp_path / "boxes.parquet", "")
    with pytest.raises(DataError, match=r"nothing but background.*; its objects have no masks: --boxes"):
        evaluate_dense_knn(encoder(), only_boxes, test, DenseKnnSettings(k=1))
    filled = open_labelled(tmp_path / "boxes.parquet", "", boxes=True)
    labels = filled.read(0)[1]
    assert (labels[:, : labels.shape[1] // 2] == 1).all()
    assert (labels[:, labels.shape[1] // 2 :] == 0).all()
    (foreign.root / "0.png").write_bytes(b"no image")
    results = evaluate_dense_knn(encoder(), filled, filled, DenseKnnSettings(k=1))
    assert [Path(s["what"]).name for s in results["skipped"]] == ["0.png"]
    with pytest.raises(DataError, match=r"0\.png"):
        evaluate_dense_knn(encoder(), filled, filled, DenseKnnSettings(read=ReadConfig(strict=True), k=1))
