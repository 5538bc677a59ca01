"""Files of settings hold plain values, each written once; all else is one line, in no time."""

import time
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from odis.config.strict_yaml import DEEPEST, LARGEST, read_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(PLAIN)
def test_what_a_program_writes_is_read_back(value: Any) -> None:
    text = yaml.dump(value, Dumper=NoAliases, allow_unicode=True)
    assume(yaml.safe_load(text) == value)  # PyYAML folds some line breaks of Unicode to a space
    if depth(value) <= DEEPEST:
        assert read_yaml(text.encode()) == value


class NoAliases(yaml.SafeDumper):
    """Writes an object that is there twice twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (1 + max(map(depth, inner), default=0)) if isinstance(value, dict | list) else 0


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl")
)


@given(st.text(alphabet="ab01:-[]{}&*!|>?#'\"\n \t,.~<=%@`é", max_size=80))
@example("views: {flip: 1}\nviews: {flip: 0}\n")
@example("a: 2020-01-01\n")
@example("? [1]\n: 2\n")
@example("a: !!binary aGVsbG8=\n")
@example("a: !!python/object/apply:os.system [ls]\n")
@example("1: 2\n")
@example("a: 1\n---\nb: 2\n")
def test_any_text_is_plain_values_or_one_line(text: str) -> None:
    try:
        value = read_yaml(text.encode())
    except ValueError as error:
        said = str(error)
    else:
        said = "read"
    assert said
    assert "\n" not in said
    if said != "read":
        return
    assert isinstance(value, str | int | float | list | dict | None)
    assert value == yaml.safe_load(text) or value != value  # NaN


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"views: {flip: 1}\nviews: {flip: 0}\n", "line 2: views is there twice"),
        (b"views:\n  flip: 1\n  flip: 0\n", "line 3: flip is there twice"),
        (b"a: 2020-01-01\n", "a: is a date"),
        (BOMB.encode(), "line 1: has an anchor or alias"),
        (b"[" * 100_000, "deeper than 12"),
        (b"a: " + b"9" * 100_000, "100,000 characters"),
        (b"a: 0x" + b"f" * 100_000, "100,002 characters"),
        (b"#" * (LARGEST + 1), "more than the 131,072"),
        (b"a: \xff", "not UTF-8 (byte 3)"),
        (b"a: 1\n---\na: 2\n", "line 2: a second document"),
        (b"? [1]\n: 2\n", "line 1: a name must be text"),
    ],
)
def test_what_is_refused_is_refused_at_once(data: bytes, says: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match="") as refused:
        read_yaml(data)
    assert says in str(refused.value)
    assert time.process_time() - began < 5
