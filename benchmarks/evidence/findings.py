"""What trained networks do, measured: where they look, when the object loss stops falling, whether `[OBJ]`
leaks, what masks do to the teacher's target, and how many patches an object has.

    python benchmarks/evidence/findings.py RUN [RUN ...] --train INDEX --test INDEX --out
    benchmarks/evidence/results/voc/findings.json --plots docs/evidence [--names ibot read-only]

RUN is a folder of `odis pretrain`. Measured on objects of the test index that are neither tiny nor nearly the
whole image, and on views of the train index. `tables.py` puts the figures into docs/evidence/findings.md.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from measure import CONTEXT
from torch import Tensor
from torch.nn.functional import cosine_similarity

from odis.backbones.attention_maps import object_attention_maps
from odis.backbones.build import build_pair
from odis.config.options import load_recipe
from odis.config.query import QueryConfig
from odis.config.training import PretrainConfig
from odis.data.loader import make_loader
from odis.data.views import normalize_pixels, plan_views
from odis.errors import OdisError
from odis.evaluation.results import write_results
from odis.inference import Encoder, load
from odis.method.pair import Network
from odis.method.vit import ObjectViT
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.train.checkpoint import checkpoints, load_checkpoint
from odis.train.run_folder import read_config

OBJECTS = 200
"""Test objects that networks are asked about."""

AREA = (0.02, 0.5)
"""Share of its image that such an object has."""

BATCHES = 4
"""Of the training data, for the teacher's targets."""

IMAGES = 400
"""Train images whose views are counted."""

STOPPED = 0.05
"""A loss has stopped falling when this share of its fall is left."""

GEOMETRIES: dict[str, tuple[int, int]] = {
    "patches of 16, views of 64": (16, 64),
    "patches of 8, views of 64": (8, 64),
    "patches of 8, views of 96": (8, 96),
    "patches of 16, views of 224 (recipes)": (16, 224),
}
"""Side of a patch and of a view, for the count of patches. Crops are as large as those of the run."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A run: its settings, its network as it is asked, and its teacher with its head."""

    name: str
    folder: Path
    config: PretrainConfig
    encoder: Encoder
    teacher: Network
    record: dict[str, Any]  # its settings, versions and commit

    @staticmethod
    def open(folder: Path, name: str) -> Trained:
        """Open a finished run.

        Raises:
            OdisError: It is no run, or has no checkpoint.
        """
        record = read_config(folder)
        saved = checkpoints(folder / "checkpoints")
        if not saved:
            raise OdisError(f"{folder}: has no checkpoint, which holds the teacher's head")
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as recipe:
            yaml.safe_dump(record["config"], recipe)
            recipe.flush()
            config = load_recipe(recipe.name)
        teacher = build_pair(config)[1]
        teacher.load_state_dict(load_checkpoint(saved[-1])["teacher"])
        record["config"]["data"] = Path(record["config"]["data"]).name
        kept = {key: record[key] for key in ("config", "versions", "git")}
        return Trained(name, folder, config, load(folder, device="cpu"), teacher.eval(), kept)

    @property
    def backbone(self) -> ObjectViT:
        """The network that is asked."""
        assert isinstance(self.encoder.model, ObjectViT)
        return self.encoder.model


@dataclass(frozen=True, slots=True)
class Asked:
    """Test objects in windows: N objects, P patches of a window."""

    pixels: Tensor  # uint8 (N, 3, S, S)
    masks: Tensor  # bool (N, 1, P)
    labels: Tensor  # int64 (N,)


def windows(encoder: Encoder, test: ObjectIndex, count: int) -> Asked:
    """Objects of the test index, one an image, in windows of `CONTEXT` times their box that lie within the
    image.

    Raises:
        OdisError: Hardly any object is neither tiny nor large.
    """
    builder = encoder.query_builder(QueryConfig(("masked-attention",), context=CONTEXT))
    rng, found = np.random.default_rng(0), []
    for i in rng.permutation(len(test)):
        row = test[int(i)]
        fits = [
            item
            for item in row.objects
            if item.label is not None
            and AREA[0]
            <= (item.box[2] - item.box[0]) * (item.box[3] - item.box[1]) / (row.width * row.height)
            <= AREA[1]
        ]
        if not fits:
            continue
        item = fits[int(rng.integers(len(fits)))]
        image = torch.from_numpy(np.asarray(load_image(test.image_path(int(i)))).copy()).permute(2, 0, 1)
        query = builder(image, [item])[0]
        whole = query.pixels.shape[1:] == (encoder.image_size, encoder.image_size)
        if whole and 0 < query.masks.sum() < query.masks.size:
            found.append((query, item.label))
        if len(found) == count:
            break
    if len(found) < 2:
        raise OdisError(f"{test.path}: has no two objects of {AREA[0]} to {AREA[1]} of their image")
    return Asked(
        torch.from_numpy(np.stack([query.pixels for query, _ in found])),
        torch.from_numpy(np.stack([query.masks for query, _ in found])),
        torch.tensor([label for _, label in found]),
    )


