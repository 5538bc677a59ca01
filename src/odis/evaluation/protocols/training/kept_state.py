"""The state of a long work, such as a training, in a file: an interrupted call goes on there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from odis.errors import OdisWarning
from odis.machine.checksums import (
    SAFETENSORS_KEY,
    UNSEALED,
    DamagedError,
    seal_safetensors,
    verify_safetensors,
)
from odis.machine.files import written_whole


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Keep a state, whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with written_whole(path, errors=(SafetensorError,), seal=seal_safetensors) as beside:
        save_file(kept, beside, metadata={SAFETENSORS_KEY: UNSEALED})


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """A state that was kept; None if there is none. One that is damaged is warned of, and counts as none."""
    if not path.exists():
        return None
    try:
        verify_safetensors(path)
        return load_file(path)
    except (OSError, SafetensorError, DamagedError) as error:
        warnings.warn(f"{path}: cannot be read ({error}); the work begins anew", OdisWarning, stacklevel=2)
        return None
