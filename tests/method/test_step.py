"""The whole step against a loop over images, views and objects; ODIS on whole images against iBOT; read-only
against single.
"""

import copy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from odis.backbones.build import build_pair
from odis.config.training import (
    HeadConfig,
    LossConfig,
    ModelConfig,
    ObjectsConfig,
    PredictionConfig,
    PretrainConfig,
    TrainConfig,
    ViewsConfig,
)
from odis.data.loader import collate, make_loader
from odis.method.heads import ProjectionHead
from odis.method.pair import Network, update_teacher
from odis.method.step import Centers, LossTerms, compute_losses, student_pass, teacher_pass
from odis.objects.index import ObjectIndex, write_index
from odis.types import Batch, Crop, ImageObjects, Losses, Object, Sample, View

PATCH = 8
VIEWS = ViewsConfig(global_size=32, local_size=16, local_views=2)
TINY = ModelConfig(
    name="vit_tiny_patch16_224", patch_size=PATCH, embed_dim=32, depth=2, num_heads=2, drop_path=0.0
)
READ_ONLY, BESIDE = (replace(TINY, object_tokens=kind) for kind in ("read-only", "beside"))
HEAD = HeadConfig(prototypes=24, hidden=20, bottleneck=12)


def a_config(**changes) -> PretrainConfig:
    """A tiny config; `changes` are whole sections."""
    sections = {
        "views": VIEWS,
        "model": TINY,
        "head": HEAD,
        "train": TrainConfig(batch_size=4, seed=3, precision="fp32", device="cpu"),
    }
    return PretrainConfig(data="x", **(sections | changes))


def shaken_pair(config: PretrainConfig) -> tuple[Network, Network]:
    """Student and teacher that differ from each other, with tokens and biases away from their start near
    0.
    """
    torch.manual_seed(0)
    student, teacher = build_pair(config)
    with torch.no_grad():
        for network in (student, teacher):
            for parameter in network.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return student, teacher


def forward(
    config: PretrainConfig,
    student: Network,
    teacher: Network,
    centers: Centers,
    batch: Batch,
    temp: float = 0.05,
) -> Losses:
    """The step up to its gradients; moves the centers."""
    terms = LossTerms.of(config)
    target = teacher_pass(teacher, batch, centers, temp, config, terms)
    losses = compute_losses(student_pass(student, batch, terms), target, batch, config)
    student.zero_grad(set_to_none=True)
    losses.total.backward()
    centers.add(target)
    centers.update()
    return losses


