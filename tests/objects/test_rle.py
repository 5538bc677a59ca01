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


def compressed(runs: list[int]) -> bytes:
    """COCO's counts of any run lengths, also of none that a mask has: written anew from its description."""
    out = bytearray()
    for k, run in enumerate(runs):
        left = run - runs[k - 2] if k > 2 else run
        while True:
            bits, left = left & 0x1F, left >> 5
            more = left != (-1 if bits & 0x10 else 0)
            out.append((bits | (0x20 if more else 0)) + 48)
            if not more:
                break
    return bytes(out)


def test_run_lengths_whose_sum_overflows_are_no_mask() -> None:
    """They add up to the image modulo 2^64; the decoder would write far outside of it."""
    assert compressed([3, 4, 5]) == rle.encode(np.repeat([0, 1, 0], [3, 4, 5]).reshape(4, 3, order="F"))
    pairs = 50_000
    step, rest = divmod(2**64 + 48, pairs * (pairs + 1))
    runs = [step * k for k in range(1, pairs + 1) for _ in range(2)]
    runs[-1] += rest
    assert sum(runs) == 2**64 + 8 * 6
    for counts in (compressed(runs), compressed([2**33, 1]), compressed([2**31, 1, 2**31])):
        with pytest.raises(DataError):
            rle.check(counts, 8, 6)
        assert not rle.are_sound([counts], np.array([48]))[0]
    whole = compressed([2**31 - 1, 1])
    assert rle.check(whole, 2**16, 2**15) == 1
    assert rle.are_sound([whole, compressed([2**31, 1]), whole], np.array([2**31] * 3)).tolist() == [
        True, False, True,
    ]  # fmt: skip


def test_an_outline_without_end_is_not_drawn() -> None:
    """32 kB of a zigzag from edge to edge would take gigabytes."""
    zigzag = [float(value) for k in range(4000) for value in (-3999 * (k % 2) + 7999, k)]
    with pytest.raises(DataError, match=r"polygon has an outline of .* and 2,097,152 are the most"):
        rle.from_polygons([zigzag], 4000, 4000)
    comb = [float(value) for k in range(400) for value in (100 + 3000 * (k % 2), 2 * k)]
    assert rle.area(rle.from_polygons([comb], 4000, 4000)) > 0
    with pytest.raises(DataError, match="outline"):
        rle.from_polygons([comb] * 9, 4000, 4000)
