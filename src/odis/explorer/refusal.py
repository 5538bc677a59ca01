"""What the server refuses, with the HTTP status that says so."""

from __future__ import annotations

from odis.errors import OdisError


class RefusedError(OdisError):
    """A request that is not answered.

    Args:
        status: HTTP status.
        why: In one line, for the page.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
