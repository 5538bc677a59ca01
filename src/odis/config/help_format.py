"""How `--help` shows options: what may be given, and the default where there is one."""

from __future__ import annotations

import re
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from odis.config.wording import counted

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


BEGINNER = (
    "train.epochs",
    "train.batch_size",
    "train.device",
    "train.loggers",
    "model.name",
    "model.weights",
    "views.global_size",
    "optim.base_lr",
    "loader.workers",
)
"""Settings that `--help` shows; `--help-all` shows all."""

_TEXT = 80  # characters of an option's help in a short one

_MANY = 40  # options of a command whose help is cut


def usage(parser: ArgumentParser, required: Sequence[str]) -> str:
    """`odis export RUN --to FORMAT --out OUT [options]`: what must be given stands without brackets."""
    words = [parser.prog]
    for action in parser._actions:
        if not action.option_strings:
            name = str(action.metavar or action.dest).upper()
            words.append(
                {"+": f"{name} ...", "*": f"[{name} ...]", "?": f"[{name}]"}.get(str(action.nargs), name)
            )
    words += [f"--{name} {name.upper()}" for name in required]
    return " ".join([*words, "[options]"])


def is_long(parser: ArgumentParser) -> bool:
    """Whether a command has so many options that its `--help` shows some only."""
    return len(parser._actions) > _MANY


def short_help(parser: ArgumentParser, required: Sequence[str] = ()) -> str:
    """The help of a command with many settings, a line an option: what a beginner needs, then the rest of its
    own options.

    Args:
        parser: The command's parser, with `usage` set.
        required: Options that must be given: they come first.
    """
    by_name = {action.dest: action for action in parser._actions}
    settings = [name for name in by_name if "." in name]
    sections = {name.partition(".")[0] for name in settings}
    own = [name for name, action in by_name.items() if action.option_strings and "." not in name]
    own = [name for name in own if name not in sections and name not in ("help", "print_config")]
    first = [*required, *(name for name in ("recipe", "val") if name in own)]
    parts = {
        "options": first,
        "settings to begin with": [name for name in BEGINNER if name in by_name],
        "further options": [name for name in own if name not in first],
    }
    lines = [f"usage: {parser.usage}", "", str(parser.description), ""]
    for heading, names in parts.items():
        lines += [f"{heading}:", *(_line_of(by_name[name]) for name in names), ""]
    lines.append(f"`{parser.prog} --help-all` lists all {counted(len(settings), 'setting')} and the recipes.")
    return "\n".join(lines) + "\n"


def _line_of(action: Action) -> str:
    """An option, the beginning of its help, and its default."""
    name = action.option_strings[0]
    value = "" if action.nargs == 0 else f" {action.dest.rpartition('.')[2].upper()}"
    default: Any = action.default
    shown = "" if default in (None, False, "", []) or default == SUPPRESS else f" (default: {default})"
    text = re.split(r"[:;.] |\.$", " ".join(str(action.help).split()))[0]
    text = textwrap.shorten(text, _TEXT - len(shown), placeholder=" ...")
    return f"  {name + value:<32}  {text}{shown}"
