"""Batches that the device renders against those of the workers: the same draws, the same views to the
rounding of 8 bits.
"""

import copy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.config.training import (
    LoaderConfig,
    ObjectsConfig,
    PredictionConfig,
    PretrainConfig,
    TrainConfig,
    ViewsConfig,
)
from odis.data import raw_batch as source_module
from odis.data.loader import make_loader
from odis.data.pixels.shrink import LARGE
from odis.data.raw_batch import RawBatch, parts_of
from odis.errors import DataError
from odis.objects.index import ObjectIndex, write_index
from odis.types import Batch, ImageObjects, Object

PIXELS = {"global_views", "local_views"}


def config(
    render: str = "device", workers: int = 0, keep: tuple[str, ...] = (), strict: bool = False, **views
) -> PretrainConfig:
    sizes = {"global_size": 48, "local_size": 24, "local_views": 3, "solarize": (0.2, 0.2, 0.2)}
    return PretrainConfig(
        strict=strict,
        objects=ObjectsConfig(),
        views=ViewsConfig(**(sizes | views)),
        prediction=PredictionConfig(),
        train=TrainConfig(batch_size=7, seed=2, device="cpu"),
        loader=LoaderConfig(workers=workers, keep=list(keep), render=render),
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> ObjectIndex:
    """A folder of odd images: a photo that is decoded at a fraction, one turned, a grayscale one, a single
    pixel, a line, some noise.
    """
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (1301, 901), Image.Resampling.BICUBIC
    )
    exif = Image.Exif()
    exif[0x0112] = 8
    coarse.save(folder / "a.jpg")
    coarse.save(folder / "b.jpg", exif=exif)
    coarse.convert("L").resize((90, 61)).save(folder / "c.png")
    for name, (height, width) in {"d": (1, 1), "e": (2, 60), "f": (67, 41), "g": (50, 80)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return ObjectIndex.open(folder)


def load(index: ObjectIndex, settings: PretrainConfig, start_step: int = 0, steps: int = 2) -> list[Batch]:
    return [
        b.to("cpu") for b in make_loader(index, settings, patch_size=8, start_step=start_step, steps=steps)
    ]


def assert_equal(a: Batch, b: Batch, but: set[str] = frozenset()) -> None:
    for field in fields(Batch):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if field.name not in but:
            assert one.equal(other) if isinstance(one, torch.Tensor) else one == other, field.name


def levels(a: torch.Tensor, b: torch.Tensor, views: ViewsConfig) -> torch.Tensor:
    """Differences in levels of 8 bits."""
    return ((a - b) * torch.tensor(views.statistics[1])[:, None, None] * 255).abs()


def test_both_paths_give_the_same_batch(images):
    """A resized pixel may be rounded to the other side, and jitter makes more of that level: up to 1.4 x 1.4
    x 1.2 and a turn of hue.
    """
    assert LARGE < 1301 * 901
    for local_views in (3, 0):
        ours, theirs = (
            load(images, config(render, local_views=local_views), steps=3) for render in ("device", "cpu")
        )
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other, but=PIXELS)
            for name in PIXELS:
                a, b = getattr(one, name), getattr(other, name)
                assert a.shape == b.shape
                assert a.dtype == b.dtype == torch.float32
                if len(a):
                    difference = levels(a, b, config().views)
                    assert difference.max() < 5.1
                    assert difference.mean() < 0.03
                    assert (difference > 0.5).float().mean() < 0.02


def test_a_batch_is_the_same_bit_for_bit_from_any_start_and_worker(images):
    whole = load(images, config(), steps=4)
    for workers, keep, start in ((2, (), 2), (0, ("memory",), 1)):
        for a, b in zip(
            whole[start:],
            load(images, config(workers=workers, keep=keep), start_step=start, steps=4),
            strict=True,
        ):
            assert_equal(a, b)


AUTHORS = {
    "objects__unit": "classes",
    "objects__target": "first-crop",
    "objects__first_crop_coverage": 0.3,
    "objects__first_crop_draws": 2,
    "views__min_coverage": 0.0,
    "views__candidates": 2,
    "views__local_crops": "free",
    "views__local_masks": False,
    "views__mask_coverage": 0.0,
    "views__mask_shape": "component-boxes",
    "views__mask_margin": 1,
    "views__global_scale": (0.05, 0.3),
    "loss__missing_pairs": "zero",
    "prediction__keep_object": 2,
}


