import tempfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.errors import DataError
from odis.objects.build import Summary, build_index
from odis.objects.clean import Mended, SkippedObject, Unread
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.objects.sources import voc
from odis.types import ImageObjects, Object, Skipped

HEAD = "<annotation>\n\t<folder>VOC2007</folder>\n\t<filename>{name}.jpg</filename>\n\t<source>\n\t\t"
HEAD += (
    "<database>The VOC2007 Database</database>\n\t\t<annotation>PASCAL VOC2007</annotation>\n"
    "\t\t<image>flickr</image>"
)
HEAD += "\n\t\t<flickrid>341012865</flickrid>\n\t</source>"
HEAD += (
    "\n\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n"
    "\t</size>\n\t<segmented>0</segmented>"
)

PART = (
    "<part><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    "</part>"
)


def bndbox(*numbers: object) -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    return f"<bndbox>{''.join(f'<{tag}>{number}</{tag}>' for tag, number in zip(tags, numbers))}</bndbox>"


def thing(name: str, *numbers: object, difficult: int = 0, parts: str = "") -> str:
    marks = f"<pose>Left</pose><truncated>1</truncated><difficult>{difficult}</difficult>"
    return f"<object><name>{escape(name)}</name>{marks}{bndbox(*numbers)}{parts}</object>"


def xml(name: str, *objects: str, width: object = 8, height: object = 6) -> str:
    return HEAD.format(name=escape(name), width=width, height=height) + "".join(objects) + "\n</annotation>\n"


def add(root: Path, name: str, *objects: str, size: tuple[int, int] = (8, 6)) -> None:
    (root / f"Annotations/{name}.xml").write_text(
        xml(name, *objects, width=size[0], height=size[1]), encoding="utf-8"
    )
    Image.new("RGB", size).save(root / f"JPEGImages/{name}.jpg")


def choose(root: Path, *names: str, split: str = "train") -> None:
    (root / f"ImageSets/Main/{split}.txt").write_text(
        "".join(f"{name}\n" for name in names), encoding="utf-8"
    )


