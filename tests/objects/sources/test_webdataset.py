"""webdataset's shards in place: the samples that webdataset's rule makes, and what is no part of one."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.config.pixels import PixelFormat
from odis.errors import DataError
from odis.objects.build import build_index
from odis.objects.clean import Unread
from odis.objects.edit.pack import pack_index
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex, write_index
from odis.objects.pixels import load_pixels
from odis.objects.sources.webdataset import samples_of
from odis.types import ImageObjects, Object, Skipped


def png(color: int, size: tuple[int, int] = (20, 10)) -> bytes:
    held = io.BytesIO()
    Image.new("L", size, color).save(held, "PNG")
    return held.getvalue()


def shard(path: Path, *members: tuple[str, bytes], form: int = tarfile.USTAR_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def built(root: Path, split: str | None = None) -> tuple[ObjectIndex, list[Skipped]]:
    skipped: list[Skipped] = []
    build_index("webdataset", root, root.parent / "i.parquet", split, report=skipped.append, max_skipped=1)
    return ObjectIndex.open(root.parent / "i.parquet"), skipped


def pixel(index: ObjectIndex, i: int) -> int:
    return load_image(index.image_path(i)).getpixel((0, 0))[0]  # type: ignore[index]


def test_samples_are_found_where_they_lie(tmp_path: Path) -> None:
    root = tmp_path / "data"
    said = {"width": 20, "height": 10, "objects": {"bbox": [[1, 2, 3, 4]], "category": ["dog"]}}
    objects = [{"bbox": [0, 0, 5, 5], "category_id": "dog", "iscrowd": 1}, {"bbox": [2, 2, 2, 2]}]
    shard(
        root / "0.tar",
        ("d.x/a.b.png", png(1)),  # a dot in the folder is none of the file's
        ("d.x/a.json", json.dumps(said).encode()),
        ("c.PNG", png(2)),
        ("c.txt", b"a caption"),
        form=tarfile.PAX_FORMAT,
    )
    shard(root / "1.tar", ("x" * 150 + ".png", png(3)), form=tarfile.GNU_FORMAT)
    shard(root / "1b.tar", ("e.json", json.dumps({"annotations": objects}).encode()), ("e.png", png(4)))
    index, skipped = built(root)
    assert [index[i].image.rpartition("/")[2] for i in range(4)] == [
        "a.b.png",
        "c.PNG",
        "x" * 150 + ".png",
        "e.png",
    ]
    assert [pixel(index, i) for i in range(4)] == [1, 2, 3, 4]
    assert (index.provenance, index.classes) == ("annotated", ["dog"])
    assert index[0].objects == (Object((1.0, 2.0, 4.0, 6.0), label=0),)
    assert [len(row.objects) for row in index] == [1, 0, 0, 1]  # a crowd is none
    assert [(one.why, one.count) for one in skipped if isinstance(one, Unread)] == [(".txt members", 1)]


def test_without_objects_every_image_is_one_with_its_class(tmp_path: Path) -> None:
    root = tmp_path / "data"
    shard(root / "0.tar", ("a.cls", b"10"), ("a.png", png(1)), ("b.cls", b"9"), ("b.png", png(2)))
    shard(root / "1.tar", ("c.png", png(3)), ("c.json", b'{"label": 9}'), ("d.png", png(4)))
    index, _ = built(root)
    assert (index.provenance, index.classes) == ("whole-image", ["9", "10"])
    assert [row.objects[0].label for row in index] == [1, 0, 0, None]
    assert {row.objects[0].box for row in index} == {(0.0, 0.0, 20.0, 10.0)}


def test_what_is_no_sample_is_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    path = root / "0.tar"
    shard(
        path,
        ("__meta__", b"{}"),
        ("a.png", png(1)),
        ("a.png", png(9)),
        ("b.json", b"{}"),
        ("README", b"text"),
        ("c.png", png(2)),
        ("c.json", b"{broken"),
        ("d.left.png", png(8)),
        ("d.png", png(3)),
        ("e.png", b""),
        ("a.png", png(4)),
    )
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("l.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(link)
    index, skipped = built(root)
    assert [pixel(index, i) for i in range(len(index))] == [1, 3, 4]  # one name, and two images
    unread = sorted((one.why, one.count) for one in skipped if isinstance(one, Unread))
    assert unread == [
        (".left.png members", 1),
        ("links in shards", 1),
        ("members of webdataset's own (__...__)", 1),
        ("members without an ending", 1),
        ("samples without an image", 1),
    ]
    assert sorted(one.why.partition(" (")[0] for one in skipped if not isinstance(one, Unread)) == [
        "is empty",
        "its json is not JSON that can be read",
        "its sample has a member of this name already",
    ]


@pytest.mark.parametrize("split", ["val", "validation"])
def test_a_split_is_a_word_of_the_names(tmp_path: Path, split: str) -> None:
    root = tmp_path / "data"
    shard(root / "set-train-00.tar", ("a.png", png(1)))
    shard(root / "validation/00.tar", ("a.png", png(2)))
    index, _ = built(root, split)
    assert [pixel(index, i) for i in range(len(index))] == [2]
    with pytest.raises(DataError, match="a split must be named; there are train, val"):
        built(root)
    with pytest.raises(DataError, match="no split 'test'; there are train, val"):
        built(root, "test")


def test_a_shard_that_cannot_be_read_ends_it_with_one_line(tmp_path: Path) -> None:
    root = tmp_path / "data"
    shard(root / "0.tar", ("a.png", png(1)), ("b.png", bytes(5000)))
    with (root / "0.tar").open("r+b") as file:
        file.truncate(2500)
    with pytest.raises(DataError, match=r"0\.tar: is cut off: b\.png at"):
        built(root)
    (root / "0.tar").write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(DataError, match=r"0\.tar: is compressed; .*plain tar"):
        built(root)
    (root / "0.tar").unlink()
    with pytest.raises(DataError, match=r"no shards \(\.tar\) in this folder"):
        built(root)


def test_shards_that_odis_packs_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows = []
    for k in range(3):
        (tmp_path / f"images/{k}.png").write_bytes(png(k))
        items = (Object((0.1, 1.7, 9.3, 8.9), None, k % 2, 0.5), Object((1.0, 1.0, 2.0, 3.0), None, 0, 0.25))
        rows.append(ImageObjects(f"{k}.png", 20, 10, items[: k + 1]))
    write_index(
        tmp_path / "o.parquet", rows, root=tmp_path / "images", provenance="annotated", classes=["cat", "dog"]
    )
    pack_index(ObjectIndex.open(tmp_path / "o.parquet"), tmp_path / "data")
    (tmp_path / "data/index.parquet").rename(tmp_path / "packed.parquet")
    index, skipped = built(tmp_path / "data")
    packed = ObjectIndex.open(tmp_path / "o.parquet")
    assert skipped == []
    assert [row.objects for row in index] == [row.objects for row in packed]
    assert index.classes == packed.classes
    assert [pixel(index, i) for i in range(3)] == [0, 1, 2]


member = st.tuples(
    st.text(st.sampled_from("ab./_ü"), min_size=1, max_size=6).filter(lambda name: name.strip("./")),
    st.binary(max_size=600),
)


@settings(max_examples=40)
@given(st.lists(member, max_size=6), st.sampled_from([tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT]))
def test_samples_are_those_of_webdataset(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, bytes]], form: int
) -> None:
    """Against the rule as webdataset's documentation states it, on what `tarfile` extracts."""
    path = tmp_path_factory.mktemp("shards") / "0.tar"
    shard(path, *found, form=form)
    data = path.read_bytes()
    expected: list[tuple[str, dict[str, bytes]]] = []
    with tarfile.open(path) as tar:
        for info in tar:
            content = tar.extractfile(info).read()  # type: ignore[union-attr]
            file = info.name.split("/")[-1]
            first = info.name.split("/")[0]
            own = len(first) >= 4 and first.startswith("__") and first.endswith("__")
            if "." not in file or file.startswith(".") or own:
                continue
            key = info.name[: len(info.name) - len(file)] + file.split(".")[0]
            if not expected or expected[-1][0] != key:
                expected.append((key, {}))
            expected[-1][1].setdefault(file[file.index(".") + 1 :].lower(), content)
    ours = [
        (one.key, {ending: data[at : at + size] for ending, (_, at, size) in one.parts.items()})
        for one in samples_of(path, lambda skipped: None)
    ]
    assert ours == expected


