"""A tiny pretrained backbone, and squares on noise in every form that a task reads."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from odis.backbones.build import build_vit
from odis.backbones.saved import save_model
from odis.config.query import ReadConfig
from odis.config.training import ModelConfig
from odis.downstream.settings import DetectionSettings
from odis.downstream.task import Reading
from odis.machine.ranks import Ranks
from odis.objects import rle
from odis.objects.index import write_index
from odis.train.stop import Stop
from odis.types import ImageObjects, Object

MODEL = ModelConfig(
    name="vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=2, num_heads=2, object_tokens="read-only"
)
CPU = torch.device("cpu")

DETECTION = DetectionSettings(
    size=48, steps=3, batch=2, warm_up=1, channels=8, hidden=16, scales=(2.0, 1.0), anchor=2.0, proposals=40,
    regions=16, checkpoint_every=2, log_every=1, resamples=5, read=ReadConfig(device="cpu"),
)  # fmt: skip
"""A detector that trains in a moment."""


def save_backbone(path: Path, config: ModelConfig = MODEL, seed: int = 3) -> Path:
    """A model file as `odis pretrain` writes it, of weights drawn by a seed."""
    torch.manual_seed(seed)
    card = {
        "model": asdict(config), "image_size": 32, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3],
        "mask_coverage": 0.5, "mask_margin": 0, "mask_shape": "area", "provenance": "annotated", "step": 7,
        "recipe": "tiny",
    }  # fmt: skip
    save_model(path, build_vit(config, 32), card)
    return path


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """`model` and `detection`, settings of what trains in a moment; `save`, `reading` and `one_rank`."""
    return SimpleNamespace(
        model=MODEL, detection=DETECTION, save=save_backbone, reading=reading, one_rank=one_rank
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `indexes/train.parquet` and `test.parquet` (boxes, masks, classes `dark` and `light`, one
    image without objects, one that cannot be read), `train`, `trainannot`, `val` and `valannot`, and class
    folders in `classes/train` and `classes/val`.
    """
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for side, split, count in (("train", "train", 6), ("test", "val", 4)):
        rows = []
        for folder in (root / split, root / f"{split}annot"):
            folder.mkdir()
        for i in range(count):
            pixels = rng.integers(90, 140, (40, 56, 3), dtype=np.uint8)
            labels = np.zeros((40, 56), np.uint8)
            label, (x, y) = i % 2, (int(v) for v in rng.integers(0, 24, 2))
            objects: tuple[Object, ...] = ()
            if (side, i) != ("train", 4):
                pixels[y : y + 14, x : x + 16] = 255 * label
                labels[y : y + 14, x : x + 16] = label + 1
                mask = rle.encode(labels == label + 1)
                objects = (Object((float(x), float(y), x + 16.0, y + 14.0), mask, label),)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
            Image.fromarray(labels).save(root / f"{split}annot" / f"{i}.png")
            rows.append(ImageObjects(f"{split}/{i}.png", 56, 40, objects))
            named = root / "classes" / split / ("dark", "light")[label]
            named.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(named / f"{i}.png")
        if side == "train":
            (root / split / "broken.png").write_bytes(b"no image")
            rows.append(ImageObjects(f"{split}/broken.png", 56, 40, ()))
            Image.new("L", (56, 40)).save(root / f"{split}annot" / "broken.png")
        write_index(
            root / "indexes" / f"{side}.parquet",
            rows,
            root=root,
            provenance="annotated",
            classes=["dark", "light"],
        )
    (root / "class_names.txt").write_text("ground\ndark\nlight\n")
    return root


def reading(**read: object) -> Reading:
    """On the CPU, in this process; what is skipped is forgotten."""
    return Reading(replace(ReadConfig(device="cpu"), **read), CPU, torch.float32, lambda skipped: None)


def one_rank() -> tuple[Ranks, Stop]:
    """The only rank, and that nobody asked to stop."""
    here = Ranks(0, 1, CPU)
    return here, Stop(here)