def _shown(run: Trained, pixels: Tensor) -> Tensor:
    return normalize_pixels(pixels, run.encoder.mean, run.encoder.std)


def attention(run: Trained, asked: Asked) -> dict[str, Any]:
    """Attention of `[OBJ]`, asked about all of a window, to the patches of the object: in every block its
    share of what goes to patches, over the object's share of them; 1 is no preference.
    """
    whole = torch.ones_like(asked.masks)
    share = asked.masks.float().mean(dim=-1).flatten()
    lifts = []
    for layer in range(len(run.backbone.blocks)):
        maps = object_attention_maps(run.backbone, _shown(run, asked.pixels), whole, layer).mean(dim=2)
        inside = (maps * asked.masks).sum(dim=-1) / maps.sum(dim=-1)
        lifts.append((inside.flatten() / share).mean().item())
    return {"lift": lifts, "share_of_patches": share.mean().item()}


@torch.no_grad()
def leak(run: Trained, asked: Asked) -> dict[str, float]:
    """How much of `[OBJ]` comes from pixels outside its object: its change when they are replaced by those of
    another window, over its change from that to another object. 0 is nothing, 1 all.

    `masked` asks with the object's mask: what changes came through its patches, which see all others.
    `unmasked` asks about the whole window.
    """
    side = asked.pixels.shape[-1]
    rows = side // run.encoder.patch_size
    inside = asked.masks.reshape(len(asked.masks), 1, rows, rows)
    inside = inside.repeat_interleave(run.encoder.patch_size, 2).repeat_interleave(run.encoder.patch_size, 3)
    replaced = torch.where(inside, asked.pixels, asked.pixels.roll(1, 0))
    found = {}
    for name, masks in (("masked", asked.masks), ("unmasked", torch.ones_like(asked.masks))):
        before = _objects(run, asked.pixels, masks)
        after = _objects(run, replaced, masks)
        change = 1 - cosine_similarity(before, after).mean().item()
        others = 1 - cosine_similarity(before, before.roll(1, 0)).mean().item()
        found[name] = change / others
    return found


def _objects(run: Trained, pixels: Tensor, masks: Tensor) -> Tensor:
    """`[OBJ]` (N, D) of one object a window."""
    objects = run.backbone(_shown(run, pixels), masks).objects
    assert objects is not None
    return objects[:, 0]


@torch.no_grad()
def targets(run: Trained, train: ObjectIndex) -> dict[str, Any]:
    """The teacher's distribution over prototypes for objects in two global views, with the object's mask and
    without: its entropy in nats, and how far the two views of one object agree.

    The views are those of training with object crops, the same for every run, with and without masks.
    `agreement` is the share of objects whose two views have the same most likely prototype; `gap` the mean
    cosine of the teacher's features of two views of one object, less that of two objects.
    """
    config = load_recipe(None)
    config.objects, config.views = run.config.objects, run.config.views
    config.train, config.loader = run.config.train, run.config.loader
    config.model, config.prediction = run.config.model, run.config.prediction
    config.objects.use = config.views.object_crops = config.views.object_masks = True
    config.objects.per_image, config.views.local_views, config.loader.workers = 1, 0, 0
    loader = make_loader(train, config, patch_size=run.encoder.patch_size, start_step=0, steps=BATCHES)
    temp = run.config.loss.teacher_temp
    logits: dict[str, list[Tensor]] = {"masked": [], "unmasked": []}
    features: dict[str, list[Tensor]] = {"masked": [], "unmasked": []}
    for batch in loader:
        both = batch.global_visible[..., 0].all(dim=0)
        for name, masks in (
            ("masked", batch.global_masks[:, :1]),
            ("unmasked", torch.ones_like(batch.global_masks[:, :1])),
        ):
            objects = run.teacher.embed(batch.global_views, masks).objects
            assert objects is not None
            read = objects[:, 0]
            ((_, out),) = run.teacher.head.forward_list([read])
            logits[name].append(out.reshape(2, batch.size, -1)[:, both])
            features[name].append(read.reshape(2, batch.size, -1)[:, both])
    found: dict[str, Any] = {"prototypes": run.config.head.prototypes}
    for name in logits:
        all_logits = torch.cat(logits[name], dim=1)
        p = (all_logits / temp).softmax(dim=-1)
        one, two = torch.cat(features[name], dim=1)
        found[name] = {
            "entropy": _entropy(p).mean().item(),
            "entropy_of_mean": _entropy(p.mean(dim=(0, 1))).item(),
            "agreement": 100 * (p[0].argmax(-1) == p[1].argmax(-1)).float().mean().item(),
            "gap": (cosine_similarity(one, two) - cosine_similarity(one, two.roll(1, 0))).mean().item(),
            "objects": p.shape[1],
        }
    return found


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp(min=1e-12).log()).sum(dim=-1)


