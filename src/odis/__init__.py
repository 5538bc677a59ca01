"""odis: pretrain Vision Transformers by object-level self-distillation.

`odis.load` and `odis.Object` are here; they are imported when they are first asked for, so that `import odis`
costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Object", "__version__", "load"]

_HOMES = {"load": "odis.inference", "Object": "odis.types"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'odis' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
