"""Units of every source: listing them opens no image, they may be called in any order, shards of them make up
the whole.
"""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from odis.errors import ConfigError
from odis.objects import images
from odis.objects.build import Summary, build_index
from odis.objects.index import ObjectIndex
from odis.objects.sources import FORMATS
from odis.types import Skipped

TENCH, SHARK = "n01440764", "n01484850"

VOC_XML = (
    "<annotation><filename>x</filename><size><width>8</width><height>6</height><depth>3</depth></size>"
    "<object><name>{0}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax></bndbox></object>"
    "<object><name>{0}</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>12</xmax><ymax>12</ymax></bndbox></object></annotation>"
)


def save(path: Path, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def coco(
    root: Path,
    names: str = "SPLIT/{}.png",
    file: str = "instances_SPLIT.json",
    key: str = "file_name",
    prefix: str = "",
) -> None:
    """Five images: the second is missing, the third listed twice; one object is empty, one a crowd, one
    belongs to no image.
    """
    images = [
        {"id": i, key: f"{prefix}{'abcde'[i]}.png", "width": 8, "height": 6} for i in (3, 1, 0, 2, 0, 4)
    ]
    for name in "acde":
        save(root / names.format(name))
    boxes = [
        (0, [0, 0, 4, 4]),
        (3, [1, 1, 2, 2]),
        (9, [0, 0, 1, 1]),
        (1, [0, 0, 3, 3]),
        (0, [1, 1, 0, 2]),
        (4, [0, 0, 8, 6]),
        (4, [2, 2, 3, 3]),
    ]
    annotations = [
        {"id": k, "image_id": i, "category_id": 5, "bbox": box, "iscrowd": int(k == 5)}
        for k, (i, box) in enumerate(boxes)
    ]
    annotations[3]["segmentation"] = [[0, 0, 3, 0, 3, 3]]
    content = {"annotations": annotations, "images": images, "categories": [{"id": 5, "name": "cat"}]}
    write(root / "annotations" / file, json.dumps(content))


def lvis(root: Path) -> None:
    coco(root, "val2017/{}.png", "lvis_v1_SPLIT.json", "coco_url", "http://x/val2017/")


def objects365(root: Path) -> None:
    coco(root, "SPLIT/patch1/{}.png", "zhiyuan_objv2_SPLIT.json", "file_name", "images/v2/patch1/")


def voc(root: Path) -> None:
    write(root / "ImageSets/Main/SPLIT.txt", "c\na\na\n../x\nb\nd\n")
    for name in "acd":
        write(root / f"Annotations/{name}.xml", VOC_XML.format("cat"))
        save(root / f"JPEGImages/{name}.jpg", (9, 9) if name == "d" else (8, 6))


def imagenet(root: Path) -> None:
    for wnid in (TENCH, SHARK):
        for number in (1, 2, 3):
            save(root / f"Data/CLS-LOC/train/{wnid}/{wnid}_{number}.JPEG")
        write(root / f"Annotations/CLS-LOC/train/{wnid}/{wnid}_1.xml", VOC_XML.format(wnid))
        write(root / f"Annotations/CLS-LOC/train/{wnid}/{wnid}_9.xml", VOC_XML.format(wnid))
    write(root / f"Data/CLS-LOC/train/{TENCH}/{TENCH}_3.JPEG", "no image")
    rows = (
        f"{TENCH}_2,{TENCH} 1 1 6 4 \n{SHARK}_3,{SHARK} 5 5 9 9 {SHARK} 8 8 9 9 \n{SHARK}_7,{SHARK} 1 "
        f"1 2 2 \n{TENCH}_2,{TENCH} 0 0 1 1 \n"
    )
    write(root / "LOC_train_solution.csv", f"ImageId,PredictionString\n{rows}")


def open_images(root: Path) -> None:
    write(root / "class-descriptions-boxable.csv", "/m/1,Cat\n")
    rows = [("a", 0, 0.5), ("a", 1, 1), ("b", 0, 1), ("c", 0, 7), ("c", 0, 1), ("a", 0, 1), ("d", 0, 1)]
    lines = "".join(f"{image},/m/1,0,{x1},0,1,{group}\n" for image, group, x1 in rows)
    write(
        root / "train-annotations-bbox.csv",
        f"ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n{lines}broken\n",
    )
    for name in "acd":
        save(root / f"train/{name}.jpg")


def yolo(root: Path) -> None:
    write(root / "data.yaml", "train: [images, list.txt]\nnames: [cat]\n")
    write(root / "list.txt", "images/a.png\nimages/gone.png\n../x.png\n")
    for name in "abcd":
        save(root / f"images/{name}.png")
        write(root / f"labels/{name}.txt", "0 0.5 0.5 0.5 0.5\n0 0.5 0.5 9 1\n")


def sa1b(root: Path) -> None:
    for name in ("x/sa_1", "x/sa_2", "y/sa_3", "sa_4"):
        save(root / f"{name}.jpg")
        image = {"width": 8, "height": 6, "file_name": f"{name.split('/')[-1]}.jpg"}
        mask = {
            "segmentation": {"size": [6, 8], "counts": "73300000a0"},
            "bbox": [1, 1, 3, 2],
            "predicted_iou": 0.5,
        }
        write(
            root / f"{name}.json",
            json.dumps({"image": image, "annotations": [{"id": 1, **mask}, {"id": 2, **mask, "bbox": None}]}),
        )
    save(root / "x/alone.jpg")
    save(root / "x/sa_2.png")
    (root / "y/sa_3.jpg").unlink()


def label_maps(root: Path) -> None:
    write(root / "ImageSets/Segmentation/SPLIT.txt", "a\nb\na\nc\nd\n")
    for name in "acd":
        save(root / f"JPEGImages/{name}.jpg", (40, 30))
    for name in "abc":
        values = np.zeros((30, 40), np.uint8)
        values[5:20, 5:20], values[25:28, 30:33] = 8, 12
        save(root / f"SegmentationClass/{name}.png")
        Image.fromarray(values).save(root / f"SegmentationClass/{name}.png")


def tiny_imagenet(root: Path) -> None:
    write(root / "wnids.txt", "n02\nn01\n")
    for wnid in ("n01", "n02"):
        write(
            root / f"train/{wnid}/{wnid}_boxes.txt",
            "a.JPEG\t0\t1\t6\t4\nb.JPEG\t5\t5\t1\t1\nbroken\ngone.JPEG\t1\t1\t2\t2\n",
        )
        for name in "ab":
            save(root / f"train/{wnid}/images/{name}.JPEG")


def folder(root: Path) -> None:
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        save(root / name)
    write(root / "dog/bad.png", "no image")


def labelme(root: Path) -> None:
    shapes = [{"label": "cat", "points": [[1, 1], [4, 5]], "shape_type": "rectangle"}]
    shapes += [{"label": "cat", "points": [[2, 2], [2, 5]], "shape_type": "rectangle"}]
    for name in "abc":
        content = {"shapes": shapes, "imagePath": f"{name}.png", "imageWidth": 8, "imageHeight": 6}
        write(root / f"{name}.json", json.dumps(content))
    for name in "acd":
        save(root / f"{name}.png")


def cvat(root: Path) -> None:
    shapes = (
        '<box label="cat" xtl="1" ytl="1" xbr="4" ybr="5"/><box label="cat" xtl="2" ytl="2" xbr="2" ybr="5"/>'
    )
    items = "".join(f'<image name="{name}.png" width="8" height="6">{shapes}</image>' for name in "abca")
    write(root / "annotations.xml", f"<annotations>{items}</annotations>")
    for name in "ac":
        save(root / f"images/{name}.png")


def imagefolder(root: Path) -> None:
    objects = {"bbox": [[1, 1, 3, 4], [2, 2, 0, 3]], "category": [1, 1]}
    rows = [{"file_name": f"{name}.png", "objects": objects, "width": 8, "height": 6} for name in "abc"]
    write(root / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    for name in "acd":
        save(root / f"{name}.png")


def _described(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """An image of 8 x 6 pixels with an empty box; of `b` there are no bytes that are an image."""
    held = io.BytesIO()
    Image.new("L", (8, 6)).save(held, "PNG")
    boxes = [[1.0, 1.0, 3.0, 4.0], [2.0, 2.0, 0.0, 3.0]]
    said = {"objects": {"bbox": boxes, "category": ["x", "x"]}, "width": 8, "height": 6}
    return {"bytes": b"broken" if name == "b" else held.getvalue(), "path": f"{name}.png"}, said


def webdataset(root: Path) -> None:
    root.mkdir()
    for shard in ("ab", "c"):
        with tarfile.open(root / f"{shard}.tar", "w") as tar:
            for name in shard:
                image, said = _described(name)
                for ending, data in (
                    ("png", image["bytes"]),
                    ("json", json.dumps(said).encode()),
                    ("txt", b""),
                ):
                    info = tarfile.TarInfo(f"{name}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def huggingface(root: Path) -> None:
    root.mkdir()
    rows = [{"image": image, **said, "text": ""} for image, said in map(_described, "abc")]
    pq.write_table(pa.Table.from_pylist(rows), root / "0.parquet", row_group_size=2)


def table(root: Path) -> None:
    rows = "".join(f"{name}.png,1,1,4,5,cat,8,6\n{name}.png,2,2,2,5,cat,8,6\n" for name in "abc")
    write(root / "t.csv", f"image,x0,y0,x1,y1,label,width,height\n{rows}c.png,1\n")
    for name in "ac":
        save(root / f"{name}.png")


def coco_panoptic(root: Path) -> None:
    images = [{"id": k, "file_name": f"{name}.png", "width": 8, "height": 6} for k, name in enumerate("abcd")]
    segments = [{"id": 1, "category_id": 5}, {"id": 2, "category_id": 5}]
    annotations = [{"image_id": k, "file_name": f"{k}.png", "segments_info": segments} for k in range(3)]
    content = {
        "images": images,
        "annotations": [*annotations, "broken"],
        "categories": [{"id": 5, "name": "x"}],
    }
    write(root / "annotations/panoptic_SPLIT.json", json.dumps(content))
    values = np.zeros((6, 8, 3), np.uint8)
    values[1:4, 1:5, 0] = 1
    for k in range(3):
        path = root / f"annotations/panoptic_SPLIT/{k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(path)
    for name in "acd":
        save(root / f"SPLIT/{name}.png")


SETS: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "coco": (coco, "SPLIT"),
    "lvis": (lvis, "SPLIT"),
    "objects365": (objects365, "SPLIT"),
    "voc": (voc, "SPLIT"),
    "imagenet": (imagenet, None),
    "open-images": (open_images, None),
    "yolo": (yolo, None),
    "sa-1b": (sa1b, None),
    "label-maps": (label_maps, "SPLIT"),
    "tiny-imagenet": (tiny_imagenet, None),
    "labelme": (labelme, None),
    "cvat": (cvat, None),
    "imagefolder": (imagefolder, None),
    "huggingface": (huggingface, None),
    "webdataset": (webdataset, None),
    "table": (table, None),
    "coco-panoptic": (coco_panoptic, "SPLIT"),
    "folder": (folder, None),
}


@pytest.fixture(params=SETS)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, str | None]:
    make, split = SETS[request.param]
    make(tmp_path / "data")
    return request.param, tmp_path / "data", split


def test_every_format_is_tested() -> None:
    assert SETS.keys() == FORMATS.keys()


def test_units_are_listed_without_opening_images_and_called_in_any_order(
    data: tuple[str, Path, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, root, split = data
    read = FORMATS[name].read
    expected: list[Skipped] = []
    rows = list(read(root, split, expected.append).rows)
    assert len(rows) > 1
    assert expected

    skipped: list[Skipped] = []
    opened: list[object] = []

    def watched(real: Callable) -> Callable:
        return lambda path, *rest: (opened.append(path), real(path, *rest))[1]

    monkeypatch.setattr(Image, "open", watched(Image.open))
    monkeypatch.setattr(images, "read_header", watched(images.read_header))
    units = list(read(root, split, skipped.append).units)
    assert [path for path in opened if "SegmentationClass" not in str(path)] == []  # which is an annotation
    assert len(units) > len(rows)  # one of an image that is left out is among them
    assert len(skipped) < len(expected)
    made = [unit() for unit in reversed(units)]
    assert [row for row in reversed(made) if row is not None] == rows
    assert sorted((s.what, s.why, type(s).__name__) for s in skipped) == sorted(
        (s.what, s.why, type(s).__name__) for s in expected
    )
    assert opened


def added(summaries: list[Summary]) -> list[int]:
    names = ("images", "written", "images_skipped", "objects", "kept", "objects_skipped", "crowds")
    return [sum(getattr(summary, name) for summary in summaries) for name in names]


@pytest.mark.parametrize(("n", "part_size"), [(1, 1), (2, 1), (3, 2)])
def test_shards_together_are_the_whole(
    data: tuple[str, Path, str | None], tmp_path: Path, n: int, part_size: int
) -> None:
    name, root, split = data
    expected: list[Skipped] = []
    whole = build_index(name, root, tmp_path / "whole.parquet", split, report=expected.append)
    skipped: list[Skipped] = []
    summaries = [
        build_index(
            name, root, tmp_path / "parts", split, report=skipped.append, shard=(i, n), part_size=part_size
        )
        for i in range(n, 0, -1)
    ]
    assert list(ObjectIndex.open(tmp_path / "parts")) == list(ObjectIndex.open(tmp_path / "whole.parquet"))
    assert added(summaries) == added([whole])
    assert sorted((s.what, s.why) for s in skipped) == sorted((s.what, s.why) for s in expected)
    lists = ["whole.skipped.jsonl"]
    lists += (
        ["parts.skipped.jsonl"] if n == 1 else [f"parts.{i}-of-{n}.skipped.jsonl" for i in range(1, n + 1)]
    )
    lists = [name for name in lists if (tmp_path / name).exists()]  # a shard may have skipped nothing
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["data", "parts", "whole.parquet", *lists])
    lines = [json.loads(line) for name in lists[1:] for line in (tmp_path / name).read_text().splitlines()]
    assert sorted((line["what"], line["why"]) for line in lines) == sorted((s.what, s.why) for s in expected)


def test_trust_opens_no_image_whose_size_is_stated(
    data: tuple[str, Path, str | None], tmp_path: Path
) -> None:
    name, root, split = data
    if not FORMATS[name].states_sizes:
        with pytest.raises(
            ConfigError,
            match=rf"trust: {name} states no sizes of images; coco, coco-panoptic, lvis, objects365, .* do$",
        ):
            build_index(name, root, tmp_path / "i.parquet", split, trust=True)
        return
    careful = build_index(name, root, tmp_path / "careful.parquet", split)
    trusting = build_index(name, root, tmp_path / "trusting.parquet", split, trust=True)
    before, after = (
        list(ObjectIndex.open(tmp_path / f"{which}.parquet")) for which in ("careful", "trusting")
    )
    assert [row for row in after if row in before] == before  # what could be used can be used
    if name != "imagenet":
        assert trusting.written > careful.written  # an image that is missing, or of another size
        for path in root.rglob("*"):
            if path.suffix in (".jpg", ".png") and "Class" not in str(path) and "panoptic" not in str(path):
                path.write_bytes(b"")
        build_index(name, root, tmp_path / "empty.parquet", split, trust=True)
        assert list(ObjectIndex.open(tmp_path / "empty.parquet")) == after
