"""A backbone on disk: one safetensors file with timm's keys and a card that says how to rebuild and ask
it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from odis.backbones.build import build_vit
from odis.backbones.names import without_hub
from odis.config.pixels import PixelFormat
from odis.config.training import ModelConfig
from odis.errors import ConfigError, DataError
from odis.machine.checksums import (
    SAFETENSORS_KEY,
    UNSEALED,
    DamagedError,
    reason,
    seal_safetensors,
    verify_archive,
    verify_safetensors,
)
from odis.machine.files import check_readable, written_whole
from odis.method.vit import ObjectViT


def save_model(path: Path, backbone: nn.Module, card: dict[str, Any]) -> None:
    """Write the backbone's weights and its card.

    Args:
        path: `.safetensors` file.
        backbone: The network to keep (of a run: the teacher's; of a fine-tuning: with its heads).
        card: JSON-able description; `model` holds the `ModelConfig` fields, `image_size` the side it was
            trained at.

    Raises:
        DataError: if it cannot be written.
    """
    weights = {k: v.contiguous() for k, v in backbone.state_dict().items()}
    about = {"odis": json.dumps(card), SAFETENSORS_KEY: UNSEALED}
    with written_whole(path, errors=(SafetensorError,), seal=seal_safetensors) as beside:
        save_file(weights, beside, metadata=about)
        # The library leaves the order of metadata to chance, and two equal runs should write equal files.
        with beside.open("r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) | {"__metadata__": about}
            file.seek(8)
            file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))


def load_model(path: Path) -> tuple[ObjectViT, dict[str, Any]]:
    """The backbone in `path`, on the CPU in eval mode, and its card.

    Raises:
        DataError: if the file is missing, cut short, or not written by `save_model`.
    """
    check_readable(path)
    try:
        verify_safetensors(path)
        with safe_open(path, framework="pt") as f:
            card = json.loads((f.metadata() or {})["odis"])
            shapes = {name: list(f.get_slice(name).get_shape()) for name in f.keys()}  # noqa: SIM118
        backbone = _built(card, shapes)
        backbone.load_state_dict(load_file(path))
    except DamagedError as e:
        raise DataError(f"{path}: not a model that odis wrote, or not whole ({reason(e, path)})") from e
    except ConfigError as e:
        raise DataError(f"{path}: its card describes no network that can be built here ({e})") from e
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as e:
        why = str(e).splitlines()[0][:200]
        raise DataError(
            f"{path}: not a model that odis wrote, or not whole ({type(e).__name__}: {why})"
        ) from e
    return backbone.eval(), card


def load_teacher(path: Path) -> tuple[ObjectViT, dict[str, Any]]:
    """The teacher's backbone in a run's checkpoint, on the CPU in eval mode, and its card. No code in the
    file is executed.

    Raises:
        DataError: if the file is cut short, or no checkpoint that odis wrote.
    """
    check_readable(path)
    try:
        verify_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DamagedError as e:
        raise DataError(f"{path}: not a whole checkpoint ({reason(e, path)})") from e
    except Exception as e:  # damaged files raise anything
        raise DataError(f"{path}: not a whole checkpoint ({type(e).__name__})") from e
    try:
        card = state["card"]
        of_backbone = {
            k.removeprefix("backbone."): v for k, v in state["teacher"].items() if k.startswith("backbone.")
        }
        backbone = _built(card, {name: list(value.shape) for name, value in of_backbone.items()})
        backbone.load_state_dict(of_backbone)
    except ConfigError as e:
        raise DataError(f"{path}: its card describes no network that can be built here ({e})") from e
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as e:
        raise DataError(
            f"{path}: not a checkpoint that odis wrote ({type(e).__name__}: {str(e).splitlines()[0][:200]})"
        ) from e
    return backbone.eval(), card


def _built(card: dict[str, Any], shapes: dict[str, list[int]]) -> ObjectViT:
    """The network that a card describes, without weights. No hub is asked: one of its models is described by
    its local cache, or not at all.

    Args:
        card: As it stands in the file.
        shapes: Of the weights in the file. A card that describes another network is refused before that takes
            memory or time.

    Raises:
        KeyError, TypeError, ValueError, ConfigError: The card describes no network, or another one.
    """
    config, size = ModelConfig(**card["model"] | {"weights": None}), card["image_size"]
    channels = PixelFormat.of_card(card).channels
    for name in ("patch_size", "embed_dim", "depth", "num_heads"):
        value = getattr(config, name)
        most = len(shapes) if name == "depth" else _LARGEST
        if value is not None and not (type(value) is int and 0 < value <= most):
            raise ValueError(f"its card has {name} {value!r}, must be from 1 to {most}")
    if type(size) is not int or not 0 < size <= _LARGEST:
        raise ValueError(f"its card has image_size {size!r}, must be from 1 to {_LARGEST}")
    with without_hub():
        with torch.device("meta"):
            described = build_vit(config, size, drop_path=0.0, channels=channels).state_dict()
        if {name: list(value.shape) for name, value in described.items()} != shapes:
            raise ValueError("its card describes another network than its weights are of")
        return build_vit(config, size, drop_path=0.0, channels=channels)


_LARGEST = 2**16
"""Of a size in a card: a width, a side in pixels."""
