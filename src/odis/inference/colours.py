"""What works on 8-bit colours alone refuses networks of other images, in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from odis.config.pixels import RGB
from odis.config.wording import counted
from odis.errors import OdisError

if TYPE_CHECKING:
    from odis.inference.encoder import Encoder


def require_colours(encoder: Encoder, what: str) -> None:
    """Refuse a network that was not trained on 8-bit red, green and blue.

    Args:
        encoder: The network.
        what: What works on these alone.

    Raises:
        OdisError: It reads other images.
    """
    if encoder.pixels == RGB:
        return
    form = encoder.pixels
    reads = counted(form.channels, "channel")
    if form.ranges is not None:
        reads += " of stated ranges"
    raise OdisError(
        f"{encoder.source or 'this model'}: reads images of {reads}, but {what} takes networks of 8-bit RGB"
    )
