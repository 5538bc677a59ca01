"""Parts of an index made by Ray Data: the same work as on one machine, by as many workers as there are.

Every worker makes its own finder and reads the images itself, so the folder of images must be reachable from
each. What they find comes back to this process, which writes it. A worker that dies is started again by Ray,
and so is the part it was at.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

from odis.errors import DataError, OdisError
from odis.finding.finder import Finder, Found, PartWorker
from odis.objects.index import ObjectIndex


class _RayWorker:
    """What Ray runs in each worker: parts by number, as pickled `Found` or the line of an error."""

    def __init__(
        self, index: ObjectIndex, build: Callable[[], Finder], part_size: int, batch_size: int
    ) -> None:
        self._error = ""
        self._work: PartWorker | None = None
        try:
            self._work = PartWorker(index, build(), part_size=part_size, batch_size=batch_size)
        except OdisError as error:  # raised here, Ray would start the worker again and again
            self._error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        answers = [self._answer(int(part)) for part in batch["part"]]
        return {"part": batch["part"], "answer": answers}

    def _answer(self, part: int) -> bytes:
        if self._work is None:
            return pickle.dumps(self._error)
        try:
            return pickle.dumps(self._work(part))
        except OdisError as error:
            return pickle.dumps(str(error))


def ray_parts(
    pending: list[int],
    index: ObjectIndex,
    build: Callable[[], Finder],
    *,
    part_size: int,
    batch_size: int,
    workers: int,
    gpus: float = 0,
) -> Iterator[tuple[int, Found]]:
    """Parts in the order they are finished; arguments as of `corpus.find_objects`.

    Raises:
        OdisError: Ray is not installed, or cannot be reached.
        DataError: A worker cannot make its finder, or the finder fails on everything.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise OdisError("--engine ray: Ray Data is not installed; pip install 'odis[ray]'") from error
    if not pending:
        return
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except Exception as error:  # no cluster at RAY_ADDRESS, no room in shared memory, ...
            raise OdisError(
                f"--engine ray: Ray cannot be started or reached ({' '.join(str(error).split())})"
            ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it would print its plan for every run
    try:
        rows: Any = ray.data.from_items([{"part": k} for k in pending], override_num_blocks=len(pending))
        made = rows.map_batches(
            _RayWorker,
            fn_constructor_args=(index, build, part_size, batch_size),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(pending))),
            num_gpus=gpus or None,
        )
        for row in made.iter_rows():
            found = pickle.loads(row["answer"])  # of our own workers
            if isinstance(found, str):
                raise DataError(found)
            yield int(row["part"]), found
    finally:
        if started:
            ray.shutdown()
