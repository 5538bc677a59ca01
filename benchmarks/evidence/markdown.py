"""Tables as Markdown."""

from __future__ import annotations

NOT_RUN = "*Not run yet.*\n"


def rows(header: list[str], body: list[list[str]]) -> str:
    """A table, columns of numbers to the right; a note in place of an empty one."""
    if not body:
        return NOT_RUN
    numbers = [all(cell[:1] in "0123456789+-" for cell in column) for column in zip(*body)]
    lines = [header, ["---:" if right else "---" for right in numbers], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
