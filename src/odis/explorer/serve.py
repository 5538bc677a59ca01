"""The server of the explorer, from the command line to Ctrl-C."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence

import uvicorn

from odis.errors import OdisError
from odis.explorer.app import make_app
from odis.explorer.explorer import Explorer
from odis.explorer.guard import Access
from odis.explorer.network import load_networks
from odis.explorer.settings import FIRST_PORT, PORTS, ExploreSettings
from odis.explorer.worker import NetworkWorker
from odis.machine.allocator import keep_freed_memory
from odis.objects.index import ObjectIndex

LOOPBACK = "127.0.0.1"


def explore(sources: Sequence[str], data: str, settings: ExploreSettings, say: Callable[[str], None]) -> None:
    """Serve the page until it is interrupted.

    Args:
        sources: Folders of runs, model files, checkpoints or `timm:NAME`.
        data: Index or folder of images that is shown and searched.
        settings: How networks are asked, and the port.
        say: Is given the address, in a line.

    Raises:
        OdisError: a network or the index cannot be used, or the port is taken.
    """
    settings.check()
    with listening(settings.port) as listener:
        index = ObjectIndex.open(data)
        if not len(index):
            raise OdisError(f"{data}: has no images")
        networks = load_networks(sources, index, settings)
        keep_freed_memory()
        with NetworkWorker() as worker:
            explorer = Explorer(networks, index, worker)
            access = Access(listener.getsockname()[1])
            say(f"open {access.address}")
            say("Ctrl-C ends it; the address works on this machine only, for whoever has it")
            server(explorer, access).run(sockets=[listener])


def server(explorer: Explorer, access: Access) -> uvicorn.Server:
    """The HTTP server: no access log, which would hold the token; no version in its answers; no sockets."""
    config = uvicorn.Config(
        make_app(explorer, access),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def listening(port: int | None) -> socket.socket:
    """A socket that listens on 127.0.0.1.

    Args:
        port: None tries the first ports from `FIRST_PORT` on; 0 is any.

    Raises:
        OdisError: the port is taken or may not be used.
    """
    for number in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, number))
            listener.listen()
            return listener
        except OSError as error:
            listener.close()
            if port is None and error.errno == errno.EADDRINUSE:
                continue
            raise OdisError(f"port {number} cannot be used ({error.strerror}); give another one") from error
    last = FIRST_PORT + PORTS - 1
    raise OdisError(f"ports {FIRST_PORT} to {last} are taken; give another one with --port")
