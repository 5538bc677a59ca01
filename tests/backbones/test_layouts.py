"""Weights in the layouts that their authors publish, written here from random timm models."""

import re
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from odis.backbones.build import build_vit
from odis.backbones.layouts import describe, find_state
from odis.backbones.weights import load_timm_weights
from odis.config.training import ModelConfig
from odis.errors import ConfigError, OdisWarning

WIDTH = 32
State = dict[str, Tensor]


def tiny(name: str = "vit_tiny_patch16_224", patch: int = 16) -> ModelConfig:
    return ModelConfig(
        name, embed_dim=WIDTH, depth=2, num_heads=2, patch_size=patch, object_tokens="read-only"
    )


def source(config: ModelConfig, size: int) -> Any:
    """A timm model with random weights, biases and scales too."""
    torch.manual_seed(3)
    model = timm.create_model(
        config.name, img_size=size, num_classes=0, embed_dim=WIDTH, depth=2, num_heads=2,
        patch_size=config.patch_size,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def other(state: State) -> State:
    """Another network of the same kind, which must not be read."""
    return {name: value + 1 for name, value in state.items()}


HEAD = {"head.mlp.0.weight": torch.zeros(4, WIDTH), "head.last_layer.weight_g": torch.zeros(8, 1)}
TOKEN = torch.linspace(-1, 1, WIDTH)[None]


def dino_full(s: State) -> Any:
    return {
        "student": under("module.backbone.", other(s)) | under("module.", HEAD),
        "teacher": under("backbone.", s) | HEAD,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3), "step": 4}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 7,
        "args": Namespace(arch="vit_small", output_dir=Path("/nowhere")),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }


def ibot_full(s: State) -> Any:
    return {
        "student": under("module.backbone.", other(s) | {"masked_embed": TOKEN}),
        "teacher": under("backbone.", s),
        "ibot_loss": {"center": torch.zeros(1, 8), "center2": torch.zeros(1, 1, 8)},
    }


def chunked(s: State) -> State:
    """Blocks in chunks of one, as DINOv2's `block_chunks` names them."""
    return {re.sub(r"^blocks\.(\d+)\.", r"blocks.\1.\1.", name): value for name, value in s.items()}


def registers_to_dinov2(s: State) -> State:
    """timm folds the first position into [CLS]; the authors keep a position for it."""
    s = dict(s)
    s["register_tokens"] = s.pop("reg_token")
    first = torch.full((1, 1, WIDTH), 0.25)
    s["cls_token"], s["pos_embed"] = s["cls_token"] - first, torch.cat([first, s["pos_embed"]], dim=1)
    return s | {"mask_token": TOKEN}


def swiglu_to_dinov2(s: State) -> State:
    s = {name.replace(".fc1.", ".w12.").replace(".fc2.", ".w3."): value for name, value in s.items()}
    return s | {"mask_token": TOKEN}


def mae_with_decoder(s: State) -> Any:
    decoder = {
        "mask_token": torch.ones(1, 1, 16),
        "decoder_pos_embed": torch.zeros(1, 5, 16),
        "decoder_embed.weight": torch.zeros(16, WIDTH),
        "decoder_blocks.0.norm1.weight": torch.zeros(16),
        "decoder_pred.bias": torch.zeros(768),
    }
    return {"model": s | decoder, "epoch": 800, "args": Namespace(mask_ratio=0.75)}


def to_openai_clip(s: State) -> State:
    swaps = [
        ("patch_embed.proj.", "conv1."), ("norm_pre.", "ln_pre."), ("blocks.", "transformer.resblocks."),
        (".norm1.", ".ln_1."), (".norm2.", ".ln_2."), ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj.", "attn.out_proj."), ("mlp.fc1.", "mlp.c_fc."), ("mlp.fc2.", "mlp.c_proj."),
    ]  # fmt: skip
    made: State = {"text_projection": torch.zeros(8, 8), "logit_scale": torch.zeros(())}
    for name, value in s.items():
        if name == "cls_token":
            name, value = "class_embedding", value[0, 0]
        elif name == "pos_embed":
            name, value = "positional_embedding", value[0]
        elif name.startswith("norm."):
            name = name.replace("norm.", "ln_post.")
        for ours, theirs in swaps:
            name = name.replace(ours, theirs)
        made[f"visual.{name}"] = value
    return made


def deit3_authors(s: State) -> Any:
    return {"model": {re.sub(r"\.ls(\d)\.gamma", r".gamma_\1", name): value for name, value in s.items()}}


def to_dinov3(s: State) -> State:
    """Registers, fused biases beside a mask of the keys', rotation periods, the mask token (1, D)."""
    made: State = {"mask_token": TOKEN, "rope_embed.periods": torch.ones(4)}
    for name, value in s.items():
        name = name.replace("reg_token", "storage_tokens")
        made[re.sub(r"\.gamma_(\d)", r".ls\1.gamma", name)] = value
    for block in range(2):
        q, v = (made.pop(f"blocks.{block}.attn.{part}_bias", torch.zeros(WIDTH)) for part in "qv")
        # What is stored under the mask is not used.
        made[f"blocks.{block}.attn.qkv.bias"] = torch.cat([q, torch.ones(WIDTH), v])
        ones = torch.ones(WIDTH)
        made[f"blocks.{block}.attn.qkv.bias_mask"] = torch.cat([ones, torch.zeros(WIDTH), ones])
    return made


