"""Settings that had another name or spelling in an earlier version, and what they are called now.

Run folders, recipes and stored results may hold the old ones. What odis wrote itself is read as if it had the
new ones; what a user writes is refused with the new one in the message.
"""

from __future__ import annotations

from typing import Any

from odis.errors import ConfigError

NAMES = {
    "views.grey": "views.grayscale",
    "views.solarise": "views.solarize",
    "loss.centring": "loss.centering",
    "loss.centre_momentum": "loss.center_momentum",
    "discover.grey": "discover.grayscale",
    "discover.centre": "discover.center",
}
"""Old dotted name -> new one. The value means the same."""

VALUES = {"loss.centering": {"centre": "center"}}
"""New dotted name -> (old value -> new one)."""

REPLACED: dict[str, str] = {
    "loader.cache": "loader.keep [memory]",
    "loader.copies": "loader.keep [disk:DIR]",
    "loader.resident_gib": "loader.keep [device:20GiB]",
    "train.tensorboard": "train.loggers [tensorboard]",
}
"""Old dotted name -> what to write in its place, for settings that have no counterpart with the same value.
None of them may change what is computed: `translate` drops them.
"""


def new_spelling(name: str, value: object = None) -> str | None:
    """What a setting, or its value, is now.

    Args:
        name: Dotted name, old or new.
        value: Its value; only text can be an old one.

    Returns:
        `views.grayscale` for `views.grey`; `loss.centering center` for `loss.centering` with `centre`; None
        if both are as they are today.
    """
    if name in REPLACED:
        return REPLACED[name]
    now = NAMES.get(name, name)
    values = VALUES.get(now, {})
    if isinstance(value, str) and value in values:
        return f"{now} {values[value]}"
    return now if now != name else None


def refuse_old(name: str, value: object = None, *, dashes: str = "", where: str = "") -> None:
    """Refuse what a user wrote with an old name or value.

    Args:
        name: Dotted name of a setting.
        value: Its value.
        dashes: What stands before a name where it was written.
        where: What the message ends with: the file it is in.

    Raises:
        ConfigError: In one line with the new spelling.
    """
    now = new_spelling(name, value)
    if now is not None:
        old = name if name in NAMES or name in REPLACED else f"{name} {value}"
        raise ConfigError(f"{dashes}{old}: is now {dashes}{now}{where}")


def translate(settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Stored settings under their present names.

    Args:
        settings: Sections of settings, as in `config.yaml`; other entries stay as they are.

    Returns:
        The settings, and what was old in them: `views.grey is now views.grayscale`.
    """
    result: dict[str, Any] = {}
    changes: list[str] = []
    for section, entries in settings.items():
        if not isinstance(entries, dict):
            result[section] = entries
            continue
        kept = {}
        for key, value in entries.items():
            name = f"{section}.{key}"
            if name in REPLACED and not value:  # it was off
                continue
            if (now := new_spelling(name, value)) is not None:
                changes.append(f"{name if name in NAMES | REPLACED else f'{name} {value}'} is now {now}")
            if name in REPLACED:
                continue
            name = NAMES.get(name, name)
            values = VALUES.get(name, {})
            kept[name.split(".", 1)[1]] = values.get(value, value) if isinstance(value, str) else value
        result[section] = kept
    return result, changes
