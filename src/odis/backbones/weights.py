"""Loading weights of any published layout from a file into the backbone."""

from __future__ import annotations

import argparse
import pathlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from odis.backbones.adapters import start_object_token
from odis.backbones.channels import adapt_channels
from odis.backbones.layouts import FoundState, describe, find_state, to_timm
from odis.backbones.relative import RelativeViT, convert_beit
from odis.backbones.rotary import RotaryViT, convert_eva
from odis.config.wording import counted
from odis.errors import ConfigError, DataError, OdisWarning
from odis.machine.checksums import refuse_compressed, verify_safetensors
from odis.machine.files import check_readable
from odis.machine.pickles import pickle_fault

if TYPE_CHECKING:
    from odis.method.vit import ObjectViT

OWN = ("mask_token", "object_token", "object_pos")
DROPPED = ("head.", "attn_pool.")  # classifier and pooling, which the backbone does without
_PRETRAINING = ("decoder_", "local_cls_norm.", "lm_head.")  # heads of pretraining, by their authors' names
_SHOWN = 3  # names in a message


def load_timm_weights(model: ObjectViT, path: str | Path) -> None:
    """Load weights of the same architecture in any layout of `layouts.py`; position and patch embeddings are
    resampled to the model's grid.

    `mask_token`, `object_token` and `object_pos` are loaded if the file has them (the mask token also from
    iBOT, DINOv2 and DINOv3). Otherwise the mask token keeps its start and the object token starts from the
    loaded `[CLS]`. An object token whose kind has no position of its own holds it, so the position of a file
    is added to it, or is 0 where a file has none. What else the file holds is counted and named in an
    `OdisWarning`.

    Args:
        model: The backbone, changed in place.
        path: A `.safetensors` file, or a `.pth` file that holds tensors only (no code is executed).

    Raises:
        ConfigError: a file that cannot be read, or whose keys or shapes are not the model's.
    """
    try:
        found = find_state(read_content(Path(path)))
    except ValueError as error:
        raise ConfigError(f"model.weights: {path} {error}") from error
    state, mask_token = to_timm(found.tensors)
    own = {} if mask_token is None else {"mask_token": mask_token}
    own |= {name: state.pop(name) for name in OWN[1:] if name in state}
    pooled = isinstance(model, RotaryViT) and "norm.weight" not in model.state_dict()
    if mask_token is not None and state.get("mask_token", mask_token).ndim == 3 and not pooled:
        state.pop("mask_token", None)  # of two dimensions it tells timm of DINOv2; in EVA, to pool patches
    elif "register_tokens" in state or any(".mlp.w12." in name for name in state):
        state.setdefault("mask_token", torch.zeros(1, 1))
    try:
        state = adapt_channels(state, model.patch_embed.proj.weight.shape[1])
        state = converted(state, model)
    except (KeyError, RuntimeError, AttributeError, ValueError) as error:
        raise ConfigError(f"model.weights: {path} does not fit the model: {one_line(error)}") from error
    unused = [k for k in state if k.startswith(_PRETRAINING)]
    state = {k: v for k, v in state.items() if not k.startswith((*DROPPED, *_PRETRAINING))}
    expected = model.state_dict()
    if "object_token" in own:
        if "object_pos" not in expected and "object_pos" in own:
            own["object_token"] = own["object_token"] + own.pop("object_pos")
        elif "object_pos" in expected and "object_pos" not in own:
            own["object_pos"] = torch.zeros_like(own["object_token"])
    for name in OWN:
        if name in expected:
            state[name] = own.get(name, expected[name])
    _check(path, state, expected, found)
    model.load_state_dict(state, strict=True)
    if "object_token" in expected and "object_token" not in own:
        start_object_token(model)
    _say_left_out(path, found, unused)


