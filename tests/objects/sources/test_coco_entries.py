"""Entries in COCO's form as tools write them: what is read, and what is named and left out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odis.objects.sources.coco_entries import (
    identifier,
    name_of,
    number,
    read_annotations,
    read_images,
    short,
    stated_size,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (-3, -3),
        (0, 0),
        (3.0, 3),
        ("3", 3),
        ("-3", -3),
        ("0", 0),
        ("03", "03"),  # as text it may be told from 3
        ("3.0", "3.0"),
        ("a", "a"),
        ("9" * 5000, "9" * 5000),
        (2**70, 2**70),
        (2.5, None),
        (float("nan"), None),
        (float("inf"), None),
        ("", None),
        (None, None),
        (True, None),
        ([1], None),
        ({}, None),
    ],
)
def test_what_something_is_called(value: Any, expected: int | str | None) -> None:
    found = identifier(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (8, 6, (8, 6)),
        (8.0, "6", (8, 6)),
        ("8.0", 6, (8, 6)),
        (10**400, 6, (10**400, 6)),
        (-2, 6, (-2, 6)),  # a size that no image has is said
        *((value, 6, (0, 0)) for value in (0, -1, 0.0, "-1", "", None, "wide", 8.5, [8], True)),
        (float("nan"), 6, (0, 0)),
        (float("inf"), 6, (0, 0)),
        (8, None, (0, 0)),
    ],
)
def test_a_size_is_stated_or_not(width: Any, height: Any, expected: tuple[int, int]) -> None:
    assert stated_size(width, height) == expected


@given(st.integers(-(10**17), 10**17) | st.floats(allow_nan=False))
def test_numbers_as_text_are_the_numbers(value: float) -> None:
    assert number(value) == value
    assert number(repr(value)) == value
    assert number(f" {value!r}") == value


@pytest.mark.parametrize("value", ["", "a", "1_0", "1,5", None, True, [1], {}, "0x10"])
def test_what_is_no_number(value: Any) -> None:
    assert number(value) is None


def gathered(read: Any, *arguments: Any) -> tuple[Any, list[tuple[str, str]]]:
    refused: list[tuple[str, str]] = []
    return read(*arguments, lambda what, why: refused.append((what, why))), refused


NO_CROWDS = [0, 0.0, False, None, "0", "0.0", "false", "False", " FALSE ", "no", "", "null", "None"]
CROWDS = [1, 1.0, True, "1", "1.0", "true", "True", "yes"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [*((v, False) for v in NO_CROWDS), *((v, True) for v in CROWDS)],
)
def test_a_crowd_is_one_in_any_spelling(value: Any, expected: bool) -> None:
    found, refused = gathered(
        read_annotations, [{"id": 1, "image_id": 2, "category_id": 3, "iscrowd": value}], 0
    )
    assert (found.crowds, refused) == ([expected], [])


@pytest.mark.parametrize("value", [2, -1, 0.5, float("nan"), "maybe", "2", [], [1], {}])
def test_what_may_be_a_crowd_or_not_is_named(value: Any) -> None:
    found, refused = gathered(
        read_annotations, [{"id": 7, "image_id": 2, "category_id": 3, "iscrowd": value}], 0
    )
    assert found.entries == []
    assert refused == [("annotation 7", f"has iscrowd {value!r}, must be 0 or 1")]


def test_each_annotation_that_names_no_image_is_named_and_the_others_are_kept() -> None:
    good = {"id": 5, "image_id": 2, "category_id": 3}
    entries = [
        good,
        None,
        {"image_id": "2", "category_id": "3"},
        {"id": "x", "category_id": 3},
        {"id": 6, "image_id": [2]},
        {"id": 7, "image_id": 2.0},
    ]
    found, refused = gathered(read_annotations, entries, 100)
    assert found.ids == [5, (102,), 7]
    assert (found.images, found.categories, found.crowds) == ([2, 2, 2], [3, 3, None], [False] * 3)
    assert found.entries == [entries[0], entries[2], entries[5]]
    assert refused == [
        ("entry 101 of annotations", "is None, must be an object with image_id, category_id and bbox"),
        ("annotation 'x'", "has no image_id, must be the id of an image"),
        ("annotation 6", "has image_id [2], must be the id of an image"),
    ]
    assert [name_of(one) for one in found.ids] == ["annotation 5", "entry 102 of annotations", "annotation 7"]


def test_each_image_without_a_number_is_named_and_the_others_are_kept() -> None:
    entries = [
        {"id": 1, "file_name": "a.jpg", "width": 8, "height": 6},
        "a.jpg",
        {"file_name": "b.jpg"},
        {"id": "3", "file_name": "c.jpg"},
        {"id": 4},
        {"id": 5, "file_name": 5, "width": 8, "height": 6},
    ]
    found, refused = gathered(read_images, entries, "file_name", 10)
    assert found.ids == [1, 3, 4, 5]
    assert found.rows == [(1, "a.jpg", 8, 6), (3, "c.jpg", 0, 0), (4, None, 0, 0), (5, None, 8, 6)]
    assert refused == [
        ("entry 11 of images", "is 'a.jpg', must be an object with id and file_name"),
        ("entry 12 of images", "has no id, must be a number or text"),
    ]


def test_where_an_address_is_missing_the_name_of_the_file_is_taken() -> None:
    found, _ = gathered(read_images, [{"id": 1, "file_name": "a.jpg"}], "coco_url", 0)
    assert found.rows == [(1, "a.jpg", 0, 0)]


def test_a_value_is_shown_in_one_short_line() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert short("a\nb") == r"'a\nb'"
    assert len(short("x" * 100)) == 60
    assert len(short(deep)) <= 60
