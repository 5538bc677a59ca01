"""A small valid data set in each layout. Adding a layout takes a function and its line in `SETS`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odis.objects import rle

TENCH, SHARK = "n01440764", "n01484850"

WIDTH, HEIGHT = 48, 32

COUNTS = rle.encode(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 7 < 3).decode()
"""A mask of an image."""


@dataclass(frozen=True)
class DataSet:
    """How a data set is made, `make(root)`, and read, `build_index(form, root, out, split, **options)`; or,
    if there is `check`, by `check(root, out, rng)`, which says what is wrong.
    """

    form: str
    make: Callable[[Path], None]
    split: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    check: Callable[[Path, Path, np.random.Generator], str] | None = None


def save(path: Path, seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """A picture of coarse noise, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize(size).save(path)


def write(path: Path, text: str) -> None:
    """A text file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def instances(names: list[str], key: str = "file_name") -> str:
    """COCO instances: a box, a polygon, run lengths of both kinds and a crowd."""
    shapes: list[dict[str, Any]] = [
        {"bbox": [2, 2, 20, 10]},
        {"bbox": [4, 4, 16, 16], "segmentation": [[4, 4, 20, 4, 20, 20, 4, 20]], "area": 256},
        {"bbox": [0, 0, 48, 32], "segmentation": {"size": [32, 48], "counts": [100, 1436]}, "area": 1436},
        {"bbox": [0, 0, 48, 32], "segmentation": {"size": [32, 48], "counts": COUNTS}},
        {"bbox": [8, 8, 12, 12], "iscrowd": 1, "segmentation": {"size": [32, 48], "counts": [300, 1236]}},
    ]
    images = [{"id": k, key: name, "width": WIDTH, "height": HEIGHT} for k, name in enumerate(names)]
    annotations = [
        {"id": 10 * k + j, "image_id": k, "category_id": 1 + 2 * (j % 2), "iscrowd": 0, **shape}
        for k in range(len(names))
        for j, shape in enumerate(shapes)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def coco(root: Path) -> None:
    """The published layout."""
    for k, name in enumerate("abc"):
        save(root / f"val/{name}.jpg", k)
    write(root / "annotations/instances_val.json", instances(["a.jpg", "b.jpg", "c.jpg"]))


def coco_roboflow(root: Path) -> None:
    """As Roboflow exports it: the annotations beside the images, and a root category."""
    for split in ("train", "valid"):
        names = [f"{name}_jpg.rf.0a1b.jpg" for name in "abc"]
        for k, name in enumerate(names):
            save(root / split / name, k)
        content = json.loads(instances(names))
        for one in content["categories"]:
            one["supercategory"] = "animals"
        content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
        write(root / split / "_annotations.coco.json", json.dumps(content))


def coco_label_studio(root: Path) -> None:
    """As Label Studio exports it, with names of several of its versions."""
    for k, name in enumerate(("a.jpg", "b c.jpg", "ab12cd34-d.jpg")):
        save(root / "images" / name, k)
    names = ["images\\1/a.jpg", "/data/upload/4/b%20c.jpg", "upload/ab12cd34-d.jpg"]
    write(root / "result.json", instances(names))


def coco_cvat(root: Path) -> None:
    """As CVAT exports it; an image is listed under two ids, and every object twice."""
    for k, name in enumerate("ab"):
        save(root / f"images/default/{name}.jpg", k)
    write(root / "annotations/instances_default.json", instances(["a.jpg", "b.jpg", "a.jpg"]))


def coco_from_root(root: Path) -> None:
    """Names that begin at the root or are absolute, numbers as text, and nothing that is not needed."""
    for k, name in enumerate(("train/a.jpg", "val/b.jpg")):
        save(root / name, k)
    content = json.loads(instances(["train/a.jpg", str(root / "val/b.jpg")]))
    for image in content["images"]:
        image.update(width=-1, height=str(HEIGHT))
    for one in content["annotations"]:
        del one["id"]
        one.update({key: str(one[key]) for key in ("image_id", "category_id", "iscrowd")})
    write(root / "all.json", json.dumps(content))


def lvis(root: Path) -> None:
    """The published layout."""
    names = [f"http://images.cocodataset.org/val2017/{name}.jpg" for name in "abc"]
    for k, name in enumerate("abc"):
        save(root / f"val2017/{name}.jpg", k)
    write(root / "annotations/lvis_v1_val.json", instances(names, "coco_url"))


def objects365(root: Path) -> None:
    """The published layout."""
    for k, name in enumerate("abc"):
        save(root / f"val/patch{k}/{name}.jpg", k)
    names = [f"images/v2/patch{k}/{name}.jpg" for k, name in enumerate("abc")]
    write(root / "annotations/zhiyuan_objv2_val.json", instances(names))


def voc_xml(name: str, classes: list[str]) -> str:
    """An annotation as labelImg writes it, with an object of each of the classes."""
    objects = "".join(
        f"<object><name>{one}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        f"<bndbox><xmin>{2 + 3 * k}</xmin><ymin>2</ymin><xmax>{20 + 3 * k}</xmax><ymax>24</ymax></bndbox>"
        "</object>"
        for k, one in enumerate(classes)
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotation><folder>x</folder><filename>{name}</filename>'
        f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        f"<segmented>0</segmented>{objects}</annotation>\n"
    )


def voc(root: Path) -> None:
    """The published layout."""
    write(root / "ImageSets/Main/val.txt", "a\nb\nc\n")
    for k, name in enumerate("abc"):
        save(root / f"JPEGImages/{name}.jpg", k)
        write(root / f"Annotations/{name}.xml", voc_xml(f"{name}.jpg", ["cat", "dog"][: 1 + k % 2]))


def imagenet(root: Path) -> None:
    """The published layout of the training images, with XML and Kaggle's CSV."""
    rows = ""
    for wnid in (TENCH, SHARK):
        for k in range(3):
            save(root / f"Data/CLS-LOC/train/{wnid}/{wnid}_{k}.JPEG", k)
        write(root / f"Annotations/CLS-LOC/train/{wnid}/{wnid}_0.xml", voc_xml(f"{wnid}_0", [wnid, wnid]))
        rows += f"{wnid}_1,{wnid} 1 1 20 20 {wnid} 8 8 30 30 \n"
    write(root / "LOC_train_solution.csv", f"ImageId,PredictionString\n{rows}")


