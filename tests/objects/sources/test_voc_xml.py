"""One XML file: in any encoding, and never with a declaration that could grow or fetch."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import DataError
from odis.objects.sources import voc_xml
from odis.objects.sources.voc_xml import items, parse, stated_size

BODY = (
    "<annotation>{}<size><width>8</width><height>6</height></size><object><name>{}</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>4</xmax><ymax>5</ymax></bndbox></object></annotation>"
)

BOMB = '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def declared(encoding: str, name: str, before: str = "") -> str:
    return f"<?xml version='1.0' encoding=\"{encoding}\"?>\n{before}{BODY.format('', name)}"


ENCODINGS = [
    *[
        (name, "猫")
        for name in ("utf-8", "gbk", "GB2312", "gb18030", "shift_jis", "euc-jp", "utf-16", "utf-32")
    ],
    *[(name, "kätzchen") for name in ("UTF-8", "latin-1", "ISO-8859-1", "windows-1252", "utf-16-le")],
    *[(name, "кошка") for name in ("cp1251", "windows-1251", "koi8-r")],
    ("big5", "貓"),
    ("euc-kr", "고양이"),
    ("ascii", "cat"),
]


@pytest.mark.parametrize(("encoding", "name"), ENCODINGS)
def test_a_declared_encoding_is_honoured(tmp_path: Path, encoding: str, name: str) -> None:
    path = write(tmp_path, declared(encoding, name).encode(encoding))
    annotation = parse(path)
    assert [item.name for item in items(annotation, path)] == [name]
    assert stated_size(annotation) == (8, 6)


@pytest.mark.parametrize(("encoding", "name"), ENCODINGS)
@pytest.mark.parametrize("head", [BOMB, BOMB.lower(), "<!ENTITY x SYSTEM 'file:///etc/hostname'>"])
def test_declarations_are_refused_in_every_encoding(
    tmp_path: Path, encoding: str, name: str, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(text: str) -> Any:
        pytest.fail(text)

    monkeypatch.setattr(voc_xml.ElementTree, "fromstring", never)
    for content in (declared(encoding, name, head), head + BODY.format("", name)):
        with pytest.raises(DataError, match=r"a\.xml: (contains <!(DOCTYPE|ENTITY), which no|is not in )"):
            parse(write(tmp_path, content.encode(encoding)))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([
        "utf-8", "utf-7", "utf-16", "utf-16-le", "utf-32-be", "latin-1", "gbk", "hz", "iso2022_jp", "cp037",
        "cp500", "unicode_escape", "raw_unicode_escape", "punycode", "idna", "base64", "rot13", "undefined",
        "mbcs", "zlib", "x",
    ]),
    st.sampled_from([
        "utf-8", "utf-7", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "gbk", "cp037", "hz",
    ]),
    st.booleans(),
)  # fmt: skip
def test_no_encoding_hides_a_declaration(
    tmp_path_factory: pytest.TempPathFactory, stated: str, written: str, bare: bool
) -> None:
    """Whatever is stated and whatever the bytes are, the parser sees no declaration."""
    text = declared(stated, "&b;", BOMB) if not bare else BOMB + BODY.format("", "&b;")
    path = write(tmp_path_factory.mktemp("xml"), text.encode(written))
    seen: list[str] = []
    real = voc_xml.ElementTree.fromstring
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voc_xml.ElementTree, "fromstring", lambda text: (seen.append(text), real(text))[1])
        with pytest.raises(DataError) as error:
            parse(path)
    assert "\n" not in str(error.value)
    assert not any("<!" in one for one in seen)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (BODY.format("", "kätzchen").encode("latin-1"), ""),
        (BODY.format("", "狗").encode("gbk"), ""),
        (declared("utf-8", "kätzchen").encode("latin-1"), ""),
        (BODY.format("<filename>kätzchen.jpg</filename>", "cat").encode("latin-1"), "cat"),
        (BODY.format("<folder>数据</folder>", "cat").encode("gbk"), "cat"),
        (declared("utf-16", "kätzchen").encode(), "kätzchen"),  # a wrong declaration: it is UTF-8
        (declared("gbk", "猫").encode("utf-16"), "猫"),  # the mark says more
        (b"\xef\xbb\xbf" + declared("latin-1", "kätzchen").encode(), "kätzchen"),
        (b"\n \n" + declared("latin-1", "kätzchen").encode("latin-1"), "kätzchen"),
        (BODY.format("", "cat").replace("<", "\r\n<").encode(), "cat"),
    ],
)
def test_bytes_of_no_certain_meaning_cost_at_most_the_name(tmp_path: Path, content: bytes, name: str) -> None:
    path = write(tmp_path, content)
    (item,) = items(parse(path), path)
    assert (item.name, item.box, item.problem) == (name, (1, 1, 4, 5), "")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (declared("klingon", "cat"), "declares the encoding 'klingon', which is not known"),
        (declared("base64", "cat"), "declares the encoding 'base64', which is none of a text"),
        (declared("punycode", "cat"), "declares the encoding 'punycode', which is none of a text"),
        (declared("ascii", "kätzchen"), "is not in ascii, as it declares (ordinal not in range(128) at byte"),
        (" \n", "is empty"),
        (BODY[:-20], "is not XML"),
        ("<html><annotation/></html>", "its outermost tag is 'html', must be annotation"),
        (BODY.format("", "&b;"), "is not XML"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: str, why: str) -> None:
    with pytest.raises(DataError) as error:
        parse(write(tmp_path, content))
    assert str(error.value).startswith(f"{tmp_path}/a.xml: {why}")
    assert "\n" not in str(error.value)


def test_a_file_of_any_length_costs_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voc_xml, "MOST_BYTES", 2000)
    with pytest.raises(DataError, match=r"a\.xml: is larger than 2,000 bytes; an annotation has a few thous"):
        parse(write(tmp_path, BODY.format("", "cat") + " " * 2000))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    with pytest.raises(DataError) as error:
        parse(write(tmp_path_factory.mktemp("xml"), content))
    assert len(str(error.value).splitlines()) == 1
