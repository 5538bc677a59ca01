"""Bytes of images from shards and from stores that fail: all of them, or one line that says what is wrong."""

import datetime
import multiprocessing
import os
import ssl
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odis.errors import DataError, UnreachableError
from odis.objects.storage import reading
from odis.objects.storage.address import (
    Member,
    holds_secret,
    is_remote,
    parse_member,
    resolve,
    without_secrets,
)
from odis.objects.storage.byte_cache import ByteCache
from odis.objects.storage.hub import hub_options
from odis.objects.storage.reading import ByteReader, read_bytes
from odis.objects.storage.tar_shards import ShardWriter, members

names = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
shards = st.text(
    st.characters(blacklist_characters=":", blacklist_categories=("Cs",)), min_size=1, max_size=20
)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FIRST_WAIT", 0.001)
    hub_options.cache_clear()


@given(shards, st.integers(0, 2**40), st.integers(0, 2**40), names)
def test_an_address_says_all_of_a_member(shard: str, offset: int, length: int, name: str) -> None:
    member = Member(shard, offset, length, name)
    assert parse_member(member.address) == member
    assert member.address.endswith(f"/{name}")


def test_addresses_are_resolved_below_a_folder_or_a_uri(tmp_path: Path) -> None:
    assert resolve(tmp_path, "a/b.jpg") == f"{tmp_path}/a/b.jpg"
    assert resolve(tmp_path, "/else/b.jpg") == "/else/b.jpg"
    assert resolve("s3://bucket/x", "a/b #1.jpg") == "s3://bucket/x/a/b #1.jpg"
    assert resolve("https://host/x", "a/b #1%.jpg") == "https://host/x/a/b%20%231%25.jpg"
    assert resolve("s3://bucket/x", "gs://other/b.jpg") == "gs://other/b.jpg"
    member = Member("000.tar", 512, 9, "a/b.jpg")
    assert resolve(tmp_path, member.address) == f"shard://{tmp_path}/000.tar::512+9/a/b.jpg"
    assert resolve("s3://b", member.address) == "shard://s3://b/000.tar::512+9/a/b.jpg"
    assert not is_remote(resolve(tmp_path, member.address))
    assert is_remote(resolve("s3://b", member.address))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:pw@host/a.jpg", "https://host/a.jpg"),
        ("https://host/a.jpg?x=1&X-Amz-Signature=abc", "https://host/a.jpg?..."),
        ("https://host/a.jpg?sig=abc", "https://host/a.jpg?..."),
        ("zip://a.jpg::https://me:pw@host/a.zip", "zip://a.jpg::https://host/a.zip"),
        ("shard://s3://key:pw@b/0.tar::512+9/a.jpg", "shard://s3://b/0.tar::512+9/a.jpg"),
    ],
)
def test_secrets_are_seen_and_not_shown(address: str, shown: str) -> None:
    assert holds_secret(address)
    assert without_secrets(address) == shown


@pytest.mark.parametrize(
    "address",
    ["a@b.jpg", "s3://bucket/a@b.jpg", "shard://a@b.tar::512+9/c.jpg", "https://host/a.jpg?id=5"],
)
def test_what_is_no_secret_stays(address: str) -> None:
    assert not holds_secret(address)
    assert without_secrets(address) == address


def shard_of(path: Path, contents: dict[str, bytes]) -> dict[str, Member]:
    writer = ShardWriter(path)
    for name, data in contents.items():
        writer.add(name, data)
    writer.close()
    return {name: Member(str(path), offset, length, name) for name, offset, length in members(path)}


def test_members_of_a_shard_are_read_by_their_range(tmp_path: Path) -> None:
    contents = {"a.b.jpg": b"first", "d.x/c.jpg": b"x" * 1000, "e.json": b"{}"}
    found = shard_of(tmp_path / "0.tar", contents)
    assert {name: read_bytes(member.address) for name, member in found.items()} == contents


