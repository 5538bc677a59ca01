"""Small models of every kind, as a run writes them, with weights that make each part count."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from odis.backbones.build import build_vit
from odis.backbones.saved import save_model
from odis.config.training import ModelConfig, PretrainConfig
from odis.exporting.network import Exported
from odis.inference import Encoder, load

PLAIN, SCALED, REGISTERS = "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def write_model(
    path: Path,
    *,
    grid: int = 4,
    margin: int = 0,
    shape: str = "area",
    step: int = 7,
    start: dict[str, str] | None = None,
    **model: Any,
) -> Path:
    """A `model.safetensors` with random weights, large enough for each to be seen in the features."""
    config = PretrainConfig(model=ModelConfig(**(TINY | model)))
    side = grid * (14 if "patch14" in config.model.name else 16)
    torch.manual_seed(0)
    network = build_vit(config.model, side, drop_path=0.0)
    generator = torch.Generator().manual_seed(1)
    for name, value in network.named_parameters():
        scale = 0.5 if "token" in name or "pos" in name or "ls" in name else 0.15
        with torch.no_grad():
            value.add_(scale * torch.randn(value.shape, generator=generator))
    views = config.views
    card = {
        "model": {**vars(config.model), "weights": None},
        "image_size": side,
        "patch_size": network.patch_embed.patch_size[0],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "start_weights": start,
        "mask_coverage": views.mask_coverage,
        "mask_margin": margin,
        "mask_shape": shape,
        "provenance": "annotated",
        "step": step,
        "recipe": "odis-small",
        "odis_version": "0.1.0",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, network, card)
    return path


Made = Callable[..., Path]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`model_file(name=..., object_tokens=..., ...)`: the file of such a model; each is made once."""
    made: dict[str, Path] = {}

    def make(**settings: Any) -> Path:
        key = repr(sorted(settings.items()))
        if key not in made:
            made[key] = write_model(tmp_path_factory.mktemp("model") / "model.safetensors", **settings)
        return made[key]

    return make


@pytest.fixture(scope="session")
def encoder_of(model_file: Made) -> Callable[..., Encoder]:
    """The same as an encoder."""
    return lambda **settings: load(model_file(**settings), device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def exported_of(encoder_of: Callable[..., Encoder]) -> Callable[..., Exported]:
    """The same as what is exported."""
    return lambda size=None, **settings: Exported.of(encoder_of(**settings), size)


WITHOUT_ODIS = """
import importlib.abc, sys
class NoOdis(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "odis":
            raise ImportError("odis is not installed here")
sys.meta_path.insert(0, NoOdis())
try:
    import odis
except ImportError:
    pass
else:
    raise SystemExit("odis could be imported")
"""


@pytest.fixture(scope="session")
def without_odis() -> Callable[..., str]:
    """`without_odis(code, *arguments)`: what a program prints where odis cannot be imported, offline."""

    def run(code: str, *arguments: str | Path, cwd: Path | None = None) -> str:
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-c", f"{WITHOUT_ODIS}\n{code}", *map(str, arguments)],
            capture_output=True, text=True, cwd=cwd, env=kept | quiet,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run
