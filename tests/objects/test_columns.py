"""Objects in columns are the tuple of the objects they hold, for whoever asks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.objects.columns import Columns
from odis.objects.table import SCHEMA, to_batch
from odis.types import ImageObjects, Object

numbers = st.floats(-1e6, 1e6, width=32)
items = st.tuples(
    st.tuples(*[numbers] * 4), st.sampled_from([None, None, b"", b"abc"]), st.integers(0, 2**31 - 1)
)


def in_columns(drawn: list[tuple], masks: bool) -> Columns:
    boxes = np.array([box for box, _, _ in drawn], np.float64).reshape(-1, 4)
    return Columns(
        boxes,
        np.array([label for *_, label in drawn], np.int64),
        [mask for _, mask, _ in drawn] if masks else None,
    )


@settings(deadline=None)
@given(st.lists(items, max_size=6), st.booleans(), st.data())
def test_a_stretch_is_the_tuple_of_its_objects(drawn: list[tuple], masks: bool, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(drawn)))
    stop = data.draw(st.integers(start, len(drawn)))
    found = in_columns(drawn, masks).between(start, stop)
    wanted = tuple(Object(box, mask if masks else None, label) for box, mask, label in drawn[start:stop])
    assert found == wanted
    assert wanted == found
    assert (*found,) == wanted
    assert (len(found), bool(found), repr(found), hash(found)) == (
        len(wanted),
        bool(wanted),
        repr(wanted),
        hash(wanted),
    )
    assert found[1:] == wanted[1:]
    assert all(found[k] == wanted[k] for k in range(-len(wanted), len(wanted)))
    assert [type(value) for item in found for value in (*item.box, item.label)] == [
        float,
        float,
        float,
        float,
        int,
    ] * len(wanted)
    assert ImageObjects("a", 1, 1, found) == ImageObjects("a", 1, 1, wanted)
    assert repr(ImageObjects("a", 1, 1, found)) == repr(ImageObjects("a", 1, 1, wanted))
    if wanted:
        assert found != wanted[:-1]
        assert found != (*wanted[:-1], Object((0, 0, 0, 0), label=wanted[-1].label + 1))
        with pytest.raises(IndexError):
            found[len(wanted)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.lists(items, max_size=3), st.integers(0, 3)), max_size=8),
    st.lists(items, max_size=9),
    st.booleans(),
    st.booleans(),
)
def test_rows_in_columns_and_rows_of_tuples_make_the_same_batch(
    drawn: list[tuple], spare: list[tuple], masks: bool, backwards: bool
) -> None:
    """Each row is a tuple, or lies in one of two columns, which hold other objects too: before, between and
    behind.
    """
    kept: list[list[tuple]] = [[], []]
    places = []
    for objects, where in drawn:
        if where < 2:
            kept[where] += spare[: len(objects) % 2]
            places.append((where, len(kept[where]), len(kept[where]) + len(objects)))
            kept[where] += objects
        else:
            places.append((None, 0, 0))
    columns = [in_columns(part + spare, masks) for part in kept]
    rows, wanted = [], []
    for (objects, _), (where, start, stop) in zip(drawn, places):
        plain = tuple(Object(box, mask if masks else None, label) for box, mask, label in objects)
        wanted.append(ImageObjects(f"{len(rows)}.jpg", 5, 6, plain))
        rows.append(
            ImageObjects(
                f"{len(rows)}.jpg", 5, 6, plain if where is None else columns[where].between(start, stop)
            )
        )
    if backwards:
        rows, wanted = rows[::-1], wanted[::-1]
    assert to_batch(rows).equals(to_batch(wanted))
    assert to_batch(rows).schema == SCHEMA
    assert to_batch(wanted).column("boxes").to_pylist() == [
        [list(item.box) for item in row.objects] for row in wanted
    ]
    assert [labels or [] for labels in to_batch(rows).column("labels").to_pylist()] == [
        [o.label for o in row.objects] for row in wanted
    ]
