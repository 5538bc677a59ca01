"""Published protocols, one module each: `odis evaluate protocol NAME`. Adding one touches its file and the
list here.
"""

from typing import Any

from odis.evaluation.protocols import (
    ade20k_linear,
    corloc,
    davis,
    hummingbird,
    knn_imagenet,
    linear_imagenet,
    linear_seg,
    maskcut,
    nyu_depth_linear,
    overcluster,
    roxford,
    rparis,
)
from odis.evaluation.protocols.protocol import Protocol

_MODULES = (
    knn_imagenet,
    linear_imagenet,
    hummingbird,
    linear_seg,
    overcluster,
    corloc,
    maskcut,
    davis,
    ade20k_linear,
    nyu_depth_linear,
    roxford,
    rparis,
)

PROTOCOLS: dict[str, Protocol[Any, Any]] = {module.PROTOCOL.name: module.PROTOCOL for module in _MODULES}
"""In the order of `odis evaluate protocol --help`."""
