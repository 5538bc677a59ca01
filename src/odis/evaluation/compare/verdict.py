"""What a comparison comes to, in one sentence and in a table. Numbers in, words out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from odis.config.wording import counted

BETTER, WORSE, UNDECIDED = "better", "worse", "not told apart"


def side_of(difference: Mapping[str, Any]) -> str:
    """Whether the whole interval of a difference is above 0, below 0, or neither."""
    low, high = difference.get("low"), difference.get("high")
    if low is not None and low > 0:
        return BETTER
    return WORSE if high is not None and high < 0 else UNDECIDED


def verdict(before: str, after: str, data: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: whether the second network is better on the data, and what it lost of what was known.

    The first measure decides, which is k-NN of objects where they have classes. The others are counted.

    Args:
        before: Name of the first network.
        after: Name of the second.
        data: Data sets of a comparison, the user's own first.
    """
    own, *known = data
    rows = own["measures"]
    if not rows:
        said = f"nothing could be measured on {_name(own)}"
    else:
        first, sides = rows[0], [side_of(row["difference"]) for row in rows]
        words = {
            BETTER: f"{after} is better than {before}",
            WORSE: f"{after} is worse than {before}",
            UNDECIDED: f"{after} and {before} are not told apart",
        }
        said = f"{words[sides[0]]} on {_name(own)}: {_change(first)}"
        if len(rows) > 1:
            said += (
                f"; of {counted(len(rows), 'measure')} {sides.count(BETTER)} rise, {sides.count(WORSE)} fall "
                f"and {sides.count(UNDECIDED)} may be chance"
            )
    for one in known:
        if one["measures"]:
            row = one["measures"][0]
            words = {
                BETTER: "it gained on what was known",
                WORSE: "it lost of what was known",
                UNDECIDED: "no loss of what was known is seen",
            }
            said += f"; {words[side_of(row['difference'])]} ({_name(one)}): {_change(row)}"
    return f"{said}."


def _name(one: Mapping[str, Any]) -> str:
    return os.path.basename(str(one["name"]).rstrip("/")) or str(one["name"])


def _change(row: Mapping[str, Any]) -> str:
    before, after, difference = (row[key] for key in ("before", "after", "difference"))
    interval = "" if difference["low"] is None else f", {difference['low']:+.1f} to {difference['high']:+.1f}"
    values = f"{before['value']:.1f} to {after['value']:.1f}"
    return f"{row['measure']} {values} ({difference['value']:+.1f}{interval})"
