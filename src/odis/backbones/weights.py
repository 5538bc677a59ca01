"""Loading a timm state dict from a file into the backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from odis.errors import ConfigError

if TYPE_CHECKING:
    from odis.method.vit import ObjectViT

OWN = ("mask_token", "object_token")
DROPPED = ("head.", "attn_pool.")  # classifier and pooling, which the backbone does without


def load_timm_weights(model: ObjectViT, path: str | Path) -> None:
    """Load a timm state dict of the same architecture; position and patch embeddings are resampled to the
    model's grid.

    `mask_token` and `object_token` are loaded if the file has them. Otherwise the mask token keeps its start
    and the object token starts from the loaded `[CLS]`.

    Args:
        model: The backbone, changed in place.
        path: A `.safetensors` file, or a `.pth` file that holds tensors only (no code is executed).

    Raises:
        ConfigError: a file that cannot be read, or whose keys or shapes are not the model's.
    """
    state = read_state(Path(path))
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
    for name in OWN:
        if name in expected:
            state[name] = own.get(name, expected[name])
    _check(path, state, expected)
    model.load_state_dict(state, strict=True)
    if "object_token" in expected and "object_token" not in own:
        model.start_object_token()


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a `.safetensors` file, or a `.pth` file of tensors; raises `ConfigError` for anything
    else.
    """
    if not path.is_file():
        raise ConfigError(
            f"model.weights: {path} is not a file; give `timm`, or a .safetensors or .pth state dict"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything
        raise ConfigError(f"model.weights: {path} cannot be read as tensors: {one_line(error)}") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"model.weights: {path} holds no state dict (names to tensors)")
    return state


def _check(path: str | Path, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    if missing := [k for k in expected if k not in state]:
        raise ConfigError(
            f"model.weights: {path} lacks {missing[0]} ({len(missing)} of the model's keys are missing)"
        )
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