def loss_curve(run: Trained) -> dict[str, Any]:
    """The object loss against images, and how many had been seen when `STOPPED` of its fall was left."""
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line.get("loss_object") is not None]
    images = [line["step"] * run.config.train.batch_size for line in lines]
    losses = [line["loss_object"] for line in lines]
    width = max(1, len(losses) // 20)
    smooth = [statistics.mean(losses[max(0, i - width) : i + width + 1]) for i in range(len(losses))]
    end, start = statistics.mean(losses[-width:]), max(smooth)
    level = end + STOPPED * (start - end)
    stopped = next(n for n, loss in zip(images, smooth) if loss <= level)
    return {
        "images": images,
        "loss": smooth,
        "stopped_at": stopped,
        "seen": images[-1],
        "fall": start - end,
        "log_k": math.log(run.config.head.prototypes),
    }


def patch_counts(config: PretrainConfig, train: ObjectIndex) -> dict[str, Any]:
    """Patches of the target object in global views of object-aware crops, for several sides of patches and
    views; and the share of views with hidden patches in which every patch of the object is hidden.
    """
    found = {}
    rows = np.random.default_rng(0).permutation(len(train))[:IMAGES]
    for name, (patch, view) in GEOMETRIES.items():
        views = load_recipe(None).views
        views.global_size, views.local_views = view, 0
        views.global_scale = config.views.global_scale
        views.min_coverage, views.mask_coverage = config.views.min_coverage, config.views.mask_coverage
        objects = load_recipe(None).objects
        objects.sampling, objects.min_visible = "uniform", config.objects.min_visible
        counts, hidden_views, all_hidden = [], 0, 0
        for i in rows:
            row = train[int(i)]
            if not row.objects:
                continue
            rng = np.random.default_rng([0, int(i)])
            plan = plan_views(rng, row, row.width, row.height, objects, views, config.prediction, patch)
            for masks, visible, hidden in zip(plan.masks, plan.visible, plan.hidden):
                if visible[0]:
                    counts.append(int(masks[0].sum()))
                    if hidden.any():
                        hidden_views += 1
                        all_hidden += int(hidden[masks[0]].all())
        found[name] = {
            "patches_a_view": (view // patch) ** 2,
            "counts": counts,
            "quartiles": np.percentile(counts, (25, 50, 75)).tolist(),
            "few": 100 * float(np.mean(np.array(counts) <= 4)),
            "all_hidden": 100 * all_hidden / max(1, hidden_views),
        }
    return found


def measure_all(runs: list[Trained], train: ObjectIndex, test: ObjectIndex) -> dict[str, Any]:
    """All figures, by the names of runs."""
    found: dict[str, Any] = {"runs": {}}
    for run in runs:
        asked = windows(run.encoder, test, OBJECTS)
        curve = loss_curve(run)
        found["runs"][run.name] = {
            "images_seen": curve["seen"],
            "objects": len(asked.labels),
            "attention": attention(run, asked),
            "leak": leak(run, asked),
            "targets": targets(run, train),
            "loss": curve,
            **run.record,
        }
    return found | {"patches": patch_counts(runs[0].config, train)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of odis pretrain")
    parser.add_argument("--names", nargs="+", help="of the runs (default: those of their folders)")
    parser.add_argument("--train", required=True, help="object index they were trained on")
    parser.add_argument("--test", required=True, help="object index that they are asked about")
    parser.add_argument("--out", type=Path, required=True, help="figures, a JSON file")
    parser.add_argument("--plots", type=Path, help="folder for pictures")
    args = parser.parse_args()
    names = args.names or [run.name for run in args.runs]
    if len(names) != len(args.runs):
        parser.error(f"{len(names)} names for {len(args.runs)} runs")
    try:
        train, test = ObjectIndex.open(args.train), ObjectIndex.open(args.test)
        runs = [Trained.open(run, name) for run, name in zip(args.runs, names)]
        found = measure_all(runs, train, test)
        write_results(args.out, found)
        if args.plots is not None:
            from finding_plots import draw

            args.plots.mkdir(parents=True, exist_ok=True)
            draw(runs, windows(runs[0].encoder, test, OBJECTS), found, args.plots)
    except OdisError as error:
        sys.exit(str(error))
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
