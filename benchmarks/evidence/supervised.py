"""The network of a world trained with the labels of its objects: what there is to be gained.

As much as can be is that of the methods: network, images seen, two views of an image, photometrics, optimizer
and schedules. What is trained is the cross-entropy of a linear classifier, in one of two ways:

- `crops`: a view is a random resized crop of an object's box, which `[CLS]` reads;
- `masks`: a view is what the method shows, and each `[OBJ]` reads the object of its mask.

The network is then measured as any other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from grid import Labels
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from odis import __version__
from odis.backbones.build import build_vit
from odis.backbones.saved import save_model
from odis.config.training import PretrainConfig, as_dict
from odis.data.augment.cpu import to_chw
from odis.data.augment.draw import apply_photometrics, draw_photometrics
from odis.data.geometry.crops import clip_boxes, propose_crops
from odis.data.loader import sample_order
from odis.data.pixels.reader import ImageReader
from odis.data.views import draw_all, plan_views, render_views, resized_crop
from odis.machine.devices import DTYPES, describe_device, peak_memory, resolve_device, resolve_precision
from odis.machine.files import written_whole
from odis.objects.index import ObjectIndex
from odis.train.metrics import JsonLines
from odis.train.optim import apply_settings, build_optimizer, clip_gradients
from odis.train.run_folder import prepare
from odis.train.run_log import Throughput
from odis.train.schedules import Schedules
from odis.types import Crop

SCALE = (0.35, 1.0)
"""Area of a crop as a share of the object's box, widened."""

WIDER = 1.2
"""Sides of what is cropped from, over those of the object's box."""

LEAST_SIDE = 8.0
"""Pixels; the class of a smaller object is not learned."""

SMOOTHING = 0.1
"""Of the labels."""

_STATE = "state.pt"

_SAVE_EVERY = 500  # steps


NO_LABEL = -100
"""Of an object token that stands for nothing, or for an object without a class: it is not learned."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a step learns from.

    Args:
        views: float32 (B, 3, S, S).
        masks: bool (B, Q, P), patches of the objects; None where `[CLS]` reads the view.
        labels: int64 (B, Q), their classes, or `NO_LABEL`; (B, 1) without masks.
    """

    views: Tensor
    masks: Tensor | None
    labels: Tensor


class Shows(Protocol):
    """Views of (epoch, row) and what they show: always the same, as `ViewDataset` has it."""

    def __len__(self) -> int: ...
    def views(self, epoch: int, position: int) -> Shown: ...


class Classifier(nn.Module):
    """A backbone whose `[CLS]`, or each `[OBJ]`, a linear layer classifies."""

    def __init__(self, config: PretrainConfig, classes: int) -> None:
        super().__init__()
        self.backbone = build_vit(config.model, config.views.global_size)
        self.last = nn.Linear(self.backbone.embed_dim, classes)

    def forward(self, views: Tensor, masks: Tensor | None = None) -> Tensor:
        """Logits (B, Q, classes)."""
        tokens = self.backbone(views, masks)
        read = tokens.image.unsqueeze(1) if masks is None else tokens.objects
        logits: Tensor = self.last(read)
        return logits


