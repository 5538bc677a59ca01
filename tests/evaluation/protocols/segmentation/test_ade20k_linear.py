"""`ade20k-linear`: head, loss, schedule, view and windows against slow versions; resuming, chance,
ceiling.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.cli import main
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.layouts.segmentation import open_segmented
from odis.evaluation.protocols.segmentation import ade_training as training
from odis.evaluation.protocols.segmentation import channel_head, window_scores
from odis.evaluation.protocols.segmentation.ade20k_linear import Ade20kSettings, evaluate_ade20k, stride_of
from odis.evaluation.protocols.segmentation.ade_views import RandomWindow, distorted, is_varied, short_side
from odis.evaluation.protocols.segmentation.channel_head import ChannelHead, learning_rate, pixel_loss
from odis.objects import rle
from odis.objects.index import write_index
from odis.types import ImageObjects, Object

SETTINGS = Ade20kSettings(size=32, iterations=4, batch=2, warm_up=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ADE20K's folders; the colour of a pixel is its class, 0 is unlabelled."""
    root, rng = tmp_path_factory.mktemp("ade"), np.random.default_rng(0)
    for split, count in (("training", 5), ("validation", 4)):
        (root / "images" / split).mkdir(parents=True)
        (root / "annotations" / split).mkdir(parents=True)
        for i in range(count):
            height, width = int(rng.integers(40, 60)), int(rng.integers(60, 90))
            labels = np.kron(rng.integers(0, 4, (3, 4)), np.ones((20, 24)))[:height, :width].astype(np.uint8)
            pixels = np.stack([labels * 60, 250 - labels * 60, labels * 20 + 100], axis=2).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"ADE_{i:04}.jpg", quality=95)
            Image.fromarray(labels).save(root / "annotations" / split / f"ADE_{i:04}.png")
    return root


def parts(folder: Path):
    return open_segmented(folder, "", part="train"), open_segmented(folder, "", part="val")


def test_the_head_is_its_formula():
    torch.manual_seed(0)
    head = ChannelHead(6, 4).double()
    assert head.conv.bias.abs().sum() == 0
    assert 0.005 < float(head.conv.weight.detach().std()) < 0.02
    features = torch.randn(3, 6, 2, 5, dtype=torch.float64)
    head.dropout.p = 0.0
    found = head.train()(features).detach().numpy()
    weight, values = head.conv.weight.detach().numpy()[:, :, 0, 0], features.numpy()
    mean = values.mean(axis=(0, 2, 3))
    spread = values.var(axis=(0, 2, 3))
    normed = (values - mean[:, None, None]) / np.sqrt(spread + 1e-5)[:, None, None]
    np.testing.assert_allclose(found, np.einsum("cd,bdhw->bchw", weight, normed), atol=1e-6)
    head.dropout.p, head.norm.weight.data[:] = 0.5, 1.0
    torch.manual_seed(1)
    dropped = head.dropout(torch.ones(1, 6, 2, 5))
    assert {tuple(one.unique().tolist()) for one in dropped[0]} == {(0.0,), (2.0,)}  # whole channels
    assert (head.eval()(features) == head(features)).all()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("at_once", [1, 1 << 26])
