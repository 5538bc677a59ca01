"""Tar shards: written so that webdataset reads them too, and listed so that odis reads them in place.

The layout of a header is that of POSIX.1-1988 (ustar): 512 bytes, then the content, filled up to 512.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from odis.config.wording import counted
from odis.errors import DataError

_BLOCK = 512

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")
"""How files of gzip, bzip2, xz and zstd begin."""


class ShardWriter:
    """Adds members to a new tar, one behind the other; two calls with the same give the same bytes.

    Args:
        path: The temporary file to write to.
    """

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.TarFile(path, "w", format=tarfile.USTAR_FORMAT)
        self.size = 0  # bytes so far

    def add(self, name: str, data: bytes) -> int:
        """Add a member; returns where its content begins."""
        info = tarfile.TarInfo(name)  # of time 0, and of nobody
        info.size = len(data)
        start = self._tar.offset + _BLOCK
        self._tar.addfile(info, BytesIO(data))
        self.size = self._tar.offset
        return start

    def close(self) -> None:
        """End the shard."""
        self._tar.close()


def members(
    path: Path, passed_over: Callable[[str], None] = lambda name: None
) -> Iterator[tuple[str, int, int]]:
    """Name, offset and length of every file in a tar, in its order; its content is not read.

    Args:
        path: The tar.
        passed_over: Called with the name of each member that is neither a file nor a folder: a link, or a
            file with holes, whose content is not in one piece.

    Raises:
        DataError: It is no plain tar, or it is cut off.
    """
    try:
        size = os.path.getsize(path)
        with path.open("rb") as file:
            head = file.read(4)
        if any(head.startswith(magic) for magic in _COMPRESSED):
            raise DataError(f"{path}: is compressed; images are read in place, so unpack it to a plain tar")
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if not info.isfile() or info.sparse is not None:
                    if not info.isdir():
                        passed_over(info.name)
                    continue
                if info.offset_data + info.size > size:
                    raise DataError(
                        f"{path}: is cut off: {info.name} at {info.offset_data:,} has "
                        f"{counted(info.size, 'byte')}, and the shard ends at {size:,}"
                    )
                yield info.name, info.offset_data, info.size
            if tar.offset > size:
                raise DataError(f"{path}: is cut off: it ends at {size:,}, within a member")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: is no tar file that can be read ({why})") from error