class Crops:
    """Views of one object each."""

    def __init__(self, index: ObjectIndex, config: PretrainConfig) -> None:
        self.index, self.config, self.rows = index, config, labelled_rows(index)
        self.reader = ImageReader(config.loader, config.views, len(index))
        views = config.views
        self.offset, self.scale = (np.array(v, dtype=np.float32) * 255 for v in views.statistics)

    def __len__(self) -> int:
        return len(self.rows)

    def views(self, epoch: int, position: int) -> Shown:
        """V views of one object of an image, drawn uniformly."""
        views, i = self.config.views, self.rows[position]
        row, rng = self.index[i], np.random.default_rng([self.config.train.seed, epoch, i])
        labelled = [item for item in row.objects if item.label is not None]
        boxes, large = clip_boxes(
            np.array([item.box for item in labelled], dtype=np.float32), row.width, row.height, LEAST_SIDE
        )
        usable = np.flatnonzero(large) if large.any() else np.arange(len(labelled))
        k = int(usable[rng.integers(len(usable))])
        x0, y0, x1, y1 = widened(boxes[k], row.width, row.height)
        drawn = propose_crops(rng, x1 - x0, y1 - y0, (views.global_views,), SCALE, views.ratio)
        image = self.reader.read(i, self.index.image_path(i), (row.width, row.height), 1)
        made = np.empty((len(drawn), 3, views.global_size, views.global_size), dtype=np.float32)
        for v, (a, b, c, d) in enumerate(drawn.tolist()):
            crop = Crop(x0 + a, y0 + b, x0 + c, y0 + d, bool(rng.random() < views.flip))
            pixels = to_chw(resized_crop(image, crop, views.global_size), crop.flip)
            photometrics = draw_photometrics(rng, views.global_size, min(v, 1), views)
            apply_photometrics(pixels, photometrics, self.offset, self.scale, made[v])
        label = labelled[k].label
        assert label is not None
        return Shown(torch.from_numpy(made), None, torch.full((len(made), 1), label))


class MaskedViews:
    """Views as the method has them, of all objects it has tokens for."""

    def __init__(self, index: ObjectIndex, config: PretrainConfig, patch_size: int) -> None:
        self.index, self.config, self.rows = index, config, labelled_rows(index)
        self.reader = ImageReader(config.loader, config.views, len(index))
        self.patch_size = patch_size

    def __len__(self) -> int:
        return len(self.rows)

    def views(self, epoch: int, position: int) -> Shown:
        """V global views of an image; an object that a view does not show has no label there."""
        config, i = self.config, self.rows[position]
        row, rng = self.index[i], np.random.default_rng([config.train.seed, epoch, i])
        size = row.width, row.height
        plan = plan_views(rng, row, *size, config.objects, config.views, config.prediction, self.patch_size)
        image = self.reader.read(i, self.index.image_path(i), size, 1)
        shown = render_views(plan, image, config.views, draw_all(rng, plan, config.views))[0]
        labels = torch.full((config.objects.per_image,), NO_LABEL)
        for slot, members in enumerate(plan.chosen.members):
            known = {row.objects[k].label for k in members} - {None}
            if known:  # a whole image has no members
                labels[slot] = known.pop()
        visible = torch.stack([view.visible for view in shown])
        return Shown(
            torch.stack([view.pixels for view in shown]),
            torch.stack([view.object_masks for view in shown]),
            torch.where(visible, labels, NO_LABEL),
        )


def labelled_rows(index: ObjectIndex) -> list[int]:
    """Rows with an object whose class is known."""
    return [i for i, row in enumerate(index) if any(item.label is not None for item in row.objects)]