def test_images_that_are_not_for_pillow_are_read_in_place(tmp_path: Path) -> None:
    """DICOM, and a TIFF of five channels and two depths; what is not read of them is said as of files."""
    pydicom, tifffile = pytest.importorskip("pydicom"), pytest.importorskip("tifffile")
    tifffile.imwrite(
        held := io.BytesIO(), np.zeros((2, 10, 20, 5), np.uint16), photometric="minisblack",
        planarconfig="contig", metadata={"axes": "ZYXS"},
    )  # fmt: skip
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    said = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    said.Rows, said.Columns, said.NumberOfFrames, said.SamplesPerPixel = 10, 20, 3, 1
    said.PhotometricInterpretation, said.PixelRepresentation = "MONOCHROME2", 0
    said.BitsAllocated, said.BitsStored, said.HighBit, said.PixelData = 8, 8, 7, bytes(range(200)) * 3
    said.save_as(dicom := io.BytesIO(), enforce_file_format=False)
    root = tmp_path / "data"
    shard(root / "0.tar", ("a.dcm", dicom.getvalue()), ("b.tif", held.getvalue()), ("c.png", png(3)))
    index, skipped = built(root)
    assert [(row.width, row.height) for row in index] == [(20, 10)] * 3
    assert load_pixels(index.image_path(0), (20, 10), PixelFormat(1)).reshape(-1).tolist() == list(range(200))
    assert load_pixels(index.image_path(1), (20, 10), PixelFormat(5)).shape == (10, 20, 5)
    told = [(one.what.rpartition("/")[2], one.why, one.count) for one in skipped if isinstance(one, Unread)]
    assert [one[::2] for one in told] == [("a.dcm", 2), ("b.tif", 1)]
    assert ["further frames" in told[0][1], "further planes" in told[1][1]] == [True, True]


@settings(max_examples=40)
@given(st.data())
def test_a_damaged_shard_gives_samples_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("shards") / "0.tar"
    shard(path, ("a.png", png(1)), ("a.cls", b"3"), ("b.png", png(2)))
    content = bytearray(path.read_bytes()[:4096])
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    found: list[Any] = []
    said = f"{path}"
    try:
        found += samples_of(path, lambda skipped: None)
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    assert said.startswith(str(path))
    spans = [place for one in found for place in one.parts.values()]
    assert all(0 <= at <= at + size <= path.stat().st_size for _, at, size in spans)
