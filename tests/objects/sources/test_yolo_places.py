"""Where a YOLO data set has its images and labels: as written, moved, without a YAML file, or named."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from odis.errors import DataError
from odis.objects.build import build_index
from odis.objects.index import ObjectIndex
from odis.objects.sources.yolo_places import find_below, plain
from odis.types import Skipped

BOX = (2.0, 1.5, 6.0, 4.5)


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def pair(root: Path, image: str, label: str, number: int | str = 1) -> None:
    save(root / image)
    write(root / label, f"{number} 0.5 0.5 0.5 0.5\n")


def rows(root: Path, split: str | None = None, **options: Any) -> list[tuple[str, list[Any]]]:
    """Paths of the images and their objects' boxes and labels; nothing may be left out."""
    skipped: list[Skipped] = []
    out = root.parent / "i.parquet"
    build_index("yolo", root, out, split, report=skipped.append, **options)
    assert skipped == []
    index = ObjectIndex.open(out)
    assert all(os.path.isfile(index.image_path(k)) for k in range(len(index)))
    return [
        (row.image, [(o.box, None if o.label is None else index.classes[o.label]) for o in row.objects])
        for row in index
    ]


def only(image: str, name: str = "b") -> list[tuple[str, list[Any]]]:
    return [(image, [(BOX, name)])]


@pytest.mark.parametrize(
    ("path", "train"),
    [
        (None, "images/train"),
        (None, "images/train/"),
        (None, "./images/train"),
        (None, "images\\train"),
        (None, ".\\images\\train\\"),
        (None, "../images/train"),
        (None, "../../images/train"),
        (None, "../d/images/train"),
        (None, "{root}/images/train"),
        (None, "{root}/images/train/"),
        (None, "/content/drive/MyDrive/d/images/train"),
        (None, "D:\\data\\d\\images\\train"),
        (None, "d:/images/train"),
        (None, "/content/set/images/train"),
        (None, ["images/train"]),
        (".", "images/train"),
        ("./", "images/train"),
        ("{root}", "images/train"),
        ("{root}/", "images/train"),
        ("/content/datasets/d", "images/train"),
        ("../datasets/x", "images/train"),
        ("../d", "images/train"),
        ("d", "images/train"),
        ("C:\\Users\\me\\d", "images\\train"),
        ("images", "train"),
        ("/somewhere/images", "train"),
        ("/content/d/images", "train"),
        ("~", "images/train"),
        ("", "images/train"),
    ],
)
def test_an_entry_leads_to_its_folder_wherever_it_was_written(
    tmp_path: Path, path: str | None, train: Any
) -> None:
    root = tmp_path / "d"
    pair(root, "images/train/x.jpg", "labels/train/x.txt")
    content: dict[str, Any] = {"names": ["a", "b"], "train": train, "val": "nowhere", "test": None}
    if path is not None:
        content["path"] = path.format(root=root)
    if isinstance(train, str):
        content["train"] = train.format(root=root)
    write(root / "data.yaml", yaml.safe_dump(content))
    if path == "/somewhere/images":  # `train` alone may be that of another data set
        with pytest.raises(DataError, match=r"train is 'train', and there is no .*; --images images/train "):
            rows(root)
        return
    assert rows(root) == only("images/train/x.jpg")


LINES = [
    "images/train/{}", "./images/train/{}", "{root}/images/train/{}", "images\\train\\{}",
    ".\\images\\train\\{}", "D:\\data\\d\\images\\train\\{}", "data/images/train/{}",
    "/content/images/train/{}", "../images/train/{}", "../d/images/train/{}",
]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n \n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_of_any_system_is_read(tmp_path: Path, end: str, encoding: str) -> None:
    root = tmp_path / "d"
    names = [f"x{k}.jpg" for k in range(len(LINES))]
    for k, name in enumerate(names):
        pair(root, f"images/train/{name}", f"labels/train/x{k}.txt")
    write(root / "data.yaml", "train: train.txt\nnames: [a, b]\n")
    lines = [line.format(name, root=root) for line, name in zip(LINES, names)]
    write(root / "train.txt", end.join(lines).encode(encoding))
    assert rows(root) == [one for name in names for one in only(f"images/train/{name}")]