def converted(state: dict[str, Tensor], model: ObjectViT) -> dict[str, Tensor]:
    """A state dict under timm's names, with embeddings of the model's sizes, by timm's own conversion."""
    # They ask for the modules that the backbone shares with timm's model.
    if isinstance(model, RotaryViT):
        return convert_eva(state, model)
    if isinstance(model, RelativeViT):
        return convert_beit(state, model)
    scaled = any(name.endswith(".gamma_1") for name in state)  # DeiT-3
    return checkpoint_filter_fn(state, cast(Any, model), adapt_layer_scale=scaled)


def read_content(path: Path) -> Any:
    """What a `.safetensors` or `.pth` file holds; no code in it is executed.

    Raises:
        ConfigError: for anything else, in one line.
    """
    if (path / ".metadata").is_file():
        raise ConfigError(
            f"model.weights: {path} is a folder of a distributed checkpoint; make one file of it: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth"
        )
    if not path.is_file():
        raise ConfigError(
            f"model.weights: {path} is not a file; give `timm`, or a .safetensors or .pth state dict"
        )
    try:
        check_readable(path)
    except DataError as error:
        raise ConfigError(f"model.weights: {error}") from error
    try:
        if path.suffix == ".safetensors":
            verify_safetensors(path)
            return safetensors.torch.load_file(path)
        # The options that a program was called with often lie beside the weights: values, no code.
        refuse_compressed(path)
        with torch.serialization.safe_globals([argparse.Namespace, pathlib.PosixPath]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything
        why = pickle_fault(error)
        if why.startswith("it holds "):
            why += "; save the tensors alone: torch.save(model.state_dict(), 'weights.pth')"
        raise ConfigError(f"model.weights: {path} cannot be read as tensors: {why}") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of any architecture: at the top, or in `model` or `state_dict`.

    Raises:
        ConfigError: there is none, or the file cannot be read.
    """
    state = read_content(path)
    for wrapper in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        keys = (
            f"; it holds {', '.join(map(str, list(state)[:6]))}" if isinstance(state, dict) and state else ""
        )
        raise ConfigError(f"model.weights: {path} holds no state dict (names to tensors){keys}")
    return state


def key_fault(state: dict[str, Tensor], expected: dict[str, Tensor]) -> str | None:
    """Which keys a state dict lacks and which it has in their place; None if it lacks none."""
    missing = [k for k in expected if k not in state]
    if not missing:
        return None
    others = [k for k in state if k not in expected]
    there = f", and has {', '.join(others[:_SHOWN])} in their place" if others else ""
    return f"lacks {missing[0]} ({len(missing)} of the model's keys are missing){there}"


def _check(
    path: str | Path, state: dict[str, Tensor], expected: dict[str, Tensor], found: FoundState
) -> None:
    fault = key_fault(state, expected)
    if fault is None and (unexpected := [k for k in state if k not in expected]):
        fault = f"has {unexpected[0]}, which the model has not ({counted(len(unexpected), 'such key')})"
    if fault is None:
        for name, value in state.items():
            if value.shape != expected[name].shape:
                fault = (
                    f"has {name} of shape {tuple(value.shape)}, the model's is {tuple(expected[name].shape)}"
                )
                break
    if fault is None:
        return
    theirs, ours = describe(found.tensors), describe(expected)
    where = f" {found.where}" if found.where else ""
    both = f"; it is a ViT of {theirs}, the model of {ours}" if theirs != ours else ""
    raise ConfigError(f"model.weights: {path}{where} {fault}{both}")


def _say_left_out(path: str | Path, found: FoundState, unused: list[str]) -> None:
    """Name what of a file was not read, if it was more than a classifier."""
    parts = [f"{name} ({count})" for name, count in found.left_out.items()]
    if unused:
        parts.append(f"{unused[0].split('.')[0]} and the like ({len(unused)})")
    if parts:
        where = found.where or "the backbone"
        read = f"read {where} ({counted(len(found.tensors), 'tensor')}), left out {', '.join(parts)}"
        warnings.warn(f"model.weights: {path}: {read}", OdisWarning, stacklevel=3)


def one_line(error: Exception) -> str:
    """An error's message on one line of at most 200 characters, for a message of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