PLAIN = tiny()
DINOV2 = tiny("vit_small_patch14_dinov2", 14)
REGISTERS = tiny("vit_small_patch14_reg4_dinov2", 14)

LAYOUTS: dict[str, tuple[ModelConfig, Callable[[State], Any], bool]] = {
    "timm": (PLAIN, lambda s: s, False),
    "timm's training": (PLAIN, lambda s: {"state_dict": s, "state_dict_ema": other(s), "epoch": 1}, False),
    "model": (PLAIN, lambda s: {"model": s}, False),
    "DINO": (PLAIN, dino_full, False),
    "DINO, teacher alone": (PLAIN, lambda s: {"teacher": under("backbone.", s)}, False),
    "DINO of one GPU, student": (PLAIN, lambda s: {"student": under("backbone.", s)}, False),
    "iBOT": (PLAIN, ibot_full, True),
    "iBOT, backbone": (PLAIN, lambda s: {"state_dict": s | {"masked_embed": TOKEN}}, True),
    "DINOv2": (DINOV2, lambda s: s | {"mask_token": TOKEN}, True),
    "DINOv2 with registers": (REGISTERS, registers_to_dinov2, True),
    "DINOv2 giant": (tiny("vit_giant_patch14_dinov2", 14), swiglu_to_dinov2, True),
    "DINOv2, teacher of a run": (
        DINOV2,
        lambda s: {
            "teacher": under("backbone.", chunked(s | {"mask_token": TOKEN})) | under("dino_", HEAD)
        },
        True,
    ),
    "DINOv2, FSDP": (
        DINOV2,
        lambda s: {
            "model": under("teacher.backbone._fsdp_wrapped_module.", s | {"mask_token": TOKEN})
            | under("student.backbone._fsdp_wrapped_module.", other(s)),
            "iteration": 3,
        },
        True,
    ),
    "FSDP inside blocks": (
        PLAIN,
        lambda s: {
            re.sub(r"^(blocks\.\d+)\.", r"\1._checkpoint_wrapped_module._fsdp_wrapped_module.", k): v
            for k, v in s.items()
        },
        False,
    ),
    "MAE": (PLAIN, lambda s: {"model": s}, False),
    "MAE with decoder": (PLAIN, mae_with_decoder, False),
    "MoCo v3": (
        PLAIN,
        lambda s: {
            "state_dict": under("module.momentum_encoder.", s) | under("module.base_encoder.", other(s))
        },
        False,
    ),
    "DDP": (PLAIN, lambda s: under("module.", s), False),
    "compiled": (PLAIN, lambda s: under("_orig_mod.module.", s), False),
    "OpenCLIP": (
        PLAIN,
        lambda s: under("visual.trunk.", s) | {"visual.head.proj.weight": torch.zeros(8, WIDTH)},
        False,
    ),
    "OpenAI CLIP": (tiny("vit_base_patch16_clip_224"), to_openai_clip, False),
    "DINOv3": (tiny("vit_small_patch16_dinov3"), to_dinov3, True),
    "DINOv3 with biases": (tiny("vit_small_patch16_dinov3_qkvb"), to_dinov3, True),
    "DINOv3, teacher of a run": (
        tiny("vit_small_patch16_dinov3"),
        lambda s: {"teacher": under("backbone.", to_dinov3(s)) | under("dino_", HEAD)},
        True,
    ),
    "EVA-02, DeepSpeed": (
        tiny("eva02_base_patch16_clip_224"),
        lambda s: {"module": s | {"blocks.0.attn.rope.freqs_cos": torch.zeros(2)}},
        False,
    ),
    "BEiT": (
        tiny("beit_base_patch16_224"),
        lambda s: {"model": s | {"blocks.0.attn.relative_position_index": torch.zeros(2, 2)}},
        False,
    ),
    "DeiT-3": (tiny("deit3_small_patch16_224"), deit3_authors, False),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_is_read_to_the_bit(tmp_path: Path, layout: str) -> None:
    config, write, has_token = LAYOUTS[layout]
    size = 2 * (config.patch_size or 16)
    reference = source(config, size)
    state = {name: value.clone() for name, value in reference.state_dict().items()}
    if layout == "timm's training":  # the average is what timm evaluates
        for name, value in state.items():
            reference.state_dict()[name].copy_(value + 1)
    torch.save(write(state), tmp_path / "authors.pth")
    model = build_vit(config, size).eval()
    before = model.mask_token.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OdisWarning)
        load_timm_weights(model, tmp_path / "authors.pth")
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        out = model(images, torch.ones(1, 1, 4, dtype=torch.bool))
        expected = reference.fc_norm(reference.forward_features(images))
    torch.testing.assert_close(out.patches, expected[:, reference.num_prefix_tokens :], rtol=0, atol=1e-4)
    torch.testing.assert_close(out.objects[:, 0], expected[:, 0], rtol=0, atol=1e-4)
    for name, value in reference.state_dict().items():
        ours = model.state_dict()[name]
        if layout == "DINOv2 with registers":  # a sum and a difference of the same position
            torch.testing.assert_close(ours, value, rtol=0, atol=1e-6)
        else:
            assert torch.equal(ours, value), name
    assert torch.equal(model.mask_token, TOKEN[None] if has_token else before)