def test_the_loss_and_its_gradient_are_those_of_the_formula(monkeypatch, whole: bool, at_once: int):
    monkeypatch.setattr(channel_head, "_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=(3, 4, 2, 3))).requires_grad_()
    labels = torch.from_numpy(rng.integers(-1, 4, (3, 8, 12)))
    large = torch.nn.functional.interpolate(scores, (8, 12), mode="bilinear", align_corners=False)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for b in range(3):
        for y in range(8):
            for x in range(12):
                if labels[b, y, x] >= 0:
                    total = total - large[b, :, y, x].log_softmax(0)[labels[b, y, x]]
                    count += 1
    expected = total / (labels.numel() if whole else count)
    (slow,) = torch.autograd.grad(expected, scores)
    found = pixel_loss(scores * 1, labels, whole=whole)
    (fast,) = torch.autograd.grad(found, scores)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
    torch.testing.assert_close(fast, slow)
    assert float(pixel_loss(scores.detach(), labels, whole=whole)) == pytest.approx(
        float(expected.detach()), abs=1e-9
    )
    assert float(pixel_loss(scores.detach(), torch.full_like(labels, -1))) == 0


def test_the_schedule_is_a_falling_line_then_the_cosine_of_all_steps():
    for t in (0, 1, 700, 1499, 1500, 20000, 39999):
        expected = (
            (1e-6 + (1 - 1e-6) * t / 1500) * (1 - t / 40000)
            if t < 1500
            else 0.5 * (1 + math.cos(math.pi * t / 40000))
        )
        assert learning_rate(t, 40000, 1500) == pytest.approx(expected, abs=1e-12)
    assert learning_rate(40000, 40000, 1500) == pytest.approx(0)


@pytest.mark.parametrize(("size", "expected"), [
    ((512, 683), [(0, 0), (0, 171)]),
    ((512, 512), [(0, 0)]),
    ((512, 1200), [(0, 0), (0, 341), (0, 682), (0, 688)]),
    ((700, 512), [(0, 0), (188, 0)]),
])  # fmt: skip
def test_windows_cover_the_image_and_the_last_ends_with_it(size, expected):
    assert window_scores.windows(*size, 512, 341) == expected


def test_scores_are_averaged_where_windows_overlap(monkeypatch):
    rng = np.random.default_rng(0)
    corners = window_scores.windows(8, 20, 8, 5)
    assert corners == [(0, 0), (0, 5), (0, 10), (0, 12)]
    maps = [torch.from_numpy(rng.normal(size=(3, 2, 2))) for _ in corners]
    found = window_scores.stitched(maps, corners, (8, 20), 8)
    larges = [
        torch.nn.functional.interpolate(one[None], (8, 8), mode="bilinear", align_corners=False)[0]
        for one in maps
    ]
    for y in range(8):
        for x in range(20):
            here = [
                one[:, y, x - left]
                for one, (_, left) in zip(larges, corners, strict=True)
                if 0 <= x - left < 8
            ]
            torch.testing.assert_close(found[:, y, x], torch.stack(here).mean(0))
    label = window_scores.best_class(found, (13, 31))
    monkeypatch.setattr(window_scores, "_AT_ONCE", 1)
    assert (window_scores.best_class(found, (13, 31)) == label).all()
    by_hand = torch.nn.functional.interpolate(found[None], (13, 31), mode="bilinear")[0].argmax(0)
    assert (label == by_hand).all()


def test_the_train_view_is_as_stated():
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (4, 6)), np.ones((20, 20))).astype(np.int32)
    image = Image.fromarray(np.repeat((labels * 100).astype(np.uint8)[..., None], 3, axis=2))
    smaller = 0
    for seed in range(30):
        pixels, shown = RandomWindow(64)(image, labels, np.random.default_rng(seed))
        assert pixels.shape == (3, *shown.shape)
        short = int(
            64 * np.random.default_rng(seed).uniform(0.5, 2.0)
        )  # the longer side is 1.5 times as long
        assert shown.shape == (min(64, short), min(64, round(1.5 * short)))
        smaller += min(shown.shape) < 64
        again = RandomWindow(64)(image, labels, np.random.default_rng(seed))
        assert (again[0] == pixels).all()
        assert (again[1] == shown).all()
        if is_varied(shown):
            counts = np.bincount(shown.ravel())
            assert counts.max() / counts.sum() <= 0.75
    assert 3 < smaller < 20  # a third of the scales is below 1
    one = np.zeros((100, 100), np.int32)
    assert not is_varied(one)
    assert not is_varied(np.full((4, 4), -1))
    assert is_varied(np.array([[0, 0, 0, 1]]))
    assert not is_varied(np.array([[0, 0, 0, 0, 1]]))
    assert RandomWindow(64)(Image.new("RGB", (100, 100)), one, np.random.default_rng(0))[0].shape[1] <= 64


