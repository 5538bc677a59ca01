"""The folder for timm: what timm makes of it, without odis' help, is what odis answers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from odis.backbones.features import as_one_object
from odis.config.query import QueryConfig
from odis.errors import OdisError
from odis.exporting import timm_folder
from odis.exporting.network import Exported, any_size
from odis.exporting.parity import probe
from odis.exporting.timm_folder import write_timm

PLAIN, REGISTERS = "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"
POOLED = "vit_medium_patch16_reg4_gap_256"  # no class token; timm's default moves its norm behind the mean
KINDS = [
    {"name": PLAIN, "object_tokens": "read-only"},
    {"name": PLAIN, "object_tokens": "single"},
    {"name": REGISTERS, "object_tokens": "read-only"},
    {"name": PLAIN, "object_tokens": "beside"},
    {"name": REGISTERS, "object_tokens": "beside"},
    {"name": PLAIN, "object_readout": "mean-pool"},
    {"name": POOLED, "object_tokens": "read-only"},
    {"name": "vit_base_patch16_clip_224", "object_tokens": "single"},  # with a norm before its blocks
    {"name": "vit_small_patch16_dinov3", "object_tokens": "read-only"},  # timm's default pools patches
    {"name": "vit_small_patch16_dinov3", "object_tokens": "beside"},
    {"name": "beit_base_patch16_224", "object_tokens": "single"},  # timm takes it at one size
    {"name": PLAIN, "object_tokens": "single", "pos_resize": "dino"},  # another rule at other sizes
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_timm_answers_as_odis_does(kind: dict, exported_of: Callable[..., Exported], tmp_path: Path):
    exported = exported_of(**kind)
    write_timm(tmp_path, exported)
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert not {"mask_token", "object_token", "object_pos"} & keys
    assert not [key for key in keys if key.startswith("fc_norm")]
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    for rows, columns in ((4, 4), (2, 5)) if any_size(exported.network) else ((4, 4),):
        given = probe(rows, columns, exported.encoder.patch_size, 3, 0)
        pixels = given.normalized(exported)
        with torch.no_grad():
            tokens, image = model.forward_features(pixels), model(pixels)
            expected = as_one_object(exported.encoder.model, pixels)
        patches = tokens[:, model.num_prefix_tokens :]
        torch.testing.assert_close(patches, expected.patches, rtol=1e-4, atol=1e-5)
        pooled = exported.pooled or expected.image is None
        wanted = expected.patches.mean(1) if pooled else expected.image
        torch.testing.assert_close(image, wanted, rtol=1e-4, atol=1e-5)


def test_a_network_of_one_size_is_exported_at_that_size(exported_of: Callable[..., Exported], tmp_path: Path):
    for kind in ({"name": "beit_base_patch16_224"}, {"name": PLAIN, "pos_resize": "dino"}):
        with pytest.raises(OdisError, match="size 96: timm takes this network at 64 pixels only"):
            write_timm(tmp_path, exported_of(size=96, object_tokens="single", **kind))


def test_timm_prepares_pixels_as_odis_does(exported_of: Callable[..., Exported], tmp_path: Path):
    """At an odd size: the whole image, resized to the square as odis resizes a crop."""
    exported = exported_of(size=96, name=PLAIN, object_tokens="read-only")
    write_timm(tmp_path, exported)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (13, 17, 3)), np.ones((13, 11, 1))).astype(np.uint8)
    found = transform(Image.fromarray(picture))
    builder = exported.encoder.query_builder(QueryConfig(("crop",), size=96))
    box = [(0.0, 0.0, picture.shape[1], picture.shape[0])]
    from odis.inference.pictures import as_objects

    image = torch.from_numpy(picture.transpose(2, 0, 1).copy())
    (query,) = builder(image, as_objects(None, np.array(box), image=image, name="x"))
    mean, std = (torch.tensor(v)[:, None, None] for v in (exported.encoder.mean, exported.encoder.std))
    expected = (torch.from_numpy(query.pixels).float() / 255 - mean) / std
    assert found.shape == expected.shape == (3, 96, 96)
    level = 1 / 255 / min(exported.encoder.std)
    assert (found - expected).abs().max() <= 2 * level


def test_every_field_of_preprocessing_is_written(exported_of: Callable[..., Exported], tmp_path: Path):
    write_timm(tmp_path, exported_of(name=PLAIN, object_tokens="read-only"))
    config = json.loads((tmp_path / "config.json").read_text())
    written = config["pretrained_cfg"]
    assert written["input_size"] == [3, 64, 64]
    assert (written["crop_pct"], written["crop_mode"], written["interpolation"]) == (1.0, "squash", "bicubic")
    assert written["mean"] == [0.485, 0.456, 0.406]
    assert config["model_args"]["embed_dim"] == 32
    assert config["model_args"]["dynamic_img_size"]


@pytest.mark.parametrize("key", ["blocks.1.attn.qkv.weight", "norm.bias", "pos_embed"])
def test_weights_that_did_not_arrive_are_seen(
    key: str, exported_of: Callable[..., Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A key that is lost, or values that are, whatever the library says of it."""
    exported = exported_of(name=PLAIN, object_tokens="read-only")
    weights = timm_folder.timm_weights(exported.network)
    lost = {name: value for name, value in weights.items() if name != key}
    monkeypatch.setattr(timm_folder, "timm_weights", lambda network: lost)
    with pytest.raises(OdisError, match="timm does not open what was written"):
        write_timm(tmp_path, exported)
    other = weights | {key: torch.zeros_like(weights[key])}
    monkeypatch.setattr(timm_folder, "timm_weights", lambda network: other)
    with pytest.raises(OdisError, match="differs from odis by"):
        write_timm(tmp_path, exported)


def test_a_file_of_another_network_is_seen(exported_of: Callable[..., Exported], tmp_path: Path):
    exported = exported_of(name=PLAIN, object_tokens="read-only")
    write_timm(tmp_path, exported)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({k: v + 0.01 for k, v in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(OdisError, match="differs from odis by"):
        timm_folder.check_timm(tmp_path, exported)
