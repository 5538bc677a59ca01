"""Addresses of images that are no file of their own: URIs, members of shards, and tiles of slides."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

SHARD = "shard://"
"""How the address of a member begins: `shard://SHARD::OFFSET+LENGTH/NAME`; of one within a compressed page
`shard://SHARD::OFFSET+LENGTH@CODEC:SIZE:START+LENGTH/NAME`.
"""

_PAGE = r"(?:@([a-z0-9_]{1,16}):(\d{1,18}):(\d{1,18})\+(\d{1,18}))?"

_MEMBER = re.compile(rf"shard://(.+?)::(\d{{1,18}})\+(\d{{1,18}}){_PAGE}/(.*)", re.DOTALL)

_TILE = re.compile(r"(.+)#tile=(\d{1,3}),(\d{1,9}),(\d{1,9}),(\d{1,6}),(\d{1,6})", re.DOTALL)

SECRET = (
    r"(?i)(^|::)[a-z][a-z0-9+.-]*://[^/?#]*@"
    r"|[?&]([^=&]*(signature|credential|token|secret|password|access_?key|api_?key)[^=&]*|sig)="
)
"""A user in an address, or a parameter that signs it or holds a key."""


MOST_PAGE = 2**31
"""Bytes that a page may unpack to."""


@dataclass(frozen=True, slots=True)
class Page:
    """A compressed page of a Parquet file, and where a member is in it."""

    codec: str  # as pyarrow names it
    size: int  # bytes that it unpacks to
    start: int  # of the member among them
    length: int  # of the member


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a shard (a tar, an Arrow or Parquet file): `length` bytes from `offset` on are its content,
    or the page that its content is in.
    """

    shard: str  # path or URI
    offset: int
    length: int
    name: str  # what the index calls the image
    page: Page | None = None

    @property
    def address(self) -> str:
        """The member as one text, which ends in the image's name."""
        page = self.page
        within = "" if page is None else f"@{page.codec}:{page.size}:{page.start}+{page.length}"
        return f"{SHARD}{self.shard}::{self.offset}+{self.length}{within}/{self.name}"


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of a slide: `x` and `y` of its corner in pixels of the largest level, its size in those of its
    level.
    """

    slide: str
    level: int
    x: int
    y: int
    width: int
    height: int

    @property
    def address(self) -> str:
        """The tile as one text."""
        return f"{self.slide}#tile={self.level},{self.x},{self.y},{self.width},{self.height}"


def is_elsewhere(address: str | Path) -> bool:
    """Whether this is a URI or a member of a shard rather than a file's path."""
    return isinstance(address, str) and "://" in address


def parse_member(address: str) -> Member | None:
    """The member of a shard that an address names; None for any other address."""
    found = _MEMBER.fullmatch(address) if address.startswith(SHARD) else None
    if found is None:
        return None
    page = None if found[4] is None else Page(found[4], int(found[5]), int(found[6]), int(found[7]))
    return Member(found[1], int(found[2]), int(found[3]), found[8], page)


def parse_tile(address: str) -> Tile | None:
    """The tile that an address names; None for any other address."""
    found = _TILE.fullmatch(address) if "#tile=" in address else None
    return None if found is None else Tile(found[1], *(int(number) for number in found.groups()[1:]))


def is_remote(address: str | Path) -> bool:
    """Whether reading it asks another machine, as far as the address tells."""
    if not is_elsewhere(address):
        return False
    member = parse_member(str(address))
    return member is None or "://" in member.shard


def file_of(address: str) -> str:
    """The file or URI that must be opened: the shard of a member, the slide of a tile, else the address
    itself.
    """
    if (member := parse_member(address)) is not None:
        return member.shard
    tile = parse_tile(address)
    return address if tile is None else tile.slide


def resolve(root: str | Path, name: str) -> str:
    """The address of an image.

    Args:
        root: Folder, or URI of one, that names begin at.
        name: As the index has it; a URI or an absolute path stays as it is.
    """
    if "://" not in name:
        return _below(root, name)
    member = parse_member(name)
    if member is None or "://" in member.shard:
        return name
    return replace(member, shard=_below(root, member.shard)).address


def relative(root: Path, address: str) -> str:
    """The address as `resolve` takes it: relative to the folder, of a member its shard; a URI stays."""
    member = parse_member(address)
    if "://" in (address if member is None else member.shard):
        return address
    if member is None:
        return Path(os.path.relpath(address, root)).as_posix()
    return replace(member, shard=Path(os.path.relpath(member.shard, root)).as_posix()).address


def _below(root: str | Path, name: str) -> str:
    if not is_elsewhere(root) or os.path.isabs(name):
        return os.path.join(root, name)
    # In the address of a web page, `#`, `?` and `%` of a file's name would mean something else.
    return f"{root}/{quote(name) if str(root).startswith(('http://', 'https://')) else name}"


def holds_secret(address: str) -> bool:
    """Whether an address has a user, password, key or signature in it."""
    rest = address.removeprefix(SHARD)
    return "://" in rest and re.search(SECRET, rest) is not None


def without_secrets(address: str) -> str:
    """The address without the user and the parameters, if it holds a secret."""
    if not holds_secret(address):
        return address
    return re.sub(r"://[^/?#]*@", "://", re.sub(r"[?].*", "?...", address, flags=re.DOTALL))
