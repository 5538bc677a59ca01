"""Rows to Arrow: by flat arrays what Arrow makes of nested lists."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.objects.table import SCHEMA, to_batch
from odis.types import ImageObjects, Object

number = st.floats(allow_nan=False)
objects = st.builds(
    Object,
    st.tuples(number, number, number, number),
    st.none() | st.binary(max_size=3),
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.none() | number,
)
names = st.text(st.characters(codec="utf-8"), max_size=4)
sides = st.integers(1, 9)
rows = st.lists(
    st.builds(ImageObjects, names, sides, sides, st.lists(objects, max_size=4).map(tuple)), max_size=6
)


def nested(given_rows: list[ImageObjects]) -> pa.RecordBatch:
    def optional(name: str) -> list[list | None]:
        lists = ([getattr(o, name) for o in row.objects] for row in given_rows)
        return [values if any(v is not None for v in values) else None for values in lists]

    columns: list[list] = [
        [row.image for row in given_rows],
        [row.width for row in given_rows],
        [row.height for row in given_rows],
        [[o.box for o in row.objects] for row in given_rows],
        optional("mask"),
        optional("label"),
        optional("score"),
    ]
    return pa.record_batch([pa.array(c, type=f.type) for c, f in zip(columns, SCHEMA)], schema=SCHEMA)


@settings(max_examples=100, deadline=None)
@given(rows)
def test_a_batch_is_what_arrow_makes_of_lists(given_rows: list[ImageObjects]) -> None:
    batch = to_batch(given_rows)
    batch.validate(full=True)
    assert batch.schema.equals(SCHEMA)
    assert batch.equals(nested(given_rows))


def test_a_box_of_other_than_four_numbers_is_refused() -> None:
    three_and_five = (Object((0.0, 0.0, 1.0)), Object((0.0, 0.0, 1.0, 1.0, 2.0)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="four numbers"):
        to_batch([ImageObjects("a", 1, 1, three_and_five)])