def test_the_authors_objects_are_the_same_on_both_paths_and_from_any_start(tmp_path):
    """What a resume or other workers change: nothing, bit for bit."""
    rng, rows = np.random.default_rng(3), []
    for i in range(7):
        pixels = rng.integers(0, 256, (48, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        low = rng.random((5, 2)) * 0.7
        boxes = np.concatenate([low, low + 0.3], 1) * (60, 48, 60, 48)
        objects = tuple(Object(tuple(box), label=k % 2) for k, box in enumerate(boxes.tolist()))
        rows.append(ImageObjects(f"{i}.png", 60, 48, objects))
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=["a", "b"])
    index = ObjectIndex.open(tmp_path / "i.parquet")

    def settings(**changes) -> PretrainConfig:
        chosen = config(**changes)
        for name, value in AUTHORS.items():
            section, key = name.split("__")
            setattr(getattr(chosen, section), key, value)
        return chosen

    whole, theirs = load(index, settings(), steps=4), load(index, settings(render="cpu"), steps=4)
    for one, other in zip(whole, theirs, strict=True):
        assert_equal(one, other, but=PIXELS)
        assert one.pairs == 7 * 2 * 4
        assert one.local_visible.equal(one.global_visible[:1].expand(3, -1, -1))
    seen = torch.stack([batch.global_visible.sum(0) for batch in whole])
    assert set(seen.unique().tolist()) == {0, 1, 2}  # no target; lost in the second view; in both
    for workers, start in ((2, 2), (0, 1)):
        again = load(index, settings(workers=workers), start_step=start, steps=4)
        for a, b in zip(whole[start:], again, strict=True):
            assert_equal(a, b)


def test_parts_of_a_batch_are_rendered_as_the_whole(images, monkeypatch):
    (whole,) = load(images, config(), steps=1)
    monkeypatch.setattr(source_module, "_NUMBERS", 10**6)
    parted = make_loader(images, config(), patch_size=8, start_step=0, steps=1)
    (batch,) = parted
    assert isinstance(batch, RawBatch)
    assert batch.size == 7
    assert len(parts_of(batch.shapes, 2, 48)) > 2
    for name in PIXELS:
        assert levels(getattr(batch.to("cpu"), name), getattr(whole, name), config().views).max() < 2.1


def test_parts_cover_the_batch_and_fit():
    rng = np.random.default_rng(0)
    shapes = [tuple(row) for row in rng.integers(1, 1500, (200, 2)).tolist()]
    parts = parts_of(shapes, 10, 96)
    assert [first for first, _ in parts] + [200] == [0] + [end for _, end in parts]
    assert 1 < len(parts) < 100
    for first, end in parts:
        height, width = (max(shape[axis] for shape in shapes[first:end]) for axis in (0, 1))
        images = (
            3 * height * width
        )  # the padded images and what the first product makes of them are the largest
        assert (end - first) * (images + 3 * height * 10 * 96) <= source_module._NUMBERS
    assert parts_of([(30000, 30000)] * 2, 10, 96) == [(0, 1), (1, 2)]


def test_workers_send_no_more_than_the_views_show(images):
    (batch,) = make_loader(
        images, config(local_views=0, global_scale=(0.05, 0.06)), patch_size=8, start_step=0, steps=1
    )
    assert batch.pixels.numel() == sum(3 * h * w for h, w in batch.shapes)
    photos = [k for k, path in enumerate(batch.paths) if Path(path).suffix == ".jpg"]
    for k in photos:  # crops of about 260 pixels for views of 48: a quarter of that is sent
        assert max(batch.shapes[k]) < 901 / 4 + 1
        boxes = batch.table[k, :, :4]
        height, width = batch.shapes[k]
        assert boxes.amin(0)[:2].max() < 1
        assert width - boxes[:, 2].max() < 1
        assert height - boxes[:, 3].max() < 1
    assert batch.pixels.dtype == torch.uint8


def test_bad_files_are_passed_over_or_stop_it_as_in_workers(tmp_path):
    Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("nothing")
    index = ObjectIndex.open(tmp_path)
    ours, theirs = (load(index, config(render), steps=1)[0] for render in ("device", "cpu"))
    assert ours.skipped == theirs.skipped
    assert len(ours.skipped) >= 3
    batch = next(iter(make_loader(index, config(), patch_size=8, start_step=0, steps=1)))
    assert batch.skipped == ours.skipped
    with pytest.raises(DataError, match=r"b\.png: is not an image"):
        load(index, config(strict=True), steps=1)


def test_rendering_leaves_the_batch_as_it_is(images):
    (batch,) = make_loader(images, config(), patch_size=8, start_step=0, steps=1)
    before = copy.deepcopy(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = batch.to("cpu")
    assert_equal(first, batch.to(torch.device("cpu")))
    assert batch.pixels.equal(before.pixels)
    assert batch.table.equal(before.table)
    assert not first.global_views.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_renders_what_the_cpu_does(images):
    settings = replace(config(workers=1), train=replace(config().train, device="cuda"))
    (batch,) = make_loader(images, settings, patch_size=8, start_step=0, steps=1)
    assert batch.pixels.is_pinned()
    here, there = batch.to("cpu"), batch.to("cuda")
    for name in PIXELS:
        difference = levels(getattr(here, name), getattr(there, name).cpu(), settings.views)
        assert difference.max() < 5.1
        assert difference.mean() < 0.03
