"""How often files are opened."""

import builtins
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import rasterio


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a file of each name was opened, by Python or by GDAL."""
    found: Counter[str] = Counter()
    for module in (builtins, rasterio):

        def counted(file: Any, *more: Any, real: Any = module.open, **options: Any) -> Any:
            found[Path(str(file)).name] += 1
            return real(file, *more, **options)

        monkeypatch.setattr(module, "open", counted)
    return found
