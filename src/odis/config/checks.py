"""What a config must satisfy, checked as a whole before a file or device is touched."""

from __future__ import annotations

import math
from dataclasses import asdict

from odis.config.keep import parse_keep
from odis.config.training import DiscoverConfig, PretrainConfig
from odis.errors import ConfigError


def _require(ok: bool, name: str, message: str) -> None:
    if not ok:
        raise ConfigError(f"{name}: {message}")


def _range(value: float, low: float, high: float, name: str) -> None:
    _require(low <= value <= high, name, f"is {value}, must be from {low:g} to {high:g}")


def _interval(value: tuple[float, float], high: float, name: str) -> None:
    low, top = value
    _require(
        0 < low <= top <= high,
        name,
        f"is {list(value)}, must be two rising numbers above 0 and at most {high:g}",
    )


def check(config: PretrainConfig, world_size: int = 1) -> None:
    """Refuse values and combinations that cannot train, before a file or device is touched.

    Raises:
        ConfigError: naming the first offending setting by its dotted name, and what is allowed.
    """
    _check_finite(config)
    _check_data(config)
    _check_views(config)
    _check_model(config)
    _check_optimisation(config)
    _check_train(config, world_size)
    check_discover(config.discover)


def _check_finite(config: PretrainConfig) -> None:
    for section, settings in asdict(config).items():
        for name, value in settings.items() if isinstance(settings, dict) else ():
            numbers = value if isinstance(value, tuple) else (value,)
            finite = all(math.isfinite(n) for n in numbers if isinstance(n, float))
            _require(finite, f"{section}.{name}", f"is {value}, must be finite")


def _check_data(config: PretrainConfig) -> None:
    loader, objects = config.loader, config.objects
    _require(
        bool(config.data),
        "data",
        "is empty; give an object index (.parquet) or a folder of images with --data",
    )
    _require(loader.workers >= 0, "loader.workers", f"is {loader.workers}, must be 0 or more")
    _require(loader.prefetch >= 1, "loader.prefetch", f"is {loader.prefetch}, must be 1 or more")
    parse_keep(loader.keep, loader.render)
    _require(objects.per_image >= 1, "objects.per_image", f"is {objects.per_image}, must be 1 or more")
    _require(objects.min_size >= 0, "objects.min_size", f"is {objects.min_size}, must be 0 or more pixels")
    _range(objects.min_visible, 0, 1, "objects.min_visible")
    _require(
        objects.per_image == 1
        or config.model.object_tokens == "read-only"
        or config.model.object_readout == "mean-pool",
        "objects.per_image",
        f"is {objects.per_image}, but model.object_tokens single has one token a view; set "
        f"model.object_tokens read-only",
    )
    _require(
        objects.rediscover_every >= 0,
        "objects.rediscover_every",
        f"is {objects.rediscover_every}, must be 0 or more epochs",
    )
    _require(
        objects.rediscover_every == 0 or objects.use,
        "objects.rediscover_every",
        f"is {objects.rediscover_every}, but objects.use is false: what is found would not be used",
    )
    _require(
        objects.per_image == 1 or objects.use,
        "objects.per_image",
        f"is {objects.per_image}, but objects.use is false: every image is one object",
    )


def _check_views(config: PretrainConfig) -> None:
    views, prediction = config.views, config.prediction
    _require(
        views.global_views >= 2,
        "views.global_views",
        f"is {views.global_views}, must be 2 or more: a view is matched with another",
    )
    _require(views.local_views >= 0, "views.local_views", f"is {views.local_views}, must be 0 or more")
    _require(views.candidates >= 1, "views.candidates", f"is {views.candidates}, must be 1 or more")
    for name in ("global_size", "local_size"):
        _require(
            getattr(views, name) >= 2, f"views.{name}", f"is {getattr(views, name)}, must be 2 or more pixels"
        )
    _interval(views.global_scale, 1, "views.global_scale")
    _interval(views.local_scale, 1, "views.local_scale")
    _interval(views.ratio, 100, "views.ratio")
    for name in ("min_coverage", "flip", "jitter", "grayscale"):
        _range(getattr(views, name), 0, 1, f"views.{name}")
    _require(
        0 < views.mask_coverage <= 1,
        "views.mask_coverage",
        f"is {views.mask_coverage}, must be above 0 and at most 1",
    )
    _require(
        views.mask_margin >= 0, "views.mask_margin", f"is {views.mask_margin}, must be 0 or more patches"
    )
    for name in ("blur", "solarize"):
        for p in getattr(views, name):
            _range(p, 0, 1, f"views.{name}")
    for i, strength in enumerate(views.jitter_strength):
        _range(strength, 0, 0.5 if i == 3 else 1, "views.jitter_strength")
    _require(all(s > 0 for s in views.std), "views.std", f"is {list(views.std)}, must be above 0")
    _range(prediction.probability, 0, 1, "prediction.probability")
    _range(prediction.ratio, 0, 1, "prediction.ratio")
    _require(
        0 <= prediction.spread <= min(prediction.ratio, 1 - prediction.ratio),
        "prediction.spread",
        f"is {prediction.spread}, but prediction.ratio {prediction.ratio} +- spread must stay within 0..1",
    )
    _require(
        config.loss.patch_weight == 0 or (prediction.probability > 0 and prediction.ratio > 0),
        "loss.patch_weight",
        f"is {config.loss.patch_weight}, but prediction.probability or prediction.ratio is 0, so no patch "
        f"is ever hidden; set it to 0",
    )