@pytest.mark.parametrize(
    ("image", "label", "split"),
    [
        ("images/train/x.jpg", "labels/train/x.txt", None),
        ("train/images/x.jpg", "train/labels/x.txt", "train"),
        ("train/x.jpg", "train/x.txt", None),
        ("images/valid/x.jpg", "labels/valid/x.txt", "val"),
        ("valid/images/x.jpg", "valid/labels/x.txt", "val"),
        ("validation/images/x.jpg", "validation/labels/x.txt", "valid"),
        ("images/x.jpg", "labels/x.txt", None),
        ("images/x.jpg", "images/x.txt", None),
        ("images/sub/x.JPG", "labels/sub/x.txt", None),
        ("obj_train_data/x.png", "obj_train_data/x.txt", None),
        ("x.jpg", "x.txt", None),
        ("images/minival/x.jpg", "labels/minival/x.txt", "minival"),
    ],
)
@pytest.mark.parametrize("names", ["data.yaml", "classes.txt", "obj.names", "_darknet.labels", None])
def test_layouts_without_entries_or_without_any_yaml(
    tmp_path: Path, image: str, label: str, split: str | None, names: str | None
) -> None:
    root = tmp_path / "d"
    pair(root, image, label)
    if names is not None:
        write(root / names, "names: [a, b]\n" if names == "data.yaml" else "a\r\nb\r\n")
    assert rows(root, split) == only(image, "b" if names else "1")


