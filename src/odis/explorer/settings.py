"""Settings of `odis explore`."""

from __future__ import annotations

from dataclasses import dataclass, field

from odis.config.query import QueryConfig, ReadConfig
from odis.errors import OdisError

FIRST_PORT, PORTS = 8768, 20
"""Ports that are tried where none is given."""

QUESTION_MODES = ("masked-attention", "crop", "blackout", "mean-pool")
"""Ways to ask about an object that the page puts side by side; `whole-image` asks about none."""


@dataclass(frozen=True, slots=True)
class ExploreSettings:
    """How networks are asked, and where the page is.

    Args:
        query: Size and context of questions.
        read: Where networks run, and how many images they see at once while the index is embedded. Small
            batches keep the page quick.
        port: Port on 127.0.0.1; by default the first free one from 8768 on.
    """

    query: QueryConfig = field(default_factory=QueryConfig, metadata={"only": ("size", "context")})
    read: ReadConfig = field(
        default_factory=lambda: ReadConfig(batch_size=8),
        metadata={"only": ("batch_size", "device", "precision")},
    )
    port: int | None = None

    def check(self) -> None:
        """Refuse values that cannot be used.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        self.query.check()
        self.read.check()
        if self.port is not None and not 1 <= self.port <= 65535:
            raise OdisError(f"port {self.port} must be from 1 to 65535")
