"""`linear-imagenet`: views, schedule and features against those of the references; resuming; the table."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv

from odis.cli import main
from odis.errors import OdisError, OdisWarning
from odis.evaluation.protocols.classification import linear_training
from odis.evaluation.protocols.classification.linear_imagenet import evaluate_linear_imagenet
from odis.evaluation.protocols.classification.linear_settings import (
    KINDS,
    SCHEDULES,
    LinearImagenetSettings,
    Schedule,
)
from odis.evaluation.protocols.classification.linear_training import (
    TrainViews,
    epoch_order,
    features_of,
    learning_share,
)
from odis.evaluation.protocols.layouts.classified import open_classified

SETTINGS = LinearImagenetSettings(
    reference="dino", lrs=(0.5, 5.0), epochs=3, batch=16, crop=16, held_out=0.2, features=("1", "1+mean")
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory):
    """Three colours, which even an untrained network tells apart."""
    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 5)):
        for c, name in enumerate(("blue", "green", "red")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (*rng.integers(20, 40, 2), 3), dtype=np.uint8)
                pixels[..., 2 - c] += np.uint8(130)
                Image.fromarray(pixels).save(root / part / name / f"{i:02}.png")
    return open_classified(root / "train"), open_classified(root / "val")


def test_the_references_grids_and_lengths():
    assert len(SCHEDULES["dino"].lrs) == 1
    assert len(SCHEDULES["ibot"].lrs) == 45
    assert min(SCHEDULES["ibot"].lrs) == pytest.approx(1e-4)
    assert max(SCHEDULES["ibot"].lrs) == pytest.approx(9.0)
    assert len(SCHEDULES["dinov2"].lrs) == 13
    assert SCHEDULES["dinov2"].epochs * SCHEDULES["dinov2"].epoch_steps == 12_500
    assert [LinearImagenetSettings(reference="ibot").kinds(w) for w in (384, 768)] == [("4",), ("1+mean",)]
    assert LinearImagenetSettings(reference="dinov2").kinds(384) == KINDS


@pytest.mark.parametrize("every_step", [False, True])
def test_the_cosine_is_torchs(every_step: bool):
    epochs, steps = 4, 5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    length = epochs * steps if every_step else epochs
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length, eta_min=0)
    schedule = Schedule((1.0,), epochs, None, every_step, "bilinear")
    for epoch in range(epochs):
        for step in range(steps):
            expected = optimizer.param_groups[0]["lr"]
            assert learning_share(schedule, epoch, step, steps) == pytest.approx(expected, abs=1e-12)
            optimizer.step()
            if every_step:
                scheduler.step()
        if not every_step:
            scheduler.step()


def test_train_views_are_torchvisions_and_belong_to_seed_epoch_and_image(parts):
    train, _ = parts
    order = np.array([3, 0, 3])
    views = TrainViews(train, order, 1, SETTINGS)
    again = TrainViews(train, order, 1, SETTINGS)
    other = TrainViews(train, order, 2, SETTINGS)
    pixels, number = views[0]
    assert number == 3
    assert np.array_equal(pixels, again[0][0])
    assert not np.array_equal(pixels, other[0][0])
    assert not np.array_equal(pixels, views[2][0])  # met again in an epoch: another crop
    reference = tv.Compose(
        [
            tv.RandomResizedCrop(16, scale=(0.08, 1.0), interpolation=tv.InterpolationMode.BILINEAR),
            tv.RandomHorizontalFlip(),
            tv.PILToTensor(),
        ]
    )
    seed = int(np.random.SeedSequence([SETTINGS.seed, 1, 0, 3]).generate_state(1)[0])
    torch.manual_seed(seed)
    assert np.array_equal(pixels, reference(Image.open(train.paths[3])).numpy())


def test_an_epoch_has_all_images_once_or_an_endless_series():
    numbers = np.arange(10, 17)
    once = Schedule((1.0,), 2, None, False, "bilinear")
    assert sorted(epoch_order(numbers, 0, once, 4, 0)) == numbers.tolist()
    endless = Schedule((1.0,), 3, 2, True, "bicubic")  # 2 steps of 5
    series = np.concatenate([epoch_order(numbers, e, endless, 5, 0) for e in range(3)])
    assert len(series) == 30
    for start in range(0, 28, 7):
        assert sorted(series[start : start + 7]) == numbers.tolist()


def test_features_are_those_of_the_last_blocks(encoder):
    model = encoder()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    tokens = model.tokens(pixels)
    found = features_of(model, pixels, ("1", "1+mean"))
    torch.testing.assert_close(found["1"], tokens.image)
    torch.testing.assert_close(found["1+mean"], torch.cat([tokens.image, tokens.patches.mean(1)], 1))
    with pytest.raises(OdisError, match="has 1 block, not 4"):
        features_of(model, pixels, ("4",))


def test_heads_learn_and_the_same_call_goes_on(encoder, parts, tmp_path, monkeypatch):
    train, test = parts
    plain = evaluate_linear_imagenet(encoder(), train, test, SETTINGS)
    scores = plain["rows"][0]["scores"]
    assert set(scores) == {"top-1", "last epoch, best head", "best epoch and head"}
    assert scores["best epoch and head"]["value"] >= scores["last epoch, best head"]["value"]
    assert scores["last epoch, best head"]["value"] >= scores["top-1"]["value"]
    assert scores["top-1"]["value"] > 80
    assert plain["train"]["held_out"] == 7
    kept = replace(SETTINGS, cache=str(tmp_path))
    real, calls = linear_training._train_epoch, []

    def interrupted(*given):
        calls.append(given[5])
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*given)

    monkeypatch.setattr(linear_training, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_linear_imagenet(encoder(), train, test, kept)
    resumed = evaluate_linear_imagenet(encoder(), train, test, kept)
    assert calls == [0, 1, 1, 2]
    for name, score in scores.items():
        assert resumed["rows"][0]["scores"][name] == score
    assert resumed["rows"][0]["chosen"] == plain["rows"][0]["chosen"]
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    calls.clear()
    calls += [0, 0]  # the interruption is over
    with pytest.warns(OdisWarning, match="cannot be read .*; the work begins anew"):
        again = evaluate_linear_imagenet(encoder(), train, test, kept)
    assert again["rows"][0]["scores"] == scores
    assert calls == [0, 0, 0, 1, 2]


def test_as_published_holds_nothing_out(encoder, parts):
    train, test = parts
    found = evaluate_linear_imagenet(encoder(), train, test, replace(SETTINGS, as_published=True, epochs=1))
    assert set(found["rows"][0]["scores"]) == {"last epoch, best head", "best epoch and head"}
    assert found["train"]["images"] == 36


def test_noise_gives_chance_and_labels_give_all(encoder, parts, monkeypatch):
    train, test = parts
    rng = np.random.default_rng(0)
    for holds, low, high in ((True, 100, 100), (False, 0, 80)):

        def tokens(model, pixels, kinds, holds=holds):
            # the colour that is strongest is the class
            label = 2 - pixels.astype(float).mean((2, 3)).argmax(1)
            made = np.eye(3)[label] if holds else rng.normal(size=(len(pixels), 3))
            return {kind: torch.from_numpy(made).float() for kind in kinds}

        monkeypatch.setattr(linear_training, "features_of", tokens)
        found = evaluate_linear_imagenet(encoder(), train, test, SETTINGS)
        assert low <= found["rows"][0]["scores"]["top-1"]["value"] <= high


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reference": "mae"}, "reference 'mae' must be one of dino, ibot, dinov2"),
        ({"lrs": (0.0,)}, "must be numbers above 0"),
        ({"features": ("2",)}, r"features '2' must be some of 1, 1\+mean, 4, 4\+mean"),
        ({"epochs": 0}, "epochs 0 must be 1 or more"),
        ({"epoch_steps": -1}, "epoch-steps -1 must be 1 or more"),
        ({"held_out": 1.0}, "held-out 1 must be a share"),
    ],
)
def test_settings_out_of_range_are_one_line(changed, said):
    with pytest.raises(OdisError, match=said):
        replace(SETTINGS, **changed).check()


def test_it_runs_from_the_command_line(encoder, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    train, test = (str(Path(part.path)) for part in parts)
    out = tmp_path / "l.json"
    options = ["--reference", "ibot", "--features", "1", "--epochs", "1", "--batch", "16", "--crop", "16"]
    data = ["--train", train, "--test", test, "--workers", "0", "--out", str(out)]
    main(["evaluate", "protocol", "linear-imagenet", "--model", "a", *options, *data])
    told = capsys.readouterr()
    assert "iBOT ViT-S/16" in told.out
    assert "projected: " in told.err
    written = json.loads(out.read_text())
    assert written["complete"] is True
    assert written["rows"][0]["mode"] == "ibot"
    assert written["rows"][0]["chosen"]["best epoch and head"]["of"] == 1
