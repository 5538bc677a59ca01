"""What a config must satisfy, checked as a whole before a file or device is touched."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from odis.config.discovery import check_discover
from odis.config.keep import parse_fetch_cache, parse_keep
from odis.config.pixels import MOST_CHANNELS, ranges_fault, statistics_fault
from odis.config.require import require
from odis.config.training import PretrainConfig
from odis.config.wording import counted

LOGGERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""What `train.loggers` may hold."""


def check(config: PretrainConfig, world_size: int = 1) -> None:
    """Refuse values and combinations that cannot train.

    Raises:
        ConfigError: Naming the first offending setting by its dotted name, and what is allowed.
    """
    _check_types(config)
    _check_finite(config)
    _check_data(config)
    _check_views(config)
    _check_prediction(config)
    _check_model(config)
    _check_optimisation(config)
    _check_train(config, world_size)
    check_discover(config.discover)


def _value(config: PretrainConfig, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def _at_least(config: PretrainConfig, low: int, *names: str, unit: str = "") -> None:
    """Each setting is `low` or more; None, where it may be, is fine."""
    for name in names:
        value = _value(config, name)
        require(value is None or value >= low, name, f"is {value}, must be {low} or more{unit}")


def _above_zero(config: PretrainConfig, *names: str) -> None:
    for name in names:
        value = _value(config, name)
        require(value > 0, name, f"is {value}, must be above 0")


def _shares(config: PretrainConfig, *names: str) -> None:
    """Each number of each setting is from 0 to 1."""
    for name in names:
        value = _value(config, name)
        for share in value if isinstance(value, tuple) else (value,):
            require(0 <= share <= 1, name, f"is {share}, must be from 0 to 1")


def _interval(config: PretrainConfig, name: str, high: int) -> None:
    low, top = _value(config, name)
    allowed = f"must be two rising numbers above 0 and at most {high}"
    require(0 < low <= top <= high, name, f"is {[low, top]}, {allowed}")


_LARGEST = 2**31 - 1  # of a whole number, but for the seed

_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null",
}  # fmt: skip


def _check_types(config: PretrainConfig) -> None:
    """Each value is of its setting's type: files and the parser let some others through, null above all."""
    for name, value, hint in _settings(config):
        require(_fits(value, hint), name, f"is {_shown(value)}, must be {_words(hint)}")
        largest = 2**63 - 1 if name == "train.seed" else _LARGEST
        whole = [n for n in (value if isinstance(value, tuple | list) else [value]) if isinstance(n, int)]
        require(all(abs(n) <= largest for n in whole), name, f"is {_shown(value)}, must be at most {largest}")


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    hints = get_type_hints(type(config))
    for one in fields(config):
        value, hint = getattr(config, one.name), hints[one.name]
        if not is_dataclass(hint):
            yield f"{prefix}{one.name}", value, hint
            continue
        kind = type(value).__name__  # not the value: sections that hold settings come this way too
        require(isinstance(value, cast(type, hint)), one.name, f"is of type {kind}, must hold settings")
        yield from _settings(value, f"{one.name}.")


def _fits(value: Any, hint: Any) -> bool:
    of, within = get_origin(hint), get_args(hint)
    if of in (Union, UnionType):
        return any(_fits(value, one) for one in within)
    if of is Literal:
        return any(type(value) is type(one) and value == one for one in within)
    if of in (tuple, list):
        if not isinstance(value, tuple | list):
            return False
        if of is list or within[1:] == (...,):
            return all(_fits(one, within[0]) for one in value)
        kinds = within
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if hint in (int, float):
        number = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    of, within = get_origin(hint), get_args(hint)
    if of in (Union, UnionType):
        return " or ".join(map(_words, within))
    if of is Literal:
        return f"one of {', '.join(map(str, within))}"
    if of is tuple and within[1:] == (...,):
        return f"a list, each {_words(within[0])}"
    if of is tuple:
        return f"{counted(len(within), 'value')}, each {_words(within[0])}"
    return f"a list, each {_words(within[0])}" if of is list else _WORDS.get(hint, str(hint))


def _shown(value: Any) -> str:
    """A value in a message; Python writes no number of thousands of digits."""
    if isinstance(value, int) and abs(value) > 10**100:
        return "a number of hundreds of digits"
    return f"{value!r}"[:100]


def _check_finite(config: PretrainConfig) -> None:
    for section, settings in asdict(config).items():
        for name, value in settings.items() if isinstance(settings, dict) else ():
            numbers = value if isinstance(value, tuple) else (value,)
            finite = all(math.isfinite(n) for n in numbers if isinstance(n, float))
            require(finite, f"{section}.{name}", f"is {value}, must be finite")


