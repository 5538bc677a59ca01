"""Small files that ask for much memory or time: each of at most 1 MB, given to the command that reads it.

    PYTHONPATH=benchmarks python -m fuzz.heavy [--gib 4] [--only NAME]

A command may refuse a file or read it. It may not end without a line, by a signal, after `--seconds`, or take
more resident memory than `--gib` in one of its processes. To hold all processes together to a limit, start
this in a control group with one; a process that the system ends for its memory is a fault then too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import struct
import subprocess
import sys
import tempfile
import time
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
    """An index of an image whose name has half a gigabyte."""
    table = _sound(root)
    place = table.column_names.index("image")
    return _index(root, table.set_column(place, table.schema.field(place), pa.array(["a" * 2**29])))


def _many_rows(root: Path) -> Words:
    """An index of the same image ten million times."""
    table = _sound(root)
    return _index(root, pa.concat_tables([table] * 1000).combine_chunks().take(np.zeros(10_000_000, int)))


def _many_objects(root: Path) -> Words:
    """An index of an image that has the same object ten million times."""
    rows = _sound(root).to_pylist()
    name = next(name for name, value in rows[0].items() if isinstance(value, list))
    schema = pq.read_schema(root.parent / "sound.parquet")
    items = pa.array(rows[0][name][:1], schema.field(name).type.value_type)
    count = 10_000_000
    column = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), items.take(np.zeros(count, int)))
    table = _sound(root)
    place = table.column_names.index(name)
    return _index(root, table.set_column(place, schema.field(place), column.cast(schema.field(place).type)))


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


def make_world(work: Path) -> None:
    """A sound index and a sound model, beside which the inputs lie."""
    images = work / "images"
    images.mkdir()
    for k in range(3):
        Image.new("RGB", (40, 40), (k, 90, 90)).save(images / f"{k}.png")
    build_index("folder", images, work / "sound.parquet", None)
    words = ["pretrain", "--recipe", "debug", "--data", str(work / "sound.parquet"),
             "--out", str(work / "model"), "--train.steps", "1", "--train.batch_size", "2",
             "--train.device", "cpu"]  # fmt: skip
    subprocess.run([sys.executable, "-m", "odis", *words], check=True, capture_output=True)


def largest(root: Path, before: set[Path]) -> int:
    """Bytes of the largest file that was made."""
    return max((path.stat().st_size for path in set(root.rglob("*")) - before if path.is_file()), default=0)


def run(words: Words, log: Path, seconds: float) -> tuple[int, float, float]:
    """Exit code (negative: a signal; -9 after so many seconds too), seconds, and peak GiB of one process."""
    began, peak = time.monotonic(), 0
    with log.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-m", "odis", *words], stdout=out, stderr=out)
    while child.poll() is None:
        if time.monotonic() - began > seconds:
            child.kill()
        peak = max(peak, *map(_peak, _with_children(child.pid)))
        time.sleep(0.02)
    return child.returncode, time.monotonic() - began, peak / 2**20


def _peak(pid: int) -> int:
    """KiB that a process was resident at most, since it began; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    return 0


def _with_children(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += _with_children(int(child))
    return found


def main() -> int:
    """Give each to its command, a line each; the exit code is 1 if one took a command down."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.heavy", description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0, help="resident memory of a process (default: 4)")
    parser.add_argument("--seconds", type=float, default=120.0, help="an input that takes longer is a fault")
    parser.add_argument("--only", action="append", choices=list(INPUTS), help="an input; again for more")
    options = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory(prefix="odis-heavy-") as folder:
        work = Path(folder)
        make_world(work)
        for name in options.only or INPUTS:
            root = work / name
            root.mkdir()
            words = INPUTS[name](root)
            size = largest(root, set())
            code, took, gib = run(words, work / "log", options.seconds)
            text = (work / "log").read_text(errors="replace").strip()
            last = text.splitlines()[-1][:110] if text else ""
            wrong = [
                *(["no line"] if not text else []),
                *(["a traceback"] if "Traceback (most recent call last)" in text else []),
                *([f"ended by signal {-code}"] if code < 0 else []),
                *(["too much memory"] if gib > options.gib else []),
                *([f"the input has {size:,} bytes"] if size > MOST else []),
            ]
            faults += bool(wrong)
            said = f"FAULT: {', '.join(wrong)}; {last}" if wrong else last
            print(f"{name:24} {size:9,} B {took:6.1f} s {gib:5.2f} GiB  exit {code}: {said}", flush=True)
    print(f"{len(options.only or INPUTS)} inputs of at most {MOST:,} bytes: {faults} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