def test_a_cut_shard_is_named_with_its_offset(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    member = shard_of(shard, {"a.jpg": b"a" * 600, "b.jpg": b"b" * 600})["b.jpg"]
    os.truncate(shard, member.offset + 100)
    with pytest.raises(DataError, match=r"0\.tar ends after 100 of the 600 bytes at 2,048"):
        read_bytes(member.address)
    with pytest.raises(DataError, match=r"0\.tar: is (cut off|no tar file)"):
        list(members(shard))
    with pytest.raises(DataError, match="there is no shard"):
        read_bytes(Member(str(tmp_path / "1.tar"), 0, 5, "a.jpg").address)


def test_bad_requests_are_made_again(image_server: Any) -> None:
    (image_server.folder / "a #1.jpg").write_bytes(content := bytes(range(256)) * 40)
    image_server.fault = lambda number, path: {1: "500", 2: "drop", 3: "403"}.get(number, "")
    assert read_bytes(resolve(image_server.url, "a #1.jpg")) == content
    assert len(image_server.asked) == 4


def test_a_member_behind_a_server_costs_its_own_bytes_and_no_list(image_server: Any) -> None:
    contents = {f"{k}.jpg": bytes([k]) * (1000 + k) for k in range(40)}
    found = shard_of(image_server.folder / "0.tar", contents)
    addresses = [resolve(image_server.url, Member("0.tar", m.offset, m.length, m.name).address)
                 for m in found.values()]  # fmt: skip
    reader = ByteReader()
    with reader.ahead(addresses):
        assert [reader.read(address) for address in addresses] == list(contents.values())
    assert image_server.sent == sum(map(len, contents.values()))
    assert {(method, path) for method, path, _ in image_server.asked} == {("GET", "/0.tar")}
    assert len(image_server.asked) == 40


def test_what_was_written_after_the_first_request_is_found(image_server: Any) -> None:
    with pytest.raises(DataError, match=r"a\.jpg: no such object in its store"):
        read_bytes(f"{image_server.url}/a.jpg")
    (image_server.folder / "a.jpg").write_bytes(b"now")
    assert read_bytes(f"{image_server.url}/a.jpg") == b"now"


def test_a_server_without_ranges_is_refused(image_server: Any) -> None:
    member = shard_of(image_server.folder / "0.tar", {"a.jpg": b"abc"})["a.jpg"]
    image_server.fault = lambda number, path: "whole"
    address = Member(f"{image_server.url}/0.tar", member.offset, member.length, "a.jpg").address
    with pytest.raises(UnreachableError, match="gives no ranges of bytes"):
        read_bytes(address)
    assert len(image_server.asked) == 1


def test_a_shard_cut_behind_a_server_is_named(image_server: Any) -> None:
    member = shard_of(image_server.folder / "0.tar", {"a.jpg": b"a" * 2000})["a.jpg"]
    for left, there in ((member.offset + 10, "10"), (100, "0")):
        os.truncate(image_server.folder / "0.tar", left)
        address = Member(f"{image_server.url}/0.tar", member.offset, 2000, "a.jpg").address
        with pytest.raises(DataError, match=rf"0\.tar ends after {there} of the 2,000 bytes at 512"):
            read_bytes(address)


def test_no_answer_ends_in_one_line_without_secrets(
    image_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image_server.folder / "a.jpg").write_bytes(b"abc")
    address = f"{image_server.url}/a.jpg?api_key=hunter2"
    monkeypatch.setattr(reading, "ATTEMPTS", 3)
    said = []
    for fault in ("500", "403", "slow:0.6"):
        image_server.fault = lambda number, path, fault=fault: fault
        monkeypatch.setattr(reading, "TIMEOUT", 0.2 if fault.startswith("slow") else 20.0)
        with pytest.raises(UnreachableError) as end:
            read_bytes(address)
        said.append(str(end.value))
        assert end.value.__cause__ is None
    image_server.close()
    with pytest.raises(UnreachableError) as end:
        read_bytes(address)
    said.append(str(end.value))
    for line, why in zip(said, ("status 500", "access is denied", "no answer within", "refused")):
        assert why in line.lower()
        assert "\n" not in line
        assert "hunter2" not in line
        assert line.startswith(f"{image_server.url}/a.jpg?...: ")


def test_members_of_a_zip_are_read_where_it_lies(tmp_path: Path, image_server: Any) -> None:
    archive = image_server.folder / "a.zip"
    contents = {"a/b.jpg": os.urandom(3000), "c #1.jpg": b"abc" * 5000, "empty.jpg": b""}
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in contents.items():
            packing = zipfile.ZIP_DEFLATED if data.startswith(b"abc") else zipfile.ZIP_STORED
            file.writestr(name, data, packing)
    for place in (str(archive), f"{image_server.url}/a.zip"):
        for name, data in contents.items():
            if data:
                assert read_bytes(f"zip://{name}::{place}") == data
        with pytest.raises(DataError, match="no such object in its store"):
            read_bytes(f"zip://none.jpg::{place}")
        with pytest.raises(DataError, match=r"is empty \(0 bytes\)"):
            read_bytes(f"zip://empty.jpg::{place}")
    with multiprocessing.get_context("fork").Pool(2) as pool:  # after this process read from it
        found = pool.map_async(read_bytes, [f"zip://a/b.jpg::{archive}"] * 20).get(timeout=60)
    assert found == [contents["a/b.jpg"]] * 20
    damaged = bytearray(archive.read_bytes())
    at = damaged.index(contents["a/b.jpg"])
    damaged[at + 10] ^= 1
    (tmp_path / "damaged.zip").write_bytes(damaged)
    (tmp_path / "cut.zip").write_bytes(damaged[:2000])
    for name in ("damaged", "cut"):
        with pytest.raises(DataError, match=rf"{name}\.zip: its archive is damaged"):
            read_bytes(f"zip://a/b.jpg::{tmp_path / name}.zip")


def be_hub(image_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_ENDPOINT as it is when `huggingface_hub` is imported."""
    address = f"{image_server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("hf://datasets/me/set/data/a 1.tar", "/datasets/me/set/resolve/main/data/a%201.tar"),
        ("hf://datasets/me/set@v1.0/a.tar", "/datasets/me/set/resolve/v1.0/a.tar"),
        ("hf://datasets/me/set@refs%2Fpr%2F1/a.tar", "/datasets/me/set/resolve/refs%2Fpr%2F1/a.tar"),
        ("hf://me/model/a.tar", "/me/model/resolve/main/a.tar"),
    ],
)  # fmt: skip
def test_a_file_of_the_hub_costs_one_request(
    image_server: Any, monkeypatch: pytest.MonkeyPatch, uri: str, asked: str
) -> None:
    be_hub(image_server, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
    target = image_server.folder / unquote(asked).lstrip("/")
    target.parent.mkdir(parents=True)
    target.write_bytes(bytes(range(200)))
    assert read_bytes(Member(uri, 10, 30, "a.jpg").address) == bytes(range(10, 40))
    assert [path for _, path, _ in image_server.asked] == [asked]
    image_server.key = "Bearer hf_hunter2"
    assert read_bytes(Member(uri, 0, 5, "a.jpg").address) == bytes(range(5))
    image_server.fault = lambda number, path: "401"
    with pytest.raises(UnreachableError, match="access is denied") as end:
        read_bytes(uri)
    assert "hunter2" not in str(end.value)


def test_the_hub_is_let_know_who_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    shown = []
    for kept, named in (("", ""), ("kept\n", ""), ("kept\n", "named")):
        (tmp_path / "token").write_text(kept)
        monkeypatch.setenv("HF_TOKEN", named)
        hub_options.cache_clear()
        shown.append(hub_options()["headers"].get("authorization"))
    assert shown == [None, "Bearer kept", "Bearer named"]


def test_the_token_of_the_hub_is_read_again_when_it_is_refused(
    image_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_hub(image_server, monkeypatch)
    (file := image_server.folder / "me/model/resolve/main/a.jpg").parent.mkdir(parents=True)
    file.write_bytes(b"abc")
    for number, token in enumerate(("first", "second")):
        monkeypatch.setenv("HF_TOKEN", token)
        image_server.key = f"Bearer {token}"
        before = len(image_server.asked)
        assert [read_bytes("hf://me/model/a.jpg") for _ in range(3)] == [b"abc"] * 3
        assert len(image_server.asked) - before == 3 + number


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("hf://set/a.tar", r"must be hf://datasets/OWNER/NAME\[@REVISION\]/PATH"),
        ("hf://datasets/me/a set/a.tar", "Repo id must use alphanumeric chars.*"),
    ],
)
def test_a_bad_address_of_the_hub_is_told_what_it_must_be(uri: str, why: str) -> None:
    with pytest.raises(UnreachableError, match=rf"^{uri}: is no address that can be opened \({why}\)$"):
        read_bytes(uri)


def test_a_certificate_that_nobody_signed_is_called_that(image_server: Any, tmp_path: Path) -> None:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
    text = serialization.Encoding.PEM
    (tmp_path / "a.pem").write_bytes(
        made.sign(key, hashes.SHA256()).public_bytes(text)
        + key.private_bytes(text, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "a.pem")
    plain = image_server.url.replace("http://", "https://")
    image_server.socket = context.wrap_socket(image_server.socket, server_side=True)
    with pytest.raises(
        UnreachableError, match=r": its server's certificate is not trusted \(self.signed certi"
    ):
        read_bytes(f"{plain}/a.jpg")


@pytest.mark.parametrize(
    ("uri", "package"),
    [
        ("gs://b/a.jpg", "gcsfs"),
        ("s3://b/a.jpg", "s3fs"),
        ("https://h/a.jpg", "fsspec.implementations.http"),  # which needs aiohttp
        ("hf://a/b/c", "fsspec.implementations.http"),
        ("s3://b/a.jpg", "fsspec"),
    ],
)
def test_a_package_that_is_missing_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch, uri: str, package: str
) -> None:
    pytest.importorskip("fsspec")
    known = sys.modules["fsspec.registry"]._registry  # type: ignore[attr-defined]
    for scheme in ("gs", "s3", "https"):
        monkeypatch.delitem(known, scheme, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnreachableError) as end:
        read_bytes(uri)
    needs = f"{uri.partition('://')[0]}:// needs packages that are not installed"
    assert str(end.value) == f"{uri}: {needs}; pip install 'odis[remote]'"


def test_an_unknown_scheme_is_one_line() -> None:
    for uri in ("nowhere://x", "zip://a.jpg::nowhere://x"):
        with pytest.raises(UnreachableError, match=r"is no address that can.*; fsspec must know nowhere://$"):
            read_bytes(uri)


def test_a_process_forked_after_the_parent_read_reads_too(image_server: Any) -> None:
    (image_server.folder / "a.jpg").write_bytes(b"abc")
    address = f"{image_server.url}/a.jpg"
    reader = ByteReader()
    with reader.ahead([address, f"{address}?2"]):  # threads and a client in this process
        assert reader.read(address) == b"abc"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        done = pool.map_async(_read_ahead, [(reader, address)] * 2)
        assert done.get(timeout=60) == [b"abcabc"] * 2


def _read_ahead(given: tuple[ByteReader, str]) -> bytes:
    reader, address = given
    with reader.ahead([address, f"{address}?2"]):
        return reader.read(address) + reader.read(f"{address}?2")


def test_a_damaged_file_of_the_cache_is_fetched_again(tmp_path: Path, image_server: Any) -> None:
    (image_server.folder / "a.jpg").write_bytes(b"abc")
    reader = ByteReader(ByteCache(tmp_path / "kept", 10**6))
    address = f"{image_server.url}/a.jpg"
    assert [reader.read(address) for _ in range(3)] == [b"abc"] * 3
    assert len(image_server.asked) == 1
    (file,) = (path for path in (tmp_path / "kept").rglob("*") if path.is_file() and path.name != ".lock")
    file.write_bytes(b"abd" + file.read_bytes()[3:])
    assert reader.read(address) == b"abc"
    assert len(image_server.asked) == 2


def test_eight_processes_that_read_one_new_image_get_the_same(tmp_path: Path, image_server: Any) -> None:
    (image_server.folder / "a.jpg").write_bytes(content := os.urandom(300_000))
    reader = ByteReader(ByteCache(tmp_path / "kept", 10**8))
    image_server.fault = lambda number, path: "slow:0.05"
    with multiprocessing.get_context("fork").Pool(8) as pool:
        found = pool.map_async(reader.read, [f"{image_server.url}/a.jpg"] * 24, chunksize=1).get(timeout=60)
    assert found == [content] * 24


def test_reading_ahead_asks_for_many_at_the_same_time(image_server: Any) -> None:
    """No request is answered before as many are under way as there are threads: one after the other fails."""
    addresses = []
    for k in range(4 * reading.THREADS):
        (image_server.folder / f"{k}.jpg").write_bytes(bytes([k + 1]))
        addresses.append(f"{image_server.url}/{k}.jpg")
    together = threading.Barrier(reading.THREADS)

    def wait(number: int, path: str) -> str:
        together.wait(timeout=60)
        return ""

    image_server.fault = wait
    reader = ByteReader()
    with reader.ahead(addresses):
        found = [reader.read(address)[0] for address in addresses]
    assert found == list(range(1, len(addresses) + 1))
    assert len(image_server.asked) == len(addresses)


def test_s3_is_read_with_the_usual_environment(image_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gives what S3 gives to a request for a range; its name comes from the environment."""
    pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": image_server.url,
        "AWS_ACCESS_KEY_ID": "AKIAHUNTER",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    (image_server.folder / "bucket").mkdir()
    member = shard_of(image_server.folder / "bucket" / "0.tar", {"a.jpg": b"abc" * 100})["a.jpg"]
    address = Member("s3://bucket/0.tar", member.offset, member.length, "a.jpg").address
    image_server.fault = lambda number, path: "500" if number == 1 else ""
    assert read_bytes(address) == b"abc" * 100
    assert {(method, path.partition("?")[0]) for method, path, _ in image_server.asked} == {
        ("GET", "/bucket/0.tar")
    }
    with pytest.raises(DataError, match="no such object in its store"):
        read_bytes("s3://bucket/b.jpg")
    # Credentials that expire: the client is kept, and is made anew once with those of the environment.
    image_server.key = "AKIAHUNTER"
    assert read_bytes(address) == b"abc" * 100
    image_server.key = "AKIARENEWED"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIARENEWED")
    before = len(image_server.asked)
    assert read_bytes(address) == b"abc" * 100
    assert len(image_server.asked) == before + 2
    image_server.fault = lambda number, path: "403"
    with pytest.raises(UnreachableError, match="access is denied") as end:
        read_bytes(address)
    assert "hunter" not in str(end.value).lower()
