"""Shards of an index: the same images, boxes and masks as in the files, and webdataset's layout."""

import io
import json
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from odis.cli import main
from odis.errors import DataError
from odis.objects.edit.pack import pack_index
from odis.objects.edit.rows import merge_indexes, sample_index
from odis.objects.images import image_size, load_image
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

NAMES = ["a/b.c.jpg", "a/b.png", "d.x/b.jpg", "e ü.jpg", "f.bmp"]


@pytest.fixture
def index(tmp_path: Path) -> ObjectIndex:
    rows = []
    for k, name in enumerate(NAMES):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 256, (20 + k, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        rows.append(ImageObjects(name, 30, 20 + k, (Object((1.0, 2.0, 9.0, 8.0 + k), label=k % 2),)))
    rows.append(ImageObjects("gone.jpg", 30, 20))
    path = tmp_path / "index.parquet"
    write_index(path, rows, root=tmp_path / "images", provenance="annotated", classes=["cat", "dog"])
    return ObjectIndex.open(path)


def pixels(index: ObjectIndex) -> list[bytes]:
    return [load_image(index.image_path(i), (row.width, row.height)).tobytes() for i, row in enumerate(index)]


def test_a_packed_index_is_the_index(index: ObjectIndex, tmp_path: Path) -> None:
    packed = pack_index(index, tmp_path / "shards", shard_size=6000)
    assert (packed.images, packed.objects) == (5, 5)
    assert [(one.what, one.why) for one in packed.skipped] == [
        (str(tmp_path / "images" / "gone.jpg"), "cannot be read (No such file or directory)")
    ]
    assert packed.shards == len(list((tmp_path / "shards").glob("*.tar"))) > 1
    (tmp_path / "shards").rename(tmp_path / "moved")
    found = ObjectIndex.open(tmp_path / "moved" / "index.parquet")
    assert (found.provenance, found.classes) == ("annotated", ["cat", "dog"])
    for i, name in enumerate(NAMES):
        assert found.image_name(i).endswith(f"/{name}")
        assert found[i].objects == index[i].objects
        assert image_size(found.image_path(i)) == (found[i].width, found[i].height) == (30, 20 + i)
        assert load_image(found.image_path(i)).tobytes() == load_image(index.image_path(i)).tobytes()
    table = pq.read_table(tmp_path / "moved" / "index.parquet")
    assert table["image"].to_pylist() == NAMES
    for shard, offset, length, name in zip(
        *(table[c].to_pylist() for c in ("shard", "offset", "length", "image"))
    ):
        data = (tmp_path / "moved" / shard).read_bytes()[offset : offset + length]
        assert data == (tmp_path / "images" / name).read_bytes()


def test_other_readers_find_samples_in_the_shards(index: ObjectIndex, tmp_path: Path) -> None:
    """By webdataset's rule: a sample is members in a row of one name up to the first dot."""
    pack_index(index, tmp_path / "shards")
    samples: dict[str, dict[str, bytes]] = defaultdict(dict)
    with tarfile.open(tmp_path / "shards" / "000000.tar") as tar:
        for info in tar:
            key, _, ending = info.name.partition(".")
            samples[key][ending] = tar.extractfile(info).read()  # type: ignore[union-attr]
    assert [sorted(sample) for sample in samples.values()] == [
        ["jpg", "json"], ["json", "png"], ["jpg", "json"], ["jpg", "json"], ["bmp", "json"],
    ]  # fmt: skip
    for k, sample in enumerate(samples.values()):
        said = json.loads(sample.pop("json"))
        assert said["image"] == NAMES[k]
        assert said["objects"] == {"bbox": [[1.0, 2.0, 8.0, 6.0 + k]], "category": [["cat", "dog"][k % 2]]}
        (data,) = sample.values()
        assert Image.open(io.BytesIO(data)).size == (said["width"], said["height"])


def test_odd_endings_do_not_become_names_of_members(tmp_path: Path) -> None:
    names = ["a." + "x" * 200, "b.jp\ng", "c.ü", "d", "e.JPEG", ".png"]
    for k, name in enumerate(names):
        Image.new("L", (4, 3), k).save(tmp_path / name, "PNG")
    rows = [ImageObjects(name, 4, 3) for name in names]
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=[])
    packed = pack_index(ObjectIndex.open(tmp_path / "i.parquet"), tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "000000.tar") as tar:
        endings = [info.name.partition(".")[2] for info in tar if not info.name.endswith(".json")]
    assert endings == ["img", "img", "img", "img", "jpeg", "img"]
    found = ObjectIndex.open(packed.path)
    assert [found.image_name(k).partition("/")[2].rpartition("/")[2] for k in range(6)] == names
    assert [pixel[0] for pixel in pixels(found)] == list(range(6))


