"""Weights of three channels for images of another number, as timm adapts them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from timm.models import adapt_input_conv
from torch import Tensor

from odis.errors import ConfigError

PROJECTION = "patch_embed.proj.weight"


def adapt_channels(state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """A state dict whose patch projection takes so many channels.

    Its weights of red, green and blue are repeated and scaled by 3 / channels; for one channel they are
    summed. A grey image then gives what it gave (with a multiple of three, or one, exactly).

    Raises:
        ValueError: It takes neither that many channels nor three.
    """
    weight = state.get(PROJECTION)
    if weight is None or weight.ndim != 4 or weight.shape[1] == channels:
        return state
    if weight.shape[1] != 3:
        raise ValueError(f"takes images of {weight.shape[1]} channels, but views.channels is {channels}")
    return state | {PROJECTION: adapt_input_conv(channels, weight)}


@contextmanager
def refused_random_channels() -> Iterator[None]:
    """Within the block it is an error that timm cannot adapt weights, and would leave random ones.

    Raises:
        ConfigError: At the end of the block, if it said so.
    """
    said = _Said()
    logger = logging.getLogger("timm.models._builder")
    logger.addHandler(said)
    try:
        yield
    finally:
        logger.removeHandler(said)
    if said.fault:
        raise ConfigError(said.fault)


class _Said(logging.Handler):
    """Keeps the warning of timm that random weights are used."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.fault = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "Unable to convert pretrained" in message:
            self.fault = message