def widened(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """A box in whole pixels, each side `WIDER` as long where the image goes on, at least 2 x 2."""
    (x0, y0, x1, y1), more = box.tolist(), (WIDER - 1) / 2
    across, down = more * (x1 - x0), more * (y1 - y0)
    left, top = min(max(0, int(x0 - across)), width - 2), min(max(0, int(y0 - down)), height - 2)
    right, bottom = min(width, int(np.ceil(x1 + across))), min(height, int(np.ceil(y1 + down)))
    return left, top, max(right, left + 2), max(bottom, top + 2)


def train_with_labels(config: PretrainConfig, run: Path, labels: Labels = "crops") -> None:
    """Train in a folder until the run is complete, from its newest state if it has one; its files are named
    as those of `odis pretrain`.

    Raises:
        KeyboardInterrupt: After Ctrl-C, once the state is saved.
    """
    index, train = ObjectIndex.open(config.data), config.train
    device = resolve_device(train.device, "train.device")
    if train.threads:
        torch.set_num_threads(train.threads)
    torch.manual_seed(train.seed)
    network, schedules = Classifier(config, len(index.classes)).to(device), Schedules(config, len(index))
    total, shows = schedules.total_steps, _shows(labels, index, config, network)
    optimizer = build_optimizer(network, config.optim)
    resolved = {
        "images": len(index),
        "provenance": index.provenance,
        "total_steps": total,
        "backbone_parameters": sum(p.numel() for p in network.backbone.parameters()),
        "device": describe_device(device),
    }
    prepare(run, config, resolved)
    step = _restored(run, network, optimizer)
    dtype = DTYPES[resolve_precision(train.precision, device, "train.precision").name]
    log, throughput, losses = JsonLines(run / "metrics.jsonl", from_step=step), Throughput(), []
    drawn = batches(shows, config, step, total)
    try:
        while step < total:
            before = time.perf_counter()
            shown = next(drawn)
            throughput.waited(time.perf_counter() - before)
            apply_settings(optimizer, schedules.at(step))
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                logits = network(
                    shown.views.to(device), None if shown.masks is None else shown.masks.to(device)
                )
            loss = loss_of(logits, shown.labels.to(device))
            loss.backward()
            clip_gradients(network, config.optim.clip_grad, config.optim.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
            throughput.stepped()
            step += 1
            if step % train.log_every == 0 or step == total:
                figures = throughput.read(train.batch_size, total - step) | {
                    "memory_gib": peak_memory(device)
                }
                log.write({"step": step, "loss": statistics.mean(losses), **figures})
                losses.clear()
            if step % _SAVE_EVERY == 0 or step == total:
                _save(run, step, network, optimizer)
    except KeyboardInterrupt:
        _save(run, step, network, optimizer)
        raise
    save_model(run / "model.safetensors", network.backbone, card_of(config, index, network))


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, Q, classes) over the tokens that have a label (B, Q)."""
    return cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL, label_smoothing=SMOOTHING
    )


def _shows(labels: Labels, index: ObjectIndex, config: PretrainConfig, network: Classifier) -> Shows:
    if labels == "crops":
        return Crops(index, config)
    return MaskedViews(index, config, _patch_size(network))


def _patch_size(network: Classifier) -> int:
    return int(network.backbone.patch_embed.patch_size[0])


def _save(run: Path, step: int, network: Classifier, optimizer: torch.optim.Optimizer) -> None:
    with written_whole(run / _STATE) as beside:
        torch.save(
            {"step": step, "network": network.state_dict(), "optimizer": optimizer.state_dict()}, beside
        )


def _restored(run: Path, network: Classifier, optimizer: torch.optim.Optimizer) -> int:
    """Steps taken, after the state that was saved was loaded."""
    if not (run / _STATE).exists():
        return 0
    saved = torch.load(run / _STATE, map_location="cpu", weights_only=True)
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def batches(shows: Shows, config: PretrainConfig, start: int, steps: int) -> Iterator[Shown]:
    """What the steps that are left learn from: V views of each of the images of a batch."""
    size = config.train.batch_size
    for step in range(start, steps):
        drawn = [shows.views(*key) for key in sample_order(len(shows), config.train.seed, step * size, size)]
        masks = [shown.masks for shown in drawn if shown.masks is not None]
        yield Shown(
            torch.cat([shown.views for shown in drawn]),
            torch.cat(masks) if masks else None,
            torch.cat([shown.labels for shown in drawn]),
        )


def card_of(config: PretrainConfig, index: ObjectIndex, network: Classifier) -> dict[str, Any]:
    """What a run of `odis pretrain` writes of its backbone."""
    views, model = config.views, as_dict(config)["model"]
    return {
        "model": model | {"weights": None},
        "image_size": views.global_size,
        "patch_size": _patch_size(network),
        "mean": list(views.statistics[0]),
        "std": list(views.statistics[1]),
        "mask_coverage": views.mask_coverage,
        "mask_margin": views.mask_margin,
        "provenance": f"{index.provenance}, labels",
        "recipe": "supervised",
        "odis_version": __version__,
    }
