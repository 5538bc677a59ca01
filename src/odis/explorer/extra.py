"""What `odis[explore]` installs, or one line that says how."""

from __future__ import annotations

from importlib.util import find_spec

from odis.errors import OdisError


def require_extra() -> None:
    """Refuse to go on without the packages of the extra.

    Raises:
        OdisError: one is not installed.
    """
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise OdisError(f"{name} is not installed; pip install 'odis[explore]'")
