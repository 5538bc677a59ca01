"""`roxford` and `rparis` against the protocol written out image by image."""

import itertools
import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms as tv

from odis.cli import main
from odis.config.query import ReadConfig
from odis.errors import DataError, OdisError
from odis.evaluation.ground_truth import load_ground_truth
from odis.evaluation.landmark_scores import LandmarkQuery, Landmarks, landmark_scores
from odis.evaluation.protocols.protocol import IMAGENET_MEAN, IMAGENET_STD
from odis.evaluation.protocols.retrieval import landmark_protocol
from odis.evaluation.protocols.retrieval.landmark_protocol import (
    LandmarkSettings,
    evaluate_landmark_protocol,
    shrink,
    whole_patches,
)
from odis.evaluation.protocols.retrieval.roxford import PROTOCOL as ROXFORD
from odis.evaluation.protocols.retrieval.rparis import PROTOCOL as RPARIS

SETTINGS = LandmarkSettings(longest=32)
NAMES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of five shapes, two queries."""
    root, rng = tmp_path_factory.mktemp("roxford5k"), np.random.default_rng(0)
    (root / "jpg").mkdir()
    for name, size in (("q", (60, 44)), ("a", (52, 52)), ("b", (40, 70)), ("c", (36, 36)), ("d", (52, 52))):
        pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(root / "jpg" / f"{name}.jpg")
    truth = {
        "imlist": NAMES, "qimlist": ["q", "a"],
        "gnd": [
            {"bbx": [4.0, 2.0, 44.0, 40.0], "easy": [0], "hard": [1], "junk": [3]},
            {"bbx": [0.0, 0.0, 36.0, 36.0], "easy": [2], "hard": [3], "junk": [0]},
        ],
    }  # fmt: skip
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    return root


@pytest.mark.parametrize(("published", "readout"), [(False, "cls"), (True, "cls+mean")])
def test_rows_are_the_protocol_written_out(encoder, benchmark: Path, published: bool, readout: str):
    model, truth = (
        replace(encoder(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
        load_ground_truth(benchmark / "gnd_roxford5k.pkl"),
    )
    settings = replace(SETTINGS, as_published=published, readout=readout)
    found = evaluate_landmark_protocol("roxford", ROXFORD.about, model, truth, benchmark / "jpg", settings)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if published else (model.mean, model.std)
    to_tensor = tv.Compose([tv.ToTensor(), tv.Normalize(mean, std)])

    def features(name: str, box, scales) -> torch.Tensor:
        image = Image.open(benchmark / "jpg" / f"{name}.jpg")
        image = image if box is None else image.crop(box)
        image.thumbnail((32, 32), Image.Resampling.LANCZOS)
        tensor, made = to_tensor(image)[None], []
        height, width = (side // 8 * 8 for side in tensor.shape[-2:])  # what a convolution of stride 8 sees
        tensor = tensor[..., :height, :width]
        for scale in scales:
            small = tensor
            if scale != 1:
                small = F.interpolate(tensor, scale_factor=scale, mode="bilinear", align_corners=False)
            height, width = (side // 8 * 8 for side in small.shape[-2:])
            with torch.no_grad():
                tokens = model.model.eval()(small[..., :height, :width])
            parts = [tokens.image[0]] + ([tokens.patches[0].mean(0)] if "mean" in readout else [])
            made.append(torch.cat(parts))
        return F.normalize(torch.stack(made).mean(0), dim=0)

    rows = iter(found["rows"])
    for cut in (False, True):
        for scales in ((1,), (1, 0.5**0.5, 0.5)):
            queries = torch.stack([features(q.name, q.box if cut else None, scales) for q in truth.queries])
            database = torch.stack([features(name, None, scales) for name in NAMES])
            expected = landmark_scores(queries @ database.T, truth)
            row = next(rows)
            assert row["mode"].startswith("3 scales" if len(scales) == 3 else "1 scale,")
            assert ("cut" in row["mode"]) is cut
            for setup in ("medium", "hard"):
                value = 100 * np.nanmean(expected[setup]["ap"])
                assert row["scores"][f"{setup} mAP"]["value"] == pytest.approx(value, abs=1e-3)
    assert next(rows, None) is None


def test_noise_gives_chance_and_features_that_hold_the_landmark_the_ceiling(
    encoder, benchmark: Path, monkeypatch
):
    """Chance: the mean of the average precision over every order of the images that count."""
    queries = [LandmarkQuery("q", (0, 0, 9, 9), *map(np.array, ([0], [1], [2])))] * 400
    truth = Landmarks(["a", "b", "c", "d"], queries)

    def precision(order: tuple[str, ...], positives: str) -> float:
        found, total = 0, 0.0
        for rank, image in enumerate(order):
            if image in positives:
                total += ((found / rank if rank else 1) + (found + 1) / (rank + 1)) / 2
                found += 1
        return total / len(positives)

    chance = {
        "medium mAP": np.mean([precision(order, "ab") for order in itertools.permutations("abd")]),
        "hard mAP": np.mean([precision(order, "b") for order in itertools.permutations("bd")]),
    }
    rng = np.random.default_rng(0)

    def noise(encoder, pixels, readout):
        return torch.from_numpy(rng.normal(size=(len(pixels), 3, 16)))

    monkeypatch.setattr(landmark_protocol, "scaled_features", noise)
    measure = partial(evaluate_landmark_protocol, "roxford", ROXFORD.about, encoder(), truth)
    settings = replace(SETTINGS, read=ReadConfig(batch_size=400))
    found = measure(benchmark / "jpg", settings)["rows"]
    for row in found:
        for name, value in chance.items():  # a precision deviates by at most a half
            assert row["scores"][name]["value"] == pytest.approx(100 * value, abs=400 * 0.5 / 20)

    def told(run, encoder, paths, boxes, side, settings):
        shows = torch.tensor([[1.0, 0.0] if Path(p).stem in "qab" else [0.0, 1.0] for p in paths])
        return shows[:, None].repeat(1, 3, 1)

    monkeypatch.setattr(landmark_protocol, "embed", told)
    for row in measure(benchmark / "jpg", settings)["rows"]:
        assert {name: row["scores"][name]["value"] for name in chance} == dict.fromkeys(chance, 100)


def test_an_image_is_never_enlarged_and_cut_to_whole_patches():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 21, 3), dtype=np.uint8))
    assert np.array_equal(shrink(image, 512, 8), np.asarray(image)[:24, :16].transpose(2, 0, 1))
    small = image.copy()
    small.thumbnail((20, 20), Image.Resampling.LANCZOS)
    assert small.size == (14, 20)
    assert np.array_equal(shrink(image, 20, 8), np.asarray(small)[:16, :8].transpose(2, 0, 1))
    with pytest.raises(OdisError, match="7 x 9 pixels has no patch of 8"):
        whole_patches(np.zeros((3, 9, 7)), 8)


def test_each_benchmark_has_its_own_side_and_figures():
    assert ROXFORD.settings.longest == 224
    assert RPARIS.settings.longest == 512
    assert ROXFORD.about.figures[0].values == {"medium mAP": 41.8, "hard mAP": 13.7}
    assert RPARIS.about.figures[0].values == {"medium mAP": 63.1, "hard mAP": 34.4}


def test_what_cannot_be_measured_is_one_line(encoder, benchmark: Path, tmp_path: Path):
    truth = load_ground_truth(benchmark / "gnd_roxford5k.pkl")
    with pytest.raises(DataError, match=r"q\.jpg: no such file; the benchmark needs every image"):
        evaluate_landmark_protocol("roxford", ROXFORD.about, encoder(), truth, tmp_path, SETTINGS)
    for name in ("q", *NAMES):
        (tmp_path / f"{name}.jpg").write_bytes((benchmark / "jpg" / f"{name}.jpg").read_bytes()[:700])
    for workers in (0, 1):
        read = replace(SETTINGS, as_published=True, read=ReadConfig(workers=workers))
        with pytest.raises(DataError, match=r"\.jpg: .*; the benchmark needs every image") as caught:
            evaluate_landmark_protocol("roxford", ROXFORD.about, encoder(), truth, tmp_path, read)
        assert "\n" not in str(caught.value)
    for changed, said in (
        ({"longest": 0}, "longest 0"),
        ({"view": "square"}, "must be one of longest, crop"),
    ):
        with pytest.raises(OdisError, match=said):
            replace(SETTINGS, **changed).check()
    with pytest.raises(OdisError, match="max-test: this protocol has no such setting"):
        replace(SETTINGS, max_test=3).check()


def test_it_runs_from_the_command_line(encoder, benchmark: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    out = tmp_path / "r.json"
    truth = str(benchmark / "gnd_roxford5k.pkl")
    options = ["--longest", "32", "--workers", "0", "--out", str(out)]
    main(["evaluate", "protocol", "roxford", "--model", "a", "--truth", truth, *options])
    told = capsys.readouterr()
    assert "DINO ViT-S/16, GLDv2" in told.out
    assert "projected: " in told.err
    written = json.loads(out.read_text())
    assert len(written["rows"]) == 4
    assert written["gallery"]["images"] == 4
