"""Every recipe loads and can train; baselines differ from ODIS in what defines them; headers tell the truth
about batch and cost.
"""

import dataclasses
import itertools
import re

import pytest
import timm
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from odis.config.checks import check
from odis.config.options import load_recipe
from odis.config.recipes import recipe_names, recipe_path
from odis.config.training import PretrainConfig, as_dict

# Recipes without a batch of their own to speak of: they show that things run.
UNPUBLISHED = {"debug", "demo"}


def flat(config: PretrainConfig) -> dict[str, object]:
    """Dotted names to values."""
    plain = as_dict(config)
    return {f"{s}.{k}": v for s, keys in plain.items() if isinstance(keys, dict) for k, v in keys.items()}


def differences(one: str, other: str) -> dict[str, object]:
    """Settings of recipe `other` that differ from recipe `one`."""
    ours, theirs = flat(load_recipe(one)), flat(load_recipe(other))
    return {k: theirs[k] for k in ours if ours[k] != theirs[k]}


def header(name: str) -> str:
    """The comment above a recipe's settings, as one line."""
    lines = []
    for line in recipe_path(name).read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_can_train(name: str):
    check(load_recipe(name, data="x"))


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_names_a_plain_vit_whose_patches_tile_its_views(name: str):
    config = load_recipe(name)
    assert timm.is_model(config.model.name)
    assert config.model.name.startswith("vit_")
    # Only published weights have another side.
    assert "_patch16_" in config.model.name or config.model.weights == "timm"
    patch = patch_side(config)
    assert config.views.global_size % patch == 0
    assert config.views.local_size % patch == 0


@pytest.mark.parametrize("name", recipe_names())
def test_header_says_what_is_reproduced_at_what_cost(name: str):
    assert "reproduces" in header(name).lower()
    assert "cost:" in header(name).lower()


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - UNPUBLISHED))
def test_header_says_the_batch_that_is_set(name: str):
    batch = re.search(r"Batch: (\d+)", header(name))
    assert batch is not None
    assert int(batch[1]) == load_recipe(name).train.batch_size
    ranks = re.search(r"example (\d+) ranks of (\d+)", header(name))
    assert ranks is None or int(ranks[1]) * int(ranks[2]) == int(batch[1])


def patch_side(config: PretrainConfig) -> int:
    """Side of a patch in pixels: what the settings say, else what the name says."""
    named = re.search(r"_patch(\d+)_", config.model.name)
    assert named is not None
    return config.model.patch_size or int(named[1])


def forward_flop(size: int, patch: int, dim: int, depth: int, extra_tokens: int = 1) -> float:
    """Operations of one ViT forward pass: patch embedding, then depth x (qkv, projection, MLP, attention)."""
    patches = (size // patch) ** 2
    tokens = patches + extra_tokens
    return depth * (24 * tokens * dim**2 + 4 * tokens**2 * dim) + 2 * patches * 3 * patch**2 * dim


def test_operations_are_those_that_torch_counts():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, depth=2, num_classes=0)
    # Not every torch counts its fused CPU attention; all count the matrix products of the plain one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        vit(torch.zeros(1, 3, 64, 64))
    assert forward_flop(64, 8, 192, 2) == counter.get_total_flops()


