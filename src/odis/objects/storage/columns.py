"""The columns `shard`, `offset` and `length` of an object index: images that are members of shards.

In a file they stand beside `image`, each null for an image that is no member; in memory the image's address
has all of it. An address in the column `image` is read as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from odis.errors import DataError
from odis.objects.storage.address import SECRET, SHARD, Member, parse_member, without_secrets

COLUMNS = (
    pa.field("shard", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("length", pa.int64()),
)


def with_shards(schema: pa.Schema, images: Sequence[str]) -> pa.Schema:
    """The schema, with the columns of shards if any of the images is a member of one."""
    if not any(_member(image) for image in images):
        return schema
    for field in COLUMNS:
        schema = schema.append(field)
    return schema


def _member(image: str) -> Member | None:
    """The member that the columns can say; one within a page stays an address."""
    member = parse_member(image)
    return None if member is None or member.page is not None else member


def split_columns(images: Sequence[str]) -> list[pa.Array]:
    """`image`, `shard`, `offset` and `length` of addresses."""
    plain = Member(None, None, None, "")  # type: ignore[arg-type]
    members = [_member(image) for image in images]
    values = [
        [image if member is None else member.name for image, member in zip(images, members)],
        *([getattr(member or plain, field.name) for member in members] for field in COLUMNS),
    ]
    return [pa.array(v, kind) for v, kind in zip(values, [pa.string(), *(f.type for f in COLUMNS)])]


def columns_in(schema: pa.Schema, path: str) -> list[str]:
    """The columns of shards that a file has: all or none.

    Raises:
        DataError: It has some of them.
    """
    there = [field.name for field in COLUMNS if field.name in schema.names]
    if "shard" not in there:
        return []  # others may use these words for something else
    if missing := [field.name for field in COLUMNS if field.name not in there]:
        raise DataError(f"{path}: has a column shard, but no {' and no '.join(missing)}")
    return there


def join_columns(batch: pa.RecordBatch, path: str) -> pa.RecordBatch:
    """The batch with addresses in `image`, if it has columns of shards.

    Raises:
        DataError: Of a row with a shard, the offset or length is null or negative, or of another type.
    """
    if "shard" not in batch.schema.names:
        return batch
    values = {}
    for field in COLUMNS:
        column = batch.column(field.name)
        try:
            values[field.name] = column.cast(field.type)
        except (pa.ArrowException, NotImplementedError) as error:
            raise DataError(f"{path}: column {field.name} is {column.type}, must be {field.type}") from error
    member = values["shard"].is_valid()
    for name in ("offset", "length"):
        wrong = pc.and_(member, pc.fill_null(pc.less(values[name], 0), True))
        if (row := wrong.index(True).as_py()) >= 0:
            image = batch.column("image")[row]
            raise DataError(f"{path}: image {image} has a shard and {name} {values[name][row]}")
    images = batch.column("image").cast(pa.string())
    text = [values["shard"], "::", values["offset"].cast(pa.string()), "+"]
    joined = pc.binary_join_element_wise(
        pa.scalar(SHARD), *map(_text, text), values["length"].cast(pa.string()), "/", images, ""
    )
    at = batch.schema.get_field_index("image")
    return batch.set_column(at, "image", pc.if_else(member, joined, images))


def _text(value: pa.Array | str) -> pa.Array | pa.Scalar:
    return pa.scalar(value) if isinstance(value, str) else value


def refuse_secrets(images: pa.Array, path: str) -> None:
    """Refuse addresses with a password or signature in them: they would stand in every log.

    Raises:
        DataError: Naming the first, without what it must not hold.
    """
    if not pc.any(pc.match_substring(images, "://")).as_py():
        return
    rest = pc.replace_substring_regex(images, f"^{SHARD}", "")
    found = pc.and_(pc.match_substring(rest, "://"), pc.match_substring_regex(rest, SECRET))
    if (row := found.index(True).as_py()) >= 0:
        raise DataError(
            f"{path}: the address of {without_secrets(images[row].as_py())} holds a password, key or "
            f"signature; leave it out, and give credentials by the environment, as the store's own tools "
            f"take them"
        )
