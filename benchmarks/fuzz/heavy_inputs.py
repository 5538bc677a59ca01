"""The inputs of `fuzz.heavy`: what makes each, and the command that reads it."""

from __future__ import annotations

import base64
import io
import json
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from odis.config.training import PretrainConfig, as_dict
from odis.objects.build import build_index

MOST = 1_000_000
"""Bytes of an input."""

Words = list[str]

_SIDE = 13_000  # 169 megapixels: just below the limit


def _png(mode: str, width: int, height: int, extra: bytes = b"") -> bytes:
    """A picture of zeros, a line at a time."""
    bits, kind, channels = {"1": (1, 0, 1), "L": (8, 0, 1), "I;16": (16, 0, 1), "RGB": (8, 2, 3),
                            "RGBA": (8, 6, 4), "RGBA;16": (16, 6, 4), "LA;16": (16, 4, 2)}[mode]  # fmt: skip
    line = b"\0" + bytes((width * bits * channels + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _pillow(kind: str, image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _folder(root: Path, name: str, content: bytes) -> Words:
    """An image among two sound ones, in a folder of images."""
    for k in range(2):
        Image.new("RGB", (40, 40), (k, 90, 90)).save(root / f"{k}.png")
    (root / name).write_bytes(content)
    return ["index", "folder", str(root), "--out", str(root / "x.parquet")]


def _embedded(root: Path, name: str, content: bytes) -> Words:
    """The same, and its pixels are read."""
    build = _folder(root, name, content)
    build_index("folder", root, Path(build[-1]), None)
    return ["embed", build[-1], "--model", str(root.parent / "model"), "--out", str(root / "f")]


def _coco(root: Path, segmentations: list[object], side: int = _SIDE, text: str | None = None) -> Words:
    (root / "val").mkdir()
    (root / "val/a.png").write_bytes(_png("1", side, side))
    box = [0, 0, side, side]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": side, "height": side}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 1, "bbox": box, "segmentation": one}
            for k, one in enumerate(segmentations)
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_val.json").write_text(text or json.dumps(content))
    return ["index", "coco", str(root), "--split", "val", "--out", str(root / "x.parquet")]


def _zigzag(points: int, side: int) -> list[list[int]]:
    x = np.tile([0, side], points // 2)
    return [np.stack([x, np.linspace(0, side, len(x)).astype(int)], 1).ravel().tolist()]


def _voc(root: Path, text: str) -> Words:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(root / "JPEGImages/a.jpg")
    (root / "ImageSets/Main/train.txt").write_text("a\n")
    (root / "Annotations/a.xml").write_text(text)
    return ["index", "voc", str(root), "--split", "train", "--out", str(root / "x.parquet")]


def _yolo(root: Path, label: str, data: str) -> Words:
    for name in ("images/train", "labels/train"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(root / "images/train/a.jpg")
    (root / "labels/train/a.txt").write_text(label)
    (root / "data.yaml").write_text(data)
    return ["index", "yolo", str(root), "--split", "train", "--out", str(root / "x.parquet")]


def _labelme(root: Path, shape: dict[str, object], **more: object) -> Words:
    (root / "a.png").write_bytes(_png("1", _SIDE, _SIDE))
    content = {"imagePath": "a.png", "imageWidth": _SIDE, "imageHeight": _SIDE, "shapes": [shape], **more}
    (root / "a.json").write_text(json.dumps(content))
    return ["index", "labelme", str(root), "--out", str(root / "x.parquet")]


def _painted(side: int) -> dict[str, object]:
    """A mask of labelme: a PNG in base64."""
    mask = base64.b64encode(_png("1", side, side)).decode()
    corners = [[0, 0], [_SIDE - 1, _SIDE - 1]]
    return {"label": "cat", "shape_type": "mask", "points": corners, "mask": mask}


def _cvat(root: Path, text: str) -> Words:
    (root / "images").mkdir()
    Image.new("RGB", (40, 40)).save(root / "images/a.png")
    (root / "annotations.xml").write_text(text)
    return ["index", "cvat", str(root), "--out", str(root / "x.parquet")]


def _cvat_shape(inside: str, side: int = 40) -> str:
    image = f'<image id="0" name="a.png" width="{side}" height="{side}">{inside}</image>'
    return f"<annotations><version>1.1</version>{image}</annotations>"


def _metadata(root: Path, name: str, content: bytes) -> Words:
    Image.new("RGB", (40, 40)).save(root / "a.png")
    (root / name).write_bytes(content)
    return ["index", "imagefolder", str(root), "--out", str(root / "x.parquet")]


def _packed_metadata() -> bytes:
    """Parquet of half a gigabyte of one letter."""
    buffer = io.BytesIO()
    table = pa.table({"file_name": ["a.png"] * 2, "text": ["a" * 2**28] * 2})
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _recipe(root: Path, text: str) -> Words:
    (root / "r.yaml").write_text(text)
    return [
        "pretrain",
        "--recipe",
        str(root / "r.yaml"),
        "--data",
        "none.parquet",
        "--out",
        str(root / "run"),
    ]


def _model(root: Path, content: bytes, name: str = "m.safetensors") -> Words:
    (root / name).write_bytes(content)
    sound = str(root.parent / "sound.parquet")
    return ["embed", sound, "--model", str(root / name), "--out", str(root / "f")]


def _safetensors(header: object, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def _card(**changes: object) -> bytes:
    """A tiny file whose card describes another network."""
    model = as_dict(PretrainConfig())["model"] | {"name": "vit_tiny_patch16_224"}
    card = {"model": model, "image_size": 224, "mean": [0.5] * 3, "std": [0.5] * 3, "mask_coverage": 0.5,
            "mask_margin": 0, "provenance": "annotated", "step": 4}  # fmt: skip
    for key, value in changes.items():
        (card if key in card else model)[key] = value
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        save_file({"cls_token": torch.zeros(1, 1, 8)}, file.name, {"odis": json.dumps(card)})
        return Path(file.name).read_bytes()


def _compressed(size: int) -> bytes:
    """An archive of `torch.save` whose one tensor is zeros, compressed."""
    stored, packed = io.BytesIO(), io.BytesIO()
    torch.save({"teacher": {"weight": torch.zeros(16)}}, stored)
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(size) if "/data/" in name else old.read(name))
    return packed.getvalue()


def _claims() -> bytes:
    """An archive of `torch.save` that says it holds 2^40 numbers."""
    stored = io.BytesIO()
    torch.save({"teacher": {"weight": torch.zeros(2**15)}}, stored)
    return (
        stored.getvalue()
        .replace(b"J\x00\x80\x00\x00", b"J\x00\x00\x00\x7f")
        .replace(b"M\x00\x80", b"M\xff\xff")
    )


def _sound(root: Path) -> pa.Table:
    return pq.read_table(root.parent / "sound.parquet").slice(0, 1)


def _index(root: Path, table: pa.Table, *command: str) -> Words:
    pq.write_table(table, root / "x.parquet", compression="zstd", row_group_size=2**20)
    return [*(command or ("index", "stats")), str(root / "x.parquet")]


def _long_name(root: Path) -> Words:
    """An index of an image whose name has a quarter of a gigabyte."""
    table = _sound(root)
    place = table.column_names.index("image")
    return _index(root, table.set_column(place, table.schema.field(place), pa.array(["a" * 2**28])))


def _many_rows(root: Path) -> Words:
    """An index of the same image ten million times."""
    rows = _sound(root).take(np.zeros(500_000, int))
    with pq.ParquetWriter(root / "x.parquet", rows.schema, compression="zstd") as writer:
        for _ in range(20):
            writer.write_table(rows)
    return ["index", "stats", str(root / "x.parquet")]


def _many_objects(root: Path) -> Words:
    """An index of an image that has the same object five million times."""
    table, count = _sound(root), 5_000_000
    place = next(k for k, field in enumerate(table.schema) if pa.types.is_list(field.type))
    (objects,) = table.column(place).chunks
    column = pa.ListArray.from_arrays(
        pa.array([0, count], pa.int32()), objects.flatten().take(np.zeros(count, int))
    )
    field = table.schema.field(place)
    return _index(root, table.set_column(place, field, column.cast(field.type)))


def _report(root: Path, line: str) -> Words:
    (root / "run").mkdir()
    (root / "run/config.yaml").write_text("config: {}\n")
    (root / "run/metrics.jsonl").write_text(line)
    return ["report", str(root / "run"), "--out", str(root / "page.html")]


_LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12))
    + "]><annotation><filename>&a11;</filename></annotation>"
)
_ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [{f'*a{k - 1}, ' * 9}x]\n" for k in range(1, 12))
_ONE_LABEL = "names: [cat]\ntrain: images/train\nval: images/train\n"
_FLOATS = " ".join(["0.1 0.9 0.9 0.1"] * 50_000)

INPUTS: dict[str, Callable[[Path], Words]] = {
    "png-1-bit": lambda root: _embedded(root, "a.png", _png("1", _SIDE, _SIDE)),
    "png-8-bit": lambda root: _embedded(root, "a.png", _png("L", _SIDE, _SIDE)),
    "png-16-bit": lambda root: _embedded(root, "a.png", _png("I;16", _SIDE, _SIDE)),
    "png-rgb": lambda root: _embedded(root, "a.png", _png("RGB", _SIDE, _SIDE)),
    "png-rgba": lambda root: _embedded(root, "a.png", _png("RGBA", _SIDE, _SIDE)),
    "png-grey-alpha-16-bit": lambda root: _embedded(root, "a.png", _png("LA;16", 9000, 9000)),
    "png-rgba-16-bit": lambda root: _embedded(root, "a.png", _png("RGBA;16", 9000, 9000)),
    "png-over-the-limit": lambda root: _folder(root, "a.png", _png("1", 60_000, 60_000)),
    "png-thin": lambda root: _embedded(root, "a.png", _png("1", 178_000_000 // 2, 2)),
    "jpeg": lambda root: _embedded(root, "a.jpg", _pillow("JPEG", Image.new("L", (8000, 8000)), quality=1)),
    "gif": lambda root: _embedded(root, "a.gif", _pillow("GIF", Image.new("L", (_SIDE, _SIDE)))),
    "webp": lambda root: _embedded(root, "a.webp", _pillow("WEBP", Image.new("RGB", (16_000, 11_000)))),
    "tiff-pages": lambda root: _folder(
        root, "a.tiff",
        _pillow("TIFF", Image.new("1", (4, 4)), save_all=True, append_images=[Image.new("1", (4, 4))] * 3000),
    ),
    "bmp-that-claims": lambda root: _folder(
        root,
        "a.bmp",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, _SIDE, _SIDE, 1, 24, *[0] * 6),
    ),
    "coco-polygon": lambda root: _coco(root, [_zigzag(60_000, _SIDE)]),
    "coco-polygons": lambda root: _coco(root, [_zigzag(400, _SIDE)] * 60),
    "coco-polygon-far-away": lambda root: _coco(root, [[[0, 0, 1e9, 0, 1e9, 1e9]]]),
    "coco-runs": lambda root: _coco(root, [{"size": [_SIDE, _SIDE], "counts": [1] * 300_000}]),
    "coco-runs-overflow": lambda root: _coco(root, [{"size": [_SIDE, _SIDE], "counts": [2**31] * 3}]),
    "coco-runs-text": lambda root: _coco(root, [{"size": [_SIDE, _SIDE], "counts": "o" * 700_000}]),
    "coco-size": lambda root: _coco(root, [{"size": [2**30, 2**30], "counts": [2**60]}]),
    "coco-nested": lambda root: _coco(root, [], text="[" * (MOST - 10)),
    "coco-digits": lambda root: _coco(root, [], text='{"images": ' + "9" * (MOST - 20) + "}"),
    "coco-empty-images": lambda root: _coco(root, [], text='{"images": [' + "{}," * 320_000 + "{}]}"),
    "voc-laughs": lambda root: _voc(root, _LAUGHS),
    "voc-nested": lambda root: _voc(root, "<a>" * 140_000 + "</a>" * 140_000),
    "voc-objects": lambda root: _voc(root, "<annotation>" + "<object/>" * 100_000 + "</annotation>"),
    "yolo-polygon": lambda root: _yolo(root, "0 " + _FLOATS, _ONE_LABEL),
    "yolo-class": lambda root: _yolo(root, "999999999999 .5 .5 .2 .2", _ONE_LABEL),
    "yolo-names": lambda root: _yolo(root, "0 .5 .5 .2 .2", "names: {999999999: x}\n"),
    "yolo-count": lambda root: _yolo(root, "0 .5 .5 .2 .2", "nc: 999999999\ntrain: images/train\n"),
    "yolo-aliases": lambda root: _yolo(root, "0 .5 .5 .2 .2", _ALIASES),
    "yolo-objects": lambda root: _yolo(root, "0 .5 .5 .2 .2\n" * 60_000, _ONE_LABEL),
    "labelme-mask": lambda root: _labelme(root, _painted(_SIDE)),
    "labelme-mask-over-the-limit": lambda root: _labelme(root, _painted(60_000)),
    "labelme-picture": lambda root: _labelme(
        root, {"label": "cat", "shape_type": "rectangle", "points": [[1, 1], [9, 9]]}, imageData="A" * 900_000
    ),
    "labelme-polygon": lambda root: _labelme(
        root,
        {
            "label": "cat",
            "shape_type": "polygon",
            "points": [[k % 2 * _SIDE, k / 4] for k in range(50_000)],
        },
    ),
    "cvat-laughs": lambda root: _cvat(root, _LAUGHS.replace("annotation>", "annotations>")),
    "cvat-nested": lambda root: _cvat(root, "<annotations>" + "<image>" * 100_000),
    "cvat-mask": lambda root: _cvat(
        root,
        _cvat_shape(
            '<mask label="cat" rle="1, 99999999999, 1" left="0" top="0" width="300000" height="300000"/>',
            300_000,
        ),
    ),
    "cvat-points": lambda root: _cvat(
        root, _cvat_shape(f'<polygon label="cat" points="{"0,0;40,40;" * 80_000}0,0"/>')
    ),
    "imagefolder-packed": lambda root: _metadata(root, "metadata.parquet", _packed_metadata()),
    "imagefolder-nested": lambda root: _metadata(root, "metadata.jsonl", b"[" * 900_000),
    "imagefolder-field": lambda root: _metadata(root, "metadata.csv", b'file_name,x\n"' + b"a,\n" * 300_000),
    "recipe-aliases": lambda root: _recipe(root, _ALIASES),
    "recipe-nested": lambda root: _recipe(root, "[" * 900_000),
    "recipe-number": lambda root: _recipe(root, "train:\n  steps: " + "9" * 100_000),
    "recipe-long": lambda root: _recipe(root, "train:\n" + "  steps: 1\n" * 80_000),
    "recipe-network": lambda root: _recipe(
        root, yaml.safe_dump({"model": {"depth": 10**9, "embed_dim": 10**9}, "head": {"prototypes": 10**12}})
    ),
    "card-depth": lambda root: _model(root, _card(depth=10**6)),
    "card-width": lambda root: _model(root, _card(embed_dim=3 * 10**6)),
    "card-size": lambda root: _model(root, _card(image_size=10**6)),
    "card-prefix": lambda root: _model(root, _card(registers=10**9)),
    "safetensors-header": lambda root: _model(root, _safetensors({}, 2**62)),
    "safetensors-shape": lambda root: _model(
        root, _safetensors({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    ),
    "safetensors-nested": lambda root: _model(root, struct.pack("<Q", 900_000) + b"[" * 900_000),
    "archive-compressed": lambda root: _model(root, _compressed(2**29), "m.pt"),
    "archive-that-claims": lambda root: _model(root, _claims(), "m.pt"),
    "index-long-name": _long_name,
    "index-many-rows": _many_rows,
    "index-many-objects": _many_objects,
    "metrics-line": lambda root: _report(root, json.dumps({"step": 1, "loss": "x" * 900_000}) + "\n"),
    "metrics-nested": lambda root: _report(root, "[" * 900_000 + "\n"),
    "metrics-step": lambda root: _report(root, '{"step": 1' + "0" * 4000 + ', "loss": 1}\n' * 3),
}  # fmt: skip
"""A function each: it writes its files into an empty folder, and returns the command that reads them."""
