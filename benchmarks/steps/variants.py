"""The steps that `benchmarks/step.py` compares, and the batches that they are taken on."""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from odis import kernels
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.data.loader import collate, make_loader
from odis.data.views import make_sample
from odis.kernels import choose
from odis.machine.ranks import Ranks
from odis.objects.index import ObjectIndex
from odis.train.schedules import Schedules
from odis.train.start import build_run
from odis.train.update import train_step
from odis.types import Batch, ImageObjects, Object, Sample

try:
    from lightly.loss import DINOLoss, IBOTPatchLoss
    from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
    from lightly.models.utils import update_drop_path_rate, update_momentum
except ImportError:
    sys.exit("benchmarks/step.py compares with lightly: pip install 'odis[test]'")

Step = Callable[[Batch], None]
VARIANTS = {
    "odis": "odis-vits16",
    "ibot": "ibot-vits16",
    "lightly": "ibot-vits16",
    "objects-1": "odis-vits16",
    "objects-8": "odis-vits16",
}
OFF: dict[str, tuple[str, Any]] = {
    "attention": ("_has_bf16_instructions", lambda: False),
    "linear": ("_conv_is_faster", lambda x: False),
    "mlp": ("is_plain_mlp", lambda module: False),
    "packing": ("WORTH_PACKING", 0),
}
"""What turns one kernel off in `kernels/choose.py`."""
COMPARED = ["odis", "ibot", "lightly"]  # unless others are asked for
MOST = 8  # objects in an image
IMAGES = 1_281_167  # ImageNet-1k: where in its schedules a run is
WIDTH, HEIGHT = 500, 375
TINY: dict[str, Any] = {
    "model__name": "vit_tiny_patch16_224",
    "model__embed_dim": 32,
    "model__depth": 2,
    "model__num_heads": 2,
    "model__patch_size": 8,
    "views__global_size": 64,
    "views__local_size": 32,
    "head__prototypes": 64,
    "head__hidden": 64,
    "head__bottleneck": 32,
}


def named(text: str) -> str:
    """A variant's name, checked: one of `VARIANTS`, or with `:before`, `:reference` or `:without-KERNEL`
    behind it.

    Raises:
        argparse.ArgumentTypeError: naming what there is.
    """
    base, _, how = text.partition(":")
    known = ["", "before", "reference", *(f"without-{kernel}" for kernel in OFF)]
    if base not in VARIANTS or how not in known or (base == "lightly" and how):
        raise argparse.ArgumentTypeError(
            f"{text}: must be one of {', '.join(VARIANTS)}, perhaps with one of :{', :'.join(known[1:])} "
            f"behind it"
        )
    return text


def base_of(variant: str) -> str:
    """`odis` of `odis:reference`."""
    return variant.partition(":")[0]


@contextlib.contextmanager
def switched(variant: str) -> Iterator[None]:
    """Kernels as the variant has them."""
    how = variant.partition(":")[2]
    if how == "reference":
        with kernels.reference():
            yield
        return
    if how.startswith("without-"):
        name, value = OFF[how.removeprefix("without-")]
        setattr(choose, name, value)  # for good: a process holds one variant
    yield


def configure(variant: str, args: argparse.Namespace) -> PretrainConfig:
    """The variant's recipe past its first epoch: no frozen layer, which would spare work."""
    changes = dict(TINY) if args.tiny else {}
    if (tokens := objects_of(variant)) is not None:
        changes |= {"model__object_tokens": "read-only", "objects__per_image": tokens}
    return load_recipe(
        VARIANTS[base_of(variant)],
        train__batch_size=args.batch,
        train__precision=args.precision,
        train__device=args.device,
        optim__freeze_last_layer_epochs=0,
        model__grad_checkpointing=args.checkpointing,
        **changes,
    )


def objects_of(variant: str) -> int | None:
    """Object tokens of `objects-N`; None for another variant."""
    base = base_of(variant)
    return int(base.removeprefix("objects-")) if base.startswith("objects-") else None


def batches_for(variant: str, args: argparse.Namespace, count: int, device: torch.device) -> list[Batch]:
    """What a variant is measured on: the same images, views and hidden patches for all that are compared,
    unless they are of an index.
    """
    if args.data:
        config = configure(variant, args)
        loader = make_loader(
            ObjectIndex.open(args.data),
            config,
            patch_size=config.model.patch_size or 16,
            start_step=0,
            steps=count,
        )
        return [batch.to(device) for batch in loader]
    if (tokens := objects_of(variant)) is None:
        return random_batches(configure("odis", args), count, device)
    return random_batches(configure(f"objects-{MOST}", args), count, device, tokens)


