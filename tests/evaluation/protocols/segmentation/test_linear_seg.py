"""`linear-seg`: the head against one that resizes the tokens first, trained by torch; scores by loops."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from odis.cli import main
from odis.errors import OdisError
from odis.evaluation.protocols.layouts.segmentation import open_segmented
from odis.evaluation.protocols.protocol import IMAGENET_MEAN, IMAGENET_STD
from odis.evaluation.protocols.segmentation.linear_seg import LinearSegSettings, evaluate_linear_seg
from odis.evaluation.protocols.segmentation.linear_seg_head import HeadTraining, head_counts, nearest_labels
from odis.evaluation.protocols.segmentation.segmented_views import RandomSquare, SquashBoth
from odis.inference import Encoder

SIDE = 32
SETTINGS = LinearSegSettings(size=SIDE, epochs=3, batch=4, lr=0.5, drop=2)


def parts(root):
    return open_segmented(root, "", part="train"), open_segmented(root, "", part="val")


def test_the_head_is_that_of_tokens_resized_first(monkeypatch):
    monkeypatch.setattr(
        "odis.evaluation.protocols.segmentation.linear_seg_head._AT_ONCE", 2 * 5 * 100
    )  # two at once
    torch.manual_seed(0)
    patches, labels = torch.randn(7, 12, 6).double(), torch.randint(-1, 5, (7, 10, 10))
    head, conv = nn.Linear(6, 5).double(), nn.Conv2d(6, 5, 1).double()
    conv.load_state_dict(
        {"weight": head.weight.data[:, :, None, None].clone(), "bias": head.bias.data.clone()}
    )
    training = HeadTraining(head, (3, 4), 0.1, 0.9, 1e-2, 2)
    sgd = torch.optim.SGD(conv.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(sgd, 2, 0.1)
    for epoch in range(4):
        for start in (0, 4):
            some, of_some = patches[start : start + 4], labels[start : start + 4]
            training.step(some, of_some)
            large = F.interpolate(some.mT.reshape(-1, 6, 3, 4), (10, 10), mode="bilinear")
            loss = F.cross_entropy(conv(large), of_some, ignore_index=-1)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        training.end_epoch(float(epoch % 2))
        if epoch < 2:
            schedule.step()
        torch.testing.assert_close(head.weight, conv.weight[:, :, 0, 0], atol=1e-9, rtol=0)
        torch.testing.assert_close(head.bias, conv.bias, atol=1e-9, rtol=0)
    assert training.best_epoch == 2  # of equal ones the first
    before = head.weight.clone()
    training.step(patches[:2], torch.full((2, 10, 10), -1))  # nothing is known
    assert torch.equal(head.weight, before)


def test_a_saved_state_goes_on_as_if_nothing_had_happened(tmp_path):
    torch.manual_seed(0)
    patches, labels = torch.randn(4, 12, 6), torch.randint(-1, 5, (4, 10, 10))

    def begin() -> HeadTraining:
        torch.manual_seed(1)
        return HeadTraining(nn.Linear(6, 5), (3, 4), 0.1, 0.9, 1e-2, 2)

    whole, first, second = begin(), begin(), begin()
    second.read_state(tmp_path / "s")  # there is none
    assert second.epoch == 0
    for training, epochs in ((whole, 4), (first, 2)):
        for epoch in range(epochs):
            training.step(patches, labels)
            training.end_epoch([5.0, 7.0, 1.0, 2.0][epoch])
    first.write_state(tmp_path / "s")
    second.read_state(tmp_path / "s")
    for epoch in (2, 3):
        second.step(patches, labels)
        second.end_epoch([5.0, 7.0, 1.0, 2.0][epoch])
    assert second.history == whole.history
    assert second.best_epoch == 2
    for name, value in whole.head.state_dict().items():
        assert torch.equal(value, second.head.state_dict()[name])
        assert torch.equal(whole.best[name], second.best[name])
    (tmp_path / "s").write_bytes(b"damaged")
    third = begin()
    third.read_state(tmp_path / "s")
    assert third.epoch == 0


def test_labels_are_made_smaller_as_torch_does_nearest():
    labels = np.random.default_rng(0).integers(-1, 150, (448, 448))
    found = nearest_labels(labels, 100)
    expected = np.array([[labels[112 * i // 25, 112 * j // 25] for j in range(100)] for i in range(100)])
    # torch multiplies in fp32: where a pixel begins at a whole number, it may take the one before.
    whole = np.arange(100) % 25 == 0
    assert (found == expected)[~whole][:, ~whole].all()
    assert (found == expected)[0, 0]
    assert nearest_labels(labels, 448).tolist() == labels.tolist()


@pytest.mark.parametrize("published", [False, True])
def test_it_is_the_slow_version(encoder, segmented, published: bool):
    (train, test), model = (
        parts(segmented(train=6, val=5)),
        replace(encoder(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    )
    settings = replace(SETTINGS, as_published=published)
    row = evaluate_linear_seg(model, train, test, settings)["rows"][0]
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if published else (model.mean, model.std)

    def tokens(pixels: np.ndarray) -> torch.Tensor:
        scaled = (pixels / 255 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
        with torch.no_grad():
            found = model.model.eval()(torch.tensor(scaled[None], dtype=torch.float32)).patches
        return found.mT.reshape(1, -1, 4, 4)

    shown = [SquashBoth(SIDE)(*test.images.read(r)[:2], np.random.default_rng(0)) for r in range(5)]
    torch.manual_seed(0)
    linear = nn.Linear(32, 21)
    conv = nn.Conv2d(32, 21, 1)
    conv.load_state_dict({"weight": linear.weight.data[:, :, None, None], "bias": linear.bias.data})

    @torch.no_grad()
    def score(side: int, count: int) -> float:
        confusion = np.zeros((21, 21))
        for pixels, labels in shown[:count]:
            large = F.interpolate(tokens(pixels), (side, side), mode="bilinear")
            said = conv(large)[0].argmax(0).numpy()
            truth = labels if side == SIDE else nearest_labels(labels, side)
            known = truth >= 0
            np.add.at(confusion, (truth[known], said[known]), 1)
        union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
        iou = np.diag(confusion) / np.maximum(union, 1)
        return 100 * float(iou.mean() if published else iou[union > 0].mean())

    sgd = torch.optim.SGD(conv.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-4)
    history, of_epochs = [], []
    for epoch in range(3):
        sgd.param_groups[0]["lr"] = 0.5 if epoch < 2 else 0.05
        order = np.random.default_rng([0, 2, epoch]).permutation(6).tolist()
        for rows in (order[:4], order[4:]):
            drawn = [
                RandomSquare(SIDE)(*train.images.read(r)[:2], np.random.default_rng([0, epoch, r]))
                for r in rows
            ]
            large = F.interpolate(torch.cat([tokens(p) for p, _ in drawn]), (100, 100), mode="bilinear")
            truth = torch.tensor(np.stack([nearest_labels(m, 100) for _, m in drawn])).long()
            loss = F.cross_entropy(conv(large), truth, ignore_index=-1)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        history.append(score(100, 4 if published else 5))
        of_epochs.append((history[-1], score(SIDE, 5)))
    best = int(np.argmax(history))
    assert row["history"] == pytest.approx(
        history, abs=0.05
    )  # a pixel between two classes may fall either way
    assert row["best_epoch"] == best + 1
    expected = {"best epoch at 100": of_epochs[best][0], f"best epoch at {SIDE}": of_epochs[best][1]}
    if not published:
        expected |= {"mIoU at 100": of_epochs[-1][0], f"mIoU at {SIDE}": of_epochs[-1][1]}
    assert {n: s["value"] for n, s in row["scores"].items()} == pytest.approx(expected, abs=0.05)


def test_noise_gives_chance_and_labels_the_ceiling_of_patches(encoder, segmented, monkeypatch):
    """Patches that are all 0 leave the biases, which learn the most frequent class."""
    (train, test), model = parts(segmented(train=6, val=6, ignored=False)), encoder()
    views = [SquashBoth(SIDE)(*test.images.read(r)[:2], np.random.default_rng(0))[1] for r in range(6)]

    def nothing(self, pixels, masks=None):
        return type("Tokens", (), {"patches": torch.zeros(len(pixels), 16, 8), "grid": (4, 4)})()

    monkeypatch.setattr(Encoder, "tokens", nothing)
    settings = replace(SETTINGS, epochs=20, drop=20, lr=1.0)
    row = evaluate_linear_seg(model, train, test, settings)["rows"][0]
    (guess,) = [c for c, iou in row["iou"].items() if iou > 0]
    share = np.mean([nearest_labels(v, 100) == train.images.classes.index(guess) for v in views])
    assert row["scores"]["mIoU at 100"]["value"] == pytest.approx(100 * share / 4, abs=1e-3)

    head = nn.Linear(21, 21)
    head.load_state_dict({"weight": torch.eye(21), "bias": torch.zeros(21)})
    told = [torch.tensor(np.eye(21, dtype=np.float32)[v[4::8, 4::8].ravel()]) for v in views]
    for side in (100, SIDE):
        counts = head_counts(head, told, (4, 4), views, side)
        for i, view in enumerate(views):
            maps = told[i].T.reshape(1, 21, 4, 4)
            said = F.interpolate(maps, (side, side), mode="bilinear")[0].argmax(0).numpy()
            truth = nearest_labels(view, side)
            for c in range(4):
                both = ((said == c) & (truth == c)).sum()
                assert counts[i, :, c].tolist() == [both, (said == c).sum(), (truth == c).sum()]


def test_an_interrupted_call_goes_on_at_its_epoch(encoder, segmented, tmp_path, monkeypatch):
    (train, test), model = parts(segmented()), encoder()
    expected = evaluate_linear_seg(model, train, test, SETTINGS)["rows"][0]
    settings, original, shown = replace(SETTINGS, cache=str(tmp_path)), Encoder.tokens, [0]

    def stops(self, pixels, masks=None):
        shown[0] += 1
        if shown[0] == 3:  # the second epoch
            raise KeyboardInterrupt
        return original(self, pixels, masks)

    monkeypatch.setattr(Encoder, "tokens", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate_linear_seg(model, train, test, settings)
    found = evaluate_linear_seg(model, train, test, settings)["rows"][0]
    assert shown[0] == 5  # two more epochs, and the test images are not shown again
    assert found["history"] == expected["history"]
    assert found["scores"] == expected["scores"]


def test_settings_out_of_range_are_one_line():
    for change in (
        {"epochs": 0},
        {"batch": 0},
        {"lr": 0.0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"size": 0},
    ):
        with pytest.raises(OdisError, match=next(iter(change)).replace("_", "-")):
            replace(SETTINGS, **change).check()


def test_it_runs_from_the_command_line(encoder, segmented, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    root, out = str(segmented()), tmp_path / "l.json"
    options = ["--model", "a", "--model", "b", "--train", root, "--test", root, "--size", "32"]
    options += ["--epochs", "2", "--workers", "0", "--out", str(out)]
    main(["evaluate", "protocol", "linear-seg", *options])
    told = capsys.readouterr()
    shown = " ".join(told.out.split())
    assert "projected: " in told.err
    assert "Leopart ViT-S/16" in shown
    assert "chosen on the test part" in shown
    written = json.loads(out.read_text())
    assert [row["model"] for row in written["rows"]] == ["a", "b"]
    assert list(written["rows"][0]["scores"]) == [
        "mIoU at 100", "mIoU at 32", "best epoch at 100", "best epoch at 32"
    ]  # fmt: skip
