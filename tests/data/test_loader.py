"""Batches against explicit loops; the same batches whatever the workers, the start and the ranks; unusable
files.
"""

import multiprocessing
import os
import signal
from collections import Counter
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
from odis.data.loader import BatchPlan, ViewDataset, collate, make_loader, sample_order
from odis.errors import DataError
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import Batch, Crop, ImageObjects, Object, Sample, View

VIEWS = ViewsConfig(global_size=16, local_size=8, local_views=3, local_scale=(0.05, 0.25))


def config(
    batch_size=4, accumulate=1, strict=False, workers=0, cache=False, views=VIEWS, **objects
) -> PretrainConfig:
    return PretrainConfig(
        strict=strict,
        objects=ObjectsConfig(**({"per_image": 3} | objects)),
        views=views,
        prediction=PredictionConfig(probability=0.7, ratio=0.5, spread=0.3),
        train=TrainConfig(batch_size=batch_size, accumulate=accumulate, seed=5, device="cpu"),
        loader=LoaderConfig(workers=workers, cache=cache),
    )


def save(path: Path, seed: int, width: int = 24, height: int = 20) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
        path
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> ObjectIndex:
    """11 images with none to five objects, some with masks."""
    folder = tmp_path_factory.mktemp("images")
    rows, rng = [], np.random.default_rng(0)
    for i in range(11):
        save(folder / f"{i:02}.png", i)
        corners = rng.uniform(0, 12, (i % 6, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(2, 8, (i % 6, 2))], axis=1)
        masks = [rle.encode(rng.random((20, 24)) < 0.4) if i % 2 else None for _ in boxes]
        rows.append(
            ImageObjects(
                f"{i:02}.png", 24, 20, tuple(Object(tuple(b), m) for b, m in zip(boxes.tolist(), masks))
            )
        )
    write_index(folder / "index.parquet", rows, root=folder, provenance="annotated", classes=[])
    return ObjectIndex.open(folder / "index.parquet")


def load(index, settings, start_step=0, steps=5, rank=0, world_size=1) -> list[Batch]:
    return list(
        make_loader(
            index,
            settings,
            patch_size=4,
            start_step=start_step,
            steps=steps,
            rank=rank,
            world_size=world_size,
        )
    )


def assert_equal(a: Batch, b: Batch) -> None:
    for field in fields(Batch):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert one.equal(other) if isinstance(one, torch.Tensor) else one == other, field.name