@pytest.mark.parametrize("folder", [".", "labels", "labels/train"])
def test_a_class_list_may_be_with_the_labels(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "d"
    pair(root, "images/train/x.jpg", "labels/train/x.txt")
    write(root / folder / "classes.txt", "a\nb\n")
    assert rows(root) == only("images/train/x.jpg")


def test_splits_beside_each_other_are_not_mixed(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for split in ("val", "test"):
        pair(root, f"images/{split}/x.jpg", f"labels/{split}/x.txt")
    with pytest.raises(DataError, match=r"no split 'train'; there are val, test$"):
        rows(root)
    assert rows(root, "val") == only("images/val/x.jpg", "1")


@pytest.mark.parametrize(
    ("image", "label", "options"),
    [
        ("d/pics/x.jpg", "d/boxes/x.txt", {"images": "pics", "annotations": "boxes"}),
        ("d/pics/x.jpg", "d/boxes/x.txt", {"images": "{root}/pics", "annotations": "{root}/boxes/"}),
        ("d/pics/x.jpg", "d/pics/x.txt", {"images": "pics"}),
        ("d/pics/train/x.jpg", "d/boxes/train/x.txt",
         {"images": "pics", "annotations": "boxes", "split": "train"}),
        ("d/images/train/x.jpg", "d/boxes/train/x.txt", {"annotations": "boxes"}),
        ("d/images/train/x.jpg", "d/boxes/images/train/x.txt", {"annotations": "boxes"}),
        ("d/images/train/x.jpg", "d/boxes/x.txt", {"annotations": "boxes"}),
        ("d/images/train/x.jpg", "boxes/train/x.txt", {"annotations": "{root}/../boxes"}),
        ("else/images/x.jpg", "d/labels/x.txt", {"images": "../else/images", "annotations": "labels"}),
        ("else/x.jpg", "d/labels/x.txt", {"images": "{root}/../else", "annotations": "labels"}),
        ("else/train/x.jpg", "d/labels/train/x.txt",
         {"images": "{root}/../else", "annotations": "labels", "split": "train"}),
    ],
)  # fmt: skip
def test_places_may_be_named(tmp_path: Path, image: str, label: str, options: dict[str, str]) -> None:
    root = tmp_path / "d"
    root.mkdir()
    pair(tmp_path, image, label)
    write(root / "classes.txt", "a\nb\n")
    found = rows(root, **{key: value.format(root=root) for key, value in options.items()})
    assert found == only(os.path.relpath(tmp_path / image, ObjectIndex.open(tmp_path / "i.parquet").root))


def test_a_yaml_file_may_be_named_and_images_moved(tmp_path: Path) -> None:
    root = tmp_path / "d"
    pair(root, "pics/train/x.jpg", "pics/train/x.txt")
    write(root / "a.yaml", "train: images/train\nnames: [a, b]\n")
    write(root / "b.yaml", "train: pics/train\nnames: [b, c]\n")
    with pytest.raises(DataError, match=r"no data\.yaml, but a\.yaml, b\.yaml; --annotations a\.yaml would"):
        rows(root)
    assert rows(root, annotations="b.yaml") == only("pics/train/x.jpg", "c")
    with pytest.raises(DataError, match=r"a\.yaml: train is 'images/train', and .* --images names another$"):
        rows(root, annotations="a.yaml")
    assert rows(root, annotations="a.yaml", images="pics/train") == only("pics/train/x.jpg")
    assert rows(root, annotations="a.yaml", images="pics") == only("pics/train/x.jpg")


def test_what_is_not_there_is_said_with_the_command_that_helps(tmp_path: Path) -> None:
    root = tmp_path / "d"
    save(root / "images/train/x.jpg")
    for options, text in (
        (
            {},
            r"labels/train: no label file|images/train: no label file .*--annotations DIR names their folder",
        ),
        ({"images": "gone"}, "d/gone: no such folder; --images names the folder of the images$"),
        ({"annotations": "gone"}, r"d/gone: no such folder of label files, and no \.yaml file$"),
        ({"split": "val"}, "d: no split 'val'; there are train$"),
    ):
        with pytest.raises(DataError, match=text):
            rows(root, **options)  # type: ignore[arg-type]
    other = tmp_path / "outer"
    write(other / "inner/data.yaml", "names: [a]")
    with pytest.raises(
        DataError, match=r"outer: no data\.yaml, .*; odis index yolo .*outer/inner would read"
    ):
        rows(other)
    with pytest.raises(
        DataError, match=r"inner/data\.yaml: has no train, and there is no images/, .*--images"
    ):
        rows(other / "inner")


PART = st.sampled_from(["..", ".", "a", "b", "images", "\\", "C:", "", "é"])


@given(st.lists(PART, max_size=6).map("/".join), st.sampled_from([".", "a", "images"]))
def test_no_entry_leads_out(text: str, base: str) -> None:
    seen: list[Path] = []
    root = Path("/data/set")
    find_below(root, [base], text, lambda path: seen.append(path) is not None)
    for path in seen:
        assert Path(os.path.normpath(path)).is_relative_to(root)
    assert "\\" not in plain(text)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/IMG_1.JPG", "labels/train/IMG_1.TXT"),
        ("images/train/IMG_1.JPG", "labels/train/img_1.txt"),
        ("Images/train/a.jpg", "Labels/train/a.txt"),
        ("Images/train/a.jpg", "labels/train/a.txt"),
    ],
)
def test_capital_letters_do_not_matter_where_no_other_file_is_meant(
    tmp_path: Path, image: str, label: str
) -> None:
    root = tmp_path / "d"
    pair(root, image, label)
    write(root / "data.yaml", f"train: {os.path.dirname(image)}\nnames: [a, b]\n")
    assert rows(root) == only(image)
    other = image.replace("IMG_1", "img_1").replace("/a.", "/A.")
    save(root / other)  # without a label file; or the owner of the one that there is
    own = {image, other} if label.endswith("img_1.txt") else {image}
    has = {other} if label.endswith("img_1.txt") else own
    assert {name for name, objects in rows(root) if objects} == has
