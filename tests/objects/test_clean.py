"""Checks of many boxes and sizes at once say what those of one say; sizes that nobody measured; sizes as they
are stored.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.objects import rle
from odis.objects.clean import (
    ANY_LABEL,
    Mended,
    SkippedObject,
    keep_usable,
    object_problem,
    possible_repeats,
    possible_sizes,
    sound_boxes,
    usable_objects,
    usable_size,
    without_repeats,
)
from odis.types import ImageObjects, Object, Skipped

edges = st.sampled_from([0.0, 8.0, 6.0, -1.0, 1e-9, 2.0**31, -(2.0**31), float("nan"), float("inf")])
numbers = edges | st.floats(-20, 20)
boxes = st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=20)


@given(boxes, st.integers(1, 12), st.integers(1, 12))
def test_boxes_are_sound_together_if_each_has_no_problem(
    many: list[tuple[float, float, float, float]], width: int, height: int
) -> None:
    sizes = np.tile([float(width), float(height)], (len(many), 1))
    found = sound_boxes(np.array(many, np.float64).reshape(-1, 4), *sizes.T)
    assert found.tolist() == [object_problem(Object(box), width, height) is None for box in many]


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


labels = st.none() | st.integers(-1, 3)
masks = st.none() | st.integers(0, 3).map(lambda n: rle.encode(np.arange(48).reshape(6, 8) < n))


@settings(deadline=None)  # masks are encoded by a loop that is compiled first
@given(st.lists(st.builds(Object, st.tuples(numbers, numbers, numbers, numbers), masks, labels), max_size=6))
def test_usable_objects_are_those_without_a_problem(items: list[Object]) -> None:
    row = ImageObjects("a.png", 8, 6, tuple(items))
    problems = {k: why for k, item in enumerate(items) if (why := object_problem(item, 8, 6)) is not None}
    usable = usable_objects(row, 2)
    assert usable.problems == problems
    assert usable.numbers == [k for k in range(len(items)) if k not in problems]
    odd = {k for k in usable.numbers if items[k].label not in (None, 0, 1)}
    assert usable.mended.keys() == odd
    assert usable.objects == tuple(
        replace(items[k], label=None) if k in odd else items[k] for k in usable.numbers
    )
    assert (usable.row.image, usable.row.width, usable.row.height) == ("a.png", 8, 6)
    named = [SkippedObject(f"x/a.png, object {k}", why) for k, why in problems.items()]
    assert usable.skipped("x/a.png") == named
    skipped: list[Skipped] = []
    called = ((f"x/a.png, object {k}", item) for k, item in enumerate(items))
    kept = keep_usable(called, (8, 6), 2, skipped.append)
    assert list(kept) == [one for k, one in enumerate(usable.objects) if one not in usable.objects[:k]]
    assert skipped[: len(named)] == named
    left_out = [one for one in skipped if not isinstance(one, Mended)]
    assert len(kept) + len(left_out) == len(items)
    assert len(skipped) - len(left_out) == len(odd)


def test_labels_and_masks_are_looked_at_unless_told_otherwise() -> None:
    broken = ImageObjects("a", 8, 6, (Object((0, 0, 4, 4), b"11"), Object((0, 0, 4, 4), label=2**31 - 1)))
    usable = usable_objects(broken, 2)
    assert (list(usable.problems), list(usable.mended)) == ([0], [1])
    assert usable.mended[1] == "has label 2147483647, but there are 2 classes: used without label"
    assert usable.objects == (Object((0, 0, 4, 4)),)
    assert usable_objects(broken, ANY_LABEL).objects == broken.objects[1:]
    assert usable_objects(broken, 2, masks_are_sound=True).problems == {}


few = st.sampled_from([0.0, -0.0, 1.0, 4.0])
alike = st.builds(
    Object,
    st.tuples(few, few, few, few),
    st.sampled_from([None, b"a", b"b"]),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([None, 0.5]),
)


@given(st.lists(alike, max_size=12))
def test_an_object_that_is_listed_again_is_named_behind_the_first(items: list[Object]) -> None:
    skipped: list[Skipped] = []
    names = [f"a.png, line {k}" for k in range(len(items))]
    kept = without_repeats(names, items, skipped.append)
    firsts = [items.index(item) for item in items]
    assert kept == [items[k] for k, first in enumerate(firsts) if first == k]
    assert skipped == [
        SkippedObject(names[k], f"is the same as line {first}")
        for k, first in enumerate(firsts)
        if first != k
    ]


def test_objects_can_be_told_apart_by_what_is_written() -> None:
    box = Object((0, 0, 4, 4))
    skipped: list[Skipped] = []
    called = [(f"annotation {k}", box) for k in range(3)]
    assert keep_usable(called, (8, 6), 1, skipped.append, written=["x", "y", "x"]) == (box, box)
    assert skipped == [SkippedObject("annotation 2", "is the same as annotation 0")]
    assert keep_usable(called, (8, 6), 1, skipped.append) == (box,)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 1), st.tuples(few, few, few, few))))
def test_no_repeat_is_missed_among_many(rows: list[tuple[int, int, tuple[float, ...]]]) -> None:
    images, labels = (np.array([row[k] for row in rows], np.int64) for k in (0, 1))
    boxes = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    assert possible_repeats(images, labels, boxes).tolist() == [
        rows.index(row) < k for k, row in enumerate(rows)
    ]
