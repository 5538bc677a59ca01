"""Config checks: each refuses what it should, names it by its dotted name, and lets everything in range
through.
"""

import dataclasses
import inspect
import math
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.config import checks as config_check
from odis.config import discovery
from odis.config.checks import check
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig, as_dict
from odis.errors import ConfigError

SECTIONS = {
    f.name: f.default_factory
    for f in dataclasses.fields(PretrainConfig)
    if dataclasses.is_dataclass(f.default_factory)
}


def make(changes: dict[str, Any]) -> PretrainConfig:
    """The default config with data, and `changes` by dotted name."""
    config = PretrainConfig(data="x")
    for name, value in changes.items():
        owner: Any = config
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        assert hasattr(owner, last), name
        setattr(owner, last, value)
    return config


READ_ONLY = {"model.object_tokens": "read-only"}

# The name that the message begins with, and settings that break it.
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("data", {"data": ""}),
    ("train.parallel", {"train.parallel": "fsdp", "train.precision": "fp16"}),
    ("train.parallel", {"train.parallel": "tensor"}),
    ("loader.workers", {"loader.workers": -1}),
    ("loader.prefetch", {"loader.prefetch": 0}),
    ("loader.keep", {"loader.keep": ["shelf"]}),
    ("loader.keep", {"loader.keep": ["device:20GiB"]}),
    ("objects.per_image", {"objects.per_image": 0}),
    ("objects.per_image", {"objects.per_image": 2}),
    ("objects.per_image", {"objects.per_image": 2, "model.object_tokens": "beside"}),
    ("model.object_sees_cls", {"model.object_sees_cls": True}),
    ("model.object_sees_cls", {"model.object_sees_cls": False}),
    ("objects.per_image", {"objects.per_image": 2, "objects.use": False, **READ_ONLY}),
    ("objects.unit", {"objects.unit": "classes", "objects.use": False}),
    ("objects.unit", {"objects.unit": "classes", "objects.rediscover_every": 1.0}),
    ("objects.target", {"objects.target": "first-crop", "objects.use": False}),
    ("objects.target", {"objects.target": "first-crop", "views.object_crops": False}),
    ("objects.sampling", {"objects.target": "first-crop", "objects.sampling": "uniform"}),
    ("objects.first_crop_coverage", {"objects.first_crop_coverage": 1.1}),
    ("objects.first_crop_draws", {"objects.first_crop_draws": 0}),
    ("objects.min_size", {"objects.min_size": -0.5}),
    ("objects.min_visible", {"objects.min_visible": 1.1}),
    ("objects.min_visible", {"objects.min_visible": -0.1}),
    ("objects.rediscover_every", {"objects.rediscover_every": -1.0}),
    ("objects.rediscover_every", {"objects.rediscover_every": 1.0, "objects.use": False}),
    ("discover.method", {"discover.method": "guess"}),
    ("discover.facet", {"discover.facet": "keys"}),
    ("discover.size", {"discover.size": 0}),
    ("discover.tau", {"discover.tau": 1.0}),
    ("discover.edge_radius", {"discover.edge_radius": -1.0}),
    ("discover.max_area", {"discover.max_area": 0.0}),
    ("discover.min_area", {"discover.min_area": 0.9}),
    ("discover.max_overlap", {"discover.max_overlap": 1.1}),
    ("discover.min_score", {"discover.min_score": -0.1}),
    ("discover.max_objects", {"discover.max_objects": 0}),
    ("discover.seeds_k", {"discover.seeds_k": 0}),
    ("discover.batch_size", {"discover.batch_size": 0}),
    ("views.global_views", {"views.global_views": 1}),
    ("views.local_views", {"views.local_views": -1}),
    ("views.candidates", {"views.candidates": 0}),
    ("views.local_candidates", {"views.local_candidates": 0}),
    ("views.local_masks", {"views.local_masks": False, "objects.per_image": 2, **READ_ONLY}),
    ("views.global_size", {"views.global_size": 0}),
    ("views.local_size", {"views.local_size": 0}),
    ("views.global_scale", {"views.global_scale": (0.5, 0.2)}),
    ("views.global_scale", {"views.global_scale": (0.0, 1.0)}),
    ("views.global_scale", {"views.global_scale": (0.5, 1.5)}),
    ("views.local_scale", {"views.local_scale": (0.3, 0.1)}),
    ("views.ratio", {"views.ratio": (0.0, 1.0)}),
    ("views.ratio", {"views.ratio": (2.0, 1.0)}),
    ("views.min_coverage", {"views.min_coverage": 1.5}),
    ("views.flip", {"views.flip": -0.1}),
    ("views.jitter", {"views.jitter": 2.0}),
    ("views.grayscale", {"views.grayscale": 1.01}),
    ("views.mask_coverage", {"views.mask_coverage": -0.1}),
    ("views.mask_coverage", {"views.mask_coverage": 1.1}),
    ("views.mask_margin", {"views.mask_margin": -1}),
    ("views.blur", {"views.blur": (1.0, 0.1, 1.5)}),
    ("views.solarize", {"views.solarize": (0.0, -0.2, 0.0)}),
    ("views.jitter_strength", {"views.jitter_strength": (1.4, 0.4, 0.2, 0.1)}),
    ("views.jitter_strength", {"views.jitter_strength": (0.4, 0.4, 0.2, 0.6)}),
    ("views.std", {"views.std": (0.2, 0.0, 0.2)}),
    ("views.mean", {"views.channels": 5}),
    ("views.channels", {"views.channels": 21}),
    ("views.value_ranges", {"views.value_ranges": ((1.0, 0.0),)}),
    ("prediction.probability", {"prediction.probability": 1.2}),
    ("prediction.ratio", {"prediction.ratio": -0.3}),
    ("prediction.spread", {"prediction.spread": 0.4}),
    ("prediction.spread", {"prediction.ratio": 0.9, "prediction.spread": 0.2}),
    ("prediction.spread", {"prediction.spread": -0.1}),
    ("prediction.keep_object", {"prediction.keep_object": -1}),
    ("prediction.keep_object", {"prediction.keep_object": 1, "views.object_masks": False}),
    ("prediction.keep_object", {"prediction.keep_object": 1, "objects.use": False}),
    ("loss.patch_weight", {"prediction.probability": 0.0}),
    ("loss.patch_weight", {"prediction.ratio": 0.0, "prediction.spread": 0.0}),
    ("model.patch_size", {"model.patch_size": 0}),
    ("model.embed_dim", {"model.embed_dim": 0}),
    ("model.depth", {"model.depth": 0}),
    ("model.num_heads", {"model.num_heads": -2}),
    ("model.drop_path", {"model.drop_path": 1.0}),
    ("model.drop_path", {"model.drop_path": -0.1}),
    ("model.drop_path_kind", {"model.drop_path_kind": "dinov2", "model.drop_path": 0.1}),
    ("model.freeze_blocks", {"model.freeze_blocks": -1}),
    ("loss.gram_weight", {"loss.gram_weight": -1.0, "model.weights": "timm"}),
    ("loss.gram_weight", {"loss.gram_weight": 1.0}),
    ("optim.layer_decay", {"optim.layer_decay": 0.0}),
    ("optim.patch_embed_factor", {"optim.patch_embed_factor": 1.5}),
    ("optim.freeze_backbone_epochs", {"optim.freeze_backbone_epochs": -1.0}),
    ("model.object_readout", {"model.object_readout": "mean-pool", "views.object_masks": False}),
    ("model.object_readout", {"model.object_readout": "mean-pool", **READ_ONLY}),
    ("head.prototypes", {"head.prototypes": 0}),
    ("head.hidden", {"head.hidden": 0}),
    ("head.bottleneck", {"head.bottleneck": 0}),
    ("head.layers", {"head.layers": 0}),
    ("loss", {"loss.object_weight": 0.0, "loss.patch_weight": 0.0}),
    ("loss", {"loss.object_weight": -1.0}),
    ("loss.student_temp", {"loss.student_temp": 0.0}),
    ("loss.teacher_temp", {"loss.teacher_temp": -0.07}),
    ("loss.warmup_teacher_temp", {"loss.warmup_teacher_temp": 0.0}),
    ("loss.warmup_teacher_temp_epochs", {"loss.warmup_teacher_temp_epochs": -1.0}),
    ("loss.koleo_weight", {"loss.koleo_weight": -0.5}),
    ("loss.center_momentum", {"loss.center_momentum": 1.1}),
    ("loss.sinkhorn_iterations", {"loss.sinkhorn_iterations": 0}),
    ("optim.base_lr", {"optim.base_lr": -1e-4}),
    ("optim.min_lr", {"optim.min_lr": -1e-6}),
    ("optim.weight_decay", {"optim.weight_decay": -0.1}),
    ("optim.weight_decay_end", {"optim.weight_decay_end": -0.1}),
    ("optim.clip_grad", {"optim.clip_grad": -3.0}),
    ("optim.warmup_epochs", {"optim.warmup_epochs": -1.0}),
    ("optim.freeze_last_layer_epochs", {"optim.freeze_last_layer_epochs": -1.0}),
    ("optim.betas", {"optim.betas": (0.9, 1.0)}),
    ("optim.momentum_teacher", {"optim.momentum_teacher": 1.5}),
    ("train.steps", {"train.steps": 0}),
    ("train.epochs", {"train.epochs": 0.0}),
    ("train.accumulate", {"train.accumulate": 0}),
    ("train.keep", {"train.keep": 0}),
    ("train.log_every", {"train.log_every": 0}),
    ("train.checkpoint_every", {"train.checkpoint_every": -1}),
    ("train.knn_every", {"train.knn_every": -1}),
    ("train.knn_every", {"train.knn_every": 10}),
    ("train.loggers", {"train.loggers": ["tensorbord"]}),
    ("train.loggers", {"train.loggers": ["wandb", "wandb"]}),
    ("train.pictures_every", {"train.pictures_every": -1}),
    ("train.pictures_every", {"train.pictures_every": 10}),
    ("train.threads", {"train.threads": -1}),
    ("train.seed", {"train.seed": -1}),
    ("train.nonfinite_limit", {"train.nonfinite_limit": 0}),
    ("train.batch_size", {"train.batch_size": 0}),
    ("train.batch_size", {"train.batch_size": 10, "train.accumulate": 3}),
]


