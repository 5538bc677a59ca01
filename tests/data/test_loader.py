"""The same batches whatever the workers, the start and the ranks; what becomes of workers."""

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
from odis.data import workers
from odis.data.loader import BatchPlan, make_loader, sample_order
from odis.data.pixels import reader
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import Batch, ImageObjects, Object

VIEWS = ViewsConfig(global_size=16, local_size=8, local_views=3, local_scale=(0.05, 0.25))


def config(
    batch_size=4, accumulate=1, strict=False, workers=0, keep=(), views=VIEWS, **objects
) -> PretrainConfig:
    return PretrainConfig(
        strict=strict,
        objects=ObjectsConfig(**({"per_image": 3} | objects)),
        views=views,
        prediction=PredictionConfig(probability=0.7, ratio=0.5, spread=0.3),
        train=TrainConfig(batch_size=batch_size, accumulate=accumulate, seed=5, device="cpu"),
        loader=LoaderConfig(workers=workers, keep=list(keep)),
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


@pytest.mark.parametrize("keep", [[], ["memory"]], ids=str)
def test_batches_do_not_depend_on_workers_start_or_memory(index, keep):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = load(index, config(), steps=6)
    assert torch.get_rng_state().equal(state)
    assert len(whole) == 6
    assert not whole[0].global_views.equal(whole[1].global_views)
    for count in (1, 2):
        for start in (0, 4):
            for a, b in zip(
                whole[start:],
                load(index, config(workers=count, keep=keep), start_step=start, steps=6),
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


def test_workers_share_what_one_of_them_read(index, monkeypatch, tmp_path):
    log, decode = tmp_path / "read", reader.decode

    def counted(path, size, shrink, *more):
        with log.open("a") as file:
            file.write(f"{path}\n")
        return decode(path, size, shrink, *more)

    monkeypatch.setattr(reader, "decode", counted)
    cached = load(
        index, config(keep=["memory"], workers=2), steps=22
    )  # eight epochs: each worker meets each image
    read = Counter(log.read_text().split())
    assert len(read) == 11
    assert sum(read.values()) < 16  # two that meet an image at the same moment both read it
    for a, b in zip(cached, load(index, config(), steps=22), strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize("count", [0, 1])
def test_workers_keep_the_memory_they_free(index, monkeypatch, tmp_path, count):
    """So that pages are not cleared anew for every image; the training process decides for itself."""
    monkeypatch.setattr(workers, "keep_freed_memory", (tmp_path / "called").touch)
    load(index, config(workers=count), steps=1)
    assert (tmp_path / "called").exists() == bool(count)


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
