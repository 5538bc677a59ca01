"""Who is let in: names of this machine only, the token once, then its cookie; writes from the page alone."""

import re
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from starlette.routing import Route

import odis.explorer
from odis.explorer.guard import Access, Guard

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [
    "/",
    "/page/main.js",
    "/api/about",
    "/api/status",
    "/api/images",
    "/image/0",
    "/thumb/0",
    "/nothing",
]


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example", b"127.0.0.1.evil.example", b"evil.example:8768", b"localhost.evil.example", b"",
        b"127.0.0.1:8768@evil.example", b"127.0.0.1:8768/x", b"[::1]evil", b"0.0.0.0:8768",
        b"192.168.0.7:8768",
        b"localhost:8768\r", b"127.0.0.1:999999",
    ],
)  # fmt: skip
def test_another_host_gets_400_on_every_route(client: Any, host: bytes) -> None:
    for target in [*TARGETS, f"/?token={client.access.token}"]:
        reply = client("GET", target, client.headers() | {b"host": host})
        assert reply.status == 400
        assert "set-cookie" not in reply.headers
    written = client.headers(True) | {b"host": host, b"origin": b"http://" + host}  # as a rebound page says
    assert client("POST", "/api/ask", written, b"{}").status == 400


def test_a_host_that_is_not_sent_or_sent_twice_gets_400(client: Any) -> None:
    headers = client.headers()
    del headers[b"host"]
    assert client("GET", "/", headers).status == 400
    guard = Guard(client.app, client.access)
    twice = [(b"host", client.HOST), (b"host", b"evil.example")]
    answer = guard._answer({"headers": twice, "method": "GET", "path": "/", "query_string": b""})
    assert answer is not None
    assert answer.status_code == 400


@pytest.mark.parametrize("host", [b"localhost:8768", b"127.0.0.1", b"[::1]:8768", b"LocalHost:9000"])
def test_names_of_this_machine_are_answered_on_any_port_of_a_tunnel(client: Any, host: bytes) -> None:
    assert client("GET", "/api/about", client.headers() | {b"host": host}).status == 200


def test_the_token_is_exchanged_for_a_strict_cookie_and_leaves_the_address(client: Any) -> None:
    reply = client("GET", f"/?token={client.access.token}", {b"host": client.HOST})
    assert (reply.status, reply.headers["location"]) == (303, "/")
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith(f"{client.access.cookie}={client.access.token};")
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    given = cookie.partition(";")[0].encode()
    page = client("GET", "/", {b"host": client.HOST, b"cookie": b"other=1; " + given})
    assert page.status == 200
    assert client.access.token.encode() not in page.body


@pytest.mark.parametrize("target", [*TARGETS, "/?token=wrong", "/?token=", "/?token=%00", "/?token=%E2%82"])
def test_without_the_token_everything_is_403_and_nothing_is_told(client: Any, target: str) -> None:
    for cookie in (b"", b"x=y", f"{client.access.cookie}=wrong".encode(), client.access.token.encode()):
        reply = client("GET", target, {b"host": client.HOST, b"cookie": cookie})
        assert reply.status == 403
        assert b"odis explore printed" in reply.body


def test_a_token_elsewhere_than_in_the_first_address_does_not_count(client: Any) -> None:
    assert client("GET", f"/api/about?token={client.access.token}", {b"host": client.HOST}).status == 403
    assert client("POST", f"/?token={client.access.token}", {b"host": client.HOST}).status == 403


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop(b"origin"),
        lambda h: h.update({b"origin": b"null"}),
        lambda h: h.update({b"origin": b"http://evil.example"}),
        lambda h: h.update({b"origin": b"http://127.0.0.1:9999"}),  # another server of this machine
        lambda h: h.update({b"origin": b"https://127.0.0.1:8768"}),
        lambda h: h.pop(b"x-odis-key"),  # what a form of another page cannot send
        lambda h: h.update({b"x-odis-key": b"guess"}),
    ],
    ids=["no origin", "null", "another site", "another port", "another scheme", "no key", "wrong key"],
)
def test_a_write_from_another_page_gets_403(
    client: Any, change: Callable[[dict[bytes, bytes]], None]
) -> None:
    question = b'{"tab":"x","picture":{"row":0},"region":{"whole":true},"networks":[0],"modes":["crop"]}'
    headers = client.headers(True) | {b"content-type": b"application/json"}
    assert client("POST", "/api/ask", headers, question).status == 200
    change(headers)
    assert client("POST", "/api/ask", headers, question).status == 403
    assert client("POST", "/api/upload", headers, b"x").status == 403


