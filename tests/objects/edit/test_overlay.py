"""Images of one index, objects of another."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.errors import DataError
from odis.objects.edit.overlay import Overlay
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object


def write(
    folder: Path,
    name: str,
    rows: list[ImageObjects],
    provenance: str = "annotated",
    classes: tuple[str, ...] = (),
) -> ObjectIndex:
    write_index(folder / name, rows, root=folder, provenance=provenance, classes=list(classes))
    return ObjectIndex.open(folder / name)


def row(i: int, objects: int, shift: float = 0.0) -> ImageObjects:
    return ImageObjects(
        f"{i}.png", 10, 20, tuple(Object((shift, 0.0, shift + 1 + k, 2.0)) for k in range(objects))
    )


@settings(deadline=None)
@given(n=st.integers(1, 12), data=st.data())
def test_objects_are_those_found_and_images_without_have_none(n, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlay")
    base = write(folder, "base.parquet", [row(i, i % 3) for i in range(n)])
    kept = sorted(data.draw(st.sets(st.integers(0, n - 1))))
    found = write(
        folder, "found.parquet", [row(i, (i + 1) % 4, shift=2.0) for i in kept], provenance="discovered:x@y"
    )
    overlay = Overlay(base, found)
    assert len(overlay) == n
    assert overlay.provenance == "discovered:x@y"
    assert [r.image for r in overlay] == [f"{i}.png" for i in range(n)]
    for i in range(n):
        assert overlay[i].objects == (row(i, (i + 1) % 4, shift=2.0).objects if i in kept else ())
        assert overlay.image_path(i) == base.image_path(i)
        assert (overlay[i].width, overlay[i].height) == (10, 20)
    assert overlay[-1] == overlay[n - 1]
    assert overlay.count_objects() == sum(len(r.objects) for r in overlay)
    with pytest.raises(IndexError):
        overlay[n]


def test_without_found_ones_no_image_has_an_object(tmp_path: Path):
    base = write(tmp_path, "base.parquet", [row(0, 2), row(1, 1)], classes=("a",))
    overlay = Overlay(base)
    assert [r.objects for r in overlay] == [(), ()]
    assert (overlay.provenance, overlay.classes, overlay.count_objects()) == ("whole-image", [], 0)
    assert overlay.fingerprint() == base.fingerprint()


def test_a_folder_of_images_can_lie_below(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.new("RGB", (10, 20)).save(tmp_path / "images" / f"{i}.png")
    base = ObjectIndex.open(tmp_path / "images")
    overlay = Overlay(base, write(tmp_path, "found.parquet", [row(1, 2)]))
    assert not overlay.is_folder
    assert [len(r.objects) for r in overlay] == [0, 2, 0]
    assert base.count_objects() == 3


def test_objects_of_other_images_are_refused(tmp_path: Path):
    base = write(tmp_path, "base.parquet", [row(0, 1), row(1, 1)])
    for rows in ([row(7, 1)], [row(1, 1), row(0, 1)]):
        with pytest.raises(
            DataError, match=r"found\.parquet: .\.png is not in .*base\.parquet, or not in this order"
        ):
            Overlay(base, write(tmp_path, "found.parquet", rows))
