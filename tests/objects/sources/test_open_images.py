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
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.objects.sources import open_images
from odis.types import ImageObjects, Object, Skipped

HEADER = (
    "ImageID,Source,LabelName,Confidence,"
    "XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)

# what the train file of V6 has behind
CLICKS = ",XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y"

ROWS = """\
0001eeaf4aed83f9,xclick,/m/0cmf2,1,0.25,0.75,0.0,0.5,0,0,0,0,0
0001eeaf4aed83f9,xclick,/m/04yx4,1,0.0,1.0,0.25,1.0,1,1,1,0,0
0001eeaf4aed83f9,activemil,/m/04yx4,1,0.5,0.625,0.5,0.75,-1,-1,-1,-1,-1
000595fe6fee6369,xclick,/m/02xwb,1,0.0,1.0,0.0,1.0,0,0,1,0,0
00075905539074f2,xclick,/m/04yx4,1,0.125,1.0,0.125,0.875,0,0,0,1,1
"""

CLASSES = "/m/0cmf2,Airplane\n/m/04yx4,Man\n/m/02xwb,Fruit\n"

IDS = ("0001eeaf4aed83f9", "000595fe6fee6369", "00075905539074f2")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three listed images of validation, and one that the annotation file does not list."""
    root = tmp_path / "open-images"
    (root / "validation").mkdir(parents=True)
    for name in (*IDS, "0010000000000000"):
        Image.new("RGB", (16, 8)).save(root / f"validation/{name}.jpg")
    write(root)
    (root / "class-descriptions-boxable.csv").write_text(CLASSES)
    return root


def write(root: Path, rows: str | bytes = ROWS, header: str = HEADER) -> None:
    text = rows if isinstance(rows, bytes) else f"{header}\n{rows}".encode()
    (root / "validation-annotations-bbox.csv").write_bytes(text)


def build(root: Path, **options: Any) -> tuple[ObjectIndex, Summary, list[Skipped]]:
    skipped: list[Skipped] = []
    summary = build_index(
        "open-images",
        root,
        root / "i.parquet",
        **{"split": "validation", "report": skipped.append, **options},
    )
    return ObjectIndex.open(root / "i.parquet"), summary, skipped


EXPECTED = [
    ImageObjects(
        f"validation/{IDS[0]}.jpg", 16, 8, (Object((4, 0, 12, 4), label=0), Object((8, 4, 10, 6), label=1))
    ),
    ImageObjects(f"validation/{IDS[1]}.jpg", 16, 8),
    ImageObjects(f"validation/{IDS[2]}.jpg", 16, 8, (Object((2, 1, 16, 7), label=1),)),
]


def test_the_published_layout(root: Path) -> None:
    index, summary, skipped = build(root)
    assert (
        list(index) == EXPECTED
    )  # groups are crowds; what is unknown (-1) is not; only listed images are rows
    assert (index.classes, index.provenance, index.root) == (["Airplane", "Man", "Fruit"], "annotated", root)
    assert (summary.images, summary.written, summary.objects, summary.kept, summary.crowds, skipped) == (
        3,
        3,
        5,
        3,
        2,
        [],
    )


def test_the_layout_of_later_versions(root: Path) -> None:
    (root / "annotations").mkdir()
    (root / "validation").rename(root / "train")
    (root / "validation-annotations-bbox.csv").unlink()
    rows = "".join(f"{line},0.1,0.2,0.3,0.4,-1.0,-1.0,-1.0,-1.0\r\n" for line in ROWS.splitlines())
    (root / "annotations/oidv6-train-annotations-bbox.csv").write_text(
        f"\ufeff{HEADER}{CLICKS}\r\n{rows}\r\n", newline=""
    )
    (root / "class-descriptions-boxable.csv").unlink()
    names = '\ufeffLabelName,DisplayName\r\n/m/0cmf2,"Plane, jet"\r\n/m/04yx4,Man\r\n/m/02xwb,Man\r\n'
    (root / "oidv7-class-descriptions-boxable.csv").write_text(names, newline="")
    index, summary, skipped = build(root, split=None)
    assert list(index) == [
        ImageObjects(row.image.replace("validation", "train"), 16, 8, row.objects) for row in EXPECTED
    ]
    assert index.classes == [
        "Plane, jet",
        "Man (/m/04yx4)",
        "Man (/m/02xwb)",
    ]  # a name that two classes share does not tell them apart
    assert (summary.objects, summary.kept, summary.crowds, skipped) == (5, 3, 2, [])


def test_columns_are_found_by_name(root: Path) -> None:
    write(root, f"0,/m/04yx4,1,.5,{IDS[0]},.25,.75\n", "IsGroupOf,LabelName,YMax,XMin,ImageID,YMin,XMax")
    assert list(build(root)[0]) == [
        ImageObjects(f"validation/{IDS[0]}.jpg", 16, 8, (Object((8, 2, 12, 8), label=1),))
    ]


def test_boxes_are_for_the_pixels_as_stored(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / f"validation/{IDS[0]}.jpg"
    Image.new("RGB", (16, 8)).save(path, exif=exif)
    index, _, _ = build(root)
    assert index[0] == EXPECTED[0]
    assert load_image(path, (index[0].width, index[0].height)).size == (16, 8)


def line(**change: str) -> str:
    fields = dict(zip(HEADER.split(","), ROWS.split("\n")[0].split(",")))
    return ",".join({**fields, **change}.values())


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (line(IsGroupOf="2"), "IsGroupOf is '2', must be 0, 1 or -1"),
        (line(IsGroupOf=""), "IsGroupOf is ''"),
        (line(XMin="x"), "XMin is 'x', must be a share of the image's width or height, from 0 to 1"),
        (line(YMin=""), "YMin is ''"),
        (line(XMax="nan"), "XMax is 'nan'"),
        (line(YMax="inf"), "YMax is 'inf'"),
        (line(YMax="0_1"), "YMax is '0_1'"),
        (line(XMax="640"), "XMax is '640'"),
        (line(YMin="-1.5"), "YMin is '-1.5'"),
        (line(XMin="1.25", XMax="1.5"), "is outside the image of 16 x 8 pixels"),
        (line(), "is the same as line 2"),
        (line(XMin="0.250", YMin="0"), "is the same as line 2"),
        (b"\xe9".decode("latin-1"), "has 1 column"),
        (line(XMax="0.125"), "is inverted"),
        (line(YMax="0"), "is empty"),
        (line() + ",1", "has 14 columns, but the first line 13"),
        (line().removesuffix(",0"), "has 12 columns"),
        ("text", "has 1 column"),
        (line().replace("xclick", '"xclick,1'), "has 14 columns"),
    ],
)
def test_an_unusable_row_is_named(root: Path, bad: str, text: str) -> None:
    first, rest = ROWS.split("\n", 1)
    write(root, f"{first}\n{bad}\n{rest}")
    index, summary, (skipped,) = build(root)
    assert skipped.what == f"{root}/validation-annotations-bbox.csv, line 3"
    assert text in skipped.why
    assert list(index) == EXPECTED
    assert (summary.images, summary.objects, summary.kept, summary.objects_skipped, summary.crowds) == (
        3,
        6,
        3,
        1,
        2,
    )
    with pytest.raises(DataError) as error:
        build(root, strict=True)
    assert str(error.value) == f"{skipped.what}: {skipped.why}"


@pytest.mark.parametrize(
    ("odd", "expected", "text"),
    [
        (
            line(LabelName="/m/0"),
            Object((4, 0, 12, 4)),
            "has class '/m/0', which the class descr",
        ),
        (line(LabelName=""), Object((4, 0, 12, 4)), "has class '', which"),
        (line(YMin="-0.25"), Object((4, 0, 12, 4), label=0), "reaches 2.0 pixels over the edge: clipped"),
        (line(YMin="-0.5"), Object((4, -4, 12, 4), label=0), None),  # as far as is no carelessness
        (line(XMax="1.01"), Object((4, 0, 16, 4), label=0), None),  # 0.16 pixels: rounding
        (line(XMax="1.125", YMax="1.125"), Object((4, 0, 16, 8), label=0), "reaches 2.0 pixels over the ed"),
    ],
)
def test_what_is_odd_about_a_row_does_not_cost_its_object(
    root: Path, odd: str, expected: Object, text: str | None
) -> None:
    _, rest = ROWS.split("\n", 1)
    write(root, f"{odd}\n{rest}")
    index, summary, skipped = build(root)
    assert index[0].objects[0] == expected
    assert (summary.objects, summary.kept, summary.mended) == (5, 3, len(skipped))
    assert [type(one) for one in skipped] == ([Mended] if text else [])
    assert text is None or text in skipped[0].why


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".png", ".PNG"])
def test_images_of_other_endings_are_found(root: Path, ending: str) -> None:
    (root / f"validation/{IDS[0]}.jpg").unlink()
    Image.new("RGB", (16, 8)).save(root / f"validation/{IDS[0]}{ending}")
    index, _, skipped = build(root)
    assert (index[0].image, skipped) == (f"validation/{IDS[0]}{ending}", [])
    assert index[0].objects == EXPECTED[0].objects


def test_unusable_images_take_their_objects_along(root: Path) -> None:
    (root / f"validation/{IDS[0]}.jpg").unlink()
    (root / f"validation/{IDS[1]}.jpg").write_text("text")
    index, summary, skipped = build(root)
    assert list(index) == EXPECTED[2:]
    assert [(s.what.removeprefix(f"{root}/"), s.why) for s in skipped] == [
        (f"validation/{IDS[0]}.jpg", "no such file"),
        ("validation-annotations-bbox.csv, line 2", "its image cannot be used"),
        ("validation-annotations-bbox.csv, line 4", "its image cannot be used"),
        (f"validation/{IDS[1]}.jpg", "is not an image that can be read (unknown format)"),
    ]
    assert (summary.images, summary.written, summary.images_skipped) == (3, 1, 2)
    assert (summary.objects, summary.kept, summary.objects_skipped, summary.crowds) == (5, 1, 2, 2)


def test_rows_of_an_image_that_comes_back_are_named(root: Path) -> None:
    again = ROWS.split("\n")
    write(root, ROWS + "\n".join(again[:2]))
    index, summary, skipped = build(root)
    assert list(index) == EXPECTED
    assert [s.what.rsplit(" ", 1)[1] for s in skipped] == ["7", "8"]
    assert {s.why for s in skipped} == {f"image {IDS[0]!r} was listed before; its rows must stand together"}
    assert (summary.images, summary.objects, summary.kept, summary.objects_skipped, summary.crowds) == (
        3,
        7,
        3,
        2,
        2,
    )


@pytest.mark.parametrize(
    "name",
    ["../secret", "/secret", "a/b", "a\\b", "C:secret", "", "..", ".hidden", "a\0b", '"quoted"', "x" * 300],
)
def test_an_image_id_that_may_not_be_used_is_named(root: Path, name: str) -> None:
    Image.new("RGB", (16, 8)).save(root / "secret.jpg")
    Image.new("RGB", (16, 8)).save(root / "validation/.hidden.jpg")
    write(root, ROWS.replace(IDS[0], name))
    index, summary, skipped = build(root)
    assert list(index) == EXPECTED[1:]
    image, *objects = skipped
    assert type(image) is Skipped
    assert name in image.what.replace("\\x00", "\0").replace("\\\\", "\\")
    assert "ImageID must be the name of a file" in image.why or len(name) == 300
    assert [s.why for s in objects] == ["its image cannot be used"] * 2
    assert (
        summary.images,
        summary.images_skipped,
        summary.objects,
        summary.objects_skipped,
        summary.crowds,
    ) == (3, 1, 5, 2, 2)


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("validation-annotations-bbox.csv", b"", "its first line must name the columns"),
        (
            "validation-annotations-bbox.csv",
            HEADER.replace("XMin", "x_min").encode(),
            "once each; XMin is not",
        ),
        (
            "validation-annotations-bbox.csv",
            HEADER.replace("Source", "ImageID").encode(),
            "once each; ImageID is not",
        ),
        ("validation-annotations-bbox.csv", HEADER.replace(",", ";").encode(), "must name the columns"),
        ("validation-annotations-bbox.csv", ROWS.encode(), "must name the columns"),
        (
            "validation-annotations-bbox.csv",
            f"{HEADER}\n{ROWS}".encode("utf-16"),
            "its first line must name the columns",
        ),
        ("validation-annotations-bbox.csv", HEADER.encode(), "no image that can be used"),
        ("class-descriptions-boxable.csv", b"", "lists no class"),
        ("class-descriptions-boxable.csv", b"LabelName,DisplayName\n", "lists no class"),
        (
            "class-descriptions-boxable.csv",
            b"/m/0cmf2,Airplane\n/m/04yx4\n",
            ", line 2: must be a class and its name",
        ),
        (
            "class-descriptions-boxable.csv",
            b"/m/0cmf2,Drink, soft\n",
            ", line 1: must be a class and its name",
        ),
        ("class-descriptions-boxable.csv", b"/m/0cmf2, \n", ", line 1: must be a class and its name"),
        (
            "class-descriptions-boxable.csv",
            CLASSES.encode() + b"/m/04yx4,Woman\n",
            ", line 4: lists class /m/04yx4 again",
        ),
        (
            "class-descriptions-boxable.csv",
            b'/m/0cmf2,"Airplane\n',
            "cannot be read (unexpected end of data)",
        ),
        ("class-descriptions-boxable.csv", b"/m/0cmf2,\xe9\n", "cannot be read ('utf-8' codec"),
    ],
)
def test_a_csv_file_that_cannot_be_used_is_refused(root: Path, file: str, content: bytes, text: str) -> None:
    (root / file).write_bytes(content)
    with pytest.raises(DataError) as error:
        build(root)
    assert text in str(error.value)
    assert str(error.value).startswith(str(root))
    assert "\n" not in str(error.value)
    assert not (root / "i.parquet").exists()


def test_what_is_missing_or_ambiguous_is_named(root: Path) -> None:
    for split in (None, "dev2", "../open-images/validation"):
        with pytest.raises(DataError, match=f"no split '{split or 'train'}'; there are validation"):
            build(root, split=split)
    with pytest.raises(DataError, match="there are none of train, validation, test"):
        build_index("open-images", root / "validation", root / "i.parquet")
    (root / "train").mkdir()
    with pytest.raises(
        DataError,
        match=r"has no oidv6-train-annotations-bbox\.csv or train-annotations-bbox\.csv, nor is there",
    ):
        build(root, split="train")
    (root / "oidv7-class-descriptions-boxable.csv").write_text(CLASSES)
    with pytest.raises(
        DataError,
        match=r"has oidv7-class-descriptions-boxable\.csv and class-descriptions-boxable\.csv; keep the one",
    ):
        build(root)
    for path in root.glob("*class-descriptions-boxable.csv"):
        path.unlink()
    with pytest.raises(
        DataError, match=r"has no oidv7-class-descriptions-boxable\.csv or class-descriptions-boxable\.csv"
    ):
        build(root)


def test_rows_come_as_they_are_asked_for(root: Path) -> None:
    skipped: list[Skipped] = []
    rows = open_images.read(root, "validation", skipped.append).rows
    assert next(rows) == EXPECTED[0]
    assert len(skipped) == 1  # the first image's group; the rest of the file was not looked at
    (root / f"validation/{IDS[1]}.jpg").unlink()
    assert next(rows) == EXPECTED[2]
    assert [s.why for s in skipped[1:]] == ["is a group", "no such file"]


SIDE = (
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2, unique=True)
    .map(sorted)
    .filter(lambda v: v[1] - v[0] > 1e-3)
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(SIDE, SIDE, st.integers(0, 3), st.booleans()), min_size=1, max_size=4, unique_by=repr
        ),
        min_size=1,
        max_size=4,
    ),
    st.lists(
        st.text(min_size=1).filter(lambda s: s.strip() and s.isprintable()),
        min_size=4,
        max_size=4,
        unique=True,
    ),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.booleans(),
)
def test_what_is_written_is_read_back(
    images: list[list[tuple[list[float], list[float], int, bool]]],
    names: list[str],
    size: tuple[int, int],
    header: bool,
) -> None:
    width, height = size
    skipped: list[Skipped] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "test").mkdir()
        quoted = "".join('/m/{},"{}"\n'.format(k, name.replace('"', '""')) for k, name in enumerate(names))
        text = ("LabelName,DisplayName\n" if header else "") + quoted
        (root / "class-descriptions-boxable.csv").write_text(text, encoding="utf-8")
        lines = [HEADER]
        for i, items in enumerate(images):
            Image.new("L", size).save(root / f"test/{i:016x}.jpg")
            for (x0, x1), (y0, y1), k, group in items:
                lines.append(f"{i:016x},xclick,/m/{k},1,{x0!r},{x1!r},{y0!r},{y1!r},0,0,{int(group)},0,0")
        (root / "test-annotations-bbox.csv").write_text("\n".join(lines))
        source = open_images.read(root, "test", skipped.append)
        rows = list(source.rows)
    assert source.classes == names
    assert [row.image for row in rows] == [f"test/{i:016x}.jpg" for i in range(len(images))]
    assert len(skipped) == sum(group for items in images for *_, group in items)
    for row, items in zip(rows, images):
        kept = [item for item in items if not item[3]]
        assert [o.label for o in row.objects] == [k for _, _, k, _ in kept]
        boxes = [(x0 * width, y0 * height, x1 * width, y1 * height) for (x0, x1), (y0, y1), _, _ in kept]
        assert np.array_equal(row.boxes, np.array(boxes, dtype=np.float32).reshape(-1, 4))


@pytest.mark.parametrize("together", [1, 2, 3, 4])
def test_lines_looked_at_together_make_no_difference(
    root: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    again, bad = ROWS.split("\n")[0], line(XMin="x")
    write(root, f"text\n\n{bad}\n{ROWS}1,2\n{again}\n3\n{again}\n")
    wanted: list[Skipped] = []
    rows = list(open_images.read(root, "validation", wanted.append).rows)
    assert rows == EXPECTED
    assert [s.what.rpartition(" ")[2] for s in wanted] == ["2", "6", "4", "8", "10", "11", "12", "13"]
    monkeypatch.setattr(open_images, "_LINES", together)
    found: list[Skipped] = []
    assert list(open_images.read(root, "validation", found.append).rows) == rows
    assert found == wanted


FIELD = st.sampled_from(
    [*IDS, "/m/0cmf2", "/m/04yx4", "0", "1", "-1", "0.5", "nan", "", '"', "..", "é", "\x85", "1e999"]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(FIELD, min_size=6, max_size=8), max_size=8))
def test_no_row_is_a_crash_or_a_silent_loss(table: list[list[str]]) -> None:
    skipped: list[Skipped] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "validation").mkdir()
        for name in IDS[:2]:
            Image.new("L", (4, 4)).save(root / f"validation/{name}.jpg")
        (root / "class-descriptions-boxable.csv").write_text(CLASSES)
        lines = [",".join(fields) for fields in table]
        write(root, "\n".join(lines), "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf")
        rows = list(open_images.read(root, "validation", skipped.append).rows)
    objects = [s for s in skipped if type(s) is not Skipped]
    assert sum(len(row.objects) for row in rows) + len(objects) == len(lines)
    assert len(rows) + len(skipped) - len(objects) == len({fields[0] for fields in table if len(fields) == 7})
