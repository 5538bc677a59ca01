"""Real images for tests; a test that asks for them is skipped where they are missing."""

import contextlib
import os
import re
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import settings

# How long an example takes says nothing of the code on a machine that does other work as well.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# A shell that runs the tests in the background has interrupts ignored, and all that is started inherits it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two processes share the files of the suite in this order: what takes longest comes first, so that neither
# waits for the other at the end.
LONGEST = (
    "test_benchmarks", "train/test_ranks", "test_notebooks", "test_house", "benchmark/test_command",
    "benchmark/test_measure", "benchmark/test_many_objects", "train/test_golden", "soak/test_soak",
    "train/test_loop", "test_site",
    "exporting/test_write", "evidence/test_tables", "evidence/test_run", "evidence/test_grid",
    "finding/detect/test_torchvision_models", "commands/test_detect", "method/test_vit_selected",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {Path(__file__).parent / f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


DATA = Path(os.environ.get("ODIS_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def _unzip(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = DATA / f"{name}.zip"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not here (set ODIS_TEST_DATA to the folder that holds it)")
    folder = tmp_path_factory.mktemp("data")
    with zipfile.ZipFile(archive) as z:
        z.extractall(folder)
    return folder / name


def _near(found: Any, usual: Any, exact: Any, *, terms: int, dtype: Any = None, what: str = "") -> None:
    import torch

    exact = exact.detach()
    error, scale = (float((value.detach().double() - exact).abs().max()) for value in (found, usual))
    # Rounding a sum of many terms is a random walk of float32 steps; in a shorter type the last step is more.
    step = max(terms**0.5 * torch.finfo(torch.float32).eps, torch.finfo(dtype or found.dtype).eps)
    bound = 3 * scale + step * float(exact.abs().max())
    assert error <= bound, f"{what}: off by {error:.2g}, torch's own by {scale:.2g}; allowed is {bound:.2g}"


@pytest.fixture(scope="session")
def near() -> Any:
    """`near(found, usual, exact, terms=K)` holds a result to float64: a bound that is right on any CPU.

    `found` is what the code under test makes, `usual` what a peer makes in the same precision, `exact` the
    same in float64. The error may be three times the peer's, plus what rounding does to a sum of K terms.
    `dtype` is the type of the arithmetic, where the result has a longer one.
    """
    return _near


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """The module `ray`, connected to a local cluster of three CPUs, which takes seconds to start."""
    ray = pytest.importorskip("ray")
    before = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    signal.signal(signal.SIGTERM, before)  # Ray puts its own there, which other tests would meet
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_imagenet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 classes of Tiny-ImageNet in its published layout."""
    return _unzip("tiny-imagenet-100", tmp_path_factory)


@pytest.fixture(scope="session")
def coco_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """51 images of COCO 2017 in its published layout."""
    return _unzip("coco-mini", tmp_path_factory)


class ImageServer(ThreadingHTTPServer):
    """Files of a folder on loopback, whole or in ranges of bytes, as a web server or S3 gives them.

    `fault(n, path)` says what is wrong with request n: `drop` (the connection, after half of the body),
    `500`, `403`, `slow:SECONDS`, `whole` (ranges are ignored), or nothing.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _ImageRequest)
        self.folder = folder
        self.fault: Callable[[int, str], str] = lambda number, path: ""
        self.asked: list[tuple[str, str, str]] = []  # method, path with query, range
        self.sent = 0  # bytes of bodies
        self.key = ""  # that a request must show in its header Authorization
        self._counting = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, *asked: str) -> int:
        with self._counting:
            self.asked.append(asked)  # type: ignore[arg-type]
            return len(self.asked)

    def close(self) -> None:
        """End, as a killed server does: what asks now is refused."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _ImageRequest(BaseHTTPRequestHandler):
    server: ImageServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range", "")
        number = server.count(self.command, self.path, asked)
        fault = server.fault(number, self.path)
        if fault.startswith("slow:"):
            time.sleep(float(fault.removeprefix("slow:")))
        if self.server.key not in self.headers.get("Authorization", ""):
            fault = "403"
        if fault.isdigit():
            return self._answer(int(fault), b"")
        try:
            data = (server.folder / unquote(urlsplit(self.path).path).lstrip("/")).read_bytes()
        except OSError:
            return self._answer(404, b"")
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if found is None or fault == "whole":
            return self._answer(200, data, fault)
        start, stop = int(found[1]), int(found[2]) + 1
        if start >= len(data):
            return self._answer(416, b"")
        part = f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"
        return self._answer(206, data[start:stop], fault, part)

    def _answer(self, status: int, body: bytes, fault: str = "", part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body[: len(body) // 2] if fault == "drop" else body
        self.server.sent += len(body)
        with contextlib.suppress(OSError):
            self.wfile.write(body)
        self.close_connection = fault == "drop"

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def image_server(tmp_path: Path) -> Iterator[ImageServer]:
    """A server of the files in `tmp_path/served`."""
    (tmp_path / "served").mkdir()
    server = ImageServer(tmp_path / "served")
    yield server
    server.close()
