"""Layouts of label maps as tools write them, and whose class names their values get."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from odis.errors import DataError
from odis.objects.build import build_index
from odis.objects.clean import Unread
from odis.objects.index import ObjectIndex
from odis.objects.sources.label_map_files import voc_palette
from odis.objects.sources.voc import CLASSES
from odis.types import Skipped

XML = "<annotation><object><name>{}</name><bndbox/></object></annotation>"


def save_map(path: Path, value: int = 1, palette: np.ndarray | None = None) -> None:
    values = np.zeros((30, 40), np.uint8)
    values[5:15, 5:25] = value
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette.ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(
    root: Path, split: str | None = None, **options: Any
) -> tuple[list[str], ObjectIndex, list[Skipped]]:
    skipped: list[Skipped] = []
    out = root.parent / "i.parquet"
    build_index("label-maps", root, out, split, report=skipped.append, **options)
    index = ObjectIndex.open(out)
    for k, row in enumerate(index):
        assert os.path.isfile(index.image_path(k))
        assert [o.box for o in row.objects] == [(5, 5, 25, 15)]
    return [row.image for row in index], index, skipped


@pytest.mark.parametrize(
    ("label_map", "image", "split"),
    [
        ("SegmentationClass/a.png", "JPEGImages/a.jpg", None),
        ("SegmentationClass/a.PNG", "JPEGImages/a.JPG", None),
        ("SegmentationClass/a.png", "JPEGImages/a.png", None),
        ("SegmentationClass/a.png", "JPEGImages/a.jpeg", None),
        ("SegmentationClass/sub/a.png", "JPEGImages/sub/a.bmp", None),
        ("SegmentationClass/a.png", "JPEGImages/sub/a.jpg", None),
        ("SegmentationClass/train/a.png", "JPEGImages/train/a.jpg", "train"),
        ("SegmentationClass/train/a.png", "JPEGImages/a.jpg", "train"),
        ("SegmentationClass/a.png", "images/a.jpg", None),
        ("SegmentationClassPNG/a.png", "JPEGImages/a.jpg", None),
        ("annotations/training/a.png", "images/training/a.png", "train"),
        ("annotations/validation/a.png", "images/validation/a.JPEG", "val"),
        ("annotations/train/a.png", "images/train/a.jpg", "train"),
        ("annotations/train/a.png", "images/train/a.jpg", None),
        ("annotations/a.png", "images/a.jpg", None),
    ],
)
def test_layouts_without_lists(tmp_path: Path, label_map: str, image: str, split: str | None) -> None:
    root = tmp_path / "d"
    save_map(root / label_map)
    save(root / image)
    names, index, skipped = read(root, split)
    assert (names, skipped) == ([image], [])
    assert index.classes[0] == "class 1"
    assert index[0].objects[0].label == 0


@pytest.mark.parametrize(
    ("ending", "line"),
    [(".png", "a"), (".jpeg", "a.jpg"), (".JPG", "a\r"), (".PNG", '"a"'), (".webp", "a.png")],
)
def test_lists_and_images_of_any_ending(tmp_path: Path, ending: str, line: str) -> None:
    root = tmp_path / "d"
    save_map(root / "SegmentationClass/a.png")
    save_map(root / "SegmentationClass/b.png")
    save(root / f"JPEGImages/a{ending}")
    write(root / "ImageSets/Segmentation/default.txt", f"{line}\n\n")
    for split in ("default", None):
        names, _, skipped = read(root, split)
        assert (names, skipped) == ([f"JPEGImages/a{ending}"], [])


@pytest.mark.parametrize(
    ("label_map", "image", "options"),
    [
        ("d/masks/a.png", "d/pics/a.jpg", {"images": "pics", "annotations": "masks"}),
        ("d/masks/a.png", "d/images/a.jpg", {"annotations": "{root}/masks/"}),
        ("d/SegmentationClass/a.png", "d/pics/sub/a.jpg", {"images": "pics"}),
        ("masks/a.png", "else/a.jpg", {"images": "../else", "annotations": "../masks"}),
        ("d/masks/train/a.png", "d/p/train/a.jpg", {"images": "p", "annotations": "masks", "split": "train"}),
    ],
)  # fmt: skip
def test_places_may_be_named(tmp_path: Path, label_map: str, image: str, options: dict[str, str]) -> None:
    root = tmp_path / "d"
    root.mkdir()
    save_map(tmp_path / label_map)
    save(tmp_path / image)
    names, index, skipped = read(root, **{key: value.format(root=root) for key, value in options.items()})
    assert [os.path.normpath(index.root / name) for name in names] == [str(tmp_path / image)]
    assert skipped == []


def test_images_without_a_map_are_told(tmp_path: Path) -> None:
    root = tmp_path / "d"
    save_map(root / "SegmentationClass/a.png")
    for name in ("a.jpg", "a.png", "b.jpg"):
        save(root / f"JPEGImages/{name}")
    names, _, skipped = read(root)
    assert names == ["JPEGImages/a.jpg"]
    assert skipped == [
        Unread(f"{root}/JPEGImages/a.png", "images of a name that another has"),
        Unread(f"{root}/JPEGImages/b.jpg", "images without a label map"),
    ]


CAR = CLASSES.index("car") + 1


@pytest.mark.parametrize(
    ("name", "value", "palette", "xml", "expected"),
    [
        ("2007_000032", CAR, True, None, "car"),
        ("2012_000001", CAR, False, None, "car"),  # as SBD's maps are given on
        ("000032", CAR, True, "car", "car"),  # VOC 2007
        ("000032", CAR, True, "bus", "class 7"),
        ("000032", CAR, True, None, "class 7"),
        ("000032", CAR, False, "car", "class 7"),
        ("a", CAR, False, None, "class 7"),
        ("a", CAR, True, None, "class 7"),  # many tools write VOC's palette
        ("2007_000032", 21, True, None, "class 21"),
        ("2013_000032", CAR, True, None, "class 7"),
    ],
)
def test_voc_names_are_given_only_to_maps_that_are_shown_to_be_vocs(
    tmp_path: Path, name: str, value: int, palette: bool, xml: str | None, expected: str
) -> None:
    root = tmp_path / "d"
    save_map(root / f"SegmentationClass/{name}.png", value, voc_palette() if palette else None)
    save(root / f"JPEGImages/{name}.jpg")
    write(root / "ImageSets/Segmentation/train.txt", f"{name}\n")
    if xml is not None:
        write(root / f"Annotations/{name}.xml", XML.format(xml))
    _, index, skipped = read(root, "train")
    label = index[0].objects[0].label
    assert label is not None
    assert index.classes[label] == expected
    assert len(index.classes) == (20 if expected == "car" else value)
    assert skipped == []


@pytest.mark.parametrize("at", [".", "SegmentationClass"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:colour\nbackground:0,0,0::\ntree:128,0,0::\nbush:0,128,0::\n"),
        ("class_names.txt", "_background_\ntree\nbush\n"),
    ],
)  # fmt: skip
def test_the_data_sets_own_names_come_first(tmp_path: Path, at: str, name: str, text: str) -> None:
    root = tmp_path / "d"
    save_map(root / "SegmentationClass/2007_000032.png", 2, voc_palette())
    save(root / "JPEGImages/2007_000032.jpg")
    write(root / at / name, text)
    index = read(root)[1]
    assert index.classes == ["tree", "bush"]
    assert index[0].objects[0].label == 1


def test_a_value_that_the_list_has_not_is_an_object_without_label(tmp_path: Path) -> None:
    root = tmp_path / "d"
    save_map(root / "SegmentationClass/a.png", 9)
    save(root / "JPEGImages/a.jpg")
    write(root / "class_names.txt", "_background_\ntree\n")
    _, index, (mended,) = read(root)
    assert index[0].objects[0].label is None
    assert mended.what == f"{root}/SegmentationClass/a.png, value 9 1"
    save_map(root / "SegmentationObject/a.png", 3)
    _, index, (mended,) = read(root)
    assert index[0].objects[0].label is None
    assert mended.what == f"{root}/SegmentationObject/a.png, instance 3"


def test_what_is_missing_is_named_with_what_helps(tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    with pytest.raises(DataError, match=r"holds no label maps in a known layout: VOC .*--images DIR --annot"):
        read(root)
    with pytest.raises(DataError, match="gone: no such folder; --annotations names the folder of the label"):
        read(root, annotations="gone")
    save_map(root / "SegmentationClass/a.png")
    with pytest.raises(DataError, match="JPEGImages: no such folder; --images DIR names that of the images"):
        read(root)
    save(root / "JPEGImages/a.jpg")
    with pytest.raises(
        DataError, match=r"no split 'train': no ImageSets/Segmentation/train\.txt, and no Seg"
    ):
        read(root, "train")
    for name in ("train", "val"):
        write(root / f"ImageSets/Segmentation/{name}.txt", "a\n")
    for split, text in (
        (None, r"a split must be named; there are train, val$"),
        ("dev", r"no split 'dev'; there are train, val$"),
        ("../x", r"no split '\.\./x'; there are train, val$"),
    ):
        with pytest.raises(DataError, match=text):
            read(root, split)
    write(root / "ImageSets/Segmentation/val.txt", "\n \n")
    with pytest.raises(DataError, match=r"val\.txt: lists no image"):
        read(root, "val")
    other = tmp_path / "ade"
    for part in ("training", "validation"):
        save_map(other / f"annotations/{part}/a.png")
        save(other / f"images/{part}/a.jpg")
    for split, text in (
        (None, r"there are training, validation$"),
        ("test", r"no split 'test'; there are tr"),
    ):
        with pytest.raises(DataError, match=text):
            read(other, split)
    (other / "images/training/a.jpg").unlink()
    with pytest.raises(DataError, match="training: holds no images"):
        read(other, "train")


def test_an_image_has_one_label_map(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for name in ("a.png", "a.jpg.png", "sub/a.png"):
        save_map(root / "SegmentationClass" / name)
    save(root / "JPEGImages/a.jpg")
    write(root / "JPEGImages/b.psd", "x")
    names, _, skipped = read(root)
    assert names == ["JPEGImages/a.jpg"]
    assert [(s.what.removeprefix(f"{root}/"), s.why) for s in skipped if "region" not in s.what] == [
        ("JPEGImages", ".psd files"),
        ("SegmentationClass/a.jpg.png", "its image a.jpg has another label map, which is read"),
        ("JPEGImages/sub/a.jpg", "no such file"),
        ("SegmentationClass/sub/a.png, class 1 1", "its image cannot be used"),
    ]


@pytest.mark.parametrize("names", [None, "_background_\nroad\n"])
def test_masks_of_0_and_255_are_not_read_as_images_without_objects(tmp_path: Path, names: str | None) -> None:
    root = tmp_path / "d"
    for name in "ab":
        save_map(root / f"SegmentationClass/{name}.png", 255)
        save(root / f"JPEGImages/{name}.jpg")
    if names:
        write(root / "class_names.txt", names)
    with pytest.raises(DataError, match=r"its maps have the values 0 and 255 alone, .*NAME:255,255,255::$"):
        read(root)
    write(root / "labelmap.txt", "background:0,0,0::\nroad:255,255,255::\n")
    _, index, skipped = read(root)
    assert (index.classes, skipped) == (["road"], [])
    assert [o.label for row in index for o in row.objects] == [0, 0]
