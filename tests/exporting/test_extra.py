"""What is missing is one line; what the exporters log is not shown, and what odis says is."""

import logging
import sys
import warnings

import pytest

from odis.errors import OdisError, OdisWarning
from odis.exporting.extra import quiet, required


def test_a_module_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "onnxruntime.quantization", raising=False)
    with pytest.raises(
        OdisError, match=r"--to onnx: onnxruntime is not installed; pip install 'odis\[export\]'"
    ):
        required("--to onnx", "onnxruntime.quantization")
    assert required("x", "json").loads("1") == 1


def test_libraries_are_quiet_and_odis_is_not(recwarn: pytest.WarningsRecorder):
    logger = logging.getLogger("onnxscript")
    logger.setLevel(logging.INFO)
    with quiet():
        warnings.warn("of a library", UserWarning, stacklevel=1)
        warnings.warn("of odis", OdisWarning, stacklevel=1)
        assert not logger.isEnabledFor(logging.INFO)
    assert logger.isEnabledFor(logging.INFO)
    assert [str(one.message) for one in recwarn] == ["of odis"]
