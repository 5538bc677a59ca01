"""A tiny network and ten scenes that the explorer serves; and a client that sends what no browser would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("starlette", reason="starlette is not here: pip install 'odis[explore]'")

from odis.backbones.build import build_vit
from odis.backbones.saved import save_model
from odis.config.training import ModelConfig, PretrainConfig, as_dict
from odis.explorer import serve
from odis.explorer.app import make_app
from odis.explorer.explorer import Explorer
from odis.explorer.guard import Access
from odis.explorer.network import load_networks
from odis.explorer.settings import ExploreSettings
from odis.explorer.worker import NetworkWorker
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

HOSTILE = "<script>document.title='struck'</script>"
"""A class name, and part of a file name."""

CLASSES = [HOSTILE, "disc", "unused"]


def write_network(path: Path, seed: int) -> Path:
    """A model file of a ViT of width 24 with three layers and two heads."""
    model = ModelConfig(embed_dim=24, depth=3, num_heads=2, patch_size=8)
    torch.manual_seed(seed)
    card = {
        "model": as_dict(PretrainConfig(model=model))["model"], "image_size": 32, "mean": [0.5] * 3,
        "std": [0.25] * 3, "mask_coverage": 0.5, "mask_margin": 0, "provenance": "annotated", "step": 3,
    }  # fmt: skip
    save_model(path, build_vit(model, 32, drop_path=0.0), card)
    return path


def write_scenes(folder: Path, count: int = 10) -> Path:
    """An index of 48 x 40 images with two objects each: a square box, and a disc that has a mask."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    y, x = np.mgrid[:40, :48]
    for k in range(count):
        pixels = rng.integers(0, 90, (40, 48, 3), dtype=np.uint8)
        disc = (x - 34) ** 2 + (y - 22) ** 2 < 80
        pixels[disc] = rng.integers(120, 255, 3)
        pixels[6 : 6 + 12, 4 + k % 3 : 18] = rng.integers(120, 255, 3)
        name = f"{k} {'<img src=x onerror=alert(1)>' if k == 0 else 'scene'}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        square = Object((4.0 + k % 3, 6.0, 18.0, 18.0), label=0)
        rows.append(
            ImageObjects(name, 48, 40, (square, Object((26.0, 14.0, 43.0, 31.0), rle.encode(disc), 1)))
        )
    path = folder / "scenes.parquet"
    write_index(path, rows, root=folder / "images", provenance="annotated", classes=CLASSES)
    return path


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Calls the ASGI application with raw headers and paths."""

    HOST: ClassVar = b"127.0.0.1:8768"
    CLASSES: ClassVar = CLASSES
    explorer: Explorer
    access: Access
    app: Any = field(init=False)
    loop: asyncio.AbstractEventLoop = field(init=False)

    def __post_init__(self) -> None:
        self.app, self.loop = make_app(self.explorer, self.access), asyncio.new_event_loop()

    def headers(self, writes: bool = False) -> dict[bytes, bytes]:
        """Those of the page."""
        own = {b"host": self.HOST, b"cookie": f"{self.access.cookie}={self.access.token}".encode()}
        if writes:
            own |= {b"origin": b"http://" + self.HOST, b"x-odis-key": self.access.key.encode()}
        return own

    async def request(
        self, method: str, target: str, headers: dict[bytes, bytes], body: bytes = b"", scheme: str = "http"
    ) -> Reply:
        path, _, query = target.partition("?")
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "scheme": scheme, "path": path,
            "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": list(headers.items()), "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8768),
        }  # fmt: skip
        sent: list[dict[str, Any]] = []
        parts = [body[k : k + 65536] for k in range(0, len(body), 65536)] or [b""]

        async def receive() -> dict[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            await asyncio.sleep(3600)
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        pairs = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], pairs, b"".join(m.get("body", b"") for m in sent[1:]))

    def __call__(
        self, method: str, target: str, headers: dict[bytes, bytes] | None = None, body: bytes = b""
    ) -> Reply:
        given = self.headers(method == "POST") if headers is None else headers
        return self.loop.run_until_complete(self.request(method, target, given, body))

    def get(self, target: str) -> Reply:
        """As the page does."""
        return self("GET", target)

    def post(self, target: str, body: Any, kind: bytes = b"application/json") -> Reply:
        """As the page does; what is no bytes is sent as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self("POST", target, self.headers(True) | {b"content-type": kind}, content)

    def ask(self, region: dict[str, Any], **more: Any) -> Reply:
        """A question about image 1."""
        question = {
            "tab": "one", "picture": {"row": 1}, "region": region, "networks": [0],
            "modes": ["masked-attention"],
        }  # fmt: skip
        return self.post("/api/ask", question | more)

    def embedded(self, mode: str = "masked-attention") -> None:
        """Wait until the index is embedded by all networks in a mode."""
        wait_for(lambda: all(network.banks[mode].done for network in self.explorer.networks))


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of ten scenes."""
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two model files, in folders of their own."""
    home = tmp_path_factory.mktemp("models")
    for name, seed in (("before", 0), ("after", 1)):
        (home / name).mkdir()
        write_network(home / name / "model.safetensors", seed)
    return str(home / "before"), str(home / "after")


@pytest.fixture(scope="session")
def explorer(scenes: Path, models: tuple[str, str]) -> Iterator[Explorer]:
    """Two networks beside the scenes."""
    index = ObjectIndex.open(scenes)
    networks = load_networks(models, index, ExploreSettings())
    with NetworkWorker() as worker:
        yield Explorer(networks, index, worker)


@pytest.fixture(scope="session")
def client(explorer: Explorer) -> Iterator[Client]:
    """A client of it."""
    client = Client(explorer, Access(8768))
    yield client
    client.loop.close()


@contextlib.contextmanager
def _serving(explorer: Explorer) -> Iterator[tuple[Access, int]]:
    """A real server on a free port, in a thread."""
    listener = serve.listening(0)
    port = listener.getsockname()[1]
    access = Access(port)
    server = serve.server(explorer, access)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield access, port
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def serving() -> Callable[[Explorer], contextlib.AbstractContextManager[tuple[Access, int]]]:
    """`with serving(explorer) as (access, port)`."""
    return _serving
