"""ONNX files, run by ONNX Runtime at sizes and counts that were not traced. Tracing takes seconds, so one
file is made of each kind and asked many things.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from odis.errors import OdisError  # noqa: E402
from odis.exporting import onnx_file  # noqa: E402
from odis.exporting.graph import trace  # noqa: E402
from odis.exporting.network import Exported  # noqa: E402
from odis.exporting.onnx_file import file_name, open_session, run_onnx, write_onnx, write_variant  # noqa: E402
from odis.exporting.parity import odis_outputs, probe, with_boxes  # noqa: E402

pytestmark = pytest.mark.slow  # tracing a graph takes seconds

REGISTERS, PLAIN = "vit_small_patch14_reg4_dinov2", "vit_tiny_patch16_224"
MASKS = {"name": REGISTERS, "object_tokens": "read-only", "depth": 1}
BOXES = {"name": PLAIN, "object_tokens": "single", "depth": 1, "margin": 1, "shape": "component-boxes"}


class Made:
    """A file, the model it was made of, and a session."""

    def __init__(self, path: Path, exported: Exported, objects: Any) -> None:
        self.path, self.exported, self.objects = path, exported, objects
        write_onnx(path, exported, trace(exported, objects), objects)
        self.session = open_session(path)
        self.proto = onnx.load(path)


@pytest.fixture(scope="module")
def masks(exported_of: Callable[..., Exported], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Read-only tokens, with registers, objects as masks."""
    return Made(tmp_path_factory.mktemp("masks") / "model.onnx", exported_of(**MASKS), "masks")


@pytest.fixture(scope="module")
def boxes(exported_of: Callable[..., Exported], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The single token, without registers, objects as boxes."""
    return Made(tmp_path_factory.mktemp("boxes") / "model.onnx", exported_of(**BOXES), "boxes")


# Below the native size of 4 x 4 patches, that size, and above it.
SIZES = [(2, 3), (4, 4), (9, 6)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("images", "objects"), [(1, 0), (3, 1), (1, 7)])
@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_the_file_answers_as_odis_does(
    kind: str, images: int, objects: int, size: tuple[int, int], request: pytest.FixtureRequest
):
    """Of the objects one has no patch, which gives NaN where a softmax has nothing to sum."""
    made: Made = request.getfixturevalue(kind)
    given = probe(*size, made.exported.encoder.patch_size, images, objects)
    if kind == "boxes":
        given = with_boxes(given, made.exported)
    last = given.masks if given.boxes is None else given.boxes
    found = run_onnx(made.session, given.normalized(made.exported).numpy(), last.numpy())
    for name, expected in odis_outputs(made.exported, given).items():
        assert found[name].shape == expected.shape
        assert found[name].isfinite().all()
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-4)


def test_batch_size_and_objects_are_open(masks: Made, boxes: Made):
    def axes(values) -> dict[str, list]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    assert axes(masks.proto.graph.input) == {
        "pixel_values": ["batch", 3, "height", "width"],
        "object_masks": ["batch", "objects", "rows", "columns"],
    }
    assert axes(boxes.proto.graph.input)["boxes"] == ["batch", "objects", 4]
    for made in (masks, boxes):
        assert axes(made.proto.graph.output) == {
            "objects": ["batch", "objects", 32],
            "image": ["batch", 32],
            "patches": ["batch", "patches", 32],
        }
        onnx.checker.check_model(made.proto, full_check=True)
        assert made.proto.opset_import[0].version >= 20


def test_nothing_of_this_machine_is_in_the_file(masks: Made):
    content = masks.path.read_bytes()
    for path in (Path(onnx_file.__file__).parent, Path(torch.__file__).parent, Path.cwd()):
        assert str(path).encode() not in content
    about = masks.session.get_modelmeta().custom_metadata_map
    assert about["patch_size"] == "14"
    assert [float(v) for v in about["mean"].split()] == list(masks.exported.encoder.mean)
    assert about["provenance"] == "annotated"


def test_fp16_keeps_norms_in_fp32_and_the_features(masks: Made, tmp_path: Path):
    path = tmp_path / file_name("fp16")
    write_variant(path, masks.path, masks.exported, "masks", "fp16")
    graph = onnx.load(path).graph
    weights = {one.name: one.data_type for one in graph.initializer}
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    assert len(norms) == 3
    for node in norms:
        assert [weights[name] for name in node.input[1:]] == [onnx.TensorProto.FLOAT] * 2
    large = [one.data_type for one in graph.initializer if np.prod(one.dims) >= 32 * 32]
    assert large.count(onnx.TensorProto.FLOAT16) >= 4
    assert path.stat().st_size < 0.75 * masks.path.stat().st_size
    given = probe(5, 3, 14, 3, 3)  # black and white, a ramp, noise
    found = run_onnx(open_session(path), given.normalized(masks.exported).numpy(), given.masks.numpy())
    for name, expected in odis_outputs(masks.exported, given).items():
        assert found[name].isfinite().all()
        assert torch.cosine_similarity(found[name], expected, dim=-1).min() > 0.999


def test_int8_leaves_the_convolution_alone(masks: Made, tmp_path: Path):
    path = tmp_path / file_name("int8")
    write_variant(path, masks.path, masks.exported, "masks", "int8")
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("Conv") == 1
    assert not {"ConvInteger", "QLinearConv"} & set(kinds)
    assert kinds.count("MatMulInteger") == 4  # qkv, projection, and two of the MLP
    given = probe(3, 6, 14, 2, 2)
    found = run_onnx(open_session(path), given.normalized(masks.exported).numpy(), given.masks.numpy())
    for name, expected in odis_outputs(masks.exported, given).items():
        assert torch.cosine_similarity(found[name], expected, dim=-1).min() > 0.9


@pytest.mark.parametrize("variant", ["fp16", "int8"])
def test_a_variant_that_loses_too_much_is_refused(
    variant: Any, masks: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(onnx_file._COSINE, variant, 1.1)
    with pytest.raises(OdisError, match=f"ONNX Runtime, {variant} at 56 x 56 .* has a cosine of"):
        write_variant(tmp_path / "x.onnx", masks.path, masks.exported, "masks", variant)


def test_a_file_of_another_model_or_a_damaged_one_is_seen(
    masks: Made, tmp_path: Path, exported_of: Callable[..., Exported]
):
    proto = onnx.load(masks.path)
    weight = next(one for one in proto.graph.initializer if list(one.dims) == [32, 96])
    values = onnx.numpy_helper.to_array(weight) * 1.05
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(OdisError, match="ONNX Runtime at 56 x 56 pixels, 1 object differs from odis by"):
        onnx_file.check_onnx(tmp_path / "other.onnx", masks.exported, "masks", "ONNX Runtime")
    (tmp_path / "cut.onnx").write_bytes(masks.path.read_bytes()[:5000])
    with pytest.raises(OdisError, match="ONNX Runtime does not open what was written"):
        open_session(tmp_path / "cut.onnx")


def test_large_weights_lie_beside_the_file(masks: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of protobuf cannot hold 2 GiB."""
    monkeypatch.setattr(onnx_file, "_LARGEST", 1000)
    onnx_file._save(onnx, onnx.load(masks.path), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size > 100_000
    found = onnx_file.check_onnx(tmp_path / "model.onnx", masks.exported, "masks", "x")
    assert max(one.share for one in found) < 1e-4
    onnx_file.write_variant(
        tmp_path / "model-int8.onnx", tmp_path / "model.onnx", masks.exported, "masks", "int8"
    )