@pytest.mark.parametrize(
    "kind", [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"]
)
def test_what_a_form_can_send_is_no_question(client: Any, kind: bytes) -> None:
    assert client.post("/api/ask", {"tab": "x"}, kind).status == 415
    assert client.post("/api/upload", b"x", kind).status == 415


def test_every_answer_forbids_to_embed_to_sniff_and_to_tell_where_one_was(client: Any) -> None:
    for target in TARGETS:
        headers = client.get(target).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy  # quoted: `none` alone would name a host
        assert "unsafe" not in policy
    assert "sandbox" in client.get("/thumb/0").headers["content-security-policy"]


def test_tokens_are_random_and_the_key_of_writes_is_another() -> None:
    one, two = Access(1), Access(1)
    assert one.token != two.token
    assert len(one.token) >= 43  # 256 bits
    assert one.token not in one.key
    assert one.key != two.key
    assert Access(1, one.token).key == one.key
    assert Access(2).cookie != one.cookie


def test_the_page_holds_the_key_and_loads_from_here_alone(client: Any) -> None:
    page = client.get("/").body.decode()
    assert client.access.key in page
    assert "{{" not in page
    loaded = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert loaded
    assert all(address.startswith(("/page/", "#", "data:")) for address in loaded)
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", page), "no script or style within"


def test_no_url_is_put_together_from_what_a_request_says() -> None:
    """Starlette makes `request.url` from the Host header; paths and hosts are checked as they came."""
    for path in Path(odis.explorer.__file__).parent.glob("*.py"):
        assert not re.search(r"\.url\b|base_url|url_for", path.read_text()), path.name


def test_a_target_that_is_no_path_poisons_nothing(client: Any) -> None:
    """`GET @evil.example` made an older starlette believe in another host."""
    for target in ("@evil.example/", "evil.example", "http://evil.example/"):
        reply = client("GET", target, client.headers())
        assert (reply.status, reply.headers.get("location")) == (404, None)
        assert client("GET", target, {b"host": client.HOST}).status == 403


def test_the_versions_of_starlette_with_known_holes_are_not_installed() -> None:
    """1.3.0 is the first without CVE-2025-62727 (ranges), CVE-2026-48710 and CVE-2026-54282 (the URL)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        one.name: one.specifier for one in map(Requirement, project["optional-dependencies"]["explore"])
    }
    for version in ("0.49.0", "1.0.0", "1.2.9"):
        assert version not in wanted["starlette"]
    assert metadata.version("starlette") in wanted["starlette"]


def test_modules_of_the_page_import_what_they_use() -> None:
    """A name that is missing would stop the page where it is first needed, and only there."""
    folder = Path(odis.explorer.__file__).parent / "page"
    texts = {path.name: path.read_text() for path in folder.glob("*.js")}
    exported = r"^export (?:const|let|function|async function) (\w+)"
    names = {name: text for text in texts for name in re.findall(exported, texts[text], re.MULTILINE)}
    assert {"counted", "el", "outline"} <= names.keys()
    for file, text in texts.items():
        imports = re.findall(r"^import \{([^}]*)\} from \"\./([\w.]+)\";", text, re.MULTILINE)
        known = {name.strip(): source for line, source in imports for name in line.split(",")}
        assert all(names[name] == source for name, source in known.items()), file
        for name, source in names.items():
            if re.search(rf"(?<![.\w]){name}\(", text) and source != file and name not in known:
                assert re.search(rf"(?:const|let|function) {name}\b|\b{name}\([^)]*\) {{", text), (file, name)


def test_only_get_is_routed_where_nothing_is_written(client: Any) -> None:
    routes = [route for route in client.app.routes if isinstance(route, Route)]
    writing = {route.path for route in routes if route.methods and "POST" in route.methods}
    assert writing == {"/api/ask", "/api/upload"}
    for target in ("/api/about", "/image/0"):
        assert client.post(target, {}).status == 405
