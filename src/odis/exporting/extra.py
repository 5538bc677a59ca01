"""What `odis[export]` installs, or one line that says how."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from odis.errors import OdisError, OdisWarning


def required(option: str, name: str) -> Any:
    """A module of the extra.

    Raises:
        OdisError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise OdisError(
            f"{option}: {name.partition('.')[0]} is not installed; pip install 'odis[export]'"
        ) from error


def transformers(option: str) -> Any:
    """The module `transformers`.

    Raises:
        OdisError: it is not installed.
    """
    return required(option, "transformers")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters log of their own steps; what matters of them is measured."""
    bars = sys.modules.get("transformers.utils.logging")
    shown = bars is not None and bars.is_progress_bar_enabled()
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root", "transformers")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", OdisWarning)  # what we say ourselves is meant for the user
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        if bars is not None:
            bars.disable_progress_bar()
        try:
            yield
        finally:
            if bars is not None and shown:
                bars.enable_progress_bar()
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
