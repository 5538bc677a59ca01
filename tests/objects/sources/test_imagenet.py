import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.errors import DataError
from odis.objects.build import Summary, build_index
from odis.objects.clean import Mended
from odis.objects.index import ObjectIndex
from odis.objects.listing import list_files
from odis.objects.sources import imagenet, imagenet_csv
from odis.objects.sources.imagenet_csv import SolutionTable
from odis.types import ImageObjects, Object, Skipped

TENCH, SHARK, HOUND, VAL = "n01440764", "n01484850", "n02092002", "ILSVRC2012_val_0000000"

HEADER = "ImageId,PredictionString\n"

OBJECT = (
    "<object><name>{}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>\n"
    "\t\t<bndbox>"
)
OBJECT += "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>\n\t</object>\n"


def xml(name: str, *objects: tuple, size: tuple[int, int] = (8, 6)) -> str:
    head = (
        f"\t<folder>val</folder>\n\t<filename>{name}</filename>\n\t<source>\n"
        f"\t\t<database>ILSVRC_2012</database>\n\t</source>\n"
    )
    head += (
        f"\t<size>\n\t\t<width>{size[0]}</width>\n\t\t<height>{size[1]}</height>\n"
        f"\t\t<depth>3</depth>\n\t</size>\n"
    )
    return (
        f"<annotation>\n{head}\t<segmented>0</segmented>\n"
        f"{''.join(OBJECT.format(*o) for o in objects)}</annotation>\n"
    )


def path_of(name: str) -> str:
    """Where an image is below Data and its annotation below Annotations, without ending."""
    return (
        f"CLS-LOC/val/{name}" if name.startswith("ILSVRC") else f"CLS-LOC/train/{name.split('_')[0]}/{name}"
    )


def image(base: Path, name: str, size: tuple[int, int] = (8, 6), **options: Any) -> None:
    path = base / f"Data/{path_of(name)}.JPEG"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)