def test_the_shorter_side_is_resized_and_labels_by_nearest_pixel():
    labels = np.arange(6).reshape(2, 3).astype(np.int32)
    image, small = short_side(Image.new("RGB", (3, 2)), labels, 4)
    assert image.size == (6, 4)
    assert (small == labels.repeat(2, 0).repeat(2, 1)).all()
    assert short_side(Image.new("RGB", (683, 512)), np.zeros((512, 683)), 448)[0].size == (598, 448)


def test_distortion_changes_light_and_colour_within_bounds():
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    seen = [np.asarray(distorted(grey, np.random.default_rng(seed)))[0, 0] for seed in range(200)]
    assert all(len(set(one.tolist())) == 1 for one in seen)  # grey has no hue and no saturation
    values = [int(one[0]) for one in seen]
    assert min(values) >= 34  # (100 - 32) * .5
    assert max(values) <= 198  # (100 + 32) * 1.5
    assert 20 < sum(value == 100 for value in values) < 90  # a quarter has neither
    red = Image.new("RGB", (4, 4), (200, 40, 40))
    changed = [np.asarray(distorted(red, np.random.default_rng(seed)))[0, 0] for seed in range(60)]
    assert any(one[1] != one[2] for one in changed)  # the hue moved


def test_an_interrupted_training_ends_as_an_uninterrupted_one(encoder, folder, monkeypatch, tmp_path):
    train, test = parts(folder)
    model, steps, step = encoder(), [], training.pixel_loss
    published = replace(SETTINGS, as_published=True, measure_every=2)
    whole = evaluate_ade20k(model, train, test, published)
    kept = replace(published, cache=str(tmp_path), keep_every=1)

    def interrupted(*given, **more):
        steps.append(0)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(*given, **more)

    monkeypatch.setattr(training, "pixel_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_ade20k(model, train, test, kept)
    again = evaluate_ade20k(model, train, test, kept)
    assert len(steps) == 5
    assert again["rows"][0]["scores"] == whole["rows"][0]["scores"]
    assert again["rows"][0]["history"] == whole["rows"][0]["history"]
    assert len(again["rows"][0]["history"]) == 2
    best = max(again["rows"][0]["history"])
    assert again["rows"][0]["scores"]["best mIoU"]["value"] == pytest.approx(best, abs=1e-3)


def hold(monkeypatch, colours: bool) -> None:
    """Patches of 8 that hold the colour of the image, which is its class; or noise."""
    rng = torch.Generator().manual_seed(0)

    def features(encoder, views, side):
        made = []
        for pixels in views:
            padded = np.pad(
                pixels[0].astype(np.float32), ((0, side - pixels.shape[1]), (0, side - pixels.shape[2]))
            )
            small = torch.nn.functional.avg_pool2d(torch.from_numpy(padded)[None], 8)
            near = -((small - torch.arange(4).reshape(4, 1, 1) * 60.0).abs() / 20)
            made.append(near.exp() if colours else torch.randn(near.shape, generator=rng))
        return torch.stack(made)

    monkeypatch.setattr(training, "window_features", features)
    monkeypatch.setattr(
        "odis.evaluation.protocols.segmentation.ade_views.distorted", lambda image, rng: image
    )


def test_features_that_hold_the_classes_come_near_the_ceiling_and_noise_does_not(
    encoder, folder, monkeypatch
):
    train, test = parts(folder)
    tuned = replace(SETTINGS, size=64, iterations=30, batch=4, lr=(0.2,), dropout=0.0)
    reached = {}
    for colours in (True, False):
        hold(monkeypatch, colours)
        rows = {row["model"]: row for row in evaluate_ade20k(encoder(), train, test, tuned)["rows"]}
        reached[colours] = [rows[name]["scores"]["mIoU"]["value"] for name in ("tiny", "chance", "ceiling")]
    found, chance, ceiling = reached[True]
    assert ceiling > 85
    assert found > ceiling - 15
    assert found > chance + 40
    assert reached[False][0] < chance + 15


def test_features_that_say_nothing_give_the_most_frequent_class(encoder, folder, monkeypatch):
    """Patches that are all 0 leave the biases."""

    def features(encoder, views, side):
        return torch.zeros(len(views), 4, side // 8, side // 8)

    monkeypatch.setattr(training, "window_features", features)
    train, test = parts(folder)
    tuned = replace(SETTINGS, iterations=20, batch=4, lr=(0.5,))
    row = evaluate_ade20k(encoder(), train, test, tuned)["rows"][0]
    ((guess, iou),) = [(name, value) for name, value in row["iou"].items() if value > 0]
    labels = np.concatenate([test.images.read(i)[1].ravel() for i in range(4)])
    labels = labels[labels >= 0]
    share = 100 * (labels == test.images.classes.index(guess)).mean()
    assert iou == pytest.approx(share, abs=1e-3)
    assert row["scores"]["mIoU"]["value"] == pytest.approx(share / len(set(labels.tolist())), abs=1e-3)


def test_chance_and_ceiling_are_what_slow_counts_say(encoder, folder):
    train, test = parts(folder)
    results = evaluate_ade20k(encoder(), train, test, SETTINGS)
    rows = {row["model"]: row for row in results["rows"]}
    labels = [test.images.read(i)[1] for i in range(4)]
    counts = np.sum([np.bincount(one[one >= 0], minlength=150) for one in labels], axis=0)
    # the most frequent class everywhere: its share of the labelled pixels, 0 for the other classes that occur
    expected = 100 * counts.max() / counts.sum() / (counts > 0).sum()
    assert rows["chance"]["scores"]["mIoU"]["value"] == pytest.approx(expected, abs=1e-3)
    side, both = 32, np.zeros((2, 150))
    for i, truth in enumerate(labels):
        image = test.images.read(i)[0]
        _, shown = short_side(image, truth, side)
        corners = window_scores.windows(*shown.shape, side, stride_of(side))
        total = np.zeros((150, *shown.shape))
        for top, left in corners:
            part = shown[top : top + side, left : left + side]
            shares = np.zeros((150, 4, 4))
            for y in range(32):
                for x in range(32):
                    if part[y, x] >= 0:
                        shares[part[y, x], y // 8, x // 8] += 1 / 64
            large = torch.nn.functional.interpolate(
                torch.from_numpy(shares)[None], (32, 32), mode="bilinear"
            )[0]
            total[:, top : top + side, left : left + side] += large.numpy()
        count = np.zeros(shown.shape)
        for top, left in corners:
            count[top : top + side, left : left + side] += 1
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(total / count)[None], truth.shape, mode="bilinear"
        )
        said = resized[0].argmax(0).numpy()
        for c in range(150):
            mine, true = (said == c) & (truth >= 0), truth == c
            both[0, c] += (mine & true).sum()
            both[1, c] += (mine | true).sum()
    iou = 100 * (both[0, both[1] > 0] / both[1, both[1] > 0]).mean()
    assert rows["ceiling"]["scores"]["mIoU"]["value"] == pytest.approx(iou, abs=0.05)


def test_patches_of_14_are_shown_448_pixels(encoder, monkeypatch):
    assert Ade20kSettings().side_of(encoder()) == 512
    monkeypatch.setattr("odis.inference.Encoder.patch_size", 14)
    assert Ade20kSettings().side_of(encoder()) == 448
    assert (stride_of(512), stride_of(448)) == (341, 298)


def test_it_runs_from_the_command_line_with_a_sweep(encoder, folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    out = tmp_path / "a.json"
    data = ["--train", str(folder), "--test", str(folder)]
    options = [
        "--size",
        "32",
        "--iterations",
        "2",
        "--warm-up",
        "1",
        "--batch",
        "2",
        "--workers",
        "0",
        "--sweep",
    ]
    main(["evaluate", "protocol", "ade20k-linear", "--model", "a", *data, *options, "--out", str(out)])
    written = json.loads(out.read_text())
    of_model = [row for row in written["rows"] if row["model"] == "a"]
    assert [(row["lr"], row["weight_decay"]) for row in of_model] == [
        (lr, wd) for lr in (1e-4, 3e-4, 1e-3) for wd in (1e-4, 1e-3)
    ]
    assert sum("best of the sweep" in row["mode"] for row in of_model) == 1
    assert written["test"]["images"] == 4
    assert written["test"]["classes"] == 150
    assert set(of_model[0]["scores"]) == {"mIoU"}
    told = capsys.readouterr()
    assert "45.5" in told.out
    assert "projected: " in told.err


def test_what_cannot_be_measured_is_one_line(encoder, folder, tmp_path):
    train, test = parts(folder)
    found = evaluate_ade20k(encoder(), train, train, replace(SETTINGS, iterations=1))
    assert any("5 images are in the test and the train part" in note for note in found["notes"])
    for part in ("training", "validation"):
        (tmp_path / "images" / part).mkdir(parents=True)
        (tmp_path / "annotations" / part).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "images" / part / "a.jpg")
        one = np.full((40, 40), 3, np.uint8)
        one[:9] = 0  # unlabelled pixels are no second class
        Image.fromarray(one).save(tmp_path / "annotations" / part / "a.png")
    with pytest.raises(DataError, match="one class"):
        evaluate_ade20k(encoder(), *parts(tmp_path), SETTINGS)
    for change, line in (
        ({"iterations": 0}, "iterations 0"),
        ({"warm_up": 9}, "warm-up 9"),
        ({"lr": ()}, "lr"),
        ({"weight_decay": (-1.0,)}, "weight-decay"),
        ({"dropout": 1.0}, "dropout 1"),
        ({"sweep": True, "lr": (0.1,)}, "sweep names its own"),
        ({"size": 0}, "size 0"),
    ):
        with pytest.raises(OdisError, match=line):
            replace(SETTINGS, **change).check()
    with pytest.raises(OdisError, match="size 33"):
        evaluate_ade20k(encoder(), train, test, replace(SETTINGS, size=33))


def test_a_broken_image_is_left_out_and_named(encoder, folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "ade")
    (tmp_path / "ade" / "images" / "training" / "ADE_0002.jpg").write_bytes(b"no image")
    (tmp_path / "ade" / "annotations" / "validation" / "ADE_0001.png").write_bytes(b"no image")
    found = evaluate_ade20k(encoder(), *parts(tmp_path / "ade"), SETTINGS)
    assert len(found["skipped"]) == 2
    assert found["test"]["images"] == 3
    assert found["train"]["unread_views"] == 2  # 8 views of 5 images


def test_an_index_with_masks_is_read_and_objects_that_cannot_be_used_are_named(encoder, tmp_path):
    rng, rows = np.random.default_rng(0), []
    for i in range(3):
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        masks = [np.zeros((40, 60), np.uint8) for _ in range(2)]
        masks[0][5:25, 5:30], masks[1][20:35, 30:55] = 1, 1
        boxes = ((5.0, 5.0, 30.0, 25.0), (30.0, 20.0, 55.0, 35.0))
        objects = [Object(b, rle.encode(m), k) for k, (b, m) in enumerate(zip(boxes, masks, strict=True))]
        rows.append(ImageObjects(f"{i}.png", 60, 40, (*objects, Object((4.0, 4.0, 4.0, 9.0), label=0))))
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=["a", "b"])
    images = open_segmented(tmp_path / "i.parquet", "", part="val")
    found = evaluate_ade20k(encoder(), images, images, SETTINGS)
    assert found["test"]["classes"] == 3  # the background is one
    assert len(found["skipped"]) == 3
    strict = replace(SETTINGS, read=replace(SETTINGS.read, strict=True))
    with pytest.raises(DataError, match="object 2"):
        evaluate_ade20k(encoder(), images, images, strict)