def test_what_is_left_out_of_a_file_is_counted_and_named(tmp_path: Path) -> None:
    state = source(PLAIN, 32).state_dict()
    torch.save(dino_full(state), tmp_path / "dino.pth")
    with pytest.warns(OdisWarning) as said:
        load_timm_weights(build_vit(PLAIN, 32), tmp_path / "dino.pth")
    (line,) = [str(one.message) for one in said]
    assert line == (
        f"model.weights: {tmp_path / 'dino.pth'}: read ['teacher'] backbone. ({len(state)} tensors), left "
        f"out head (2), ['student'] ({len(state) + 2}), ['optimizer'] (1), ['dino_loss'] (1)"
    )
    torch.save(mae_with_decoder(state), tmp_path / "mae.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the decoder is of pretraining alone, and timm's classifier is too
        load_timm_weights(build_vit(PLAIN, 32), tmp_path / "mae.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda s: {"a": under("x.", s), "b": under("y.", s)},
            r"equal standing, \['a'\] x\. and \['b'\] y\.;",
        ),
        (
            lambda s: {"model": {"teacher.backbone._fsdp_wrapped_module._flat_param": s["cls_token"]}},
            "one rank",
        ),
        (
            lambda s: {"embeddings.patch_embeddings.projection.weight": s["cls_token"]},
            r"names of transformers \(embeddings\.patch_emb",
        ),
        (
            lambda s: {"conv1.weight": s["cls_token"], "fc.bias": s["cls_token"]},
            r"holds conv1\.weight, fc\.bias; ",
        ),
        (
            lambda s: {"epoch": 3, "args": Namespace()},
            "holds no state dict .* but epoch, args; wanted is a ViT",
        ),
        (lambda s: [s], "holds no state dict .* but list"),
        (lambda s: {}, "holds no state dict .* but nothing"),
    ],
)
def test_what_is_no_backbone_is_one_line_with_what_was_found_and_wanted(
    tmp_path: Path, content: Callable[[State], Any], message: str
) -> None:
    torch.save(content(source(PLAIN, 32).state_dict()), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=message) as refusal:
        load_timm_weights(build_vit(PLAIN, 32), tmp_path / "w.pth")
    assert "\n" not in str(refusal.value)
    assert str(tmp_path / "w.pth") in str(refusal.value)


def test_another_vit_is_described_beside_the_one_wanted(tmp_path: Path) -> None:
    torch.save({"teacher": registers_to_dinov2(source(REGISTERS, 28).state_dict())}, tmp_path / "w.pth")
    with pytest.raises(ConfigError) as refusal:
        load_timm_weights(build_vit(PLAIN, 32), tmp_path / "w.pth")
    assert str(refusal.value).endswith(
        "it is a ViT of width 32, 2 blocks, patches of 14, 4 registers, the model of width 32, 2 blocks, "
        "patches of 16"
    )


def test_biases_of_dinov3_that_the_model_has_no_place_for_are_refused(tmp_path: Path) -> None:
    config = tiny("vit_small_patch16_dinov3")
    state = to_dinov3(source(config, 32).state_dict())
    state["blocks.1.attn.qkv.bias"][0] = 1.0
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"blocks\.1\.attn\.qkv\.bias is not 0, and .* ends in _qkvb"):
        load_timm_weights(build_vit(config, 32), tmp_path / "w.pth")
    del state["blocks.0.attn.qkv.bias_mask"]  # then the bias of keys is used
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"blocks\.0\.attn\.qkv\.bias has a bias of keys that is not 0"):
        load_timm_weights(build_vit(config, 32), tmp_path / "w.pth")


def test_a_folder_of_a_distributed_checkpoint_says_how_to_make_a_file_of_it(tmp_path: Path) -> None:
    (tmp_path / ".metadata").touch()
    with pytest.raises(ConfigError, match="dcp_to_torch"):
        load_timm_weights(build_vit(PLAIN, 32), tmp_path)


def test_a_description_of_little_is_short() -> None:
    assert describe({}) == "0 blocks, no position table"


VALUES = st.one_of(st.integers(), st.text(max_size=3), st.none(), st.just(torch.zeros(2)))
ANCHOR = "patch_embed.proj.weight"
KEYS = st.sampled_from(["model", "teacher", "module.x", "blocks.0.norm1.weight", ANCHOR, f"a.{ANCHOR}"])


@settings(max_examples=100, deadline=None)
@given(st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner, max_size=4), max_leaves=12))
def test_any_content_is_a_backbone_or_one_line(content: Any) -> None:
    names: set[str] = set()
    line = ""
    try:
        names = set(find_state(content).tensors)
    except ValueError as error:
        line = str(error)
    assert ANCHOR in names or (line and "\n" not in line)
