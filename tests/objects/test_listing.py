"""Which files a folder holds, and what its folders say."""

import os
import re
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from odis.errors import DataError, OdisWarning
from odis.objects.build import build_index
from odis.objects.clean import Unread
from odis.objects.index import ObjectIndex
from odis.objects.listing import IMAGE_SUFFIXES, SPLIT_FOLDERS, Listing, folder_labels, list_files
from odis.types import Skipped


def touch(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = Path(os.fsdecode(os.fsencode(root) + b"/" + os.fsencode(name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def save(root: Path, *names: str | bytes) -> None:
    touch(root, *names)
    for name in names:
        with open(os.fsencode(root) + b"/" + os.fsencode(name), "wb") as file:
            Image.new("RGB", (4, 3)).save(file, "PNG")


def labels(root: Path) -> dict[str, str | None]:
    """Class name of each image of an open folder."""
    index = ObjectIndex.open(root)
    found = {row.image: row.objects[0].label for row in index}
    return {name: None if label is None else index.classes[label] for name, label in found.items()}


def test_images_and_indexes_are_found_and_the_rest_is_counted_by_kind(tmp_path: Path) -> None:
    touch(tmp_path, "b/x/2.JPG", "b/x/1.jpeg", "a.png", "c/3.webp", "c/notes.txt", "c/i.parquet", "README")
    touch(tmp_path, ".hidden/4.png", "c/.5.png", "x.PSD", "c/y.psd", "v.1234", "w.tar.gz", "LICENSE.txt")
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    (tmp_path / "c" / "self").symlink_to("self")
    (tmp_path / "d").symlink_to(tmp_path / "b")
    listing = list_files(tmp_path)
    assert listing.images == ["a.png", "b/x/1.jpeg", "b/x/2.JPG", "c/3.webp", "d/x/1.jpeg", "d/x/2.JPG"]
    assert listing.parquet == ["c/i.parquet"]
    assert listing.others == {".txt files": 2, ".psd files": 2, ".gz files": 1, "other files": 3}
    passed: list[Skipped] = []
    listing.report(passed.append, reads=[".txt"])
    folder = str(tmp_path)
    assert passed == [
        Unread(folder, ".gz files", 1), Unread(folder, ".psd files", 2), Unread(folder, "other files", 3)
    ]  # fmt: skip


def test_endings_of_images_are_read(tmp_path: Path) -> None:
    """JPEG under each of its names, and AVIF where Pillow has it."""
    for suffix in (".jfif", ".jpe", ".jif", ".JFIF"):
        Image.new("RGB", (4, 3)).save(tmp_path / f"a{suffix}", "JPEG")
    expected = {"a.jfif", "a.jpe", "a.jif", "a.JFIF"}
    assert (".avif" in IMAGE_SUFFIXES) == bool(features.check("avif"))
    if features.check("avif"):
        Image.new("RGB", (4, 3)).save(tmp_path / "b.avif")
        expected.add("b.avif")
    build_index("folder", tmp_path, tmp_path / "out" / "x.parquet")
    rows = list(ObjectIndex.open(tmp_path / "out/x.parquet"))
    assert {row.image: (row.width, row.height) for row in rows} == dict.fromkeys(expected, (4, 3))


def test_one_odd_name_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    odd = "照片.jpg".encode("gbk")
    save(data, "a b.png", "a#b%20.png", "c,d;'.png", "x" * 240 + ".png", "日本.png", "new\nline.png", odd)
    save(data, b"\xff/in.png", "/".join(["deep" * 10] * 40) + "/d.png")
    skipped: list[Skipped] = []
    summary = build_index("folder", data, tmp_path / "x.parquet", report=skipped.append)
    names = [row.image for row in ObjectIndex.open(tmp_path / "x.parquet")]
    assert names == sorted(list_files(data).images)
    assert len(names) == 7
    assert "new\nline.png" in names
    assert {s.why for s in skipped} == {"its name is not UTF-8; rename it"}
    assert {os.fsencode(s.what) for s in skipped} == {
        os.fsencode(data) + b"/" + odd,
        os.fsencode(data) + b"/\xff/in.png",
    }
    assert (summary.images, summary.written, summary.images_skipped) == (9, 7, 2)
    with pytest.warns(OdisWarning, match=r"its name is not UTF-8; rename it, and 1 more like it"):
        assert len(ObjectIndex.open(data)) == 7


def test_a_folder_that_cannot_be_entered_is_named(tmp_path: Path) -> None:
    save(tmp_path / "data", "a.png")
    deep = tmp_path / "data"
    here = os.getcwd()
    os.chdir(deep)
    try:
        for _ in range(25):  # 5,000 bytes, more than the system takes as one path
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
    finally:
        os.chdir(here)
    skipped: list[Skipped] = []
    summary = build_index("folder", deep, tmp_path / "x.parquet", report=skipped.append)
    assert (summary.written, summary.images_skipped) == (1, 1)
    assert skipped[0].why == "this folder cannot be read (File name too long)"
    with pytest.raises(DataError, match=r"gone/?: cannot be read \(No such file or directory\)"):
        list_files(tmp_path / "gone")


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    for odd in sorted(SPLIT_FOLDERS):
        root = tmp_path / odd
        save(root, "bus/1.png", "car/2.png", f"{odd}/3.png")
        assert labels(root) == {"bus/1.png": "bus", "car/2.png": "car", f"{odd}/3.png": odd}
        build_index("folder", root, tmp_path / "x.parquet")
        assert list(ObjectIndex.open(tmp_path / "x.parquet")) == list(ObjectIndex.open(root))


@pytest.mark.parametrize(
    "names",
    [
        ["train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png"],
        ["train/1.png", "val/2.png", "test/3.png"],
        ["Train/1.png", "DEV/x/2.png"],
        ["a.png", "train/cat/1.png", "test/cat/3.png"],
        ["train/cat/1.png", "val/cat/3.png", "extra/4.png"],
    ],
)
def test_splits_are_not_mixed(tmp_path: Path, names: list[str]) -> None:
    data = tmp_path / "data"
    save(data, *names)
    first = sorted({name.split("/")[0] for name in names if name.split("/")[0].lower() in SPLIT_FOLDERS})[0]
    with pytest.raises(DataError, match=rf"its folders are splits .*give one of them \({data}/{first}\)"):
        ObjectIndex.open(data)
    with pytest.raises(DataError, match=rf"its folders are splits .*read one with --split {first}, or all"):
        build_index("folder", data, tmp_path / "x.parquet")
    summary = build_index("folder", data, tmp_path / "x.parquet", first)
    assert summary.written == sum(name.startswith(f"{first}/") for name in names)
    assert build_index("folder", data, tmp_path / "x.parquet", ".").written == len(names)
    os.rename(data, tmp_path / "inner")
    data.mkdir()
    os.rename(tmp_path / "inner", data / "photos v1")
    with pytest.raises(DataError, match=rf"splits .*read one with --split photos v1/{first}, or all"):
        build_index("folder", data, tmp_path / "x.parquet")
    again = build_index("folder", data, tmp_path / "x.parquet", f"photos v1/{first}")
    assert again.written == summary.written


def test_together_the_classes_of_splits_are_matched_by_name(tmp_path: Path) -> None:
    save(tmp_path / "d", "train/cat/1.png", "train/dog/2.png", "val/dog/3.png")
    build_index("folder", tmp_path / "d", tmp_path / "x.parquet", ".")
    index = ObjectIndex.open(tmp_path / "x.parquet")
    assert index.classes == ["cat", "dog"]
    assert {row.image: row.objects[0].label for row in index} == {
        "train/cat/1.png": 0, "train/dog/2.png": 1, "val/dog/3.png": 1
    }  # fmt: skip


def test_the_only_split_is_read_as_the_folder(tmp_path: Path) -> None:
    save(tmp_path, "train/cat/1.png", "train/dog/2.png")
    assert labels(tmp_path) == {"train/cat/1.png": "cat", "train/dog/2.png": "dog"}


@pytest.mark.parametrize("names", [["1.png", "cat/1.png", "dog/2.png"], ["1.png", "2.png"], ["images/1.png"]])
def test_folders_beside_images_and_a_single_folder_are_no_classes(tmp_path: Path, names: list[str]) -> None:
    save(tmp_path / "d", *names)
    assert set(labels(tmp_path / "d").values()) == {None}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        build_index("folder", tmp_path / "d", tmp_path / "x.parquet")
    told = [str(w.message) for w in warned if issubclass(w.category, OdisWarning)]
    assert len(told) == ("cat/1.png" in names)
    assert not told or "folders are not taken as classes, since an image lies beside them (1.png)" in told[0]


def test_two_classes_called_like_splits_are_doubtful(tmp_path: Path) -> None:
    save(tmp_path / "d", "train/1.png", "test/1.png", "ship/1.png")
    with pytest.warns(OdisWarning, match="each folder is taken as a class, also test and train; if they are"):
        build_index("folder", tmp_path / "d", tmp_path / "x.parquet")
    assert ObjectIndex.open(tmp_path / "x.parquet").classes == ["ship", "test", "train"]


def test_pictures_that_a_plain_folder_does_not_read_are_named(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    touch(tmp_path, "b.psd", "c.PSD", "d.dng", "notes.txt")
    with pytest.warns(OdisWarning, match=r"not read: 2 \.psd files, 1 \.dng files; convert them to JPEG"):
        ObjectIndex.open(tmp_path)


part = st.sampled_from(["cat", "dog", "train", "val", "Test", "x"])


@given(st.lists(st.lists(part, min_size=0, max_size=3), min_size=1, max_size=8))
def test_labels_are_all_or_none_and_splits_are_never_classes_alone(folders: list[list[str]]) -> None:
    images = sorted({"/".join([*folder, f"{k}.png"]) for k, folder in enumerate(folders)})
    found, refused = None, ""
    try:
        found = folder_labels(Listing("d", images), lambda name: f"choose {name}")
    except DataError as error:
        refused = str(error)
    if found is None:
        assert re.search(r"its folders are splits \(.*\), which are not mixed; choose ", refused)
        found = folder_labels(Listing("d", images), lambda name: "", together=True)
    if found.classes:
        assert {found.names(image) for image in images} == set(found.classes)
        assert len(found.classes) > 1
        assert found.depth or not {name.lower() for name in found.classes} <= SPLIT_FOLDERS


def test_what_an_index_leaves_beside_it_is_no_news(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    touch(tmp_path, "x.skipped.jsonl", "notes.jsonl")
    assert dict(list_files(tmp_path).others) == {".jsonl files": 1}