def test_packing_twice_gives_the_same_bytes(index: ObjectIndex, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pack_index(index, tmp_path / name)
    assert (tmp_path / "one" / "000000.tar").read_bytes() == (tmp_path / "two" / "000000.tar").read_bytes()


def test_what_is_there_is_not_written_over(index: ObjectIndex, tmp_path: Path) -> None:
    pack_index(index, tmp_path / "shards")
    with pytest.raises(DataError, match=r"holds 000000\.tar already"):
        pack_index(index, tmp_path / "shards")
    none = tmp_path / "none.parquet"
    write_index(none, [ImageObjects("x.jpg", 3, 3)], root=tmp_path, provenance="annotated", classes=[])
    with pytest.raises(DataError, match=r"none of its 1 image can be packed; .*x\.jpg"):
        pack_index(ObjectIndex.open(none), tmp_path / "empty")
    assert not list((tmp_path / "empty").glob("*"))


def test_a_packed_index_goes_through_the_commands_on_an_index(
    index: ObjectIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["index", "pack", str(index.path), "--out", str(tmp_path / "shards")])
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "shards" / "index.parquet")
    assert "5 images" in said.err
    assert "left out" in said.err
    packed = ObjectIndex.open(tmp_path / "shards" / "index.parquet", strict=True)
    expected = pixels(packed)
    sample_index(packed, tmp_path / "sample.parquet", 5, 0)
    assert pixels(ObjectIndex.open(tmp_path / "sample.parquet")) == expected
    write_index(tmp_path / "o.parquet", [index[0]], root=index.root, provenance="annotated", classes=["cat"])
    merge_indexes([ObjectIndex.open(tmp_path / "o.parquet"), packed], tmp_path / "merged.parquet")
    assert pixels(ObjectIndex.open(tmp_path / "merged.parquet")) == [expected[0], *expected]
    pack_index(packed, tmp_path / "again")
    assert pixels(ObjectIndex.open(tmp_path / "again" / "index.parquet")) == expected


def test_images_behind_a_server_are_the_images(image_server: Any, index: ObjectIndex, tmp_path: Path) -> None:
    packed = ObjectIndex.open(pack_index(index, image_server.folder / "s").path)
    for name in NAMES:
        target = image_server.folder / "f" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((tmp_path / "images" / name).read_bytes())
    shards = ObjectIndex.open(packed.path, root=f"{image_server.url}/s")
    files = ObjectIndex.open(index.path, root=f"{image_server.url}/f/")
    assert pixels(shards) == pixels(packed)
    for i in range(len(NAMES)):
        assert load_image(files.image_path(i)).tobytes() == load_image(index.image_path(i)).tobytes()
    with pytest.raises(DataError, match=r"gone\.jpg: no such object in its store"):
        load_image(files.image_path(len(NAMES)))
    sample_index(shards, tmp_path / "edited.parquet", 5, 0)  # which keeps the URI
    assert ObjectIndex.open(tmp_path / "edited.parquet").uri == f"{image_server.url}/s"
    assert pixels(ObjectIndex.open(tmp_path / "edited.parquet")) == pixels(packed)


def test_an_index_with_a_secret_is_refused_without_it(tmp_path: Path) -> None:
    for name in ("https://me:hunter2@host/a.jpg", "https://host/a.jpg?X-Amz-Signature=hunter2"):
        row = ImageObjects(name, 3, 3)
        write_index(tmp_path / "i.parquet", [row], root=tmp_path, provenance="annotated", classes=[])
        with pytest.raises(DataError, match="holds a password, key or signature") as refused:
            _ = ObjectIndex.open(tmp_path / "i.parquet")[0]
        assert "hunter2" not in str(refused.value)
    with pytest.raises(DataError, match="root: s3://b holds a password"):
        ObjectIndex.open(tmp_path / "i.parquet", root="s3://me:hunter2@b")


@pytest.mark.parametrize(("column", "value"), [("offset", None), ("length", -1), ("offset", "x")])
def test_columns_that_cannot_be_are_named(
    index: ObjectIndex, tmp_path: Path, column: str, value: Any
) -> None:
    path = pack_index(index, tmp_path / "shards").path
    table = pq.read_table(path)
    at = table.schema.get_field_index(column)
    wrong = table.set_column(at, column, [[value] * len(table)])
    pq.write_table(wrong, path)
    with pytest.raises(DataError, match=rf"{column}"):
        len(ObjectIndex.open(path))
    pq.write_table(table.drop_columns([column]), path)
    with pytest.raises(DataError, match=f"has a column shard, but no {column}"):
        len(ObjectIndex.open(path))
