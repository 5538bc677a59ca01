from pathlib import Path

import pytest
from PIL import Image

from odis.errors import DataError
from odis.objects.build import build_index
from odis.objects.index import ObjectIndex
from odis.types import ImageObjects, Object


def save(path: Path, width: int = 4, height: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def whole(image: str, label: int | None, width: int = 4, height: int = 3) -> ImageObjects:
    return ImageObjects(image, width, height, (Object((0.0, 0.0, float(width), float(height)), label=label),))


def build(root: Path, tmp_path: Path, split: str | None = None) -> ObjectIndex:
    build_index("folder", root, tmp_path / "i.parquet", split=split)
    return ObjectIndex.open(tmp_path / "i.parquet")


def test_one_folder_a_class_gives_labels(tmp_path: Path) -> None:
    save(tmp_path / "data/train/dog/2.png")
    save(tmp_path / "data/train/cat/a/b/1.jpg", 7, 5)
    save(tmp_path / "data/val/dog/3.png")
    index = build(tmp_path / "data", tmp_path, split="train")
    assert list(index) == [whole("cat/a/b/1.jpg", 0, 7, 5), whole("dog/2.png", 1)]
    assert (index.classes, index.root, index.provenance) == (
        ["cat", "dog"],
        tmp_path / "data/train",
        "whole-image",
    )


def test_it_reads_what_the_open_folder_reads(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/nested/2.png", "dog/3.png"):
        save(tmp_path / "data" / name)
    assert list(build(tmp_path / "data", tmp_path)) == list(ObjectIndex.open(tmp_path / "data"))


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    save(tmp_path / "data/1.png")
    save(tmp_path / "data/more/2.png")
    (tmp_path / "data/notes.txt").touch()
    (tmp_path / "data/.hidden.png").touch()
    index = build(tmp_path / "data", tmp_path)
    assert list(index) == [whole("1.png", None), whole("more/2.png", None)]
    assert index.classes == []


def test_a_missing_split_says_which_there_are(tmp_path: Path) -> None:
    save(tmp_path / "data/train/1.png")
    save(tmp_path / "data/val/1.png")
    with pytest.raises(DataError, match=r"data/test: no such folder; in .*data there are train, val"):
        build(tmp_path / "data", tmp_path, split="test")


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/notes.txt").touch()
    with pytest.raises(DataError, match=r"no image in this folder or below \(1 .txt files\)$"):
        build(tmp_path / "data", tmp_path)
