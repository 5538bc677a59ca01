"""The routes: numbers, not paths; bodies and answers are bounded; a bad request is one line."""

import time
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.explorer.app import ASK_BYTES
from odis.explorer.pictures import UPLOAD_BYTES


@pytest.mark.parametrize(
    "escape",
    [
        "../conftest.py", "..%2f..%2fpyproject.toml", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
        "//etc/passwd", "....//main.js", "..\\main.js", "C:\\x", "page.html", "../page/main.js", "main.js%00",
        "../pages/x",
        ".", "",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(client: Any, escape: str) -> None:
    for target in (
        f"/page/{escape}",
        f"/page/{quote(escape, safe='')}",
        f"/image/{escape}",
        f"/upload/{escape}",
    ):
        assert client.get(target).status == 404, target


def test_links_beside_the_page_and_in_the_index_serve_no_file_bytes(client: Any, tmp_path: Path) -> None:
    """Files of the page are read once, by name; images are always decoded and written anew."""
    reply = client.get("/image/0")
    assert reply.headers["content-type"] == "image/jpeg"
    with Image.open(BytesIO(reply.body)) as shown:
        assert shown.format == "JPEG"
        assert not shown.getexif()
    stored = (Path(client.explorer.index.root) / client.explorer.index.image_name(0)).read_bytes()
    assert reply.body != stored


@pytest.mark.parametrize(
    "target",
    ["/image/10", "/image/-1", "/image/99999999999999999999", f"/image/{'9' * 5000}", "/image/³",
     "/image/1.0", "/thumb/10", "/object/0/2", "/object/10/0",
     "/api/image/10", "/upload/0123456789abcdef", "/api/upload/x", "/api/images?class=9", "/object/0/-1"],
)  # fmt: skip
def test_what_is_not_there_is_404(client: Any, target: str) -> None:
    assert client.get(target).status == 404


@pytest.mark.parametrize("query", ["from=-1", "count=0", "count=100000", "class=x", "class=1e3", "count=³"])
def test_numbers_out_of_range_are_400(client: Any, query: str) -> None:
    assert client.get(f"/api/images?{query}").status in (400, 404)


def test_names_go_out_as_json_text_alone(client: Any) -> None:
    about = client.get("/api/about")
    assert about.headers["content-type"] == "application/json"
    assert [one["name"] for one in about.json["index"]["classes"]] == client.CLASSES[:2]
    picture = client.get("/api/image/0")
    assert "onerror" in picture.json["name"]
    assert picture.json["objects"][0]["class"] == client.CLASSES[0]
    assert b"<script>" not in client.get("/").body


def test_a_bomb_of_ranges_is_an_answer_as_any_other(client: Any) -> None:
    ranges = b"bytes=" + b",".join(b"%d-%d" % (k, k) for k in range(20000))
    start = time.process_time()
    for target in ("/page/main.js", "/image/0"):
        reply = client("GET", target, client.headers() | {b"range": ranges})
        assert reply.status == 200
        assert "content-range" not in reply.headers
    assert time.process_time() - start < 1


def test_a_question_that_is_too_long_is_refused_before_it_is_read(client: Any) -> None:
    headers = client.headers(True) | {b"content-type": b"application/json"}
    for declared in (str(ASK_BYTES + 1).encode(), b"9" * 40, b"-1", b"x"):
        assert client("POST", "/api/ask", headers | {b"content-length": declared}, b"{}").status == 413
    assert client("POST", "/api/ask", headers, b" " * (ASK_BYTES + 1)).status == 413  # whatever was declared


def png(width: int, height: int) -> bytes:
    written = BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(written, "PNG")
    return written.getvalue()


def test_a_picture_that_is_dropped_in_can_be_seen_and_asked_about(client: Any) -> None:
    name = client.post("/api/upload", png(60, 30), b"application/octet-stream").json["upload"]
    about = client.get(f"/api/upload/{name}").json
    assert (about["width"], about["height"], about["objects"]) == (60, 30, [])
    with Image.open(BytesIO(client.get(f"/upload/{name}").body)) as shown:
        assert shown.size == (60, 30)
    client.embedded()
    reply = client.ask({"box": [5, 5, 30, 25]}, picture={"upload": name})
    assert reply.status == 200
    answer = reply.json["answers"][0]["modes"]["masked-attention"]
    assert len({(one["row"], one["number"]) for one in answer["neighbours"]}) == 12
    assert client.ask({"object": 0}, picture={"upload": name}).status == 404


def test_an_upload_that_is_too_large_or_no_picture_is_one_line(client: Any) -> None:
    def upload(content: bytes) -> tuple[int, str]:
        reply = client.post("/api/upload", content, b"application/octet-stream")
        return reply.status, reply.json["error"]

    assert upload(b"x" * (UPLOAD_BYTES + 1)) == (413, "the picture is larger than 20 MiB")
    for content in (
        b"",
        b"no picture",
        png(8, 8)[:40],
        b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
    ):
        status, why = upload(content)
        assert status == 415
        assert "\n" not in why


@settings(max_examples=60)
@given(
    st.binary(max_size=300) | st.binary(max_size=60).map(lambda more: png(8, 8)[: -len(more) or None] + more)
)
def test_any_upload_is_a_picture_or_one_line(client: Any, content: bytes) -> None:
    reply = client.post("/api/upload", content, b"application/octet-stream")
    assert reply.status in (200, 413, 415)
    assert ("upload" in reply.json) == (reply.status == 200)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["row", "box", "masked-attention"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def _one(pair: tuple[str, Any]) -> dict[str, Any]:
    return {pair[0]: pair[1]}


@settings(max_examples=40)
@given(
    st.fixed_dictionaries(
        {
            "tab": st.just("x") | json_values,
            "picture": st.just({"row": 1}) | json_values,
            "region": st.one_of(
                json_values,
                st.builds(
                    lambda k, v: {k: v}, st.sampled_from(["box", "object", "mask", "whole"]), json_values
                ),
                st.builds(lambda v: {"box": v}, st.lists(st.floats(-100, 100), min_size=4, max_size=4)),
            ),
            "networks": st.just([0]) | json_values,
            "modes": st.just(["crop"]) | json_values,
        }
    )
)
def test_any_question_is_an_answer_or_one_line(client: Any, question: dict) -> None:
    reply = client.post("/api/ask", question)
    assert reply.status in (200, 400, 404)
    assert ("answers" in reply.json) == (reply.status == 200)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100000, b"\xff", b"NaN", b"[]", b"3", b'"x"'])
def test_what_is_no_json_object_is_400(client: Any, body: bytes) -> None:
    assert client.post("/api/ask", body).status == 400
