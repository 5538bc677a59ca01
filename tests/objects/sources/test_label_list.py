"""Class lists beside label maps: CVAT's labelmap.txt, and labelme's class_names.txt."""

from pathlib import Path

import pytest

from odis.errors import DataError
from odis.objects.sources.label_list import find_list, read_list

HEAD = "# label:color_rgb:parts:actions\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
def test_a_label_map_of_cvat(tmp_path: Path, encoding: str) -> None:
    text = f"{HEAD}background:0,0,0::\r\n狗:128, 0 ,0:head,tail:run\r\n\r\ndog house:0,128,0::\r\n狗:1,1,1::"
    found = read_list(write(tmp_path / "labelmap.txt", text.encode(encoding)))
    assert found.names == ["狗 (1)", "dog house", "狗 (3)"]
    assert found.values == {1: 0, 2: 1, 3: 2}
    assert found.colours == {(0, 0, 0): None, (128, 0, 0): 0, (0, 128, 0): 1, (1, 1, 1): 2}
    assert found.begins_with_background


def test_class_names_of_labelme(tmp_path: Path) -> None:
    found = read_list(write(tmp_path / "class_names.txt", "_background_\nperson\nbus: red\n"))
    assert (found.names, found.values, found.colours) == (["person", "bus: red"], {1: 0, 2: 1}, {})
    assert found.begins_with_background


def test_it_is_said_if_the_first_is_no_background(tmp_path: Path) -> None:
    found = read_list(write(tmp_path / "labelmap.txt", "a:1,2,3::\nb:4,5,6::\nbackground:0,0,0::\n"))
    assert (found.names, found.values) == (["a", "b"], {0: 0, 1: 1})
    assert not found.begins_with_background


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "names 0 classes"),
        ("background:0,0,0::", "names 0 classes"),
        (
            "".join(f"c{k}:{k},0,0::\n" for k in range(256)),
            "names 256 classes; a label map has from 1 to 254",
        ),
        (":1,2,3::", "line 1 is ':1,2,3::', must be name:r,g,b:parts:actions"),
        ("a:1,2,3::\nb:1,2,3::", "line 2 has a colour of another class, 1,2,3"),
        ("caf\xe9:1,2,3::".encode("latin-1"), "line 1 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: str | bytes, text: str) -> None:
    with pytest.raises(DataError) as error:
        read_list(write(tmp_path / "labelmap.txt", content))
    assert text in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/labelmap.txt: ")


def test_the_first_folder_that_has_one_counts(tmp_path: Path) -> None:
    assert find_list(None, tmp_path / "gone", tmp_path) is None
    write(tmp_path / "a/class_names.txt", "_background_\nx\n")
    write(tmp_path / "b/class_names.txt", "_background_\ny\n")
    write(tmp_path / "b/labelmap.txt", "background:0,0,0::\nz:1,1,1::\n")
    for folders, names in ((("a", "b"), ["x"]), (("b", "a"), ["z"])):
        found = find_list(None, *(tmp_path / folder for folder in folders))
        assert found is not None
        assert found.names == names
