"""odis: pretrain Vision Transformers by object-level self-distillation.

    import odis

    odis.index("coco", "coco", "coco-train.parquet", split="train2017")
    odis.pretrain("odis-small", "runs/coco", data="coco-train.parquet")
    features = odis.load("runs/coco").embed("photo.jpg", boxes=[[10, 20, 200, 220]])

Each name is imported when it is first asked for, so that `import odis` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odis.commands.functions import compare, embed, evaluate, index, pretrain
    from odis.downstream.finetune import finetune
    from odis.exporting.write import export
    from odis.inference.load import load
    from odis.types import Object

__version__ = "0.1.0"
__all__ = [
    "Object", "__version__", "compare", "embed", "evaluate", "export", "finetune", "index", "load",
    "pretrain",
]  # fmt: skip

_HOMES = {
    "Object": "odis.types",
    "compare": "odis.commands.functions",
    "embed": "odis.commands.functions",
    "evaluate": "odis.commands.functions",
    "export": "odis.exporting.write",
    "finetune": "odis.downstream.finetune",
    "index": "odis.commands.functions",
    "load": "odis.inference",
    "pretrain": "odis.commands.functions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'odis' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
