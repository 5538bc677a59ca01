"""Which frame boxes are for: stated, the other one of a turned image, or one the wrong way round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odis.objects.sources.frames import SWAPPED, TURNED, clipped, fit, frame_of, in_doubt
from odis.types import Box

WIDE, HIGH = (60, 40), (40, 60)
SHOWN, STORED = (30.0, 45.0, 39.0, 58.0), (45.0, 30.0, 58.0, 39.0)  # a box near the end of each
EITHER = (1.0, 1.0, 9.0, 9.0)


@pytest.mark.parametrize(
    ("stated", "sizes", "boxes", "expected", "told"),
    [
        (WIDE, [WIDE], [STORED], WIDE, ""),
        (None, [WIDE], [STORED], WIDE, ""),
        (None, [WIDE], [], WIDE, ""),
        (HIGH, [WIDE], [STORED], WIDE, SWAPPED),
        (HIGH, [WIDE], [EITHER], WIDE, SWAPPED),
        (HIGH, [WIDE], [], WIDE, SWAPPED),
        (HIGH, [WIDE], [SHOWN], None, ""),  # the image was turned, and its boxes were not
        ((61, 40), [WIDE], [EITHER], None, ""),
        (WIDE, [HIGH, WIDE], [STORED], WIDE, ""),
        (HIGH, [HIGH, WIDE], [SHOWN], HIGH, ""),
        (WIDE, [HIGH, WIDE], [SHOWN], HIGH, TURNED),
        (HIGH, [HIGH, WIDE], [STORED], WIDE, TURNED),
        (WIDE, [HIGH, WIDE], [EITHER], WIDE, ""),
        (WIDE, [HIGH, WIDE], [SHOWN, STORED], WIDE, ""),  # neither holds both
        (None, [HIGH, WIDE], [STORED], WIDE, ""),
        (None, [HIGH, WIDE], [SHOWN], HIGH, ""),
        (None, [HIGH, WIDE], [EITHER], HIGH, ""),
        (WIDE, [WIDE], [SHOWN], WIDE, ""),  # a box over the edge: nothing to choose from
    ],
)
def test_the_frame_of_boxes(
    stated: tuple[int, int] | None,
    sizes: list[tuple[int, int]],
    boxes: list[Box],
    expected: tuple[int, int] | None,
    told: str,
) -> None:
    assert frame_of(stated, sizes, boxes) == (expected, told)


SIDE = st.integers(1, 50)


@given(st.tuples(SIDE, SIDE), st.lists(st.tuples(*[st.floats(-60, 60)] * 4), max_size=3), st.booleans())
def test_a_stated_size_is_passed_over_only_for_one_that_holds_all_boxes(
    size: tuple[int, int], boxes: list[Box], turned: bool
) -> None:
    sizes = [size, size[::-1]] if turned and size[0] != size[1] else [size]
    for stated in (size, size[::-1], None):
        found, _ = frame_of(stated, sizes, boxes)
        if found is not None and found != stated and stated is not None:
            assert fit(boxes, found)
        assert found is None or found in sizes
        if stated in sizes and not in_doubt(stated, boxes):
            assert found == stated


@pytest.mark.parametrize(
    ("box", "expected", "told"),
    [
        ((10, 10, 20, 20), (10, 10, 20, 20), []),
        ((-0.5, 0, 200.7, 100.9), (0, 0, 200, 100), []),  # rounding
        ((-1.5, 0, 20, 20), (0, 0, 20, 20), ["reaches 1.5 pixels over the edge: clipped"]),
        ((10, 10, 210, 104), (10, 10, 200, 100), ["reaches 10.0 pixels over the edge: clipped"]),
        ((10, 10, 211, 20), (10, 10, 211, 20), []),  # over by more than a twentieth
        ((300, 10, 310, 20), (300, 10, 310, 20), []),
    ],
)
def test_boxes_that_reach_a_little_over_the_edge_are_clipped(
    box: Box, expected: Box, told: list[str]
) -> None:
    changes: list[str] = []
    assert clipped(box, (200, 100), changes) == expected
    assert changes == told
    assert max(clipped(box, (200, 100), [], far=True)) <= 310
    assert clipped((10, 10, 500, 20), (200, 100), [], far=True) == (10, 10, 200, 20)
