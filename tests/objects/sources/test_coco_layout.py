"""Layouts that tools export in COCO's form, rebuilt small: read as they lie, or one line that says how to."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from odis.errors import DataError
from odis.objects.build import Summary, build_index
from odis.objects.edit.export_coco import export_coco
from odis.objects.index import ObjectIndex
from odis.objects.sources.coco_layout import Layout, split_of
from odis.types import Skipped

CATEGORIES = [{"id": 1, "name": "cat", "supercategory": ""}]


def lay_out(root: Path, file: str, images: dict[str, str], **more: Any) -> None:
    """An annotation file of some images, what it calls each and where that is; each has an object."""
    content = {
        "images": [{"id": k, "file_name": name, "width": 8, "height": 6} for k, name in enumerate(images)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [1, 1, 4 + k % 3, 3]}
            for k in range(len(images))
        ],
        "categories": CATEGORIES,
        **more,
    }
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))
    for place in images.values():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(root / place)


def built(root: Path, split: str | None = None, **options: Any) -> tuple[ObjectIndex, Summary, list[Skipped]]:
    skipped: list[Skipped] = []
    out = root.parent / "i.parquet"
    options = {"source": "coco", **options}
    summary = build_index(options.pop("source"), root, out, split=split, report=skipped.append, **options)
    return ObjectIndex.open(out), summary, skipped


ONE_SPLIT: dict[str, tuple[str, dict[str, str]]] = {
    "published": ("annotations/instances_train2017.json", {"a.jpg": "train2017/a.jpg"}),
    "roboflow": ("train/_annotations.coco.json", {"a_jpg.rf.0a1b.jpg": "train/a_jpg.rf.0a1b.jpg"}),
    "roboflow, flat": ("_annotations.coco.json", {"a_jpg.rf.0a1b.jpg": "a_jpg.rf.0a1b.jpg"}),
    "label studio": ("result.json", {"images/ab12cd34-a.jpg": "images/ab12cd34-a.jpg"}),
    "label studio, windows": ("result.json", {"images\\1/a.jpg": "images/a.jpg"}),
    "label studio, server": ("result.json", {"/data/upload/4/a.jpg": "images/a.jpg"}),
    "label studio, relative": ("result.json", {"..\\..\\media\\upload\\4\\a.jpg": "images/a.jpg"}),
    "label studio, local files": ("result.json", {"/data/local-files/?d=x/a%20b.jpg": "images/a b.jpg"}),
    "cvat": ("annotations/instances_default.json", {"a.jpg": "images/default/a.jpg"}),
    "cvat, one folder": ("annotations/instances_default.json", {"a.jpg": "images/a.jpg"}),
    "cvat, split": ("annotations/instances_train.json", {"b/a.jpg": "images/train/b/a.jpg"}),
    "fiftyone": ("labels.json", {"a.jpg": "data/a.jpg"}),
    "fiftyone, split": ("train/labels.json", {"a.jpg": "train/data/a.jpg"}),
    "labelme2coco": ("dataset.json", {"a.jpg": "a.jpg"}),
    "labelme": ("annotations.json", {"JPEGImages/a.jpg": "JPEGImages/a.jpg"}),
    "plain": ("annotations.json", {"a.jpg": "some pictures/here/a.jpg"}),
    "instances": ("instances.json", {"a.jpg": "imgs/a.jpg"}),
    "a file of the split's name": ("annotations/train.json", {"a.jpg": "train/a.jpg"}),
    "split behind": ("train_annotations.json", {"a.jpg": "train/a.jpg"}),
    "upper case": ("Annotations/instances_train.json", {"a.jpg": "images/a.jpg"}),
    "split in the name": ("annotations/instances_train.json", {"train/a.jpg": "train/a.jpg"}),
    "images in the name": ("annotations/instances_train.json", {"images/a.jpg": "train/a.jpg"}),
    "other case": ("annotations/instances_train.json", {"a.jpg": "train/a.JPG"}),
    "byte order mark": ("labels.json", {"a.jpg": "data/a.jpg"}),
}


@pytest.mark.parametrize("kind", ONE_SPLIT)
def test_a_data_set_of_one_file_is_read_as_it_lies(tmp_path: Path, kind: str) -> None:
    file, images = ONE_SPLIT[kind]
    root = tmp_path / "data set"
    lay_out(root, file, images)
    if kind == "byte order mark":
        (root / file).write_bytes(b"\xef\xbb\xbf" + (root / file).read_bytes())
    for trust in (False, True):
        index, summary, skipped = built(root, trust=trust)
        if not trust or "other case" not in kind:
            assert [row.image for row in index] == list(images.values())
            assert (index.root / index[0].image).is_file()
        assert (summary.images, summary.written, summary.objects, summary.kept, skipped) == (1, 1, 1, 1, [])
        assert index[0].objects[0].box == (1, 1, 5, 4)
        assert index.classes == ["cat"]


SPLITS = {
    "published": "annotations/instances_{}.json {}/{}.jpg",
    "roboflow": "{}/_annotations.coco.json {}/{}.jpg",
    "cvat": "annotations/instances_{}.json images/{}/{}.jpg",
    "fiftyone": "{}/labels.json {}/data/{}.jpg",
    "own": "{0}.json {1}/{2}.jpg",
    "nested": "{}/annotations/instances.json {}/images/{}.jpg",
}


@pytest.mark.parametrize("kind", SPLITS)
def test_each_split_has_its_own_file_and_images(tmp_path: Path, kind: str) -> None:
    for split in ("train", "valid", "test"):
        file, image = SPLITS[kind].split(" ")
        if kind == "own":
            file, image = file.format(split), image.format(split, split, "x").replace("{1}", split)
            lay_out(tmp_path / "d", file, {"x.jpg": f"{split}/x.jpg"})
        else:
            lay_out(tmp_path / "d", file.format(split), {"x.jpg": image.format(split, "x")})
    for split in ("train", "valid", "test"):
        index, summary, skipped = built(tmp_path / "d", split)
        (row,) = index
        assert split in row.image.split("/")
        assert row.image.endswith("/x.jpg")
        assert (summary.kept, skipped) == (1, [])
    for asked, message in ((None, "a split must be named"), ("val", "no split 'val'")):
        with pytest.raises(DataError) as error:
            built(tmp_path / "d", asked)
        assert str(error.value) == f"{tmp_path / 'd'}: {message}; there are test, train, valid"


def test_files_of_no_split_are_told_apart_by_their_names(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for name in ("result", "my"):
        lay_out(root, f"{name}.json", {f"{name}.jpg": f"images/{name}.jpg"})
    with pytest.raises(DataError, match=r"a split must be named; there are my, result\.json$"):
        built(root)
    assert [row.image for row in built(root, "result.json")[0]] == ["images/result.jpg"]
    assert [row.image for row in built(root, "my")[0]] == ["images/my.jpg"]


def test_captions_and_key_points_are_passed_over_where_there_are_instances(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for task in ("captions", "person_keypoints", "stuff"):
        lay_out(root, f"annotations/{task}_train.json", {"x.jpg": "train/x.jpg"})
    for split in (None, "train"):
        with pytest.raises(DataError, match=r"several files are of split 'train'; .*captions_train\.json"):
            built(root, split)
    index, _, _ = built(root, annotations="annotations/person_keypoints_train.json")
    assert [row.image for row in index] == ["train/x.jpg"]
    lay_out(root, "annotations/instances_train.json", {"a.jpg": "train/a.jpg"})
    index, _, _ = built(root)
    assert [row.image for row in index] == ["train/a.jpg"]


@pytest.mark.parametrize(
    ("prefix", "file", "expected"),
    [
        ("instances_", "annotations/instances_train2017.json", "train2017"),
        ("instances_", "annotations/instances_some_v2.json", "some_v2"),
        ("instances_", "train/_annotations.coco.json", "train"),
        ("instances_", "_annotations.coco.json", ""),
        ("instances_", "result.json", ""),
        ("instances_", "val/labels.json", "val"),
        ("instances_", "val/annotations/instances.json", "val"),
        ("instances_", "annotations_train.json", "train"),
        ("instances_", "train-coco.json", "train"),
        ("instances_", "my-project.json", "my-project"),
        ("instances_", "labels_my-project_2024.json", "my-project_2024"),
        ("lvis_v1_", "annotations/lvis_v1_val.json", "val"),
        ("instances_", "/elsewhere/result.json", ""),
    ],
)
def test_the_split_that_a_file_is_of(prefix: str, file: str, expected: str) -> None:
    root = Path("/data/set")
    assert split_of(Layout("coco", prefix), root, root / file) == expected


def test_places_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "d"
    lay_out(root, "labels/boxes/mine.json", {"a.jpg": "photos/new/a.jpg", "../b.jpg": "photos/b.jpg"})
    for annotations in ("labels/boxes/mine.json", "labels/boxes", str(root / "labels/boxes/mine.json")):
        index, _, skipped = built(root, annotations=annotations, images="photos")
        assert [row.image for row in index] == ["new/a.jpg", "b.jpg"]
        assert (index.root, skipped) == (root / "photos", [])
    elsewhere = tmp_path / "elsewhere"
    (root / "photos").rename(elsewhere)
    index, _, _ = built(root, annotations="labels/boxes/mine.json", images=str(elsewhere))
    assert (index.root, len(index)) == (elsewhere, 2)
    monkeypatch.chdir(tmp_path)
    index, _, _ = built(root, annotations="d/labels/boxes/mine.json", images="elsewhere")
    assert (index.root, len(index)) == (elsewhere, 2)
    with pytest.raises(DataError, match=r"no such file or folder \(--images gone\)"):
        built(root, annotations="labels/boxes", images="gone")
    with pytest.raises(DataError, match=r"no such file or folder \(--annotations gone\.json\)"):
        built(root, annotations="gone.json")
    with pytest.raises(DataError, match=r"is no folder \(--images"):
        built(root, annotations="labels/boxes", images="labels/boxes/mine.json")


def test_names_stay_in_the_folder_that_is_named(tmp_path: Path) -> None:
    root = tmp_path / "d"
    lay_out(root, "labels.json", {"a.jpg": "photos/a.jpg", "../other/b.jpg": "other/b.jpg"})
    index, summary, skipped = built(root, images="photos")
    assert [row.image for row in index] == ["a.jpg"]
    assert (summary.images_skipped, skipped[0].why) == (
        1,
        "its name leads out of the data set's folder, or names no file",
    )


@pytest.mark.parametrize("source", ["lvis", "objects365"])
def test_lvis_and_objects365_take_places_too(tmp_path: Path, source: str) -> None:
    root = tmp_path / "d"
    name, place = {
        "lvis": ("http://images.cocodataset.org/train2017/1.jpg", "coco/train2017/1.jpg"),
        "objects365": ("images/v1/patch8/o_1.jpg", "pictures/patch8/o_1.jpg"),
    }[source]
    lay_out(root, "here/mine.json", {name: place})
    parts = place.split("/")
    for depth in (1, 2):
        images, image = "/".join(parts[:depth]), "/".join(parts[depth:])
        index, _, skipped = built(root, source=source, annotations="here/mine.json", images=images)
        assert [row.image for row in index] == [image]
        assert skipped == []


def test_what_was_exported_is_read_back_in_its_place(tmp_path: Path) -> None:
    root = tmp_path / "d"
    lay_out(root, "annotations/instances_train.json", {"a.jpg": "train/a.jpg", "b/c.jpg": "train/b/c.jpg"})
    index, _, _ = built(root)
    rows = list(index)
    export_coco(index, root / "annotations/instances_some.json")
    export_coco(index, tmp_path / "out/some.json")
    (root / "some").mkdir()  # an empty folder of the split's name changes nothing
    for split, places in (
        ("some", {}),
        (None, {"annotations": str(tmp_path / "out/some.json")}),
        (None, {"annotations": "annotations/instances_some.json", "images": "."}),
    ):
        back, _, skipped = built(root, split, **places)
        assert list(back) == rows
        assert (back.classes, back.root, skipped) == (["cat"], root, [])


def test_nothing_that_fits_is_one_line_with_the_command(tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    (root / "package.json").write_text('{"name": "x", "images": "none"}')
    (root / "list.json").write_text("[]")
    with pytest.raises(DataError) as error:
        built(root)
    assert str(error.value) == (
        f"{root}: a split must be named; there are none (no annotations/instances_SPLIT.json), nor is "
        f"another in COCO's form here or in a folder of it; name yours: odis index coco {root} "
        f"--annotations FILE --images DIR"
    )
    lay_out(root, "labels.json", {"a.jpg": "photos/b.jpg"})
    with pytest.raises(DataError) as error:
        built(root)
    assert str(error.value) == (
        f"{root}: none of the first images of {root}/labels.json is there; 'a.jpg' was looked for in "
        f"photos/, the root, and by its own name; say where they are: odis index coco {root} "
        f"--annotations {root}/labels.json --images DIR"
    )


def test_among_many_files_those_with_a_name_for_it_are_looked_at(tmp_path: Path) -> None:
    root = tmp_path / "d"
    lay_out(root, "my_annotations.json", {"a.jpg": "a.jpg"})
    for k in range(60):
        (root / f"{k}.json").write_text('{"shapes": []}')
    index, _, _ = built(root)
    assert [row.image for row in index] == ["a.jpg"]


def test_a_file_in_utf16_is_found_and_read(tmp_path: Path) -> None:
    root = tmp_path / "d"
    lay_out(root, "labels.json", {"a.jpg": "data/a.jpg"})
    (root / "labels.json").write_text((root / "labels.json").read_text(), encoding="utf-16")
    index, _, skipped = built(root)
    assert ([row.image for row in index], skipped) == (["data/a.jpg"], [])


def test_objects_of_a_number_that_two_images_have_are_nobodys(tmp_path: Path) -> None:
    root = tmp_path / "d"
    lay_out(root, "labels.json", {name: f"data/{name}" for name in ("a.jpg", "b.jpg", "c.jpg")})
    content = json.loads((root / "labels.json").read_text())
    content["images"][1]["id"] = 0  # as when two files are put together and the numbers begin again
    (root / "labels.json").write_text(json.dumps(content))
    for trust in (False, True):
        index, summary, skipped = built(root, trust=trust)
        assert [row.image for row in index] == ["data/c.jpg"]
        assert (summary.images, summary.written, summary.objects, summary.kept) == (3, 1, 3, 1)
        assert {(Path(one.what).name, one.why) for one in skipped} == {
            ("labels.json, annotation 1", "its image 1 is not listed"),
            ("labels.json, image 0", "b.jpg: this image number was listed before"),
            ("a.jpg", "its number 0 is also that of 'b.jpg': whose its objects are is unknown"),
            ("a.jpg, annotation 0", "its image cannot be used"),
        }


def test_one_image_under_several_names_and_ids_is_one_row(tmp_path: Path) -> None:
    root = tmp_path / "d"
    lay_out(root, "annotations/instances_train.json", {"a.jpg": "train/a.jpg", "b.jpg": "train/b.jpg"})
    content = json.loads((root / "annotations/instances_train.json").read_text())
    content["images"] += [
        {**content["images"][0], "id": 7},
        {**content["images"][0], "id": 8, "file_name": "./a.jpg"},
        {**content["images"][0], "id": 9, "file_name": "train/a.jpg"},
    ]
    box = {"category_id": 1, "bbox": [0, 0, 2, 2]}
    content["annotations"] += [
        {"id": 10, "image_id": 7, **box},
        {"id": 11, "image_id": 8, **box},
        {"id": 12, "image_id": 9, **box},
        {**content["annotations"][0], "id": 13, "image_id": 8},
    ]
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    index, summary, skipped = built(root)
    assert [(row.image, len(row.objects)) for row in index] == [("train/a.jpg", 2), ("train/b.jpg", 1)]
    assert [(type(one).__name__, one.what.rsplit("/", 1)[1], one.why) for one in skipped] == [
        ("SkippedObject", "a.jpg, annotation 11", "is the same as annotation 10"),
        ("SkippedObject", "a.jpg, annotation 13", "is the same as annotation 0"),
        ("Unread", "instances_train.json, image 7, a.jpg", skipped[2].why),
        ("Unread", "a.jpg", skipped[2].why),
        ("Skipped", "a.jpg", "no such file; train/a.jpg is another image that is listed"),
        ("SkippedObject", "a.jpg, annotation 12", "its image cannot be used"),
    ]
    assert "listed under another id too" in skipped[2].why
    assert (summary.images, summary.written, summary.images_skipped) == (3, 2, 1)
    assert (summary.objects, summary.kept, summary.objects_skipped) == (6, 3, 3)
