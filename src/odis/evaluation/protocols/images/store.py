"""What a model made of images, kept in a folder: a call that is interrupted goes on at the next chunk of
images.

A pass over images has a key: the model, the files and the settings that its features depend on. Each key has
a folder of its own below the one that is given, so that nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from odis import __version__
from odis.errors import OdisError
from odis.inference import Encoder
from odis.machine.checksums import (
    SAFETENSORS_KEY,
    UNSEALED,
    DamagedError,
    seal_safetensors,
    verify_safetensors,
)
from odis.machine.files import write_json_whole, written_whole
from odis.types import Skipped

Made = dict[str, np.ndarray]
"""Named arrays of one image."""

Make = Callable[[Sequence[int]], Iterator[tuple[int, "Made | Skipped"]]]
"""Makes what belongs to the images of these numbers, in their order; in the place of an image that cannot be
read, why.
"""


class FeatureStore:
    """Named arrays of each image of a pass, in chunks of images.

    Args:
        folder: Where to keep them; empty to keep nothing.
        key: What they depend on; values that JSON has.
        chunk: Images in a file.

    Raises:
        DataError: The folder cannot be written.
    """

    def __init__(self, folder: str | Path, key: Mapping[str, Any], chunk: int = 128) -> None:
        if chunk < 1:
            raise OdisError(f"chunk {chunk} must be 1 or more")
        self.chunk = chunk
        self.folder: Path | None = None
        if str(folder):
            whole = {"odis_version": __version__, "chunk": chunk, **key}
            self.folder = Path(folder) / key_digest(whole)
            about = self.folder / "about.json"
            if not about.is_file():
                write_json_whole(about, whole)

    def stream(self, count: int, make: Make) -> Iterator[tuple[int, Made | Skipped]]:
        """What belongs to the images 0 to count - 1, in order: read where it is there, else made and kept.

        Args:
            count: How many images.
            make: Called once, with the numbers of all images that are missing.
        """
        if self.folder is None:
            yield from make(range(count))
            return
        parts = self._parts(count)
        there = [self._read_skipped(part) is not None for part in parts]
        missing = [number for part, have in zip(parts, there) if not have for number in part]
        made = make(missing) if missing else iter(())
        for part, have in zip(parts, there):
            if have:
                yield from self._read(part)
                continue
            found: list[tuple[int, Made | Skipped]] = []
            for number in part:
                given, item = next(made)
                assert given == number
                found.append((number, item))
                yield number, item
            self._write(part, found)

    def missing(self, count: int) -> int:
        """How many of the images 0 to count - 1 are not there yet."""
        return sum(len(part) for part in self._parts(count) if self._read_skipped(part) is None)

    def _parts(self, count: int) -> list[range]:
        return [range(start, min(start + self.chunk, count)) for start in range(0, count, self.chunk)]

    def _path(self, part: range) -> Path:
        assert self.folder is not None
        return self.folder / f"{part.start:08}.safetensors"

    def _read_skipped(self, part: range) -> dict[str, list[str]] | None:
        """Images of a chunk that were skipped, by number; None if the chunk is not there or is damaged."""
        if self.folder is None:
            return None
        path = self._path(part)
        try:
            verify_safetensors(path)
            with safe_open(path, framework="np") as file:
                about = json.loads((file.metadata() or {})["about"])
        except (OSError, SafetensorError, KeyError, ValueError, DamagedError):
            return None
        skipped: dict[str, list[str]] = about["skipped"]
        return skipped if about["images"] == len(part) else None

    def _read(self, part: range) -> Iterator[tuple[int, Made | Skipped]]:
        skipped = self._read_skipped(part) or {}
        with safe_open(self._path(part), framework="np") as file:
            names: dict[int, list[str]] = {}
            for key in file.keys():  # noqa: SIM118  # it is no dict
                number, name = key.split(".", 1)
                names.setdefault(int(number), []).append(name)
            for number in part:
                if str(number) in skipped:
                    yield number, Skipped(*skipped[str(number)])
                else:
                    of_image = sorted(names.get(number, ()))
                    yield number, {name: file.get_tensor(f"{number}.{name}") for name in of_image}

    def _write(self, part: range, found: Sequence[tuple[int, Made | Skipped]]) -> None:
        skipped = {str(n): [item.what, item.why] for n, item in found if isinstance(item, Skipped)}
        arrays = {
            f"{number}.{name}": np.ascontiguousarray(array)
            for number, item in found
            if not isinstance(item, Skipped)
            for name, array in item.items()
        }
        about = json.dumps({"images": len(part), "skipped": skipped})
        metadata = {"about": about, SAFETENSORS_KEY: UNSEALED}
        with written_whole(self._path(part), errors=(SafetensorError,), seal=seal_safetensors) as beside:
            save_file(arrays, beside, metadata=metadata)


def key_digest(key: Mapping[str, Any]) -> str:
    """A key as one word."""
    return _digest([json.dumps(key, sort_keys=True)])


def model_key(encoder: Encoder) -> dict[str, Any]:
    """What features depend on of a model: its weights, precision and pixel statistics."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if tensor.ndim
            else str(tensor.item()).encode()
        )
    statistics = [*encoder.mean, *encoder.std]
    return {"weights": digest.hexdigest(), "precision": encoder.precision, "statistics": statistics}


def files_key(paths: Iterable[str]) -> str:
    """Names, sizes and times of change of files, as one word; a file that is missing counts as such."""

    def of(path: str) -> str:
        try:
            found = os.stat(path)
        except OSError:
            return f"{path} missing"
        return f"{path} {found.st_size} {found.st_mtime_ns}"

    return _digest(of(path) for path in paths)


def _digest(words: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for word in words:
        digest.update(word.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
