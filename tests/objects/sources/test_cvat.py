"""CVAT's XML as its exporter writes it (its `dataset_manager/formats/cvat.py`): images, video, project."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.errors import DataError
from odis.objects import rle
from odis.objects.build import build_index
from odis.objects.index import ObjectIndex
from odis.objects.sources import cvat
from odis.types import Object, Skipped

WIDTH, HEIGHT = 40, 30

LABELS = (
    "<label><name>dog</name><color>#fa3253</color><type>any</type><attributes><attribute><name>age</name>"
    "<mutable>False</mutable></attribute></attributes></label>"
    "<label><name>cat</name><color>#24b353</color><type>any</type><attributes></attributes></label>"
    "<label><name>hand</name><type>skeleton</type><attributes></attributes></label>"
    "<label><name>thumb</name><type>points</type><attributes></attributes><parent>hand</parent></label>"
)


def xml(items: str, mode: str = "annotation", extra: str = "", labels: str = LABELS) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    '
        "<task>\n"
        f"<id>7</id><name>pets</name><size>2</size><mode>{mode}</mode><labels>{labels}</labels>"
        "<owner><username>u</username><email>u@x.y</email></owner>"
        f"{extra}</task><dumped>2026-01-01 00:00:00</dumped>\n  </meta>\n{items}\n</annotations>\n"
    )


def image(name: str, shapes: str = "", more: str = "") -> str:
    return f'<image id="0" name="{name}" {more} width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'


def box(label: str, x0: float, y0: float, x1: float, y1: float, more: str = "") -> str:
    return (
        f'<box label="{label}" source="manual" occluded="0" xtl="{x0:.2f}" ytl="{y0:.2f}" xbr="{x1:.2f}" '
        f'ybr="{y1:.2f}" {more} z_order="0"><attribute name="age">3</attribute></box>'
    )


BOX = box("cat", 4, 5, 20, 25)


def save(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def make(root: Path, text: str, *names: str) -> Path:
    for name in names:
        save(root / "images" / name)
    root.mkdir(exist_ok=True)
    (root / "annotations.xml").write_text(text, encoding="utf-8")
    return root


def built(root: Path, split: str | None = None, **options: object) -> tuple[ObjectIndex, list[Skipped]]:
    skipped: list[Skipped] = []
    out = root.parent / "i.parquet"
    build_index("cvat", root, out, split, report=skipped.append, max_skipped=1, **options)
    return ObjectIndex.open(out), skipped


def pixels(item: Object) -> np.ndarray:
    assert item.mask is not None
    return rle.decode(item.mask, WIDTH, HEIGHT)


def test_every_shape_of_a_task_of_images(tmp_path: Path) -> None:
    shapes = (
        BOX + '<polygon label="dog" source="manual" occluded="1" '
        'points="2.00,3.00;12.00,3.00;12.00,9.00;2.00,9.00" '
        'z_order="0"></polygon>'
        '<mask label="dog" source="manual" occluded="0" rle="2, 4, 2, 4" left="30" top="20" width="6" '
        'height="2" '
        'z_order="0"></mask>'
        '<ellipse label="cat" source="manual" occluded="0" cx="20.00" cy="15.00" rx="6.00" ry="3.00" '
        'rotation="90.00" z_order="0"></ellipse>'
        '<cuboid label="cat" source="manual" occluded="0" xtl1="5" ytl1="5" xbl1="5" ybl1="15" '
        'xtr1="12" ytr1="6" '
        'xbr1="12" ybr1="16" xtl2="15" ytl2="4" xbl2="15" ybl2="14" xtr2="8" ytr2="3" xbr2="8" ybr2="13" '
        'z_order="0"></cuboid>'
        '<skeleton label="hand" source="manual" z_order="0">'
        '<points label="thumb" source="manual" outside="0" occluded="0" points="5.00,6.00"></points>'
        '<points label="thumb" source="manual" outside="0" occluded="0" points="15.00,9.00"></points>'
        '<points label="thumb" source="manual" outside="1" occluded="0" '
        'points="39.00,29.00"></points></skeleton>'
        '<polyline label="dog" source="manual" occluded="0" points="1.00,1.00;9.00,9.00" '
        'z_order="0"></polyline>'
        '<points label="dog" source="manual" occluded="0" points="1.00,1.00" z_order="0"></points>'
        '<tag label="dog" source="manual"></tag>' + box("cat", 10, 10, 20, 14, 'rotation="90.00"')
    )
    root = make(tmp_path / "data", xml(image("sub/a.png", shapes) + image("b.png")), "sub/a.png", "b.png")
    index, skipped = built(root)
    assert index.classes == ["dog", "cat", "hand"]
    first, second = index
    assert (first.image, second.image, second.objects) == ("images/sub/a.png", "images/b.png", ())
    found = [(index.classes[o.label or 0], o.box, o.mask is not None) for o in first.objects]
    assert found == [
        ("cat", (4, 5, 20, 25), False),
        ("dog", (2, 3, 12, 9), True),
        ("dog", (32, 20, 36, 22), True),
        ("cat", pytest.approx((17, 9, 23, 21)), True),
        ("cat", (5, 3, 15, 16), False),
        ("hand", (5, 6, 15, 9), False),
        ("cat", pytest.approx((13, 7, 17, 17)), True),
    ]
    painted = np.zeros((HEIGHT, WIDTH))
    painted[20, 32:36] = painted[21, 32:36] = 1  # row by row: two out, four in, two out, four in
    assert np.array_equal(pixels(first.objects[2]), painted)
    down, across = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    disc = ((across - 20) / 3) ** 2 + ((down - 15) / 6) ** 2 <= 1
    assert (pixels(first.objects[3]) != disc).sum() <= 8
    assert sorted(one.why for one in skipped) == [
        "lines and points, which are no objects",
        "lines and points, which are no objects",
        "tags, which are labels of whole images",
    ]


def test_the_box_of_painted_pixels_is_theirs(tmp_path: Path) -> None:
    mask = '<mask label="dog" rle="7,2,6,1" left="1" top="2" width="4" height="4" occluded="0"></mask>'
    (row,) = built(make(tmp_path / "data", xml(image("a.png", mask)), "a.png"))[0]
    patch = np.zeros(16)
    patch[7:9] = patch[15] = 1
    whole = np.zeros((HEIGHT, WIDTH))
    whole[2:6, 1:5] = patch.reshape(4, 4)
    assert np.array_equal(pixels(row.objects[0]), whole)
    assert row.objects[0].box == (1, 3, 5, 6)


def test_a_group_is_one_object(tmp_path: Path) -> None:
    shapes = box("cat", 1, 1, 5, 5, 'group_id="1"') + box("dog", 1, 1, 9, 9, 'group_id="1"')
    shapes += box("cat", 11, 1, 15, 9, 'group_id="1"')
    (row,) = built(make(tmp_path / "data", xml(image("a.png", shapes)), "a.png"))[0]
    assert [o.box for o in row.objects] == [(1, 1, 15, 9), (1, 1, 9, 9)]


def track(k: int, label: str, *boxes: tuple[int, int, int]) -> str:
    """A track of boxes: frame, left side, and whether it is outside."""
    shapes = "".join(
        f'<box frame="{frame}" keyframe="1" outside="{out}" occluded="0" xtl="{x}.00" ytl="5.00" '
        f'xbr="{x + 10}.00" ybr="15.00" z_order="0"></box>'
        for frame, x, out in boxes
    )
    return f'<track id="{k}" label="{label}" source="manual">{shapes}</track>'


SIZE = f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size><source>a.mp4</source>"


def test_a_video(tmp_path: Path) -> None:
    tracks = track(0, "cat", (0, 1, 0), (1, 4, 0), (2, 9, 1)) + track(1, "dog", (1, 20, 0), (9, 20, 0))
    names = [f"frame_{k:06d}.PNG" for k in range(3)]
    root = make(tmp_path / "data", xml(tracks, "interpolation", SIZE), *names)
    index, skipped = built(root)
    boxes = [(row.image, [(index.classes[o.label or 0], o.box[0]) for o in row.objects]) for row in index]
    assert boxes == [
        ("images/frame_000000.PNG", [("cat", 1)]),
        ("images/frame_000001.PNG", [("cat", 4), ("dog", 20)]),
        ("images/frame_000002.PNG", []),
    ]
    assert [(one.what.rpartition("/")[2], one.why) for one in skipped] == [
        ("frame_000009.PNG", "no such file"),
        ("frame_000009.PNG, shape 2", "its image cannot be used"),
    ]


def test_a_video_of_images_with_names_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "data", xml(track(0, "cat", (0, 1, 0)), "interpolation", SIZE), "a.png")
    with pytest.raises(DataError, match=r"no image in .* is called like one .*'CVAT for images 1.1'"):
        built(root)


def test_a_project_has_subsets(tmp_path: Path) -> None:
    items = image("a.png", BOX, 'subset="train" task_id="1"') + image("a.png", "", 'subset="val" task_id="2"')
    root = make(tmp_path / "data", xml(items), "train/a.png", "val/a.png")
    for split in ("train", "val", "valid"):
        index, skipped = built(root, split)
        assert [row.image for row in index] == [f"images/{'train' if split == 'train' else 'val'}/a.png"]
        assert len(index[0].objects) == (split == "train")
        assert skipped == []
    with pytest.raises(DataError, match="a split must be named; there are train, val"):
        built(root)
    with pytest.raises(DataError, match="no split 'test'; there are train, val"):
        built(root, "test")


def test_places(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "photos/a.png")
    (root / "task_1.xml").write_text(xml(image("a.png", BOX)))
    (root / "other.xml").write_text("<annotation/>")
    assert [row.image for row in built(root, images="photos")[0]] == ["a.png"]
    assert [row.image for row in built(root)[0]] == ["photos/a.png"]
    (root / "task_2.xml").write_text(xml(image("a.png")))
    with pytest.raises(DataError, match=r"several files of CVAT: task_1.xml, task_2.xml; name one"):
        built(root)
    assert len(built(root, "task_1")[0][0].objects) == 1
    assert len(built(root, annotations="task_2.xml")[0][0].objects) == 0
    with pytest.raises(DataError, match="has no subsets, so no split 'train'"):
        built(root, "train", annotations="task_2.xml")
    with pytest.raises(DataError, match=r"no annotations.xml of CVAT here or in a folder of it"):
        built(root, annotations="photos")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not XML (no element found"),
        ("<annotations><image", "is not XML"),
        ("<annotation/>", "its outermost tag is 'annotation', must be annotations"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotations/>', "contains <!DOCTYPE, which no file of CVAT needs"),
        (xml(""), "has neither images nor tracks"),
        ("<annotations>" + "<a>" * 50, "has more than 30 elements in each other"),
        ('<?xml version="1.0" encoding="klingon"?><annotations/>', "is not XML"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str, why: str) -> None:
    root = make(tmp_path / "data", text, "a.png")
    with pytest.raises(DataError) as error:
        built(root)
    assert str(error.value).startswith(f"{root}/annotations.xml: ")
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ('<box xtl="1" ytl="1" xbr="5" ybr="5"/>', "has no label"),
        ('<box label="cat" xtl="x" ytl="1" xbr="5" ybr="5"/>', "has xtl 'x', must be a number of pixels"),
        ('<box label="cat" ytl="1" xbr="5" ybr="5"/>', "has xtl None"),
        ('<box label="cat" xtl="nan" ytl="1" xbr="5" ybr="5"/>', "has xtl 'nan'"),
        ('<polygon label="cat" points="1,1;2,2"/>', "is a polygon of 2 points"),
        ('<polygon label="cat" points="1,1;2;3,3"/>', "has points '1,1;2;3,3', must be x,y;x,y;..."),
        (
            '<mask label="cat" rle="3,4" left="1" top="1" width="2" height="2"/>',
            "make up 7 pixels, but the mask",
        ),
        ('<mask label="cat" rle="a" left="1" top="1" width="2" height="2"/>', "has rle 'a'"),
        ('<mask label="cat" rle="0,4" left="90" top="1" width="2" height="2"/>', "no pixel in the image"),
        ('<skeleton label="hand"/>', "is a skeleton without a visible point"),
        (box("cat", 5, 5, 5, 9), "is empty"),
    ],
)
def test_a_shape_that_cannot_be_used_is_named(tmp_path: Path, bad: str, why: str) -> None:
    root = make(tmp_path / "data", xml(image("a.png", bad + BOX)), "a.png")
    index, (skipped,) = built(root)
    assert [o.box for o in index[0].objects] == [(4, 5, 20, 25)]
    assert why in skipped.why
    assert skipped.what.endswith(", shape 1")


def test_what_is_said_of_a_track_and_of_an_image(tmp_path: Path) -> None:
    tracks = track(0, "cat", (0, 1, 0)).replace('frame="0"', 'frame="x"') + track(1, "cat", (0, 1, 0))
    index, (skipped,) = built(make(tmp_path / "data", xml(tracks, "interpolation", SIZE), "frame_000000.jpg"))
    assert skipped.why == "has frame 'x', must be a whole number"
    assert len(index[0].objects) == 1
    mask = '<mask label="dog" rle="0,1" left="1" top="2" width="1" height="1"/>'
    text = xml(f'<image name="a.png">{mask}</image><image id="1">{BOX}</image>')
    index, skipped_too = built(make(tmp_path / "two", text, "a.png"))
    assert len(index) == 1
    assert [one.why for one in skipped_too] == [
        "has a mask, and the file states no size of its image",
        "has no file_name",
        "its image cannot be used",
    ]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2000), put=st.binary(max_size=4))
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, put: bytes
) -> None:
    root = make(tmp_path_factory.mktemp("one"), "", "a.png")
    whole = xml(image("a.png", BOX + BOX.replace("cat", "dog")) + track(0, "cat", (0, 1, 0))).encode()
    (root / "annotations.xml").write_bytes(whole[: cut % len(whole)] + put + whole[cut % len(whole) :])
    rows, refused = [], ""
    try:
        rows = list(cvat.read(root, None, lambda skipped: None).rows)
    except DataError as error:
        refused = str(error)
    assert not refused or refused.startswith(str(root))
    assert all(row.width == WIDTH for row in rows)
