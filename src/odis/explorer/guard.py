"""Who may speak to the explorer: the browser that was given its address, on this machine, and no other page.

- Host: only loopback names are answered. A page elsewhere whose name was rebound to 127.0.0.1 (DNS rebinding)
  sends its own name.
- Token: the printed address holds a random one. The first visit exchanges it for a strict cookie and moves to
  the bare address, so that it stays in no history, log or Referer.
- Writes: the Origin must be this server, and a header must hold a key that only the page knows.

The raw headers and the path of the ASGI scope are looked at, never a URL put together from them.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = re.compile(rb"(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
"""Names of this machine. The port may be another one, as of an SSH tunnel: it is no part of who asks."""

KEY_HEADER = b"x-odis-key"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class Access:
    """The secrets of one server.

    Args:
        port: Where it listens; cookies do not tell ports apart, so its name does.
        token: Random; made here unless given.
    """

    def __init__(self, port: int, token: str | None = None) -> None:
        self.token = secrets.token_urlsafe(32) if token is None else token
        self.key = hmac.digest(self.token.encode(), b"writes", "sha256").hex()
        self.cookie = f"odis-explore-{port}"
        self.address = f"http://127.0.0.1:{port}/?token={self.token}"


class Guard:
    """ASGI middleware that lets nothing through but what the module describes, and adds the headers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or hand on one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']}: only HTTP is served")
        refused = self._answer(scope)
        app: ASGIApp = self.app if refused is None else refused
        await app(scope, receive, _with_headers(send))

    def _answer(self, scope: Scope) -> Response | None:
        """The answer to what goes no further; None for what does."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = _values(headers, b"host")
        if len(hosts) != 1 or HOST.fullmatch(hosts[0]) is None:
            return PlainTextResponse("This server answers to localhost and 127.0.0.1 only.", 400)
        method, path = scope["method"], scope["path"]
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if method in ("GET", "HEAD") and path == "/" and given:
            if not _same(given[0], self.access.token):
                return _unknown()
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self.access.cookie, self.access.token, httponly=True, samesite="strict")
            return answer
        if not any(_same(value, self.access.token) for value in _cookies(headers, self.access.cookie)):
            return _unknown()
        if method in ("GET", "HEAD"):
            return None
        origins, keys = _values(headers, b"origin"), _values(headers, KEY_HEADER)
        if [origin.lower() for origin in origins] != [b"http://" + hosts[0].lower()]:
            return PlainTextResponse("This request came from another page.", 403)
        if len(keys) != 1 or not _same(keys[0].decode("latin-1"), self.access.key):
            return PlainTextResponse("This request came from another page. Load the page again.", 403)
        return None


def _unknown() -> Response:
    return PlainTextResponse(
        "This browser does not have the token of this explorer. Open the address that odis explore printed.",
        403,
    )


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _cookies(headers: Iterable[tuple[bytes, bytes]], name: str) -> list[str]:
    parts = [part for value in _values(headers, b"cookie") for part in value.decode("latin-1").split(";")]
    pairs = [part.strip().partition("=") for part in parts]
    return [value for key, _, value in pairs if key == name]


def _with_headers(send: Send) -> Send:
    """`send` with the headers that every answer has, unless it has one of them itself."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            there: list[Any] = list(message.get("headers", ()))
            known = {key for key, _ in there}
            message = {**message, "headers": there + [h for h in _HEADERS.items() if h[0] not in known]}
        await send(message)

    return sent