def gradients(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


# --- the slow way
# ------------------------------------------------------------------------------------------------------------


class Slow:
    """A network asked about one view and one object at a time: timm's blocks with an explicit mask, the head
    written out.
    """

    def __init__(self, network: Network, config: PretrainConfig) -> None:
        backbone = network.backbone
        own = ("mask_token", "object_token", "object_pos")
        state = {k: v.clone() for k, v in backbone.state_dict().items() if k not in own}
        sizes = {
            "patch_size": PATCH,
            "embed_dim": TINY.embed_dim,
            "depth": TINY.depth,
            "num_heads": TINY.num_heads,
        }
        self.vit = timm.create_model(
            TINY.name, img_size=VIEWS.global_size, dynamic_img_size=True, num_classes=0, **sizes
        )
        self.vit.load_state_dict(state)
        self.tokens = {
            k: v.detach().clone().requires_grad_() for k, v in backbone.named_parameters() if k in own
        }
        self.head, self.patch_head = copy.deepcopy((network.head, network.patch_head))
        self.config = config

    def run(self, view: View, masks: Tensor | None, hidden: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The first or object tokens (Q, D), patches (P, D) and the first token (D,) of one view."""
        x = self.vit.patch_embed(view.pixels[None])
        if hidden is not None:
            x = torch.where(hidden.view(1, x.shape[1], x.shape[2], 1), self.tokens["mask_token"], x)
        x = self.vit.norm_pre(self.vit._pos_embed(x))
        context = x.shape[1]
        model, single = self.config.model, self.config.model.object_tokens == "single"
        beside = model.object_tokens == "beside"
        visible = None
        if masks is not None:
            if not single:
                token = self.tokens["object_token"] + self.tokens.get("object_pos", 0)
                x = torch.cat([x, token.expand(1, len(masks), -1)], dim=1)
            visible = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
            visible[:, context:] = beside  # nobody sees a read-only token
            for q, mask in enumerate(masks):
                row = 0 if single else context + q
                visible[row] = False
                visible[row, row] = True
                visible[row, 1:context] = mask
                if beside or model.object_sees_cls:
                    visible[row, 0] = True
        for block in self.vit.blocks:
            x = block(x, attn_mask=None if visible is None else visible[None, None])
        x = self.vit.norm(x)[0]
        return (x[:1] if masks is None or single else x[context:]), x[1:context], x[0]

    def ask(self, view: View, hidden: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Object tokens (Q, D), patches (P, D), and the image token (D,) if the image term is on."""
        image = self.run(view, None, hidden)[2] if self.config.loss.image_weight else None
        if self.config.model.object_readout == "mean-pool":
            _, patches, _ = self.run(view, None, hidden)
            return torch.stack([patches[mask].mean(0) for mask in view.object_masks]), patches, image
        unmasked = self.config.model.object_tokens == "single" and not self.config.views.object_masks
        objects, patches, first = self.run(view, None if unmasked else view.object_masks, hidden)
        if image is not None and self.config.model.object_tokens == "beside":
            image = first  # of the same pass
        return objects, patches, image

    def gradients(self) -> dict[str, Tensor]:
        found = {
            f"backbone.{name}": p.grad for name, p in [*self.vit.named_parameters(), *self.tokens.items()]
        }
        heads = (
            {"head": self.head}
            if self.head is self.patch_head
            else {"head": self.head, "patch_head": self.patch_head}
        )
        found |= {
            f"{name}.{key}": p.grad for name, head in heads.items() for key, p in head.named_parameters()
        }
        return {name: grad for name, grad in found.items() if grad is not None}


def unit(head: ProjectionHead, x: Tensor) -> Tensor:
    """The unit vector in the bottleneck of one token (D,)."""
    first, second, third = (layer for layer in head.mlp if isinstance(layer, torch.nn.Linear))
    z = third(F.gelu(second(F.gelu(first(x)))))
    return z / z.norm()


def project(head: ProjectionHead, x: Tensor) -> Tensor:
    """Prototype logits of one token (D,)."""
    return torch.stack([unit(head, x) @ row / row.norm() for row in head.last_layer.weight])


def probabilities(logits: dict, center: Tensor, temp: float, config: PretrainConfig) -> dict:
    """Teacher distributions by key; Sinkhorn-Knopp as in SwAV's listing, over all rows at once."""
    if not logits:
        return {}
    if config.loss.centering == "center":
        return {key: torch.softmax((z - center) / temp, -1) for key, z in logits.items()}
    q = torch.exp(torch.stack(list(logits.values())).double() / temp)
    q /= q.sum()
    for _ in range(config.loss.sinkhorn_iterations):
        q /= q.sum(0, keepdim=True) * q.shape[1]
        q /= q.sum(1, keepdim=True) * q.shape[0]
    return dict(zip(logits, (q * q.shape[0]).float()))


def between(p: Tensor, z: Tensor) -> Tensor:
    return -sum(p[k] * torch.log_softmax(z / 0.1, -1)[k] for k in range(len(p)))


def slow_step(
    samples: list[Sample], student: Slow, teacher: Slow, centers: Centers, temp: float, config: PretrainConfig
) -> dict:
    """DESIGN's formulas, one image, view, object and patch at a time; losses, and the means the centers move
    towards.
    """
    hide = config.loss.patch_weight > 0
    seen: dict = {"objects": {}, "patches": {}, "image": {}}  # teacher logits
    said: dict = {"objects": {}, "patches": {}, "image": {}}  # student logits
    directions: dict = {}  # of the student's objects in the head
    everywhere: list = []  # teacher logits of every patch
    for b, sample in enumerate(samples):
        for v, view in enumerate([*sample.global_views, *sample.local_views]):
            is_global = v < len(sample.global_views)
            hidden = sample.prediction_masks[v] if is_global and hide else None
            networks = [(student, said, hidden)]
            if is_global:
                with torch.no_grad():
                    networks.append((teacher, seen, None))
            for network, logits, masked in networks:
                with torch.set_grad_enabled(network is student):
                    objects, patches, image = network.ask(view, masked)
                    for q in range(len(view.visible)):
                        if view.visible[q]:
                            logits["objects"][b, v, q] = project(network.head, objects[q])
                            if network is student:
                                directions[b, v, q] = unit(network.head, objects[q])
                    for p in hidden.nonzero()[:, 0].tolist() if hidden is not None else []:
                        logits["patches"][b, v, p] = project(network.patch_head, patches[p])
                    if network is teacher and config.loss.center_patches == "all":
                        everywhere += [project(network.patch_head, patch) for patch in patches]
                    if image is not None:
                        logits["image"][b, v, 0] = project(network.head, image)
    terms = {}
    for term in ("objects", "image"):
        p = probabilities(seen[term], getattr(centers, term).center[0], temp, config)
        pairs = [(u, v) for u in p for v in said[term] if u[0] == v[0] and u[2] == v[2] and u[1] != v[1]]
        count = max(1, len(pairs))
        if term == "objects" and config.loss.missing_pairs == "zero":  # as many as if every view showed it
            count = len(samples) * len(samples[0].global_views[0].visible) * 2 * (1 + VIEWS.local_views)
        terms[term] = sum(between(p[u], said[term][v]) for u, v in pairs) / count
    p = probabilities(seen["patches"], centers.patches.center[0], temp, config)
    terms["patches"] = torch.zeros(())
    views = [(b, v) for b in range(len(samples)) for v in range(len(samples[0].global_views))]
    for b, v in views:
        here = [between(p[key], said["patches"][key]) for key in p if key[:2] == (b, v)]
        terms["patches"] = terms["patches"] + (sum(here) / len(here) if here else 0) / len(views)
    means = {
        term: torch.stack(list(logits.values())).mean(0) if logits else None for term, logits in seen.items()
    }
    means["patches"] = torch.stack(everywhere).mean(0) if everywhere else means["patches"]
    terms["koleo"] = torch.zeros(())
    matched = {(b, v, q): x for (b, v, q), x in directions.items() if v < 2 and (b, 1 - v, q) in directions}
    for (b, v, q), x in matched.items():
        others = [(x - y).norm() for (i, u, o), y in matched.items() if u == v and (i, o) != (b, q)]
        if others:
            terms["koleo"] = terms["koleo"] - torch.log(min(others)) / (1 + len(others))
    loss = config.loss
    total = loss.object_weight * terms["objects"] + loss.patch_weight * terms["patches"]
    total = total + loss.image_weight * terms["image"] + loss.koleo_weight * terms["koleo"]
    return terms | {"total": total, "means": means}


def some_samples(objects: int, seed: int = 0) -> list[Sample]:
    """Images whose objects are seen in all views, in some, in one global view alone, in local views alone, or
    in none.
    """
    rng = torch.Generator().manual_seed(seed)
    cases = [
        lambda g: True,
        lambda g: torch.rand(1, generator=rng) < 0.5,
        lambda g: g == 0,
        lambda g: g > 1,
        lambda g: False,
    ]
    samples = []
    for i, case in enumerate(cases):
        views = []
        for v, side in enumerate([VIEWS.global_size] * 2 + [VIEWS.local_size] * VIEWS.local_views):
            visible = torch.tensor([bool(case(v)) for _ in range(objects)])
            masks = torch.rand(objects, (side // PATCH) ** 2, generator=rng) < 0.4
            masks[:, 0] |= ~masks.any(1)  # a visible object has a patch
            masks |= ~visible[:, None]
            views.append(
                View(torch.randn(3, side, side, generator=rng), Crop(0, 0, side, side), masks, visible)
            )
        hidden = torch.rand(2, 16, generator=rng) < (0.3 if i % 2 else 0.0)
        samples.append(Sample(views[:2], views[2:], hidden, index=i, path=f"{i}.png"))
    return samples


VARIANTS = {
    "single-center": (1, {}),
    "single-sinkhorn-image": (1, {"loss": LossConfig(centering="sinkhorn", image_weight=0.7)}),
    "single-own-patch-head-image": (
        1,
        {"loss": LossConfig(image_weight=0.5, patch_weight=0.3), "head": replace(HEAD, shared=False)},
    ),
    "crop-only": (
        1,
        {
            "views": replace(VIEWS, object_masks=False),
            "loss": LossConfig(object_weight=2.0, image_weight=0.5),
        },
    ),
    "single-all-patches": (1, {"loss": LossConfig(image_weight=0.5, center_patches="all")}),
    "beside-all-patches": (1, {"model": BESIDE, "loss": LossConfig(center_patches="all")}),
    "no-patch-term": (1, {"loss": LossConfig(patch_weight=0.0)}),
    "single-koleo": (1, {"loss": LossConfig(koleo_weight=0.3)}),
    "mean-pool": (2, {"model": replace(TINY, object_readout="mean-pool")}),
    "read-only-center": (3, {"model": READ_ONLY}),
    "read-only-sinkhorn-image-koleo": (
        2,
        {"model": READ_ONLY, "loss": LossConfig(centering="sinkhorn", image_weight=0.7, koleo_weight=0.5)},
    ),
    "read-only-own-patch-head": (2, {"model": READ_ONLY, "head": replace(HEAD, shared=False)}),
    "read-only-sees-cls": (2, {"model": replace(READ_ONLY, object_sees_cls=True)}),
    "beside-image-zero": (1, {"model": BESIDE, "loss": LossConfig(image_weight=0.5, missing_pairs="zero")}),
    "beside-crop-only": (1, {"model": BESIDE, "views": replace(VIEWS, object_masks=False)}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_step_equals_a_loop_over_images_views_and_objects(name: str) -> None:
    per_image, changes = VARIANTS[name]
    config = a_config(objects=ObjectsConfig(per_image=per_image), **changes)
    student, teacher = shaken_pair(config)
    centers = Centers(HEAD.prototypes, momentum=0.8)
    for buffer in centers.buffers():
        buffer.copy_(0.05 * torch.randn(buffer.shape, generator=torch.Generator().manual_seed(1)))
    before = {term: getattr(centers, term).center.clone() for term in ("objects", "patches", "image")}
    samples = some_samples(per_image)
    slow = Slow(student, config)
    expected = slow_step(samples, slow, Slow(teacher, config), centers, 0.05, config)
    expected["total"].backward()

    found = forward(config, student, teacher, centers, collate(samples, config.loss.missing_pairs))

    assert found.objects > 0.1
    assert (found.patches > 0.1) == (config.loss.patch_weight > 0)
    assert (found.image is not None) == (config.loss.image_weight > 0)
    assert (found.koleo is not None) == (config.loss.koleo_weight > 0)
    also = (name for name in ("image", "koleo") if getattr(found, name) is not None)
    for term in ("total", "objects", "patches", *also):
        torch.testing.assert_close(
            getattr(found, term), expected[term], rtol=2e-5, atol=1e-6, msg=lambda m, t=term: f"{t}: {m}"
        )
    theirs, ours = slow.gradients(), gradients(student)
    assert {k for k, g in ours.items() if g.any()} == {k for k, g in theirs.items() if g.any()}
    scale = max(g.abs().max() for g in theirs.values())
    for key, grad in theirs.items():
        torch.testing.assert_close(
            ours[key] / scale, grad / scale, rtol=1e-3, atol=2e-6, msg=lambda m, k=key: f"{k}: {m}"
        )
    for term, mean in expected["means"].items():
        moved = before[term] if mean is None else 0.8 * before[term] + 0.2 * mean
        torch.testing.assert_close(getattr(centers, term).center, moved.view(1, -1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["single", "read-only"])
def test_batch_that_shows_no_object_trains_patches_alone(kind: str) -> None:
    config = a_config(model=replace(TINY, object_tokens=kind), loss=LossConfig(koleo_weight=1.0))
    student, teacher = shaken_pair(config)
    losses = forward(
        config,
        student,
        teacher,
        Centers(24, 0.9),
        collate(some_samples(1)[-1:] + some_samples(1, seed=1)[-1:]),
    )
    assert losses.objects == 0
    batch = collate(
        [replace(s, prediction_masks=torch.ones(2, 16, dtype=torch.bool)) for s in some_samples(1)[-1:]]
    )
    losses = forward(config, student, teacher, Centers(24, 0.9), batch)
    assert losses.objects == 0
    assert losses.patches > 0.1
    found = gradients(student)
    assert set(found) == {name for name, p in student.named_parameters() if p.requires_grad}, (
        "DDP waits for all of them"
    )
    assert all(g.isfinite().all() for g in found.values())


# --- ODIS, iBOT and read-only tokens
# ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(9):
        Image.fromarray(rng.integers(0, 256, (30 + i, 50 - i, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def an_index(images: Path, name: str, objects: list[tuple[float, float, float, float] | None]) -> ObjectIndex:
    """Row i has the box `objects[i % n]`; (0, 0, 1, 1) of the image is all of it, None is no object."""
    rows = []
    for i in range(9):
        width, height = 50 - i, 30 + i
        share = objects[i % len(objects)]
        box = (
            [] if share is None else [Object(tuple(s * side for s, side in zip(share, (width, height) * 2)))]
        )
        rows.append(ImageObjects(f"{i}.png", width, height, tuple(box)))
    write_index(images / f"{name}.parquet", rows, root=images, provenance="annotated", classes=[])
    return ObjectIndex.open(images / f"{name}.parquet")


def batches(index: ObjectIndex, config: PretrainConfig, steps: int) -> list[Batch]:
    config = replace(config, loader=replace(config.loader, workers=0))
    return list(make_loader(index, config, patch_size=PATCH, start_step=0, steps=steps))


WHOLE = (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "loss",
    [LossConfig(), LossConfig(centering="sinkhorn", image_weight=0.5)],
    ids=["center", "sinkhorn-image"],
)
@pytest.mark.parametrize(
    "objects",
    [[WHOLE], [None], [WHOLE, None], [(-0.5, -0.1, 1.5, 1.0)]],
    ids=["box", "none", "both", "beyond"],
)
def test_odis_with_whole_image_objects_is_ibot(images: Path, objects: list, loss: LossConfig) -> None:
    odis = a_config(loss=loss, prediction=PredictionConfig(probability=0.7))
    ibot = replace(odis, objects=ObjectsConfig(use=False))
    assert LossTerms.of(odis).masks
    assert not LossTerms.of(ibot).masks, "iBOT takes another path: plain attention"
    steps = 4
    ours = batches(an_index(images, "objects", objects), odis, steps)
    theirs = batches(an_index(images, "other", [(0.2, 0.1, 0.4, 0.3), None]), ibot, steps)
    for a, b in zip(ours, theirs):
        for field in fields(Batch):
            one, other = getattr(a, field.name), getattr(b, field.name)
            assert torch.equal(one, other) if isinstance(one, Tensor) else one == other, field.name

    runs = [
        (config, *shaken_pair(config), Centers(24, 0.9), data)
        for config, data in ((odis, ours), (ibot, theirs))
    ]
    for step in range(steps):
        results = []
        for config, student, teacher, centers, data in runs:
            losses = forward(config, student, teacher, centers, data[step])
            found = gradients(student)
            with torch.no_grad():
                for p in (
                    student.parameters()
                ):  # plain descent: Adam would blow rounding up where a gradient is nearly 0
                    p -= 0.05 * p.grad
            update_teacher(student, teacher, 0.9)
            results.append((losses, found))
        (one, grads), (other, other_grads) = results
        for name in ("total", "objects", "patches") + (("image",) if loss.image_weight else ()):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-6)
        assert grads.keys() == other_grads.keys()
        for key, grad in other_grads.items():
            torch.testing.assert_close(
                grads[key], grad, rtol=1e-3, atol=1e-5, msg=lambda m, k=key, n=step: f"step {n}, {k}: {m}"
            )


def test_odis_with_objects_is_not_ibot(images: Path) -> None:
    """The test above can fail: a box that is not the image changes crops, masks and losses."""
    odis = a_config()
    ours = batches(an_index(images, "small", [(0.2, 0.1, 0.6, 0.5)]), odis, 1)[0]
    theirs = batches(an_index(images, "other", [None]), replace(odis, objects=ObjectsConfig(use=False)), 1)[0]
    assert not torch.equal(ours.global_views, theirs.global_views)
    assert not ours.global_masks.all()


def test_read_only_token_at_its_start_answers_as_cls_does(images: Path) -> None:
    """With all-true masks, read-only and single have the same losses at the start, by design.

    The object token starts as what `[CLS]` is at the first block and sees the same patches, with its own key
    in the place of that of `[CLS]`; patches see `[CLS]` in both. So all outputs agree, and so do all
    gradients but those of the tokens themselves: that of `[CLS]` in `single`, which is read and is seen by
    patches, splits into one for each of the two roles.
    """
    single = a_config(loss=LossConfig(image_weight=0.0))
    read_only = replace(single, model=replace(TINY, object_tokens="read-only"))
    data = batches(an_index(images, "whole", [WHOLE]), single, 1)[0]
    student, teacher = shaken_pair(single)
    other_student, other_teacher = build_pair(read_only)
    for source, target in ((student, other_student), (teacher, other_teacher)):
        token = {"backbone.object_token": source.backbone.cls_token + source.backbone.pos_embed[:, :1]}
        target.load_state_dict(source.state_dict() | {k: v.detach() for k, v in token.items()})
    one = forward(single, student, teacher, Centers(24, 0.9), data)
    other = forward(read_only, other_student, other_teacher, Centers(24, 0.9), data)
    for name in ("total", "objects", "patches"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name), rtol=1e-5, atol=1e-6)
    ours, theirs = gradients(other_student), gradients(student)
    asked = ours.pop("backbone.object_token")
    assert asked.abs().max() > 1e-6
    ours["backbone.cls_token"] = ours["backbone.cls_token"] + asked
    ours["backbone.pos_embed"][:, :1] += asked
    assert ours.keys() == theirs.keys()
    for key, grad in theirs.items():
        torch.testing.assert_close(ours[key], grad, rtol=1e-3, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
