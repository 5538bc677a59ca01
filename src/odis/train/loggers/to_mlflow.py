"""MLflow, as the environment says: MLFLOW_TRACKING_URI (by default `mlruns/` in the run's folder) and
MLFLOW_EXPERIMENT_NAME.

Settings are cut to what old servers take, and a value that is NaN or infinite becomes a tag: servers refuse
it, or their pages break.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from odis.train.loggers.guard import LoggedRun, cut, finite

_LONGEST = 250  # characters of a parameter

_AT_ONCE = 100  # parameters of a request


class MlflowLogger:
    """One run, found again by its id."""

    rewinds = False

    def __init__(self) -> None:
        self._client: Any = None
        self._id = ""

    def start(self, run: LoggedRun) -> None:
        """Begin the run, or go on with it."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which MLflow 3 keeps for old runs only
            place = (run.folder / "mlruns").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=place)
        if (known := run.sent.run_id("mlflow")) is not None:
            self._client.update_run(known, status="RUNNING")
            self._id = known
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "odis")
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        self._id = self._client.create_run(number, run_name=run.name).info.run_id
        run.sent.has_id("mlflow", self._id)
        params = [Param(name, cut(value, _LONGEST)) for name, value in run.config.items()]
        for k in range(0, len(params), _AT_ONCE):
            self._client.log_batch(self._id, params=params[k : k + _AT_ONCE])

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One batch of metrics; what is no number becomes a tag."""
        from mlflow.entities import Metric

        numbers, others = finite(values)
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(k, v, now, step) for k, v in numbers.items()])
        for name, text in others.items():
            self._client.set_tag(self._id, f"nonfinite.{name}", f"{text} at step {step}")

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """A PNG for each picture."""
        from PIL import Image

        for name, picture in pictures.items():
            self._client.log_image(self._id, Image.fromarray(picture), f"{name}/{step:08d}.png")

    def finish(self, complete: bool) -> None:
        """End the run: an open one blocks the next call."""
        self._client.set_terminated(self._id, "FINISHED" if complete else "KILLED")


make = MlflowLogger
