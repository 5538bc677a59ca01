"""Small data sets as tools export them: one file an image, in layouts that are not the published ones."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fuzz.sets import HEIGHT, SETS, SHARK, TENCH, WIDTH, DataSet, save, voc_xml, write

_LABELS = "1 0.5 0.5 0.5 0.5\n0 0.1 0.1 0.9 0.1 0.9 0.9 0.5 0.9\n"

_LABEL_MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"


def yolo_roboflow(root: Path) -> None:
    """Roboflow's YOLO: places beside the data set's folder, and a class list."""
    write(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")
    for split in ("train", "valid"):
        for k, name in enumerate("ab"):
            save(root / f"{split}/images/{name}_jpg.rf.0f.jpg", k)
            write(root / f"{split}/labels/{name}_jpg.rf.0f.txt", _LABELS)


def yolo_darknet(root: Path) -> None:
    """CVAT's YOLO: a list with paths of its own, labels beside the images, no YAML."""
    write(
        root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    write(root / "obj.names", "cat\ndog\n")
    write(root / "train.txt", "data/obj_train_data/a.png\r\ndata/obj_train_data/b.jpg\r\n")
    for k, name in enumerate(("a.png", "b.jpg")):
        save(root / f"obj_train_data/{name}", k)
        write(root / f"obj_train_data/{name[0]}.txt", _LABELS)


def yolo_plain(root: Path) -> None:
    """Folders of images and labels and nothing else, as they are named."""
    for k, name in enumerate("ab"):
        save(root / f"pics/{name}.JPG", k)
        write(root / f"boxes/{name}.txt", _LABELS)


def voc_flat(root: Path) -> None:
    """Roboflow's VOC: XML beside images, a folder a split."""
    for split in ("train", "valid"):
        for k, name in enumerate("ab"):
            save(root / f"{split}/{name}.png", k)
            write(root / f"{split}/{name}.xml", voc_xml(f"{name}.png", ["cat", "dog"][: 1 + k % 2]))


def voc_cvat(root: Path) -> None:
    """CVAT's VOC: a list called default, a label map, subfolders."""
    write(root / "labelmap.txt", _LABEL_MAP)
    write(root / "ImageSets/Main/default.txt", "a\nsub/b\n")
    for k, name in enumerate(("a", "sub/b")):
        save(root / f"JPEGImages/{name}.PNG", k)
        write(root / f"Annotations/{name}.xml", voc_xml(f"{name}.PNG", ["cat", "dog"]))


def voc_masks(root: Path) -> None:
    """VOC's layout with instance maps, whose numbers are not the objects'."""
    for k, name in enumerate("ab"):
        save(root / f"JPEGImages/{name}.jpg", k)
        write(root / f"Annotations/{name}.xml", voc_xml(f"{name}.jpg", ["cat", "dog"]))
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[2:24, 2:20], pixels[10:30, 25:45] = 2, 1
    (root / "SegmentationObject").mkdir()
    Image.fromarray(pixels).save(root / "SegmentationObject/a.png")


def label_maps_cvat(root: Path) -> None:
    """CVAT's segmentation masks: colours for classes and instances."""
    write(root / "labelmap.txt", _LABEL_MAP)
    write(root / "ImageSets/Segmentation/default.txt", "a\nb\n")
    for k, name in enumerate("ab"):
        save(root / f"JPEGImages/{name}.png", k)
        for folder in ("SegmentationClass", "SegmentationObject"):
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            pixels[2:20, 2:20], pixels[10:30, 25:45] = (128, 0, 0), (0, 128, 0)
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")


def label_maps_plain(root: Path) -> None:
    """Images and label maps without a list, with the class names of labelme."""
    write(root / "class_names.txt", "_background_\ncat\ndog\n")
    for k, name in enumerate("ab"):
        save(root / f"JPEGImages/{name}.jpeg", k)
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[2:20, 2:20], values[10:30, 25:45] = 1, 2
        (root / "SegmentationClass").mkdir(exist_ok=True)
        Image.fromarray(values).save(root / f"SegmentationClass/{name}.png")


def imagenet_sorted(root: Path) -> None:
    """ImageNet's val in folders of classes, its XML in one folder."""
    for k, wnid in enumerate((TENCH, SHARK)):
        name = f"ILSVRC2012_val_0000000{k}"
        save(root / f"val/{wnid}/{name}.JPEG", k)
        write(root / f"Annotations/CLS-LOC/val/{name}.xml", voc_xml(name, [wnid]))


def tiny_imagenet_sorted(root: Path) -> None:
    """Tiny-ImageNet's val in folders of classes."""
    write(root / "wnids.txt", "n02\nn01\n")
    write(root / "val/val_annotations.txt", "a.JPEG\tn01\t0\t1\t16\t14\nb.JPEG\tn02\t5\t5\t30\t20\n")
    for k, (wnid, name) in enumerate((("n01", "a"), ("n02", "b"))):
        save(root / f"val/{wnid}/images/{name}.JPEG", k)


def labelme(root: Path) -> None:
    """labelme's files, with a shape of each kind and a group."""
    painted = base64.b64encode(_png(np.ones((4, 6), np.uint8) * 255)).decode()
    shapes = [
        _shape("cat", "polygon", [[2, 2], [20, 2.5], [20, 20]], group_id=1),
        _shape("cat", "rectangle", [[30, 4], [40, 12]], group_id=1),
        _shape("dog", "circle", [[20, 16], [24, 18]]),
        _shape("dog", "mask", [[5, 5], [10, 8]], mask=painted),
        _shape("dog", "line", [[5, 5], [10, 8]]),
    ]
    for k, name in enumerate(("images/a", "images/b", "c")):
        save(root / f"{name}.jpg", k)
        folder = "..\\images\\" if "/" in name else ""
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes[: 5 - k],
            "imagePath": f"{folder}{name[-1]}.jpg",
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        write(root / f"{name.replace('images', 'labels')}.json", json.dumps(content))


_CVAT = (
    '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><mode>{}</mode>'
    "<labels><label><name>cat</name></label><label><name>dog</name></label></labels><original_size><width>48"
    "</width><height>32</height></original_size></task></meta>\n{}</annotations>\n"
)


def cvat(root: Path) -> None:
    """CVAT for images: a shape of each kind, a group, a tag."""
    shapes = (
        '<box label="cat" occluded="0" xtl="2.00" ytl="2.00" xbr="20.00" ybr="12.50" group_id="1" '
        'z_order="0"/>'
        '<polygon label="cat" points="4.00,4.00;20.00,4.00;20.00,20.00" group_id="1" z_order="0"/>'
        '<mask label="dog" rle="3, 5, 4, 4" left="5" top="6" width="4" height="4" z_order="0"/>'
        '<ellipse label="dog" cx="20.00" cy="15.00" rx="6.00" ry="3.00" rotation="30.00" z_order="0"/>'
        '<skeleton label="dog"><points label="x" outside="0" points="5.0,6.0;9.0,9.0"/></skeleton>'
        '<tag label="dog"/><polyline label="dog" points="5.0,6.0;9.0,9.0"/>'
    )
    items = ""
    for k, name in enumerate(("a.png", "sub/b.jpg")):
        save(root / "images" / name, k)
        items += f'<image id="{k}" name="{name}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>\n'
    write(root / "annotations.xml", _CVAT.format("annotation", items))


def cvat_video(root: Path) -> None:
    """CVAT for video: two tracks over three frames."""
    items = ""
    for k in range(2):
        boxes = "".join(
            f'<box frame="{frame}" keyframe="1" outside="{frame // 2}" xtl="{2 + frame + 9 * k}.00" '
            f'ytl="2.00" '
            f'xbr="{20 + frame + 9 * k}.00" ybr="12.50"/>'
            for frame in range(3)
        )
        items += f'<track id="{k}" label="{("cat", "dog")[k]}">{boxes}</track>\n'
    for frame in range(3):
        save(root / f"images/frame_{frame:06d}.PNG", frame)
    write(root / "annotations.xml", _CVAT.format("interpolation", items))


def coco_panoptic(root: Path) -> None:
    """COCO's panoptic form; ids need all channels."""
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[2:12, 2:20], ids[14:30, 5:45] = 7_000_123, 300
    listed = [{"id": 7_000_123, "category_id": 1}, {"id": 300, "category_id": 187, "iscrowd": 0, "area": 640}]
    images, annotations = [], []
    (root / "annotations/panoptic_val").mkdir(parents=True)
    for k in range(2):
        save(root / f"val/{k}.jpg", k)
        channels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
        Image.fromarray(channels.astype(np.uint8)).save(root / f"annotations/panoptic_val/{k}.png")
        images.append({"id": k, "file_name": f"{k}.jpg", "width": WIDTH, "height": HEIGHT})
        annotations.append({"image_id": k, "file_name": f"{k}.png", "segments_info": listed})
    categories = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 187, "name": "sky", "isthing": 0}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write(root / "annotations/panoptic_val.json", json.dumps(content))


