"""Starting points of a fine-tuning: random weights, timm's, a run of odis before and after its training.

random              the architecture of the first other starting point, weights drawn by the seed
random:SOURCE       the architecture of SOURCE
before:RUN          the weights that a run of odis began from
SOURCE              a run's folder, a model.safetensors, a checkpoint, timm:NAME or timm:NAME@FILE
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from odis.backbones.build import build_vit
from odis.config.pixels import RGB, Channels, PixelFormat
from odis.config.training import ModelConfig
from odis.errors import ConfigError, DataError, OdisError
from odis.inference import Encoder, load
from odis.inference.colours import require_colours
from odis.method.vit import ObjectViT
from odis.train.run_folder import read_config

RANDOM, BEFORE = "random", "before:"


@dataclass(frozen=True, slots=True)
class Start:
    """A backbone to start from.

    Attributes:
        source: As it was given.
        model: What builds it, without weights.
        image_size: Side in pixels that its positions are made for.
        mean: Channel means of pixels in 0..1.
        std: Channel deviations.
        weights: Its state; None for random weights.
        provenance: Where the objects that it was trained on came from.
        recipe: Of its pretraining.
        step: Of its pretraining.
    """

    source: str
    model: ModelConfig
    image_size: int
    mean: Channels
    std: Channels
    weights: dict[str, Tensor] | None
    provenance: str = ""
    recipe: str | None = None
    step: int | None = None

    @property
    def fingerprint(self) -> str:
        """Eight characters that tell two starting points apart: of architecture, statistics and weights.

        Settings at their default are left out, so that a version with more of them says the same.
        """
        usual = asdict(ModelConfig())
        given = {name: value for name, value in asdict(self.model).items() if value != usual[name]}
        about = (sorted(given.items()), self.image_size, self.mean, self.std)
        digest = hashlib.sha256(repr(about).encode())
        for name, value in sorted((self.weights or {}).items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:8]

    def build(self, seed: int, *, drop_path: float = 0.0, grad_checkpointing: bool = False) -> ObjectViT:
        """The backbone on the CPU; random weights are those of the seed."""
        torch.manual_seed(seed)
        config = replace(self.model, drop_path=drop_path, grad_checkpointing=grad_checkpointing)
        backbone = build_vit(config, self.image_size)
        if self.weights is not None:
            backbone.load_state_dict(self.weights)
        return backbone

    def card(self) -> dict[str, Any]:
        """What rebuilds the backbone, and what it was shown."""
        return {
            "model": {name: getattr(self.model, name) for name in self.model.__dataclass_fields__},
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "source": self.source,
            "provenance": self.provenance,
        }


def open_starts(sources: Sequence[str | Path | Encoder]) -> list[Start]:
    """Starting points, in the order given.

    Raises:
        ConfigError: `random` alone, which names no architecture, or a source given twice.
        OdisError: What `odis.load` refuses, or a network that is no plain ViT.
    """
    names = [one.source or "model" if isinstance(one, Encoder) else str(one) for one in sources]
    if not names:
        raise ConfigError("models: at least one starting point is needed")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"models: {twice} is given twice")
    found: dict[str, Start] = {
        name: _of_encoder(name, one) if isinstance(one, Encoder) else _open(name)
        for name, one in zip(names, sources)
        if name != RANDOM
    }
    if RANDOM in names:
        if not found:
            raise ConfigError(f"models: {RANDOM} takes the architecture of another one; give {RANDOM}:SOURCE")
        found[RANDOM] = _without_weights(next(iter(found.values())), RANDOM)
    return [found[name] for name in names]


def _open(source: str) -> Start:
    if source.startswith(f"{RANDOM}:"):
        return _without_weights(_open(source.removeprefix(f"{RANDOM}:")), source)
    if source.startswith(BEFORE):
        return _before(Path(source.removeprefix(BEFORE)), source)
    return _of_encoder(source, load(source, device="cpu", precision="fp32"))


def _of_encoder(source: str, encoder: Encoder) -> Start:
    model = encoder.model
    if not isinstance(model, ObjectViT):
        raise OdisError(
            f"{source}: is a timm {type(model.model).__name__}; fine-tuning takes ViTs with [CLS]"
        )
    require_colours(encoder, "fine-tuning")
    card = encoder.card
    if card:
        config = ModelConfig(**card["model"] | {"weights": None})
    elif source.startswith("timm:"):
        name = source.removeprefix("timm:").partition("@")[0]
        config = ModelConfig(name=name, object_tokens="read-only")
    else:
        raise OdisError(f"{source}: an encoder in memory; give what odis.load takes, so that it can be built")
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    mean, std = encoder.mean, encoder.std
    where = encoder.provenance
    return Start(
        source, config, encoder.image_size, mean, std, weights, where, card.get("recipe"), card.get("step")
    )


def _without_weights(start: Start, source: str) -> Start:
    return replace(start, source=source, weights=None, provenance="nothing", recipe=None, step=0)


def _before(run: Path, source: str) -> Start:
    """The weights that a run began from: drawn by its seed, or those that its config names."""
    config = read_config(run)["config"]
    try:
        model, views = ModelConfig(**config["model"]), config["views"]
        size, seed = int(views["global_size"]), int(config["train"]["seed"])
        mean, std = (_channels(views[name]) for name in ("mean", "std"))
        form = PixelFormat.of_card(views)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{run / 'config.yaml'}: not the config of a run of this version ({error})"
        ) from error
    if form != RGB:
        raise OdisError(f"{source}: was trained on other images than 8-bit RGB, which fine-tuning reads")
    torch.manual_seed(seed)
    backbone = build_vit(model, size)
    weights = {name: value.detach().clone() for name, value in backbone.state_dict().items()}
    where = "nothing" if model.weights is None else f"weights {model.weights}"
    return Start(source, replace(model, weights=None), size, mean, std, weights, where, step=0)


def _channels(values: Any) -> Channels:
    return tuple(map(float, values))
