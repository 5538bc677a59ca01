"""Elements: what is text is escaped, what is HTML is not; the page around them."""

from typing import Any

from odis.report.page import POLICY, Html, bullets, concat, document, element, paragraph, scrolled, section

NASTY = "<script>alert(\"1\")</script> & 'x'"


def test_text_is_escaped_and_html_is_not(parsed: Any) -> None:
    made = element("p", NASTY, element("b", NASTY), None, title=NASTY, class_="a", data_x=3, id=None)
    (p,) = parsed(made).all("p")
    assert p.attributes == {"title": NASTY, "class": "a", "data-x": "3"}
    assert p.children[0] == NASTY
    assert [b.text for b in p.all()] == [NASTY]
    assert isinstance(made, Html)


def test_every_way_to_put_text_into_a_page_escapes_it(parsed: Any) -> None:
    for made in (
        paragraph(NASTY),
        bullets([NASTY]),
        section("a", NASTY, NASTY),
        scrolled(NASTY, NASTY),
        concat([NASTY], NASTY),
    ):
        assert parsed(made).all("script") == []
    page = parsed(document(NASTY, [("a", NASTY, Html(""))], paragraph(NASTY)))
    assert page.all("script") == []
    assert page.all("title")[0].text == page.all("h1")[0].text == page.all("h2")[0].text == NASTY


def test_elements_without_content(parsed: Any) -> None:
    assert element("img", alt="", src="data:") == '<img alt="" src="data:">'
    assert element("td") == "<td></td>"
    assert concat(["a", None, "b"], ", ") == "a, b"


def test_page_is_whole(parsed: Any) -> None:
    text = document(
        "title", [("a", "First", paragraph("one")), ("b", "Second", paragraph("two"))], paragraph("head")
    )
    assert text.startswith('<!doctype html>\n<html lang="en">')
    page = parsed(text)
    assert [a.attributes["href"] for a in page.all("nav")[0].all("a")] == ["#a", "#b"]
    assert [s.attributes["id"] for s in page.all("section")] == ["a", "b"]
    first = page.all("head")[0].all("meta")
    assert first[0].attributes == {"charset": "utf-8"}
    assert first[1].attributes == {"http-equiv": "Content-Security-Policy", "content": POLICY}
    assert page.all("meta", name="viewport")[0].attributes["content"] == "width=device-width, initial-scale=1"
    style = page.all("style")[0].text
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    assert "url(" not in style
    assert "@import" not in style
