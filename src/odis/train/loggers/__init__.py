"""Where else the metrics of a run go, besides `metrics.jsonl`: one file a logger, behind one small interface.

A logger is a convenience: `metrics.jsonl` has every value. So a logger never holds up a run and never ends
one: each has a thread of its own (`guard.py`), and what it loses is counted and said. The first rank alone
has loggers.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from odis.errors import OdisError
from odis.train.loggers.guard import MetricLogger

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""The names of the loggers, in `train.loggers`, and the package that each needs."""


def require_packages(names: list[str]) -> None:
    """Refuse a logger whose package is missing, before a run begins.

    Raises:
        OdisError: Naming it, with the command that installs it.
    """
    for name in names:
        try:
            there = find_spec(PACKAGES[name]) is not None
        except ValueError:  # a module that says nothing of where it is from
            there = False
        if not there:
            raise OdisError(f"train.loggers: {name} is not installed; run: pip install 'odis[{name}]'")


def maker(name: str) -> Callable[[], MetricLogger]:
    """What makes a logger; its package is imported when it is called."""

    def make() -> MetricLogger:
        logger: MetricLogger = import_module(f"odis.train.loggers.to_{name}").make()
        return logger

    return make
