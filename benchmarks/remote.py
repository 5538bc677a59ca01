"""What images cost in a shard, in a Parquet file and behind a server, against images in files.

    python benchmarks/remote.py INDEX [--images 200] [--rounds 5] [--latency 20] [--workers 0 2 4]

INDEX is an object index of photographs in files (COCO: `odis index coco ROOT --split val2017 --out INDEX`).
The first of them are packed (`odis index pack`), and written as Parquet as `datasets` writes it since version
4 (without compression) and as it did before (Snappy, 100 images a row group). All images are read from each
in turn; a ratio is taken within a round, and the median is given with its 95 % bootstrap interval. `bytes` is
reading alone, `decoded` what a data worker does before it renders views. Processor time, so that what else
the machine does counts little.

The second table is of an HTTP server in another process that waits before it answers each request. `one by
one` and `ahead` are requests alone, by one process. The rest is `odis pretrain`'s loader with the recipe
odis-vits16 (12 views) at each number of workers, files and server in turn. Images a second of elapsed time:
on a machine that does other work as well, look at the ratios.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import process_time as clock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from odis.benchmark.measure import middle
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.data.loader import make_loader
from odis.data.pixels.reader import ImageReader
from odis.objects.build import build_index
from odis.objects.edit.pack import pack_index
from odis.objects.index import ObjectIndex, write_index
from odis.objects.storage.address import is_elsewhere
from odis.objects.storage.reading import ByteReader, read_bytes

PATCH, BATCH, LEAST = 16, 16, 128  # images that the loader is timed on, at least


def make(index: ObjectIndex, images: int, out: Path) -> dict[str, ObjectIndex]:
    """The same images in files, in shards and in Parquet files."""
    rows = [index[i] for i in range(min(images, len(index)))]
    write_index(
        out / "files.parquet", rows, root=index.root, provenance=index.provenance, classes=index.classes
    )
    files = ObjectIndex.open(out / "files.parquet")
    found = {"files": files, "shards": ObjectIndex.open(pack_index(files, out / "packed").path)}
    cells = [{"bytes": Path(files.image_path(i)).read_bytes(), "path": r.image} for i, r in enumerate(rows)]
    table = pa.table({"image": pa.array(cells)})
    for name, options in (
        ("Parquet", {"compression": "none", "use_dictionary": False}),
        ("Parquet, Snappy", {"row_group_size": 100}),
    ):
        folder = out / name.replace(", ", "-").lower()
        folder.mkdir()
        pq.write_table(table, folder / "0.parquet", **options)
        build_index("huggingface", folder, out / f"{folder.name}.parquet")
        found[name] = ObjectIndex.open(out / f"{folder.name}.parquet")
    return found


def measure(found: dict[str, ObjectIndex], rounds: int, config: PretrainConfig) -> dict[str, list[float]]:
    """Milliseconds of processor an image, each round."""
    reader = ImageReader(config.loader, config.views, 1)
    taken: dict[str, list[float]] = {}
    orders = np.random.default_rng(0)
    sizes = [(row.width, row.height) for row in found["files"]]
    paths = {name: [index.image_path(i) for i in range(len(sizes))] for name, index in found.items()}

    def content(path: str, size: tuple[int, int]) -> object:
        return read_bytes(path) if is_elsewhere(path) else Path(path).read_bytes()

    def decoded(path: str, size: tuple[int, int]) -> object:
        return reader.read(0, path, size, 1)

    calls: dict[str, Callable[[str, tuple[int, int]], object]] = {"bytes": content, "decoded": decoded}
    for k in range(rounds + 1):
        order = orders.permutation(len(sizes)).tolist()
        for what, call in calls.items():
            for name in sorted(found, key=lambda _: orders.random()):
                began = clock()
                for i in order:
                    call(paths[name][i], sizes[i])
                if k:  # the first round fills the system's cache
                    taken.setdefault(f"{what}, {name}", []).append(1000 * (clock() - began) / len(sizes))
    return taken


def serve(folder: Path, latency: float) -> tuple[Any, str]:
    """A server in a process of its own, and its address."""
    ready = multiprocessing.Pipe(False)
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(folder, latency, ready[1]), daemon=True
    )
    process.start()
    return process, f"http://127.0.0.1:{ready[0].recv()}"


def _serve(folder: Path, latency: float, ready: Any) -> None:
    held = {path.name: path.read_bytes() for path in folder.glob("*.tar")}

    class Request(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(latency)
            start, stop = map(int, re.findall(r"\d+", self.headers["Range"]))
            data = held[self.path.lstrip("/")][start : stop + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Range", f"bytes {start}-{stop}/*")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Request)
    ready.send(server.server_address[1])
    server.serve_forever()


def rate(index: ObjectIndex, config: PretrainConfig, workers: int, images: int) -> float:
    """Images a second of the loader, without its start."""
    config = replace(config, loader=replace(config.loader, workers=workers))
    steps = images // BATCH
    batches = iter(make_loader(index, config, patch_size=PATCH, start_step=0, steps=steps + 2))
    next(batches)
    next(batches)
    began, count = time.perf_counter(), 0
    for batch in batches:
        count += batch.size
    return count / (time.perf_counter() - began)


def fetched(index: ObjectIndex, ahead: bool) -> tuple[float, float]:
    """Images a second of requests alone, and milliseconds of processor that a request takes."""
    reader, paths = ByteReader(), [index.image_path(i) for i in range(len(index))]
    began, computing = time.perf_counter(), clock()
    for k in range(0, len(paths), BATCH):
        with reader.ahead(paths[k : k + BATCH] if ahead else ()):
            for path in paths[k : k + BATCH]:
                reader.read(path)
    return len(paths) / (time.perf_counter() - began), 1000 * (clock() - computing) / len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", help="object index of photographs in files")
    parser.add_argument("--images", type=int, default=200, help="images (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--latency", type=float, default=20, help="ms before an answer (default: 20)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4], help="(default: 0 2 4)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "This DataLoader will create")
    figures: dict[str, Any] = {"torch": torch.__version__, "rates": {}}
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        found = make(ObjectIndex.open(args.index), args.images, out)
        config = load_recipe(
            "odis-vits16", data=str(out / "files.parquet"), train__batch_size=BATCH, train__device="cpu"
        )
        taken = figures["milliseconds"] = measure(found, args.rounds, config)
        table = Table(title=f"{len(found['files'])} photographs on a local disk, {args.rounds} rounds")
        for column in ("", "bytes, ms", "/ files", "decoded, ms", "/ files"):
            table.add_column(column, justify="left" if not column else "right")
        for name in found:
            cells = []
            for what in ("bytes", "decoded"):
                values = np.array(taken[f"{what}, {name}"])
                ratio = middle(values / np.array(taken[f"{what}, files"]))
                cells += [f"{np.median(values):.3f}", "{:.2f} ({:.2f} - {:.2f})".format(*ratio)]
            table.add_row(name, *cells)
        console.print(table)
        process, url = serve(out / "packed", args.latency / 1000)
        try:
            places = {
                "files": found["files"],
                "server": ObjectIndex.open(found["shards"].path, root=url),
            }
            for _ in range(args.rounds):
                for ahead in (False, True):
                    name = "ahead" if ahead else "one by one"
                    speed, cost = fetched(places["server"], ahead)
                    figures["rates"].setdefault(name, []).append(speed)
                    figures["milliseconds"].setdefault(f"request, {name}", []).append(cost)
                for workers in args.workers:
                    for name, index in places.items():
                        rates = figures["rates"].setdefault(f"{name}, {workers}", [])
                        rates.append(rate(index, config, workers, max(args.images, LEAST)))
        finally:
            process.kill()
    table = Table(title=f"The loader, 12 views, a server with {args.latency:g} ms a request: images a second")
    for column in ("requests, workers", "files", "server", "server / files"):
        table.add_column(column, justify="right")
    for name in ("one by one", "ahead"):
        cost = f"{np.median(taken[f'request, {name}']):.2f} ms of processor"
        table.add_row(name, "", f"{np.median(figures['rates'][name]):.0f}", cost)
    for workers in args.workers:
        files, server = (np.array(figures["rates"][f"{name}, {workers}"]) for name in places)
        ratio = "{:.2f} ({:.2f} - {:.2f})".format(*middle(server / files))
        table.add_row(f"loader, {workers}", f"{np.median(files):.0f}", f"{np.median(server):.0f}", ratio)
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
