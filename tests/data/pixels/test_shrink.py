"""How far an image may shrink: never further than a view allows, and as far as all of them do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.config.training import ViewsConfig
from odis.data.geometry.crops import propose_crops
from odis.data.pixels.shrink import are_large, guaranteed_shrink, needed_shrink
from odis.objects.index import ObjectIndex, write_index
from odis.types import Crop, ImageObjects


@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([1, 32, 96, 224])),
        min_size=1,
        max_size=5,
    )
)
def test_the_shrink_is_the_largest_that_enlarges_no_view(sides):
    crops, sizes = [Crop(7, 3, 7 + w, 3 + h) for w, h, _ in sides], [size for *_, size in sides]
    shrink = needed_shrink(6000, 6000, crops, sizes)

    def allowed(k: int) -> bool:
        return all(crop.width / k >= size and crop.height / k >= size for crop, size in zip(crops, sizes))

    assert shrink == max([1] + [2**k for k in range(1, 14) if allowed(2**k)])
    assert needed_shrink(1024, 1023, crops, sizes) == 1


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([(0.25, 1.0), (0.05, 0.25), (0.9, 1.0)]),
    st.sampled_from([(0.75, 4 / 3), (0.5, 0.6), (1.5, 3.0)]), st.integers(0, 10**6),
)  # fmt: skip
def test_no_crop_needs_more_than_a_copy_has(width, height, scale, ratio, seed):
    views = ViewsConfig(global_scale=scale, ratio=ratio, local_views=0)
    sure = guaranteed_shrink(width, height, views)
    crops = propose_crops(np.random.default_rng(seed), width, height, (50,), scale, ratio)
    boxes = [Crop(*map(int, crop)) for crop in crops]
    assert sure == 1 or needed_shrink(width, height, boxes, [views.global_size] * 50) >= sure
    assert sure & (sure - 1) == 0


def test_how_small_copies_are():
    views = ViewsConfig()
    assert guaranteed_shrink(6000, 4000, views) == 8
    assert guaranteed_shrink(3264, 2448, views) == 4
    assert guaranteed_shrink(1280, 1024, views) == 2
    assert guaranteed_shrink(1023, 1024, views) == 1
    assert guaranteed_shrink(6000, 4000, replace(views, global_size=448)) == 4
    assert guaranteed_shrink(6000, 4000, replace(views, local_scale=(0.001, 0.25))) == 1
    assert guaranteed_shrink(6000, 4000, replace(views, local_scale=(0.001, 0.25), local_views=0)) == 8
    assert guaranteed_shrink(30000, 100, views) == 1  # no view of it is large


@pytest.mark.parametrize(("sizes", "expected"), [
    ([(6000, 4000)], True), ([(3600, 2700)], True), ([(1600, 1200)], False), ([(500, 375)] * 9, False),
    ([(6000, 4000)] * 3 + [(500, 375)] * 2, True), ([(6000, 4000)] * 2 + [(500, 375)] * 2, False),
    ([(500, 375)] * 400 + [(6000, 4000)] * 600, True), ([(500, 375)] * 600 + [(6000, 4000)] * 400, False),
], ids=str)  # fmt: skip
def test_whether_images_are_large_is_seen_of_some(
    tmp_path: Path, sizes: list[tuple[int, int]], expected: bool
):
    rows = [ImageObjects(f"{k}.jpg", *size) for k, size in enumerate(sizes)]
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=[])
    assert are_large(ObjectIndex.open(tmp_path / "i.parquet"), ViewsConfig()) is expected


def test_files_that_are_no_images_are_not_large(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    assert not are_large(ObjectIndex.open(tmp_path), ViewsConfig())
    Image.new("RGB", (1404, 1001)).save(tmp_path / "b.jpg")
    assert are_large(ObjectIndex.open(tmp_path), ViewsConfig(global_size=32, local_size=16))
