"""What an export is asked for. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from odis.errors import OdisError

TARGETS = ("timm", "transformers", "onnx", "torch-export", "hub-folder")
NATIVES = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
OBJECTS = ("masks", "boxes")
VARIANTS = ("fp16", "int8")

_BELONG = {
    "native": ("transformers", "hub-folder"),
    "objects": ("onnx", "torch-export", "hub-folder"),
    "variants": ("onnx", "hub-folder"),
    "data": ("onnx", "hub-folder"),
    "results": ("hub-folder",),
    "license": ("hub-folder",),
}


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Settings of an export.

    Args:
        size: Side in pixels that preprocessing resizes images to; by default the size the model was trained
            at.
        native: Architecture of transformers: vit, dinov2, dinov2_with_registers (of the three the one that
            equals odis at every size) or dinov3_vit; by default the nearest.
        objects: What ONNX and torch.export take as objects: masks of patches, or boxes in pixels.
        variants: Further ONNX files, comma-separated: fp16, int8.
        data: Labelled object index (.parquet) or folder: print what the variants lose of its k-NN.
        results: Results files of odis evaluate for the model card, comma-separated, besides those in the
            run's folder.
        license: Licence of the weights for the model card, such as apache-2.0; by default the card says that
            none was stated.
    """

    size: int | None = None
    native: str | None = None
    objects: str = "masks"
    variants: Sequence[str] = ()
    data: str = ""
    results: Sequence[str] = ()
    license: str = ""

    def check(self, target: str) -> None:
        """Refuse what is unknown, or goes with another target.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        if target not in TARGETS:
            raise OdisError(f"to {target!r} must be one of {', '.join(TARGETS)}")
        for one in fields(self):
            value: Any = getattr(self, one.name)
            if one.name in _BELONG and value != one.default and target not in _BELONG[one.name]:
                raise OdisError(f"{one.name}: goes with --to {' or '.join(_BELONG[one.name])}")
        if self.native is not None and self.native not in NATIVES:
            raise OdisError(f"native {self.native!r} must be one of {', '.join(NATIVES)}")
        if self.objects not in OBJECTS:
            raise OdisError(f"objects {self.objects!r} must be one of {', '.join(OBJECTS)}")
        for variant in self.variants:
            if variant not in VARIANTS:
                raise OdisError(f"variants {variant!r} is none of {', '.join(VARIANTS)}")
        if self.data and not self.variants:
            raise OdisError("data: measures what variants lose; give --variants fp16,int8 too")
