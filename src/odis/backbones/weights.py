"""Loading a timm state dict from a file into the backbone."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from odis.backbones.adapters import start_object_token
from odis.errors import ConfigError, DataError
from odis.machine.checksums import verify_safetensors
from odis.machine.files import check_readable

if TYPE_CHECKING:
    from odis.method.vit import ObjectViT

OWN = ("mask_token", "object_token", "object_pos")
DROPPED = ("head.", "attn_pool.")  # classifier and pooling, which the backbone does without


def load_timm_weights(model: ObjectViT, path: str | Path) -> None:
    """Load a timm state dict of the same architecture; position and patch embeddings are resampled to the
    model's grid.

    `mask_token`, `object_token` and `object_pos` are loaded if the file has them. Otherwise the mask token
    keeps its start and the object token starts from the loaded `[CLS]`. An object token whose kind has no
    position of its own holds it, so the position of a file is added to it, or is 0 where a file has none.

    Args:
        model: The backbone, changed in place.
        path: A `.safetensors` file, or a `.pth` file that holds tensors only (no code is executed).

    Raises:
        ConfigError: a file that cannot be read, or whose keys or shapes are not the model's.
    """
    state, part = read_layout(Path(path))
    own = {
        name: state.pop(name) for name in OWN if name in state and state[name].ndim == 3
    }  # a 2-d mask token is DINOv2's
    try:
        state = checkpoint_filter_fn(
            state, cast(Any, model)
        )  # asks for the modules that it shares with timm's
    except (KeyError, RuntimeError, AttributeError, ValueError) as error:
        raise ConfigError(f"model.weights: {path} does not fit the model: {one_line(error)}") from error
    state = {k: v for k, v in state.items() if not k.startswith(DROPPED)}
    expected = model.state_dict()
    if "object_token" in own:
        if "object_pos" not in expected and "object_pos" in own:
            own["object_token"] = own["object_token"] + own.pop("object_pos")
        elif "object_pos" in expected and "object_pos" not in own:
            own["object_pos"] = torch.zeros_like(own["object_token"])
    for name in OWN:
        if name in expected:
            state[name] = own.get(name, expected[name])
    _check(path, state, expected, part)
    model.load_state_dict(state, strict=True)
    if "object_token" in expected and "object_token" not in own:
        start_object_token(model)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file; see `read_layout`."""
    return read_layout(path)[0]


def read_layout(path: Path) -> tuple[dict[str, Tensor], str]:
    """A state dict from a `.safetensors` file, or a `.pth` file of tensors, and where in the file it is:
    `['model']`, or empty. Raises `ConfigError` for anything else.
    """
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
            return safetensors.torch.load_file(path), ""
        # The options that a program was called with often lie beside the weights: values, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything
        why = one_line(error)
        if (other := re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error))) is not None:
            why = (
                f"it holds {other[1]} beside them, and no code of a file is run; save the tensors alone: "
                f"torch.save(model.state_dict(), 'weights.pth')"
            )
        raise ConfigError(f"model.weights: {path} cannot be read as tensors: {why}") from error
    part = ""
    for wrapper in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state, part = state[wrapper], f"{part}[{wrapper!r}]"
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        hint = layout_hint(state, part)
        raise ConfigError(f"model.weights: {path} holds no state dict (names to tensors){hint}")
    return state, part


def layout_hint(state: Any, part: str = "") -> str:
    """What a file holds in place of a timm state dict, and what to take of it."""
    if not isinstance(state, dict) or not state:
        return ""
    parts = {str(key): value for key, value in state.items() if _is_state(value)}
    if parts and not _is_state(state):
        name = next((n for n in _PREFERRED if n in parts), next(iter(parts)))
        return (
            f"; it holds {', '.join(map(str, list(state)[:_SHOWN]))}, of which {', '.join(parts)} are state "
            f"dicts: save one of them alone, {_recipe(f'{part}[{name!r}]', _prefix(parts[name]))}"
        )
    prefix = _prefix(state) if _is_state(state) else ""
    return f"; its keys begin with {prefix}: take that off, {_recipe(part, prefix)}" if prefix else ""


_PREFERRED = ("teacher", "teacher_ema", "model_ema", "ema", "student", "model", "state_dict")  # in this order
_SHOWN = 6  # names in a message
_KNOWN = ("patch_embed.proj.weight", "blocks.0.norm1.weight")  # what every ViT of timm has


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _prefix(state: dict[str, Tensor]) -> str:
    """What stands before timm's names in a state dict."""
    return next((k.removesuffix(name) for name in _KNOWN for k in state if k.endswith(f".{name}")), "")


def _recipe(part: str, prefix: str) -> str:
    load = f"torch.load(FILE, weights_only=False){part}"
    if not prefix:
        return f"as with torch.save({load}, 'weights.pth')"
    return (
        f"as with torch.save({{k.removeprefix({prefix!r}): v for k, v in {load}.items() if "
        f"k.startswith({prefix!r})}}, 'weights.pth')"
    )


def key_fault(state: dict[str, Tensor], expected: dict[str, Tensor], part: str) -> str | None:
    """Which keys a state dict lacks, which it has in their place, and what to do; None if it lacks none."""
    missing = [k for k in expected if k not in state]
    if not missing:
        return None
    others = [k for k in state if k not in expected]
    there = f", and has {', '.join(others[: _SHOWN // 2])} in their place" if others else ""
    hint = layout_hint(state, part)
    return f"lacks {missing[0]} ({len(missing)} of the model's keys are missing){there}{hint}"


def _check(path: str | Path, state: dict[str, Tensor], expected: dict[str, Tensor], part: str) -> None:
    if (fault := key_fault(state, expected, part)) is not None:
        raise ConfigError(f"model.weights: {path} {fault}")
    if unexpected := [k for k in state if k not in expected]:
        raise ConfigError(
            f"model.weights: {path} has {unexpected[0]}, which the model has not ({len(unexpected)} such "
            f"keys)"
        )
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise ConfigError(
                f"model.weights: {path} has {name} of shape {tuple(value.shape)}, the model's is "
                f"{tuple(expected[name].shape)}"
            )


def one_line(error: Exception) -> str:
    """An error's message on one line of at most 200 characters, for a message of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
