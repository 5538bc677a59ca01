"""Fingerprints of what a run is trained on, by which a resume tells whether it is the same.

How a path is spelled says nothing: the same file may be moved, linked or named from another folder, and
another one may lie at the same place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odis.config.training import PretrainConfig
from odis.errors import DataError
from odis.objects.index import ObjectIndex

MOST_SIZES = 10_000
"""Files of a folder whose sizes are looked at: asking for each of a million takes minutes over a network."""


def fingerprints(config: PretrainConfig, index: ObjectIndex) -> dict[str, str]:
    """Those of `data`, of `val` and of a file of `model.weights`, as far as the config names them.

    Args:
        config: The run's config.
        index: Its data, opened.
    """
    found = {"data": index_fingerprint(index)}
    if config.val is not None:
        with contextlib.suppress(DataError):  # whoever evaluates on it says what is wrong
            found["val"] = index_fingerprint(ObjectIndex.open(config.val, root=config.root))
    weights = config.model.weights
    if weights not in (None, "timm") and os.path.isfile(weights):
        found["model.weights"] = _file_fingerprint(Path(weights))
    return found


def index_fingerprint(index: ObjectIndex) -> str:
    """Sixteen characters of what training reads of an index, however its file was written.

    These are the images, their order and sizes, boxes, masks and provenance. Labels, scores and class names
    are not among them, nor is the content of an image file. Of a plain folder it is the names of the images
    and the sizes of the files: of all up to `MOST_SIZES`, beyond that of as many evenly chosen ones.
    """
    if index.is_folder:
        chosen = np.linspace(0, len(index) - 1, min(len(index), MOST_SIZES)).astype(int)
        sizes = [_size(index.image_path(int(i))) for i in chosen]
        return _short(hashlib.sha256(f"{index.fingerprint()} {sizes}".encode()))
    columns: dict[str, Any] = {}
    for batch in index.batches():
        for name, content in _columns(batch):
            columns.setdefault(name, hashlib.sha256()).update(content)
    whole = hashlib.sha256(index.provenance.encode())
    for name in sorted(columns):
        whole.update(name.encode() + columns[name].digest())
    return _short(whole)


def _columns(batch: pa.RecordBatch) -> list[tuple[str, Any]]:
    """The content of some rows as streams of bytes, however rows are grouped in batches."""
    images, boxes, masks = (batch.column(name) for name in ("image", "boxes", "masks"))
    each = masks.flatten()
    return [
        ("names", _bytes(pc.binary_length(images))),
        ("images", _joined(images)),
        ("width", _bytes(batch.column("width"))),
        ("height", _bytes(batch.column("height"))),
        ("counts", _bytes(pc.list_value_length(boxes))),
        ("boxes", _bytes(boxes.flatten().flatten())),
        ("masked", _bytes(pc.fill_null(pc.list_value_length(masks), -1))),
        ("lengths", _bytes(pc.fill_null(pc.binary_length(each), -1))),
        ("masks", _joined(each)),
    ]


def _bytes(values: pa.Array) -> bytes:
    return bytes(values.to_numpy(zero_copy_only=False).tobytes())


def _joined(values: pa.Array) -> Any:
    """All bytes of an array of binary values or text, one value behind the other."""
    _, offsets, content = values.buffers()
    if content is None or not len(values):
        return b""
    at = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return memoryview(content)[at[0] : at[-1]]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _file_fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return _short(hashlib.file_digest(file, "sha256"))


def _short(digest: Any) -> str:
    return str(digest.hexdigest()[:16])
