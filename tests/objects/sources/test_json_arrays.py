"""Arrays of a JSON file, read in windows of any size: what `json.load` reads, and its errors as one line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import DataError
from odis.objects.sources import json_arrays
from odis.objects.sources.json_arrays import read_arrays

NAMES = ["images", "annotations"]

texts = st.text(alphabet='ab{}[],:"\\ \n\u00e9\u2028\U0001f600', max_size=8) | st.sampled_from(
    ["}, {", "]", '"}', "images"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
entries = st.dictionaries(texts, values, max_size=4)
arrays = st.lists(entries, max_size=8) | st.lists(values, max_size=6)
documents = st.dictionaries(st.sampled_from([*NAMES, "info", "x}, {"]), arrays | values, max_size=4)
layouts = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"separators": (" ,\t", " : ")}])
windows = st.sampled_from([1, 2, 3, 7, 20, 50, 200, 2000])


def gathered(path: Path, window: int) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "WINDOW", window)
        for name, part in read_arrays(path, NAMES):
            found.setdefault(name, []).extend(part)
    return found


def wanted(document: Any) -> dict[str, list[Any]]:
    return {name: value for name, value in document.items() if name in NAMES and isinstance(value, list)}


@settings(max_examples=100, deadline=None)
@given(documents, layouts, st.booleans(), windows)
def test_windows_of_any_size_give_what_the_whole_file_holds(
    tmp_path_factory: pytest.TempPathFactory, document: dict, layout: dict, ascii_only: bool, window: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "document.json"
    path.write_text(json.dumps(document, ensure_ascii=ascii_only, **layout), encoding="utf-8", newline="")
    assert repr(gathered(path, window)) == repr(
        wanted(json.loads(path.read_text(encoding="utf-8")))
    )  # repr: NaN equals NaN


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("window", [1, 3, 50, 2000])
def test_other_codings_are_read_by_their_marks(tmp_path: Path, coding: str, window: int) -> None:
    path = tmp_path / "a.json"
    text = json.dumps({"images": [{"file_name": "\u00e9\U0001f600"}] * 3}, ensure_ascii=False)
    path.write_bytes((f"\ufeff{text}" if coding == "utf-16-be" else text).encode(coding))
    assert gathered(path, window) == json.loads(text)


@settings(max_examples=100, deadline=None)
@given(documents, layouts, windows, st.data())
def test_a_damaged_file_is_one_line_or_what_json_makes_of_it(
    tmp_path_factory: pytest.TempPathFactory, document: dict, layout: dict, window: int, data: st.DataObject
) -> None:
    text = json.dumps(document, **layout)
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = data.draw(
        st.sampled_from(
            [text[:at], text[:at] + text[at + 1 :], *(text[:at] + c + text[at:] for c in '{}[],:"1')]
        )
    )
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_text(damaged, encoding="utf-8", newline="")
    try:
        expected = json.loads(damaged)
    except ValueError:
        expected = None
    found, message = {}, ""
    try:
        found = gathered(path, window)
    except DataError as error:
        message = str(error)
    if message:
        assert expected is None or message.endswith("twice)")
        assert message.startswith(f"{path}: cannot be read (")
        assert "\n" not in message
    elif damaged.lstrip()[:1] == "{":
        assert repr(found) == repr(wanted(expected))
    else:
        assert found == {}


pieces = st.sampled_from(
    [
        "-0",
        "0.1",
        "1E5",
        "-0.0",
        "1e400",
        "NaN",
        "-Infinity",
        "true",
        "null",
        '"a"',
        '"\\ud800"',
        '"\\ud83d\\ude00"',
        '"\x01"',
        "01",
        "1.",
        "nul",
    ]
    + [
        f"{sign}{value}"
        for sign in ("", "-")
        for value in (2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 2**64, 10**18, 10**19, 10**40)
    ]
    + [
        "0.12345678901234567",
        "0.1234567890123456789012",
        "[1,]",
        "[",
        "{}",
        '{"b": 1, "b": {"c": 2}}',
        "[[], {}]",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "a", "\u00e9"]),
            pieces | st.integers().map(str) | st.floats().map(repr),
        ),
        max_size=5,
    )
)
def test_the_quick_decoder_reads_what_the_standard_one_reads_or_leaves_it_to_that(
    members: list[tuple[str, str]],
) -> None:
    body = "[{" + ", ".join(f'"{key}": {value}' for key, value in members) + "}]"
    found = json_arrays._quickly(body)
    try:
        expected = json.loads(body)
    except ValueError:
        expected = None
    assert found is None or repr(found) == repr(
        expected
    )  # repr: of a float, not of an integer; in the same order


def test_the_quick_decoder_is_used_for_plain_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [{"id": k, "bbox": [0.5, k], "name": "\u00e9"} for k in range(100)]
    assert json_arrays._quickly(json.dumps(entries)) == entries
    (tmp_path / "a.json").write_text(
        json.dumps({"images": [*entries, {"id": 2**70}, {"id": math.nan}, *entries]})
    )
    read = [
        json_arrays._quickly(text)
        for text in ("[18446744073709551616]", "[NaN]", '["\\ud800"]', "[1] ", "[1], ")
    ]
    assert read == [None, None, None, [1], None]
    quick: list[bool] = []
    of = json_arrays._quickly
    monkeypatch.setattr(json_arrays, "_quickly", lambda body: quick.append(of(body) is not None) or of(body))
    found = gathered(tmp_path / "a.json", 200)["images"]
    assert repr(found) == repr([*entries, {"id": 2**70}, {"id": math.nan}, *entries])
    assert quick.count(True) > 10
    assert False in quick


def test_entries_come_a_window_at_a_time_and_a_large_file_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [{"id": k, "bbox": [0.5, 1, 2, 3], "parts": [{"id": 1}, {"id": 2}]} for k in range(400)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"more": entries, "images": entries}))
    monkeypatch.setattr(json_arrays, "WINDOW", 1000)
    lengths = [len(json.dumps(part)) for _, part in read_arrays(path, NAMES)]
    assert len(lengths) > 20
    assert max(lengths) < 3000


def test_an_entry_larger_than_the_window_is_read_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"images": [{"id": 1}, {"id": 2, "text": "x" * 900}, {"id": 3}], "annotations": []})
    )
    monkeypatch.setattr(json_arrays, "LARGEST", 1000)
    assert [entry["id"] for entry in gathered(path, 16)["images"]] == [1, 2, 3]
    monkeypatch.setattr(json_arrays, "LARGEST", 500)
    with pytest.raises(
        DataError, match=r"Unterminated string .* or an entry has more than 500 characters\)$"
    ):
        gathered(path, 16)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"\(is empty\)"),
        (b" \n ", r"\(is empty\)"),
        (b"{", r"property name .* at character 1, where the file ends"),
        (b'{"images": [{"id": 1}', r"Expecting ',' delimiter at character 21, where the file ends"),
        (b'{"images": [{"id": 1},]}', r"Expecting value at character 22"),
        (b'{"images": [], "images": []}', r"has images twice"),
        (b'{"images": []} {}', r"Extra data at character 15"),
        (b'{"images": ["\xff"]}', r"codec can't decode"),
        (b'{"images": [' + b"[" * 100_000, r"too deep"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=text):
        list(read_arrays(tmp_path / "a.json", NAMES))


def test_a_byte_order_mark_is_no_part_of_the_file_and_nan_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"images": [NaN, -Infinity]}')
    first, second = gathered(tmp_path / "a.json", 3)["images"]
    assert math.isnan(first)
    assert second == -math.inf


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: cannot be read \(No such file"):
        list(read_arrays(tmp_path / "a.json", NAMES))