@pytest.mark.parametrize(
    ("name", "changes"), REFUSED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(REFUSED)]
)
def test_refuses_what_cannot_train(name: str, changes: dict[str, Any]):
    with pytest.raises(ConfigError) as refusal:
        check(make(changes))
    message = str(refusal.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    assert len(message) > len(f"{name}: ") + 10


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_numbers_that_are_not_finite(bad: float):
    tried = 0
    for section, make_section in SECTIONS.items():
        for field, value in vars(make_section()).items():
            name = f"{section}.{field}"
            if isinstance(value, float):
                broken = [bad]
            elif isinstance(value, tuple):
                broken = [tuple(bad if i == j else v for j, v in enumerate(value)) for i in range(len(value))]
            else:
                continue
            for b in broken:
                tried += 1
                with pytest.raises(ConfigError, match=rf"^{re.escape(name)}: is .*must be finite"):
                    check(make({name: b}))
    assert tried > 40


def test_every_check_has_a_case(monkeypatch: pytest.MonkeyPatch):
    names: set[str] = set()
    monkeypatch.setattr(config_check, "_check_finite", lambda config: None)  # has its own test
    monkeypatch.setattr(config_check, "_check_types", lambda config: None)  # test_recipes.py
    for module in (config_check, discovery):
        monkeypatch.setattr(module, "require", lambda ok, name, message: names.add(name))
    monkeypatch.setattr(config_check, "parse_keep", lambda entries, render: names.add("loader.keep"))
    check(make({}))
    assert names == {name for name, _ in REFUSED}


def test_batch_is_shared_by_all_ranks():
    check(make({"train.batch_size": 12, "train.accumulate": 2}), world_size=3)
    with pytest.raises(ConfigError, match=r"^train.batch_size: is 12, must be a multiple of 8"):
        check(make({"train.batch_size": 12, "train.accumulate": 2}), world_size=4)


def in_range() -> st.SearchStrategy[PretrainConfig]:
    """Configs that can train, drawn over all settings that have a range or a choice."""
    share, positive = st.floats(0, 1), st.floats(1e-4, 10)

    def rising(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
        return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda x: (min(x), max(x)))

    @st.composite
    def draw_config(draw: st.DrawFn) -> PretrainConfig:
        kind, use = draw(st.sampled_from(["single", "read-only", "beside"])), draw(st.booleans())
        masks = draw(st.booleans())
        per_image = draw(st.integers(1, 9)) if kind == "read-only" and use else 1
        first_crop = use and draw(st.booleans())
        ratio = draw(st.floats(0.01, 1))
        accumulate = draw(st.integers(1, 4))
        changes = {
            "objects.use": use,
            "objects.per_image": per_image,
            "objects.unit": draw(st.sampled_from(["instances", "classes"])) if use else "instances",
            "objects.target": "first-crop" if first_crop else "index",
            "objects.first_crop_coverage": draw(share),
            "objects.first_crop_draws": draw(st.integers(1, 20)),
            "objects.sampling": "area" if first_crop else draw(st.sampled_from(["area", "uniform"])),
            "objects.min_size": draw(st.floats(0, 50)),
            "objects.min_visible": draw(share),
            "views.global_views": draw(st.integers(2, 4)),
            "views.local_views": draw(st.integers(0, 12)),
            "views.global_scale": draw(rising(0.01, 1)),
            "views.local_scale": draw(rising(0.01, 1)),
            "views.ratio": draw(rising(0.1, 10)),
            "views.object_crops": first_crop or draw(st.booleans()),
            "views.local_candidates": draw(st.none() | st.integers(1, 30)),
            "views.local_masks": per_image > 1 or draw(st.booleans()),
            "views.min_coverage": draw(share),
            "views.local_crops": draw(st.sampled_from(["object-aware", "free"])),
            "views.object_masks": masks,
            "views.mask_coverage": draw(share),
            "views.mask_shape": draw(st.sampled_from(["area", "component-boxes"])),
            "views.mask_margin": draw(st.integers(0, 3)),
            "views.flip": draw(share),
            "views.blur": draw(st.tuples(share, share, share)),
            "prediction.probability": draw(st.floats(0.01, 1)),
            "prediction.ratio": ratio,
            "prediction.keep_object": draw(st.integers(0, 4)) if use and masks else 0,
            "loss.missing_pairs": draw(st.sampled_from(["skip", "zero"])),
            "prediction.spread": draw(st.floats(0, min(ratio, 1 - ratio))),
            "model.object_tokens": kind,
            "model.object_sees_cls": None if kind == "single" else draw(st.none() | st.booleans()),
            "model.object_readout": "mean-pool"
            if masks and kind == "single" and draw(st.booleans())
            else "token",
            "model.depth": draw(st.none() | st.integers(1, 48)),
            "head.norm": draw(st.sampled_from(["none", "batch"])),
            "loss.object_weight": draw(st.floats(0.1, 2)),
            "loss.patch_weight": draw(st.sampled_from([0.0, 1.0])),
            "loss.image_weight": draw(share),
            "loss.centering": draw(st.sampled_from(["center", "sinkhorn"])),
            "loss.teacher_temp": draw(positive),
            "optim.betas": draw(st.tuples(st.floats(0, 0.999), st.floats(0, 0.999))),
            "optim.clip_grad": draw(st.sampled_from([0.0, 0.3, 3.0])),
            "optim.clip": draw(st.sampled_from(["global", "parameter"])),
            "optim.decay_tokens": draw(st.booleans()),
            "optim.freeze_last_layer_epochs": draw(st.just("always") | st.floats(0, 900)),
            "optim.momentum_teacher": draw(share),
            "train.steps": draw(st.none() | st.integers(1, 10**6)),
            "train.epochs": draw(positive),
            "train.accumulate": accumulate,
            "train.batch_size": accumulate * draw(st.integers(1, 512)),
            "train.precision": draw(st.sampled_from(["auto", "fp32", "bf16", "fp16"])),
            "train.seed": draw(st.integers(0, 2**31)),
        }
        return make(changes)

    return draw_config()


@given(in_range())
@settings(max_examples=100, deadline=None)
def test_lets_everything_in_range_through(config: PretrainConfig):
    check(config)


@given(in_range())
@settings(max_examples=10, deadline=None)
def test_resolved_config_is_a_recipe_that_gives_the_same_config(
    tmp_path_factory: pytest.TempPathFactory, config: PretrainConfig
):
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    file.write_text(yaml.safe_dump(as_dict(config)))
    assert load_recipe(str(file)) == config


@pytest.mark.parametrize("section", [PretrainConfig, *SECTIONS.values()], ids=lambda c: c.__name__)
def test_every_field_is_documented_once(section: type):
    documented = re.findall(r"^\s+(\w+): ", inspect.getdoc(section).split("Args:")[1], flags=re.MULTILINE)
    fields = [f.name for f in dataclasses.fields(section) if f.name not in SECTIONS]
    assert documented == fields


def test_defaults_have_the_declared_types():
    for name, section in SECTIONS.items():
        for field, hint in get_type_hints(section).items():
            value = getattr(section(), field)
            where = f"{name}.{field}"
            if get_origin(hint) is Literal:
                assert value in get_args(hint), where
            elif get_origin(hint) is tuple:
                assert len(value) == len(get_args(hint)), where
                assert all(type(v) is t for v, t in zip(value, get_args(hint), strict=True)), where
            elif get_origin(hint) is list:
                assert type(value) is list, where
                assert all(type(v) in get_args(hint) for v in value), where
            else:
                assert type(value) in (get_args(hint) or (hint,)), where


def test_plain_form_holds_only_what_yaml_writes():
    assert yaml.safe_load(yaml.safe_dump(as_dict(PretrainConfig(data="x")))) == as_dict(
        PretrainConfig(data="x")
    )
