"""The `usage.py` of a folder: its few lines that make masks of boxes do what odis does."""

import ast
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.config.pixels import RGB, PixelFormat
from odis.data.geometry.patches import object_shapes, objects_on_grid
from odis.exporting.usage import library_usage, onnx_usage, program_usage

side = st.integers(0, 95 * 64).map(lambda n: n / 64)  # areas without rounding: ties are ties in both


def patches_of(coverage: float, margin: int, shape: str) -> Any:
    """The function in a program for masks."""
    encoder = SimpleNamespace(mask_coverage=coverage, mask_margin=margin, mask_shape=shape, pixels=RGB)
    text = onnx_usage("masks", encoder)
    names: dict[str, Any] = {}
    exec(text.split("here = Path(")[0], names)
    return names["patches_of"]


@settings(max_examples=60)
@given(
    side, side, side, side, st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.integers(0, 2), st.sampled_from(["area", "component-boxes"]),
)  # fmt: skip
def test_masks_are_those_of_odis(a, b, c, d, rows, columns, coverage, margin, shape):
    box = np.array([min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1])
    found = patches_of(coverage, margin, shape)(box, rows, columns, 16)
    width, height = columns * 16, rows * 16
    shapes = object_shapes(box[None], [None], width, height)
    expected = objects_on_grid(
        shapes, np.array([[0, 0, width, height]]), np.zeros(1, bool), (rows, columns), coverage, margin, shape
    )
    assert found.tolist() == expected[0, 0].tolist()


@pytest.mark.parametrize("objects", ["masks", "boxes"])
def test_programs_are_python_and_short(objects: str):
    pixels = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "patch_size": 16}
    encoder = SimpleNamespace(mask_coverage=0.5, mask_margin=1, mask_shape="area", pixels=RGB, **pixels)
    for text in (onnx_usage(objects, encoder), program_usage(objects, encoder, 224)):
        compile(text, "usage.py", "exec")
        assert ("patches_of" in text) == (objects == "masks")
        assert max(map(len, text.splitlines())) <= 110
        assert len(text.splitlines()) < 60


@pytest.mark.parametrize("program", ["timm", "native", "own", "onnx", "torch"])
def test_programs_for_arrays_open_no_photograph(program: str):
    pixels = {"mean": (0.5,) * 5, "std": (0.2,) * 5, "pixels": PixelFormat(5, ((0.0, 4095.0),))}
    encoder = SimpleNamespace(mask_coverage=0.5, mask_margin=1, mask_shape="area", patch_size=16, **pixels)
    text = (
        onnx_usage("boxes", encoder) if program == "onnx"
        else program_usage("boxes", encoder, 224) if program == "torch"
        else library_usage(program, encoder, 224)
    )  # fmt: skip
    names = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    assert {"load", "prepare"} <= names
    assert not {"open", "convert", "processor", "transform"} & names
    assert "pixels.npy: uint8 (height, width, 5)\n\nIts numbers are those of the files from 0 to 4095" in text
    assert "photo.jpg" not in text
