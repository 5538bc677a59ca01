"""Weights & Biases, as the environment says: WANDB_MODE (`online`, `offline`), WANDB_PROJECT, WANDB_ENTITY.

The step is a metric of its own: wandb drops values whose own step is lower than the last.
"""

from __future__ import annotations

import os
import secrets
from typing import Any

import numpy as np

from odis.train.loggers.guard import LoggedRun

STEP = "step"


class WandbLogger:
    """One run, found again by its id."""

    rewinds = False

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, run: LoggedRun) -> None:
        """Begin the run, or go on with it. There is no second try: wandb fails again in the same process."""
        import wandb

        known = run.sent.run_id("wandb")
        name = known or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "odis"),
            name=run.name,
            id=name,
            resume="allow" if known else None,
            dir=str(run.folder),
            config=run.config,
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        if known is None:
            run.sent.has_id("wandb", name)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One entry of the history."""
        self._run.log({STEP: step, **values})

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """An image for each picture."""
        import wandb

        self._run.log({STEP: step, **{name: wandb.Image(picture) for name, picture in pictures.items()}})

    def finish(self, complete: bool) -> None:
        """End the run; one that will be resumed ends with exit code 1."""
        self._run.finish(exit_code=0 if complete else 1)


make = WandbLogger
