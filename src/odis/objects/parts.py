"""An index made part by part: finished parts stay when the work is interrupted, and the same call goes on
behind them.

Parts are kept in a hidden folder beside the index, each a Parquet file with its account (what was counted and
left out in it) as a JSON file beside. The account is written first, so a part that is there is whole. When
all are there they become the index: one file, or a folder with one file a part. In a folder several shards
may write, each its own parts; `ObjectIndex.open` refuses it until all are there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from odis.errors import DataError
from odis.machine.checksums import Seal, seal_parquet, verify_parquet
from odis.machine.files import move_whole, remove_folder, written_whole
from odis.objects.index import PART_NAME, ObjectIndex, index_schema, made_with
from odis.objects.table import to_batch
from odis.types import ImageObjects

_PLAN = "plan.json"


class Parts:
    """The parts of an index in the making.

    Args:
        out: The index: a file if its name ends in `.parquet`, else a folder of such files.
        root: Folder that image paths begin at.
        settings: All that the parts depend on, as plain JSON values; parts made with others are not
            continued. They are written into the index as `made_with`.
        shard: Which share of the parts this run makes, `(i, n)`, i from 1 to n; more than one need a folder.

    Raises:
        DataError: Parts made with other settings are there; the folder holds something else; `out` cannot be
            written.
    """

    def __init__(
        self, out: Path, *, root: str | Path, settings: dict[str, Any], shard: tuple[int, int] = (1, 1)
    ) -> None:
        self.out, self.root, self.shard = Path(os.path.abspath(out)), root, shard
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.single_file = self.out.suffix == ".parquet"
        if shard[1] > 1 and self.single_file:
            raise DataError(
                f"{out}: shards need a folder to write into; give --out a name that does not end in .parquet"
            )
        self.folder = parts_folder(self.out, share_name(shard))
        self._check_out()
        self._enter()

    def owns(self, part: int) -> bool:
        """Whether a part, counted from 0, is of this run's shard."""
        return part % self.shard[1] == self.shard[0] - 1

    def done(self) -> set[int]:
        """The parts that are finished, counted from 0."""
        here = {int(p.stem) for p in self.folder.glob("*.parquet")}
        # A run that ended while it moved its parts into the folder of the index left their accounts behind.
        moved = {int(m[1]) - 1 for p in self.out.glob("*.parquet") if (m := PART_NAME.fullmatch(p.name))}
        return here | {k for k in moved if (self.folder / f"{k:06d}.json").exists()}

    def account(self, part: int) -> dict[str, Any]:
        """What was said of a finished part when it was written.

        Raises:
            DataError: Its file is damaged.
        """
        return self._read(self.folder / f"{part:06d}.json")

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it holds no JSON object")
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}); remove {self.folder} to begin again"
            ) from error
        return found

    def write(
        self,
        part: int,
        rows: list[ImageObjects],
        account: dict[str, Any],
        *,
        provenance: str,
        classes: list[str],
    ) -> None:
        """Finish a part.

        Args:
            part: Its number, counted from 0.
            rows: Its images, perhaps none.
            account: Plain JSON values, to be read again by `account`.
            provenance: Where the objects came from; the same in every part.
            classes: Class names; the same in every part.

        Raises:
            DataError: It cannot be written, or other parts are of another provenance or other classes.
        """
        self._agree({"provenance": provenance, "classes": classes})
        place = self.out if self.single_file else self.out / "000001.parquet"
        schema = index_schema(
            place, root=self.root, provenance=provenance, classes=classes, made_with=self.settings
        )
        self._replace(f"{part:06d}.json", json.dumps(account).encode())
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            writer.write_batch(to_batch(rows, schema))
        self._replace(f"{part:06d}.parquet", sink.getvalue(), seal_parquet)

    def finish(self, count: int) -> None:
        """Make the index of the `count` parts (of those that are this shard's), and remove the hidden folder.

        Raises:
            DataError: It cannot be written; the parts stay.
        """
        wanted = [k for k in range(count) if self.owns(k)]
        missing = sorted(set(wanted) - self.done())
        assert not missing, f"parts {missing} were not written"
        try:
            if self.single_file:
                self._join(wanted)
            else:
                self.out.mkdir(parents=True, exist_ok=True)
                for k in wanted:
                    part = self.folder / f"{k:06d}.parquet"
                    if part.exists():
                        move_whole(part, self.out / f"{k + 1:06d}-of-{count:06d}.parquet")
        except OSError as error:
            raise DataError(f"{self.out}: cannot be written ({error.strerror or error})") from error
        self.discard()

    def discard(self) -> None:
        """Remove the parts."""
        remove_folder(self.folder)

    def _join(self, wanted: list[int]) -> None:
        paths = [self.folder / f"{k:06d}.parquet" for k in wanted]
        with (
            written_whole(self.out, errors=(pa.ArrowException,), seal=seal_parquet) as beside,
            pq.ParquetWriter(beside, pq.read_schema(paths[0]), compression="zstd") as writer,
        ):
            for batch in _regrouped(paths):
                writer.write_table(batch)

    def _agree(self, found: dict[str, Any]) -> None:
        """Parts of a resumed run must come from the same: weights in the same place may be others today."""
        path = self.folder / "source.json"
        if not path.exists():
            self._replace(path.name, json.dumps(found).encode())
            return
        before = self._read(path)
        for key, value in found.items():
            if before.get(key) != value:
                was, now = (
                    f"{v[:80]}" if isinstance(v, str) else f"{len(v)} others"
                    for v in (before.get(key) or "", value)
                )
                raise DataError(
                    f"{self.out}: its finished parts have {key} {was}, now it is {now}; remove "
                    f"{self.folder} to begin again"
                )

    def _check_out(self) -> None:
        if self.single_file:
            if self.out.is_dir():
                raise DataError(f"{self.out}: is a folder; an index in one file is a file")
            return
        if self.out.is_file():
            raise DataError(
                f"{self.out}: is a file; an index with this name is a folder (a file's name ends in .parquet)"
            )
        for path in sorted(self.out.iterdir()) if self.out.is_dir() else ():
            if path.name.startswith("."):
                continue
            if not PART_NAME.fullmatch(path.name) or made_with(path) != self.settings:
                raise DataError(
                    f"{self.out}: holds {path.name}, which is no part of this index; give an empty or new "
                    f"folder"
                )

    def _enter(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.out}: cannot be written ({error.strerror or error})") from error
        path = self.folder / _PLAN
        if not path.exists():
            self._replace(_PLAN, json.dumps(self.settings, sort_keys=True).encode())
            return
        before = self._read(path)
        changed = [
            k for k in sorted(before.keys() | self.settings.keys()) if before.get(k) != self.settings.get(k)
        ]
        if changed:
            shown = "; ".join(f"{k}: {before.get(k)} -> {self.settings.get(k)}" for k in changed)
            raise DataError(
                f"{self.out}: an unfinished one was begun with other settings ({shown}); give those, or "
                f"remove {self.folder}"
            )

    def _replace(self, name: str, content: bytes | pa.Buffer, seal: Seal | None = None) -> None:
        with written_whole(self.folder / name, seal=seal) as beside:
            beside.write_bytes(content)


