"""Data sets as tools export them, rebuilt small and read as downloaded: no option says which tool it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from odis.errors import DataError
from odis.objects.build import build_index
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.types import Skipped

WIDTH, HEIGHT = 80, 60

Boxes = list[tuple[tuple[float, ...], str | None]]


def save(path: Path, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path, **options)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def read(
    form: str, root: Path, split: str | None = None, **options: Any
) -> tuple[dict[str, Boxes], list[Skipped]]:
    """The boxes and class names of each image."""
    skipped: list[Skipped] = []
    build_index(form, root, root.parent / "i.parquet", split, report=skipped.append, **options)
    index = ObjectIndex.open(root.parent / "i.parquet")
    found: dict[str, Boxes] = {}
    for k, row in enumerate(index):
        load_image(index.image_path(k), (row.width, row.height))
        found[row.image] = [(o.box, None if o.label is None else index.classes[o.label]) for o in row.objects]
    return found, skipped


def voc_xml(name: str, objects: str, size: str, head: str = "") -> str:
    named = f"<folder></folder>\n\t<filename>{name}</filename>"
    return f"{head}<annotation>\n\t{named}{size}{objects}\n</annotation>\n"


def roboflow_object(name: str, box: tuple[int, ...]) -> str:
    xmin, xmax, ymin, ymax = box  # in this order, as it writes them
    return (
        f"\n\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>"
        f"\n\t\t<difficult>0</difficult>\n\t\t<occluded>0</occluded>\n\t\t<bndbox>\n\t\t\t<xmin>{xmin}</xmin>"
        f"\n\t\t\t<xmax>{xmax}</xmax>\n\t\t\t<ymin>{ymin}</ymin>\n\t\t\t<ymax>{ymax}</ymax>\n\t\t</bndbox>"
        f"\n\t</object>"
    )


SIZE = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"

BOX = (20.0, 15.0, 60.0, 45.0)  # `0.5 0.5 0.5 0.5` of the image


def test_roboflow_yolo(tmp_path: Path) -> None:
    root = tmp_path / "fish.v1i.yolov8"
    write(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        "nc: 2\nnames: ['cod', 'no fish']\n\n"
        "roboflow:\n  workspace: w\n  project: fish\n  version: 1\n  license: CC BY 4.0\n  url: "
        "https://x/y/1\n",
    )
    for name in ("README.dataset.txt", "README.roboflow.txt"):
        write(root / name, "# fish > 1\nhttps://x/y\n")
    for split in ("train", "valid"):
        save(root / f"{split}/images/a_jpg.rf.0f.jpg")
        write(
            root / f"{split}/labels/a_jpg.rf.0f.txt",
            "1 0.5 0.5 0.5 0.5\n0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75",
        )
        save(root / f"{split}/images/null_png.rf.1e.jpg")
        write(root / f"{split}/labels/null_png.rf.1e.txt", "")
    for asked, folder in ((None, "train"), ("train", "train"), ("val", "valid"), ("valid", "valid")):
        found, skipped = read("yolo", root, asked)
        assert found == {
            f"{folder}/images/a_jpg.rf.0f.jpg": [(BOX, "no fish"), (BOX, "cod")],
            f"{folder}/images/null_png.rf.1e.jpg": [],
        }
        assert skipped == []


def test_roboflow_voc(tmp_path: Path) -> None:
    root = tmp_path / "fish.v1i.voc"
    for name in ("README.dataset.txt", "README.roboflow.txt"):
        write(root / name, "# fish > 1\n")
    for split in ("train", "valid"):
        name = f"{split}_jpg.rf.0f"
        save(root / f"{split}/{name}.jpg")
        objects = roboflow_object("cod", (21, 60, 16, 45))
        write(root / f"{split}/{name}.xml", voc_xml(f"{name}.jpg", objects, SIZE))
        save(root / f"{split}/null.jpg")
        write(root / f"{split}/null.xml", voc_xml("null.jpg", "", SIZE))
    for asked, split in (("train", "train"), ("val", "valid"), ("valid", "valid")):
        found, skipped = read("voc", root, asked)
        assert found == {f"{split}/null.jpg": [], f"{split}/{split}_jpg.rf.0f.jpg": [(BOX, "cod")]}
        assert skipped == []
    assert set(read("voc", root / "valid")[0]) == {"null.jpg", "valid_jpg.rf.0f.jpg"}


@pytest.mark.parametrize(
    "path",
    ["path: ../datasets/coco8  # dataset root dir\n", "path: coco8\n", "path: /content/datasets/coco8\n", ""],
)
def test_ultralytics(tmp_path: Path, path: str) -> None:
    root = tmp_path / "coco8"
    write(
        root / "coco8.yaml",
        f"# Ultralytics\n\n{path}train: images/train # train images (relative to 'path') 4 images\n"
        "val: images/val # val images\ntest: # test images (optional)\n\n"
        "# Classes\nnames:\n  0: person\n  1: bicycle\n"
        "\n# Download script/URL (optional)\ndownload: https://x/coco8.zip\n",
    )
    write(root / "LICENSE", "AGPL")
    for split in ("train", "val"):
        save(root / f"images/{split}/000000000009.jpg")
        write(root / f"labels/{split}/000000000009.txt", "1 0.5 0.5 0.5 0.5\n")
        save(root / f"images/{split}/000000000042.jpg")  # without objects there is no file
    (root / "labels/train.cache").write_bytes(b"cache")
    for asked, split in ((None, "train"), ("val", "val")):
        found, skipped = read("yolo", root, asked)
        assert found == {
            f"images/{split}/000000000009.jpg": [(BOX, "bicycle")],
            f"images/{split}/000000000042.jpg": [],
        }
        assert skipped == []


def test_cvat_voc(tmp_path: Path) -> None:
    root = tmp_path / "task_1-pascal voc"
    write(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:1,2,3::\ncat:250,50,83::\n",
    )
    write(root / "ImageSets/Main/default.txt", "frame_000000\nsub/photo 1\n")
    for label in ("background", "cat", "dog"):
        write(root / f"ImageSets/Main/{label}_default.txt", "frame_000000  1\nsub/photo 1 -1\n")
    objects = (
        "<object><name>cat</name><truncated>0</truncated><occluded>0</occluded><difficult>0</difficult>"
        "<bndbox><xmin>21.0</xmin><ymin>16.0</ymin><xmax>60.0</xmax><ymax>45.0</ymax></bndbox>"
        "<attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes></object>"
    )
    size = SIZE.replace("<depth>3</depth>", "<depth></depth>")
    write(root / "Annotations/frame_000000.xml", voc_xml("frame_000000.PNG", objects, size))
    write(root / "Annotations/sub/photo 1.xml", voc_xml("sub/photo 1.jpeg", "", size))
    save(root / "JPEGImages/frame_000000.PNG")
    save(root / "JPEGImages/sub/photo 1.jpeg")
    for split in (None, "default"):
        found, skipped = read("voc", root, split)
        assert found == {"JPEGImages/frame_000000.PNG": [(BOX, "cat")], "JPEGImages/sub/photo 1.jpeg": []}
        assert skipped == []
    assert ObjectIndex.open(tmp_path / "i.parquet").classes == ["dog", "cat"]


def test_cvat_segmentation_masks(tmp_path: Path) -> None:
    root = tmp_path / "task_1-segmentation mask"
    write(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:1,2,3::\ncat:250,50,83::\n",
    )
    write(root / "ImageSets/Segmentation/default.txt", "a\n")
    classes, objects = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    classes[15:45, 20:40], classes[15:45, 40:60] = (250, 50, 83), (1, 2, 3)
    objects[15:45, 20:40], objects[15:45, 40:60] = (128, 0, 0), (0, 128, 0)
    for folder, pixels in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        (root / folder).mkdir()
        Image.fromarray(pixels).save(root / folder / "a.png")
    save(root / "JPEGImages/a.png")
    found, skipped = read("label-maps", root)
    assert sorted(found["JPEGImages/a.png"]) == [((20, 15, 40, 45), "cat"), ((40, 15, 60, 45), "dog")]
    assert skipped == []


@pytest.mark.parametrize("written", ["a.jpg", "C:\\Users\\me\\pics\\a.jpg", "/Volumes/x/a.jpg"])
def test_labelimg(tmp_path: Path, written: str) -> None:
    root = tmp_path / "pics"
    objects = (
        "<object>\n\t\t<name>cat</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        "\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>21</xmin>\n\t\t\t<ymin>16</ymin>\n"
        "\t\t\t<xmax>60</xmax>\n\t\t\t<ymax>45</ymax>\n\t\t</bndbox>\n\t</object>"
    )
    zero = "<size><width>0</width><height>0</height><depth>0</depth></size>"
    for name, size in (("a", SIZE), ("b", zero)):
        path = f"<path>{written}</path><source><database>Unknown</database></source>"
        write(root / f"{name}.xml", voc_xml(written.replace("a.", f"{name}."), objects, path + size))
        save(root / f"{name}.jpg")
    found, skipped = read("voc", root)
    assert found == {"a.jpg": [(BOX, "cat")], "b.jpg": [(BOX, "cat")]}
    assert skipped == []


def test_labelimg_and_label_studio_yolo(tmp_path: Path) -> None:
    root = tmp_path / "pics"
    write(root / "classes.txt", "dog\ncat\n")
    save(root / "a.JPG", format="JPEG")
    write(root / "a.txt", "1 0.500000 0.500000 0.500000 0.500000\n")
    assert read("yolo", root) == ({"a.JPG": [(BOX, "cat")]}, [])
    export = tmp_path / "project-1-at-2024"
    write(export / "classes.txt", "dog\ncat\n")
    write(export / "notes.json", "{}")
    save(export / "images/0f-a.jpg")
    write(export / "labels/0f-a.txt", "1 0.5 0.5 0.5 0.5\n")
    assert read("yolo", export) == ({"images/0f-a.jpg": [(BOX, "cat")]}, [])


def test_cvat_yolo(tmp_path: Path) -> None:
    root = tmp_path / "task_1-yolo 1.1"
    write(
        root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    write(root / "obj.names", "dog\ncat\n")
    write(root / "train.txt", "data/obj_train_data/a.png\ndata/obj_train_data/sub/b.jpg\n")
    for name in ("a.png", "sub/b.jpg"):
        save(root / f"obj_train_data/{name}")
        write(root / f"obj_train_data/{name.split('.')[0]}.txt", "1 0.500000 0.500000 0.500000 0.500000\n")
    assert read("yolo", root) == (
        {"obj_train_data/a.png": [(BOX, "cat")], "obj_train_data/sub/b.jpg": [(BOX, "cat")]},
        [],
    )


def test_imagenet_val_in_folders(tmp_path: Path) -> None:
    root = tmp_path / "imagenet"
    for split, names in (
        ("train", ("n01440764_1", "n01484850_1")),
        ("val", ("ILSVRC2012_val_1", "ILSVRC2012_val_2")),
    ):
        for wnid, name in zip(("n01440764", "n01484850"), names):
            save(root / f"{split}/{wnid}/{name}.JPEG")
    whole = (0, 0, WIDTH, HEIGHT)
    assert read("imagenet", root, "val") == (
        {
            "val/n01440764/ILSVRC2012_val_1.JPEG": [(whole, "n01440764")],
            "val/n01484850/ILSVRC2012_val_2.JPEG": [(whole, "n01484850")],
        },
        [],
    )


def test_labelme_voc(tmp_path: Path) -> None:
    root = tmp_path / "data_dataset_voc"
    write(root / "class_names.txt", "_background_\ndog\ncat")
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[15:45, 20:60] = 2
    for folder in ("SegmentationClass", "SegmentationClassVisualization"):
        (root / folder).mkdir()
    Image.fromarray(values).save(root / "SegmentationClass/2011_000003.png")
    np.save(root / "SegmentationClass/2011_000003.npy", values)
    save(root / "SegmentationClassVisualization/2011_000003.jpg")
    save(root / "JPEGImages/2011_000003.jpg")
    assert read("label-maps", root) == ({"JPEGImages/2011_000003.jpg": [(BOX, "cat")]}, [])


def test_labelme_voc_with_instances(tmp_path: Path) -> None:
    """`examples/instance_segmentation/labelme2voc.py`: arrays (.npy) in the folders of VOC's names, maps in
    others.
    """
    root = tmp_path / "data_dataset_voc"
    write(root / "class_names.txt", "_background_\ndog\ncat")
    classes, instances = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    classes[15:45, 20:60], instances[15:45, 20:60] = 2, 1
    classes[15:25, 60:70], instances[15:25, 60:70] = 2, 2  # touches the first
    classes[0, 0] = 255  # __ignore__, -1
    for kind, values in (("Class", classes), ("Object", instances)):
        for folder in (f"Segmentation{kind}", f"Segmentation{kind}PNG", f"Segmentation{kind}Visualization"):
            (root / folder).mkdir()
        Image.fromarray(values).save(root / f"Segmentation{kind}PNG/a.png")
        np.save(root / f"Segmentation{kind}/a.npy", values)
        save(root / f"Segmentation{kind}Visualization/a.jpg")
    save(root / "JPEGImages/a.jpg")
    expected = [(BOX, "cat"), ((60, 15, 70, 25), "cat")]
    assert read("label-maps", root) == ({"JPEGImages/a.jpg": expected}, [])


def test_labelme_voc_of_boxes(tmp_path: Path) -> None:
    """`examples/bbox_detection/labelme2voc.py`: its list of classes says their order; tags are empty."""
    root = tmp_path / "data_dataset_voc"
    write(root / "class_names.txt", "_background_\nperson\ncat")
    objects = "".join(
        f"<object><name>{name}</name><pose/><truncated/><difficult/><bndbox><xmin>21.0</xmin><ymin>16.0</ymin>"
        f"<xmax>60.0</xmax><ymax>45.0</ymax></bndbox></object>"
        for name in ("cat", "person")
    )
    size = f"<size><height>{HEIGHT}</height><width>{WIDTH}</width><depth>3</depth></size><segmented/>"
    head = "<database/><annotation/><image/>"
    write(root / "Annotations/a.xml", voc_xml("a.jpg", objects, head + size))
    save(root / "JPEGImages/a.jpg")
    save(root / "AnnotationsVisualization/a.jpg")
    assert read("voc", root) == ({"JPEGImages/a.jpg": [(BOX, "cat"), (BOX, "person")]}, [])
    build_index("voc", root, tmp_path / "i.parquet")
    assert ObjectIndex.open(tmp_path / "i.parquet").classes == ["person", "cat"]


@pytest.mark.parametrize("where", ["", "data/"])
def test_darknet(tmp_path: Path, where: str) -> None:
    """The README of darknet: lists and names at paths of its own, `data/obj/a.jpg`."""
    root = tmp_path / "build"
    write(
        root / "obj.data",
        f"classes = 2\ntrain  = {where}train.txt\nvalid={where}test.txt\nnames = {where}my.names\nbackup = "
        f"backup/\n",
    )
    write(root / f"{where}my.names", "cod\nno fish\n")
    for split, name in (("train", "a"), ("test", "b")):
        save(root / f"data/obj/{name}.jpg")
        write(root / f"data/obj/{name}.txt", "1 0.5 0.5 0.5 0.5\n")
        write(root / f"{where}{split}.txt", f"data/obj/{name}.jpg\n")
    assert read("yolo", root) == ({"data/obj/a.jpg": [(BOX, "no fish")]}, [])
    assert read("yolo", root, "val") == ({"data/obj/b.jpg": [(BOX, "no fish")]}, [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("train = gone.txt\nnames = obj.names\n", "obj.data: train is 'gone.txt', and there is no such list"),
        ("train\n", "obj.data: line 1 is 'train', must be train = a path"),
    ],
)
def test_a_data_file_of_darknet_that_leads_nowhere(tmp_path: Path, text: str, why: str) -> None:
    root = tmp_path / "build"
    write(root / "obj.data", text)
    save(root / "photos/a.jpg")
    with pytest.raises(DataError) as error:
        read("yolo", root)
    assert why in str(error.value)
    write(root / "other.data", "")
    (root / "obj.data").rename(root / "my.data")
    with pytest.raises(
        DataError, match=r"no data.yaml or obj.data, but my.data, other.data; remove all but one"
    ):
        read("yolo", root)
