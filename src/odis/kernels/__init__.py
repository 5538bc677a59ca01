"""The same arithmetic, faster on some machines.

`method/` is the reference: it computes what the paper says with torch's own operations. A kernel here
computes the same to rounding, and `choose.py` alone decides where one is used. With all of them off:

    import odis.kernels

    with odis.kernels.reference():
        ...

or `ODIS_KERNELS=reference odis pretrain ...`: the first thing to try when a number looks wrong. A kernel
stays only while it gains 5 % of a step's time or memory on some machine it was measured on
(`benchmarks/step.py --without`).
"""

from odis.kernels.choose import attention, linear, mlp, packing, reference
from odis.kernels.packed_tokens import PackedTokens

__all__ = ["PackedTokens", "attention", "linear", "mlp", "packing", "reference"]