def devkit(root: Path) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main", "SegmentationObject"):
        (root / folder).mkdir(parents=True)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A devkit of three images: `b` has a good object and `a` two; `c` has none."""
    root = devkit(tmp_path / "VOC2007")
    add(root, "b", thing("dog", 1, 1, 8, 6))
    add(root, "a", thing("cat", 2, 3, 4, 5), thing("dog", 1, 1, 1, 1, difficult=1))
    add(root, "c")
    choose(root, "b", "a", "c")
    return root


def build(
    root: Path, split: str | None = "train", **options: Any
) -> tuple[ObjectIndex, Summary, list[Skipped]]:
    skipped: list[Skipped] = []
    options = {"max_skipped": 1, **options}
    summary = build_index("voc", root, root / "i.parquet", split=split, report=skipped.append, **options)
    assert summary.images == summary.written + summary.images_skipped
    assert summary.objects == summary.kept + summary.objects_skipped
    return ObjectIndex.open(root / "i.parquet"), summary, skipped


def test_the_published_annotations(tmp_path: Path) -> None:
    """Image 000001 of VOC 2007, and 2007_000027 of VOC 2012 with its body parts."""
    root = devkit(tmp_path / "VOC2007")
    add(root, "000001", thing("dog", 48, 240, 195, 371), thing("person", 8, 12, 352, 498), size=(353, 500))
    parts = PART.format("head", 169, 104, 209, 146) + PART.format("foot", 273, 333, 297, 354)
    add(root, "2007_000027", thing("person", 174, 101, 349, 351, parts=parts), size=(486, 500))
    choose(root, "000001", "2007_000027", split="trainval")
    index, summary, skipped = build(root, "trainval")
    dog, person = 11, 14
    assert list(index) == [
        ImageObjects(
            "JPEGImages/000001.jpg",
            353,
            500,
            (Object((47, 239, 195, 371), label=dog), Object((7, 11, 352, 498), label=person)),
        ),
        ImageObjects("JPEGImages/2007_000027.jpg", 486, 500, (Object((173, 100, 349, 351), label=person),)),
    ]
    assert (index.classes, index.provenance, index.root) == (voc.CLASSES, "annotated", root)
    assert (len(index.classes), sorted(index.classes)) == (20, index.classes)
    assert (index.classes[dog], index.classes[person]) == ("dog", "person")
    assert (summary.images, summary.objects, summary.kept, skipped) == (2, 3, 3, [])


def test_rows_follow_the_list_and_difficult_objects_are_kept(root: Path) -> None:
    index, summary, skipped = build(root)
    assert [row.image for row in index] == ["JPEGImages/b.jpg", "JPEGImages/a.jpg", "JPEGImages/c.jpg"]
    assert [[o.box for o in row.objects] for row in index] == [
        [(0, 0, 8, 6)],
        [(1, 2, 4, 5), (0, 0, 1, 1)],
        [],
    ]
    assert (summary.images, summary.written, summary.objects, summary.kept, skipped) == (3, 3, 3, 3, [])


def test_numbers_need_not_be_whole(root: Path) -> None:
    add(root, "c", thing("cow", "1.5", " 2.25\n", "4.70000076293945", "5e0"))
    index, _, skipped = build(root)
    assert np.array_equal(index[2].boxes, np.float32([[0.5, 1.25, 4.70000076293945, 5]]))
    assert skipped == []


def test_one_other_class_makes_them_all_the_splits_own(root: Path) -> None:
    choose(root, "b", split="val")
    add(root, "c", thing("zebra", 1, 1, 2, 2))
    index, _, skipped = build(root)
    assert index.classes == ["cat", "dog", "zebra"]
    assert [[o.label for o in row.objects] for row in index] == [[1], [0, 1], [2]]
    assert skipped == []
    index, _, _ = build(root, "val")  # another split does not see it
    assert index.classes == voc.CLASSES


def test_a_class_is_new_only_if_a_file_changed(root: Path) -> None:
    skipped: list[Skipped] = []
    source = voc.read(root, "train", skipped.append)
    add(root, "a", thing("zebra", 1, 1, 2, 2), thing("dog", 1, 1, 2, 2))
    assert [[o.label for o in row.objects] for row in source.rows] == [[11], [None, 11], []]
    (mended,) = skipped
    assert mended == Mended(
        f"{root}/Annotations/a.xml, object 1",
        "has the class 'zebra', which was not there before: kept without label",
    )


def test_rows_come_as_they_are_asked_for(root: Path) -> None:
    skipped: list[Skipped] = []
    source = voc.read(root, "train", skipped.append)
    assert next(source.rows).image == "JPEGImages/b.jpg"
    (root / "JPEGImages/a.jpg").unlink()
    assert [row.image for row in source.rows] == ["JPEGImages/c.jpg"]
    assert len(skipped) == 3  # the image and its two objects


BOX = bndbox(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<object><name>cat</name></object>", "has no <bndbox>, must have one"),
        (f"<object><name>cat</name>{BOX}{BOX}</object>", "has 2 <bndbox>, must have one"),
        (f"<object><name>cat</name>{PART.format('head', 1, 1, 4, 4)}</object>", "has no <bndbox>"),
        (
            "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax></bndbox></object>",
            "has no <ymax>",
        ),
        (thing("cat", 1, 1, "four", 4), "<xmax> is 'four', must be a number"),
        (thing("cat", 1, 1, "", 4), "<xmax> is empty"),
        (thing("cat", 1, 1, "1_0", 4), "<xmax> is '1_0', must be a number"),
        (thing("cat", 1, 1, "nan", 4), "is not finite"),
        (thing("cat", 1, 1, "1e999", 4), "<xmax> is '1e999', must be a number of pixels"),
        (thing("cat", 5, 1, 2, 4), "box (4, 0, 2, 4) is inverted"),
        (thing("cat", 1, 5, 4, 2), "box (0, 4, 4, 2) is inverted"),
        (thing("cat", 5, 1, 4, 4), "box (4, 0, 4, 4) is empty"),
        (thing("cat", 9, 1, 12, 4), "is outside the image of 8 x 6 pixels"),
        (thing("cat", -9, -9, -2, -1), "is outside"),
    ],
)
def test_an_unusable_object_is_named(root: Path, text: str, why: str) -> None:
    add(root, "c", thing("cow", 1, 1, 4, 4), text, thing("cat", 1, 1, 4, 4))
    index, summary, (skipped,) = build(root)
    assert skipped.what == f"{root}/Annotations/c.xml, object 2"
    assert why in skipped.why
    assert len(skipped.why.splitlines()) == 1
    assert [o.label for o in index[2].objects] == [9, 7]
    assert (summary.written, summary.objects, summary.kept, summary.objects_skipped) == (3, 6, 5, 1)
    (root / "i.parquet").unlink()
    with pytest.raises(DataError) as error:
        build(root, strict=True)
    assert str(error.value) == f"{skipped.what}: {skipped.why}"
    assert not (root / "i.parquet").exists()


@pytest.mark.parametrize("name", ["", "<name> </name>", "<name/>", "<name>a</name><name>b</name>"])
def test_an_object_without_a_class_is_kept_without_label(root: Path, name: str) -> None:
    add(root, "c", thing("cow", 1, 1, 4, 4), f"<object>{name}{BOX}</object>")
    index, summary, (mended,) = build(root)
    assert index[2].objects == (Object((0, 0, 4, 4), label=9), Object((0, 0, 4, 4)))
    assert mended == Mended(
        f"{root}/Annotations/c.xml, object 2", "has no <name> that can be read: kept without label"
    )
    assert (summary.objects, summary.kept, summary.mended) == (5, 5, 1)


def test_the_same_object_twice_is_one(root: Path) -> None:
    add(root, "c", thing("cow", 1, 1, 4, 4), thing("cat", 1, 1, 4, 4), thing("cow", 1, "1.0", 4, 4))
    index, summary, (skipped,) = build(root)
    assert [o.label for o in index[2].objects] == [9, 7]
    assert skipped == SkippedObject(f"{root}/Annotations/c.xml, object 3", "is the same as object 1")
    assert (summary.objects, summary.kept, summary.objects_skipped) == (6, 5, 1)


BOMB = '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
GOOD = xml("c", thing("cat", 1, 1, 4, 4))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (BOMB + GOOD, "contains <!DOCTYPE, which no annotation needs; it is not parsed"),
        (b"", "is empty"),
        ("no tags", "is not XML"),
        (None, "no such file"),
    ],
)
def test_an_annotation_that_is_not_read_is_named(root: Path, content: str | bytes | None, why: str) -> None:
    path = root / "Annotations/c.xml"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    index, summary, (skipped,) = build(root)
    assert skipped.what == str(path)
    assert why in skipped.why
    assert len(skipped.why.splitlines()) == 1
    assert (len(index), summary.images, summary.images_skipped, summary.objects) == (2, 3, 1, 3)
    with pytest.raises(DataError) as error:
        build(root, strict=True)
    assert str(error.value) == f"{skipped.what}: {skipped.why}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<width>8</width>", ""),
        ("<width>8</width>", "<width/>"),
        ("<width>8</width>", "<width>0</width>"),
        ("<width>8</width>", "<width>8.5</width>"),
        ("<height>6</height>", "<height>-1</height>"),
        ("<width>8</width>", "<width>nan</width>"),
        ("<width>8</width>", "<width>1e300</width>"),
        ("<width>8</width>", "<width>None</width>"),
        ("size>", "scale>"),
        ("<width>8</width>", "<width>8.0</width>"),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_a_size_that_is_none_is_not_stated_and_read_from_the_image(
    root: Path, old: str, new: str, trust: bool
) -> None:
    text = xml("c", thing("cat", 1, 1, 4, 4))
    assert old in text
    (root / "Annotations/c.xml").write_text(text.replace(old, new))
    index, _, skipped = build(root, trust=trust)
    assert index[2] == ImageObjects("JPEGImages/c.jpg", 8, 6, (Object((0, 0, 4, 4), label=7),))
    assert skipped == []


def test_a_size_the_wrong_way_round_is_taken_as_the_image_is_if_the_boxes_are_in_it(root: Path) -> None:
    path = root / "Annotations/c.xml"
    for box, trust in (((1, 1, 8, 6), False), ((1, 1, 4, 4), False), ((1, 1, 40, 30), True)):
        add(root, "c", size=(40, 30) if trust else (8, 6))
        size = (30, 40) if trust else (6, 8)
        path.write_text(xml("c", thing("cat", *box), width=size[0], height=size[1]))
        index, summary, (mended,) = build(root, trust=trust)
        assert (index[2].width, index[2].height) == size[::-1]
        assert index[2].objects == (Object((0, 0, *box[2:]), label=7),)
        assert mended == Mended(
            f"{root}/JPEGImages/c.jpg",
            "its size is annotated the wrong way round, as its boxes show: taken as it is",
        )
        assert summary.mended == 1


@pytest.mark.parametrize(("size", "box"), [((9, 6), (1, 1, 4, 4)), ((6, 8), (1, 1, 4, 40))])
def test_an_image_of_another_size_takes_its_objects_along(
    root: Path, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    text = xml("c", thing("cat", *box), "<object/>", width=size[0], height=size[1])
    (root / "Annotations/c.xml").write_text(text)
    index, summary, (image, *objects) = build(root)
    assert image.what == f"{root}/JPEGImages/c.jpg"
    assert image.why == f"is 8 x 6 pixels, but annotated as {size[0]} x {size[1]}"
    assert [(s.what, s.why) for s in objects] == [
        (f"{root}/Annotations/c.xml, object {k}", "its image cannot be used") for k in (1, 2)
    ]  # fmt: skip
    assert (len(index), summary.images, summary.images_skipped) == (2, 3, 1)
    assert (summary.objects, summary.kept, summary.objects_skipped) == (5, 3, 2)


def test_an_image_file_that_cannot_be_used_is_named(root: Path) -> None:
    (root / "JPEGImages/b.jpg").write_bytes(b"")
    (root / "JPEGImages/a.jpg").unlink()
    index, summary, skipped = build(root)
    assert [(s.what.removeprefix(f"{root}/"), s.why) for s in skipped] == [
        ("JPEGImages/b.jpg", "is empty (0 bytes)"),
        ("Annotations/b.xml, object 1", "its image cannot be used"),
        ("JPEGImages/a.jpg", "no such file, nor one of another ending"),
        ("Annotations/a.xml, object 1", "its image cannot be used"),
        ("Annotations/a.xml, object 2", "its image cannot be used"),
    ]
    assert (len(index), summary.images_skipped, summary.objects_skipped, summary.kept) == (1, 2, 3, 0)


@pytest.mark.parametrize(
    ("size", "box", "expected", "told"),
    [
        ((60, 40), (46, 6, 55, 15), (60, 40), False),  # as stored, both
        ((40, 60), (26, 46, 35, 55), (40, 60), False),  # as shown, both
        ((60, 40), (26, 46, 35, 55), (40, 60), True),  # stored size, boxes of the viewer
        ((40, 60), (46, 6, 55, 15), (60, 40), True),
        ((0, 0), (46, 6, 55, 15), (60, 40), False),
        ((0, 0), (26, 46, 35, 55), (40, 60), False),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_boxes_of_a_turned_image_lie_where_they_were_drawn(
    root: Path,
    size: tuple[int, int],
    box: tuple[int, ...],
    expected: tuple[int, int],
    told: bool,
    trust: bool,
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = np.zeros((40, 60), np.uint8)
    pixels[5:15, 45:55] = 255
    Image.fromarray(pixels).save(root / "JPEGImages/c.png", exif=turned)
    (root / "JPEGImages/c.jpg").unlink()
    (root / "Annotations/c.xml").write_text(xml("c", thing("cat", *box), width=size[0], height=size[1]))
    index, _, skipped = build(root, trust=trust)
    row = index[2]
    assert (row.width, row.height) == expected
    assert [type(one) for one in skipped] == [Mended] * told
    x0, y0, x1, y1 = map(int, row.objects[0].box)
    shown = np.asarray(load_image(index.image_path(2), expected).convert("L"))
    assert shown[y0:y1, x0:x1].min() == 255
    assert shown.sum() == 255 * 100


@pytest.mark.parametrize(
    "name",
    ["../outside", "/outside", "x/../../outside", "..\\outside", "C:outside", "C:/outside", "./b", "b//b"],
)
def test_no_name_leads_out_of_the_folder(root: Path, name: str) -> None:
    add(root, "../../outside", thing("cat", 1, 1, 2, 2))
    choose(root, "b", name, "c")
    index, summary, (skipped,) = build(root)
    assert skipped == Skipped(
        f"{root}/ImageSets/Main/train.txt, line 2", f"{name!r} is not the name of an image in "
            f"{root}/JPEGImages"
    )  # fmt: skip
    assert (len(index), summary.images, summary.images_skipped) == (2, 3, 1)
    (root / "JPEGImages/c.jpg").unlink()  # nor does the file that an annotation names
    choose(root, "b", "c")
    (root / "Annotations/c.xml").write_text(GOOD.replace("c.jpg", name))
    _, summary, (image, item) = build(root)
    assert image == Skipped(
        f"{root}/Annotations/c.xml",
        f"<filename> is {name!r}, which is not the name of an image in {root}/JPEGImages",
    )
    assert item.why == "its image cannot be used"


@pytest.mark.parametrize(
    ("ending", "named"),
    [
        (".png", "c{}"),
        (".jpeg", "c.jpg"),
        (".JPG", "other.jpg"),
        (".PNG", "/somewhere/c{}"),
        (".bmp", "C:\\x\\c{}"),
        (".webp", ""),
        (".tif", "c{}"),
    ],
)
def test_an_image_of_any_ending_is_found_by_the_name_of_its_annotation(
    root: Path, ending: str, named: str
) -> None:
    (root / "JPEGImages/c.jpg").unlink()
    Image.new("RGB", (8, 6)).save(root / f"JPEGImages/c{ending}")
    (root / "Annotations/c.xml").write_text(GOOD.replace("c.jpg", named.format(ending)))
    index, _, skipped = build(root)
    assert [row.image for row in index] == ["JPEGImages/b.jpg", "JPEGImages/a.jpg", f"JPEGImages/c{ending}"]
    assert skipped == []


def test_a_stale_filename_puts_no_boxes_on_another_image(root: Path) -> None:
    (root / "Annotations/c.xml").write_text(GOOD.replace("c.jpg", "b.jpg"))
    index, _, skipped = build(root)
    assert [row.image for row in index] == ["JPEGImages/b.jpg", "JPEGImages/a.jpg", "JPEGImages/c.jpg"]
    assert index[2].objects == (Object((0, 0, 4, 4), label=7),)
    assert skipped == []
    (root / "JPEGImages/c.jpg").unlink()  # b.jpg is that of b.xml, whether it is in the list or not
    choose(root, "a", "c")
    index, _, (image, item) = build(root)
    assert [row.image for row in index] == ["JPEGImages/a.jpg"]
    assert image == Skipped(
        f"{root}/JPEGImages/c.jpg",
        "no such file, nor one of another ending; b.jpg, which <filename> names, has another XML file",
    )
    assert item.why == "its image cannot be used"


def test_an_image_is_found_by_the_filename_if_it_is_of_no_other_annotation(root: Path) -> None:
    (root / "JPEGImages/c.jpg").rename(root / "JPEGImages/photo 7.jpeg")
    add(root, "d", thing("cat", 1, 1, 2, 2))
    (root / "JPEGImages/d.jpg").unlink()
    for name in "cd":  # the first that names it has it
        (root / f"Annotations/{name}.xml").write_text(GOOD.replace("c.jpg", "photo 7.jpeg"))
    choose(root, "b", "c", "d")
    index, _, skipped = build(root)
    assert [row.image for row in index] == ["JPEGImages/b.jpg", "JPEGImages/photo 7.jpeg"]
    assert [s.what.removeprefix(f"{root}/") for s in skipped] == [
        "JPEGImages/d.jpg", "Annotations/d.xml, object 1"
    ]  # fmt: skip


def test_of_two_images_of_one_name_the_named_one_is_taken_and_the_other_told(root: Path) -> None:
    Image.new("RGB", (8, 6)).save(root / "JPEGImages/c.png")
    for named, kept, left in (
        ("c.png", "png", "jpg"),
        ("c.jpg", "jpg", "png"),
        ("x", "jpg", "png"),
    ):
        (root / "Annotations/c.xml").write_text(GOOD.replace("c.jpg", named))
        index, summary, (told,) = build(root)
        assert index[2].image == f"JPEGImages/c.{kept}"
        assert told == Unread(f"{root}/JPEGImages/c.{left}", "images of a name that another has")
        assert summary.unread == {"images of a name that another has": 1}


def test_names_may_lead_down(root: Path) -> None:
    for folder in ("Annotations", "JPEGImages"):
        (root / folder / "more").mkdir()
    add(root, "more/d e", thing("cat", 1, 1, 2, 2))
    choose(root, "more/d e")
    index, _, skipped = build(root)
    assert ([row.image for row in index], skipped) == (["JPEGImages/more/d e.jpg"], [])


def test_an_image_is_listed_once(root: Path) -> None:
    choose(root, "b", "c", "b")
    index, summary, (skipped,) = build(root)
    assert skipped == Skipped(f"{root}/ImageSets/Main/train.txt, line 3", "'b' was listed before")
    assert (len(index), summary.images, summary.images_skipped, summary.objects) == (2, 3, 1, 1)


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6)
NUMBERS = st.floats(-2, 60, width=32) | st.integers(-2, 60)
BOXES = st.builds(
    lambda x, y, w, h: (x, y, x + w, y + h), NUMBERS, NUMBERS, st.floats(1, 50, width=32), st.integers(1, 50)
).filter(lambda b: b[0] <= 40 and b[1] <= 30 and b[2] > 0.01 and b[3] > 0.01)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    images=st.lists(
        st.lists(
            st.tuples(NAMES | st.sampled_from(voc.CLASSES), BOXES),
            max_size=4,
            unique_by=lambda item: (item[0], *(round(v, 2) for v in item[1])),  # repeats are left out
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_is_read_back(
    images: list[list[tuple[str, tuple[float, float, float, float]]]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = devkit(Path(folder) / "kit")
        for k, objects in enumerate(images):
            add(root, f"{k:06d}", *(thing(name, *box) for name, box in objects), size=(40, 30))
        choose(root, *(f"{k:06d}" for k in range(len(images))))
        index, _, skipped = build(root)
        assert skipped == []
        assert len(index) == len(images)
        for row, objects in zip(index, images):
            boxes = np.array(
                [(x0 - 1, y0 - 1, x1, y1) for _, (x0, y0, x1, y1) in objects], np.float32
            ).reshape(-1, 4)
            assert np.array_equal(row.boxes, boxes)
            assert [index.classes[o.label] for o in row.objects if o.label is not None] == [
                name for name, _ in objects
            ]