def imagefolder(root: Path) -> None:
    """Hugging Face's imagefolder, a folder a split, objects in both of their forms."""
    for split in ("train", "validation"):
        boxes = [[2.0, 2.0, 18.0, 10.0], [4, 4, 20, 20]]
        rows = [
            {"file_name": "0.png", "objects": {"id": [1, 2], "bbox": boxes, "category": [0, 1]}},
            {"file_name": "1.png", "objects": [{"bbox": boxes[1], "category": "dog", "score": 0.5}]},
            {"file_name": "2.png", "objects": {"bbox": [], "category": []}},
        ]
        for k in range(3):
            save(root / split / f"{k}.png", k)
        write(root / split / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def imagefolder_labels(root: Path) -> None:
    """The same with a label an image, in CSV."""
    for k in range(3):
        save(root / f"{k}.png", k)
    write(root / "metadata.csv", 'file_name,label,text\n0.png,cat,a b\n1.png,dog,"c, d"\n2.png,cat,\n')


def webdataset(root: Path) -> None:
    """webdataset's shards, of two splits, with JSON that describes objects; some has a class alone."""
    for split in ("train", "val"):
        for shard in range(2):
            root.mkdir(exist_ok=True)
            with tarfile.open(root / f"set-{split}-{shard:06d}.tar", "w") as tar:
                for k in range(2):
                    said = {"width": WIDTH, "height": HEIGHT, "objects": _objects(k), "label": k}
                    _add(tar, f"a.b/{k}.png", _png(_pixels(shard * 2 + k)))
                    _add(tar, f"a.b/{k}.json", json.dumps(said).encode())
                    _add(tar, f"a.b/{k}.cls", b"%d\n" % k)


def _objects(k: int) -> dict[str, Any]:
    return {"bbox": [[2.0, 2.0, 18.0, 10.0], [4.0, 4.0, 20.0, 20.0]][: k + 1], "category": [0, 1][: k + 1]}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _pixels(seed: int) -> np.ndarray:
    pixels: np.ndarray = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return pixels


def _table_of_images(boxes: bool) -> pa.Table:
    names = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": names, "objects": {"category": {"feature": names}}}
    rows = [
        {"image": {"bytes": _png(_pixels(k)), "path": f"{k}.png"}, "label": k % 2}
        | ({"objects": _objects(k % 2)} if boxes else {})
        for k in range(4)
    ]
    return pa.Table.from_pylist(rows).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def huggingface_parquet(root: Path) -> None:
    """As `push_to_hub` writes it, of two splits, once with compression and a dictionary."""
    (root / "data").mkdir(parents=True)
    pq.write_table(_table_of_images(True), root / "data/train-00000-of-00002.parquet", row_group_size=3)
    pq.write_table(
        _table_of_images(True),
        root / "data/train-00001-of-00002.parquet",
        compression="none",
        use_dictionary=False,
    )
    pq.write_table(_table_of_images(True), root / "data/test-00000-of-00001.parquet")


def huggingface_disk(root: Path) -> None:
    """As `save_to_disk` writes it: a stream of Arrow, with labels."""
    root.mkdir(exist_ok=True)
    held = pa.BufferOutputStream()
    content = _table_of_images(False)
    with pa.ipc.new_stream(held, content.schema) as writer:
        writer.write_table(content, max_chunksize=3)
    (root / "data-00000-of-00001.arrow").write_bytes(held.getvalue())
    write(root / "state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))


def table(root: Path) -> None:
    """A table of one's own, with a mask, a score and an empty box."""
    for k in range(3):
        save(root / f"images/{k}.png", k)
    mask = '"[[4, 4, 20, 4, 20, 20]]"'
    rows = f"0.png,2,2,20,12,cat,,\n1.png,4,4,20,20,dog,0.5,{mask}\n0.png,1,1,9,9.5,dog,0.25,\n2.png,,,,,,,\n"
    write(root / "objects.csv", f"file_name,xmin,ymin,xmax,ymax,class,score,segmentation\n{rows}")


def _shape(label: str, kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def _png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


ALL_SETS = SETS | {
    "yolo-roboflow": DataSet("yolo", yolo_roboflow, "val"),
    "yolo-darknet": DataSet("yolo", yolo_darknet),
    "yolo-plain": DataSet("yolo", yolo_plain, None, {"images": "pics", "annotations": "boxes"}),
    "voc-flat": DataSet("voc", voc_flat, "train"),
    "voc-masks": DataSet("voc", voc_masks, None, {"masks": True}),
    "voc-cvat": DataSet("voc", voc_cvat),
    "label-maps-cvat": DataSet("label-maps", label_maps_cvat),
    "label-maps-plain": DataSet("label-maps", label_maps_plain),
    "labelme": DataSet("labelme", labelme),
    "cvat": DataSet("cvat", cvat),
    "cvat-video": DataSet("cvat", cvat_video),
    "imagefolder": DataSet("imagefolder", imagefolder, "train"),
    "imagefolder-labels": DataSet("imagefolder", imagefolder_labels),
    "huggingface-parquet": DataSet("huggingface", huggingface_parquet, "train"),
    "huggingface-disk": DataSet("huggingface", huggingface_disk),
    "webdataset": DataSet("webdataset", webdataset, "train"),
    "coco-panoptic": DataSet("coco-panoptic", coco_panoptic, "val"),
    "table": DataSet("table", table),
    "imagenet-sorted": DataSet("imagenet", imagenet_sorted, "val"),
    "tiny-imagenet-sorted": DataSet("tiny-imagenet", tiny_imagenet_sorted, "val"),
}
"""Layouts by name, the published ones too. Every input is a mutation of one of them."""
