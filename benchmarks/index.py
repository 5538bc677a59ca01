"""Images a second and memory of `odis index`, on one core; and what it costs to open a large index and read a
few rows of it.

    python benchmarks/index.py [--images 1000000] [--boxes 3 7] [--masks 0.5] [--headers 20000] [--folder DIR]
    [--json FILE]

One annotation file in COCO's form is made for each number of boxes, its annotations in random order and no
image beside it, and read with `build_index(..., trust=True)`; once more with twice the images, to see what
memory grows by; and once, with a tenth of the images and the most boxes, with a mask for a share of the
objects (`--masks`), half of them polygons, half compressed run lengths. Then formats are read whose images
are opened: COCO's form, to confirm the sizes it states, and the CSV files of Open Images and of ImageNet,
which state none. The images are copies of scikit-learn's two photographs (whose headers are long: 4 and 22
kB), hard-linked, in the page cache. Every measurement is a process of its own; its memory is the most it ever
held, of which importing odis takes the share that is printed first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

WIDTH, HEIGHT = 640, 427  # of scikit-learn's photographs

CLASSES = 80

SPLIT = "train2017"

_CHUNK = 20_000


def write_coco(root: Path, images: int, boxes: int, masks: float, seed: int = 0) -> Path:
    """An annotation file as COCO's are written: images, then `images * boxes` annotations in random order,
    then categories.
    """
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(seed)
    path = root / "annotations" / f"instances_{SPLIT}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    (root / SPLIT).mkdir(exist_ok=True)
    url = "http://images.cocodataset.org/train2017"

    def image(i: int) -> str:
        name = f"{7 * i:012d}.jpg"
        return (
            f'{{"license": 4, "file_name": "{name}", "coco_url": "{url}/{name}", '
            f'"height": {HEIGHT}, "width": {WIDTH}, '
            f'"date_captured": "2013-11-14 17:02:52", "id": {7 * i}}}'
        )

    def segmentation(x: float, y: float, w: float, h: float, kind: float) -> str:
        if kind >= masks:
            return "[]"
        angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        points = (
            np.stack([x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))], 1)
            .round(2)
            .ravel()
            .tolist()
        )
        if kind >= masks / 2:
            return json.dumps([points])
        counts = coco_mask.merge(coco_mask.frPyObjects([points], HEIGHT, WIDTH))["counts"].decode()
        return json.dumps({"size": [HEIGHT, WIDTH], "counts": counts})

    def annotations(start: int, stop: int) -> Iterator[str]:
        n = stop - start
        corners = (rng.random((n, 2)) * (WIDTH - 130, HEIGHT - 110)).round(2).tolist()
        sides = (rng.random((n, 2)) * 100 + 3).round(2).tolist()
        of, categories = rng.integers(0, images, n).tolist(), rng.integers(1, CLASSES + 1, n).tolist()
        for k, (x, y), (w, h), i, category, kind in zip(
            range(start, stop), corners, sides, of, categories, rng.random(n).tolist()
        ):
            yield (
                f'{{"segmentation": {segmentation(x, y, w, h, kind)}, "area": {w * h:.4f}, '
                f'"iscrowd": 0, "image_id": {7 * i}, '
                f'"bbox": [{x}, {y}, {w}, {h}], "category_id": {category}, "id": {k}}}'
            )

    with path.open("w") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        for start in range(0, images, _CHUNK):
            file.write(
                (", " if start else "") + ", ".join(map(image, range(start, min(images, start + _CHUNK))))
            )
        file.write('], "annotations": [')
        for start in range(0, images * boxes, _CHUNK):
            file.write(
                (", " if start else "") + ", ".join(annotations(start, min(images * boxes, start + _CHUNK)))
            )
        categories = ", ".join(f'{{"id": {k}, "name": "class {k}"}}' for k in range(1, CLASSES + 1))
        file.write(f'], "categories": [{categories}]}}')
    return path


def link_images(folder: Path, names: list[str]) -> None:
    """Scikit-learn's two photographs under many names."""
    from sklearn import datasets

    photographs = sorted((Path(datasets.__file__).parent / "images").glob("*.jpg"))
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(names), _CHUNK):  # a file system allows some 65,000 links to a file
        copies = []
        for name, photograph in zip(names[start : start + _CHUNK], photographs):
            copies.append(folder / name)
            copies[-1].write_bytes(photograph.read_bytes())
        for k, name in enumerate(names[start + len(copies) : start + _CHUNK]):
            os.link(copies[k % len(copies)], folder / name)


def write_open_images(root: Path, images: int, boxes: int, seed: int = 0) -> None:
    """The CSV files of Open Images for `images` images, with the images."""
    rng = np.random.default_rng(seed)
    names = [f"{i:016x}" for i in range(images)]
    link_images(root / "train", [f"{name}.jpg" for name in names])
    (root / "class-descriptions-boxable.csv").write_text(
        "".join(f"/m/{k},class {k}\n" for k in range(CLASSES))
    )
    with (root / "train-annotations-bbox.csv").open("w") as file:
        file.write(
            "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
        )
        for name in names:
            for x, y, k in zip(rng.random(boxes), rng.random(boxes), rng.integers(0, CLASSES, boxes)):
                file.write(
                    f"{name},xclick,/m/{k},1,{x * 0.8:.6f},"
                    f"{x * 0.8 + 0.2:.6f},{y * 0.8:.6f},{y * 0.8 + 0.2:.6f},0,0,0,0,0\n"
                )


