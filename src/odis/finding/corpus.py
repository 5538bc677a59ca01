"""Finding objects in all images of a corpus: in parts that can be lost and made again, on this machine or on
many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from odis.errors import ConfigError, DataError
from odis.finding.finder import Finder, Found, PartWorker
from odis.machine.locks import sole_owner
from odis.objects.build import Summary
from odis.objects.clean import SkippedObject
from odis.objects.index import ObjectIndex
from odis.objects.parts import Parts, discard_leftovers, is_made
from odis.types import Skipped

Engine = Literal["local", "ray"]


def count_parts(index: ObjectIndex, part_size: int) -> int:
    """How many parts the images of an index make."""
    return -(-len(index) // part_size)


def find_objects(
    index: ObjectIndex,
    out: Path,
    build: Callable[[], Finder],
    *,
    settings: dict[str, Any],
    batch_size: int = 8,
    part_size: int = 512,
    engine: Engine = "local",
    workers: int = 1,
    gpus: float = 0,
    report: Callable[[Skipped], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary | None:
    """Find objects in every image and write the index; the same call goes on where one was interrupted.

    An image that cannot be read, or on which the finder fails, is left out, counted and reported. An image in
    which nothing is found is written without objects.

    Args:
        index: The images.
        out: The index to write: a file (`.parquet`) or a folder of them.
        build: Makes the finder; picklable, since Ray makes one in each of its workers.
        settings: All that the result depends on, besides the images: plain JSON values.
        batch_size: Images the finder is given at once.
        part_size: Images a part: what is lost at most by an interruption.
        engine: `local`, or `ray`: Ray Data, on the cluster that RAY_ADDRESS names or on this machine.
        workers: Finders that work at the same time (`ray` only).
        gpus: GPUs, or a share of one, for each of Ray's workers.
        report: Called with everything left out, when its part is done.
        progress: Called with the images that are done and all images.

    Returns:
        What was found; None if the index is there already, made with the same settings of the same images.

    Raises:
        ConfigError: For sizes under 1.
        DataError: No image could be used; the finder fails on all of them; something else is at `out`; it
            cannot be written.
        OdisError: Ray is not installed.
    """
    for name, value in (("batch-size", batch_size), ("part-size", part_size), ("workers", workers)):
        if value < 1:
            raise ConfigError(f"{name}: is {value}, must be 1 or more")
    if engine == "local" and workers > 1:
        raise ConfigError(f"workers: is {workers}, which goes with --engine ray; the local engine is one")
    settings = {**settings, "images": index.fingerprint(), "batch_size": batch_size, "part_size": part_size}
    with sole_owner(out):
        total = count_parts(index, part_size)
        if is_made(out, settings):
            discard_leftovers(out)
            return None
        parts = Parts(out, root=index.image_root, settings=settings)
        pending = [k for k in range(total) if k not in parts.done()]
        if engine == "ray":
            from odis.finding.ray_engine import ray_parts

            made = ray_parts(
                pending, index, build, part_size=part_size, batch_size=batch_size, workers=workers, gpus=gpus
            )
        else:
            made = _local_parts(pending, index, build, part_size, batch_size)
        done = total - len(pending)
        if progress is not None:
            progress(min(len(index), done * part_size), len(index))
        try:
            for k, found in made:
                write_part(parts, k, found)
                if report is not None:
                    for item in found.skipped:
                        report(item)
                done += 1
                if progress is not None:
                    progress(min(len(index), done * part_size), len(index))
        except BaseException:
            if not parts.done():
                parts.discard()
            raise
        return finish(parts, total)


def _local_parts(
    pending: list[int], index: ObjectIndex, build: Callable[[], Finder], part_size: int, batch_size: int
) -> Iterator[tuple[int, Found]]:
    if pending:
        worker = PartWorker(index, build(), part_size=part_size, batch_size=batch_size)
        for k in pending:
            yield k, worker(k)


def write_part(parts: Parts, part: int, found: Found) -> None:
    """Write a part with its account.

    Raises:
        DataError: See `Parts.write`.
    """
    objects = sum(isinstance(item, SkippedObject) for item in found.skipped)
    account = {
        "written": len(found.rows),
        "kept": sum(len(row.objects) for row in found.rows),
        "objects_skipped": objects,
        "images_skipped": len(found.skipped) - objects,
        "skipped": [[item.what, item.why] for item in found.skipped],
        "provenance": found.provenance,
    }
    parts.write(part, found.rows, account, provenance=found.provenance, classes=found.classes)


def finish(parts: Parts, total: int) -> Summary:
    """Make the index of all parts and say what it holds.

    Raises:
        DataError: There is no image in it: then it is not made, and nothing stays; or it cannot be written.
    """
    accounts = [parts.account(k) for k in range(total)]
    summary = Summary(str(parts.out), accounts[0]["provenance"] if accounts else "")
    for account in accounts:
        for name in ("written", "kept", "objects_skipped", "images_skipped"):
            setattr(summary, name, getattr(summary, name) + account[name])
    summary.images = summary.written + summary.images_skipped
    summary.objects = summary.kept + summary.objects_skipped
    if not summary.written:
        first = next((item for account in accounts for item in account["skipped"]), None)
        parts.discard()
        raise DataError(
            f"{parts.root}: no image that can be used"
            + (f"; the first: {first[0]}: {first[1]}" if first else "")
        )
    parts.finish(total)
    return summary
