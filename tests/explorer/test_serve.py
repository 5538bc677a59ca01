"""A real server on a real port: where it listens, what it logs, and that questions do not stop it."""

import http.client
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from odis.cli import main
from odis.errors import OdisError
from odis.explorer import serve
from odis.explorer.explorer import Explorer
from odis.explorer.guard import Access


def call(port: int, method: str, target: str, headers: dict[str, str], body: str | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, target, body, headers)
    reply = connection.getresponse()
    return reply.status, dict(reply.getheaders()), reply.read()


def test_it_listens_on_loopback_alone_and_logs_no_token(
    explorer: Explorer, serving: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(explorer) as (access, port):
        status, headers, _ = call(port, "GET", access.address.partition(str(port))[2], {})
        assert status == 303
        cookie = headers["set-cookie"].partition(";")[0]
        status, headers, _ = call(port, "GET", "/", {"Cookie": cookie})
        assert status == 200
        assert "server" not in {name.lower() for name in headers}
        assert call(port, "GET", "/", {"Cookie": cookie, "Host": f"evil.example:{port}"})[0] == 400
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Cookie": cookie}
        assert call(port, "GET", "/", upgrade | {"Host": "evil.example"})[0] == 400
        with socket.socket() as other:
            assert other.connect_ex(("127.0.0.2", port)), "another address of this machine"
    said = capfd.readouterr()
    assert access.token not in said.out + said.err


def test_work_of_the_network_never_stops_the_server(explorer: Explorer, serving: Any) -> None:
    """While one question runs and another waits, other requests are answered; a newer one has its answer."""
    begun, go = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        assert go.wait(20)

    with serving(explorer) as (access, port):
        explorer.worker.ask("long", long)
        assert begun.wait(10)
        headers = {
            "Cookie": f"{access.cookie}={access.token}", "Origin": f"http://127.0.0.1:{port}",
            "X-Odis-Key": access.key, "Content-Type": "application/json",
        }  # fmt: skip
        question = {
            "tab": "t",
            "picture": {"row": 2},
            "region": {"object": 0},
            "networks": [0],
            "modes": ["crop"],
        }
        answers: dict[str, int] = {}

        def ask(name: str) -> None:
            answers[name] = call(port, "POST", "/api/ask", headers, json.dumps(question))[0]

        first = threading.Thread(target=ask, args=("first",))
        first.start()
        while not explorer.worker._questions:
            time.sleep(0.005)
        assert call(port, "GET", "/api/status", headers)[0] == 200
        newer = threading.Thread(target=ask, args=("newer",))
        newer.start()
        first.join()  # it is given up while the network still works
        assert answers == {"first": 409}
        go.set()
        newer.join()
    assert answers["newer"] == 200


def test_a_port_that_is_taken_is_passed_over_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve.listening(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OdisError, match=f"port {port} cannot be used"):
            serve.listening(port)
        monkeypatch.setattr(serve, "FIRST_PORT", port)
        with serve.listening(None) as other:
            assert other.getsockname()[1] != port
            assert other.getsockname()[0] == "127.0.0.1"
        monkeypatch.setattr(serve, "PORTS", 1)
        with pytest.raises(OdisError, match="are taken"):
            serve.listening(None)


def test_the_command_serves_and_says_where(
    models: tuple[str, str], scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    class Server:
        def __init__(self, explorer: Explorer, access: Access) -> None:
            self.explorer, self.access = explorer, access

        def run(self, sockets: list[socket.socket]) -> None:
            asked.append((self.explorer, self.access.address, sockets[0].getsockname()))

    monkeypatch.setattr(serve, "server", Server)
    main(["explore", *models, "--data", str(scenes), "--size", "40"])
    ((explorer, address, listened),) = asked
    assert [network.label for network in explorer.networks] == ["before", "after"]
    assert explorer.networks[0].queries["masked-attention"].size == 40
    assert len(explorer.index) == 10
    assert listened[0] == "127.0.0.1"
    said = capsys.readouterr().err
    assert f"open {address}" in said
    assert f":{listened[1]}/?token=" in address


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--port", "0"], "port 0 must be from 1 to 65535"),
        (["--size", "33"], "size 33 must be a multiple of the patch size 8"),
        (["--context", "0.5"], "context 0.5 must be 1 or more"),
        (["--batch-size", "0"], "batch-size 0 must be 1 or more"),
        (["--device", "tpu"], "device: is 'tpu'"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    models: tuple[str, str], scenes: Path, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["explore", models[0], "--data", str(scenes), *arguments])
    assert stop.value.code == 2
    assert why in capsys.readouterr().err


def test_without_the_extra_the_line_says_how_to_install_it(
    models: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("odis.explorer.extra.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["explore", models[0], "--data", "x"])
    assert "starlette is not installed; pip install 'odis[explore]'" in capsys.readouterr().err
