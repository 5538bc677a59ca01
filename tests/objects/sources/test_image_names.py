"""Images are found by their names without ending, whatever it is."""

from pathlib import Path

import pytest

from odis.objects.sources.image_names import ImageNames, stem


def touch(folder: Path, *names: str) -> ImageNames:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return ImageNames(folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", "a"), ("a.b.jpg", "a.b"), ("x.y/a", "x.y/a"), ("x/.a", "x/.a"), ("a", "a"),
        ("x/a.PNG", "x/a"),
    ],
)  # fmt: skip
def test_stems(name: str, expected: str) -> None:
    assert stem(name) == expected


def test_images_of_a_name(tmp_path: Path) -> None:
    names = touch(tmp_path, "a.png", "a.JPG", "a.jpg", "a.txt", "b.tif", "sub/b.jpg", "c.d.jpeg", ".e.jpg")
    assert names.of("a") == ["a.jpg", "a.JPG", "a.png"]
    assert names.of("b") == ["b.tif"]
    assert names.of("sub/b") == ["sub/b.jpg"]
    assert names.of("c.d") == ["c.d.jpeg"]
    assert names.of("c.d.jpeg") == ["c.d.jpeg"]
    assert names.of("c") == names.of("e") == names.of("") == []
    assert ImageNames(tmp_path / "gone").of("a") == []


def test_images_in_other_folders_are_found_if_there_is_only_one(tmp_path: Path) -> None:
    names = touch(tmp_path, "x/a.jpg", "x/b.jpg", "y/b.jpg", "xy/a b.png")
    assert names.alike("a") == names.alike("z/a") == "x/a.jpg"
    assert names.alike("A") == "x/a.jpg"
    assert names.alike("b") is None
    assert names.alike("B") is None
    assert names.alike("gone") is None
    assert names.called("x/b.jpg") == "x/b.jpg"
    assert names.called("a.jpg") == "x/a.jpg"
    assert names.called("a.png") is None
    assert names.called("b.jpg") is None
    assert names.called("y/a b.png") is None
    assert names.called("a b.png") == "xy/a b.png"
