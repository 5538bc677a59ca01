"""What weights were trained with: pixel statistics, interpolation; and their licence. Settings follow it."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open

from odis.backbones.names import name_fault
from odis.backbones.weights import one_line
from odis.config.pixels import Channels, PixelFormat, ValueRanges, statistics_fault
from odis.config.training import ModelConfig, PretrainConfig
from odis.errors import ConfigError, OdisWarning


@dataclass(frozen=True, slots=True)
class StartWeights:
    """What weights were trained with, and where that is known from.

    Attributes:
        source: `timm`, or the file.
        tag: timm's name of the weights, `vit_small_patch16_224.dino`; of a file, that which tells of it.
        mean: Of each channel, for pixels in 0..1.
        std: Deviations of the channels.
        interpolation: That of resizes.
        license: Of the weights, as timm has it; `unknown` for a file whose tag is not named.
        certain: False for a file whose name has no tag: then `tag` is timm's default one.
        ranges: Of the numbers of its images (`views.value_ranges`), if odis trained it on stated ones.
    """

    source: str
    tag: str
    mean: Channels
    std: Channels
    interpolation: str
    license: str
    certain: bool
    ranges: ValueRanges | None = None

    def line(self) -> str:
        """Of what, for messages."""
        given = "" if self.certain else ", timm's default tag of that name"
        return (
            f"{self.tag}{given}: mean {_numbers(self.mean)}, std {_numbers(self.std)}, "
            f"{self.interpolation}, licence {self.license}"
        )


def start_weights(model: ModelConfig) -> StartWeights | None:
    """What the weights that a config starts from were trained with; None without weights.

    Raises:
        ConfigError: for a name that timm does not have.
    """
    if model.weights is None:
        return None
    if model.weights != "timm" and (card := _card(Path(model.weights))) is not None:
        before = card.get("start_weights") or {}
        return StartWeights(
            source=str(model.weights),
            tag=str(before.get("tag", "odis")),
            mean=_channels(card["mean"]),
            std=_channels(card["std"]),
            interpolation="bicubic",
            license=str(before.get("license", "yours")),
            certain=True,
            ranges=PixelFormat.of_card(card).ranges,
        )
    published = published_config(model.name)
    data: Any = timm.data.resolve_data_config(pretrained_cfg=published)
    tag = published.get("tag") or ""
    architecture = str(published.get("architecture") or model.name.partition(".")[0])
    certain = model.weights == "timm" or "." in model.name
    return StartWeights(
        source=str(model.weights),
        tag=f"{architecture}.{tag}" if tag else architecture,
        mean=_channels(data["mean"]),
        std=_channels(data["std"]),
        interpolation=str(data["interpolation"]),
        license=str(published.get("license") or "unknown") if certain else "unknown",
        certain=certain,
    )


def start_record(model: ModelConfig) -> dict[str, str] | None:
    """Whose weights a config starts from, and their licence, for what a run writes; None: no one's."""
    start = start_weights(model)
    return None if start is None else {"source": start.source, "tag": start.tag, "license": start.license}


def published_config(name: str) -> dict[str, Any]:
    """timm's record of a name's weights: of its tag, or of the default one.

    Raises:
        ConfigError: for a name that timm does not have.
    """
    if (fault := name_fault(name)) is not None:
        raise ConfigError(f"model.name: {fault}")
    if ":" not in name:
        found = timm.get_pretrained_cfg(name, allow_unregistered=False)
        return dict(found.to_dict()) if found else {}
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, num_classes=0)
            return dict(model.pretrained_cfg)
    except Exception as error:  # timm and its hub client raise whatever they like
        raise ConfigError(f"model.name: {name}: {one_line(error)}") from error


def published_size(name: str) -> int:
    """Side in pixels that timm has for a name's weights."""
    data: Any = timm.data.resolve_data_config(pretrained_cfg=published_config(name))
    return int(data["input_size"][-1])


def follow_weights(config: PretrainConfig) -> PretrainConfig:
    """A config whose pixel statistics are settled: those of the weights that it starts from, else ImageNet's.

    Statistics that are given and are not those of the weights are refused. Only of a file whose
    `model.name` has no tag they are taken: then nothing else says what it was trained with.

    Raises:
        ConfigError: for such a contradiction; it says what to give.
    """
    views, start = config.views, start_weights(config.model)
    if start is None:
        mean, std = views.statistics
        return replace(config, views=replace(views, mean=mean, std=std))
    if start.ranges is not None:
        if views.value_ranges not in (None, start.ranges):
            raise ConfigError(
                f"views.value_ranges: is {list(views.value_ranges)}, but the weights ({start.tag}) were "
                f"trained with {list(start.ranges)}; leave it out"
            )
        views = replace(views, value_ranges=start.ranges)
        config = replace(config, views=views)
    given = {name: value for name in ("mean", "std") if (value := getattr(views, name)) is not None}
    if len(start.mean) != views.channels:  # statistics of other channels say nothing of these
        for name in ("mean", "std"):
            if (fault := statistics_fault(name, given.get(name), views.channels)) is not None:
                raise ConfigError(f"views.{name}: {fault}")
        return config
    if not start.certain and len(given) == 2:
        return config
    for name, value in given.items():
        if not all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(value, getattr(start, name))):
            more = "" if start.certain else "; or give both, if the file was trained with others"
            raise ConfigError(
                f"views.{name}: is {_numbers(value)}, but the weights ({start.tag}) were trained with "
                f"{_numbers(getattr(start, name))}; leave views.mean and views.std out{more}"
            )
    if start.interpolation != "bicubic":
        raise ConfigError(
            f"model.weights: {start.tag} was trained on images resized by {start.interpolation} "
            f"interpolation, views are resized by bicubic; give weights that were trained with it"
        )
    return replace(config, views=replace(views, mean=start.mean, std=start.std))


def say_default_tag(start: StartWeights, otherwise: str = "") -> None:
    """An `OdisWarning` where the statistics of a file are a guess; `otherwise` is what else can be done."""
    if not start.certain:
        name, _, tag = start.tag.partition(".")
        warnings.warn(
            f"{start.source}: its pixel statistics are taken from {start.line()}; if it was trained with "
            f"others, name its tag ({_other_tag(name, tag)}){otherwise}",
            OdisWarning,
            stacklevel=3,
        )


def _other_tag(name: str, tag: str) -> str:
    others = [one for one in timm.list_pretrained(f"{name}.*") if one != f"{name}.{tag}"]
    return f"as in {others[0]}" if others else f"as in {name}.TAG"


def _card(path: Path) -> dict[str, Any] | None:
    """The card of a model that odis wrote; None of any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})["odis"])
        return card if isinstance(card, dict) and {"mean", "std"} <= card.keys() else None
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _channels(values: Any) -> Channels:
    return tuple(float(value) for value in values)


def _numbers(values: Channels) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"