def _check_model(config: PretrainConfig) -> None:
    model, head = config.model, config.head
    for name in ("patch_size", "embed_dim", "depth", "num_heads"):
        value = getattr(model, name)
        _require(value is None or value >= 1, f"model.{name}", f"is {value}, must be 1 or more")
    _require(0 <= model.drop_path < 1, "model.drop_path", f"is {model.drop_path}, must be from 0 to below 1")
    _require(
        not (model.object_readout == "mean-pool" and not config.views.object_masks),
        "model.object_readout",
        "is mean-pool, which averages the patches of the object mask, but views.object_masks is false",
    )
    _require(
        not (model.object_readout == "mean-pool" and model.object_tokens == "read-only"),
        "model.object_readout",
        "is mean-pool, which reads objects from patches and has no use for object tokens; set "
        "model.object_tokens single",
    )
    for name in ("prototypes", "hidden", "bottleneck", "layers"):
        _require(getattr(head, name) >= 1, f"head.{name}", f"is {getattr(head, name)}, must be 1 or more")


def _check_optimisation(config: PretrainConfig) -> None:
    loss, optim = config.loss, config.optim
    weights = (loss.object_weight, loss.patch_weight, loss.image_weight)
    _require(
        min(weights) >= 0 and max(weights) > 0,
        "loss",
        f"weights are {list(weights)}, must be 0 or more and one above 0",
    )
    _require(loss.koleo_weight >= 0, "loss.koleo_weight", f"is {loss.koleo_weight}, must be 0 or more")
    for name in ("student_temp", "teacher_temp", "warmup_teacher_temp"):
        _require(getattr(loss, name) > 0, f"loss.{name}", f"is {getattr(loss, name)}, must be above 0")
    _range(loss.center_momentum, 0, 1, "loss.center_momentum")
    _require(
        loss.sinkhorn_iterations >= 1,
        "loss.sinkhorn_iterations",
        f"is {loss.sinkhorn_iterations}, must be 1 or more",
    )
    for name in ("base_lr", "min_lr", "weight_decay", "weight_decay_end", "clip_grad"):
        _require(getattr(optim, name) >= 0, f"optim.{name}", f"is {getattr(optim, name)}, must be 0 or more")
    for name in ("warmup_epochs", "freeze_last_layer_epochs"):
        _require(
            getattr(optim, name) >= 0, f"optim.{name}", f"is {getattr(optim, name)}, must be 0 or more epochs"
        )
    _require(
        loss.warmup_teacher_temp_epochs >= 0, "loss.warmup_teacher_temp_epochs", "must be 0 or more epochs"
    )
    _require(
        all(0 <= b < 1 for b in optim.betas),
        "optim.betas",
        f"is {list(optim.betas)}, must be from 0 to below 1",
    )
    _range(optim.momentum_teacher, 0, 1, "optim.momentum_teacher")


def _check_train(config: PretrainConfig, world_size: int) -> None:
    train = config.train
    _require(train.steps is None or train.steps >= 1, "train.steps", f"is {train.steps}, must be 1 or more")
    _require(train.epochs > 0, "train.epochs", f"is {train.epochs}, must be above 0")
    _require(train.accumulate >= 1, "train.accumulate", f"is {train.accumulate}, must be 1 or more")
    _require(train.keep >= 1, "train.keep", f"is {train.keep}, must be 1 or more")
    _require(train.log_every >= 1, "train.log_every", f"is {train.log_every}, must be 1 or more steps")
    for name in ("checkpoint_every", "knn_every", "threads", "seed"):
        _require(getattr(train, name) >= 0, f"train.{name}", f"is {getattr(train, name)}, must be 0 or more")
    _require(
        train.nonfinite_limit >= 1, "train.nonfinite_limit", f"is {train.nonfinite_limit}, must be 1 or more"
    )
    parts = world_size * train.accumulate
    _require(
        train.batch_size >= 1 and train.batch_size % parts == 0,
        "train.batch_size",
        f"is {train.batch_size}, must be a multiple of {parts} (ranks x train.accumulate)",
    )
    _require(
        train.knn_every == 0 or config.val is not None,
        "train.knn_every",
        f"is {train.knn_every}, but val names no held-out index",
    )


def check_discover(settings: DiscoverConfig, prefix: str = "discover") -> None:
    """Refuse settings that cannot find objects.

    Args:
        settings: What is checked.
        prefix: What the dotted names of settings begin with.

    Raises:
        ConfigError: naming the first offending setting, and what is allowed.
    """

    def require(ok: bool, name: str, allowed: str) -> None:
        _require(ok, f"{prefix}.{name}", f"is {getattr(settings, name)}, must be {allowed}")

    require(settings.method in ("spectral", "seeds"), "method", "spectral or seeds")
    require(
        settings.facet in (None, "key", "query", "value", "token"),
        "facet",
        "key, query, value or token, or null",
    )
    require(settings.size is None or settings.size >= 1, "size", "1 pixel or more, or null")
    require(-1 <= settings.tau < 1, "tau", "from -1 to below 1")
    require(0 < settings.max_area <= 1, "max_area", "above 0 and at most 1")
    require(
        0 <= settings.min_area <= settings.max_area, "min_area", f"from 0 to max_area ({settings.max_area:g})"
    )
    for name in ("max_overlap", "min_score"):
        require(0 <= getattr(settings, name) <= 1, name, "from 0 to 1")
    require(0 <= settings.edge_radius <= 16, "edge_radius", "from 0 to 16 patches")
    for name in ("max_objects", "seeds_k", "batch_size"):
        require(getattr(settings, name) >= 1, name, "1 or more")
