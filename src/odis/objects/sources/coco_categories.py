"""The categories of a file in COCO's form as classes: one for each name, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from odis.errors import DataError
from odis.objects.clean import Skip, Unread
from odis.objects.sources.coco_entries import identifier, short


def read_classes(
    path: Path, entries: list[Any], used: Collection[Any], skip: Skip
) -> tuple[dict[int | str, int], list[str]]:
    """The label of each category, and the names of the classes.

    A category that names all the others and has no objects is no class: Roboflow writes one in front. Of
    several categories with one name, those without objects are left out, and the others are one class.

    Args:
        path: The file, for messages.
        entries: The list of categories as it stands in the file.
        used: Categories that annotations have.
        skip: Called with every category that is left out or put to another.

    Raises:
        DataError: A number has two names.
    """
    names: dict[int | str, str] = {}
    parents: dict[int | str, Any] = {}
    for k, entry in enumerate(entries):
        number, name = (
            (identifier(entry.get("id")), _name(entry.get("name")))
            if isinstance(entry, dict)
            else (None, None)
        )
        if number is None or name is None:
            skip(Unread(f"{path}, entry {k} of categories: {short(entry)}", "categories without id or name"))
        elif names.setdefault(number, name) != name:
            raise DataError(
                f"{path}: lists category {number} twice, as {short(names[number])} and {short(name)}"
            )
        else:
            parents.setdefault(number, entry.get("supercategory"))
    for number in _roots(names, parents):
        if number not in used:
            what = f"{path}, category {number} {short(names[number])}"
            skip(Unread(what, "categories that only name others"))
            del names[number]
    order = sorted(names, key=lambda number: (isinstance(number, str), number))
    first: dict[str, int | str] = {}
    for number in [*(number for number in order if number in used), *order]:
        first.setdefault(names[number], number)
    classes = [names[number] for number in order if first[names[number]] == number]
    places = {name: label for label, name in enumerate(classes)}
    labels = {}
    for number in order:
        name = names[number]
        if first[name] == number or number in used:
            labels[number] = places[name]
        if first[name] != number:
            skip(
                Unread(
                    f"{path}, category {number} {short(name)}",
                    f"categories of the same name as another{' (one class now)' if number in used else ''}",
                )
            )
    return labels, classes


def _name(value: Any) -> str | None:
    if isinstance(value, str):  # which in JSON may hold half of a surrogate pair, and in UTF-8 may not
        return value.encode(errors="backslashreplace").decode() or None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _roots(names: dict[int | str, str], parents: dict[int | str, Any]) -> list[int | str]:
    """Categories that all the others name as their supercategory, and whose own is `none`."""
    return [
        number
        for number, name in names.items()
        if len(names) > 1
        and parents[number] == "none"
        and all(parents[other] == name for other in names if other != number)
    ]
