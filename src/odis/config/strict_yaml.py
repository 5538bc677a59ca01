"""YAML as settings need it: scalars, lists and mappings of names, each written once.

What YAML has beyond that is refused rather than guessed at: aliases, which make a gigabyte of 400 bytes,
dates, binary, several documents, keys that are there twice (of which most readers take the last).
"""

from __future__ import annotations

from typing import Any

import yaml

from odis.config.wording import counted

LARGEST = 128 * 1024
"""Bytes that a file of settings may have."""

DEEPEST = 12
"""Levels of lists and mappings in each other."""

_MOST_DIGITS = 4000  # of a number; Python reads no longer ones


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {key.start_mark.line + 1}: a name must be text")
            if key.value in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value} is there twice")
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep=True)
        return found


def read_yaml(data: bytes) -> Any:
    """What a file of settings holds: None, text, numbers, true or false, lists, and mappings of names.

    Raises:
        ValueError: In one line, if it is no YAML, or holds something else.
    """
    if len(data) > LARGEST:
        raise ValueError(
            f"it has {counted(len(data), 'byte')}, more than the {LARGEST:,} of a file of settings"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from error
    try:
        _check_events(text)
        found = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error
    _check_values(found, "")
    return found


def _check_events(text: str) -> None:
    """Refuse what is costly or ambiguous, before anything is made of it."""
    depth = documents = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = f"line {event.start_mark.line + 1 if event.start_mark else 0}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"{line}: has an anchor or alias (& or *), which files of settings have not")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.ScalarEvent) and event.implicit[0] and len(event.value) > _MOST_DIGITS:
            raise ValueError(f"{line}: a value of {counted(len(event.value), 'character')} is not in quotes")
        if depth > DEEPEST:
            raise ValueError(f"{line}: lists and mappings lie deeper than {DEEPEST} in each other")
        if documents > 1:
            raise ValueError(f"{line}: a second document begins")


def _check_values(value: Any, name: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_values(inner, f"{name}{key}.")
    elif isinstance(value, list):
        for inner in value:
            _check_values(inner, name)
    elif not isinstance(value, str | int | float | None):
        kind = type(value).__name__
        raise ValueError(f"{name.removesuffix('.')}: is a {kind}, which no setting is; put text in quotes")
