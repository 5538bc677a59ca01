"""What is said of a file that torch would not read without running code in it."""

from __future__ import annotations

import pickle
import re

_LONGEST = 200  # characters of an error of another library


def pickle_fault(error: Exception) -> str:
    """Why `torch.load(..., weights_only=True)` refused a file, in one line. torch's own words advise to run
    the code in it, and are never passed on.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if (found := re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", text)) is not None:
        return f"it holds {found[1]}, and no code of a file is run"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text or "weights only" in text.lower():
        return "it is damaged, or holds more than tensors and plain values; no code of a file is run"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
