"""Load a model: a run, its model file, one of its checkpoints, or a timm model by name."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from odis.backbones.baseline import TimmBaseline, build_baseline, takes_object_tokens
from odis.backbones.build import build_vit
from odis.backbones.names import name_fault
from odis.backbones.published import published_size, say_default_tag, start_weights
from odis.backbones.saved import load_model, load_teacher
from odis.config.pixels import PixelFormat
from odis.config.training import ModelConfig
from odis.errors import ConfigError, DataError, OdisError
from odis.inference.encoder import Encoder
from odis.machine.devices import resolve_device, resolve_precision
from odis.machine.files import check_readable
from odis.method.vit import ObjectViT


def load(source: str | Path, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """Load the encoder of a run, a `model.safetensors`, a checkpoint, or a timm model.

    Any timm model can be loaded. A plain `VisionTransformer` with a class token gets read-only object tokens
    that start as a copy of it. All others become a `TimmBaseline`: timm's own pooling, in every mode but
    masked attention.

    Args:
        source: A folder or file of `odis pretrain` (of a checkpoint, the teacher); `timm:NAME`, which
            downloads the weights or reads the local hub cache; or `timm:NAME@FILE`, with weights from a file.
        device: `auto` (the GPU if there is one), `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `fp32`, `bf16` or `fp16`; `auto` is bf16 on a GPU that has it, else fp32.

    Raises:
        OdisError: for anything else, a damaged file, weights that cannot be fetched, or a device that is not
            here.
    """
    if not isinstance(source, str | Path):
        raise ConfigError(f"a model is {type(source).__name__}, must be a path, or timm:NAME")
    where = resolve_device(device)
    arithmetic = resolve_precision(precision, where)
    encoder = _published(str(source)) if str(source).startswith("timm:") else _trained(Path(source))
    encoder.model.to(where).requires_grad_(False).eval()
    encoder.precision, encoder.source = arithmetic.name, str(source)
    return encoder


def _trained(path: Path) -> Encoder:
    if os.path.isdir(path):
        check_readable(path)
        if path.suffix == ".sharded":
            raise DataError(
                f"{path}: is a checkpoint in shards; make one file of it: odis checkpoint consolidate {path} "
                f"--out FILE.pt"
            )
        file = path / "model.safetensors"
        if not file.exists():
            raise DataError(
                f"{path}: this run has not written its model.safetensors yet"
                if (path / "config.yaml").exists()
                else f"{path}: not a run's folder: it has no model.safetensors"
            )
        path = file
    else:
        check_readable(path, "run folder or model file (a model by name is timm:NAME)")
    model, card = load_teacher(path) if path.suffix == ".pt" else load_model(path)
    try:
        return Encoder(
            model,
            card["image_size"],
            tuple(card["mean"]),
            tuple(card["std"]),
            card["mask_coverage"],
            card["mask_margin"],
            card.get("mask_shape", "area"),  # models of 0.1 have no other
            object_readout=card["model"]["object_readout"],
            provenance=card["provenance"],
            card=card,
            pixels=PixelFormat.of_card(card),
        )
    except KeyError as error:
        raise DataError(f"{path}: not a model that odis wrote: its card lacks {error}") from error


def _published(source: str) -> Encoder:
    name, _, file = source.removeprefix("timm:").partition("@")
    if (fault := name_fault(name)) is not None:
        raise ConfigError(f"{source}: {fault}")
    start = start_weights(ModelConfig(name=name, weights=file or "timm"))
    assert start is not None
    say_default_tag(start)
    size = published_size(name)
    model: ObjectViT | TimmBaseline
    try:
        if takes_object_tokens(name):
            model = build_vit(
                ModelConfig(name=name, weights=file or "timm", object_tokens="read-only"), size, drop_path=0.0
            )
        else:
            model = _plain(name, size, file or "timm")
    except ConfigError as error:
        if file:
            raise
        raise OdisError(
            f"{source}: {error}; without a network, give the weights as a file: timm:{name}@FILE.safetensors"
        ) from error
    return Encoder(
        model, size, start.mean, start.std, provenance="timm's weights", interpolation=start.interpolation
    )


def _plain(name: str, size: int, weights: str) -> TimmBaseline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old architectures use what torch no longer likes
        return build_baseline(name, size, weights)