def imagenet_val(root: Path) -> None:
    """The published layout of the validation images."""
    for k in range(3):
        name = f"ILSVRC2012_val_0000000{k}"
        save(root / f"Data/CLS-LOC/val/{name}.JPEG", k)
        write(root / f"Annotations/CLS-LOC/val/{name}.xml", voc_xml(name, [TENCH, SHARK][: 1 + k % 2]))


def open_images(root: Path) -> None:
    """The published layout, V7."""
    write(root / "oidv7-class-descriptions-boxable.csv", "LabelName,DisplayName\n/m/1,Cat\n/m/2,Dog\n")
    columns = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    lines = [columns]
    for k, name in enumerate("abc"):
        save(root / f"validation/{name}.jpg", k)
        lines += [f"{name},xclick,/m/{1 + j % 2},1,0.1,0.{5 + j},0.2,0.9,0,0,{j // 2}" for j in range(3)]
    write(root / "validation-annotations-bbox.csv", "\n".join(lines) + "\n")


def yolo(root: Path) -> None:
    """Boxes, a polygon and a confidence; folders and a list."""
    write(
        root / "data.yaml",
        "path: .\ntrain: images/train\nval: [images/val, list.txt]\nnames: {0: cat, 1: dog}\n",
    )
    write(root / "list.txt", "images/train/a.png\n")
    for k, name in enumerate(("train/a", "val/b", "val/c")):
        save(root / f"images/{name}.png", k)
        write(
            root / f"labels/{name}.txt",
            "0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.2 0.3 0.9\n0 0.1 0.1 0.9 0.1 0.9 0.9 0.5 0.9\n",
        )