def _check_data(config: PretrainConfig) -> None:
    objects = config.objects
    require(
        bool(config.data),
        "data",
        "is empty; give an object index (.parquet) or a folder of images with --data",
    )
    _at_least(config, 0, "loader.workers")
    _at_least(config, 1, "loader.prefetch", "objects.per_image")
    parse_keep(config.loader.keep, config.loader.render)
    parse_fetch_cache(config.loader.fetch_cache)
    _at_least(config, 0, "objects.min_size", unit=" pixels")
    _shares(config, "objects.min_visible")
    one_token = config.model.object_tokens != "read-only" and config.model.object_readout == "token"
    require(
        objects.per_image == 1 or not one_token,
        "objects.per_image",
        f"is {objects.per_image}, but model.object_tokens {config.model.object_tokens} has one token a view; "
        "set model.object_tokens read-only",
    )
    _at_least(config, 0, "objects.rediscover_every", unit=" epochs")
    require(
        objects.rediscover_every == 0 or objects.use,
        "objects.rediscover_every",
        f"is {objects.rediscover_every}, but objects.use is false: what is found would not be used",
    )
    _check_target(config)
    require(
        objects.per_image == 1 or objects.use,
        "objects.per_image",
        f"is {objects.per_image}, but objects.use is false: every image is one object",
    )


def _check_target(config: PretrainConfig) -> None:
    objects = config.objects
    _shares(config, "objects.first_crop_coverage")
    _at_least(config, 1, "objects.first_crop_draws")
    every_image = "but objects.use is false: every image is one object"
    require(objects.unit == "instances" or objects.use, "objects.unit", f"is {objects.unit}, {every_image}")
    require(
        objects.unit == "instances" or objects.rediscover_every == 0,
        "objects.unit",
        f"is {objects.unit}, but what objects.rediscover_every finds has no label",
    )
    index = objects.target == "index"
    require(index or objects.use, "objects.target", f"is {objects.target}, {every_image}")
    require(
        index or objects.sampling == "area",
        "objects.sampling",
        f"is {objects.sampling}, but objects.target {objects.target} takes the largest object of the crop",
    )
    require(
        index or config.views.object_crops,
        "objects.target",
        f"is {objects.target}, which draws global crops until they show an object, but views.object_crops is "
        "false",
    )


def _check_views(config: PretrainConfig) -> None:
    views = config.views
    _at_least(config, 2, "views.global_views", unit=": a view is matched with another")
    _at_least(config, 0, "views.local_views")
    _at_least(config, 1, "views.candidates", "views.local_candidates")
    require(
        views.local_masks or config.objects.per_image == 1,
        "views.local_masks",
        f"is false, but objects.per_image is {config.objects.per_image}: in a local view all of them would "
        "read the same",
    )
    _at_least(config, 2, "views.global_size", "views.local_size", unit=" pixels")
    _interval(config, "views.global_scale", 1)
    _interval(config, "views.local_scale", 1)
    _interval(config, "views.ratio", 100)
    _shares(config, "views.min_coverage", "views.flip", "views.jitter", "views.grayscale")
    _shares(config, "views.blur", "views.solarize")
    _shares(config, "views.mask_coverage")
    _at_least(config, 0, "views.mask_margin", unit=" patches")
    for strength, most in zip(views.jitter_strength, (1, 1, 1, 0.5)):
        require(0 <= strength <= most, "views.jitter_strength", f"is {strength}, must be from 0 to {most:g}")
    require(
        1 <= views.channels <= MOST_CHANNELS,
        "views.channels",
        f"is {views.channels}, must be from 1 to {MOST_CHANNELS}",
    )
    wrong = ranges_fault(views.value_ranges, views.channels)
    require(wrong is None, "views.value_ranges", str(wrong))
    for name in ("mean", "std"):
        if (values := getattr(views, name)) is not None or config.model.weights in (None, "timm"):
            wrong = statistics_fault(name, values, views.channels)
            require(wrong is None, f"views.{name}", str(wrong))
    require(
        views.channels == 3 or config.objects.rediscover_every == 0,
        "objects.rediscover_every",
        f"is {config.objects.rediscover_every}, but views.channels is {views.channels}, and discovery is of "
        "three",
    )


def _check_prediction(config: PretrainConfig) -> None:
    prediction, weight = config.prediction, config.loss.patch_weight
    _shares(config, "prediction.probability", "prediction.ratio")
    _at_least(config, 0, "prediction.keep_object", unit=" patches")
    require(
        prediction.keep_object == 0 or (config.objects.use and config.views.object_masks),
        "prediction.keep_object",
        f"is {prediction.keep_object}, but without objects.use and views.object_masks the whole view is the "
        "object",
    )
    require(
        0 <= prediction.spread <= min(prediction.ratio, 1 - prediction.ratio),
        "prediction.spread",
        f"is {prediction.spread}, but prediction.ratio {prediction.ratio} +- spread must stay within 0..1",
    )
    require(
        weight == 0 or (prediction.probability > 0 and prediction.ratio > 0),
        "loss.patch_weight",
        f"is {weight}, but prediction.probability or prediction.ratio is 0, so no patch is ever hidden; "
        "set it to 0",
    )


