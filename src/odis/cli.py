"""The command line: finds the command, parses its options, runs it, and words what went wrong."""

from __future__ import annotations

import os
import select
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis import __version__
from odis.commands import commands
from odis.commands.command import Command, Group
from odis.config.help_format import is_long, short_help, usage
from odis.config.options import new_parser, parse
from odis.config.wording import did_you_mean
from odis.errors import OdisError, OdisWarning, Preempted, printable

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def main(argv: list[str] | None = None) -> None:
    """Run `odis`; exits with 0, with 2 and one line for what the user can mend, with 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    warnings.formatwarning = _format_warning
    try:
        try:
            run(arguments)
        finally:
            sys.stdout.flush()  # now, while a reader that has gone can still be told from an error
    except BrokenPipeError as error:
        if not _reader_has_gone():
            _refuse(arguments[0], error.strerror or str(error), error)
        raise SystemExit(BROKEN_PIPE) from None
    except OdisError as error:
        _refuse(arguments[0], " ".join(str(error).split()), error)
    except OSError as error:  # a full disk, a folder that is read-only: the system's own words
        where = f"{error.filename}: " if error.filename else ""
        _refuse(arguments[0], f"{where}{error.strerror or error}", error)
    except RuntimeError as error:
        from odis.data.workers import worker_error

        if any(words in str(error) for words in _NO_MEMORY):  # as torch says it on a CPU and on a GPU
            _refuse(arguments[0], OUT_OF_MEMORY, error)
        if (death := worker_error(error)) is None:  # torch reports a killed worker wherever the program is
            raise
        _refuse(arguments[0], str(death), error)
    except MemoryError as error:
        _refuse(arguments[0], OUT_OF_MEMORY, error)
    except Preempted:
        # torchrun starts again what ends otherwise.
        raise SystemExit(0 if "TORCHELASTIC_RUN_ID" in os.environ else 130) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


BROKEN_PIPE = 128 + 13
"""Exit code when the reader of the output went away, as `head` does: that of a program that SIGPIPE ends."""


OUT_OF_MEMORY = (
    "there is not enough memory; give it a smaller batch, image size or model, or fewer workers (the "
    "documentation has a page on memory: cost)"
)
_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


def _reader_has_gone() -> bool:
    """Whether nobody reads standard output or error any more. What is left to write then goes
    nowhere, without a word at exit.
    """
    gone = []
    for number in (1, 2):
        asked = select.poll()
        asked.register(number, 0)
        if any(event & select.POLLERR for _, event in asked.poll(0)):
            gone.append(number)
    for number in gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return bool(gone)


def run(arguments: list[str]) -> None:
    """Run one command. Errors are raised as they are.

    Args:
        arguments: Name of the command, of its subcommand if it has some, and its options.

    Raises:
        OdisError: For an unknown command or option, and whatever the command refuses.
    """
    if arguments and arguments[0] in ("-V", "--version", "version"):
        print(f"odis {__version__}")
        return
    path, command, rest = find_command(arguments)
    if isinstance(command, Group):
        print(_usage(path, command))
    else:
        command.run(parse_options(path, command, rest))


def find_command(arguments: list[str]) -> tuple[list[str], Command | Group, list[str]]:
    """The names on the way to a command, the command, and the arguments behind them.

    A group comes back if no command of it is named.

    Raises:
        OdisError: For a name that is no command.
    """
    command: Command | Group = commands()
    path: list[str] = []
    while isinstance(command, Group):
        name = arguments[len(path)] if len(arguments) > len(path) else "--help"
        if name in ("-h", "--help"):
            break
        known = command.commands
        if name in command.moved:
            raise OdisError(f"{name}: this command is now called {command.moved[name]}")
        if name not in known:
            wrong = f"{name}: " if path else ""
            close = did_you_mean(name, list(known))
            raise OdisError(f"{wrong}no such {command.noun}{close}; there are {', '.join(known)}")
        command = known[name]
        path.append(name)
    return path, command, arguments[len(path) :]


def parse_options(path: list[str], command: Command, arguments: list[str]) -> Any:
    """The options of a command.

    Args:
        path: The command's names, for its usage line.
        command: The command.
        arguments: What stands behind its names.

    Raises:
        ConfigError: For an unknown option, or a value of the wrong type.
        SystemExit: After `--help` and `--help-all`.
    """
    parser = command_parser(path, command)
    if "--help-all" in arguments:
        print(parser.format_help(), end="")
        raise SystemExit(0)
    if is_long(parser) and {"-h", "--help"} & set(arguments):
        print(short_help(parser, command.required), end="")
        raise SystemExit(0)
    return parse(parser, arguments)


def command_parser(path: list[str], command: Command) -> ArgumentParser:
    """The parser of a command, by the names on the way to it."""
    parser = new_parser(" ".join(path), f"{command.summary}.")
    command.add_options(parser)
    parser.usage = usage(parser, command.required).replace("%", "%%")
    return parser


def _usage(path: list[str], group: Group) -> str:
    words, noun = " ".join(["odis", *path]), group.noun.upper()
    width = max(map(len, group.commands))
    lines = [f"usage: {words} {noun} [options]", "", f"{group.summary.rstrip('.')}.", ""]
    for heading, section in group.sections.items():
        lines += [f"{heading}:", *(f"  {name.ljust(width)}  {c.summary}" for name, c in section.items()), ""]
    return "\n".join([*lines, f"`{words} {noun} --help` lists the options of one."])


def _refuse(command: str, line: str, error: BaseException) -> None:
    print(printable(f"odis {command}: {line}"), file=sys.stderr)
    raise SystemExit(2) from error


_LONGEST = 200  # characters of a library's warning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """One line. Of a library's warning the first sentence or two, with the library's name."""
    if issubclass(category, OdisWarning):
        return f"warning: {printable(str(message))}\n"
    parts = Path(filename).parts
    installed = "site-packages" in parts[:-1]
    library = parts[parts.index("site-packages") + 1] if installed else Path(filename).stem
    said = printable(" ".join(str(message).split()))
    shown = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
    return f"warning: {library.removesuffix('.py')}: {shown}\n"
