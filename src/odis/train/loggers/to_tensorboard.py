"""TensorBoard: event files in `tensorboard/` of the run's folder."""

from __future__ import annotations

from typing import Any

import numpy as np

from odis.train.loggers.guard import LoggedRun


class TensorBoardLogger:
    """Writes events; a resumed run has those behind its step purged."""

    rewinds = True

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, run: LoggedRun) -> None:
        """Open an event file."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.start_step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """A scalar for each value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """An image for each picture."""
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def finish(self, complete: bool) -> None:
        """Close the file."""
        self._writer.close()


make = TensorBoardLogger
