"""The landmark protocol end to end, on images and a ground truth of its own."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.backbones.build import build_vit
from odis.config.query import QueryConfig
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import DataError
from odis.evaluation.ground_truth import load_ground_truth
from odis.evaluation.landmark_scores import landmark_scores
from odis.evaluation.landmarks import evaluate_landmarks
from odis.evaluation.settings import EvaluationSettings
from odis.inference import Encoder

MODEL = ModelConfig(
    "vit_tiny_patch16_224", None, "read-only", patch_size=8, embed_dim=32, depth=1, num_heads=2
)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder.of(
        build_vit(MODEL, 16, drop_path=0.0),
        PretrainConfig(model=MODEL, views=ViewsConfig(global_size=16)),
        source="tiny",
    )


def test_landmarks_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "jpg").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("q", (40, 24)), ("a", (32, 32)), ("b", (24, 40)), ("c", (16, 16)), ("d", (32, 24))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(
            tmp_path / "jpg" / f"{name}.jpg"
        )
    truth = {
        "imlist": ["a", "b", "c", "d"], "qimlist": ["q", "a"],
        "gnd": [
            {"bbx": [4.0, 2.0, 30.0, 20.0], "easy": [0, 2], "hard": [1], "junk": [3]},
            {"bbx": [0.0, 0.0, 16.0, 16.0], "easy": [], "hard": [3], "junk": [0]},
        ],
    }  # fmt: skip
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    results = evaluate_landmarks(
        encoder(),
        tmp_path / "gnd.pkl",
        None,
        EvaluationSettings(query=QueryConfig(modes=["crop", "masked-attention"])),
    )
    images = [Image.open(tmp_path / "jpg" / f"{name}.jpg") for name in "abcd"]
    whole = torch.stack([f.objects[0] for f in encoder().embed(images, mode="whole-image")])
    queries = [Image.open(tmp_path / "jpg" / "q.jpg"), images[0]]
    for row in results["rows"]:
        found = encoder().embed(queries, boxes=[[g["bbx"]] for g in truth["gnd"]], mode=row["mode"])
        asked = torch.cat([f.objects for f in found])
        similarity = torch.nn.functional.normalize(asked) @ torch.nn.functional.normalize(whole).T
        expected = landmark_scores(similarity, load_ground_truth(tmp_path / "gnd.pkl"))
        for setup in ("easy", "medium", "hard"):
            assert row["scores"][f"{setup} mAP"]["value"] == pytest.approx(
                100 * np.nanmean(expected[setup]["ap"]), abs=1e-3
            )
        assert row["scores"]["hard mP@5"]["value"] == pytest.approx(
            100 * np.nanmean(expected["hard"]["p@5"]), abs=1e-3
        )
    assert results["gallery"]["images"] == 4
    json.dumps(results)
    (tmp_path / "jpg" / "c.jpg").write_bytes((tmp_path / "jpg" / "c.jpg").read_bytes()[:300])
    with pytest.raises(DataError, match=r"c\.jpg: .*"):
        evaluate_landmarks(
            encoder(), tmp_path / "gnd.pkl", None, EvaluationSettings(query=QueryConfig(modes=["crop"]))
        )
    (tmp_path / "jpg" / "c.jpg").unlink()
    with pytest.raises(DataError, match=r"c\.jpg"):
        evaluate_landmarks(
            encoder(),
            tmp_path / "gnd.pkl",
            tmp_path / "jpg",
            EvaluationSettings(query=QueryConfig(modes=["crop"])),
        )
