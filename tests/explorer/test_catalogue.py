"""The gallery against the rows of the index."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.explorer.catalogue import Catalogue
from odis.explorer.refusal import RefusedError
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object


@pytest.fixture
def mixed(tmp_path: Path) -> ObjectIndex:
    """Rows with several labels, one twice, one of no class, none, and no objects."""
    labels = [(0, 2, 2), (), (1, None), (2, 9), (None,), (0,)]
    rows = [
        ImageObjects(
            f"{k}.png", 9, 9, tuple(Object((0.0, 0.0, 5.0, 5.0 + n), label=v) for n, v in enumerate(row))
        )
        for k, row in enumerate(labels)
    ]
    write_index(
        tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=["a", "b", "c", "none"]
    )
    return ObjectIndex.open(tmp_path / "i.parquet")


def test_a_class_lists_the_images_that_show_it(mixed: ObjectIndex) -> None:
    catalogue = Catalogue(mixed)
    for label in range(4):
        rows = [k for k, row in enumerate(mixed) if any(item.label == label for item in row.objects)]
        page = catalogue.page(label, 0, 200)
        assert page["total"] == len(rows)
        assert [one["row"] for one in page["images"]] == rows
    named = {one["name"]: one["images"] for one in catalogue.classes()}
    assert named == {"a": 2, "b": 1, "c": 2}
    assert catalogue.page(None, 0, 1)["images"] == [{"row": 0, "name": "0.png", "classes": ["a", "c"]}]


def test_pages_follow_on_each_other(mixed: ObjectIndex) -> None:
    catalogue = Catalogue(mixed)
    rows = [one["row"] for start in (0, 4) for one in catalogue.page(None, start, 4)["images"]]
    assert rows == list(range(6))
    assert catalogue.page(None, 6, 4) == {"total": 6, "images": []}
    for label, start, count in ((None, -1, 5), (None, 0, 0), (None, 0, 201), (4, 0, 5), (-1, 0, 5)):
        with pytest.raises(RefusedError):
            catalogue.page(label, start, count)


def test_labels_of_objects(mixed: ObjectIndex) -> None:
    catalogue = Catalogue(mixed)
    assert [catalogue.label_of(0, 1), catalogue.label_of(2, 1), catalogue.label_of(3, 1)] == [2, None, None]
    assert catalogue.label_of(1, 0) is None
    assert [catalogue.class_name(v) for v in (0, 9, None, -1)] == ["a", "", "", ""]


def test_a_folder_of_images_lists_them_by_class(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png", "dog/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
    catalogue = Catalogue(ObjectIndex.open(tmp_path))
    assert [(one["name"], one["images"]) for one in catalogue.classes()] == [("cat", 1), ("dog", 2)]
    assert [one["name"] for one in catalogue.page(1, 0, 5)["images"]] == ["2.png", "3.png"]
