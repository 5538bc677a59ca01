"""What is wrong with an option, in one line for people."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """` (did you mean X?)` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def one_line(message: str, arguments: Sequence[str], options: Sequence[str]) -> str:
    """A complaint of the parser, in other words.

    Args:
        message: The complaint.
        arguments: What was parsed.
        options: Options of the parser, with their dashes.
    """
    message = " ".join(message.split())
    known = [option for option in options if not option.endswith("+")]  # `--loader.keep+ memory` appends
    for argument in arguments:
        option = argument.split("=", 1)[0]
        if option.startswith("--") and option not in options:
            return f"{option}: no such option{did_you_mean(option, known)}; --help lists them"
    if "does not accept option" in message:  # in a recipe: Group 'views' does not accept option 'sizze'
        group, key = message.split("'")[1], message.split("'")[-2]
        keys = [option.removeprefix("--") for option in known if option.startswith(f"--{group}.")]
        return (
            f"{group}.{key}: no such setting{did_you_mean(f'{group}.{key}', keys)}; {group} has "
            f"{', '.join(k.split('.')[1] for k in keys)}"
        )
    message = re.sub(r"Expected a <class 'list'>\. Got value: (.*)", r"must be a list, such as [\1]", message)
    message = re.sub(
        r"Does not validate .* Subtypes: \[(.*?)\] .* Given value: (.*)",
        r"must be one of [\1]; got \2",
        message,
    )
    for ugly, plain in (
        ("<class '", ""),
        ("'>", ""),
        ("Expected a ", "must be "),
        ("typing.Literal", "one of "),
        (". Got value: ", "; got "),
        ("NoneType", "null"),
        ('Parser key "', ""),
        ('":', ":"),
    ):
        message = message.replace(ugly, plain)
    return message
