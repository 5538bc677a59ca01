"""Reading the bytes of an address: byte ranges of files and stores, tried again when a store fails.

No store is opened before it is needed, and none is handed to a process that is forked later: clients keep
sockets and threads, which do not survive that. No folder is ever listed, so what was written after a run
began is found.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

from odis.config.wording import counted
from odis.errors import DataError, UnreachableError
from odis.objects.storage.address import (
    MOST_PAGE,
    Member,
    Page,
    file_of,
    is_remote,
    parse_member,
    without_secrets,
)
from odis.objects.storage.byte_cache import ByteCache
from odis.objects.storage.hub import HUB, hub_options, hub_url

ATTEMPTS = 8
"""Requests for one image, at most."""

FIRST_WAIT = 0.1
"""Seconds before the second attempt; each later wait is twice the one before it."""

TIMEOUT = 20.0
"""Seconds that one request may take."""

PATIENCE = 90.0
"""Seconds after which no further attempt begins: less than idle data workers are given."""

THREADS = 16
"""Requests of one process at a time; as many images again may wait to be read."""

_INSTALL = "pip install 'odis[remote]'"


class ByteReader:
    """Bytes of images by their addresses.

    Args:
        cache: Keeps what was fetched from stores.
    """

    def __init__(self, cache: ByteCache | None = None) -> None:
        self.cache = cache
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._coming: dict[str, Future[bytes]] = {}
        self._waiting: Iterator[str] = iter(())

    def read(self, address: str) -> bytes:
        """The content of an image, whole.

        Raises:
            DataError: There is no such image, or its shard ends before it does.
            UnreachableError: Its store does not answer, or lacks a package.
        """
        coming = self._coming.pop(address, None)
        if coming is None:
            return self._fetch(address)
        self._submit(1)
        return coming.result()

    @contextmanager
    def ahead(self, addresses: Iterable[str]) -> Iterator[None]:
        """Fetch these images at the same time, in the background, for `read` within the block; those on this
        machine are left to `read`.
        """
        remote = [address for address in dict.fromkeys(addresses) if is_remote(address)]
        if len(remote) < 2:
            yield
            return
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = os.getpid(), ThreadPoolExecutor(THREADS, "odis-read")
        self._coming, self._waiting = {}, iter(remote)
        self._submit(2 * THREADS)
        try:
            yield
        finally:
            for future in self._coming.values():
                future.cancel()
            self._coming, self._waiting = {}, iter(())

    def _submit(self, count: int) -> None:
        assert self._pool is not None
        for address in islice(self._waiting, count):
            self._coming[address] = self._pool[1].submit(self._fetch, address)

    def _fetch(self, address: str) -> bytes:
        if self.cache is None or not is_remote(address):
            return read_bytes(address)
        data = self.cache.get(address)
        if data is None:
            data = read_bytes(address)
            self.cache.put(address, data)
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {"cache": self.cache, "_pool": None, "_coming": {}, "_waiting": iter(())}


def read_bytes(address: str) -> bytes:
    """`ByteReader.read` without a cache.

    Raises:
        DataError: See there.
        UnreachableError: See there.
    """
    member = parse_member(address)
    if member is None:
        data = _Request(address, address, None).answer()
        if not data:
            raise DataError(f"{without_secrets(address)}: is empty (0 bytes)")
        return data
    if not member.length:
        raise DataError(f"{without_secrets(member.address)}: is empty (0 bytes)")
    if "://" in member.shard:
        data = _Request(member.address, member.shard, (member.offset, member.offset + member.length)).answer()
    else:
        data = _read_range(member)
    if len(data) != member.length or not data:
        raise _cut(member, len(data))
    return data if member.page is None else _unpacked(member, member.page, data)


def _unpacked(member: Member, page: Page, data: bytes) -> bytes:
    """The member, out of the page that it is in."""
    import pyarrow as pa

    try:
        if page.size > MOST_PAGE:
            raise ValueError(f"says that it unpacks to {counted(page.size, 'byte')}")
        whole = pa.Codec(page.codec).decompress(data, page.size)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{without_secrets(member.address)}: its page cannot be unpacked ({page.codec}: {why})"
        ) from error
    content = bytes(whole[page.start : page.start + page.length])
    if len(content) != page.length or not content:
        raise DataError(f"{without_secrets(member.address)}: its page ends before it does")
    return content


def _read_range(member: Member) -> bytes:
    # Opened each time, as a file would be: kept open, a shard that was replaced would be read on.
    try:
        file = os.open(member.shard, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            os.lseek(file, member.offset, os.SEEK_SET)
            parts, left = [], min(member.length, os.fstat(file).st_size)
            while left and (part := os.read(file, left)):
                parts.append(part)
                left -= len(part)
        finally:
            os.close(file)
    except FileNotFoundError as error:
        raise DataError(f"{member.address}: there is no shard {member.shard}") from error
    except (OSError, ValueError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{member.address}: cannot be read ({why})") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _cut(member: Member, there: int) -> DataError:
    return DataError(
        f"{member.address}: {without_secrets(member.shard)} ends after {there:,} of the "
        f"{counted(member.length, 'byte')} at {member.offset:,}"
    )


class _Request:
    """One image, or one range of bytes, of a store.

    What a client says of an error may hold keys and signed addresses; only its kind is passed on.
    """

    def __init__(self, address: str, uri: str, part: tuple[int, int] | None) -> None:
        self.address, self.uri, self.part = address, uri, part
        self.shown = without_secrets(address)

    def answer(self) -> bytes:
        """The bytes.

        Raises:
            DataError: There is no such object.
            UnreachableError: The store does not give it.
        """
        began, renewed = time.monotonic(), False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._ask(renewed)
            except UnreachableError:
                raise
            except (FileNotFoundError, KeyError):  # KeyError: of a zip file
                raise DataError(f"{self.shown}: no such object in its store") from None
            except IsADirectoryError:
                raise DataError(f"{self.shown}: is a folder of its store") from None
            except (zipfile.BadZipFile, zlib.error):
                raise DataError(f"{self.shown}: its archive is damaged") from None
            except ssl.SSLCertVerificationError as error:  # which is a ValueError
                raise UnreachableError(
                    f"{self.shown}: its server's certificate is not trusted{_distrust(error)}"
                ) from None
            except (ImportError, ValueError) as error:
                raise UnreachableError(f"{self.shown}: {_missing(self.uri, error)}") from None
            except Exception as error:  # each client has errors of its own, and most are not OSErrors
                if _is_beyond_end(error):
                    return b""
                refused = _is_refusal(error)
                if refused and renewed:  # a second time, with fresh credentials
                    raise UnreachableError(
                        f"{self.shown}: access is denied; credentials are taken from the environment, as the "
                        f"store's own tools do"
                    ) from None
                renewed |= refused
                last = error
            wait = FIRST_WAIT * 2 ** (attempt - 1)
            if attempt == ATTEMPTS or time.monotonic() + wait - began > PATIENCE:
                break
            time.sleep(wait)
        seconds = time.monotonic() - began
        raise UnreachableError(
            f"{self.shown}: cannot be reached: {_kind(last)} ({attempt} attempts in {seconds:.0f} s)"
        ) from None

    def _ask(self, renew: bool) -> bytes:
        import fsspec
        from fsspec.core import url_to_fs

        uri, options = self.uri, {}
        if uri.startswith(HUB):
            if renew:
                hub_options.cache_clear()
            uri, options = self._on_hub(), hub_options()
        with _opening:
            if renew:  # a client that is kept keeps its credentials too
                fsspec.get_filesystem_class(uri.partition("://")[0]).clear_instance_cache()
            fs, path = url_to_fs(uri, **options)
        more = {"timeout": TIMEOUT} if getattr(fs, "async_impl", False) else {}
        start, end = self.part or (None, None)
        data = bytes(fs.cat_file(path, start=start, end=end, **more))
        if self.part is not None and len(data) > self.part[1] - self.part[0]:
            raise UnreachableError(f"{self.shown}: its server gives no ranges of bytes, only whole files")
        return data

    def _on_hub(self) -> str:
        try:
            return hub_url(self.uri)
        except ValueError as error:
            why = str(error).splitlines()[0]
            raise UnreachableError(f"{self.shown}: is no address that can be opened ({why})") from None


_opening = threading.Lock()


def _missing(uri: str, error: Exception) -> str:
    scheme = uri.partition("://")[0]
    if isinstance(error, ImportError):
        return f"{scheme}:// needs packages that are not installed; {_INSTALL}"
    from fsspec import available_protocols

    known = set(available_protocols())
    unknown = [one for one in re.findall(r"(?:^|::)([^:/]+)://", uri) if one not in known]
    more = f"; fsspec must know {unknown[0]}://" if unknown else ""
    return f"is no address that can be opened ({type(error).__name__}){more}"


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    said = getattr(getattr(error, "certificate_error", error), "verify_message", "")  # aiohttp wraps it
    return f" ({said.rstrip('.')})" if said else ""


def _status(error: BaseException) -> int | None:
    """The status of HTTP that a client's error names."""
    for one in (error, error.__cause__):
        status = getattr(one, "status", None)
        if isinstance(status, int):
            return status
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
        status = getattr(answer, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _is_beyond_end(error: Exception) -> bool:
    return _status(error) == 416


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, PermissionError) or _status(error) in (401, 403)


def _kind(error: Exception) -> str:
    """What went wrong, without the words of the client."""
    if (status := _status(error)) is not None:
        return f"it answers with status {status}"
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:.0f} s"
    if isinstance(error, ssl.SSLError):  # its number is none of the system's
        return "the connection cannot be secured by TLS"
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    return type(error).__name__


def state_of(address: str) -> tuple[int, ...] | None:
    """Size and time of change of the file behind an address, by which copies of it are told apart; empty for
    a store, which is taken not to change; None if there is no file.
    """
    if is_remote(address):
        return ()
    try:
        now = os.stat(file_of(address))
    except OSError:
        return None
    return now.st_size, now.st_mtime_ns
