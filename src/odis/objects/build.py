"""From a data set in its published layout to an object index, with an account of everything that was left
out.
"""

from __future__ import annotations

import gc
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from odis.errors import ConfigError, DataError
from odis.objects.clean import Crowd, Mended, SkippedObject, Unread
from odis.objects.index import PART_NAME
from odis.objects.parts import Parts
from odis.objects.shards import PART_SIZE, check_shard
from odis.objects.sources import FORMATS
from odis.objects.sources.reader import AnnotationReader, Unit
from odis.types import ImageObjects, Skipped

# new objects before Python looks for cycles among them; at its default of 700 that is half of the time here
_YOUNG = 200_000


@dataclass(slots=True)
class Summary:
    """What was found and what became of it: found = written (kept) + skipped (+ crowds)."""

    out: str
    provenance: str
    images: int = 0
    written: int = 0
    images_skipped: int = 0
    objects: int = 0
    kept: int = 0
    objects_skipped: int = 0
    crowds: int = 0
    mended: int = 0  # of those kept: without their mask or label, or clipped
    unread: dict[str, int] = field(default_factory=dict)  # what no reader looks at, by kind

    def __str__(self) -> str:
        mended = f", {self.mended:,} mended" if self.mended else ""
        unread = ", ".join(f"{count:,} {kind}" for kind, count in self.unread.items())
        return (
            f"{self.out}: {self.written:,} of {self.images:,} images ({self.images_skipped:,} skipped), "
            f"{self.kept:,} of {self.objects:,} objects ({self.objects_skipped:,} skipped, "
            f"{self.crowds:,} crowds{mended}), {self.provenance}"
            + (f"; not read: {unread}" if unread else "")
        )


def build_index(
    source: str,
    root: str | Path,
    out: str | Path,
    split: str | None = None,
    strict: bool = False,
    report: Callable[[Skipped], None] | None = None,
    *,
    trust: bool = False,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
    shard: tuple[int, int] = (1, 1),
    part_size: int = PART_SIZE,
) -> Summary:
    """Read a data set with the source named `source` and write its object index.

    Images that cannot be opened and objects that cannot be used are left out, counted and reported; crowds
    are left out and counted. An image without objects is written.

    The index is made in parts of consecutive images, which stay when the work is interrupted: the same call
    goes on behind them. Shards are calls that each make every n-th part of the same index, on one machine or
    many; what is left out before it is known which image it belongs to (a name listed twice, an annotation
    without image) is counted and reported by the first of them, so that their summaries add up.

    Args:
        source: Name of an annotation format, one of `FORMATS`.
        root: The data set's folder, in its published layout.
        out: What to write: a file if the name ends in `.parquet`, else a folder of such files, one a part.
        split: Part of the data set, as the source names it.
        strict: Stop at the first file or object that cannot be used; then nothing is written.
        report: Called with every file and object left out, as it is met; not with those of parts that an
            earlier call finished.
        trust: Take the sizes that annotations state without opening the images (formats that state them).
            What opening them would have found - missing and unreadable files, images of another size - is
            found in training, or by a check of the index.
        images: Folder of the images, instead of the one that the layout names (formats that take places).
        annotations: File or folder of the annotations, likewise.
        shard: `(i, n)`: make the i-th of n shares of the parts, i from 1; more than one need a folder.
        part_size: Images a part.

    Raises:
        ConfigError: A shard or part size that is none, `trust` for a format that states no sizes, or
            `images` or `annotations` for a format whose places are fixed.
        DataError: An unknown source, a missing file or split, no usable image, parts that an earlier call
            made with other settings or of other data, or, with `strict`, the first thing skipped.
    """
    if source not in FORMATS:
        raise DataError(f"unknown annotation format {source!r}; there are {', '.join(FORMATS)}")
    if trust and not FORMATS[source].states_sizes:
        stating = [name for name, one in FORMATS.items() if one.states_sizes]
        raise ConfigError(f"trust: {source} states no sizes of images; {', '.join(stating)} do")
    places = {
        name: str(place)
        for name, place in (("images", images), ("annotations", annotations))
        if place is not None
    }
    if places and not FORMATS[source].takes_places:
        taking = [name for name, one in FORMATS.items() if one.takes_places]
        raise ConfigError(f"{next(iter(places))}: {source} has fixed places; {', '.join(taking)} take others")
    check_shard(shard, part_size)
    root = Path(root).absolute()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    settings = {
        "source": source,
        "data": str(root),
        "split": split,
        "trust": trust,
        "strict": strict,
        "part_size": part_size,
        **places,
    }
    parts = Parts(Path(out), root=root, settings=settings, shard=shard)
    account = _Account(strict, report, shard[0] == 1)
    try:
        with _seldom_collected():
            further = {**places, **({"trust": True} if trust else {})}
            read = FORMATS[source].read(root, split, account.skip, **further)
            parts.root = read.root
            total = _make(parts, read, account, part_size)
        accounts = [account.outside, *(parts.account(k) for k in range(total) if parts.owns(k))]
        summary = _summary(str(out), read.provenance, accounts)
        if not summary.written and shard[1] == 1:
            first = account.first or next((a["first"] for a in accounts if a["first"]), None)
            parts.discard()
            raise DataError(
                f"{root}: no image that can be used"
                + (f"; the first: {first[0]}: {first[1]}" if first else "")
            )
        _refuse_other_files(parts, total)
    except BaseException as error:
        if not parts.done() or (strict and isinstance(error, DataError)):
            parts.discard()
        raise
    parts.finish(total)
    return summary


