"""A state is read as it was kept; a damaged one is said, and counts as none."""

import warnings
from pathlib import Path

import pytest
import torch

from odis.errors import OdisWarning
from odis.evaluation.protocols.training.kept_state import read_tensors, write_tensors


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    given = {
        "step": torch.tensor(3),
        "turned": base.T,
        "part": base[:, 1],
        "learned": base.clone().requires_grad_(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_tensors(tmp_path / "s") is None
        write_tensors(tmp_path / "s", given)
        found = read_tensors(tmp_path / "s")
    assert found is not None
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_a_damaged_one_is_warned_of(tmp_path: Path) -> None:
    write_tensors(tmp_path / "s", {"a": torch.zeros(100)})
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:-9])
    with pytest.warns(OdisWarning, match="s: cannot be read .*; the work begins anew"):
        assert read_tensors(tmp_path / "s") is None