def _check_model(config: PretrainConfig) -> None:
    model = config.model
    _at_least(config, 1, "model.patch_size", "model.embed_dim", "model.depth", "model.num_heads")
    require(0 <= model.drop_path < 1, "model.drop_path", f"is {model.drop_path}, must be from 0 to below 1")
    _at_least(config, 0, "model.freeze_blocks")
    require(
        model.drop_path_kind == "timm" or model.drop_path > 0.1,
        "model.drop_path_kind",
        f"is {model.drop_path_kind}, which skips views for rates above 0.1, but model.drop_path is "
        f"{model.drop_path}",
    )
    pools = model.object_readout == "mean-pool"
    require(
        not pools or config.views.object_masks,
        "model.object_readout",
        "is mean-pool, which averages the patches of the object mask, but views.object_masks is false",
    )
    require(
        not pools or model.object_tokens == "single",
        "model.object_readout",
        "is mean-pool, which reads objects from patches and has no use for object tokens; "
        "set model.object_tokens single",
    )
    require(
        model.object_sees_cls is None or model.object_tokens != "single",
        "model.object_sees_cls",
        f"is {str(model.object_sees_cls).lower()}, but with model.object_tokens single [CLS] is the object "
        "token; leave it out, or set model.object_tokens read-only or beside",
    )
    _at_least(config, 1, "head.prototypes", "head.hidden", "head.bottleneck", "head.layers")


def _check_optimisation(config: PretrainConfig) -> None:
    loss, betas = config.loss, config.optim.betas
    weights = [loss.object_weight, loss.patch_weight, loss.image_weight]
    require(
        min(weights) >= 0 and max(weights) > 0,
        "loss",
        f"weights are {weights}, must be 0 or more and one above 0",
    )
    _at_least(config, 0, "loss.koleo_weight", "loss.gram_weight")
    require(
        loss.gram_weight == 0 or config.model.weights is not None,
        "loss.gram_weight",
        f"is {loss.gram_weight}, but model.weights names no network to stay near",
    )
    _above_zero(config, "loss.student_temp", "loss.teacher_temp", "loss.warmup_teacher_temp")
    _at_least(config, 0, "loss.warmup_teacher_temp_epochs", unit=" epochs")
    _shares(config, "loss.center_momentum", "optim.momentum_teacher")
    _at_least(config, 1, "loss.sinkhorn_iterations")
    _at_least(config, 0, "optim.base_lr", "optim.min_lr", "optim.clip_grad")
    _at_least(config, 0, "optim.weight_decay", "optim.weight_decay_end")
    _at_least(config, 0, "optim.warmup_epochs", unit=" epochs")
    _at_least(config, 0, "optim.freeze_backbone_epochs", unit=" epochs")
    for name in ("optim.layer_decay", "optim.patch_embed_factor"):
        require(
            0 < _value(config, name) <= 1, name, f"is {_value(config, name)}, must be above 0 and at most 1"
        )
    if config.optim.freeze_last_layer_epochs != "always":
        _at_least(config, 0, "optim.freeze_last_layer_epochs", unit=" epochs, or always")
    require(all(0 <= b < 1 for b in betas), "optim.betas", f"is {list(betas)}, must be from 0 to below 1")


def _check_train(config: PretrainConfig, world_size: int) -> None:
    train = config.train
    _above_zero(config, "train.epochs")
    _at_least(config, 1, "train.steps", "train.accumulate", "train.keep", "train.nonfinite_limit")
    _at_least(config, 1, "train.log_every", unit=" steps")
    _at_least(config, 0, "train.checkpoint_every", "train.knn_every", "train.threads", "train.seed")
    _at_least(config, 0, "train.pictures_every")
    for name in train.loggers:
        known = ", ".join(LOGGERS)
        require(name in LOGGERS, "train.loggers", f"has {name!r}, must be some of {known}")
    twice = [name for name in train.loggers if train.loggers.count(name) > 1]
    require(not twice, "train.loggers", f"has {', '.join(twice[:1])} twice")
    require(
        train.pictures_every == 0 or bool(train.loggers),
        "train.pictures_every",
        f"is {train.pictures_every}, but train.loggers names none that would show pictures",
    )
    parts = world_size * train.accumulate
    require(
        train.batch_size >= 1 and train.batch_size % parts == 0,
        "train.batch_size",
        f"is {train.batch_size}, must be a multiple of {parts} (ranks x train.accumulate)",
    )
    require(
        train.parallel == "ddp" or train.precision != "fp16",
        "train.parallel",
        "is fsdp, but the loss scale of train.precision fp16 is not shared by sharded gradients; set "
        "train.precision bf16 or fp32, or train.parallel ddp",
    )
    require(
        train.knn_every == 0 or config.val is not None,
        "train.knn_every",
        f"is {train.knn_every}, but val names no held-out index",
    )
