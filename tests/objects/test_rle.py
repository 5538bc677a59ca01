import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from odis.errors import DataError
from odis.objects import rle

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@given(masks)
def test_decode_returns_what_was_encoded(mask: np.ndarray) -> None:
    counts = rle.encode(mask)
    height, width = mask.shape
    rle.check(counts, width, height)
    assert np.array_equal(rle.decode(counts, width, height), mask)
    assert rle.area(counts) == mask.sum() == coco_mask.area({"size": [height, width], "counts": counts})


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_runs_equal_those_that_were_compressed(runs: list[int]) -> None:
    counts = coco_mask.frPyObjects({"size": [sum(runs), 1], "counts": runs}, sum(runs), 1)["counts"]
    rle.check(counts, 1, sum(runs))
    assert rle.area(counts) == sum(runs[1::2])


@given(masks, st.integers(1, 60), st.integers(1, 60))
def test_a_mask_of_another_size_is_refused(mask: np.ndarray, width: int, height: int) -> None:
    counts = rle.encode(mask)
    if width * height == mask.size:
        rle.check(counts, width, height)
    else:
        with pytest.raises(DataError, match=f"{width} x {height}"):
            rle.decode(counts, width, height)


@given(st.binary(max_size=30))
def test_any_bytes_are_read_or_refused(counts: bytes) -> None:
    try:
        area = rle.area(counts)
    except DataError:
        return
    assert area >= 0


@pytest.mark.parametrize("counts", [b"", b"\x00", b"x", b"P", b"PPPPPPPPPPPP0", "ä".encode()])
def test_bytes_that_are_no_counts_are_refused(counts: bytes) -> None:
    with pytest.raises(DataError, match="not COCO"):
        rle.check(counts, 4, 4)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(masks.map(rle.encode) | st.binary(min_size=1, max_size=12), st.integers(0, 60)),
        min_size=1,
        max_size=6,
    )
)
def test_many_together_are_sound_if_each_is(many: list[tuple[bytes, int]]) -> None:
    def size(counts: bytes, other: int) -> int:
        """Pixels of the mask, or a few more, if these are counts at all."""
        try:
            return int(rle.run_lengths(counts).sum()) + other // 50
        except DataError:
            return other

    sizes = [size(*one) for one in many]

    def sound(counts: bytes, pixels: int) -> bool:
        try:
            return rle.check(counts, pixels, 1) > 0
        except DataError:
            return False

    found = rle.are_sound([counts for counts, _ in many], np.array(sizes, np.int64))
    assert found.tolist() == [sound(counts, pixels) for (counts, _), pixels in zip(many, sizes)]


def test_check_says_how_many_pixels_there_are() -> None:
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:3, 2:6] = True
    assert rle.check(rle.encode(mask), 7, 5) == 8
