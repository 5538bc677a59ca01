"""Layouts of Pascal VOC's XML as exporters write them, and the splits that they have."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from odis.errors import DataError
from odis.objects.build import build_index
from odis.objects.clean import Unread
from odis.objects.index import ObjectIndex
from odis.objects.sources.voc import CLASSES
from odis.types import Skipped

XML = (
    "<annotation><filename>{}.jpg</filename><size><width>8</width><height>6</height></size><object><name>{}</name>"
    "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>5</ymax></bndbox></object></annotation>"
)


def annotate(path: Path, name: str = "cat") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(XML.format(path.stem, name))


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(
    root: Path, split: str | None = None, **options: Any
) -> tuple[list[str], ObjectIndex, list[Skipped]]:
    skipped: list[Skipped] = []
    out = root.parent / "i.parquet"
    build_index("voc", root, out, split, report=skipped.append, **options)
    index = ObjectIndex.open(out)
    for k, row in enumerate(index):
        assert os.path.isfile(index.image_path(k))
        assert [(o.box, index.classes[o.label or 0]) for o in row.objects] == [((1, 2, 4, 5), "cat")]
    return [row.image for row in index], index, skipped


@pytest.mark.parametrize(
    ("xml", "image", "split"),
    [
        ("Annotations/a.xml", "JPEGImages/a.jpg", None),
        ("Annotations/a.xml", "JPEGImages/a.PNG", None),
        ("Annotations/a.XML", "JPEGImages/a.jpg", None),
        ("Annotations/sub/a.xml", "JPEGImages/sub/a.jpeg", None),
        ("Annotations/a.xml", "JPEGImages/sub/a.jpg", None),
        ("Annotations/train/a.xml", "JPEGImages/train/a.jpg", "train"),
        ("Annotations/train/a.xml", "JPEGImages/a.jpg", "train"),
        ("Annotations/train/a.xml", "JPEGImages/train/a.jpg", None),
        ("annotations/a.xml", "images/a.jpg", None),
        ("annotations/xmls/a.xml", "images/a.jpg", None),
        ("Annotations/a.xml", "a.jpg", None),
        ("images/a.xml", "images/a.jpg", None),
        ("a.xml", "a.jpg", None),
        ("a.jpg.xml", "a.jpg", None),
        ("a b_jpg.rf.0f.xml", "a b_jpg.rf.0f.jpg", None),
        ("more/a.xml", "more/a.jpg", None),
        ("train/a.xml", "train/a.jpg", "train"),
        ("train/a.xml", "train/a.jpg", None),
        ("valid/a.xml", "valid/a.jpg", "valid"),
        ("valid/a.xml", "valid/a.jpg", "val"),
        ("train/Annotations/a.xml", "train/JPEGImages/a.jpg", "train"),
        ("train/annotations/a.xml", "train/images/a.jpg", "train"),
    ],
)
def test_layouts_without_lists(tmp_path: Path, xml: str, image: str, split: str | None) -> None:
    root = tmp_path / "d"
    annotate(root / xml)
    save(root / image)
    names, index, skipped = read(root, split)
    assert (names, index.classes, index.root, skipped) == ([image], ["cat"], root, [])


@pytest.mark.parametrize(
    ("image", "line"),
    [
        ("JPEGImages/sub/a.jpg", "sub/a"),
        ("JPEGImages/sub/a.png", "sub\\a"),
        ("JPEGImages/sub/a.png", '"sub/a"'),
        ("JPEGImages/sub/a.jpg", "sub/a.jpg"),
        ("images/sub/a.jpg", "sub/a.PNG"),
        ("images/sub/a.JPG", "sub/a \r"),
    ],
)
def test_a_list_may_write_its_names_in_many_ways(tmp_path: Path, image: str, line: str) -> None:
    root = tmp_path / "d"
    annotate(root / "Annotations/sub/a.xml")
    annotate(root / "Annotations/other.xml", "dog")
    save(root / image)
    save(root / "JPEGImages/b.jpg") if image.startswith("JPEG") else None
    for encoding in ("utf-8", "utf-16"):
        write(root / "ImageSets/Main/default.txt", f"{line}\n\n".encode(encoding))
        for split in ("default", None):
            names, index, skipped = read(root, split)
            assert (names, index.classes, skipped) == ([image], CLASSES, [])


def test_a_list_with_odd_bytes_loses_only_that_line(tmp_path: Path) -> None:
    root = tmp_path / "d"
    annotate(root / "Annotations/a.xml")
    save(root / "JPEGImages/a.jpg")
    write(root / "ImageSets/Main/train.txt", b"a\nk\xe4tzchen\n")
    names, _, skipped = read(root, "train")
    assert names == ["JPEGImages/a.jpg"]
    assert skipped == [Skipped(f"{root}/ImageSets/Main/train.txt, line 2", "is not UTF-8")]


def test_classes_are_those_of_a_label_map_if_there_is_one(tmp_path: Path) -> None:
    root = tmp_path / "d"
    annotate(root / "Annotations/a.xml")
    save(root / "JPEGImages/a.jpg")
    write(root / "ImageSets/Main/default.txt", "a\n")
    head = "# label:color_rgb:parts:actions\n"
    write(root / "labelmap.txt", f"{head}background:0,0,0::\r\nzebra:1,2,3::\r\ncat:4,5,6:head:jump\r\n")
    assert read(root)[1].classes == ["zebra", "cat"]
    write(root / "labelmap.txt", f"{head}background:0,0,0::\nzebra:1,2,3::\n")
    assert read(root)[1].classes == ["zebra", "cat"]


def test_splits_beside_each_other_are_not_mixed(tmp_path: Path) -> None:
    for folder in ("{}", "Annotations/{}"):
        root = tmp_path / folder.replace("/", "_") / "d"
        for split in ("train", "valid"):
            annotate(root / folder.format(split) / "a.xml")
            save(root / folder.format(split).replace("Annotations", "JPEGImages") / "a.jpg")
        for split, text in (
            (None, r"d: a split must be named; there are train, valid$"),
            ("test", r"d: no split 'test'; there are train, valid$"),
        ):
            with pytest.raises(DataError, match=text):
                read(root, split)
        assert len(read(root, "validation")[0]) == 1


def test_a_split_must_be_a_list_of_names(tmp_path: Path) -> None:
    root = tmp_path / "kit/VOC2007"
    annotate(root / "Annotations/a.xml")
    save(root / "JPEGImages/a.jpg")
    lists = root / "ImageSets/Main"
    write(lists / "cat_train.txt", "a  1\nb -1\nc  0\n")
    for name in ("train", "val"):
        write(lists / f"{name}.txt", "a\n")
    for split, text in (
        (None, r"a split must be named; there are train, val$"),
        ("test", r"no split 'test'; there are train, val$"),
        ("../Main/train", r"no split '../Main/train'; there are train, val$"),
        (
            "cat_train",
            r"no split 'cat_train'; there are .*, cat_train\.txt, a list of one class, is none",
        ),
    ):
        with pytest.raises(DataError, match=text):
            read(root, split)
    write(lists / "val.txt", " \n")
    with pytest.raises(DataError, match=r"val\.txt: lists no image"):
        read(root, "val")


def test_what_is_not_there_is_said_with_the_command_that_helps(tmp_path: Path) -> None:
    root = tmp_path / "kit"
    annotate(root / "VOC2007/Annotations/a.xml")
    save(root / "VOC2007/JPEGImages/a.jpg")
    empty = tmp_path / "empty"
    empty.mkdir()
    inner = root / "VOC2007"
    for folder, split, text in (
        (
            root,
            "train",
            rf"no split 'train': no .*; odis index voc {inner} --split train would read that one$",
        ),
        (inner, "train", rf"no split 'train'; without --split all of {inner}/Annotations is read$"),
        (empty, None, r"empty: no XML file here or below; --annotations DIR names the folder of the XML"),
        (empty, "train", r"no ImageSets/Main/train\.txt, and no train/\*\.xml; --annotations DIR names the"),
    ):
        with pytest.raises(DataError, match=text):
            read(folder, split)
    for option in ("images", "annotations"):
        with pytest.raises(DataError, match=rf"gone: no such folder; --{option} names the folder of the "):
            read(empty, **{option: "gone"})


@pytest.mark.parametrize(
    ("xml", "image", "options"),
    [
        ("d/xmls/a.xml", "d/pics/a.jpg", {"images": "pics", "annotations": "xmls"}),
        ("d/xmls/sub/a.xml", "d/pics/sub/a.jpg", {"images": "{root}/pics", "annotations": "{root}/xmls/"}),
        ("d/xmls/a.xml", "d/a.jpg", {"annotations": "xmls"}),
        ("d/xmls/a.xml", "d/JPEGImages/a.jpg", {"annotations": "xmls"}),
        ("d/Annotations/a.xml", "d/pics/a.jpg", {"images": "pics"}),
        ("d/Annotations/a.xml", "else/a.jpg", {"images": "../else"}),
        ("xmls/a.xml", "else/a.jpg", {"images": "../else", "annotations": "../xmls"}),
        (
            "d/xmls/train/a.xml",
            "d/pics/train/a.jpg",
            {"images": "pics", "annotations": "xmls", "split": "train"},
        ),
        ("d/pics/a.xml", "d/pics/a.jpg", {"images": "pics"}),
    ],
)
def test_places_may_be_named(tmp_path: Path, xml: str, image: str, options: dict[str, str]) -> None:
    root = tmp_path / "d"
    root.mkdir()
    annotate(tmp_path / xml)
    save(tmp_path / image)
    names, index, skipped = read(root, **{key: value.format(root=root) for key, value in options.items()})
    assert [os.path.normpath(index.root / name) for name in names] == [str(tmp_path / image)]
    assert skipped == []


def test_images_without_an_annotation_and_annotations_without_an_image_are_named(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for name in "ab":
        annotate(root / f"{name}.xml")
    for name in ("a.jpg", "c.jpg", "d.png"):
        save(root / name)
    names, _, skipped = read(root)
    assert names == ["a.jpg"]
    assert sorted((s.what.removeprefix(f"{root}/"), s.why) for s in skipped) == [
        ("b.jpg", "no such file, nor one of another ending"),
        ("b.xml, object 1", "its image cannot be used"),
        ("c.jpg", "images without an XML file"),
        ("d.png", "images without an XML file"),
    ]
    assert [isinstance(s, Unread) for s in sorted(skipped, key=lambda s: s.what)] == [
        False,
        False,
        True,
        True,
    ]


def test_an_image_has_one_annotation(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for name in ("a.xml", "a.jpg.xml", "a.XML", "sub/a.xml"):
        annotate(root / name)
    save(root / "a.jpg")
    names, _, skipped = read(root)
    assert names == ["a.jpg"]
    why = "its image a.jpg has another XML file, which is read"
    none = "no such file, nor one of another ending"
    told = [(s.what.removeprefix(f"{root}/"), s.why) for s in skipped if ", object" not in s.what]
    assert sorted(told) == [
        ("a.jpg.xml", why),
        ("a.xml", why),  # the other spelling of it
        ("sub/a.jpg", f"{none}; a.jpg, which <filename> names, has another XML file"),
    ]  # fmt: skip
    assert sum(", object" in s.what for s in skipped) == 3


def test_what_else_lies_with_the_images_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "d"
    annotate(root / "Annotations/a.xml")
    save(root / "JPEGImages/a.jpg")
    write(root / "JPEGImages/b.psd", "x")
    _, _, (told,) = read(root)
    assert told == Unread(f"{root}/JPEGImages", ".psd files")
