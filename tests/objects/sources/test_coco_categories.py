"""Categories as classes: one for each name, none for a root that only names others."""

from pathlib import Path
from typing import Any

import pytest

from odis.errors import DataError
from odis.objects.clean import Unread
from odis.objects.sources.coco_categories import read_classes
from odis.types import Skipped

PATH = Path("a.json")


def category(number: Any, name: Any, parent: Any = "fish") -> dict[str, Any]:
    return {"id": number, "name": name, "supercategory": parent}


ROOT = category(0, "fish", "none")
SEVERAL = [ROOT, category(1, "cod"), category(2, "shark")]
TWINS = [ROOT, category(1, "fish"), category(2, "shark")]


@pytest.mark.parametrize(
    ("entries", "used", "labels", "classes", "why"),
    [
        ([category(9, "b"), category(2, "a")], {2}, {2: 0, 9: 1}, ["a", "b"], []),
        ([], {1}, {}, [], []),
        (SEVERAL, {1}, {1: 0, 2: 1}, ["cod", "shark"], ["categories that only name others"]),
        (TWINS, {1, 2}, {1: 0, 2: 1}, ["fish", "shark"], ["categories that only name others"]),
        (SEVERAL, {0, 1}, {0: 0, 1: 1, 2: 2}, ["fish", "cod", "shark"], []),  # the root has objects
        (
            TWINS,
            {0, 1},
            {0: 0, 1: 0, 2: 1},
            ["fish", "shark"],
            ["categories of the same name as another (one class now)"],
        ),
        (
            [category(1, "a"), category(2, "a", "x"), category(3, "b")],
            {2, 3},
            {2: 0, 3: 1},
            ["a", "b"],
            ["categories of the same name as another"],
        ),
        (
            [category(1, "a"), category(2, "a")],
            set(),
            {1: 0},
            ["a"],
            ["categories of the same name as another"],
        ),
        ([category(1, "a", "none")], set(), {1: 0}, ["a"], []),  # the only one
        ([category(1, "a", "none"), category(2, "b", "none")], set(), {1: 0, 2: 1}, ["a", "b"], []),
        (
            [category("1", "a"), category(2.0, "b"), category("x", "c")],
            {1},
            {1: 0, 2: 1, "x": 2},
            ["a", "b", "c"],
            [],
        ),
        ([category(1, "a"), category(1, "a")], {1}, {1: 0}, ["a"], []),
        ([category(1, 7)], {1}, {1: 0}, ["7"], []),
        ([category(1, "\ud800x"), category(2, "\u00e9")], {1}, {1: 0, 2: 1}, [r"\ud800x", "\u00e9"], []),
        (
            [3, {"id": 1}, {"name": "a"}, category(2, None), category(5, "b")],
            {5},
            {5: 0},
            ["b"],
            ["categories without id or name"] * 4,
        ),
    ],
)
def test_classes_of_categories(
    entries: list[Any], used: set[int], labels: dict, classes: list[str], why: list[str]
) -> None:
    skipped: list[Skipped] = []
    assert read_classes(PATH, entries, used, skipped.append) == (labels, classes)
    assert [one.why for one in skipped] == why
    assert all(type(one) is Unread and one.what.startswith("a.json, ") for one in skipped)


def test_a_number_with_two_names_is_refused() -> None:
    with pytest.raises(DataError, match=r"^a\.json: lists category 1 twice, as 'a' and 'b'$"):
        read_classes(PATH, [category(1, "a"), category(1, "b")], {1}, lambda _: None)
