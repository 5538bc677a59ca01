"""ONNX files: `torch.onnx` of the exported program, then what fp16 and int8 make of it.

Batch, size and number of objects are open. Every file is run by ONNX Runtime on the CPU at sizes and counts
that were not traced, and compared with odis.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.export import ExportedProgram

from odis.backbones.weights import one_line
from odis.errors import OdisError
from odis.exporting.extra import quiet, required
from odis.exporting.graph import OUTPUTS, Objects, named, object_input
from odis.exporting.network import Exported
from odis.exporting.parity import Deviation, Outputs, Probe, compare, probes, with_boxes

Variant = Literal["fp16", "int8"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

_OPTION = "--to onnx"
_LARGEST = 1 << 30  # bytes of weights in the file itself; protobuf cannot hold more than 2 GiB
_AXES = {
    "pixel_values": ("batch", None, "height", "width"),
    "object_masks": ("batch", "objects", "rows", "columns"),
    "boxes": ("batch", "objects", None),
    "objects": ("batch", "objects", None),
    "image": ("batch", None),
    "patches": ("batch", "patches", None),
}

# In fp16 these lose too much, or pass its largest number.
_KEPT = (
    "LayerNormalization",
    "Softmax",
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "Resize",
    "Range",
    "Pow",
    "Sqrt",
)
_COSINE = {"fp16": 0.999, "int8": 0.9}  # smallest similarity to fp32


def file_name(variant: Variant | None = None) -> str:
    """Of the fp32 file, or of one made of it."""
    return "model.onnx" if variant is None else f"model-{variant}.onnx"


def write_onnx(path: Path, exported: Exported, program: ExportedProgram, objects: Objects) -> list[Deviation]:
    """Write the fp32 file and compare it.

    Args:
        path: The file; weights of more than 1 GiB go into another beside it, as ONNX has it.
        exported: The model.
        program: Its graph.
        objects: How the graph is given objects.

    Raises:
        OdisError: ONNX Runtime does not take it, or answers otherwise.
    """
    onnx = required(_OPTION, "onnx")
    required(_OPTION, "onnxscript")
    names = ["pixel_values", object_input(objects)]
    try:
        with quiet(), torch.no_grad():
            made = torch.onnx.export(
                program, dynamo=True, input_names=names, output_names=list(OUTPUTS), verbose=False
            )
    except Exception as error:  # the exporter raises whatever it likes
        raise OdisError(f"{_OPTION}: torch cannot export this network: {one_line(error)}") from error
    assert made is not None
    model = made.model_proto
    _describe(model, exported)
    _save(onnx, model, path)
    return check_onnx(path, exported, objects, "ONNX Runtime")


def write_variant(
    path: Path, source: Path, exported: Exported, objects: Objects, variant: Variant
) -> list[Deviation]:
    """Write fp16 or int8 beside the fp32 file, and compare it by its cosine to odis.

    Raises:
        OdisError: ONNX Runtime does not take it, or it is too far from fp32.
    """
    onnx = required(_OPTION, "onnx")
    if variant == "fp16":
        float16 = required(_OPTION, "onnxruntime.transformers.float16")
        with quiet():
            model = float16.convert_float_to_float16(
                onnx.load(source), keep_io_types=True, op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *_KEPT]
            )
        _save(onnx, model, path)
    else:
        quantization = required(_OPTION, "onnxruntime.quantization")
        with quiet():
            # The convolution of patches stays in fp32: in int8 the file could not be run everywhere.
            quantization.quantize_dynamic(
                source, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
                use_external_data_format=_weights(exported) > _LARGEST,
                weight_type=quantization.QuantType.QInt8,
            )  # fmt: skip
    return check_onnx(path, exported, objects, f"ONNX Runtime, {variant}", cosine=_COSINE[variant])


def check_onnx(
    path: Path, exported: Exported, objects: Objects, what: str, *, cosine: float | None = None
) -> list[Deviation]:
    """Run a file at sizes and counts that were not traced, and compare.

    Args:
        path: The file.
        exported: The model.
        objects: How it is given objects.
        what: Its name, for messages.
        cosine: Smallest similarity, for a file of less precision; by default fp32's tolerance holds.

    Raises:
        OdisError: It does not run, or answers otherwise.
    """
    session = open_session(path)
    side = exported.size // exported.encoder.patch_size
    sizes = [(side, side), (side + 3, 2), (2, side + 1), (side + side // 2 + 1, side)]
    given = list(probes(exported, sizes=sizes, counts=[1, 7, 0, 2]))
    if objects == "boxes":
        given = [with_boxes(one, exported) for one in given]
    return compare(
        what,
        exported,
        lambda one: ask_onnx(session, exported, one),
        given,
        tolerance=None if cosine is not None else 1e-4,
        cosine=-1.0 if cosine is None else cosine,
    )


def open_session(path: Path) -> Any:
    """An ONNX Runtime session on the CPU.

    Raises:
        OdisError: It takes no such file.
    """
    runtime = required(_OPTION, "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises whatever it likes
        raise OdisError(f"ONNX Runtime does not open what was written: {one_line(error)}") from error


def ask_onnx(session: Any, exported: Exported, given: Probe) -> Outputs:
    """What a file answers."""
    last = given.masks.numpy() if given.boxes is None else given.boxes.numpy()
    return run_onnx(session, given.normalized(exported).numpy(), last)


def run_onnx(session: Any, pixels: np.ndarray, objects: np.ndarray) -> Outputs:
    """Outputs of a file for normalised pixels and masks or boxes.

    Raises:
        OdisError: ONNX Runtime cannot run it.
    """
    names = [one.name for one in session.get_inputs()]
    try:
        found: Sequence[np.ndarray] = session.run(list(OUTPUTS), dict(zip(names, (pixels, objects))))
    except Exception as error:  # ONNX Runtime raises whatever it likes
        raise OdisError(f"ONNX Runtime cannot run it: {one_line(error)}") from error
    return named(tuple(torch.from_numpy(np.asarray(value, dtype=np.float32)) for value in found))


def _describe(model: Any, exported: Exported) -> None:
    """Name the open axes; take out what the exporter noted of this machine's files."""
    graph = model.graph
    for value in (*graph.input, *graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, _AXES[value.name], strict=True):
            if name is not None:
                axis.dim_param = name
    del graph.value_info[:]
    for node in (*graph.node, *(node for function in model.functions for node in function.node)):
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (model, graph, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    card = exported.card
    about = {
        "patch_size": str(exported.encoder.patch_size),
        "mean": " ".join(map(repr, exported.encoder.mean)),
        "std": " ".join(map(repr, exported.encoder.std)),
        "image_size": str(exported.size),
        "mask_coverage": repr(exported.encoder.mask_coverage),
        "mask_margin": str(exported.encoder.mask_margin),
        "mask_shape": exported.encoder.mask_shape,
        "provenance": exported.encoder.provenance,
        "model": str(card["model"]["name"]),
        "object_tokens": str(card["model"]["object_tokens"]),
    }
    about |= {name: json.dumps(value) for name, value in exported.encoder.pixels.card().items()}
    for key, text in about.items():
        model.metadata_props.add(key=key, value=text)


def _weights(exported: Exported) -> int:
    return sum(value.numel() * 4 for value in exported.network.state_dict().values())


def _save(onnx: Any, model: Any, path: Path) -> None:
    outside = model.ByteSize() > _LARGEST
    onnx.save_model(model, str(path), save_as_external_data=outside, location=f"{path.name}.data")
