"""Images by the names that tools give them: found in the folder of the data set, and nowhere else."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import DataError
from odis.objects.sources.places import LEADS_OUT, ImagePlaces, stays_inside


def places(
    root: Path, files: Sequence[str], names: Sequence[str] = (), folders: Sequence[str] = ("train",)
) -> ImagePlaces:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"")
    return ImagePlaces(root, folders, ["train"], lambda: names)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("train/a.jpg", "a.jpg"),
        ("train/a.jpg", "./a.jpg"),
        ("train/b/a.jpg", "b//a.jpg"),
        ("train/a.jpg", "train/a.jpg"),
        ("train/a.jpg", "images/train/a.jpg"),
        ("train/a.jpg", "../train/a.jpg"),
        ("train/a.jpg", "ROOT/train/a.jpg"),
        ("train/a.jpg", "/somewhere/else/train/a.jpg"),
        ("train/a.jpg", "/somewhere/else/a.jpg"),
        ("train/a.jpg", "C:\\Users\\me\\a.jpg"),
        ("train/a.jpg", "c:/pictures/me/a.jpg"),
        ("train/a.jpg", "file:///mnt/me/a.jpg"),
        ("train/a.jpg", "s3://bucket/data/a.jpg"),
        ("train/a.jpg", "https://host:8080/x/a.jpg?token=1#top"),
        ("train/a b.jpg", "https://host/a%20b.jpg"),
        ("train/a b.jpg", "a%20b.jpg"),
        ("train/a%20b.jpg", "a%20b.jpg"),
        ("train/b/a.jpg", "b\\a.jpg"),
        ("images/a.jpg", "images\\a.jpg"),
        ("images/a.jpg", "images\\1/a.jpg"),
        ("images/a.jpg", "images/1/a.jpg"),
        ("images/a.jpg", "/data/upload/4/a.jpg"),
        ("images/a.jpg", "upload/4/a.jpg"),
        ("images/a.jpg", "..\\..\\label-studio\\media\\upload\\4\\a.jpg"),
        ("images/a.jpg", "/data/local-files/?d=images/a.jpg"),
        ("images/a b.jpg", "/data/local-files/?d=some%5Cimages%5Ca%20b.jpg"),
        ("images/a.jpg", "upload/ab12cd34-a.jpg"),
        ("images/ab12cd34-a.jpg", "upload/ab12cd34-a.jpg"),
        ("train/a.JPG", "a.jpg"),
        ("train/a.jpg", "a.JPG"),
        ("train/A.Jpg", "a.jPG"),
        (
            "train/" + unicodedata.normalize("NFD", "caf\u00e9.jpg"),
            unicodedata.normalize("NFC", "caf\u00e9.jpg"),
        ),
        (
            "train/" + unicodedata.normalize("NFC", "caf\u00e9.jpg"),
            unicodedata.normalize("NFD", "caf\u00e9.jpg"),
        ),
        ("train/" + unicodedata.normalize("NFD", "\u00e9.jpg"), "caf%C3%A9.jpg".replace("caf", "")),
        ("train/a.jpg", "a"),
        ("train/1.5.png", "1.5"),
        ("train/a.jpg", "train/a"),
        ("my pictures/2024/a.jpg", "a.jpg"),
        ("deep/er/images/b/a.jpg", "b/a.jpg"),
        ("train/new\nline.jpg", "new\nline.jpg"),
    ],
)
def test_an_image_is_found_by_the_name_a_tool_wrote(tmp_path: Path, file: str, name: str) -> None:
    name = name.replace("ROOT", str(tmp_path))
    found = places(tmp_path, [file], [name]).place(name)
    assert (tmp_path / found).is_file()
    assert found in {file, f"train/{name}"}


@pytest.mark.parametrize(
    ("files", "name", "why"),
    [
        (["train/b.jpg"], "a.jpg", "no such file"),
        (["train/1/a.jpg"], "2/a.jpg", "no such file"),  # the folder says which image is meant
        (["train/a.jpg"], "2/a.jpg", "no such file"),
        (["video1/a.jpg"], "/mnt/me/video2/a.jpg", LEADS_OUT),
        (["val/a.jpg", "test/a.jpg"], "a.jpg", "no such file"),  # those of other splits
        (
            ["one/a.jpg", "two/a.jpg"],
            "a.jpg",
            "could be one/a.jpg or two/a.jpg; name the folder of the images",
        ),
        (["images/a.jpg", "data/a.jpg"], "/x/a.jpg", "could be data/a.jpg or images/a.jpg"),
        (["train/a.JPG", "train/A.Jpg"], "A.JPG", "could be train/A.Jpg or train/a.JPG"),
        (["train/a.png", "images/a.jpg"], "b/a", "no such file"),
        ([], "", LEADS_OUT),
        ([], "..", LEADS_OUT),
        ([], "/", LEADS_OUT),
        ([], "a\0.jpg", "no such file"),
        ([], "\ud800.jpg", LEADS_OUT),
        (["train/b.jpg"], "x" * 300 + ".jpg", "no such file"),
    ],
)
def test_what_is_not_found_or_could_be_several_is_said(
    tmp_path: Path, files: list[str], name: str, why: str
) -> None:
    with pytest.raises(DataError) as error:
        places(tmp_path, files, [name]).place(name)
    assert str(error.value).startswith(why)


@pytest.mark.parametrize("name", ["../secret.jpg", "/{}/secret.jpg", "..\\secret.jpg", "a/../../secret.jpg"])
def test_no_image_is_taken_from_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"")
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(DataError) as error:
        places(root, ["train/a.jpg"]).place(name.format(tmp_path))
    assert str(error.value) == LEADS_OUT


def test_names_that_end_alike_are_not_taken_for_one_image(tmp_path: Path) -> None:
    names = ["/x/1/a.jpg", "/x/2/a.jpg", "/x/1/b.jpg", "/x/2/c.jpg"]
    found = places(tmp_path, ["train/a.jpg", "train/b.jpg", "train/c.jpg"], names)
    for name in names[:2]:
        with pytest.raises(
            DataError, match=r"could be train/a\.jpg, but names of several images end in a\.jpg"
        ):
            found.place(name)
    assert [found.place(name) for name in names[2:]] == ["train/b.jpg", "train/c.jpg"]


def test_an_image_that_another_name_says_is_not_taken_twice(tmp_path: Path) -> None:
    found = places(tmp_path, ["train/a.jpg"], ["a.jpg", "train/a.jpg"])
    assert found.place("a.jpg") == "train/a.jpg"
    with pytest.raises(DataError, match=r"no such file; train/a\.jpg is another image that is listed"):
        found.place("train/a.jpg")


def test_the_folder_in_which_most_names_begin_comes_first(tmp_path: Path) -> None:
    files = ["train/a.jpg", "images/a.jpg", "images/b.jpg"]
    found = places(tmp_path, files, folders=["train", "images"])
    assert found.settle(["a.jpg", "b.jpg"]) == "plain"
    assert [found.plain("a.jpg"), found.plain("../a.jpg")] == ["images/a.jpg", None]
    assert found.settle(["c.jpg"]) == "nowhere"
    assert found.settle(["/x/b.jpg"]) == "elsewhere"
    other = places(tmp_path, ["my/own/d.jpg"], folders=["train"])
    assert other.settle(["d.jpg", "e.jpg"]) == "plain"
    assert other.plain("e.jpg") == "my/own/e.jpg"


def test_the_plain_place_costs_one_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = places(tmp_path, ["train/a.jpg"])
    monkeypatch.setattr(ImagePlaces, "find", lambda *_: pytest.fail("looked elsewhere"))
    monkeypatch.setattr("odis.objects.sources.places.list_files", lambda *_: pytest.fail("listed"))
    assert found.place("a.jpg") == "train/a.jpg"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.jpg", True),
        ("..a/b", True),
        ("", False),
        (".", False),
        ("./", False),
        ("a/..", False),
        ("/a", False),
        ("c:/x", False),
        ("a\\b", False),
        ("a:b/c", False),
        ("a/b:c", True),
        ("\u00e9/b", True),
        ("\u00e9/../b", False),
        ("\ud800", False),
    ],
)
def test_names_that_stay_in_their_folder(name: str, expected: bool) -> None:
    assert stays_inside(name) is expected


parts = st.sampled_from(
    ["a", "b", "..", ".", "", "train", "images", "c.jpg", "C.JPG", "%2e%2e", "\\", "x:", "\u00e9"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(parts, max_size=5).map("/".join), st.lists(parts, max_size=5).map("\\".join))
def test_whatever_the_name_a_place_is_a_file_of_the_data_set(
    tmp_path_factory: pytest.TempPathFactory, one: str, other: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "inside" / "root"
    files = ["train/c.jpg", "a/b/c.jpg", "images/C.JPG", "c.jpg", "\u00e9/c.jpg"]
    found = places(root, files, [one, other])
    (root.parent / "c.jpg").write_bytes(b"")
    for name in (one, other):
        try:
            place = found.place(name)
        except DataError:
            continue
        if not (root / place).is_file():
            assert (root / place).is_dir()  # which is no image, as its header says
        assert not os.path.relpath(root / place, root).startswith("..")
