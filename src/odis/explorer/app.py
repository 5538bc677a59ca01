"""The routes of the explorer. Addresses hold numbers and random names, never paths; no file is served."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from odis.errors import OdisError
from odis.explorer.explorer import Explorer
from odis.explorer.guard import Access, Guard
from odis.explorer.pictures import UPLOAD_BYTES, encoded
from odis.explorer.question import read_question
from odis.explorer.refusal import RefusedError

ASK_BYTES = 2**20
"""Bytes of a question, at most."""

_PAGE = Path(__file__).with_name("page")
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_SANDBOX = {
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, max-age=3600",
}
_NUMBER = re.compile(r"[0-9]{1,12}")
_AT_ONCE = 4  # pictures that are decoded at once


def make_app(explorer: Explorer, access: Access) -> Starlette:
    """The ASGI application.

    Args:
        explorer: What answers.
        access: Who may ask.
    """
    files = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.suffix in _KINDS}
    page = (_PAGE / "page.html").read_text(encoding="utf-8").replace("{{key}}", html.escape(access.key))
    decoding = asyncio.Semaphore(_AT_ONCE)

    async def decoded(work: Callable[..., Any], *arguments: Any) -> Any:
        """What reads images, in a thread: the event loop goes on."""
        async with decoding:
            return await asyncio.to_thread(work, *arguments)

    async def index(request: Request) -> Response:
        return Response(page, media_type="text/html")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            raise RefusedError(404, "there is no such file")
        return Response(files[name], media_type=_KINDS[Path(name).suffix])

    async def about(request: Request) -> Response:
        return _json(explorer.about())

    async def status(request: Request) -> Response:
        return _json(explorer.status())

    async def images(request: Request) -> Response:
        label, start, count = (_number(request, name) for name in ("class", "from", "count"))
        return _json(explorer.catalogue.page(label, start or 0, 60 if count is None else count))

    async def of_index(request: Request) -> Response:
        picture = await decoded(explorer.pictures.of_index, _place(request, "row"))
        return _json(await decoded(explorer.picture, picture))

    async def of_upload(request: Request) -> Response:
        return _json(explorer.picture(explorer.pictures.of_upload(request.path_params["name"])))

    async def shown(request: Request) -> Response:
        return _jpeg(await decoded(explorer.pictures.shown, _place(request, "row")))

    async def thumb(request: Request) -> Response:
        return _jpeg(await decoded(explorer.pictures.thumb, _place(request, "row")))

    async def cut_out(request: Request) -> Response:
        row, number = _place(request, "row"), _place(request, "number")
        return _jpeg(await decoded(explorer.pictures.cut_out, row, number))

    async def uploaded(request: Request) -> Response:
        image = explorer.pictures.of_upload(request.path_params["name"]).image
        return _jpeg(await decoded(encoded, image, max(image.size)))

    async def upload(request: Request) -> Response:
        _require_type(request, "application/octet-stream")
        content = await _body(request, UPLOAD_BYTES, "the picture")
        return _json({"upload": await decoded(explorer.pictures.keep_upload, content)})

    async def ask(request: Request) -> Response:
        _require_type(request, "application/json")
        question = read_question(await _body(request, ASK_BYTES, "the question"), len(explorer.networks))
        picture = await decoded(explorer.open, question)
        return _json(await asyncio.wrap_future(explorer.ask(question, picture)))

    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/", index),
        ("GET", "/page/{name}", file),
        ("GET", "/api/about", about),
        ("GET", "/api/status", status),
        ("GET", "/api/images", images),
        ("GET", "/api/image/{row}", of_index),
        ("GET", "/api/upload/{name}", of_upload),
        ("GET", "/image/{row}", shown),
        ("GET", "/thumb/{row}", thumb),
        ("GET", "/object/{row}/{number}", cut_out),
        ("GET", "/upload/{name}", uploaded),
        ("POST", "/api/upload", upload),
        ("POST", "/api/ask", ask),
    ]
    return Starlette(
        routes=[Route(path, answer, methods=[method]) for method, path, answer in routes],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={OdisError: _refused},
    )


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, RefusedError) else 422
    return _json({"error": str(error)}, status)


def _json(value: Any, status: int = 200) -> Response:
    # A path may hold bytes that are no text, which JSON cannot say.
    try:
        content = orjson.dumps(value)
    except orjson.JSONEncodeError:
        content = orjson.dumps(_sayable(value))
    return Response(content, status, media_type="application/json")


def _sayable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_sayable(key): _sayable(one) for key, one in value.items()}
    return [_sayable(one) for one in value] if isinstance(value, list) else value


def _jpeg(content: bytes) -> Response:
    return Response(content, media_type="image/jpeg", headers=_SANDBOX)


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise RefusedError(400, f"{name} must be a whole number")
    return int(text)


def _place(request: Request, name: str) -> int:
    """A number in the path."""
    text = request.path_params[name]
    if not _NUMBER.fullmatch(text):
        raise RefusedError(404, f"there is no {name} {text[:20]!r}")
    return int(text)


def _require_type(request: Request, wanted: str) -> None:
    """Refuse a body of another type: those that forms can send need no preflight."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise RefusedError(415, f"the content type must be {wanted}")


async def _body(request: Request, most: int, what: str) -> bytes:
    """The body, of a bounded size whatever its header says."""
    too_large = RefusedError(413, f"{what} is larger than {most // 2**20} MiB")
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or len(declared) > 15 or int(declared) > most:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)