def random_batches(config: PretrainConfig, count: int, device: torch.device, tokens: int = 1) -> list[Batch]:
    """Batches of noise with large boxes in each image, which every view shows, so that all variants have the
    same rows to do.

    There are as many boxes as the config reads; a view is asked about the first `tokens` of them.
    """
    rng = np.random.default_rng(0)
    patch = config.model.patch_size or 16
    boxes = tuple(Object((50.0 - k, 40.0 - k, 450.0 + k, 335.0 + k)) for k in range(config.objects.per_image))
    row = ImageObjects("noise", WIDTH, HEIGHT, boxes)
    batches = []
    for _ in range(count):
        samples = []
        for i in range(config.train.batch_size):
            image = torch.from_numpy(rng.integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8))
            *shown, hidden = make_sample(
                rng, image, row, config.objects, config.views, config.prediction, patch
            )
            shown = [
                [replace(v, object_masks=v.object_masks[:tokens], visible=v.visible[:tokens]) for v in part]
                for part in shown
            ]
            samples.append(Sample(*shown, hidden, index=i, path="noise"))
        batch = collate(samples).to(device)
        g, n = config.views.global_views, config.views.local_views
        assert float(batch.pairs) == config.train.batch_size * tokens * g * (g - 1 + n), (
            "a view misses its object"
        )
        batches.append(batch)
    return batches


def own_step(config: PretrainConfig, device: torch.device) -> Step:
    """One step of odis's own training code."""
    run = build_run(config, Ranks(0, 1, device), images=IMAGES)
    run.step = run.schedules.total_steps // 2

    def step(batch: Batch) -> None:
        train_step(run, [batch])

    return step


class LightlyIBOT(nn.Module):
    """The model of lightly's iBOT example, with the sizes of `config`."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        model, head = config.model, config.head
        sizes = {
            k: v
            for k in ("patch_size", "embed_dim", "depth", "num_heads")
            if (v := getattr(model, k)) is not None
        }
        vit = timm.create_model(
            model.name, img_size=config.views.global_size, pos_embed="learn", dynamic_img_size=True, **sizes
        )
        self.teacher_backbone = MaskedVisionTransformerTIMM(
            vit=vit, antialias=False, pos_embed_initialization="skip"
        )
        self.student_backbone = copy.deepcopy(self.teacher_backbone)
        update_drop_path_rate(self.student_backbone.vit, drop_path_rate=model.drop_path, mode="uniform")
        widths = {
            "input_dim": vit.embed_dim,
            "hidden_dim": head.hidden,
            "bottleneck_dim": head.bottleneck,
            "output_dim": head.prototypes,
        }
        self.student_head = DINOProjectionHead(**widths, norm_last_layer=head.norm_last_layer)
        self.teacher_head = DINOProjectionHead(**widths)
        for module in (self.teacher_backbone, self.teacher_head):
            module.requires_grad_(False).eval()


def lightly_step(config: PretrainConfig, device: torch.device) -> Step:
    """One step of iBOT made from lightly's parts, wired as in its example."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # lightly's head uses a deprecated weight norm
    torch.manual_seed(0)
    model = LightlyIBOT(config).to(device)
    loss, settings = config.loss, Schedules(config, IMAGES).at(10**5)
    dino = DINOLoss(output_dim=config.head.prototypes, teacher_temp=loss.teacher_temp).to(device)
    ibot = IBOTPatchLoss(output_dim=config.head.prototypes, teacher_temp=loss.teacher_temp).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr)
    views = config.views.global_views

    def losses(batch: Batch) -> Tensor:
        side = round(batch.prediction_masks.shape[1] ** 0.5)
        block_mask = batch.prediction_masks.unflatten(1, (side, side))
        mask = torch.cat([block_mask.new_zeros(len(block_mask), 1), batch.prediction_masks], dim=1)
        with torch.no_grad():
            teacher_features = model.teacher_backbone.encode(batch.global_views)
            teacher_cls = model.teacher_head(teacher_features[:, 0])
            teacher_patches = model.teacher_head(teacher_features[mask])
        features = model.student_backbone.encode(batch.global_views, mask=mask)
        student_cls = model.student_head(features[:, 0])
        student_patches = model.student_head(features[mask])
        local_cls = model.student_head(model.student_backbone.encode(batch.local_views)[:, 0])
        student_views = [*student_cls.chunk(views), *local_cls.chunk(config.views.local_views)]
        image_loss = dino(teacher_cls.chunk(views), student_views, teacher_temp=settings.teacher_temp)
        patch_loss = ibot(teacher_patches, student_patches, block_mask, teacher_temp=settings.teacher_temp)
        return image_loss + patch_loss

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.train.precision)

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, dtype=half) if half else contextlib.nullcontext():
            total = losses(batch)
        total.backward()
        for group in optimizer.param_groups:
            group["weight_decay"] = settings.weight_decay
        optimizer.step()
        optimizer.zero_grad()
        update_momentum(model.student_backbone, model.teacher_backbone, m=settings.momentum_teacher)
        update_momentum(model.student_head, model.teacher_head, m=settings.momentum_teacher)

    return step


def build(variant: str, args: argparse.Namespace, device: torch.device) -> Step:
    """The step of a variant."""
    config = configure(variant, args)
    return lightly_step(config, device) if variant == "lightly" else own_step(config, device)