def test_every_epoch_is_a_permutation_and_batches_cross_its_border():
    order = sample_order(7, 3, 0, 7 * 40)
    for epoch in range(40):
        part = order[7 * epoch : 7 * epoch + 7]
        assert {e for e, _ in part} == {epoch}
        assert sorted(i for _, i in part) == list(range(7))
    assert sample_order(7, 3, 5, 4) == order[5:9]
    assert len({tuple(i for _, i in order[7 * e : 7 * e + 7]) for e in range(40)}) > 35
    assert sample_order(7, 4, 0, 70) != order[:70]
    assert sample_order(1, 0, 5, 3) == [(5, 0), (6, 0), (7, 0)]
    first = Counter(order[7 * e][1] for e in range(40))
    assert max(first.values()) < 15


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_take_contiguous_parts_of_each_micro_batch(accumulate, world_size):
    settings = config(batch_size=24, accumulate=accumulate)
    plans = [
        BatchPlan(10, settings, start_step=2, steps=5, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    assert [len(p) for p in plans] == [3 * accumulate] * world_size
    parts = [list(p) for p in plans]
    got = [key for micro_batch in zip(*parts) for part in micro_batch for key in part]
    assert got == sample_order(10, 5, 2 * 24, 3 * 24)
    assert {len(part) for p in parts for part in p} == {24 // accumulate // world_size}
    assert len(BatchPlan(10, settings, start_step=5, steps=5)) == 0


def test_collating_equals_the_explicit_loops():
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    views, local_views, images, slots = 3, 2, 4, 3

    def view(size: int, patches: int) -> View:
        pixels = torch.rand(3, size, size, generator=generator)
        return View(
            pixels,
            Crop(0, 0, 1, 1),
            torch.from_numpy(rng.random((slots, patches)) < 0.5),
            torch.from_numpy(rng.random(slots) < 0.6),
        )

    samples = [
        Sample(
            [view(8, 4) for _ in range(views)],
            [view(4, 1) for _ in range(local_views)],
            torch.from_numpy((rng.random((views, 4)) < 0.5) & (rng.random((views, 1)) < 0.7)),
            index=10 + b,
            path=str(b),
        )
        for b in range(images)
    ]
    batch = collate(samples)
    assert batch.paths == ["0", "1", "2", "3"]
    assert batch.indices == [10, 11, 12, 13]
    teacher, student_global, student_local, pairs, hidden, weight = [], [], [], 0, [], []
    for b, sample in enumerate(samples):
        for g, one in enumerate(sample.global_views):
            assert batch.global_views[g * images + b].equal(one.pixels)
            assert batch.global_masks[g * images + b].equal(one.object_masks)
            assert batch.global_visible[g, b].equal(one.visible)
            assert batch.prediction_masks[g * images + b].equal(sample.prediction_masks[g])
            for p in range(4):
                if sample.prediction_masks[g, p]:
                    hidden.append((g * images + b) * 4 + p)
                    weight.append((hidden[-1], 1 / int(sample.prediction_masks[g].sum())))
        for v, one in enumerate(sample.local_views):
            assert batch.local_views[v * images + b].equal(one.pixels)
            assert batch.local_masks[v * images + b].equal(one.object_masks)
            assert batch.local_visible[v, b].equal(one.visible)
        everywhere = [(True, g, one) for g, one in enumerate(sample.global_views)]
        everywhere += [(False, v, one) for v, one in enumerate(sample.local_views)]
        for q in range(slots):
            teacher += [
                (g * images + b) * slots + q for g, one in enumerate(sample.global_views) if one.visible[q]
            ]
            for is_global, v, one in everywhere:
                teachers = [
                    u
                    for u, other in enumerate(sample.global_views)
                    if other.visible[q] and not (is_global and u == v)
                ]
                if one.visible[q] and teachers:
                    (student_global if is_global else student_local).append((v * images + b) * slots + q)
                    pairs += len(teachers)
    assert batch.teacher_rows.tolist() == sorted(teacher)
    assert batch.student_global_rows.tolist() == sorted(student_global)
    assert batch.student_local_rows.tolist() == sorted(student_local)
    assert 0 < len(student_global) < len(teacher)
    assert batch.pairs.item() == pairs
    assert batch.hidden.tolist() == sorted(hidden)
    assert batch.hidden_weight.tolist() == pytest.approx([w for _, w in sorted(weight)])
    assert batch.hidden_weight.dtype == batch.pairs.dtype == torch.float32
    assert batch.hidden.dtype == batch.teacher_rows.dtype == torch.int64


def test_a_batch_has_the_shapes_it_promises(index):
    batch = load(index, config())[0]
    assert batch.size == 4
    assert batch.global_views.shape == (8, 3, 16, 16)
    assert batch.local_views.shape == (12, 3, 8, 8)
    assert batch.global_masks.shape == (8, 3, 16)
    assert batch.local_masks.shape == (12, 3, 4)
    assert batch.global_visible.shape == (2, 4, 3)
    assert batch.local_visible.shape == (3, 4, 3)
    assert batch.prediction_masks.shape == (8, 16)
    assert batch.global_views.is_contiguous()
    assert batch.global_masks[~batch.global_visible.flatten(0, 1)].all()
    alone = load(index, config(views=replace(VIEWS, local_views=0)))[0]
    assert alone.local_views.shape == (0, 3, 16, 16)
    assert alone.local_visible.shape == (0, 4, 3)
    assert len(alone.student_local_rows) == 0


@pytest.mark.parametrize("cache", [False, True])
def test_batches_do_not_depend_on_workers_start_or_cache(index, cache):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = load(index, config(), steps=6)
    assert torch.get_rng_state().equal(state)
    assert len(whole) == 6
    assert not whole[0].global_views.equal(whole[1].global_views)
    for workers in (1, 2):
        for start in (0, 4):
            for a, b in zip(
                whole[start:],
                load(index, config(workers=workers, cache=cache), start_step=start, steps=6),
                strict=True,
            ):
                assert_equal(a, b)


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (4, 1), (2, 2)])
def test_ranks_make_the_batch_of_one_rank_together(index, world_size, accumulate):
    whole = load(index, config(batch_size=8, accumulate=accumulate), steps=2)
    parts = [
        load(index, config(batch_size=8, accumulate=accumulate), steps=2, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    for batch, shares in zip(whole, zip(*parts), strict=True):
        assert [p for share in shares for p in share.paths] == batch.paths
        size = batch.size // world_size
        for r, share in enumerate(shares):
            images = slice(r * size, (r + 1) * size)
            for name in ("global_views", "local_views", "global_masks", "local_masks", "prediction_masks"):
                ours, theirs = getattr(share, name), getattr(batch, name)
                assert ours.unflatten(0, (-1, size)).equal(
                    theirs.unflatten(0, (-1, batch.size))[:, images]
                ), name
            assert share.global_visible.equal(batch.global_visible[:, images])
            assert share.local_visible.equal(batch.local_visible[:, images])
        assert sum(share.pairs for share in shares) == batch.pairs


def test_the_same_image_gives_other_views_in_another_epoch_and_another_seed(index):
    dataset = ViewDataset(index, config(), 4)
    other = ViewDataset(index, replace(config(), train=replace(config().train, seed=6)), 4)
    one, same, later, reseeded = dataset[2, 3], dataset[2, 3], dataset[3, 3], other[2, 3]
    assert one.global_views[0].pixels.equal(same.global_views[0].pixels)
    assert not one.global_views[0].pixels.equal(later.global_views[0].pixels)
    assert not one.global_views[0].pixels.equal(reseeded.global_views[0].pixels)


def odd_images(folder: Path) -> None:
    """Images of every kind that trains, a truncated one, an empty file and one that is none."""
    pixels = np.random.default_rng(1).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    Image.fromarray(pixels[:1, :1, :3]).save(folder / "a_single_pixel.png")
    Image.fromarray(pixels[..., 0]).save(folder / "b_grey.jpg")
    Image.fromarray(pixels, mode="CMYK").save(folder / "c_cmyk.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "d_16_bit.png")
    Image.fromarray(pixels, mode="RGBA").save(folder / "e_rgba.png")
    save(folder / "f_truncated.jpg", 2, 200, 200)
    whole = (folder / "f_truncated.jpg").read_bytes()
    (folder / "f_truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "g_empty.png").touch()
    (folder / "h_text.png").write_text("not an image")


def test_images_of_every_kind_train_and_broken_ones_are_passed_over(tmp_path):
    odd_images(tmp_path)
    batches = load(ObjectIndex.open(tmp_path), config(batch_size=8), steps=1)
    names = [Path(p).name for p in batches[0].paths]
    assert set(names) == {"a_single_pixel.png", "b_grey.jpg", "c_cmyk.jpg", "d_16_bit.png", "e_rgba.png"}
    assert (
        names.count("a_single_pixel.png") == 4
    )  # itself, and in place of the three that precede it in a circle
    assert {Path(s.what).name for s in batches[0].skipped} == {"f_truncated.jpg", "g_empty.png", "h_text.png"}
    assert all(s.why and s.what not in s.why for s in batches[0].skipped)
    assert torch.isfinite(batches[0].global_views).all()


def bad_objects(folder: Path) -> ObjectIndex:
    save(folder / "a.png", 0)
    save(folder / "b.png", 1)
    nan = float("nan")
    boxes = [(5.0, 5.0, 5.0, 9.0), (9.0, 9.0, 4.0, 4.0), (30.0, 0.0, 40.0, 9.0), (nan, 0.0, 5.0, 5.0)]
    objects = [Object(box) for box in boxes]
    objects += [Object((1.0, 1.0, 9.0, 9.0), rle.encode(np.ones((7, 7)))), Object((2.0, 3.0, 20.0, 18.0))]
    rows = [
        ImageObjects("a.png", 24, 20, tuple(objects)),
        ImageObjects("b.png", 25, 20, (Object((0.0, 0.0, 5.0, 5.0)),)),
    ]
    write_index(folder / "index.parquet", rows, root=folder, provenance="annotated", classes=[])
    return ObjectIndex.open(folder / "index.parquet")


def test_bad_objects_are_named_and_left_out(tmp_path):
    dataset = ViewDataset(bad_objects(tmp_path), config(per_image=4), 4)
    made = dataset[0, 0]
    assert [s.what for s in made.skipped] == [f"{tmp_path / 'a.png'}, object {k}" for k in range(5)]
    for word, item in zip(("empty", "inverted", "outside", "finite", "mask has 49 pixels"), made.skipped):
        assert word in item.why
    assert max(int(view.visible.sum()) for view in made.global_views) == 1
    # The size of the image is not the row's: the next row stands in for it.
    stand_in = dataset[0, 1]
    assert stand_in.index == 0
    assert stand_in.skipped[0].what == str(tmp_path / "b.png")
    assert "24 x 20" in stand_in.skipped[0].why
    # It stands in with the views of the sample it replaces, not with a copy of its own.
    assert not stand_in.global_views[0].pixels.equal(made.global_views[0].pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_stops_at_the_first_bad_file_or_object_in_one_line(tmp_path, workers):
    index = bad_objects(tmp_path)
    dataset = ViewDataset(index, config(strict=True), 4)
    with pytest.raises(DataError, match=r"a\.png, object 0: .*empty"):
        dataset[0, 0]
    with pytest.raises(DataError, match=r"b\.png: is 24 x 20"):
        dataset[0, 1]
    with pytest.raises(DataError) as caught:
        load(index, config(strict=True, workers=workers))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_usable_image_is_an_error_that_says_so(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of its 2 images can be used; .*\.png"):
        load(ObjectIndex.open(tmp_path), config())


def test_the_cache_reads_each_image_once(index, monkeypatch):
    from odis.data import loader

    read, decode = Counter(), loader.decode

    def counted(path, size, shrink):
        read[path] += 1
        return decode(path, size, shrink)

    monkeypatch.setattr(loader, "decode", counted)
    load(index, config(cache=True), steps=9)
    assert len(read) == 11
    assert set(read.values()) == {1}
    load(index, config(cache=False), steps=9)
    assert max(read.values()) > 2


def test_workers_share_what_one_of_them_read(index, monkeypatch, tmp_path):
    from odis.data import loader

    log, decode = tmp_path / "read", loader.decode

    def counted(path, size, shrink):
        with log.open("a") as file:
            file.write(f"{path}\n")
        return decode(path, size, shrink)

    monkeypatch.setattr(loader, "decode", counted)
    cached = load(
        index, config(cache=True, workers=2), steps=22
    )  # eight epochs: each worker meets each image
    read = Counter(log.read_text().split())
    assert len(read) == 11
    assert sum(read.values()) < 16  # two that meet an image at the same moment both read it
    for a, b in zip(cached, load(index, config(), steps=22), strict=True):
        assert_equal(a, b)


class Deadly(ObjectIndex):
    """Kills the process that reads row 3."""

    def __getitem__(self, i: int) -> ImageObjects:
        if i == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)


def test_a_killed_worker_is_an_error_not_a_hang(index):
    index = ObjectIndex.open(index.path)
    index.__class__ = Deadly
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        load(index, config(workers=2), steps=6)


def test_workers_leave_ctrl_c_to_the_training_process(index):
    others = set(multiprocessing.active_children())  # of another test's loader, which may not ignore it
    batches = iter(make_loader(index, config(workers=1), patch_size=4, start_step=0, steps=50))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, signal.SIGINT)
    assert len([next(batches) for _ in range(20)]) == 20
