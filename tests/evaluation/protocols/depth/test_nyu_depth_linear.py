"""`nyu-depth-linear`: head, loss, schedule, view and error against slow versions; resuming, chance,
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
from odis.evaluation.protocols.depth import depth_training as training
from odis.evaluation.protocols.depth.depth_head import (
    DepthHead,
    depth_loss,
    first_beta,
    image_rmse,
    learning_rate,
    patch_depth,
)
from odis.evaluation.protocols.depth.depth_views import DepthView, padded, resized
from odis.evaluation.protocols.depth.nyu_depth_linear import NyuDepthSettings, evaluate_nyu_depth
from odis.evaluation.protocols.layouts.nyu import open_nyu
from odis.evaluation.protocols.training.iterated_heads import IteratedHeads, image_at

SETTINGS = NyuDepthSettings(iterations=3, batch=2, without_variance=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ramp of depth whose light is its depth."""
    root, rng = tmp_path_factory.mktemp("nyu"), np.random.default_rng(0)
    for place, count in (("sync/kitchen", 4), ("official_splits/test/bath", 3)):
        (root / place).mkdir(parents=True)
        for i in range(count):
            ramp = np.linspace(1000, 4000 + 1000 * i, 640)[None] + rng.uniform(0, 50, (480, 640))
            ramp[100:120] = 0
            pixels = np.repeat((ramp / 40).astype(np.uint8)[..., None], 3, axis=2)
            Image.fromarray(pixels).save(root / place / f"rgb_{i:05}.jpg")
            Image.fromarray(ramp.astype(np.uint16)).save(root / place / f"sync_depth_{i:05}.png")
    return root


def test_the_head_is_its_formula():
    torch.manual_seed(0)
    head = DepthHead(5, bins=7).double().eval()
    features = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    bins = np.linspace(0.001, 10, 7)
    found = head(features).detach().numpy()
    weight, bias = head.conv.weight.detach().numpy()[:, :, 0, 0], head.conv.bias.detach().numpy()
    for b in range(2):
        for y in range(3):
            for x in range(4):
                normed = features[b, :, y, x].numpy() / np.sqrt(
                    1 + head.norm.eps
                )  # untrained: mean 0, variance 1
                w = np.maximum(weight @ normed + bias, 0) + 0.1
                assert found[b, y, x] == pytest.approx((w * bins).sum() / w.sum(), abs=1e-6)
    assert DepthHead(5).conv.out_channels == 256
    assert DepthHead(5).bins[[0, -1]].tolist() == pytest.approx([0.001, 10])


def test_the_loss_is_its_formula():
    rng = np.random.default_rng(0)
    said, true = rng.uniform(0.1, 9, (2, 3, 4)), rng.uniform(0.1, 9, (2, 3, 4))
    true[0, 0] = 0
    g = [math.log(s) - math.log(t) for s, t in zip(said.ravel(), true.ravel(), strict=True) if t > 0]
    mean = sum(g) / len(g)
    variance = sum((one - mean) ** 2 for one in g) / (len(g) - 1)
    pair = torch.from_numpy(said), torch.from_numpy(true)
    assert float(depth_loss(*pair)) == pytest.approx(math.sqrt(variance + 0.15 * mean**2), abs=1e-9)
    assert float(depth_loss(*pair, variance=False)) == pytest.approx(math.sqrt(0.15) * abs(mean), abs=1e-9)
    leaf = pair[0].clone().requires_grad_()
    depth_loss(leaf, torch.zeros_like(leaf)).backward()
    assert (leaf.grad == 0).all()
    depth_loss(leaf, leaf.detach().clone()).backward()
    assert leaf.grad.isfinite().all()


def test_the_schedule_is_a_line_times_a_cosine_and_beta_follows():
    total, warm = 38400, 12800
    for t in (0, 1, 6400, 12799, 12800, 20000, 38399):
        line = 0.001 + 0.999 * t / warm if t < warm else 1
        cosine = 1 / 25000 + (1 - 1 / 25000) * 0.5 * (1 + math.cos(math.pi * t / total))
        assert learning_rate(t, total, warm) == pytest.approx(line * cosine, abs=1e-12)
    assert learning_rate(0, total, warm) == pytest.approx(1e-3)
    assert learning_rate(total, total, warm) == pytest.approx(1 / 25000)
    assert [first_beta(t, total, warm, True) for t in (0, 12799)] == [0, 0]
    assert [first_beta(t, total, warm, False) for t in (0, 12799)] == [0.85, 0.85]
    assert first_beta(warm, total, warm, True) == pytest.approx(0.85)
    assert first_beta(total, total, warm, True) == pytest.approx(0.95)


