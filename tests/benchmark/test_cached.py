"""Reads from files, counted in the order that training takes; batches of images in memory are those that
files would give.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from odis.benchmark.cached import PartialIndex, cached_batches, keeps_in_memory, reads, uncached
from odis.config.options import load_recipe
from odis.data.loader import BatchPlan, make_loader
from odis.objects.index import ObjectIndex


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize(("epochs", "span"), [(0.5, None), (1, None), (3.25, None), (4.5, 2)])
def test_reads_are_those_of_the_order_of_training(workers: int, epochs: float, span: int | None):
    images, batch = 600, 6
    config = load_recipe("debug", data="x", train__batch_size=batch)
    steps = round(epochs * images / batch)
    held: set[tuple[int, int]] = set()
    read = 0
    for k, keys in enumerate(BatchPlan(images, config, start_step=0, steps=steps)):
        if span and k % (span * images // batch) == 0:
            held.clear()
        for _, row in keys:
            read += (k % max(1, workers), row) not in held
            held.add((k % max(1, workers), row))
    expected = reads(images, steps * batch, workers, span * images if span else None)
    assert expected == pytest.approx(read, rel=0.05 if workers > 1 else 1e-9)


def test_a_subset_is_an_index_of_its_rows(index: ObjectIndex):
    subset = PartialIndex(index, np.array([7, 3, 11]))
    assert len(subset) == 3
    assert [subset[i] for i in range(3)] == [index[i] for i in (7, 3, 11)]
    assert subset[-1] == index[11]
    assert [subset.image_path(i) for i in range(3)] == [index.image_path(i) for i in (7, 3, 11)]
    assert not subset.is_folder
    with pytest.raises(IndexError):
        subset[3]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_memory_are_not_read_again(index: ObjectIndex, tmp_path: Path, workers: int):
    shutil.copytree(index.root, tmp_path / "images")
    moved = ObjectIndex.open(index.path, root=tmp_path / "images")
    config = load_recipe(
        "debug", data=index.path, loader__keep=["memory"], loader__workers=workers, train__batch_size=5
    )
    subset = PartialIndex(moved, np.random.default_rng(0).permutation(len(index)))
    expected = list(make_loader(subset, uncached(config), patch_size=8, start_step=4, steps=8))
    batches = cached_batches(config, moved, 8, 1e9, start_step=4)
    shutil.rmtree(tmp_path / "images")
    for batch in expected:
        taken = next(batches)
        assert torch.equal(taken.global_views, batch.global_views)
        assert taken.indices == batch.indices
        assert not taken.skipped


def test_as_many_images_as_there_is_time_for(index: ObjectIndex):
    config = load_recipe(
        "debug", data=index.path, loader__keep=["memory"], loader__workers=0, train__batch_size=4
    )
    batches = cached_batches(config, index, 8, 0.0)
    assert {i for _ in range(3) for i in next(batches).indices} == {0, 1, 2, 3}


def test_a_run_without_its_caches_keeps_its_copies_on_disk():
    config = load_recipe("debug", data="x", loader__keep=["device:1GiB", "memory:2GiB", "disk:copies"])
    config = replace(config, loader=replace(config.loader, render="device"))
    assert keeps_in_memory(config)
    assert uncached(config).loader.keep == ["disk:copies"]
    assert not keeps_in_memory(uncached(config))
