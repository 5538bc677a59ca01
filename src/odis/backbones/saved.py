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

from odis.backbones.build import build_vit
from odis.backbones.names import without_hub
from odis.config.training import ModelConfig
from odis.errors import DataError
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


def save_model(path: Path, backbone: ObjectViT, card: dict[str, Any]) -> None:
    """Write the backbone's weights and its card.

    Args:
        path: `.safetensors` file.
        backbone: The network to keep (of a run: the teacher's).
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
        backbone = _built(card)
        backbone.load_state_dict(load_file(path))
    except DamagedError as e:
        raise DataError(f"{path}: not a model that odis wrote, or not whole ({reason(e, path)})") from e
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
        backbone = _built(card)
        of_backbone = {
            k.removeprefix("backbone."): v for k, v in state["teacher"].items() if k.startswith("backbone.")
        }
        backbone.load_state_dict(of_backbone)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as e:
        raise DataError(
            f"{path}: not a checkpoint that odis wrote ({type(e).__name__}: {str(e).splitlines()[0][:200]})"
        ) from e
    return backbone.eval(), card


def _built(card: dict[str, Any]) -> ObjectViT:
    """The network that a card describes, without weights. No hub is asked: one of its models is described by
    its local cache, or not at all.
    """
    config = ModelConfig(**card["model"] | {"weights": None})
    with without_hub():
        return build_vit(config, card["image_size"], drop_path=0.0)
