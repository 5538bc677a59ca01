"""HTML elements, escaped unless they are `Html` already, and the page around them."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

# The page may load nothing from anywhere: pictures are in it, styles too, and there are no scripts.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_VOID = {"img", "meta"}


class Html(str):
    """Text that is HTML already. Other strings are escaped inside an element."""

    __slots__ = ()


def element(tag: str, /, *content: str | None, **attributes: str | float | None) -> Html:
    """One element; content and attributes that are None are left out.

    Args:
        tag: Its name.
        content: What it holds; plain strings are escaped.
        attributes: `class_` is `class`, `aria_label` is `aria-label`; values are escaped.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{written}>" if tag in _VOID else f"<{tag}{written}>{concat(content)}</{tag}>")


def concat(parts: Iterable[str | None], between: str = "") -> Html:
    """Parts one after another, plain strings escaped, None left out."""
    return Html(
        between.join(
            part if isinstance(part, Html) else html.escape(part) for part in parts if part is not None
        )
    )


def paragraph(*content: str | None, class_: str | None = None) -> Html:
    """A paragraph."""
    return element("p", *content, class_=class_)


def bullets(items: Iterable[str], class_: str | None = None) -> Html:
    """An unnumbered list."""
    return element("ul", *[element("li", item) for item in items], class_=class_)


def section(name: str, title: str, *content: str | None) -> Html:
    """A section of the page with a heading; `#name` links to it."""
    return element("section", element("h2", title), *content, id=name)


def scrolled(label: str, *content: str) -> Html:
    """Wide content that scrolls in its own frame on a narrow page."""
    return element("div", *content, class_="scroll", role="region", tabindex=0, aria_label=label)


def code(text: str) -> Html:
    """A name or command in code font."""
    return element("code", text)


def document(title: str, parts: Iterable[tuple[str, str, Html]], head: Html) -> str:
    """The whole page.

    Args:
        title: Its title.
        parts: Anchor, title and content of each section.
        head: What stands above the sections.
    """
    listed = list(parts)
    links = element(
        "nav",
        bullets(element("a", name, href=f"#{anchor}") for anchor, name, _ in listed),
        aria_label="Sections",
    )
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", Html(style)),
        ),
        element(
            "body",
            element("header", element("h1", title), head, links),
            element("main", *[section(*part) for part in listed]),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"
