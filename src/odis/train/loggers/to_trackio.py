"""trackio, in its own folder on this machine (TRACKIO_DIR), or as TRACKIO_SPACE_ID says."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from odis.train.loggers.guard import LoggedRun, finite


class TrackioLogger:
    """One run, found again by its name."""

    rewinds = False

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, run: LoggedRun) -> None:
        """Begin the run, or go on with it."""
        import trackio

        known = run.sent.run_id("trackio")
        name = known or f"{run.name}-{os.urandom(3).hex()}"  # a name is all that trackio tells runs apart by
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "odis"),
            name=name,
            config={key: str(value) for key, value in run.config.items()},
            resume="allow" if known else "never",
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            embed=False,
        )
        if known is None:
            run.sent.has_id("trackio", name)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One entry; what is no number is text."""
        numbers, others = finite(values)
        self._run.log({**numbers, **others}, step=step)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """An image for each picture."""
        import trackio

        self._run.log({name: trackio.Image(picture) for name, picture in pictures.items()}, step=step)

    def finish(self, complete: bool) -> None:
        """End the run: what waits is written."""
        self._run.finish()


make = TrackioLogger