def test_the_error_is_of_eigens_crop_image_by_image():
    rng = np.random.default_rng(0)
    said, true = (rng.uniform(0, 12, (480, 640)).astype(np.float32) for _ in range(2))
    true[true > 10] = 0
    squares = []
    for y in range(45, 471):
        for x in range(41, 601):
            if true[y, x] > 0:
                squares.append((min(max(float(said[y, x]), 0.001), 10) - float(true[y, x])) ** 2)
    assert image_rmse(said, true) == pytest.approx(math.sqrt(sum(squares) / len(squares)), abs=1e-6)
    outside = np.ones((480, 640), np.float32)
    outside[45:471, 41:601] = 0
    assert math.isnan(image_rmse(said, outside))


def test_the_train_view_moves_image_and_depth_alike():
    rng = np.random.default_rng(0)
    depth = np.zeros((480, 640), np.float32)
    depth[45:472, 43:608] = rng.uniform(1, 5, (427, 565))
    image = Image.fromarray(np.repeat((depth * 40).astype(np.uint8)[..., None], 3, axis=2))
    plain, mirrored = 0, 0
    for seed in range(40):
        pixels, metres = DepthView()(image, depth, np.random.default_rng(seed))
        assert pixels.shape == (3, 416, 544)
        assert metres.shape == (416, 544)
        seen = (metres * 40).astype(np.uint8)
        if (pixels[0] == seen).all():  # neither turned nor recoloured
            plain += 1
            inner = depth[45:472, 43:608]
            for flipped in (False, True):
                one = inner[:, ::-1] if flipped else inner
                places = np.argwhere(one[: 427 - 415, : 565 - 543] == metres[0, 0])
                mirrored += flipped and any(
                    (one[y : y + 416, x : x + 544] == metres).all() for y, x in places
                )
    assert 3 <= plain <= 20  # a quarter of 40
    assert 0 < mirrored < plain
    again = [DepthView()(image, depth, np.random.default_rng(3))[0] for _ in range(2)]
    assert (again[0] == again[1]).all()


