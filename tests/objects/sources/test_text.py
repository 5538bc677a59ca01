"""Text files of many systems: read where their bytes have one meaning, marked where they have several."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from odis.errors import DataError
from odis.objects.sources import text
from odis.objects.sources.text import UNKNOWN, decode, distinct, read_names, read_text

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff\ufffd"), max_size=40)


@given(
    TEXTS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]), st.sampled_from(["\n", "\r\n", "\r"])
)
def test_marks_and_line_ends_leave_the_text_as_it_is(content: str, encoding: str, end: str) -> None:
    assert decode(content.replace("\n", end).encode(encoding)).text == content


@given(st.text("猫狗汽车人行道数据集中国a 1\n", min_size=1))
def test_chinese_in_two_bytes_is_read(content: str) -> None:
    assume(decode(content.encode("gbk")).encoding != "utf-8" or content.isascii())  # few bytes may be both
    found = decode(content.encode("gbk"))
    assert found.text == content
    assert found.encoding == ("utf-8" if content.isascii() else "gb18030")


@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_marked(content: bytes) -> None:
    found = decode(content)
    if found.encoding == "utf-8" and UNKNOWN not in found.text:
        assert found.text == content.decode().replace("\r\n", "\n").replace("\r", "\n")
    assert "\r" not in found.text


@pytest.mark.parametrize("content", ["é", "naïve", "Müller, Ärzte", "0 0.5 0.5 1 é"])
def test_what_may_mean_several_things_is_marked(content: str) -> None:
    found = decode(content.encode("latin-1")).text
    assert [a for a, b in zip(found, content, strict=True) if a != b] == [
        UNKNOWN for letter in content if not letter.isascii()
    ]


def test_utf_16_without_a_mark_is_known_by_its_zeros() -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        assert decode("0 0.5\n".encode(encoding)).text == "0 0.5\n"
    assert decode(b"a\0b").text == "a\0b"  # zeros elsewhere are zeros


def test_lists_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffcat\r\n\r\n dog \r\n".encode())
    assert read_names(path) == ["cat", "dog"]
    assert read_text(path).lines == [(1, "cat"), (3, "dog")]
    path.write_bytes("cat\nhérisson\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes\.txt: line 2 is not UTF-8; save the file as UTF-8$"):
        read_names(path)
    with pytest.raises(DataError, match="gone: no such file"):
        read_names(tmp_path / "gone")
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path)
    monkeypatch.setattr(text, "MOST_BYTES", 5)
    with pytest.raises(DataError, match="is larger than 5 bytes"):
        read_text(path)


@given(st.lists(st.sampled_from(["a", "b", "a (0)", "a (1)", "a (0)'"]), max_size=6))
def test_names_become_distinct_and_stay_known(names: list[str]) -> None:
    found = distinct(names, list(range(len(names))))
    assert len(set(found)) == len(names)
    for k, (name, shown) in enumerate(zip(names, found)):
        assert shown == name if names.count(name) == 1 else shown.rstrip("'") == f"{name} ({k})"
