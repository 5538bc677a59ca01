"""Published protocols, one module each: `odis evaluate protocol NAME`. A folder holds those of one task and
what they share. Adding one touches its file and the list here.
"""

from typing import Any

from odis.evaluation.protocols.classification import knn_imagenet, linear_imagenet
from odis.evaluation.protocols.depth import nyu_depth_linear
from odis.evaluation.protocols.localization import corloc, maskcut
from odis.evaluation.protocols.protocol import Protocol
from odis.evaluation.protocols.retrieval import roxford, rparis
from odis.evaluation.protocols.segmentation import ade20k_linear, hummingbird, linear_seg, overcluster
from odis.evaluation.protocols.video import davis

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
