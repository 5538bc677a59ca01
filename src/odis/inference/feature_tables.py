"""Features of an index as a Parquet table: streamed, resumable, written by any number of processes."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from odis import __version__
from odis.config.feature_tables import FeatureTableConfig
from odis.errors import DataError, OdisError, OdisWarning
from odis.inference.encoder import Encoder
from odis.inference.stream import IndexFeatures, stream_index
from odis.machine.checksums import DamagedError, seal_parquet, verify_parquet
from odis.machine.files import write_json_whole, written_whole
from odis.machine.locks import sole_owner
from odis.objects.index import ObjectIndex
from odis.types import Skipped

ABOUT = "_about.json"  # readers of Parquet folders pass over names that begin with _
_ONCE = {"readout": "obj"}  # what tables hold that were written before there was a choice
_ARROW_TYPES = {"fp16": pa.float16(), "fp32": pa.float32()}


def feature_schema(width: int, dtype: str, metadata: dict[str, str] | None = None) -> pa.Schema:
    """Columns of the table; `vector` is a fixed-size list of `width` floats."""
    return pa.schema(
        [
            pa.field("image", pa.string(), nullable=False),  # path as the index has it
            pa.field("row", pa.int64(), nullable=False),  # row of the index
            pa.field("object", pa.int32()),  # place of the object in the row; null for an image
            pa.field("box", pa.list_(pa.float32(), 4), nullable=False),  # x0, y0, x1, y1 in pixels
            pa.field(
                "label", pa.int32()
            ),  # position among the classes; null if there is none, or for an image not exactly one
            pa.field("class", pa.string()),  # its name
            pa.field("provenance", pa.string(), nullable=False),  # where the object came from
            pa.field(
                "vector",
                pa.list_(pa.field("item", _ARROW_TYPES[dtype], nullable=False), width),
                nullable=False,
            ),
        ],
        metadata=metadata,
    )


def export_features(
    encoder: Encoder,
    index: ObjectIndex,
    out: Path,
    settings: FeatureTableConfig,
    *,
    rank: int = 0,
    world_size: int = 1,
    skip: Callable[[Skipped], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the features of an index as `out/part-00000.parquet` and so on; the same call resumes.

    Parts that exist are kept, unless they are damaged. A part holds the same rows whoever writes it. Ranks
    take turns, do not communicate, and may be killed and restarted. Sorted by name, the parts are in the
    order of the index.

    Args:
        encoder: The model.
        index: Images and objects.
        out: Folder; made if it is not there.
        settings: What is written.
        rank: This process among those that write together.
        world_size: How many those are.
        skip: Called with each file and object that cannot be used.
        progress: Called with the number of this rank's images that are done, and of all of them.

    Returns:
        This rank's parts.

    Raises:
        OdisError: if `out` holds something else, or features of another model, index or setting; or for
            settings that do not fit.
        DataError: with `strict`.
    """
    settings.check()
    query = settings.query
    encoder.query_builder(query)
    if not len(index):
        raise DataError(f"{index.path}: has no images")
    about = describe(encoder, index, settings)
    if out.is_file():
        _claim(out, about)  # says what is wrong
    with sole_owner(out, f"rank-{rank}-of-{world_size}", inside=True):
        _claim(out, about)
        width, count = encoder.width(query.mode, query.readout), -(-len(index) // settings.part_images)
        schema = feature_schema(width, settings.dtype, {"odis": json.dumps(about, ensure_ascii=False)})
        mine = [part for part in range(count) if part % world_size == rank]
        total = sum(len(_rows(part, settings, index)) for part in mine)
        done, paths = 0, []
        for part in mine:
            path, rows = out / f"part-{part:05d}.parquet", _rows(part, settings, index)
            if not _is_whole(path):
                before = done
                chunks = stream_index(
                    encoder,
                    index,
                    query,
                    replace(settings.read, workers=min(settings.read.workers, len(rows))),
                    rows=rows,
                    chunk=len(rows),
                    progress=None if progress is None else partial(_counted, progress, before, total),
                )
                (found,) = chunks
                if skip is not None:
                    for skipped in found.skipped:
                        skip(skipped)
                with written_whole(path, errors=(pa.ArrowException,), seal=seal_parquet) as beside:
                    pq.write_table(_table(found, index, schema), beside, compression="zstd")
            done += len(rows)
            paths.append(path)
            if progress is not None:
                progress(done, total)
        return paths


def _is_whole(path: Path) -> bool:
    """Whether a part is there and undamaged; a damaged one is named, to be made again."""
    if not path.exists():
        return False
    try:
        verify_parquet(path)
    except DamagedError as error:
        warnings.warn(f"{error}; it is made again", OdisWarning, stacklevel=3)
        return False
    return True


def _counted(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def describe(encoder: Encoder, index: ObjectIndex, settings: FeatureTableConfig) -> dict[str, Any]:
    """What must agree for two tables of features to be comparable: model, index, query."""
    query = settings.query
    return {
        "model": encoder.source,
        "weights": _weights_hash(encoder),
        "model_provenance": encoder.provenance,
        "step": encoder.card.get("step"),
        "precision": encoder.precision,
        "index": index.path,
        "index_content": index.fingerprint(),
        "images_in_index": len(index),
        "provenance": index.provenance,
        "classes": index.classes,
        "mode": query.mode,
        "images": query.images,
        "dtype": settings.dtype,
        "size": encoder.image_size if query.size is None else query.size,
        "context": query.context,
        "mask_coverage": query.mask_coverage,
        "mask_margin": query.mask_margin,
        "part_images": settings.part_images,
        "readout": query.readout,
        "width": encoder.width(query.mode, query.readout),
        "odis_version": __version__,
    }


def _weights_hash(encoder: Encoder) -> str:
    digest = hashlib.sha256()
    for name, value in encoder.model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _claim(out: Path, about: dict[str, Any]) -> None:
    """Claim the folder for these features, or find it claimed for them."""
    path = out / ABOUT
    if not path.exists():
        other = out.exists() and (
            not out.is_dir() or any(p for p in out.iterdir() if not p.name.startswith("."))
        )
        if other and not path.exists():  # another rank may have taken it meanwhile
            raise OdisError(
                f"{out}: exists and is no folder of features (no {ABOUT}); give an empty or new folder "
                f"with --out"
            )
        write_json_whole(path, about)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not whole; delete {out} to begin again") from error
    # What counts is what is in the files, not where they are.
    differing = [
        name
        for name in about
        if name not in ("odis_version", "model", "index") and before.get(name, _ONCE.get(name)) != about[name]
    ]
    if differing:
        shown = "; ".join(
            f"{name}: {_short(before.get(name, _ONCE.get(name)))} -> {_short(about[name])}"
            for name in differing
        )
        raise OdisError(
            f"{out}: holds features of another kind ({shown}); give another --out, or the old settings to "
            f"go on"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _rows(part: int, settings: FeatureTableConfig, index: ObjectIndex) -> range:
    return range(part * settings.part_images, min((part + 1) * settings.part_images, len(index)))


def _table(found: IndexFeatures, index: ObjectIndex, schema: pa.Schema) -> pa.Table:
    labels = [None if label < 0 else label for label in found.labels.tolist()]
    vector_type = schema.field("vector").type
    values = found.features.numpy().astype(
        np.float16 if vector_type.value_type == pa.float16() else np.float32
    )
    if not np.isfinite(values).all():
        raise OdisError(
            "a feature is not finite in the data set's type: the model's weights or its precision are at "
            "fault, or --dtype fp16"
        )
    columns = [
        pa.array([index[row].image for row in found.rows.tolist()], pa.string()),
        pa.array(found.rows.numpy()),
        pa.array([None if number < 0 else number for number in found.numbers.tolist()], pa.int32()),
        pa.FixedSizeListArray.from_arrays(pa.array(found.boxes.numpy().reshape(-1)), 4),
        pa.array(labels, pa.int32()),
        pa.array([None if label is None else index.classes[label] for label in labels], pa.string()),
        pa.array([index.provenance] * len(found), pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=vector_type),
    ]
    return pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, schema)], schema=schema)
