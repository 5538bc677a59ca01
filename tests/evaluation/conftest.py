"""Squares whose colour is their class, and a tiny untrained model: even that sees colours."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.backbones.build import build_vit
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.inference import Encoder
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


@pytest.fixture(scope="session")
def model_config() -> ModelConfig:
    return ModelConfig(
        "vit_tiny_patch16_224", None, "read-only", patch_size=8, embed_dim=32, depth=1, num_heads=2
    )


@pytest.fixture(scope="session")
def encoder(model_config: ModelConfig) -> Callable[..., Encoder]:
    """`encoder(source)`: a new encoder, always with the same weights."""

    def build(source: str = "tiny") -> Encoder:
        torch.manual_seed(0)
        config = PretrainConfig(model=model_config, views=ViewsConfig(global_size=16))
        model = build_vit(model_config, 16, drop_path=0.0)
        return Encoder.of(model, config, provenance="annotated", source=source)

    return build


@pytest.fixture(scope="session")
def squares() -> Callable[..., ObjectIndex]:
    """`squares(folder, classes, images)`: an index of images of two squares, each of a noisy colour."""

    def write(
        folder: Path,
        classes: Sequence[str],
        images: int,
        *,
        seed: int = 0,
        noise: float = 25,
        labelled: bool = True,
    ) -> ObjectIndex:
        folder.mkdir()
        rng, rows = np.random.default_rng(seed), []
        for i in range(images):
            pixels, objects = np.full((16, 32, 3), 128, dtype=np.uint8), []
            for n in range(2):
                label = int(rng.integers(len(classes)))
                pixels[:, 16 * n : 16 * n + 16] = np.clip(
                    COLOURS[classes[label]] + rng.normal(0, noise, (16, 16, 3)), 0, 255
                )
                objects.append(Object((16 * n, 0, 16 * n + 16, 16), label=label if labelled else None))
            Image.fromarray(pixels).save(folder / f"{i}.png")
            rows.append(ImageObjects(f"{i}.png", 32, 16, tuple(objects)))
        write_index(
            folder / "index.parquet", rows, root=folder, provenance="annotated", classes=list(classes)
        )
        return ObjectIndex.open(folder / "index.parquet")

    return write
