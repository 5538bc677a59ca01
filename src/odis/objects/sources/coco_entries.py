"""Entries of the lists of a file in COCO's form, as tools really write them: numbers as text or with a point,
missing numbers, sizes that are not stated.

Entries as they are published are taken a list at a time. Where one is not, each is looked at; one whose
meaning is in doubt is named and left out, and the others are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

Identifier = int | str | tuple[int]
"""What an entry is called: its number, or text; or, of one without any, its place in the list."""

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")

_UNSTATED = (0, -1)  # sizes that say nothing

_CROWDS: dict[Any, bool] = {
    **dict.fromkeys(("", "0", "0.0", "false", "no", "none", "null"), False),
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
}

_TRUTHS = (int, bool, type(None))


@dataclass(slots=True)
class Images:
    """Images of a list: what each is called, and (what it is called, name or None, width, height); a size of
    0 x 0 is not stated.
    """

    ids: list[Identifier] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)


@dataclass(slots=True)
class Annotations:
    """Annotations of a list, by columns. A category may be None; numbers are as they are stated."""

    ids: list[Identifier] = field(default_factory=list)
    images: list[Identifier] = field(default_factory=list)
    categories: list[Identifier | None] = field(default_factory=list)
    crowds: list[bool] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)


Refuse = Callable[[str, str], None]
"""Called with what an entry is called (`entry 3 of images`, `annotation 7`), and why it is left out."""


def read_images(entries: list[Any], named_by: str, before: int, refuse: Refuse) -> Images:
    """The images of a part of the list.

    Args:
        entries: As they stand in the file.
        named_by: The key that says what an image is called; `file_name` is taken where it is missing.
        before: Entries of the list that came before.
        refuse: Called with every entry that has no number.
    """
    try:
        ids, names, widths, heights = zip(*map(itemgetter("id", named_by, "width", "height"), entries))
    except (KeyError, TypeError, IndexError, ValueError):
        pass
    else:
        if (
            set(map(type, ids)) == set(map(type, widths)) == set(map(type, heights)) == {int}
            and set(map(type, names)) == {str}
            and min(widths) > 0
            and min(heights) > 0
            and all(names)
        ):
            return Images(list(ids), list(zip(ids, names, widths, heights)))
    found = Images()
    for k, entry in enumerate(entries, start=before):
        what = f"entry {k} of images"
        if not isinstance(entry, dict):
            refuse(what, f"is {short(entry)}, must be an object with id and {named_by}")
            continue
        called = identifier(entry.get("id"))
        if called is None:
            refuse(what, f"has {_given(entry, 'id')}, must be a number or text")
            continue
        name = entry.get(named_by) or entry.get("file_name")
        found.ids.append(called)
        found.rows.append(
            (
                called,
                name if isinstance(name, str) and name else None,
                *stated_size(entry.get("width"), entry.get("height")),
            )
        )
    return found


def read_annotations(entries: list[Any], before: int, refuse: Refuse) -> Annotations:
    """The annotations of a part of the list.

    Args:
        entries: As they stand in the file.
        before: Entries of the list that came before.
        refuse: Called with every entry that names no image, or of which it cannot be said whether it is a
            crowd.
    """
    try:
        ids, images, categories = zip(*map(itemgetter("id", "image_id", "category_id"), entries))
    except (KeyError, TypeError, IndexError, ValueError):
        pass
    else:
        crowds = [entry.get("iscrowd") for entry in entries]
        if (
            set(map(type, ids)) == set(map(type, images)) == set(map(type, categories)) == {int}
            and set(map(type, crowds)) <= set(_TRUTHS)
            and set(crowds) <= {0, 1, None}
        ):
            return Annotations(list(ids), list(images), list(categories), list(map(bool, crowds)), entries)
    found = Annotations()
    for k, entry in enumerate(entries, start=before):
        what = f"entry {k} of annotations"
        if not isinstance(entry, dict):
            refuse(what, f"is {short(entry)}, must be an object with image_id, category_id and bbox")
            continue
        called: Identifier | None = identifier(entry.get("id"))
        what = what if called is None else name_of(called)
        image, crowd = identifier(entry.get("image_id")), _crowd(entry.get("iscrowd"))
        if image is None:
            refuse(what, f"has {_given(entry, 'image_id')}, must be the id of an image")
        elif crowd is None:
            refuse(what, f"has {_given(entry, 'iscrowd')}, must be 0 or 1")
        else:
            found.ids.append((k,) if called is None else called)
            found.images.append(image)
            found.categories.append(identifier(entry.get("category_id")))
            found.crowds.append(crowd)
            found.entries.append(entry)
    return found


def name_of(what: Identifier, noun: str = "annotation") -> str:
    """`annotation 7`; of an annotation without a number, its place in the list."""
    if isinstance(what, tuple):
        return f"entry {what[0]} of {noun}s"
    return f"{noun} {what if isinstance(what, int) else short(what)}"


def identifier(value: Any) -> int | str | None:
    """What something is called: a whole number in any spelling, or text; None of anything else."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else value or None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None


def stated_size(width: Any, height: Any) -> tuple[int, int]:
    """`(width, height)`; (0, 0) if it is not stated: one of them is 0, -1, null, missing or no number."""
    sides = []
    for value in (width, height):
        found = number(value)
        if isinstance(found, float):
            found = int(found) if found.is_integer() else None  # neither NaN nor infinite is one
        if found is None or found in _UNSTATED:
            return 0, 0
        sides.append(found)
    return sides[0], sides[1]


def number(value: Any) -> int | float | None:
    """A number, also as text; None of anything else."""
    if type(value) in (int, float):
        return value  # type: ignore[no-any-return]
    if not isinstance(value, str) or "_" in value:  # which Python takes for a separator of digits
        return None
    value = value.strip()
    try:
        return int(value) if _WHOLE.fullmatch(value) else float(value)
    except ValueError:
        return None


def short(value: Any) -> str:
    """A value in at most 60 characters."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"{type(value).__name__} of lists or objects in each other"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _crowd(value: Any) -> bool | None:
    """What `iscrowd` says; None if it cannot be said."""
    if isinstance(value, (*_TRUTHS, float)):
        return None if value not in (0, 1, None) else bool(value)
    return _CROWDS.get(value.strip().lower()) if isinstance(value, str) else None


def _given(entry: dict[str, Any], key: str) -> str:
    return f"{key} {short(entry[key])}" if key in entry else f"no {key}"
