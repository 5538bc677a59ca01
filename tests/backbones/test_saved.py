"""A model's file."""

from pathlib import Path

import torch
from safetensors import safe_open

from odis.backbones.build import build_vit
from odis.backbones.saved import load_model, save_model
from odis.config.training import ModelConfig

MODEL = {"name": "vit_tiny_patch16_224", "embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}


def test_equal_models_are_equal_files_and_come_back(tmp_path: Path):
    card = {"model": MODEL | {"object_tokens": "beside"}, "image_size": 32, "of": 'Zoë\n"x"\u2028'}
    torch.manual_seed(0)
    model = build_vit(ModelConfig(**card["model"]), 32)
    found = set()
    for i in range(8):  # the library draws an order of two entries each time
        save_model(tmp_path / f"{i}.safetensors", model, card)
        found.add((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(found) == 1
    again, read = load_model(tmp_path / "0.safetensors")
    assert read == card
    assert again.object_tokens == "beside"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        assert set(file.metadata()) == {"odis", "checksum"}


def test_a_model_keeps_its_rule_for_positions(tmp_path: Path):
    """A smaller view of it is seen with the positions that it was trained with."""
    images, seen = torch.randn(1, 3, 24, 16), {}
    for rule in ("timm", "dino"):
        torch.manual_seed(0)
        card = {"model": MODEL | {"object_tokens": "read-only", "pos_resize": rule}, "image_size": 32}
        model = build_vit(ModelConfig(**card["model"]), 32).eval()
        save_model(tmp_path / f"{rule}.safetensors", model, card)
        again = load_model(tmp_path / f"{rule}.safetensors")[0].eval()
        with torch.no_grad():
            seen[rule] = again(images).patches
            assert torch.equal(seen[rule], model(images).patches)
    assert (seen["timm"] - seen["dino"]).abs().max() > 1e-3
