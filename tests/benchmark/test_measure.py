"""What is measured, held against simple counting where there is something to count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from odis.benchmark.measure import (
    batches_of,
    both_rate,
    input_rate,
    peak_gib,
    ratio,
    resampling,
    start,
    step_times,
    without_objects,
)
from odis.config.checks import check
from odis.config.options import load_recipe
from odis.config.recipes import recipe_names
from odis.config.training import PretrainConfig
from odis.machine.ranks import Ranks
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

CPU = Ranks(0, 1, torch.device("cpu"))


def debug(index: ObjectIndex, **changes) -> PretrainConfig:
    return load_recipe("debug", data=index.path, **{"loader__workers": 0, "train__batch_size": 2, **changes})


def test_rates_are_of_this_data(index: ObjectIndex):
    config = debug(index)
    run = start(config, index, CPU)
    assert run.step == run.schedules.total_steps // 2
    loading = input_rate(config, index, run.patch_size, 0.1)
    assert loading.images_per_second > 0
    assert loading.startup_seconds > 0
    taken = run.step
    both = both_rate(run, batches_of(config, index, run.patch_size), 0.2)
    assert run.step > taken + 2
    assert 0 < both.data_wait < 1, "without workers, loading is waiting"
    assert both.images_per_second < loading.images_per_second


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_has_a_baseline_without_objects(recipe: str):
    config = without_objects(load_recipe(recipe, data="x"))
    check(config)
    assert not config.objects.use
    assert config.model.object_tokens == "single"


def test_steps_are_taken_in_turns(index: ObjectIndex):
    config = debug(index)
    runs = {"this": start(config, index, CPU), "without": start(without_objects(config), index, CPU)}
    batches = {name: [next(batches_of(run.config, index, run.patch_size))] for name, run in runs.items()}
    times = step_times(runs, batches, 0.0)
    assert {name: len(seconds) for name, seconds in times.items()} == {"this": 3, "without": 3}
    assert all(run.step == run.schedules.total_steps // 2 + 4 for run in runs.values())
    assert min(times["this"] + times["without"]) > 0


def test_a_ratio_is_taken_within_rounds():
    slow = [1.0, 10.0, 100.0]  # a machine that becomes slower changes no ratio
    value, low, high = ratio([1.5 * s for s in slow], slow)
    assert (value, low, high) == pytest.approx((1.5, 1.5, 1.5))
    value, low, high = ratio([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert value == 2
    assert 1 <= low <= 2 <= high <= 3


def test_memory_is_that_of_a_process_of_its_own(index: ObjectIndex):
    held = np.ones(2**28, dtype=np.uint8)  # .25 GiB here, which are not there
    small = peak_gib(debug(index, model__depth=1), index, CPU)
    large = peak_gib(debug(index, model__depth=1, head__hidden=8192, head__prototypes=8192), index, CPU)
    assert small > 0.05
    assert small + 0.2 < large
    assert held[0] == 1


def objects_index(folder: Path, box: tuple[float, float, float, float] | None) -> ObjectIndex:
    objects = () if box is None else (Object(box),)
    write_index(
        folder / "i.parquet",
        [ImageObjects(f"{i}.png", 100, 100, objects) for i in range(150)],
        root=folder,
        provenance="x",
        classes=[],
    )
    return ObjectIndex.open(folder / "i.parquet")


def test_resampling_counts_candidates(tmp_path: Path):
    config = load_recipe("debug", data="x")
    assert resampling(config, objects_index(tmp_path, None)) is None
    free = replace(config, views=replace(config.views, object_crops=False))
    assert resampling(free, objects_index(tmp_path, (10, 10, 40, 40))) is None

    whole = resampling(config, objects_index(tmp_path, (0, 0, 100, 100)))
    assert (whole.first, whole.mean, whole.none) == (1.0, 1.0, 0.0)

    # Crops of the whole image's size cannot miss; crops of a hundredth of it hit a small object one time in
    # some.
    small = replace(
        config,
        views=replace(
            config.views, global_scale=(0.01, 0.01), ratio=(1.0, 1.0), min_coverage=1.0, candidates=5
        ),
    )
    found = resampling(small, objects_index(tmp_path, (40, 40, 44, 44)))
    p = (7 / 91) ** 2  # corners 34..40 of 0..90 on each axis
    q = 1 - p
    assert found.first == pytest.approx(p, abs=4 * (p * q / 300) ** 0.5)
    assert found.none == pytest.approx(q**5, abs=4 * (q**5 * (1 - q**5) / 300) ** 0.5)
    assert found.mean == pytest.approx(sum(q**k for k in range(5)), abs=0.15)
    assert found.microseconds > 0
    assert found.free_microseconds > 0


def test_resampling_counts_first_crops(tmp_path: Path):
    """Crops of 50 x 50 pixels, of which an object of 10 x 10 covers .04 if it is whole."""
    config = load_recipe(
        "debug",
        data="x",
        objects__target="first-crop",
        objects__first_crop_draws=3,
        views__global_scale=(0.25, 0.25),
        views__ratio=(1.0, 1.0),
        views__min_coverage=0.0,
        views__candidates=4,
    )
    index = objects_index(tmp_path, (70, 70, 80, 80))
    found = resampling(config, index)
    whole, any_pixel = (21 / 51) ** 2, (30 / 51) ** 2  # corners from 30, and from 21, of 0..50 on each axis
    none = (1 - whole) ** 3
    views = 2 - none  # an image without a target has no second view to count
    first = (whole + (1 - none) * any_pixel) / views
    never = (none + (1 - none) * (1 - any_pixel) ** 4) / views
    assert found.first == pytest.approx(first, abs=4 * (first * (1 - first) / 150) ** 0.5)
    assert found.none == pytest.approx(never, abs=4 * (never * (1 - never) / 150) ** 0.5)
    too_much = replace(config, objects=replace(config.objects, first_crop_coverage=0.05))
    assert resampling(too_much, index).none == 1
