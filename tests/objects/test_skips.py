"""What was left out is grouped by reason, and kept whole in a file beside the index."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from odis.errors import ConfigError, DataError
from odis.objects.build import build_index
from odis.objects.clean import Crowd, Mended, SkippedObject, Unread
from odis.objects.index import ObjectIndex
from odis.objects.skips import SkipGroups, entry, pattern, skips_path, write_skips
from odis.types import Skipped


def data_set(root: Path, good: int, missing: int, empty: int, categories: int = 1) -> Path:
    """COCO: an image a `good` box, as many entries without image, `empty` boxes in the first image."""
    (root / "val").mkdir(parents=True)
    (root / "annotations").mkdir()
    images = [{"id": k, "file_name": f"{k}.png", "width": 32, "height": 32} for k in range(good + missing)]
    for k in range(good):
        Image.new("L", (32, 32)).save(root / f"val/{k}.png")
    boxes = [(k, [2, 2, 9, 9]) for k in range(good + missing)] + [(0, [4, 4 + k, 0, 5]) for k in range(empty)]
    annotations = [
        {"id": k, "image_id": i, "category_id": 1, "bbox": box, "iscrowd": 0}
        for k, (i, box) in enumerate(boxes)
    ]
    names = [{"id": k + 1, "name": f"c{k}"} for k in range(categories)]
    content = {"images": images, "annotations": annotations, "categories": names}
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    return root


def listed(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_reasons_differ_by_what_is_not_particular() -> None:
    same = [
        ("box (1, 2.5, 1, -4e-05) is empty", "box (10, 2, 10, 4) is empty"),
        ("is 640 x 480 pixels, but annotated as 10 x 20", "is 6 x 4 pixels, but annotated as 1 x 2"),
        ("'a b' is no name below JPEGImages", "'../x' is no name below JPEGImages"),
    ]
    for one, other in same:
        assert pattern(one) == pattern(other)
    assert len({pattern(one) for one, _ in same}) == len(same)
    assert pattern("no such file") == "no such file"
    assert pattern("box (1, 2, 1, 4) is empty") == "box (…) is empty"


def test_three_examples_and_a_count_each() -> None:
    groups = SkipGroups()
    assert not groups
    for k in range(5):
        groups.add(SkippedObject(f"a.jpg, annotation {k}", f"box ({k}, 1, {k}, 2) is empty"))
    groups.add(Skipped("b.jpg", "no such file"))
    groups.add(Mended("c.jpg, annotation 1", "has label 9, but there are 2 classes: used without label"))
    groups.add(Unread("d", ".heic files", 7))
    groups.add(Crowd("e", "is a crowd"))
    assert list(groups.lines()) == [
        "skipped 5 objects: box (…) is empty",
        "  a.jpg, annotation 0: box (0, 1, 0, 2) is empty",
        "  a.jpg, annotation 1: box (1, 1, 1, 2) is empty",
        "  a.jpg, annotation 2: box (2, 1, 2, 2) is empty",
        "  and 2 more",
        "skipped b.jpg: no such file",
        "mended c.jpg, annotation 1: has label 9, but there are 2 classes: used without label",
    ]


def test_many_reasons_are_cut_off() -> None:
    groups = SkipGroups()
    for k in range(30):
        for _ in range(40 - k):
            groups.add(Skipped("a", "x" * (k + 1)))
    lines = list(groups.lines())
    assert lines[0] == "skipped 40 images: x"
    assert lines[-1] == f"and {sum(40 - k for k in range(20, 30))} more for 10 other reasons"


texts = st.text(max_size=8)
some = st.one_of(
    st.builds(Skipped, texts, texts),
    st.builds(SkippedObject, texts, texts),
    st.builds(Mended, texts, texts),
    st.builds(Unread, texts, texts, st.integers(1, 9)),
)


@given(st.lists(some, max_size=8))
def test_the_file_holds_all_in_order_or_is_not_there(
    tmp_path_factory: pytest.TempPathFactory, many: list
) -> None:
    path = tmp_path_factory.mktemp("skips") / "x.skipped.jsonl"
    path.write_text("of an earlier build")
    write_skips(path, map(entry, many))
    assert path.exists() == bool(many)
    if many:
        found = listed(path)
        assert [(one["what"], one["why"]) for one in found] == [(one.what, one.why) for one in many]
        assert [one.get("count", 1) for one in found] == [getattr(one, "count", 1) for one in many]


@pytest.mark.parametrize(
    ("out", "shard", "name"),
    [
        ("x.parquet", (1, 1), "x.skipped.jsonl"),
        ("x", (1, 1), "x.skipped.jsonl"),
        ("a.b.parquet", (1, 1), "a.b.skipped.jsonl"),
        ("v1.0", (2, 3), "v1.0.2-of-3.skipped.jsonl"),
    ],
)
def test_it_lies_beside_the_index(out: str, shard: tuple[int, int], name: str) -> None:
    assert skips_path(f"/d/{out}", shard) == Path("/d") / name


def test_a_rebuild_that_skips_nothing_removes_it(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", good=20, missing=1, empty=2)
    out, path = tmp_path / "x.parquet", tmp_path / "x.skipped.jsonl"
    summary = build_index("coco", root, out, "val")
    assert summary.listed == str(path)
    assert [(one["kind"], one["why"]) for one in listed(path)] == [
        ("object", "box (4, 4, 4, 9) is empty"),
        ("object", "box (4, 5, 4, 10) is empty"),
        ("image", "no such file"),
        ("object", "its image cannot be used"),
    ]
    again = data_set(tmp_path / "e", good=3, missing=0, empty=0)
    assert build_index("coco", again, out, "val").listed == ""
    assert not path.exists()


def test_a_name_that_is_not_utf8_is_kept_in_the_list(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "d/a.png")
    odd = tmp_path / "d" / b"\xd5.png".decode(errors="surrogateescape")
    odd.touch()
    build_index("folder", tmp_path / "d", tmp_path / "x.parquet")
    assert [one["what"] for one in listed(tmp_path / "x.skipped.jsonl")] == [str(odd)]


def test_much_is_said_last(tmp_path: Path) -> None:
    few = build_index("coco", data_set(tmp_path / "a", 18, 2, 2), tmp_path / "a.parquet", "val")
    assert few.loss() == f"lost: 18% of the objects; {tmp_path / 'a.skipped.jsonl'} names them"
    assert str(few).splitlines()[-1] == few.loss()
    many = build_index("coco", data_set(tmp_path / "b", 10, 10, 0), tmp_path / "b.parquet", "val")
    assert many.loss().startswith("lost: 50% of the images and 50% of the objects; ")
    none = build_index("coco", data_set(tmp_path / "c", 10, 1, 0), tmp_path / "c.parquet", "val")
    assert none.loss() == ""
    assert "\n" not in str(none)


@pytest.mark.parametrize(
    ("share", "refused"), [(None, ""), (0.5, ""), (0.4, "5 of 10 images"), (0, "5 of 10 images"), (1, "")]
)
def test_a_share_makes_more_an_error(tmp_path: Path, share: float | None, refused: str) -> None:
    root, out = data_set(tmp_path / "d", 5, 5, 0), tmp_path / "x.parquet"
    if refused:
        with pytest.raises(
            DataError, match=rf"{refused} cannot be used, a share of 0.5; --max-skipped allows {share}"
        ):
            build_index("coco", root, out, "val", max_skipped=share)
        assert [p.name for p in tmp_path.iterdir()] == ["d"]
    else:
        assert build_index("coco", root, out, "val", max_skipped=share).written == 5


def test_objects_count_as_images_do(tmp_path: Path) -> None:
    root = data_set(tmp_path / "d", 5, 0, 15)
    with pytest.raises(
        DataError, match=r"15 of 20 objects cannot be used, a share of 0.75; --max-skipped allows 0.7; "
    ):
        build_index("coco", root, tmp_path / "x.parquet", "val", max_skipped=0.7)
    assert build_index("coco", root, tmp_path / "x.parquet", "val", max_skipped=0.75).kept == 5
    with pytest.raises(ConfigError, match="max-skipped: is 2, must be a share from 0 to 1"):
        build_index("coco", root, tmp_path / "x.parquet", "val", max_skipped=2)


def test_without_a_single_object_there_is_no_index_unless_asked(tmp_path: Path) -> None:
    root, out = data_set(tmp_path / "d", 1, 0, 0), tmp_path / "x.parquet"
    path = root / "annotations/instances_val.json"
    path.write_text(path.read_text().replace("[2, 2, 9, 9]", "[2, 2, 0, 9]"))
    with pytest.raises(
        DataError, match=r"none of its 1 object can be used; the first: .* is empty; --max-skipped 1"
    ):
        build_index("coco", root, out, "val")
    with pytest.raises(DataError, match="none of its 1 object"):
        build_index("coco", root, out, "val", part_size=1)
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    summary = build_index("coco", root, out, "val", max_skipped=1)
    assert (summary.written, summary.kept, len(ObjectIndex.open(out))) == (1, 0, 1)