def annotate(base: Path, name: str, content: str) -> Path:
    path = base / f"Annotations/{path_of(name)}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Kaggle's layout: of each class one image with XML, one in the CSV, one without boxes; two for
    validation.
    """
    root = tmp_path / "kaggle"
    base = root / "ILSVRC"
    for wnid in (SHARK, TENCH):
        for number in (18, 9, 5):
            image(base, f"{wnid}_{number}")
        annotate(base, f"{wnid}_18", xml(f"{wnid}_18", (wnid, 1, 2, 3, 4), (wnid, 0, 0, 7, 5)))
    (root / "LOC_train_solution.csv").write_text(
        f"{HEADER}{SHARK}_5,{SHARK} 1 1 6 4 \n{TENCH}_18,{TENCH} 5 5 5 5 \n{TENCH}_5,{TENCH} 0 0 0 0 "
        f"{TENCH} 2 1 7 5 \n"
    )
    image(base, f"{VAL}1")
    image(base, f"{VAL}2", (6, 8))
    annotate(base, f"{VAL}2", xml(f"{VAL}2", (TENCH, 0, 0, 5, 7), size=(6, 8)))
    (root / "LOC_val_solution.csv").write_text(f"{HEADER}{VAL}2,{SHARK} 1 1 2 2 \n{VAL}1,{SHARK} 3 1 7 5 \n")
    return root


def build(
    root: Path, split: str | None = "train", **options: Any
) -> tuple[ObjectIndex, Summary, list[Skipped]]:
    skipped: list[Skipped] = []
    summary = build_index("imagenet", root, root / "i.parquet", split=split, report=skipped.append, **options)
    assert summary.images == summary.written + summary.images_skipped
    assert summary.objects == summary.kept + summary.objects_skipped
    return ObjectIndex.open(root / "i.parquet"), summary, skipped


def shown(index: ObjectIndex) -> dict[str, list[tuple]]:
    return {Path(row.image).stem: [(*o.box, o.label) for o in row.objects] for row in index}


def test_boxes_come_from_xml_then_from_the_csv_then_from_the_image(root: Path) -> None:
    index, summary, skipped = build(root, None)
    folder = "ILSVRC/Data/CLS-LOC/train"
    whole = [Object((0, 0, 8, 6), label=label) for label in (0, 1)]
    assert list(index) == [
        ImageObjects(f"{folder}/{TENCH}/{TENCH}_18.JPEG", 8, 6, (Object((1, 2, 4, 5), label=0), whole[0])),
        ImageObjects(
            f"{folder}/{TENCH}/{TENCH}_5.JPEG",
            8,
            6,
            (Object((0, 0, 1, 1), label=0), Object((2, 1, 8, 6), label=0)),
        ),
        ImageObjects(f"{folder}/{TENCH}/{TENCH}_9.JPEG", 8, 6, (whole[0],)),
        ImageObjects(f"{folder}/{SHARK}/{SHARK}_18.JPEG", 8, 6, (Object((1, 2, 4, 5), label=1), whole[1])),
        ImageObjects(f"{folder}/{SHARK}/{SHARK}_5.JPEG", 8, 6, (Object((1, 1, 7, 5), label=1),)),
        ImageObjects(f"{folder}/{SHARK}/{SHARK}_9.JPEG", 8, 6, (whole[1],)),
    ]
    assert (index.classes, index.provenance, index.root) == ([TENCH, SHARK], "annotated", root)
    assert (summary.images, summary.objects, summary.kept, skipped) == (6, 9, 9, [])


def test_validation_images_have_the_class_of_their_objects(root: Path) -> None:
    index, summary, skipped = build(root, "val")
    assert shown(index) == {f"{VAL}1": [(3, 1, 8, 6, 1)], f"{VAL}2": [(0, 0, 6, 8, 0)]}
    assert (index.classes, summary.images, summary.objects, skipped) == ([TENCH, SHARK], 2, 2, [])
    (root / "LOC_val_solution.csv").rename(root / "aside.csv")
    index, _, (one,) = build(root, "val")  # XML alone
    assert (index.classes, len(index)) == ([TENCH], 1)
    assert one == Skipped(
        f"{root}/ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG", "no annotation names its class"
    )
    (root / "ILSVRC/Annotations").rename(root / "aside")
    with pytest.raises(
        DataError,
        match=r"nothing names the classes of its images; neither .*CLS-LOC/val nor .*val_solution\.csv is "
        r"there",
    ):
        build(root, "val")
    (root / "aside.csv").rename(root / "LOC_val_solution.csv")
    index, _, skipped = build(root, "val")  # the CSV alone
    assert shown(index)[f"{VAL}2"] == [(1, 1, 3, 3, 0)]
    assert (index.classes, skipped) == ([SHARK], [])


def test_the_published_layout_without_kaggles_files(root: Path) -> None:
    index, _, skipped = build(root / "ILSVRC")
    assert [row.image for row in index][:2] == [
        f"Data/CLS-LOC/train/{TENCH}/{TENCH}_{n}.JPEG" for n in (18, 5)
    ]
    assert (index.root, index.provenance, skipped) == (root / "ILSVRC", "annotated", [])
    assert shown(index)[f"{TENCH}_5"] == [(0, 0, 8, 6, 0)]
    (root / "ILSVRC/Annotations").rename(root / "aside")
    index, summary, _ = build(root / "ILSVRC")  # and without boxes: the folders still say the class
    assert set(map(tuple, shown(index).values())) == {((0, 0, 8, 6, 0),), ((0, 0, 8, 6, 1),)}
    assert (summary.kept, index.provenance) == (6, "whole-image")


def test_published_boxes_reach_from_zero_to_the_last_pixel(tmp_path: Path) -> None:
    """Those of three validation images, as published; the last two touch two edges each."""
    for name, size, box in (
        (f"{VAL}1", (500, 375), (111, 108, 441, 193)),
        ("ILSVRC2012_val_00000083", (500, 375), (0, 0, 499, 374)),
        ("ILSVRC2012_val_00000087", (120, 90), (12, 0, 119, 89)),
    ):
        image(tmp_path, name, size)
        annotate(tmp_path, name, xml(name, (TENCH, *box), size=size))
    index, _, skipped = build(tmp_path, "val")
    assert [row.objects[0].box for row in index] == [(111, 108, 442, 194), (0, 0, 500, 375), (12, 0, 120, 90)]
    assert skipped == []


def test_known_faults_of_the_published_xml(root: Path) -> None:
    image(root / "ILSVRC", f"{HOUND}_1")
    annotate(root / "ILSVRC", f"{HOUND}_1", xml("%s", ("Scottish_deerhound", 1, 1, 2, 2)))
    image(root / "ILSVRC", f"{HOUND}_2", (1280, 960))
    annotate(root / "ILSVRC", f"{HOUND}_2", xml("%s", (HOUND, 0, 25, 249, 374), size=(500, 375)))
    image(root / "ILSVRC", f"{HOUND}_3", (1024, 683))
    annotate(root / "ILSVRC", f"{HOUND}_3", xml("%s", (HOUND, 0, 9, 499, 332), size=(500, 333)))
    index, _, skipped = build(root)
    rows = shown(index)
    assert rows[f"{HOUND}_1"] == [(1, 1, 3, 3, 2)]
    assert rows[f"{HOUND}_2"] == [(0, 64, 640, 960, 2)]
    assert rows[f"{HOUND}_3"] == [(0, pytest.approx(9 * 683 / 333), 1024, 683, 2)]
    assert [(row.width, row.height) for row in index][-2:] == [(1280, 960), (1024, 683)]
    assert skipped == []


def test_a_size_of_another_shape_leaves_the_image_out(root: Path) -> None:
    name = f"{TENCH}_18"
    annotate(root / "ILSVRC", name, xml(name, (TENCH, 1, 1, 2, 2), size=(6, 8)))
    index, summary, (skipped, item) = build(root)
    path = f"{root}/ILSVRC/Data/CLS-LOC/train/{TENCH}/{name}.JPEG"
    assert skipped == Skipped(path, "is 8 x 6 pixels, but annotated as 6 x 8")
    assert item.what.endswith(f"{name}.xml, object 1")
    assert (len(index), summary.images_skipped, summary.objects_skipped) == (5, 1, 1)
    turned = Image.Exif()
    turned[0x0112] = 6
    image(
        root / "ILSVRC", name, exif=turned
    )  # stored as 8 x 6, shown as 6 x 8: an annotation may mean either
    index, _, skipped = build(root)
    assert ((index[0].width, index[0].height), skipped) == ((6, 8), [])


def test_boxes_of_other_classes(root: Path) -> None:
    name = f"{TENCH}_18"
    annotate(
        root / "ILSVRC", name, xml(name, (SHARK, 1, 1, 2, 2), ("n09999999", 1, 1, 2, 2), (TENCH, 0, 0, 0, 0))
    )
    index, summary, (skipped,) = build(root)
    assert shown(index)[name] == [(1, 1, 3, 3, 1), (1, 1, 3, 3, None), (0, 0, 1, 1, 0)]
    assert type(skipped) is Mended
    assert skipped.what.endswith(f"{name}.xml, object 2")
    assert skipped.why == "has class 'n09999999', which is none of this split: kept without label"
    assert (summary.objects, summary.kept, summary.mended) == (10, 10, 1)
    annotate(root / "ILSVRC", name, xml(name, ("n09999999", 1, 1, 2, 2)))  # the class of the image is kept
    assert shown(build(root)[0])[name] == [(1, 1, 3, 3, None), (0, 0, 8, 6, 0)]
    val = f"{VAL}2"
    annotate(root / "ILSVRC", val, xml(val, ("Scottish_deerhound", 1, 1, 2, 2), size=(6, 8)))
    _, _, (skipped, item) = build(root, "val")  # there is no folder to say what it is
    assert (Path(skipped.what).stem, skipped.why) == (val, "no annotation names its class")
    assert item.why == "its image cannot be used"


def test_an_image_whose_boxes_cannot_be_used_keeps_its_class(root: Path) -> None:
    for name in (f"{TENCH}_18", f"{VAL}1"):
        annotate(root / "ILSVRC", name, xml(name, (TENCH, 5, 1, 2, 2), (TENCH, "x", 1, 2, 2)))
    for split, name in (("train", f"{TENCH}_18"), ("val", f"{VAL}1")):
        index, summary, skipped = build(root, split)
        assert shown(index)[name] == [(0, 0, 8, 6, 0)]
        assert sorted(s.why for s in skipped) == [
            "<xmin> is 'x', must be a number of pixels",
            "box (5, 1, 3, 3) is inverted",
        ]
        assert summary.objects_skipped == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            '<!DOCTYPE a [<!ENTITY b "c">]>' + xml("x", (TENCH, 1, 1, 2, 2)),
            "contains <!DOCTYPE, which no annotation needs",
        ),
        (xml("x", (TENCH, 1, 1, 2, 2)).replace("<size>", "<!-- <!ENTITY --><size>"), "contains <!ENTITY"),
        (xml("x")[:-5], "is not XML"),
    ],
)
def test_an_annotation_that_is_not_read_leaves_its_image_out(root: Path, content: str, why: str) -> None:
    path = annotate(root / "ILSVRC", f"{TENCH}_18", content)
    index, summary, (skipped, from_csv) = build(root)
    assert skipped.what == str(path)
    assert why in skipped.why
    assert from_csv.what == f"{root}/LOC_train_solution.csv, image {TENCH}_18, box 1"
    assert (len(index), summary.images, summary.images_skipped, summary.objects_skipped) == (5, 6, 1, 1)


@pytest.mark.parametrize(
    ("line", "what", "why"),
    [
        (
            f"{TENCH}_9,{TENCH} 1 1 2\n",
            f"image {TENCH}_9",
            "has 4 words, must have five an object: its class and four numbers",
        ),
        (f"{TENCH}_9,{TENCH} 1 1 2 x\n", f"image {TENCH}_9, box 1", "box is '1 1 2 x', must be four numbers"),
        (f"{TENCH}_9,{TENCH} 1 1 nan 2\n", f"image {TENCH}_9, box 1", "is not finite"),
        (f"{TENCH}_9\n", "line 5", "has 1 column, must have ImageId,PredictionString"),
        (f"{TENCH}_9,{TENCH} 1 1 2 2,8,6\n", "line 5", "has 4 columns, must have ImageId,PredictionString"),
        (f"k\udce4tzchen,{TENCH} 1 1 2 2\n", "line 5", "is not UTF-8"),
        pytest.param("x" * 200_000 + ",\n", "line 5", "is not CSV", id="longer than a field may be"),
        (f"../../{TENCH}_9,{TENCH} 1 1 2 2\n", "line 5", f"'../../{TENCH}_9' is not the name of an image"),
        (f"..\\{TENCH}_9,{TENCH} 1 1 2 2\n", "line 5", "is not the name of an image"),
        (f",{TENCH} 1 1 2 2\n", "line 5", "is not the name of an image"),
    ],
)
def test_a_line_of_the_csv_that_cannot_be_used_is_named(root: Path, line: str, what: str, why: str) -> None:
    path = root / "LOC_train_solution.csv"
    path.write_bytes(
        path.read_bytes() + line.encode("utf-8", "surrogateescape") + f"\n{SHARK}_9,{SHARK} 1 1 2 2".encode()
    )
    index, summary, (skipped,) = build(root)
    assert skipped.what == f"{path}, {what}"
    assert why in skipped.why
    assert len(skipped.why.splitlines()) == 1
    assert shown(index)[f"{TENCH}_9"] == [(0, 0, 8, 6, 0)]
    assert shown(index)[f"{SHARK}_9"] == [(1, 1, 3, 3, 1)]  # what follows is read as before
    assert (summary.images, summary.written, summary.objects, summary.objects_skipped) == (6, 6, 10, 1)
    with pytest.raises(DataError) as error:
        build(root, strict=True)
    assert str(error.value) == f"{skipped.what}: {skipped.why}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (
            b",ImageId,PredictionString\n0,a,b\n",
            "its columns are ',ImageId,PredictionString', must be ImageId,PredictionString",
        ),
        (b"image;boxes\n", "its columns are 'image;boxes', must be"),
        ((HEADER + "a,b\n").encode("utf-16"), "is not CSV in UTF-8"),
    ],
)
def test_another_csv_is_refused(root: Path, content: bytes, why: str) -> None:
    for split in ("train", "val"):
        (root / f"LOC_{split}_solution.csv").write_bytes(content)
        with pytest.raises(DataError) as error:
            build(root, split)
        assert str(error.value).startswith(f"{root}/LOC_{split}_solution.csv: {why}")
    assert not (root / "i.parquet").exists()


def test_a_csv_of_a_header_alone_has_no_boxes(root: Path) -> None:
    (root / "LOC_train_solution.csv").write_bytes(b"\xef\xbb\xbfImageId,PredictionString\r\n")
    index, summary, skipped = build(root)
    assert (len(index), summary.kept, skipped) == (6, 8, [])


def test_annotations_without_an_image_are_named(root: Path) -> None:
    base = root / "ILSVRC"
    annotate(base, f"{TENCH}_77", xml("x", (TENCH, 1, 1, 2, 2), (TENCH, 1, 1, 2, 2)))
    annotate(base, f"{TENCH}_78", "broken")
    annotate(base, "n09999999_1", xml("x", ("n09999999", 1, 1, 2, 2)))  # a class that is not here at all
    with (root / "LOC_train_solution.csv").open("a") as file:
        file.write(
            f"{SHARK}_88,{SHARK} 1 1 2 2 \nn09999999_2,n09999999 1 1 2 2 \n{TENCH}_77,{TENCH} 1 1 2 2 \n"
        )
    index, summary, skipped = build(root)
    folder = f"{root}/ILSVRC/Data/CLS-LOC/train"
    assert [s.what for s in skipped if s.why == "is annotated, but there is no such image"] == [
        f"{folder}/{TENCH}/{TENCH}_77.JPEG",
        f"{folder}/{TENCH}/{TENCH}_78.JPEG",
        f"{folder}/{SHARK}/{SHARK}_88.JPEG",
    ]
    assert [Path(s.what).name for s in skipped if s.why == "its image cannot be used"] == [
        f"{TENCH}_77.xml, object 1", f"{TENCH}_77.xml, object 2", f"LOC_train_solution.csv, image "
            f"{SHARK}_88, box 1",
    ]  # fmt: skip
    assert (len(index), summary.images, summary.images_skipped, summary.objects_skipped, len(skipped)) == (
        6,
        9,
        3,
        3,
        6,
    )
    (root / "LOC_val_solution.csv").write_text(
        f"{HEADER}ILSVRC2012_val_00000009,{TENCH} 1 1 2 2 \nILSVRC2012_val_00000001,{TENCH} 1 1 2 2 \n"
    )
    _, _, (gone, _) = build(root, "val")
    assert gone.what == f"{root}/ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000009.JPEG"


def test_names_that_come_twice_are_named(root: Path) -> None:
    with (root / "LOC_train_solution.csv").open("a") as file:
        file.write(f"{SHARK}_5,{SHARK} 0 0 1 1 {SHARK} 0 0 2 2 \n")
    folder = root / f"ILSVRC/Data/CLS-LOC/train/{TENCH}"
    Image.new("RGB", (8, 6)).save(folder / f"{TENCH}_5.png")
    index, summary, skipped = build(root)
    csv = f"{root}/LOC_train_solution.csv, image {SHARK}_5"
    assert [(s.what, s.why) for s in skipped] == [
        (csv, "was listed before"),
        (f"{csv}, box 1", "its image was listed before"),
        (f"{csv}, box 2", "its image was listed before"),
        (str(folder / f"{TENCH}_5.png"), f"another image here is called '{TENCH}_5'"),
    ]
    assert shown(index)[f"{SHARK}_5"] == [(1, 1, 7, 5, 1)]
    assert (summary.images, summary.written, summary.objects) == (8, 6, 11)


def test_image_files_that_cannot_be_used_are_named(root: Path) -> None:
    folder = root / "ILSVRC/Data/CLS-LOC/train"
    (folder / f"{TENCH}/{TENCH}_18.JPEG").write_bytes(b"")
    (folder / f"{TENCH}/{TENCH}_9.JPEG").write_text("text")
    (folder / "loose.JPEG").touch()
    index, summary, skipped = build(root)
    assert [(s.what.removeprefix(f"{folder}/"), s.why) for s in skipped if ", object" not in s.what] == [
        ("loose.JPEG", "is in no folder of a class"),
        (f"{TENCH}/{TENCH}_18.JPEG", "is empty (0 bytes)"),
        (f"{TENCH}/{TENCH}_9.JPEG", "is not an image that can be read (unknown format)"),
    ]
    assert (len(index), summary.images, summary.images_skipped, summary.objects_skipped) == (4, 7, 3, 2)


@pytest.mark.parametrize("base", ["Data/CLS-LOC", "ILSVRC/Data/CLS-LOC", "."])
@pytest.mark.parametrize("xml_in_folders", [True, False])
def test_val_may_be_sorted_into_folders_of_classes(tmp_path: Path, base: str, xml_in_folders: bool) -> None:
    root = tmp_path / "sorted"
    folder = root / base / "val"
    for wnid, numbers in ((TENCH, (1, 2)), (SHARK, (3,))):
        for number in numbers:
            (folder / wnid).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6)).save(folder / wnid / f"{VAL}{number}.JPEG")
    index, summary, skipped = build(root, "val")
    assert (index.provenance, index.classes, skipped) == ("whole-image", [TENCH, SHARK], [])
    assert shown(index) == {f"{VAL}{k}": [(0, 0, 8, 6, int(k == 3))] for k in (1, 2, 3)}
    boxes = root / ("ILSVRC" if base.startswith("ILSVRC") else ".") / "Annotations/CLS-LOC/val"
    for number, wnid in ((1, TENCH), (3, SHARK), (8, SHARK), (9, HOUND)):  # without image: 8 and 9
        path = boxes / (wnid if xml_in_folders else ".") / f"{VAL}{number}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(xml("x", (wnid, 1, 2, 3, 4)))
    (root / "LOC_val_solution.csv").write_text(
        f"{HEADER}{VAL}2,{TENCH} 0 0 1 1 \n{VAL}7,{SHARK} 1 1 2 2\n{VAL}6,{HOUND} 1 1 2 2\n"
    )
    index, summary, skipped = build(root, "val")
    assert index.provenance == "annotated"
    assert shown(index) == {
        f"{VAL}1": [(1, 2, 4, 5, 0)], f"{VAL}2": [(0, 0, 2, 2, 0)], f"{VAL}3": [(1, 2, 4, 5, 1)],
    }  # fmt: skip
    assert {Path(s.what).stem for s in skipped if "," not in s.what} == {f"{VAL}7", f"{VAL}8"}
    assert (summary.images, summary.written, summary.objects, summary.kept) == (5, 3, 5, 3)


def test_a_missing_split_says_which_there_are(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'test'; there are train, val; odis index folder reads"):
        build(root, "test")
    with pytest.raises(DataError, match=r"no split 'train'; there are none of train, val; odis index"):
        build(tmp_path)
    (tmp_path / "Data/CLS-LOC/train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train: no class; ImageNet has a folder for each in it$"):
        build(tmp_path)
    annotate(root / "ILSVRC", f"{VAL}2", xml("x"))
    (root / "LOC_val_solution.csv").write_text(HEADER)
    with pytest.raises(DataError, match="val: no class; no annotation of it names a wnid"):
        build(root, "val")


def test_one_folder_is_listed_at_a_time_and_the_csv_stays_on_disk(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    monkeypatch.setattr(
        imagenet, "list_files", lambda folder: (listed.append(Path(folder).name), list_files(folder))[1]
    )
    rows = imagenet.read(root, "train", lambda _: None).rows
    assert listed == []
    assert [Path(next(rows).image).stem for _ in range(3)] == [f"{TENCH}_{n}" for n in (18, 5, 9)]
    assert listed == [TENCH]
    assert (len(list(rows)), listed) == (3, [TENCH, SHARK])
    table = SolutionTable(root / "LOC_train_solution.csv", lambda _: None)
    assert table._keys.nbytes + table._starts.nbytes + table._used.nbytes == 17 * 3


def test_a_csv_that_changes_meanwhile_is_an_error(root: Path) -> None:
    rows = imagenet.read(root, "train", lambda _: None).rows
    (root / "LOC_train_solution.csv").write_text(HEADER)
    with pytest.raises(DataError, match=r"LOC_train_solution\.csv: changed while it was read"):
        list(rows)


def test_images_are_found_though_their_hashes_are_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shown(build(root)[0])
    monkeypatch.setattr(imagenet_csv, "_hash", lambda name: 2**64 - 1)
    index, _, skipped = build(root)
    assert (shown(index), skipped) == (expected, [])


BOXES = st.tuples(st.integers(-3, 39), st.integers(-3, 29), st.integers(0, 45), st.integers(0, 45)).map(
    lambda b: (b[0], b[1], max(b[0] + b[2], 0), max(b[1] + b[3], 0))
)
IMAGES = st.tuples(st.sampled_from(["xml", "csv", "both"]), st.lists(BOXES, max_size=3, unique=True))
CLASSES = st.dictionaries(
    st.from_regex(r"n[0-9]{8}", fullmatch=True),
    st.lists(IMAGES, min_size=1, max_size=3),
    min_size=1,
    max_size=3,
)


@settings(max_examples=40, deadline=None)
@given(classes=CLASSES, val=st.booleans(), order=st.randoms(use_true_random=False))
def test_what_is_written_is_read_back(classes: dict[str, list], val: bool, order: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lines, expected = [], {}
        for wnid, images in classes.items():
            for where, boxes in images:
                name = f"ILSVRC2012_val_{len(expected):08d}" if val else f"{wnid}_{len(expected)}"
                boxes = boxes or [(0, 0, 1, 1)] if val else boxes
                image(root, name, (40, 30))
                if where != "csv":
                    annotate(root, name, xml(name, *((wnid, *box) for box in boxes), size=(40, 30)))
                if where != "xml":
                    lines.append(f"{name},{' '.join(' '.join(map(str, (wnid, *box))) for box in boxes)} \n")
                expected[name] = [(x0, y0, x1 + 1, y1 + 1, wnid) for x0, y0, x1, y1 in boxes] or [
                    (0, 0, 40, 30, wnid)
                ]
        order.shuffle(lines)
        split = "val" if val else "train"
        (root / f"LOC_{split}_solution.csv").write_text(HEADER + "".join(lines))
        index, summary, skipped = build(root, split)
        assert skipped == []
        assert index.classes == sorted(classes)
        assert {
            n: [(*box[:4], index.classes[box[4]]) for box in boxes] for n, boxes in shown(index).items()
        } == expected
        assert all(
            np.array_equal(row.boxes, np.float32([b[:4] for b in expected[Path(row.image).stem]]))
            for row in index
        )
        assert summary.written == len(expected)
