"""Loading timm state dicts from files."""

import pickle
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from odis.backbones.build import build_vit
from odis.backbones.weights import key_fault, read_state
from odis.config.training import ModelConfig
from odis.errors import ConfigError

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
CONFIG = ModelConfig(name="vit_tiny_patch16_224", object_tokens="read-only", **SIZES)


def a_timm_model(img_size=32, **more):
    torch.manual_seed(5)
    return timm.create_model(
        CONFIG.name, img_size=img_size, dynamic_img_size=True, **{**SIZES, **more}
    ).eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_state_dict_from_a_file_gives_timms_outputs(tmp_path, suffix):
    reference = a_timm_model(num_classes=7)
    path = tmp_path / f"weights{suffix}"
    save_file(reference.state_dict(), path) if suffix == ".safetensors" else torch.save(
        {"state_dict": reference.state_dict()}, path
    )
    model = build_vit(replace(CONFIG, weights=str(path)), 32).eval()
    images = torch.randn(2, 3, 32, 32)
    out = model(images, torch.ones(2, 1, 16, dtype=torch.bool))
    expected = reference.forward_features(images)
    torch.testing.assert_close(out.patches, expected[:, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        out.objects[:, 0], expected[:, 0], rtol=0, atol=1e-5
    )  # the object token starts from the loaded [CLS]


def test_own_tokens_are_loaded_where_the_file_has_them(tmp_path):
    state = build_vit(CONFIG, 32).state_dict()
    state["mask_token"], state["object_token"] = torch.full((1, 1, 32), 2.0), torch.full((1, 1, 32), 3.0)
    save_file(state, tmp_path / "own.safetensors")
    model = build_vit(replace(CONFIG, weights=str(tmp_path / "own.safetensors")), 32)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_token_beside_the_others_starts_from_the_loaded_class_token_and_else_at_random(tmp_path):
    beside = replace(CONFIG, object_tokens="beside")
    torch.manual_seed(0)
    scratch = build_vit(beside, 32)
    for token in (scratch.object_token, scratch.object_pos):
        assert 0.01 < token.std() < 0.03
        assert token.abs().max() <= 2
    assert not torch.equal(scratch.object_pos, scratch.pos_embed[:, :1])
    reference = a_timm_model(num_classes=0)
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    model = build_vit(replace(beside, weights=str(tmp_path / "w.pth")), 32)
    assert torch.equal(model.object_token, reference.cls_token)
    assert torch.equal(model.object_pos, reference.pos_embed[:, :1])


def test_a_token_keeps_its_position_between_kinds(tmp_path):
    """`read-only` holds both in one; `beside` has two."""
    torch.manual_seed(0)
    models = {kind: build_vit(replace(CONFIG, object_tokens=kind), 32) for kind in ("read-only", "beside")}
    for kind, model in models.items():
        save_file(model.state_dict(), tmp_path / f"{kind}.safetensors")
    one, two = models["read-only"].object_token, models["beside"]
    found = build_vit(replace(CONFIG, weights=str(tmp_path / "beside.safetensors")), 32)
    assert torch.equal(found.object_token, two.object_token + two.object_pos)
    config = replace(CONFIG, object_tokens="beside", weights=str(tmp_path / "read-only.safetensors"))
    found = build_vit(config, 32)
    assert torch.equal(found.object_token + found.object_pos, one)
    found = build_vit(replace(config, weights=str(tmp_path / "beside.safetensors")), 32)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in found.state_dict().items())


def test_position_and_patch_embeddings_are_resampled(tmp_path):
    reference = a_timm_model(num_classes=0)
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    model = build_vit(replace(CONFIG, weights=str(tmp_path / "w.pth")), 48).eval()
    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(
        model(images).patches, reference.forward_features(images)[:, 1:], rtol=0, atol=1e-5
    )
    assert (
        build_vit(
            replace(CONFIG, weights=str(tmp_path / "w.pth"), patch_size=16), 32
        ).patch_embed.proj.weight.shape[-1]
        == 16
    )


def test_files_that_do_not_fit_are_refused_by_name(tmp_path):
    path = tmp_path / "w.pth"
    config = replace(CONFIG, weights=str(path))
    state = a_timm_model(num_classes=0).state_dict()

    def refused(match: str) -> None:
        with pytest.raises(ConfigError, match=match) as info:
            build_vit(config, 32)
        assert str(path) in str(info.value)
        assert "\n" not in str(info.value)

    refused("is not a file")
    torch.save({k: v for k, v in state.items() if not k.startswith("blocks.1")}, path)
    refused("lacks blocks.1.norm1.weight .12 of")
    torch.save({**state, "extra.weight": torch.zeros(1)}, path)
    refused("has extra.weight, which .* .1 such")
    torch.save(a_timm_model(num_classes=0, embed_dim=48).state_dict(), path)
    refused(r"shape \(1, 1, 48\), the model's is \(1, 1, 32\)")
    torch.save({"epoch": 3}, path)
    refused("holds no state dict")
    path.write_bytes(b"not a checkpoint")
    refused("cannot be read as tensors")


def test_loading_executes_no_code(tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "evil.pth"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    path.write_bytes(pickle.dumps({"cls_token": Evil()}))
    with pytest.raises(ConfigError, match="cannot be read as tensors"):
        build_vit(replace(CONFIG, weights=str(path)), 32)
    assert not marker.exists()


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1).state_dict()


def test_the_options_of_a_program_beside_the_weights_are_passed_over(
    tmp_path: Path, plain: dict[str, torch.Tensor]
) -> None:
    torch.save({"state_dict": plain, "args": Namespace(lr=0.1, model="vit")}, tmp_path / "timm.pth")
    assert read_state(tmp_path / "timm.pth").keys() == plain.keys()


def test_a_whole_module_is_refused_with_what_to_save(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ConfigError, match=r"it holds torch\.nn\.modules\.linear\.Linear, and .*state_"):
        read_state(tmp_path / "module.pth")


def test_keys_under_other_names_are_shown_beside_those_wanted(plain: dict[str, torch.Tensor]) -> None:
    other = {k.replace("cls_token", "storage_tokens"): v for k, v in plain.items()}
    assert key_fault(other, plain) == (
        "lacks cls_token (1 of the model's keys are missing), and has storage_tokens in their place"
    )
    assert key_fault(plain, plain) is None