def sa1b(root: Path) -> None:
    """The published layout."""
    counts = {"size": [HEIGHT, WIDTH], "counts": COUNTS}
    for k in range(3):
        save(root / f"sa_000000/sa_{k}.jpg", k)
        one = {"segmentation": counts, "bbox": [1, 1, 30, 20], "predicted_iou": 0.9, "stability_score": 0.95}
        image = {"image_id": k, "width": WIDTH, "height": HEIGHT, "file_name": f"sa_{k}.jpg"}
        content = {"image": image, "annotations": [{"id": 10 * k + j, **one} for j in range(2)]}
        write(root / f"sa_000000/sa_{k}.json", json.dumps(content))


def _label_map(path: Path, values: tuple[int, int]) -> None:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[2:20, 2:20], found[10:30, 25:45] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(found).save(path)


def label_maps(root: Path) -> None:
    """VOC's layout, with instances."""
    write(root / "ImageSets/Segmentation/val.txt", "a\nb\nc\n")
    for k, name in enumerate("abc"):
        save(root / f"JPEGImages/{name}.jpg", k)
        _label_map(root / f"SegmentationClass/{name}.png", (8, 12))
        _label_map(root / f"SegmentationObject/{name}.png", (1, 2))


def ade20k(root: Path) -> None:
    """ADE20K's layout."""
    lines = "".join(f"{k}\t0.1\t1\t1\tname {k}\n" for k in range(1, 151))
    write(root / "objectInfo150.txt", f"Idx\tRatio\tTrain\tVal\tName\n{lines}")
    for k, name in enumerate("abc"):
        save(root / f"images/validation/{name}.jpg", k)
        _label_map(root / f"annotations/validation/{name}.png", (8, 150))


def tiny_imagenet(root: Path) -> None:
    """The published layout of the training images."""
    write(root / "wnids.txt", "n02\nn01\n")
    write(root / "words.txt", "n01\tcat\nn02\tdog\n")
    for wnid in ("n01", "n02"):
        write(root / f"train/{wnid}/{wnid}_boxes.txt", "a.JPEG\t0\t1\t16\t14\nb.JPEG\t5\t5\t30\t20\n")
        for k, name in enumerate("ab"):
            save(root / f"train/{wnid}/images/{name}.JPEG", k)


def tiny_imagenet_val(root: Path) -> None:
    """The published layout of the validation images."""
    write(root / "wnids.txt", "n02\nn01\n")
    write(root / "val/val_annotations.txt", "a.JPEG\tn01\t0\t1\t16\t14\nb.JPEG\tn02\t5\t5\t30\t20\n")
    for k, name in enumerate("ab"):
        save(root / f"val/images/{name}.JPEG", k)


def folder(root: Path) -> None:
    """A folder a class, images of several formats."""
    for k, name in enumerate(("cat/a.png", "cat/b.jpg", "dog/c.gif", "dog/d.webp", "dog/e.tif", "dog/f.bmp")):
        save(root / name, k)


SETS = {
    "coco": DataSet("coco", coco, "val"),
    "coco-roboflow": DataSet("coco", coco_roboflow, "valid"),
    "coco-label-studio": DataSet("coco", coco_label_studio),
    "coco-cvat": DataSet("coco", coco_cvat),
    "coco-from-root": DataSet("coco", coco_from_root),
    "coco-places": DataSet("coco", coco_roboflow, None, {"annotations": "train", "images": "train"}),
    "lvis": DataSet("lvis", lvis, "val"),
    "objects365": DataSet("objects365", objects365, "val"),
    "voc": DataSet("voc", voc, "val"),
    "imagenet": DataSet("imagenet", imagenet, "train"),
    "imagenet-val": DataSet("imagenet", imagenet_val, "val"),
    "open-images": DataSet("open-images", open_images, "validation"),
    "yolo": DataSet("yolo", yolo, "val"),
    "sa-1b": DataSet("sa-1b", sa1b),
    "label-maps": DataSet("label-maps", label_maps, "val"),
    "label-maps-ade20k": DataSet("label-maps", ade20k, "val"),
    "tiny-imagenet": DataSet("tiny-imagenet", tiny_imagenet, "train"),
    "tiny-imagenet-val": DataSet("tiny-imagenet", tiny_imagenet_val, "val"),
    "folder": DataSet("folder", folder),
}
"""Published layouts by name; those of tools are in `exports.py`. Every input is a mutation of one of them."""