def write_imagenet(root: Path, images: int, boxes: int, seed: int = 0) -> None:
    """Kaggle's CSV file of ImageNet's training images and their boxes, with `images` images."""
    rng = np.random.default_rng(seed)
    each = -(-images // CLASSES)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "LOC_train_solution.csv").open("w") as file:
        file.write("ImageId,PredictionString\n")
        for k in range(CLASSES):
            wnid = f"n{k:08d}"
            names = [f"{wnid}_{i}" for i in range(min(each, images - k * each))]
            link_images(root / "ILSVRC/Data/CLS-LOC/train" / wnid, [f"{name}.JPEG" for name in names])
            for name in names:
                corners = rng.integers(0, 300, (boxes, 2)).tolist()
                file.write(f"{name},{' '.join(f'{wnid} {x} {y} {x + 90} {y + 90}' for x, y in corners)} \n")


def measured(what: str, *arguments: Any, cache: Path | None = None) -> dict[str, Any]:
    """What a process of its own finds out: `import`, `build` (source, root, out, split, trust) or `rows`
    (index, first row).
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    command = [sys.executable, __file__, "--measure", what, *map(str, arguments)]
    return json.loads(
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    )


def measure(what: str, arguments: list[str]) -> dict[str, Any]:
    """The same in this process."""
    from odis.objects.build import build_index
    from odis.objects.index import ObjectIndex

    found: dict[str, Any] = {}
    start, cpu = time.perf_counter(), time.process_time()
    if what == "build":
        source, root, out, split, trust = arguments
        summary = build_index(source, root, out, split=split, trust=trust == "True")
        found = {
            "images": summary.written,
            "objects": summary.kept,
            "left_out": summary.images_skipped + summary.objects_skipped,
        }
    elif what == "rows":
        before = _rss()
        index = ObjectIndex.open(arguments[0])
        rows = [index[i] for i in range(int(arguments[1]), int(arguments[1]) + 100)]
        found = {"objects": sum(len(row.objects) for row in rows), "mib_more": _rss() - before}
    found |= {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    return found | {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _rss() -> float:
    """MiB in memory that no file backs: pages of a mapped file can be let go at any time."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=int, default=1_000_000, help="images of the annotation files (default: 1,000,000)"
    )
    parser.add_argument(
        "--boxes", type=int, nargs="+", default=[3, 7], help="boxes an image, on average (default: 3 7)"
    )
    parser.add_argument(
        "--masks",
        type=float,
        default=0.5,
        help="share of objects with a mask, in the file that has any (default: 0.5)",
    )
    parser.add_argument(
        "--headers", type=int, default=20_000, help="images that are opened (default: 20,000; 0 for none)"
    )
    parser.add_argument(
        "--twice", action=argparse.BooleanOptionalAction, default=True, help="also twice the images"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to put the files, some gigabytes (default: the system's folder)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], args.measure[1:])))
        return

    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        base = measured("import")["mib"]
        runs = [(args.images, n, 0.0) for n in args.boxes] + (
            [(2 * args.images, args.boxes[0], 0.0)] if args.twice else []
        )
        for images, boxes, masks in [
            *runs,
            *([(max(1, args.images // 10), max(args.boxes), args.masks)] if args.masks else []),
        ]:
            path = write_coco(folder / "coco", images, boxes, masks)
            size = path.stat().st_size / 1e6
            found = measured(
                "build",
                "coco",
                folder / "coco",
                folder / f"{images}-{boxes}{'-masks' if masks else ''}.parquet",
                SPLIT,
                True,
            )
            what = f"coco, {boxes} boxes{f', {masks:.0%} with a mask' if masks else ''}, {size:,.0f} MB"
            results.append({"what": what, "opened": False, **found})
            path.unlink()
        opened = (
            (
                ("coco", "opened", SPLIT),
                ("open-images", "open-images", "train"),
                ("imagenet", "imagenet", "train"),
            )
            if args.headers
            else ()
        )
        write_coco(folder / "opened", args.headers, args.boxes[0], 0.0)
        link_images(folder / "opened" / SPLIT, [f"{7 * i:012d}.jpg" for i in range(args.headers)])
        write_open_images(folder / "open-images", args.headers, args.boxes[0])
        write_imagenet(folder / "imagenet", args.headers, args.boxes[0])
        for source, root, split in opened:
            found = measured("build", source, folder / root, folder / f"{source}.parquet", split, False)
            results.append({"what": f"{source}, {args.boxes[0]} boxes", "opened": True, **found})
        index = folder / f"{args.images}-{args.boxes[0]}.parquet"
        reads = [measured("rows", index, args.images // 2, cache=folder / "cache") for _ in range(2)]

    table = Table(title=f"odis index on one core; importing odis takes {base:,.0f} MiB")
    for column in (
        "annotations",
        "images opened",
        "images",
        "images a second",
        "of processor time",
        "peak MiB",
    ):
        table.add_column(column, justify="left" if column == "annotations" else "right")
    for row in results:
        rates = [f"{row['images'] / row[name]:,.0f}" for name in ("seconds", "cpu_seconds")]
        table.add_row(
            row["what"], "yes" if row["opened"] else "no", f"{row['images']:,}", *rates, f"{row['mib']:,.0f}"
        )
    console = Console(width=120)
    console.print(table)
    for when, read in zip(("first", "second"), reads):
        console.print(
            f"{when} time: opening the index of {args.images:,} images and reading 100 rows from its "
            f"middle takes {read['seconds']:.2f} s "
            f"and {read['mib_more']:,.1f} MiB (peak {read['mib']:,.0f} MiB)"
        )
    if args.json:
        setting = {k: v for k, v in vars(args).items() if k not in ("json", "folder", "measure")}
        args.json.write_text(
            json.dumps({**setting, "import_mib": base, "rows": results, "reads": reads}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
