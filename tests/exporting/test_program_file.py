"""`torch.export` programs, at sizes and counts that were not traced."""

import copy
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from odis.errors import OdisError
from odis.exporting.graph import trace
from odis.exporting.network import Exported
from odis.exporting.parity import odis_outputs, probe, with_boxes
from odis.exporting.program_file import write_program

pytestmark = pytest.mark.slow  # tracing a graph takes seconds

KINDS = [
    ({"name": "vit_small_patch14_reg4_dinov2", "object_tokens": "single", "depth": 1}, "masks"),
    ({"name": "vit_tiny_patch16_224", "object_tokens": "read-only", "depth": 1, "margin": 1}, "boxes"),
    ({"name": "vit_small_patch16_dinov3", "object_tokens": "beside", "depth": 1}, "masks"),
]


@pytest.mark.parametrize(("kind", "objects"), KINDS, ids=str)
def test_the_program_answers_as_odis_does(
    kind: dict, objects, exported_of: Callable[..., Exported], tmp_path: Path, without_odis
):
    exported = exported_of(**kind)
    write_program(tmp_path / "model.pt2", exported, trace(exported, objects), objects)
    program = torch.export.load(tmp_path / "model.pt2").module()
    patch = exported.encoder.patch_size
    for rows, columns, images, count in ((4, 4, 1, 1), (2, 7, 3, 7), (6, 3, 1, 0)):
        given = probe(rows, columns, patch, images, count)
        given = with_boxes(given, exported) if objects == "boxes" else given
        with torch.no_grad():
            found = program(given.normalized(exported), given.masks if given.boxes is None else given.boxes)
        for value, expected in zip(found, odis_outputs(exported, given).values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    for path in (Path(__file__).parents[2], Path(torch.__file__).parent):
        assert str(path).encode() not in content
    with (
        pytest.raises(AssertionError, match="Guard failed"),
        torch.no_grad(),
    ):  # one patch a side was not traced
        program(torch.zeros(1, 3, patch, patch), torch.zeros(1, 1, 1, 1, dtype=torch.bool))


def test_what_a_graph_of_any_size_cannot_hold_is_refused(exported_of: Callable[..., Exported]):
    for kind, why in (
        ({"name": "beit_base_patch16_224"}, "positions of BEiT: a graph of any size cannot hold them"),
        ({"name": "vit_tiny_patch16_224", "pos_resize": "dino"}, "model.pos_resize dino: a graph"),
    ):
        with pytest.raises(OdisError, match=why):
            trace(exported_of(object_tokens="single", **kind), "masks")


def test_a_program_of_another_model_is_seen(exported_of: Callable[..., Exported], tmp_path: Path):
    exported = exported_of(**KINDS[0][0])
    other = replace(exported, network=copy.deepcopy(exported.network))
    with torch.no_grad():
        other.network.norm.bias.add_(0.1)
    program = trace(other, "masks")
    with pytest.raises(OdisError, match=r"torch\.export at 56 x 56 pixels, 1 object differs from odis by"):
        write_program(tmp_path / "model.pt2", exported, program, "masks")
