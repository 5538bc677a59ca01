"""Completion scripts of three shells, with all words in them: no Python runs while one types."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from odis import __version__
from odis.commands.completion.words import Words

_HEAD = f"odis {__version__}: completion, as `odis completion {{shell}}` prints it"


def bash(places: Sequence[Words]) -> str:
    """For `~/.local/share/bash-completion/completions/odis`."""
    return f"""# {_HEAD.format(shell="bash")}
_odis_commands() {{
  case "$1" in
{_cases(places, lambda one: [name for name, _ in one.commands])}
    *) found="" ;;
  esac
}}
_odis_options() {{
  case "$1" in
{_cases(places, lambda one: [option.name for option in one.options])}
    *) found="" ;;
  esac
}}
{_flags_and_values(places)}_odis() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="" place="" word found i
  COMPREPLY=()
  ((COMP_CWORD > 0)) && previous="${{COMP_WORDS[COMP_CWORD - 1]}}"
  if [[ $current == "=" ]]; then # --option= comes as words of its own
    current=""
  elif [[ $previous == "=" ]] && ((COMP_CWORD > 1)); then
    previous="${{COMP_WORDS[COMP_CWORD - 2]}}"
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="${{COMP_WORDS[i]}}"
    _odis_commands "$place"
    [[ " $found " == *" $word "* ]] || break
    place="${{place:+$place }}$word"
  done
  if [[ $previous == --* ]]; then
    _odis_flags "$place"
    if [[ " $found " != *" $previous "* ]]; then # its value; without names for it, a file
      _odis_values "$place $previous"
      [[ -n $found ]] && COMPREPLY=($(compgen -W "$found" -- "$current"))
      return
    fi
  fi
  if [[ $current == -* ]]; then
    _odis_options "$place"
  else
    _odis_commands "$place"
    [[ -n $found ]] || _odis_values "$place"
    [[ -n $found ]] || return
  fi
  COMPREPLY=($(compgen -W "$found" -- "$current"))
}}
complete -o default -F _odis odis
"""


def zsh(places: Sequence[Words]) -> str:
    """For a file `_odis` in a folder of `fpath`."""
    commands, options = [], []
    for one in places:
        place = _quoted(" ".join(one.path))
        if one.commands:
            commands.append(f"    {place}) known=({_described(one.commands)}) ;;")
        if one.options:
            told = [(option.name, option.about) for option in one.options]
            options.append(f"    {place}) known=({_described(told)}) ;;")
    return f"""#compdef odis
# {_HEAD.format(shell="zsh")}
_odis_commands() {{
  known=()
  case "$1" in
{_lines(commands)}
  esac
}}
_odis_options() {{
  known=()
  case "$1" in
{_lines(options)}
  esac
}}
{_flags_and_values(places)}_odis() {{
  local place="" word found previous="${{words[CURRENT-1]}}" i
  local -a known
  for ((i = 2; i < CURRENT; i++)); do
    word="${{words[i]}}"
    _odis_commands "$place"
    (( ${{known[(I)$word:*]}} )) || break
    place="${{place:+$place }}$word"
  done
  if [[ $PREFIX == --*=* ]]; then
    previous="${{PREFIX%%=*}}"
    compset -P '*='
  fi
  if [[ $previous == --* ]]; then
    _odis_flags "$place"
    if [[ " $found " != *" $previous "* ]]; then # its value; without names for it, a file
      _odis_values "$place $previous"
      if [[ -n $found ]]; then compadd -- ${{=found}}; else _files; fi
      return
    fi
  fi
  if [[ $PREFIX == -* ]]; then
    _odis_options "$place"
    _describe -o option known
    return
  fi
  _odis_commands "$place"
  if (( $#known )); then _describe command known; return; fi
  _odis_values "$place"
  if [[ -n $found ]]; then compadd -- ${{=found}}; else _files; fi
}}
if [[ $funcstack[1] == _odis ]]; then _odis "$@"; else compdef _odis odis; fi
"""


def fish(places: Sequence[Words]) -> str:
    """For `~/.config/fish/completions/odis.fish`."""
    groups, lines = [], []
    for one in places:
        place = " ".join(one.path)
        when = f"-n '__odis_at \"{place}\"'"
        if one.commands:
            groups.append(f"            case '{place}'")
            groups.append(f"                set known {' '.join(name for name, _ in one.commands)}")
        lines += [f"complete -c odis {when} -f -a {n} -d {_fish_quoted(about)}" for n, about in one.commands]
        if one.values:
            lines.append(f"complete -c odis {when} -f -a {_fish_quoted(' '.join(one.values))}")
        for option in one.options:
            value = f" -x -a {_fish_quoted(' '.join(option.values))}" if option.values else " -r"
            takes = value if option.takes_value else ""
            name = option.name.removeprefix("--")
            lines.append(f"complete -c odis {when} -l {name}{takes} -d {_fish_quoted(option.about)}")
    return f"""# {_HEAD.format(shell="fish")}
function __odis_at
    set -l place
    set -l typed (commandline -opc)
    set -e typed[1]
    for word in $typed
        set -l known
        switch "$place"
{_lines(groups)}
        end
        contains -- $word $known; or break
        set -a place $word
    end
    test "$place" = "$argv[1]"
end
{_lines(lines)}
"""


SCRIPTS: Mapping[str, Callable[[Sequence[Words]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
"""The scripts by shell."""


def _flags_and_values(places: Sequence[Words]) -> str:
    """What bash and zsh share: the options of a place that take no value, and the values of others."""
    return f"""_odis_flags() {{
  case "$1" in
{_cases(places, lambda one: [option.name for option in one.options if not option.takes_value])}
    *) found="" ;;
  esac
}}
_odis_values() {{
  case "$1" in
{_value_cases(places)}
    *) found="" ;;
  esac
}}
"""


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """In single quotes, for bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _described(words: Sequence[tuple[str, str]]) -> str:
    """As zsh's `_describe` reads them."""
    return " ".join(_quoted(f"{name.replace(':', chr(92) + ':')}:{about}") for name, about in words)


def _cases(places: Sequence[Words], words: Callable[[Words], Sequence[str]]) -> str:
    """The places that have words, as branches of a `case`; equal ones share one."""
    return _branches((" ".join(one.path), words(one)) for one in places)


def _value_cases(places: Sequence[Words]) -> str:
    """Likewise for values, by a command's names alone or with an option."""
    named = ((" ".join(one.path), one.values) for one in places)
    of_options = (
        (f"{' '.join(one.path)} {option.name}", option.values) for one in places for option in one.options
    )
    return _branches(itertools.chain(named, of_options))


def _branches(words: Iterable[tuple[str, Sequence[str]]]) -> str:
    branches: dict[str, list[str]] = {}
    for name, found in words:
        if found:
            branches.setdefault(" ".join(found), []).append(_quoted(name))
    return _lines([f"    {'|'.join(names)}) found={_quoted(found)} ;;" for found, names in branches.items()])
