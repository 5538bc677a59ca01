from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.errors import DataError
from odis.objects.build import Summary, build_index
from odis.objects.index import ObjectIndex, statistics
from odis.types import ImageObjects, Object, Skipped


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes in the published layout: two training images each, two for validation, one for test."""
    root = tmp_path / "tiny"
    for wnid in ("n02", "n01"):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (64, 64)).save(folder / f"{wnid}_{k}.JPEG")
        (folder.parent / f"{wnid}_boxes.txt").write_text(
            f"{wnid}_0.JPEG\t0\t10\t63\t20\n{wnid}_1.JPEG\t5\t5\t5\t5\n"
        )
    (root / "val/images").mkdir(parents=True)
    for k in range(2):
        Image.new("L", (64, 64)).save(root / f"val/images/val_{k}.JPEG")
    (root / "val/val_annotations.txt").write_text(
        "val_1.JPEG\tn01\t1\t2\t3\t4\nval_0.JPEG\tn02\t0\t0\t63\t63\n"
    )
    (root / "test/images").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(root / "test/images/test_0.JPEG")
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tcrane, bird\nn02\tcrane, machine\nn03\tunused\n")
    return root


def build(root: Path, tmp_path: Path, split: str | None) -> tuple[ObjectIndex, Summary, list[Skipped]]:
    skipped: list[Skipped] = []
    summary = build_index("tiny-imagenet", root, tmp_path / "i.parquet", split=split, report=skipped.append)
    return ObjectIndex.open(tmp_path / "i.parquet"), summary, skipped


def test_inclusive_boxes_become_exclusive(root: Path, tmp_path: Path) -> None:
    index, summary, skipped = build(root, tmp_path, "train")
    assert list(index) == [
        ImageObjects("train/n01/images/n01_0.JPEG", 64, 64, (Object((0, 10, 64, 21), label=1),)),
        ImageObjects("train/n01/images/n01_1.JPEG", 64, 64, (Object((5, 5, 6, 6), label=1),)),
        ImageObjects("train/n02/images/n02_0.JPEG", 64, 64, (Object((0, 10, 64, 21), label=0),)),
        ImageObjects("train/n02/images/n02_1.JPEG", 64, 64, (Object((5, 5, 6, 6), label=0),)),
    ]
    assert (summary.written, summary.kept, skipped) == (4, 4, [])
    assert (index.provenance, index.root) == ("annotated", root)
    assert index.classes == [
        "crane (n02)",
        "crane (n01)",
    ]  # a name that two classes share does not tell them apart


def test_val_names_its_classes_line_by_line(root: Path, tmp_path: Path) -> None:
    index, _, _ = build(root, tmp_path, "val")
    assert list(index) == [
        ImageObjects("val/images/val_0.JPEG", 64, 64, (Object((0, 0, 64, 64), label=0),)),
        ImageObjects("val/images/val_1.JPEG", 64, 64, (Object((1, 2, 4, 5), label=1),)),
    ]


def test_test_images_have_no_objects(root: Path, tmp_path: Path) -> None:
    index, summary, _ = build(root, tmp_path, "test")
    assert list(index) == [ImageObjects("test/images/test_0.JPEG", 64, 64)]
    assert summary.objects == 0


def test_faults_are_named_and_counted(root: Path, tmp_path: Path) -> None:
    path = root / "val/val_annotations.txt"
    path.write_text(
        path.read_text() + "val_0.JPEG\tn09\t1\t2\t3\t4\nval_1.JPEG\tn01\t1\t2\nval_1.JPEG\tn01\t9\t9\t1\t1\n"
        "gone.JPEG\tn01\t1\t1\t2\t2\n\n"
    )
    index, summary, skipped = build(root, tmp_path, "val")
    assert len(index) == 2
    assert (summary.images, summary.images_skipped) == (3, 1)
    assert (summary.objects, summary.kept, summary.objects_skipped, summary.mended) == (6, 3, 3, 1)
    assert [(Path(s.what).name, s.why) for s in skipped] == [
        ("val_annotations.txt, line 3", "has class n09, which wnids.txt does not list: kept without label"),
        ("val_annotations.txt, line 4", "is not a name, a class and four numbers, separated by tabs"),
        ("gone.JPEG", "no such file"),
        ("gone.JPEG, box 1", "its image cannot be used"),
        ("val_1.JPEG, box 2", "box (9, 9, 2, 2) is inverted"),
    ]


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'none'; there are train, val, test"):
        build(root, tmp_path, "none")
    (root / "val/val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"val_annotations\.txt: no such file"):
        build(root, tmp_path, "val")
    (root / "wnids.txt").unlink()
    with pytest.raises(DataError, match=r"wnids\.txt: no such file"):
        build(root, tmp_path, None)
    with pytest.raises(DataError, match="there are none of train, val, test"):
        build(tmp_path, tmp_path, "train")


def test_the_published_images(tiny_imagenet_dir: Path, tmp_path: Path) -> None:
    for split, images in (("train", 22_000), ("val", 5_000)):
        index, summary, skipped = build(tiny_imagenet_dir, tmp_path, split)
        assert (summary.images, summary.written, summary.objects, summary.kept, skipped) == (
            images,
            images,
            images,
            images,
            [],
        )
        found = statistics(index)
        assert set(found.classes.values()) == {images // 100}
        assert index.classes[:2] == ["goldfish", "bullfrog"]
    boxes = np.concatenate([row.boxes for row in index])
    assert boxes.min() == 0
    assert boxes.max() == 64  # a box that reaches the last pixel ends behind it


@pytest.mark.parametrize("inner", ["images/", ""])
def test_val_may_be_sorted_into_folders_of_classes(root: Path, tmp_path: Path, inner: str) -> None:
    for name, wnid in (("val_0", "n01"), ("val_1", "n02")):
        (root / f"val/{wnid}/{inner}").mkdir(parents=True)
        (root / f"val/images/{name}.JPEG").rename(root / f"val/{wnid}/{inner}{name}.JPEG")
    (root / "val/images").rmdir()
    index, summary, skipped = build(root, tmp_path, "val")
    assert {row.image for row in index} == {f"val/n01/{inner}val_0.JPEG", f"val/n02/{inner}val_1.JPEG"}
    assert (summary.kept, skipped) == (2, [])
    (root / "val/val_annotations.txt").unlink()
    index, _, skipped = build(root, tmp_path, "val")
    wnids = [line.strip() for line in (root / "wnids.txt").read_text().splitlines()]
    for row in index:
        (whole,) = row.objects
        assert whole == Object((0, 0, row.width, row.height), label=wnids.index(row.image.split("/")[1]))
    assert skipped == []