def discard_leftovers(out: Path, share: str = "") -> None:
    """Remove the parts of an index that is made: a process was killed before it did."""
    remove_folder(parts_folder(out, share))


def parts_folder(out: Path, share: str = "") -> Path:
    """The hidden folder of the parts of an index, or of a share of them such as `1-of-4`."""
    return out.with_name(f".{out.name}{f'.{share}' if share else ''}.parts")


def share_name(shard: tuple[int, int]) -> str:
    """`1-of-4`; empty for the only shard."""
    return f"{shard[0]}-of-{shard[1]}" if shard[1] > 1 else ""


def is_made(out: Path, settings: dict[str, Any]) -> bool:
    """Whether the index at `out` is there already, whole, and made with these settings.

    Raises:
        DataError: Something else is there, or an index made with other settings.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    index = ObjectIndex.open(out)
    first = out if out.is_file() else next(iter(sorted(out.glob("*.parquet"))), None)
    if first is None or index.is_folder or made_with(first) != json.loads(json.dumps(settings)):
        raise DataError(
            f"{out}: is there already, and was not made with these settings; give another --out, or remove it"
        )
    return True


def _regrouped(paths: list[Path], rows: int = 4096) -> Iterator[pa.Table]:
    """The rows of several files, in tables of about `rows`, so that small parts do not make small row
    groups.
    """
    waiting: list[pa.Table] = []
    for path in paths:
        verify_parquet(path)
        for batch in pq.ParquetFile(path).iter_batches(rows):
            waiting.append(pa.Table.from_batches([batch]))
            if sum(map(len, waiting)) >= rows:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
