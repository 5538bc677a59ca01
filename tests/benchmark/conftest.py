"""A small index with objects."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> ObjectIndex:
    """Twelve images of noise with two objects each."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(root / f"{i}.png")
        rows.append(
            ImageObjects(
                f"{i}.png", 64, 48, (Object((4.0, 4.0, 30.0, 30.0)), Object((40.0, 20.0, 60.0, 44.0)))
            )
        )
    write_index(Path(root) / "index.parquet", rows, root=root, provenance="annotated", classes=[])
    return ObjectIndex.open(Path(root) / "index.parquet")
