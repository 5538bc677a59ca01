"""Checks of many boxes and sizes at once say what those of one say; sizes that nobody measured; sizes as they
are stored.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from odis.objects.clean import object_problem, possible_sizes, sound_boxes, usable_size
from odis.types import Object, Skipped

edges = st.sampled_from([0.0, 8.0, 6.0, -1.0, 1e-9, 2.0**31, -(2.0**31), float("nan"), float("inf")])
numbers = edges | st.floats(-20, 20)
boxes = st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=20)


@given(boxes, st.integers(1, 12), st.integers(1, 12))
def test_boxes_are_sound_together_if_each_has_no_problem(
    many: list[tuple[float, float, float, float]], width: int, height: int
) -> None:
    sizes = np.tile([float(width), float(height)], (len(many), 1))
    found = sound_boxes(np.array(many, np.float64).reshape(-1, 4), *sizes.T)
    assert found.tolist() == [object_problem(Object(box), width, height, 0) is None for box in many]


@given(
    st.lists(
        st.tuples(st.integers(-3, 3) | st.just(10**6) | st.just(10**6 + 1), st.integers(-1, 2)), min_size=1
    )
)
def test_a_trusted_size_is_possible(many: list[tuple[int, int]]) -> None:
    expected = [1 <= width <= 10**6 and 1 <= height <= 10**6 for width, height in many]
    assert possible_sizes(np.array(many, np.float64)).tolist() == expected
    for size, possible in zip(many, expected):
        skipped: list[Skipped] = []
        found = usable_size("gone.jpg", skipped.append, annotated=size, objects=["it"], trust=True)
        assert found == (size if possible else None)
        assert len(skipped) == (0 if possible else 2)
        if not possible:
            assert (
                skipped[0].why
                == f"is annotated as {size[0]} x {size[1]}; a side has from 1 to 1,000,000 pixels"
            )


@pytest.mark.parametrize("side", [10**30, 2**63])
def test_a_size_of_any_number_of_digits_is_refused(side: int) -> None:
    skipped: list[Skipped] = []
    assert usable_size("gone.jpg", skipped.append, annotated=(side, 1), trust=True) is None
    assert str(side) in skipped[0].why


def test_trust_without_a_stated_size_opens_the_image(tmp_path: Path) -> None:
    skipped: list[Skipped] = []
    assert usable_size(tmp_path / "gone.jpg", skipped.append, trust=True) is None
    assert skipped == [Skipped(str(tmp_path / "gone.jpg"), "no such file")]


def test_stored_sizes_are_not_turned(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("L", (8, 6)).save(tmp_path / "a.jpg", exif=turned)
    assert usable_size(tmp_path / "a.jpg", lambda _: None) == (6, 8)
    assert usable_size(tmp_path / "a.jpg", lambda _: None, stored=True) == (8, 6)
