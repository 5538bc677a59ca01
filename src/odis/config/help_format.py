"""How `--help` shows options: what may be given, and the default where there is one."""

from __future__ import annotations

from argparse import Action
from typing import Any

from jsonargparse import DefaultHelpFormatter

_KINDS = (("int", "whole number"), ("float", "number"), ("list[str]", "list"), ("tuple", "numbers"))


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's formatter without what says nothing: `type: str`, `default: null`, `default: False`."""

    def _get_help_string(self, action: Action) -> str:
        found = super()._get_help_string(action)
        head, bracket, notes = found.rpartition(" (")
        if not bracket or not notes.endswith(")"):
            return found
        kept = []
        if "type: %(type)s" in notes and (kind := _kind(self._get_type_str(action))):
            kept.append(kind)
        default: Any = action.default
        if "default: %(default)s" in notes and not (
            default is None or default is False or default in ("", [])
        ):
            kept.append("default: %(default)s")
        return f"{head} ({', '.join(kept)})" if kept else head


def _kind(name: str | None) -> str:
    """What may be given, in a word; nothing for text, and for what lists its choices itself."""
    return next((kind for start, kind in _KINDS if (name or "").startswith(start)), "")
