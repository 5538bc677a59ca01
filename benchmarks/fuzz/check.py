"""One input: a data set is made, mutated and read, and what came of it is held to the rules."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fuzz.exports import ALL_SETS
from fuzz.files import FILES
from fuzz.mutate import mutate
from fuzz.sets import DataSet
from odis.errors import OdisError, OdisWarning
from odis.objects.build import Summary, build_index
from odis.objects.clean import Mended, SkippedObject, Unread, usable_objects
from odis.objects.index import ObjectIndex
from odis.objects.sources import FORMATS
from odis.objects.storage.address import file_of, resolve
from odis.types import Skipped

EVERYTHING = ALL_SETS | FILES

MOST = 3  # mutations of an input

_UNSEEN = (OdisWarning, ResourceWarning, DeprecationWarning)  # of odis, or not shown by Python


@dataclass
class Outcome:
    """What came of an input. `fault` is empty, or `traceback`, `hang` or `counts`; `said` says more."""

    number: int
    layout: str
    changes: list[str] = field(default_factory=list)
    fault: str = ""
    said: str = ""
    refused: bool = False


def scratch() -> Path:
    """A new folder for inputs, in memory where that can be: a disk takes longer than the reading."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="odis-fuzz-", dir=shared if shared.is_dir() else None))


def layouts(form: str | None = None) -> list[str]:
    """Names of the layouts, all or those of a format."""
    return [name for name, one in EVERYTHING.items() if form in (None, one.form)]


def run_input(number: int, seed: int, work: Path, form: str | None = None) -> Outcome:
    """Make, mutate and read the input of a number; the same one whenever it is asked for.

    Args:
        number: Which input.
        seed: Another seed makes other inputs.
        work: A folder for its files; emptied before and kept after.
        form: Only layouts of this format.
    """
    rng = np.random.default_rng([seed, number])
    names = layouts(form)
    outcome = Outcome(number, names[number % len(names)])
    one = EVERYTHING[outcome.layout]
    shutil.rmtree(work, ignore_errors=True)
    root, out = work / "data", work / "out"
    out.mkdir(parents=True)
    root.mkdir()
    one.make(root)
    if number >= len(names):  # the first of each is read as it was made
        outcome.changes = [mutate(root, rng) for _ in range(int(rng.integers(1, MOST + 1)))]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            problem = read_and_check(one, root, out, rng)
        except OdisError as error:
            outcome.refused, problem = True, "" if str(error).strip() else "an error without a message"
            if left := [p.name for p in out.iterdir() if p.suffix == ".parquet"]:
                problem = f"refused, and left {left}"
        except Exception:
            outcome.fault, outcome.said = "traceback", traceback.format_exc()
            return outcome
    raw = [one for one in warned if not issubclass(one.category, _UNSEEN)]
    if raw:
        outcome.fault, outcome.said = (
            "traceback",
            f"raw warning: {raw[0].category.__name__}: {raw[0].message}",
        )
    elif not outcome.changes and outcome.refused:
        outcome.fault, outcome.said = "counts", "the data set as it was made is refused"
    elif problem:
        outcome.fault, outcome.said = "counts", problem
    return outcome


def read_and_check(one: DataSet, root: Path, out: Path, rng: np.random.Generator) -> str:
    """Read a data set or another file, and compare its summary with what was reported and written; what
    differs.
    """
    if one.check is not None:
        return one.check(root, out, rng)
    trust = bool(FORMATS[one.form].states_sizes and rng.random() < 0.2)
    skipped: list[Skipped] = []
    summary = build_index(
        one.form, root, out / "x.parquet", one.split, report=skipped.append, trust=trust, **one.options
    )
    index = ObjectIndex.open(out / "x.parquet")
    rows = list(index)
    told = Counter(
        "mended" if isinstance(s, Mended) else "unread" if isinstance(s, Unread) else
        "object" if isinstance(s, SkippedObject) else "image"
        for s in skipped
    )  # fmt: skip
    kept = sum(len(row.objects) for row in rows)
    pairs = {
        "images written": (summary.written, len(rows)),
        "objects kept": (summary.kept, kept),
        "images found": (summary.images, len(rows) + told["image"]),
        "objects found": (summary.objects, kept + told["object"] + summary.crowds),
        "mended": (summary.mended, told["mended"]),
        "not read": (sum(summary.unread.values()), sum(s.count for s in skipped if isinstance(s, Unread))),
    }
    wrong = [f"{name}: {a} in the summary, {b} by count" for name, (a, b) in pairs.items() if a != b]
    images = Counter(row.image for row in rows)
    wrong += [f"{name!r} is {n} rows" for name, n in images.items() if n > 1]
    for row in rows:
        if problems := usable_objects(row, len(index.classes)).problems:
            wrong.append(f"{row.image!r} was written with {next(iter(problems.values()))}")
        if not trust and not os.path.isfile(file_of(resolve(index.root, row.image))):
            wrong.append(f"{row.image!r} was written and is no file")
    if not wrong and rng.random() < 0.2:
        again = build_index(one.form, root, out / "parts", one.split, trust=trust, part_size=2, **one.options)
        if _figures(again) != _figures(summary) or list(ObjectIndex.open(out / "parts")) != rows:
            wrong.append(f"in parts: {_figures(again)}, whole: {_figures(summary)}")
    return "; ".join(wrong[:3])


def _figures(summary: Summary) -> dict[str, object]:
    names = (
        "images",
        "written",
        "images_skipped",
        "objects",
        "kept",
        "objects_skipped",
        "crowds",
        "mended",
        "unread",
    )
    return {name: getattr(summary, name) for name in names}
