"""Published protocols, one module each: `odis evaluate protocol NAME`. Adding one touches its file and the
list here.
"""

from typing import Any

from odis.evaluation.protocols import knn_imagenet, linear_imagenet, roxford, rparis
from odis.evaluation.protocols.protocol import Protocol

PROTOCOLS: dict[str, Protocol[Any, Any]] = {
    module.PROTOCOL.name: module.PROTOCOL for module in (knn_imagenet, linear_imagenet, roxford, rparis)
}
"""In the order of `odis evaluate protocol --help`."""
