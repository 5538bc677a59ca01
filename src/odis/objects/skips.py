"""What was left out, in a form that can be looked over: grouped by reason, and as a whole list in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from odis.config.wording import counted
from odis.machine.files import written_whole
from odis.objects.clean import Crowd, Mended, SkippedObject, Unread
from odis.objects.listing import SKIPPED_LIST
from odis.types import Skipped

EXAMPLES = 3  # of a reason that are shown

_SHOWN = 20  # reasons

_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?|\binf\b|\bnan\b")

_NOUNS = {
    "image": ("skipped", "images"),
    "object": ("skipped", "objects"),
    "mended": ("mended", "objects"),
    "unread": ("not read:", "parts"),
}

Entry = list[Any]  # kind, what, why, count: as it stands in the account of a part


def entry(skipped: Skipped) -> Entry:
    """What is kept of something that was left out."""
    count = skipped.count if isinstance(skipped, Unread) else 1
    return [kind(skipped), skipped.what, skipped.why, count]


def kind(skipped: Skipped) -> str:
    """`image`, `object`, `mended`, `unread` or `crowd`."""
    if isinstance(skipped, Crowd):
        return "crowd"
    if isinstance(skipped, Mended):
        return "mended"
    if isinstance(skipped, Unread):
        return "unread"
    return "object" if isinstance(skipped, SkippedObject) else "image"


def pattern(why: str) -> str:
    """A reason without what is particular to one case: numbers and quoted text become `…`."""
    short = _PARTICULAR.sub("…", why)
    return re.sub(r"…(?:,? …)+", "…", short)


@dataclass(slots=True)
class SkipGroups:
    """What was left out, counted by kind and reason, with some examples of each."""

    _counts: dict[tuple[str, str], int] = field(default_factory=dict)
    _examples: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, skipped: Skipped) -> None:
        """Count something that was left out; crowds are passed over."""
        self.add_entry(entry(skipped))

    def add_entry(self, one: Entry) -> None:
        """Count an entry of an account."""
        of, what, why, count = one
        if of == "crowd":
            return
        group = (of, pattern(why))
        self._counts[group] = self._counts.get(group, 0) + count
        examples = self._examples.setdefault(group, [])
        if len(examples) < EXAMPLES:
            examples.append((what, why))

    def __bool__(self) -> bool:
        return bool(self._counts)

    def lines(self) -> Iterator[str]:
        """The reasons, the most frequent first, each with examples; not those of what is not read."""
        groups = sorted(
            (item for item in self._counts.items() if item[0][0] != "unread"), key=lambda item: -item[1]
        )
        for (of, short), count in groups[:_SHOWN]:
            done, noun = _NOUNS[of]
            examples = self._examples[of, short]
            if count == 1:
                yield f"{done} {examples[0][0]}: {examples[0][1]}"
                continue
            yield f"{done} {count:,} {noun}: {short}"
            yield from (f"  {what}: {why}" for what, why in examples)
            if count > len(examples):
                yield f"  and {count - len(examples):,} more"
        if len(groups) > _SHOWN:
            rest = groups[_SHOWN:]
            yield f"and {sum(count for _, count in rest):,} more for {counted(len(rest), 'other reason')}"


def skips_path(out: str | Path, shard: tuple[int, int] = (1, 1)) -> Path:
    """Where the whole list of an index goes: `x.skipped.jsonl` for `x.parquet` and for the folder `x`."""
    path = Path(out)
    stem = path.stem if path.suffix == ".parquet" else path.name
    share = f".{shard[0]}-of-{shard[1]}" if shard[1] > 1 else ""
    return path.with_name(f"{stem}{share}{SKIPPED_LIST}")


def write_skips(path: Path, entries: Iterable[Entry]) -> None:
    """Write the list, a JSON object a line; without entries there is no file, and an earlier one is removed.

    Raises:
        DataError: It cannot be written.
    """
    rest = iter(entries)
    first = next(rest, None)
    if first is None:
        path.unlink(missing_ok=True)
        return
    with written_whole(path) as beside, beside.open("w", encoding="ascii") as file:
        for of, what, why, count in chain([first], rest):
            more = {"count": count} if of == "unread" else {}
            file.write(json.dumps({"kind": of, "what": what, "why": why, **more}) + "\n")
