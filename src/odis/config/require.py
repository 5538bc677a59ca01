"""The one way in which a setting is refused."""

from __future__ import annotations

from odis.errors import ConfigError


def require(ok: bool, name: str, message: str) -> None:
    """Refuse a setting unless `ok`.

    Args:
        ok: Whether its value can be used.
        name: Its dotted name.
        message: What it is, and what is allowed: `is 3, must be 1 or 2`.

    Raises:
        ConfigError: `NAME: MESSAGE`.
    """
    if not ok:
        raise ConfigError(f"{name}: {message}")
