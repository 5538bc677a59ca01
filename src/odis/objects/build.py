"""From a data set in its published layout to an object index, with an account of everything that was left
out.
"""

from __future__ import annotations

import gc
import hashlib
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from odis.config.wording import counted
from odis.errors import ConfigError, DataError, OdisWarning
from odis.machine.locks import sole_owner
from odis.objects.clean import Crowd, SkippedObject, Unread
from odis.objects.extras import LOW_BITS
from odis.objects.index import PART_NAME
from odis.objects.parts import Parts, share_name
from odis.objects.plausible import add, count_boxes, no_counts, verdicts
from odis.objects.shards import PART_SIZE, check_shard
from odis.objects.skips import SkipGroups, entry, kind, skips_path, write_skips
from odis.objects.sources import FORMATS, check_reading
from odis.objects.sources.reader import AnnotationReader, Unit
from odis.types import Box, ImageObjects, Skipped

# new objects before Python looks for cycles among them; at its default of 700 that is half of the time here
_YOUNG = 200_000

_MUCH = 0.1  # of the images or objects: a loss that is said last

_KINDS = 8  # of what is not read, that a summary names


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
    skips: SkipGroups = field(default_factory=SkipGroups)  # what was left out, by reason
    listed: str = ""  # the file that names all of it; empty if there is nothing to name

    def __str__(self) -> str:
        """All that `line` and `loss` say."""
        return f"{self.line()}\n{self.loss()}" if self.loss() else self.line()

    def loss(self) -> str:
        """How much was lost, if it is more than a tenth of the images or objects; else empty."""
        shares = {
            "images": self.images_skipped / max(1, self.images),
            "objects": self.objects_skipped / max(1, self.objects - self.crowds),
        }
        lost = [f"{share:.0%} of the {name}" for name, share in shares.items() if share > _MUCH]
        where = f"; {self.listed} names them" if self.listed else ""
        return f"lost: {' and '.join(lost)}{where}" if lost else ""

    def line(self) -> str:
        """The counts, in one line."""
        mended = f", {self.mended:,} mended" if self.mended else ""
        kinds = list(self.unread.items())
        shown = [f"{count:,} {kind}" for kind, count in kinds[:_KINDS]]
        if rest := sum(count for _, count in kinds[_KINDS:]):
            shown.append(f"{rest:,} of {counted(len(kinds) - _KINDS, 'other kind')}")
        unread = ", ".join(shown)
        return (
            f"{self.out}: {self.written:,} of {counted(self.images, 'image')} ({self.images_skipped:,} "
            f"skipped), {self.kept:,} of {counted(self.objects, 'object')} ({self.objects_skipped:,} "
            f"skipped, {counted(self.crowds, 'crowd')}{mended}), {self.provenance}"
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
    masks: bool = False,
    shard: tuple[int, int] = (1, 1),
    part_size: int = PART_SIZE,
    max_skipped: float | None = None,
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
        root: The data set's folder, in its published layout; or its one file (formats that take one).
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
        masks: Read the masks that lie beside the boxes (formats that have some).
        shard: `(i, n)`: make the i-th of n shares of the parts, i from 1; more than one need a folder.
        part_size: Images a part.
        max_skipped: Largest share of the images, and of the objects, that may be left out. By default all
            but everything. With 1, an index without a single object is written, and one whose boxes can
            hardly be right. Shards are not held to it, since each sees a part.

    The whole list of what was left out or mended is written beside the index (`skips.skips_path`), if there
    is any. An `OdisWarning` says what is likely wrong with the boxes (`plausible.py`).

    Raises:
        ConfigError: A shard, part size or share that is none, `trust` for a format that states no sizes,
            `images` or `annotations` for a format whose places are fixed, or `masks` for one that has none.
        DataError: An unknown source, a missing file or split, no usable image or object, more left out than
            `max_skipped`, boxes most of which cannot be right, parts that an earlier call made with other
            settings or of other data, or, with `strict`, the first thing skipped.
    """
    places = {
        name: str(place)
        for name, place in (("images", images), ("annotations", annotations))
        if place is not None
    }
    check_reading(source, trust=trust, places=places, masks=masks)
    check_shard(shard, part_size)
    if max_skipped is not None and not 0 <= max_skipped <= 1:
        raise ConfigError(f"max-skipped: is {max_skipped:g}, must be a share from 0 to 1")
    root = Path(root).absolute()
    if root.is_file() and FORMATS[source].takes_file and annotations is None:
        root, places = root.parent, {**places, "annotations": root.name}
    if root.is_file():
        raise DataError(f"{root}: is a file; the folder of the data set is meant, perhaps {root.parent}")
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
        **({"masks": True} if masks else {}),
    }
    with sole_owner(out, share_name(shard)):
        parts = Parts(Path(out), root=root, settings=settings, shard=shard)
        account = _Account(strict, report, shard[0] == 1)
        try:
            with _seldom_collected():
                further = {
                    **places,
                    **({"trust": True} if trust else {}),
                    **({"masks": True} if masks else {}),
                }
                read = FORMATS[source].read(root, split, account.skip, **further)
                parts.root = account.root = read.root
                total = _make(parts, read, account, part_size)
            accounts = [account.outside, *(parts.account(k) for k in range(total) if parts.owns(k))]
            path = skips_path(out, shard)
            summary = _summary(str(out), read.provenance, accounts, str(path))
            if shard[1] == 1:
                _refuse_losses(summary, accounts, str(root), max_skipped)
            _refuse_other_files(parts, total)
            write_skips(path, (one for account in accounts for one in account["skipped"]))
        except BaseException as error:
            if not parts.done() or isinstance(error, _LostError) or (strict and isinstance(error, DataError)):
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
        self.root = Path()
        self._refused: list[Box] = []  # boxes of the image that is being read, of objects left out for them
        self._deep: list[str] = []  # 16-bit images of the part
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
        of = kind(skipped)
        if of == "crowd":
            counts["crowds"] += 1
            return
        counts["skipped"].append(entry(skipped))
        if isinstance(skipped, Unread):
            counts["unread"][skipped.why] = counts["unread"].get(skipped.why, 0) + skipped.count
            if skipped.why == LOW_BITS:
                self._deep.append(skipped.what)
        else:
            counts[_COUNTED[of]] += 1
        if isinstance(skipped, SkippedObject) and skipped.box is not None:
            self._refused.append(skipped.box)
        if self._report is not None:
            self._report(skipped)

    def rows(self, units: Iterable[Unit]) -> tuple[list[ImageObjects], dict[str, Any]]:
        """The rows of a part, and what is to be known of it later."""
        rows: list[ImageObjects] = []
        counts, ends, row = _nothing(), [], None
        refused: list[tuple[int, Box]] = []
        self._deep = []
        for k, unit in enumerate(units):
            self._part, self._refused = counts, []
            row = unit()
            self._part = None
            if row is not None:
                refused += [(len(rows), box) for box in self._refused]
                rows.append(row)
            if k == 0:
                ends = [_digest(row)]
        counts["oddities"] = count_boxes(rows, refused, self.root, self._deep)
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
        "skipped": [],
        "oddities": no_counts(),
    }


_COUNTED = {"image": "images_skipped", "object": "objects_skipped", "mended": "mended"}


class _LostError(DataError):
    """Too much was left out: nothing is kept."""


def _refuse_losses(
    summary: Summary, accounts: list[dict[str, Any]], root: str, max_skipped: float | None
) -> None:
    """Refuse an index without image or object, or with more left out than may be, or with boxes that cannot
    be right; warn of boxes that are likely not.
    """
    oddities = no_counts()
    for account in accounts:
        add(oddities, account["oddities"])
    found = verdicts(oddities)
    first = next((one for account in accounts for one in account["skipped"] if one[0] in _COUNTED), None)
    told = "".join(f"; {one.text}" for one in found) + (
        f"; the first: {first[1]}: {first[2]}" if first else ""
    )
    if not summary.written:
        raise _LostError(f"{root}: no image that can be used{told}")
    everything = max_skipped is not None and max_skipped >= 1
    hint = "--max-skipped 1 writes the index all the same"
    if not everything and summary.objects_skipped and not summary.kept:
        raise _LostError(
            f"{root}: none of its {counted(summary.objects_skipped, 'object')} can be used{told}; {hint}"
        )
    for name, lost, total in (
        ("images", summary.images_skipped, summary.images),
        ("objects", summary.objects_skipped, summary.objects - summary.crowds),
    ):
        if max_skipped is not None and lost > max_skipped * total:
            raise _LostError(
                f"{root}: {lost:,} of {total:,} {name} cannot be used, a share of {lost / total:.2g}; "
                f"--max-skipped allows {max_skipped:g}{told}"
            )
    for one in found:
        if one.fatal and not everything:
            raise _LostError(f"{root}: {one.text}; if they are right, {hint}")
        warnings.warn(f"{root}: {one.text}", OdisWarning, stacklevel=3)


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


def _summary(out: str, provenance: str, accounts: list[dict[str, Any]], listed: str) -> Summary:
    written, kept, images, objects, crowds, mended = (
        sum(account[name] for account in accounts)
        for name in ("written", "kept", "images_skipped", "objects_skipped", "crowds", "mended")
    )
    unread: Counter[str] = Counter()
    skips = SkipGroups()
    for account in accounts:
        unread.update(account["unread"])
        for one in account["skipped"]:
            skips.add_entry(one)
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
        skips,
        listed if skips else "",
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