class _Account:
    """What is left out, counted for the part it is in, or `outside`: met before it was known which image it
    belongs to.
    """

    def __init__(self, strict: bool, report: Callable[[Skipped], None] | None, counts_outside: bool) -> None:
        self._strict, self._report, self._counts_outside = strict, report, counts_outside
        self.outside = _nothing()
        self.first: list[str] | None = None
        self._part: dict[str, Any] | None = None
        self._silent = False

    def skip(self, skipped: Skipped) -> None:
        """Count and report; an error if nothing may be left out."""
        if self._silent:
            return
        if self._strict and not isinstance(skipped, Crowd | Unread):
            raise DataError(f"{skipped.what}: {skipped.why}")
        if self._part is None and not self._counts_outside:
            return
        counts = self.outside if self._part is None else self._part
        if isinstance(skipped, Crowd):
            counts["crowds"] += 1
            return
        if isinstance(skipped, Mended | Unread):
            if isinstance(skipped, Unread):
                counts["unread"][skipped.why] = counts["unread"].get(skipped.why, 0) + skipped.count
            else:
                counts["mended"] += 1
            if self._report is not None:
                self._report(skipped)
            return
        counts["objects_skipped" if isinstance(skipped, SkippedObject) else "images_skipped"] += 1
        shown = [skipped.what, skipped.why]
        counts["first"], self.first = counts["first"] or shown, self.first or shown
        if self._report is not None:
            self._report(skipped)

    def rows(self, units: Iterable[Unit]) -> tuple[list[ImageObjects], dict[str, Any]]:
        """The rows of a part, and what is to be known of it later."""
        rows, counts, ends, row = [], _nothing(), [], None
        for k, unit in enumerate(units):
            self._part = counts
            row = unit()
            self._part = None
            if row is not None:
                rows.append(row)
            if k == 0:
                ends = [_digest(row)]
        counts.update(
            written=len(rows), kept=sum(len(row.objects) for row in rows), ends=[*ends, _digest(row)]
        )
        return rows, counts

    def ends(self, units: Iterable[Unit]) -> list[str]:
        """The `ends` of a part that an earlier call finished, and counted."""
        first = last = None
        for unit in units:
            first, last = first or unit, unit
        self._silent = True
        ends = [_digest(unit()) for unit in (first, last) if unit is not None]
        self._silent = False
        return ends


def _nothing() -> dict[str, Any]:
    return {
        "written": 0,
        "kept": 0,
        "images_skipped": 0,
        "objects_skipped": 0,
        "crowds": 0,
        "mended": 0,
        "unread": {},
        "first": None,
    }


def _digest(row: ImageObjects | None) -> str:
    return hashlib.sha256(repr(row).encode(errors="replace")).hexdigest()[:16]


def _make(parts: Parts, read: AnnotationReader, account: _Account, part_size: int) -> int:
    """Make those parts of this shard that are not finished; how many parts the whole index has."""
    units, done, part = iter(read.units), parts.done(), 0
    while (first := next(units, None)) is not None:
        share = chain([first], islice(units, part_size - 1))
        if not parts.owns(part):
            deque(share, maxlen=0)
        elif part in done:
            if account.ends(share) != parts.account(part)["ends"]:
                again = f"remove {parts.folder} to begin again"
                raise DataError(
                    f"{parts.out}: the data have changed since part {part + 1} of it was made; {again}"
                )
        else:
            parts.write(part, *account.rows(share), provenance=read.provenance, classes=read.classes)
        part += 1
    return part


def _refuse_other_files(parts: Parts, total: int) -> None:
    """A folder that holds files of an earlier index in more or fewer parts would be taken for both."""
    for path in sorted(parts.out.iterdir()) if parts.out.is_dir() else ():
        found = PART_NAME.fullmatch(path.name)
        if found and int(found[2]) != total:
            raise DataError(
                f"{parts.out}: holds {path.name}, of an index in another number of parts than {total}; "
                f"remove it, or give another --out"
            )


def _summary(out: str, provenance: str, accounts: list[dict[str, Any]]) -> Summary:
    written, kept, images, objects, crowds, mended = (
        sum(account[name] for account in accounts)
        for name in ("written", "kept", "images_skipped", "objects_skipped", "crowds", "mended")
    )
    unread: Counter[str] = Counter()
    for account in accounts:
        unread.update(account["unread"])
    return Summary(
        out,
        provenance,
        written + images,
        written,
        images,
        kept + objects + crowds,
        kept,
        objects,
        crowds,
        mended,
        dict(unread.most_common()),
    )


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Let Python look for cycles seldom: rows are millions of small objects, none in a cycle."""
    before = gc.get_threshold()
    gc.set_threshold(max(_YOUNG, before[0]) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
