"""A folder for timm: weights and a config in the layout that timm reads from a folder or from the hub.

The image feature is `[CLS]`, or the mean of the patches for a model whose objects are means. What timm cannot
hold is left out by name: the mask token and the object token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from odis.backbones.relative import RelativeViT
from odis.backbones.rotary import RotaryViT
from odis.backbones.weights import OWN, one_line
from odis.errors import OdisError
from odis.exporting.network import Exported, any_size
from odis.exporting.parity import Deviation, Outputs, Probe, class_token, compare, odis_outputs, probes
from odis.exporting.prefix import beside_fault, is_beside, patch_positions, prefix_tokens
from odis.machine.files import write_json_whole, written_whole

_OVERRIDES = ("patch_size", "embed_dim", "depth", "num_heads")
WEIGHTS = "model.safetensors"


def model_args(exported: Exported) -> dict[str, Any]:
    """Arguments of `timm.create_model` beside the name and `num_classes=0`."""
    model = exported.card["model"]
    token = exported.network.has_class_token and not exported.pooled
    channels = exported.encoder.pixels.channels
    return {
        "img_size": exported.encoder.image_size,
        **({} if channels == 3 else {"in_chans": channels}),
        **_class_args(exported.network),
        "global_pool": "token" if token else "avg",
        **_register_args(exported.network),
        **{name: model[name] for name in _OVERRIDES if model.get(name) is not None},
    }


def _class_args(network: Any) -> dict[str, Any]:
    """Of the class of timm. The norm stays on all tokens: for mean pooling it would move behind the mean."""
    if isinstance(network, RelativeViT):
        return {}
    name = "use_fc_norm" if isinstance(network, RotaryViT) else "fc_norm"
    return {"dynamic_img_size": True, name: False}


def _register_args(network: Any) -> dict[str, Any]:
    """Of a network whose object token becomes a register, which has no position beside it."""
    if not is_beside(network):
        return {}
    registers = prefix_tokens(network).shape[1] - int(network.has_class_token)
    name = "num_reg_tokens" if isinstance(network, RotaryViT) else "reg_tokens"
    return {name: registers, "no_embed_class": True}


def architecture(exported: Exported) -> str:
    """timm's name of the network, without the tag of published weights."""
    return str(exported.card["model"]["name"]).partition(".")[0]


def timm_weights(network: Any) -> dict[str, Tensor]:
    """The state dict under timm's names; the final norm is `norm` wherever it was."""
    state = {
        f"norm.{key.removeprefix('fc_norm.')}" if key.startswith("fc_norm.") else key: value
        for key, value in network.state_dict().items()
        if key not in OWN
    }
    if is_beside(network):
        tokens, count = prefix_tokens(network), int(network.has_class_token)
        state |= {"reg_token": tokens[:, count:]} | ({"cls_token": tokens[:, :1]} if count else {})
        if network.pos_embed is not None:
            state["pos_embed"] = patch_positions(network)
    return {key: value.detach().clone().contiguous() for key, value in state.items()}


def write_timm(folder: Path, exported: Exported) -> list[Deviation]:
    """Write `config.json` and `model.safetensors`, open them with timm and compare.

    Raises:
        OdisError: timm does not take them, or answers otherwise.
    """
    if (fault := beside_fault(exported.network)) is not None:
        raise OdisError(f"timm has no place for this network: {fault}")
    encoder, side = exported.encoder, exported.size
    if not any_size(exported.network) and side != encoder.image_size:
        raise OdisError(f"size {side}: timm takes this network at {encoder.image_size} pixels only")
    args = model_args(exported)
    preprocessing = {
        "input_size": [encoder.pixels.channels, side, side],
        "fixed_input_size": isinstance(exported.network, RelativeViT),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash",  # the whole image, as odis shows a crop
        "mean": list(encoder.mean),
        "std": list(encoder.std),
    }
    config = {
        "architecture": architecture(exported),
        "num_classes": 0,
        "num_features": exported.network.embed_dim,
        "global_pool": args["global_pool"],
        "model_args": args,
        "pretrained_cfg": {
            **preprocessing,
            "num_classes": 0,
            "pool_size": None,
            # With other channels timm would take these weights for those of colours, and adapt them.
            "first_conv": "patch_embed.proj" if encoder.pixels.channels == 3 else None,
            "classifier": "head",
        },
    }
    write_json_whole(folder / "config.json", config)
    with written_whole(folder / WEIGHTS, errors=(SafetensorError,)) as beside:
        save_file(timm_weights(exported.network), beside, metadata={"format": "pt"})
    return check_timm(folder, exported)


def check_timm(folder: Path, exported: Exported) -> list[Deviation]:
    """Open the folder both ways and compare, at the size of preprocessing and two others.

    Raises:
        OdisError: timm does not take it, or answers otherwise.
    """
    config = json.loads((folder / "config.json").read_text())
    try:
        local = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
        by_path = timm.create_model(
            config["architecture"],
            checkpoint_path=str(folder / WEIGHTS),
            num_classes=0,
            **config["model_args"],
        ).eval()
    except Exception as error:  # timm raises whatever it likes
        raise OdisError(f"timm does not open what was written: {one_line(error)}") from error
    side = exported.size // exported.encoder.patch_size
    sizes = [(side, side), (side, side + 2), (max(2, side // 2), side)]
    given = list(probes(exported, sizes=sizes if any_size(exported.network) else sizes[:1], counts=[0]))
    differences = []
    for name, model in (("timm's local-dir", local), ("timm's checkpoint_path", by_path)):
        differences += compare(
            name,
            exported,
            lambda one, model=model: _ask(model, exported, one),  # type: ignore[misc]
            given,
            expected=lambda one: odis_outputs(exported, one) | {"image": class_token(exported, one)},
        )
    return differences


@torch.no_grad()
def _ask(model: Any, exported: Exported, given: Probe) -> Outputs:
    pixels = given.normalized(exported)
    features = model.forward_features(pixels)
    image = model.forward_head(features, pre_logits=True)
    return {"image": image, "patches": features[:, model.num_prefix_tokens :]}