def gflop_an_image(config: PretrainConfig) -> float:
    """Floating-point operations of one training step, an image: teacher forwards, student forwards and (twice
    that) backwards.

    A multiplication and an addition are two. Every object is taken as visible in every view, hidden patches
    at their mean number.
    """
    views, head, model = config.views, config.head, config.model
    dim, depth = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}[
        model.name.split("_")[1]
    ]
    patch, dim, depth = patch_side(config), model.embed_dim or dim, model.depth or depth
    queries = 0 if model.object_tokens == "single" else config.objects.per_image
    registers = 4 if "_reg4_" in model.name else 0

    def backbone(size: int, read: float) -> float:
        """Of the last block only what leads to the patches that are read, and to the object tokens."""
        patches = (size // patch) ** 2
        tokens = patches + 1 + registers + queries
        spared = tokens - max(queries, 1) - read
        unread = 18 * spared * dim**2  # projection and MLP
        if read == 0:  # no query either
            unread += 2 * spared * dim**2 + 4 * spared * tokens * dim
        whole = forward_flop(size, patch, dim, depth, extra_tokens=1 + registers + queries)
        return whole if model.object_readout == "mean-pool" else whole - unread

    widths = [dim, *[head.hidden] * (head.layers - 1), head.bottleneck, head.prototypes]
    row = 2 * sum(a * b for a, b in itertools.pairwise(widths))
    objects = max(queries, 1)
    hidden = (
        config.prediction.probability * config.prediction.ratio * (views.global_size // patch) ** 2
        if config.loss.patch_weight
        else 0
    )
    global_cost = views.global_views * (backbone(views.global_size, hidden) + (objects + hidden) * row)
    local_cost = views.local_views * (backbone(views.local_size, 0) + objects * row)
    teacher_cost = global_cost
    if config.loss.patch_weight and config.loss.center_patches == "all":
        patches = (views.global_size // patch) ** 2
        unit = 2 * sum(a * b for a, b in itertools.pairwise(widths[:-1]))  # the prototypes see the mean only
        teacher_cost += views.global_views * (
            backbone(views.global_size, patches) - backbone(views.global_size, hidden) + patches * unit
        )
    return (teacher_cost + 3 * (global_cost + local_cost)) / 1e9


IMAGES = {
    "coco": 118_287,
    "tiny-imagenet": 100_000,
    "vits16": 1_281_167,
    "vitb16": 1_281_167,
    "vitl16": 1_281_167,
}


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - UNPUBLISHED))
def test_header_says_the_cost_that_the_settings_have(name: str):
    config = load_recipe(name)
    cost = re.search(r"Cost: ([\d.]+) GFLOP an image", header(name))
    assert cost is not None
    assert float(cost[1]) == pytest.approx(gflop_an_image(config), rel=0.01)
    total = re.search(r"([\d.]+) EFLOP in all", header(name))
    images = next((n for suffix, n in IMAGES.items() if name.endswith(suffix)), None)
    assert (total is None) == (images is None)
    if total is not None and images is not None:
        assert float(total[1]) == pytest.approx(
            gflop_an_image(config) * images * config.train.epochs / 1e9, rel=0.02
        )


POST = ("odis-post-vits", "odis-post-vitb", "odis-post-vitl")


@pytest.mark.parametrize("name", POST)
def test_header_of_post_training_says_hours_and_memory_by_their_arithmetic(name: str):
    config, said = load_recipe(name), header(name)
    found = re.search(r"3 million .*: ([\d.]+) EFLOP, ([\d.]+) hours at 100 TFLOP/s", said)
    assert found is not None
    total = gflop_an_image(config) * 3e6 * 1e9
    assert float(found[1]) == pytest.approx(total / 1e18, rel=0.02)
    assert float(found[2]) == pytest.approx(total / 1e14 / 3600, rel=0.05)
    memory = re.search(r"about (\d+) GB of activations", said)
    assert memory is not None
    patch, views = patch_side(config), config.views
    sides = [views.global_size] * views.global_views + [views.local_size] * views.local_views
    tokens = sum((side // patch) ** 2 + 5 + config.objects.per_image for side in sides)
    dim, depth = {"s": (384, 12), "b": (768, 12), "l": (1024, 24)}[name[-1]]
    images = config.train.batch_size // config.train.accumulate
    assert float(memory[1]) == pytest.approx(34 * images * tokens * depth * dim / 1e9, rel=0.05)
    assert "not measured" in said


def test_recipes_of_post_training_differ_in_the_network_and_what_fits():
    assert set(differences(POST[0], POST[1])) == {"model.name", "train.accumulate"}
    assert set(differences(POST[1], POST[2])) == {"model.name"}
    config = load_recipe(POST[0])
    assert (config.model.weights, config.model.object_tokens) == ("timm", "read-only")
    assert (config.optim.layer_decay, config.optim.patch_embed_factor) == (0.9, 0.2)  # DINOv2's


def test_recipe_files_hold_nothing_but_settings():
    sections = {f.name for f in dataclasses.fields(PretrainConfig)} - {"data", "val", "strict"}
    for name in recipe_names():
        assert set(yaml.safe_load(recipe_path(name).read_text())) <= sections, name


# What defines each baseline (DESIGN, section 3): nothing else may differ, so that a difference in the score
# is the method's.
BASELINES = {
    "ibot-vits16": {"objects.use": False},
    "dino-vits16": {"objects.use": False, "loss.patch_weight": 0.0},
    "crop-only-vits16": {"views.object_masks": False},
    "mask-only-vits16": {"views.object_crops": False, "views.local_crops": "free"},
    "mean-pool-vits16": {"model.object_readout": "mean-pool"},
}


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_differs_from_odis_in_what_defines_it(name: str):
    assert differences("odis-vits16", name) == BASELINES[name]


def test_small_ibot_differs_from_small_odis_in_what_defines_it():
    ours = differences("odis-small", "ibot-small")
    # Which objects there are no longer matters when each image is its own.
    ours = {
        k: v
        for k, v in ours.items()
        if k not in ("objects.min_size", "objects.sampling", "objects.min_visible")
    }
    assert ours == {"objects.use": False, "objects.per_image": 1, "model.object_tokens": "single"}


# iBOT's README command for ViT-S/16 (16 GPUs x 64 images) and the defaults of its main_ibot.py for what the
# command leaves open.
IBOT_VITS16 = {
    "model.name": "vit_small_patch16_224",
    "model.drop_path": 0.1,
    "views.global_views": 2,
    "views.global_size": 224,
    "views.global_scale": [0.25, 1.0],
    "views.local_views": 10,
    "views.local_size": 96,
    "views.local_scale": [0.05, 0.25],
    "views.flip": 0.5,
    "views.jitter": 0.8,
    "views.jitter_strength": [0.4, 0.4, 0.2, 0.1],
    "views.grayscale": 0.2,
    "views.blur": [1.0, 0.1, 0.5],
    "views.solarize": [0.0, 0.2, 0.0],
    "prediction.probability": 0.5,  # --pred_ratio 0 0.3: one of the two is drawn for each view
    "prediction.ratio": 0.3,
    "prediction.spread": 0.2,
    "head.prototypes": 8192,
    "head.hidden": 2048,
    "head.bottleneck": 256,
    "head.layers": 3,
    "head.norm": "none",
    "head.norm_last_layer": False,
    "head.shared": True,
    "model.pos_resize": "dino",
    "loss.object_weight": 1.0,
    "loss.patch_weight": 1.0,
    "loss.image_weight": 0.0,
    "loss.student_temp": 0.1,
    "loss.teacher_temp": 0.07,
    "loss.warmup_teacher_temp": 0.04,
    "loss.warmup_teacher_temp_epochs": 30,
    "loss.centering": "center",
    "loss.center_momentum": 0.9,
    "loss.center_patches": "all",
    "optim.base_lr": 5e-4,
    "optim.min_lr": 1e-6,
    "optim.warmup_epochs": 10,
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.decay_tokens": True,
    "optim.clip_grad": 3.0,
    "optim.clip": "parameter",
    "optim.freeze_last_layer_epochs": 1,
    "optim.momentum_teacher": 0.996,
    "train.epochs": 800,
    "train.batch_size": 1024,
}


def test_ibot_has_the_published_settings():
    ours = flat(load_recipe("ibot-vits16"))
    assert {k: ours[k] for k in IBOT_VITS16} == IBOT_VITS16


# What the code of the authors' lineage does otherwise than iBOT (a public extension of it, 2025): tokens,
# what an object is, how views find it, what counts.
AUTHORS = {
    "objects.use": True,
    "objects.unit": "classes",
    "objects.target": "first-crop",
    "views.min_coverage": 0.0,
    "views.local_crops": "free",
    "views.local_candidates": 10,
    "views.local_masks": False,
    "views.mask_coverage": 0.0,
    "views.mask_shape": "component-boxes",
    "views.mask_margin": 1,
    "model.object_tokens": "beside",
    "model.object_sees_cls": True,
    "loss.missing_pairs": "zero",
}


def test_the_authors_recipes_are_ibots_but_for_what_their_code_does_otherwise():
    job = {"train.epochs": 300, "train.batch_size": 512}
    assert differences("ibot-vits16", "odis-authors-vits16") == AUTHORS | job
    assert differences("odis-authors-vits16", "odis-authors-vits16-coco") == {}
    ours = {name: flat(load_recipe("odis-authors-vits16"))[name] for name in IBOT_VITS16}
    same = {name: value for name, value in IBOT_VITS16.items() if name not in job}
    assert {name: ours[name] for name in same} == same
    tried = {"objects.first_crop_coverage": 0.04, "objects.first_crop_draws": 10, "views.candidates": 20}
    assert {name: flat(load_recipe("odis-authors-vits16"))[name] for name in tried} == tried
    for size in ("vitb16", "vitl16"):
        more = AUTHORS | {"head.norm_last_layer": False}
        del more["objects.use"]  # the other has objects too
        assert differences(f"odis-{size}", f"odis-authors-{size}") == more


# SERE's commands for iBOT with ViT-B/16, at iBOT's number of epochs and batch.
IBOT_VITB16 = {
    "model.name": "vit_base_patch16_224",
    "views.global_scale": [0.32, 1.0],
    "views.local_scale": [0.05, 0.32],
    "head.norm_last_layer": True,
    "loss.warmup_teacher_temp_epochs": 50,
    "optim.base_lr": 7.5e-4,
    "optim.min_lr": 2e-6,
    "optim.clip_grad": 0.3,
    "optim.freeze_last_layer_epochs": 3,
    "train.epochs": 400,
}


def test_larger_odis_has_the_published_settings_of_larger_ibot():
    assert differences("odis-vits16", "odis-vitb16") == IBOT_VITB16
    assert differences("odis-vitb16", "odis-vitl16") == {
        "model.name": "vit_large_patch16_224",
        "train.epochs": 250,
    }


def test_options_for_the_published_dino_run_are_options():
    options = re.findall(
        r"--([\w.]+) ([\w.-]+)", header("dino-vits16").split("differs from this recipe")[1].split("Batch:")[0]
    )
    config = load_recipe("dino-vits16", data="x", **{k.replace(".", "__"): v for k, v in options})
    check(config)
    found = flat(config)
    assert {k: found[k] for k, _ in options} == {
        "head.prototypes": 65536,
        "optim.clip_grad": 0.0,
        "optim.min_lr": 1e-5,
        "train.precision": "fp32",
    }


@pytest.mark.parametrize("name", ["odis-small", "ibot-small", "odis-tiny-imagenet"])
def test_small_presets_guard_against_collapse(name: str):
    config = load_recipe(name)
    assert config.loss.centering == "sinkhorn"
    assert config.head.norm_last_layer
    assert config.head.prototypes <= 4096
    assert config.optim.base_lr * config.train.batch_size / 256 <= 5e-4
    assert 0.99 <= config.optim.momentum_teacher <= 0.996


def test_prototypes_that_stay_where_they_began_are_frozen_for_always():
    frozen = {n for n in recipe_names() if load_recipe(n).optim.freeze_last_layer_epochs == "always"}
    assert frozen == {"demo", "scenes-whole-image"}
    config = load_recipe("demo", data="x", optim__freeze_last_layer_epochs=900)  # as it was written before
    check(config)
    assert config.optim.freeze_last_layer_epochs == 900
