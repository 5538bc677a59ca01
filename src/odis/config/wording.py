"""Words of messages: numbers with their nouns, and what is wrong with an option, in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_MOST = 3  # suggestions
_SEPARATORS = re.compile(r"[-_.]+")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 image`, `2,000 images`: a number and what it counts.

    Args:
        number: Any whole number.
        noun: What one is: `image`, `class`, `train patch`; words behind it need `plural`.
        plural: What several are, if no rule of spelling says so: `steps in a row were`.
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {_plural(noun) if plural is None else plural}"


def there_are(number: int, noun: str) -> str:
    """`there is 1 class`, `there are 2 classes`."""
    return f"there {'is' if number == 1 else 'are'} {counted(number, noun)}"


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """` (did you mean X?)` for the known words that are meant most likely, or nothing.

    These are those one typing error away; else those whose last part holds the last part of the word, as
    `--optim.base_lr` holds `lr`; else the closest, if it begins alike.
    """
    found = suggestions(word, known)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def suggestions(word: str, known: Sequence[str], most: int = _MOST) -> list[str]:
    """See `did_you_mean`."""
    bare = {name: name.lstrip("-").lower() for name in known}
    meant = word.lstrip("-").lower()
    if not meant:
        return []
    close = difflib.get_close_matches(meant, bare.values(), n=1, cutoff=0.85)
    if close:
        return [next(name for name in known if bare[name] == close[0])]
    tail = meant.rsplit(".", 1)[-1]
    lasts = {name: bare[name].rsplit(".", 1)[-1] for name in known}
    words = set(_SEPARATORS.split(tail))
    holding = [name for name in known if lasts[name] == tail]
    holding = holding or [name for name in known if words <= set(_SEPARATORS.split(lasts[name]))]
    holding = holding or [name for name in known if len(tail) > 2 and tail in lasts[name]]
    if holding:
        group = meant.rpartition(".")[0]  # `--optim.lr` means a setting of its own group
        of_group = [name for name in holding if bare[name].rpartition(".")[0] == group]
        return (of_group or holding)[:most]
    alike = [name for name in bare.values() if name[0] == meant[0]]
    close = difflib.get_close_matches(meant, alike, n=1, cutoff=0.6)
    return [name for name in known if bare[name] in close][:1]


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
    if "Unable to load config" in message:  # `--train 3`: a group takes a file of settings
        group = message.removeprefix('Parser key "').split(":", 1)[0].rstrip('"').removeprefix("--")
        keys = [option for option in known if option.startswith(f"--{group}.")]
        given = next(iter(re.findall(r"Unable to load config '(.*?)'", message)), "")
        return (
            f"--{group} {given}: is a group of settings, set one by one: {', '.join(keys[:_MOST])}, ...; "
            f"--help lists them"
        )
    if (extra := message.partition("unrecognized arguments: ")[2]) and known:
        return f"unrecognized arguments: {extra}; options begin with --, and --help lists them"
    for pattern, plain in (
        (r"argument (\S+): invalid choice: (.*?) \(choose from (.*)\)", r"\1: is \2, must be one of \3"),
        (r"argument (\S+): ignored explicit argument (.*)", r"\1: takes no value, got \2"),
    ):
        message = re.sub(pattern, plain, message)
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
    return re.sub(r"one of \[(\w+), one of \[(.*?)\]\]", r"a \1 or one of [\2]", message)
