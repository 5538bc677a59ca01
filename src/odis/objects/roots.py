"""Where the images of an index are: as written in it, moved together with it, or where the user says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from odis.errors import DataError
from odis.objects.storage.address import holds_secret, is_elsewhere, without_secrets

_DEEPEST = 5  # last parts of the old root that may be below the new one

_moved_to: ContextVar[str | Path | None] = ContextVar("images_moved_to", default=None)


@contextmanager
def images_moved_to(root: str | Path | None) -> Iterator[None]:
    """Within the block, indexes that are opened have their images below `root`; None changes nothing."""
    before = _moved_to.set(root)
    try:
        yield
    finally:
        _moved_to.reset(before)


def moved_to() -> str | Path | None:
    """The folder of the block of `images_moved_to` that runs."""
    return _moved_to.get()


def find_root(file: str, metadata: Mapping[str, str]) -> Path:
    """The folder written in the index, or the one at the same place relative to the index, if only that
    exists.

    Args:
        file: A Parquet file of the index.
        metadata: Its metadata: `root`, and `root_relative` if it was written.
    """
    folder = Path(file).absolute().parent
    if uri_of(metadata["root"]) is not None:
        return folder
    written = folder / metadata["root"]
    moved = folder / metadata.get("root_relative", metadata["root"])
    return Path(os.path.normpath(moved)) if moved.is_dir() and not written.is_dir() else written


def moved_root(written: Path, root: Path, image: str) -> Path:
    """The folder that image paths begin at: `root`, or one in it that is called as the end of the old one.

    Args:
        written: The old root.
        root: The folder that the user names.
        image: A path of an image below the root, which tells where it is; perhaps empty.
    """
    if image and "://" not in image and not os.path.isabs(image):
        parts = written.parts
        for k in range(min(_DEEPEST, len(parts) - 1) + 1):
            candidate = root.joinpath(*parts[len(parts) - k :])
            if os.path.lexists(candidate / image):
                return candidate
    return root


def uri_of(root: str | Path) -> str | None:
    """The URI of a folder, without a slash at its end; None for a path.

    Raises:
        DataError: A password, key or signature is in it.
    """
    if not is_elsewhere(root):
        return None
    if holds_secret(str(root)):
        raise DataError(
            f"root: {without_secrets(str(root))} holds a password, key or signature; give credentials by the "
            f"environment, as the store's own tools take them"
        )
    return str(root).rstrip("/")


def root_metadata(root: str | Path, path: Path) -> dict[str, str]:
    """What an index's file at `path` says of its root."""
    if (uri := uri_of(root)) is not None:
        return {"root": uri}
    folder = Path(root).absolute()
    return {"root": str(folder), "root_relative": os.path.relpath(folder, path.absolute().parent)}
