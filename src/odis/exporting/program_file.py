"""A `torch.export` program on disk: PyTorch runs it without odis and without timm."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import ExportedProgram, load
from torch.export import save as save_program

from odis.backbones.weights import one_line
from odis.errors import OdisError
from odis.exporting.extra import quiet
from odis.exporting.graph import Objects, named
from odis.exporting.network import Exported
from odis.exporting.parity import Deviation, Outputs, Probe, compare, probes, with_boxes
from odis.machine.files import written_whole

FILE = "model.pt2"


def write_program(
    path: Path, exported: Exported, program: ExportedProgram, objects: Objects
) -> list[Deviation]:
    """Write the program, open it again and compare it at sizes and counts that were not traced.

    Args:
        path: The file, `.pt2`.
        exported: The model.
        program: Its graph.
        objects: How the graph is given objects.

    Raises:
        OdisError: torch does not take it, or it answers otherwise.
    """
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # it names files of this machine
    try:
        with quiet():
            with written_whole(path) as beside, beside.open("wb") as file:
                save_program(program, file)
            module = load(path).module()
    except Exception as error:  # torch raises whatever it likes
        raise OdisError(f"torch does not open what was written: {one_line(error)}") from error
    side = exported.size // exported.encoder.patch_size
    sizes = [(side, side), (side + 3, 2), (2, side + 1), (side + side // 2 + 1, side)]
    given = list(probes(exported, sizes=sizes, counts=[1, 7, 0, 2]))
    if objects == "boxes":
        given = [with_boxes(one, exported) for one in given]

    @torch.no_grad()
    def ask(one: Probe) -> Outputs:
        return named(module(one.normalized(exported), one.masks if one.boxes is None else one.boxes))

    return compare("torch.export", exported, ask, given)
