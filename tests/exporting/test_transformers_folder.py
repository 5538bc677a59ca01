"""The two folders for transformers, opened by its own classes and held against odis."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers")

from odis.backbones.features import as_one_object  # noqa: E402
from odis.config.query import QueryConfig  # noqa: E402
from odis.errors import OdisError  # noqa: E402
from odis.exporting import transformers_folder  # noqa: E402
from odis.exporting.network import Exported  # noqa: E402
from odis.exporting.parity import odis_outputs, probe  # noqa: E402
from odis.exporting.prefix import first_patch  # noqa: E402
from odis.exporting.transformers_folder import (  # noqa: E402
    choose_native,
    elsewhere,
    write_native,
    write_own,
)
from odis.inference.pictures import as_objects  # noqa: E402

PLAIN, SCALED, REGISTERS = "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"
ROTARY = "vit_small_patch16_dinov3"
GATED = "vit_giant_patch14_dinov2"
FOURTH = "dinov2_with_registers"
NATIVE = [
    ({"name": PLAIN, "object_tokens": "read-only"}, None, "vit"),
    ({"name": PLAIN, "object_tokens": "single"}, "dinov2", "dinov2"),
    ({"name": PLAIN, "object_tokens": "read-only"}, FOURTH, FOURTH),
    ({"name": SCALED, "object_tokens": "read-only"}, None, "dinov2"),
    ({"name": SCALED, "object_tokens": "single"}, FOURTH, FOURTH),
    ({"name": REGISTERS, "object_tokens": "read-only"}, None, FOURTH),
    ({"name": PLAIN, "object_tokens": "beside"}, None, FOURTH),
    ({"name": REGISTERS, "object_tokens": "beside"}, None, FOURTH),
    ({"name": PLAIN, "object_readout": "mean-pool"}, None, "vit"),
    ({"name": ROTARY, "object_tokens": "read-only"}, None, "dinov3_vit"),
    ({"name": ROTARY, "object_tokens": "beside"}, None, "dinov3_vit"),
    ({"name": "vit_small_patch16_dinov3_qkvb", "object_tokens": "single"}, None, "dinov3_vit"),
    ({"name": PLAIN, "object_tokens": "single", "pos_resize": "dino"}, FOURTH, FOURTH),
    ({"name": GATED, "object_tokens": "single", "embed_dim": 48, "num_heads": 3}, None, "dinov2"),
]


def opened(folder: Path):
    return transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()


@pytest.mark.parametrize(("kind", "wanted", "native"), NATIVE, ids=str)
def test_the_native_folder_answers_as_odis_does(
    kind: dict, wanted: str | None, native: str, exported_of: Callable[..., Exported], tmp_path: Path
):
    exported = exported_of(**kind)
    assert choose_native(exported, wanted) == (native, None)
    write_native(tmp_path, exported, native)
    model = opened(tmp_path)
    assert model.config.model_type == native
    eps = json.loads((tmp_path / "config.json").read_text())["layer_norm_eps"]
    assert eps == (1e-5 if native == "dinov3_vit" else 1e-6)
    every = native in (FOURTH, "dinov3_vit") and "pos_resize" not in kind
    assert (elsewhere(tmp_path, exported, native) is None) == every
    sizes = [(4, 4), (2, 5), (7, 6)] if every else [(4, 4)]
    for rows, columns in sizes:
        pixels = probe(rows, columns, exported.encoder.patch_size, 3, 0).normalized(exported)
        with torch.no_grad():
            found, expected = model(pixel_values=pixels), as_one_object(exported.encoder.model, pixels)
        assert found.last_hidden_state.shape[1] == first_patch(exported) + rows * columns
        patches = found.last_hidden_state[:, first_patch(exported) :]
        torch.testing.assert_close(patches, expected.patches, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.pooler_output, expected.image, rtol=1e-4, atol=1e-5)


def test_positions_of_another_size_are_baked_in(exported_of: Callable[..., Exported], tmp_path: Path):
    exported = exported_of(size=96, name=PLAIN, object_tokens="read-only")
    write_native(tmp_path, exported, "vit")
    pixels = probe(6, 6, 16, 2, 0).normalized(exported)
    with torch.no_grad():
        found, expected = opened(tmp_path)(pixel_values=pixels), exported.encoder.model(pixels)
    torch.testing.assert_close(found.last_hidden_state[:, 1:], expected.patches, rtol=1e-4, atol=1e-5)


def test_where_another_rule_interpolates_it_is_measured(exported_of: Callable[..., Exported], tmp_path: Path):
    exported = exported_of(name=SCALED, object_tokens="read-only")
    write_native(tmp_path / "one", exported, "dinov2")
    cosine = elsewhere(tmp_path / "one", exported, "dinov2")
    pixels = probe(6, 6, 14, 1, 0).normalized(exported)
    with torch.no_grad():
        found, expected = opened(tmp_path / "one")(pixel_values=pixels), exported.encoder.model(pixels)
    by_hand = torch.cosine_similarity(found.last_hidden_state[:, 1:], expected.patches, dim=-1).min()
    assert cosine == pytest.approx(float(by_hand), abs=1e-5)
    assert cosine < 0.99999
    write_native(tmp_path / "other", exported, FOURTH)
    assert elsewhere(tmp_path / "other", exported, FOURTH) is None


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ({"name": "vit_medium_patch16_reg4_gap_256", "object_tokens": "read-only"}, None, "no class token"),
        ({"name": "vit_base_patch16_clip_224"}, None, "norm before its blocks"),
        ({"name": "vit_base_patch16_clip_224"}, "dinov2", "native dinov2: .*norm before its blocks"),
        ({"name": REGISTERS}, "vit", "native vit: .*it has registers, for which ViTModel has no place"),
        ({"name": SCALED}, "vit", "it has layer scale"),
        ({"name": ROTARY}, "vit", "native vit: .*its positions are rotations"),
        ({"name": PLAIN}, "dinov3_vit", "native dinov3_vit: .*its positions are no rotations"),
        ({"name": "eva02_tiny_patch14_224"}, None, "its rotations are not DINOv3's"),
        ({"name": "beit_base_patch16_224"}, None, "it has no absolute positions"),
        ({"name": PLAIN, "object_tokens": "beside"}, "vit", "it has an object token beside"),
        ({"name": PLAIN, "object_tokens": "beside", "object_sees_cls": False}, None, "is seen by [CLS] and"),
        ({"name": GATED}, None, "its MLP is gated"),  # of a width that transformers cannot make
        (
            {"name": PLAIN},
            "resnet",
            "native 'resnet' must be one of vit, dinov2, dinov2_with_registers, dino",
        ),
    ],
)
def test_what_has_no_place_is_said(
    kind: dict, wanted: str | None, message: str, exported_of: Callable[..., Exported]
):
    exported = exported_of(**{"object_tokens": "single"} | kind)
    if wanted is None:
        assert message in choose_native(exported, None)[1]
    else:
        with pytest.raises(OdisError, match=message):
            choose_native(exported, wanted)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: {k: v for k, v in w.items() if "layer.1.attention.attention.key" not in k},
        lambda w: {k.replace("layer.1.mlp", "layer.1.other"): v for k, v in w.items()},
        lambda w: w | {"layernorm.weight": w["layernorm.weight"] * 1.1},
        lambda w: w | {"embeddings.cls_token": w["embeddings.cls_token"] * 0},
    ],
)
def test_weights_that_did_not_arrive_are_seen(
    change: Callable, exported_of: Callable[..., Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """transformers fills what is missing with random numbers, and only warns."""
    exported = exported_of(name=REGISTERS, object_tokens="read-only")
    weights = transformers_folder.native_weights(exported, FOURTH)
    monkeypatch.setattr(transformers_folder, "native_weights", lambda *_: change(weights))
    with pytest.raises(OdisError, match=r"transformers' Dinov2WithRegistersModel at .* differs from odis"):
        write_native(tmp_path, exported, FOURTH)


def test_another_epsilon_is_seen(
    exported_of: Callable[..., Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    exported = exported_of(name=PLAIN, object_tokens="read-only")
    settings = transformers_folder.native_config(exported, "vit")
    monkeypatch.setattr(transformers_folder, "native_config", lambda *_: settings | {"layer_norm_eps": 1e-2})
    with pytest.raises(OdisError, match="differs from odis"):
        write_native(tmp_path, exported, "vit")


def test_the_processor_prepares_pixels_as_odis_does(exported_of: Callable[..., Exported], tmp_path: Path):
    """At an odd size, whichever class transformers takes for the one that is named."""
    exported = exported_of(size=96, name=PLAIN, object_tokens="read-only")
    write_native(tmp_path, exported, "vit")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True)
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (13, 17, 3)), np.ones((13, 11, 1))).astype(np.uint8)
    found = processor(images=Image.fromarray(picture), return_tensors="pt").pixel_values[0]
    image = torch.from_numpy(picture.transpose(2, 0, 1).copy())
    builder = exported.encoder.query_builder(QueryConfig(("crop",), size=96))
    box = np.array([(0.0, 0.0, picture.shape[1], picture.shape[0])])
    (query,) = builder(image, as_objects(None, box, image=image, name="x"))
    mean, std = (torch.tensor(v)[:, None, None] for v in (exported.encoder.mean, exported.encoder.std))
    expected = (torch.from_numpy(query.pixels).float() / 255 - mean) / std
    assert found.shape == expected.shape == (3, 96, 96)
    assert (found - expected).abs().max() <= 2 / 255 / min(exported.encoder.std)


@pytest.mark.parametrize(
    "kind",
    [
        {"name": PLAIN, "object_tokens": "read-only"},
        {"name": REGISTERS, "object_tokens": "single"},
        {"name": PLAIN, "object_tokens": "beside"},
        {"name": ROTARY, "object_tokens": "read-only"},  # no file holds the periods of its rotations
        {"name": PLAIN, "object_readout": "mean-pool"},
    ],
    ids=str,
)
def test_odis_own_class_reads_objects(kind: dict, exported_of: Callable[..., Exported], tmp_path: Path):
    exported = exported_of(**kind)
    write_own(tmp_path, exported)
    model = opened(tmp_path)
    assert type(model).__name__ == "OdisModel"
    for rows, columns, objects in ((4, 4, 1), (3, 6, 7), (2, 2, 0)):
        given = probe(rows, columns, exported.encoder.patch_size, 2, objects)
        with torch.no_grad():
            found = model(given.normalized(exported), object_masks=given.masks)
        expected = odis_outputs(exported, given)
        torch.testing.assert_close(found.object_features, expected["objects"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.pooler_output, expected["image"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.last_hidden_state[:, 1:], expected["patches"], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        alone = model(given.normalized(exported))
        image, *_ = model(given.normalized(exported), return_dict=False)[1:]
    assert alone.object_features is None
    torch.testing.assert_close(alone.pooler_output, expected["image"], rtol=1e-4, atol=1e-5)
    assert image.equal(alone.pooler_output)
    model.save_pretrained(tmp_path / "again")  # as any model of transformers
    again = opened(tmp_path / "again")
    for name, value in model.state_dict().items():
        assert again.state_dict()[name].equal(value), name
