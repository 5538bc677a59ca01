"""Images that were moved are found, also if an index names a folder in the one that was moved."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.errors import DataError
from odis.objects import rle
from odis.objects.check import all_have_masks, require_labels, require_objects
from odis.objects.index import ObjectIndex, write_index
from odis.objects.roots import images_moved_to, moved_root
from odis.types import ImageObjects, Object


def indexed(path: Path, root: Path, image: str = "x/a.png", provenance: str = "annotated") -> ObjectIndex:
    (root / image).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 6)).save(root / image)
    rows = [ImageObjects(image, 8, 6, (Object((0, 0, 4, 4)),))]
    write_index(path, rows, root=root, provenance=provenance, classes=[])
    return ObjectIndex.open(path)


@pytest.mark.parametrize("place", ["new", "new/train", "new/v1/train"])
def test_a_root_may_be_named_by_a_folder_above_it(tmp_path: Path, place: str) -> None:
    indexed(tmp_path / "i.parquet", tmp_path / "old" / "v1" / "train")
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    os.rename(tmp_path / "old" / "v1" / "train", tmp_path / place)
    with pytest.raises(DataError, match=r"old/v1/train, which is no folder; give the folder .* with --root"):
        ObjectIndex.open(tmp_path / "i.parquet")
    for given in {tmp_path / "new", tmp_path / place}:
        assert ObjectIndex.open(tmp_path / "i.parquet", root=given).root == tmp_path / place
        with images_moved_to(given):
            assert os.path.exists(ObjectIndex.open(tmp_path / "i.parquet").image_path(0))
    with pytest.raises(DataError, match=r"should be in .*gone, which is no folder"):
        ObjectIndex.open(tmp_path / "i.parquet", root=tmp_path / "gone")


def test_the_block_ends_and_a_folder_of_images_stays_where_it_is(tmp_path: Path) -> None:
    index = indexed(tmp_path / "i.parquet", tmp_path / "old")
    with images_moved_to(tmp_path), images_moved_to(None):
        assert ObjectIndex.open(tmp_path / "old").root == tmp_path / "old"
    assert ObjectIndex.open(tmp_path / "i.parquet").root == index.root


def test_an_image_elsewhere_moves_nothing() -> None:
    for image in ("", "/a/b.png", "s3://bucket/a.png"):
        assert moved_root(Path("/old/train"), Path("/new"), image) == Path("/new")


def test_a_root_that_is_no_text_is_written_and_found(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"d\xd5")
    index = indexed(tmp_path / "i.parquet", root)
    assert index.root == root
    assert index[0].image == "x/a.png"


def test_an_annotated_index_without_an_object_is_not_trained_on(tmp_path: Path) -> None:
    index = indexed(tmp_path / "i.parquet", tmp_path / "d")
    require_objects(index)
    rows = [ImageObjects("x/a.png", 8, 6)]
    for provenance, refused in (("annotated", True), ("detected:x", True), ("whole-image", False)):
        write_index(tmp_path / "j.parquet", rows, root=tmp_path / "d", provenance=provenance, classes=[])
        empty = ObjectIndex.open(tmp_path / "j.parquet")
        if refused:
            with pytest.raises(DataError, match=rf"is {provenance} and holds no object.*objects.use false"):
                require_objects(empty)
        else:
            require_objects(empty)
    require_objects(ObjectIndex.open(tmp_path / "d"))


def test_classes_need_an_object_with_a_label(tmp_path: Path) -> None:
    indexed(tmp_path / "i.parquet", tmp_path / "d")
    box = (0.0, 0.0, 4.0, 4.0)
    for label, classes in ((None, []), (None, ["cat"]), (0, ["cat"])):
        rows = [ImageObjects("x/a.png", 8, 6), ImageObjects("x/a.png", 8, 6, (Object(box, label=label),))]
        write_index(
            tmp_path / "j.parquet", rows, root=tmp_path / "d", provenance="annotated", classes=classes
        )
        index = ObjectIndex.open(tmp_path / "j.parquet")
        if label is None:
            with pytest.raises(
                DataError, match=r"j\.parquet: none of its objects has a label, but objects\.unit"
            ):
                require_labels(index)
        else:
            require_labels(index)
    indexed(tmp_path / "k.parquet", tmp_path / "d", image="y/b.png")
    require_labels(ObjectIndex.open(tmp_path / "d"))  # a folder a class: x, y
    with pytest.raises(DataError, match="none of its objects has a label"):
        require_labels(ObjectIndex.open(tmp_path / "d" / "x"))


def test_masks_of_all_objects_are_told_from_those_of_some(tmp_path: Path) -> None:
    indexed(tmp_path / "i.parquet", tmp_path / "d")
    box = (0.0, 0.0, 4.0, 4.0)
    mask, none = Object(box, mask=rle.encode(np.ones((6, 8), bool))), Object(box)
    for objects, expected in (
        ([(mask,), (mask, mask)], True),
        ([(mask,), ()], True),
        ([(mask,), (mask, none)], False),
        ([(mask,), (none,)], False),
        ([(none,), (none,)], False),
        ([(), ()], False),
    ):
        rows = [ImageObjects("x/a.png", 8, 6, found) for found in objects]
        write_index(tmp_path / "j.parquet", rows, root=tmp_path / "d", provenance="annotated", classes=[])
        assert all_have_masks(ObjectIndex.open(tmp_path / "j.parquet")) == expected
    assert not all_have_masks(ObjectIndex.open(tmp_path / "d"))
