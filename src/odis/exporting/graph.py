"""The graph of a model: `torch.export` with batch, size and number of objects left open."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import nn
from torch.export import Dim, ExportedProgram

from odis import kernels
from odis.backbones.relative import RelativeViT
from odis.errors import OdisError
from odis.exporting.network import BoxFeatures, Exported, ObjectFeatures, any_size
from odis.exporting.parity import Outputs

Objects = Literal["masks", "boxes"]
OUTPUTS = ("objects", "image", "patches")

_MOST = 1024  # patches of a side

# Nothing here is 1, a square, or the size the network was trained at: an example's number must not become the
# graph's, and no shortcut may be taken.
_BATCH, _OBJECTS, _ROWS, _COLUMNS = 2, 3, 3, 5


def object_input(objects: Objects) -> str:
    """Name of the input that says which objects are meant."""
    return "object_masks" if objects == "masks" else "boxes"


class OpenRotations(nn.Module):
    """DINOv3's rotations for any grid; timm's own take the number of rows for a constant.

    Args:
        rope: timm's module.
    """

    def __init__(self, rope: Any) -> None:
        super().__init__()
        self.rope = rope.eval()

    def get_embed(self, shape: list[int]) -> torch.Tensor:
        """(rows * columns, 2 * d): sines and cosines at the centres of patches, from -1 to 1."""
        rows, columns = shape
        y = (torch.arange(rows) + 0.5) / rows
        x = (torch.arange(columns) + 0.5) / columns
        grid = torch.stack([y[:, None].expand(-1, columns), x[None].expand(rows, -1)], dim=-1)
        sin, cos = self.rope._get_pos_embed_from_coords(2 * grid.flatten(0, 1) - 1)
        return torch.cat([sin, cos], dim=-1)


def module_of(exported: Exported, objects: Objects) -> nn.Module:
    """The module that is traced."""
    return (ObjectFeatures(exported) if objects == "masks" else BoxFeatures(exported)).eval()


def trace(exported: Exported, objects: Objects = "masks") -> ExportedProgram:
    """A program of `ObjectFeatures` or `BoxFeatures` for any batch, any number of objects (also none), and
    any size of two patches a side or more.
    """
    if not any_size(exported.network):
        why = "positions of BEiT" if isinstance(exported.network, RelativeViT) else "model.pos_resize dino"
        raise OdisError(f"{exported.encoder.source}: {why}: a graph of any size cannot hold them")
    if isinstance(getattr(exported.network, "rope", None), RotaryEmbeddingDinoV3):
        network: Any = copy.deepcopy(exported.network)
        network.rope = OpenRotations(network.rope)
        exported = replace(exported, network=network)
    patch = exported.encoder.patch_size
    batch, count = Dim("batch"), Dim("objects")
    rows, columns = Dim("rows", min=2, max=_MOST), Dim("columns", min=2, max=_MOST)
    pixels = torch.zeros(_BATCH, exported.encoder.pixels.channels, _ROWS * patch, _COLUMNS * patch)
    sides = {0: batch, 2: patch * rows, 3: patch * columns}
    if objects == "masks":
        given = torch.ones(_BATCH, _OBJECTS, _ROWS, _COLUMNS, dtype=torch.bool)
        shapes = (sides, {0: batch, 1: count, 2: rows, 3: columns})
    else:
        given = torch.tensor([0.0, 0.0, patch, 2.0 * patch]).repeat(_BATCH, _OBJECTS, 1)
        shapes = (sides, {0: batch, 1: count})
    with torch.no_grad(), kernels.reference():
        return torch.export.export(module_of(exported, objects), (pixels, given), dynamic_shapes=shapes)


def named(outputs: tuple[torch.Tensor, ...]) -> Outputs:
    """Outputs of a graph by their names."""
    return dict(zip(OUTPUTS, outputs, strict=True))