def test_padding_is_around_and_is_cut_off_again():
    images = torch.arange(2 * 3 * 10 * 13.0).reshape(2, 3, 10, 13)
    large, (top, left) = padded(images, 4)
    assert large.shape == (2, 3, 12, 16)
    assert (top, left) == (1, 1)
    assert (large[:, :, 1:11, 1:14] == images).all()
    assert large.sum() == images.sum()
    maps = torch.rand(2, 3, 4)
    by_hand = torch.nn.functional.interpolate(maps[:, None], (12, 16), mode="bilinear")[:, 0, 1:11, 1:14]
    torch.testing.assert_close(resized(maps, (10, 13), 4, (10, 13)), by_hand)
    whole = torch.nn.functional.interpolate(maps[:, None], (24, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(resized(maps, (24, 32), 4, (12, 16)), whole)


def test_patches_hold_their_mean_known_depth():
    truth = np.array([[1, 3, 0, 0], [0, 2, 0, 0], [5, 5, 4, 8], [5, 5, 0, 0]], np.float32)
    assert patch_depth(truth, (2, 2)).tolist() == [[2, 2], [5, 6]]


def test_a_pass_of_the_series_shows_each_image_once():
    for number in range(3):
        assert sorted(image_at(number * 7 + i, 7, 5) for i in range(7)) == list(range(7))
    assert [image_at(i, 7, 5) for i in range(14)] != [image_at(i, 7, 6) for i in range(14)]


def test_an_interrupted_training_ends_as_an_uninterrupted_one(encoder, folder, monkeypatch, tmp_path):
    train, test, model = open_nyu(folder, "train"), open_nyu(folder, "test"), encoder()
    whole = evaluate_nyu_depth(model, train, test, SETTINGS)
    kept = replace(SETTINGS, cache=str(tmp_path), keep_every=2)
    steps, step = [], training.depth_loss

    def interrupted(*given, **more):
        steps.append(0)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(*given, **more)

    monkeypatch.setattr(training, "depth_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_nyu_depth(model, train, test, kept)
    again = evaluate_nyu_depth(model, train, test, kept)
    assert len(steps) == 4  # two, one that was interrupted, and that one again
    assert again["rows"][0]["scores"] == whole["rows"][0]["scores"]
    assert evaluate_nyu_depth(model, train, test, kept)["rows"][0]["scores"] == whole["rows"][0]["scores"]
    assert len(steps) == 4
    next(tmp_path.rglob("heads.safetensors")).write_bytes(b"damaged")
    assert evaluate_nyu_depth(model, train, test, kept)["rows"][0]["scores"] == whole["rows"][0]["scores"]


def test_steps_are_adamw_with_the_stated_numbers():
    """Against the formula of AdamW (Loshchilov and Hutter), with clipping."""
    module = torch.nn.Linear(2, 1, bias=False).double()
    start = module.weight.detach().clone().numpy()
    (head,) = IteratedHeads([(module, 0.1, 0.01)], beta2=0.99).heads
    w, m, v = start.copy(), np.zeros((1, 2)), np.zeros((1, 2))
    product = 1.0
    for t, (lr, beta1) in enumerate([(0.1, 0.85), (0.05, 0.9), (0.02, 0.95)], start=1):
        x = torch.tensor([[1.0, -2.0 * t]], dtype=torch.float64)
        head.step((module(x) ** 2).sum(), lr=lr, beta1=beta1, clip=0.5)
        g = 2 * (w @ x.numpy().T) @ x.numpy()
        g *= min(1, 0.5 / (np.linalg.norm(g) + 1e-6))
        w = w * (1 - lr * 0.01)
        m, v = beta1 * m + (1 - beta1) * g, 0.99 * v + 0.01 * g**2
        product = beta1**t  # torch corrects by the present beta
        w = w - lr * (m / (1 - product)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        np.testing.assert_allclose(module.weight.detach().numpy(), w, atol=1e-9)


def test_chance_is_the_mean_depth_and_the_ceiling_is_below(encoder, folder):
    train, test = open_nyu(folder, "train"), open_nyu(folder, "test")
    rows = {row["model"]: row for row in evaluate_nyu_depth(encoder(), train, test, SETTINGS)["rows"]}
    depths = [training.read_depth(depth) for _, depth in train.pairs]
    mean = np.concatenate([d[d > 0] for d in depths]).mean(dtype=np.float64)
    errors = []
    for _, path in test.pairs:
        part = training.read_depth(path)[45:471, 41:601]
        errors.append(np.sqrt(np.mean((part[part > 0].astype(np.float64) - mean) ** 2)))
    assert rows["chance"]["scores"]["RMSE"]["value"] == pytest.approx(np.mean(errors), abs=1e-3)
    assert rows["ceiling"]["scores"]["RMSE"]["value"] < 0.1
    assert "8 px" in rows["ceiling"]["mode"]


def test_features_that_hold_the_depth_reach_the_ceiling_and_noise_chance(encoder, folder, monkeypatch):
    """Hat functions of the true depth are enough for the head; noise leaves it at one depth."""
    train, test, model = open_nyu(folder, "train"), open_nyu(folder, "test"), encoder()
    knots = torch.linspace(0, 8, 17)
    rng = torch.Generator().manual_seed(0)
    for holds in (True, False):

        def features(encoder, pixels, holds=holds):
            light = pixels[:, 0].float() * 0.04  # the photographs' light is their depth
            maps = torch.nn.functional.avg_pool2d(light[:, None], 16)[:, 0]
            if not holds:
                return torch.randn(len(maps), 17, *maps.shape[1:], generator=rng)
            return (1 - (maps[:, None] - knots[:, None, None]).abs() / 0.5).clamp_min(0)

        monkeypatch.setattr(training, "depth_features", features)
        monkeypatch.setattr(type(model), "patch_size", 16)
        tuned = replace(SETTINGS, iterations=24, batch=2, lr=(0.1,), without_variance=0)
        rows = {row["model"]: row for row in evaluate_nyu_depth(model, train, test, tuned)["rows"]}
        error, chance = (rows[name]["scores"]["RMSE"]["value"] for name in ("tiny", "chance"))
        assert (error < 0.6 * chance) if holds else (0.8 * chance < error < 1.5 * chance)


def test_features_that_say_nothing_give_one_depth(encoder, folder, monkeypatch):
    """Patches that are all 0 leave the biases; of one depth everywhere, the loss is least at the geometric
    mean.
    """
    train, test, model = open_nyu(folder, "train"), open_nyu(folder, "test"), encoder()

    def features(encoder, pixels):
        return torch.zeros(len(pixels), 3, pixels.shape[2] // 16, pixels.shape[3] // 16)

    monkeypatch.setattr(training, "depth_features", features)
    monkeypatch.setattr(type(model), "patch_size", 16)
    tuned = replace(SETTINGS, iterations=12, batch=1, lr=(0.2,), without_variance=0)
    error = evaluate_nyu_depth(model, train, test, tuned)["rows"][0]["scores"]["RMSE"]["value"]
    depths = np.concatenate([d[d > 0] for d in (training.read_depth(path) for _, path in train.pairs)])
    one = np.full((480, 640), np.exp(np.log(depths).mean()))
    expected = np.mean([image_rmse(one, training.read_depth(path)) for _, path in test.pairs])
    assert error == pytest.approx(expected, rel=0.02)


def test_it_runs_from_the_command_line_with_a_sweep(encoder, folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    out = tmp_path / "n.json"
    arguments = ["--model", "a", "--data", str(folder), "--iterations", "1", "--batch", "2", "--workers", "0"]
    main(["evaluate", "protocol", "nyu-depth-linear", *arguments, "--sweep", "--out", str(out)])
    written = json.loads(out.read_text())
    of_model = [row for row in written["rows"] if row["model"] == "a"]
    assert [(row["lr"], row["weight_decay"]) for row in of_model] == [
        (lr, wd) for lr in (1e-4, 3e-4, 1e-3) for wd in (1e-4, 1e-3)
    ]
    assert sum("best of the sweep on the test part" in row["mode"] for row in of_model) == 1
    assert written["unit"] == "metres"
    told = capsys.readouterr()
    shown = told.out
    assert "projected: " in told.err
    assert "0.446" in shown
    assert "metres, with 95 %" in shown


def test_published_statistics_and_precision(encoder, folder, monkeypatch):
    asked = []
    real = training.depth_features

    def features(model, pixels):
        asked.append((model.std, model.precision))
        return real(model, pixels)

    monkeypatch.setattr(training, "depth_features", features)
    model = replace(encoder(), std=(0.2, 0.25, 0.3), precision="bf16")
    train, test = open_nyu(folder, "train"), open_nyu(folder, "test")
    evaluate_nyu_depth(model, train, test, replace(SETTINGS, iterations=1, as_published=True))
    assert set(asked) == {((0.229, 0.224, 0.225), "fp32")}


def test_what_cannot_be_measured_is_one_line(encoder, folder, tmp_path):
    train, test, model = open_nyu(folder, "train"), open_nyu(folder, "test"), encoder()
    Image.fromarray(np.zeros((480, 640), np.uint16)).save(tmp_path / "none.png")
    blind = replace(train, pairs=((train.pairs[0][0], str(tmp_path / "none.png")),))
    with pytest.raises(DataError, match="knows no depth in any of its 1 train image"):
        evaluate_nyu_depth(model, blind, test, SETTINGS)
    with pytest.raises(DataError, match="knows no depth in any of its 1 test image"):
        evaluate_nyu_depth(model, train, blind, replace(SETTINGS, iterations=1))
    found = evaluate_nyu_depth(model, train, train, replace(SETTINGS, iterations=1, max_test=2))
    assert any("2 images are in the test and the train part" in note for note in found["notes"])
    for change, line in (
        ({"iterations": 0}, "iterations 0"),
        ({"warm_up": 9}, "warm-up 9"),
        ({"lr": ()}, "lr"),
        ({"weight_decay": (-1.0,)}, "weight-decay"),
        ({"clip": 0.0}, "clip 0"),
        ({"sweep": True, "lr": (0.1,)}, "sweep names its own"),
    ):
        with pytest.raises(OdisError, match=line):
            replace(SETTINGS, **change).check()


def test_a_broken_image_is_left_out_of_its_batch_and_named(encoder, folder, tmp_path):
    train, test = open_nyu(folder, "train"), open_nyu(folder, "test")
    Image.new("RGB", (64, 48)).save(tmp_path / "small.jpg")
    broken = replace(train, pairs=((str(tmp_path / "small.jpg"), train.pairs[0][1]), *train.pairs[1:]))
    found = evaluate_nyu_depth(encoder(), broken, test, replace(SETTINGS, iterations=2))
    assert [item["why"] for item in found["skipped"]] == ["is 64 x 48 pixels, must be 640 x 480"]
    assert found["train"]["unread_views"] == 1
