import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.errors import DataError
from odis.objects import rle
from odis.objects.build import build_index
from odis.objects.check import problems
from odis.objects.clean import SkippedObject, object_problem, usable_size, verified_size
from odis.objects.index import ObjectIndex, statistics, write_index
from odis.types import ImageObjects, Object, Skipped

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
WHOLE = np.ones((6, 8), dtype=bool)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of every kind; `zero.jpg` and `text.png` have no header, `cut.jpg` has half a body."""
    path = tmp_path / "images"
    path.mkdir()
    good = Image.fromarray(RGB)
    good.convert("L").save(path / "grey.png")
    good.convert("CMYK").save(path / "cmyk.jpg")
    good.convert("RGBA").save(path / "rgba.png")
    good.convert("P").save(path / "palette.gif")
    Image.fromarray(RGB[:, :, 0].astype(np.uint16) * 257).save(path / "sixteen.png")
    Image.new("RGB", (1, 1)).save(path / "one.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    good.save(path / "turned.jpg", exif=turned)
    buffer = io.BytesIO()
    Image.fromarray(np.tile(RGB, (20, 20, 1))).save(buffer, "JPEG")
    (path / "cut.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (path / "zero.jpg").write_bytes(b"")
    (path / "text.png").write_text("text")
    return path


def test_every_skipped_file_is_named_and_counts_add_up(folder: Path, tmp_path: Path) -> None:
    skipped: list[Skipped] = []
    out = tmp_path / "i.parquet"
    summary = build_index("folder", folder, out, report=skipped.append)
    assert [s.what for s in skipped] == [
        str(folder / name) for name in ("sixteen.png", "text.png", "zero.jpg")
    ]
    assert (summary.images, summary.written, summary.images_skipped) == (10, 8, 2)
    assert (summary.objects, summary.kept, summary.objects_skipped, summary.crowds) == (8, 8, 0, 0)
    assert (
        str(summary)
        == f"{out}: 8 of 10 images (2 skipped), 8 of 8 objects (0 skipped, 0 crowds), whole-image; "
        "not read: 1 lower 8 bits of 16-bit images (views.value_ranges reads them)\n"
        f"lost: 20% of the images; {tmp_path / 'i.skipped.jsonl'} names them"
    )
    rows = {row.image: (row.width, row.height) for row in ObjectIndex.open(out)}
    assert rows == {
        "cmyk.jpg": (8, 6),
        "cut.jpg": (160, 120),
        "grey.png": (8, 6),
        "one.png": (1, 1),
        "palette.gif": (8, 6),
        "rgba.png": (8, 6),
        "sixteen.png": (8, 6),
        "turned.jpg": (6, 8),
    }


def test_strict_names_the_first_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    before = set(os.listdir(tmp_path))
    with pytest.raises(DataError, match=r"text\.png: is not an image"):
        build_index("folder", folder, tmp_path / "i.parquet", strict=True)
    assert set(os.listdir(tmp_path)) == before


def test_a_data_set_without_a_usable_image_is_an_error(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name not in ("zero.jpg", "text.png"):
            path.unlink()
    with pytest.raises(
        DataError, match=r"no image that can be used; the first: .*text\.png: is not an image"
    ):
        build_index("folder", folder, tmp_path / "i.parquet")
    assert not (tmp_path / "i.parquet").exists()


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="unknown annotation format 'imagenot'; there are coco, coco-panoptic, lvis, "
    ):
        build_index("imagenot", tmp_path, tmp_path / "i.parquet")
    with pytest.raises(DataError, match="nothing: no such folder"):
        build_index("folder", tmp_path / "nothing", tmp_path / "i.parquet")


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (Object((1, 1, 1, 5)), "box (1, 1, 1, 5) is empty"),
        (Object((1, 5, 4, 5)), "is empty"),
        (Object((4, 1, 1, 5)), "is inverted"),
        (Object((1, 5, 4, 1)), "is inverted"),
        (Object((8, 0, 9, 5)), "is outside the image of 8 x 6 pixels"),
        (Object((0, 6, 5, 9)), "is outside"),
        (Object((-5, 0, 0, 5)), "is outside"),
        (Object((0, -5, 5, 0)), "is outside"),
        (Object((float("nan"), 1, 2, 3)), "is not finite"),
        (Object((0, 1, float("inf"), 3)), "is not finite"),
        (Object((0, 0, 4, 4), rle.encode(WHOLE[:, :5])), "mask has 30 pixels, but the image has 8 x 6 = 48"),
        (Object((0, 0, 4, 4), b"?!"), "not COCO compressed"),
        (Object((0, 0, 4, 4), rle.encode(~WHOLE)), "empty mask"),
        (Object((0, 0, 4, 4), score=float("nan")), "score nan"),
    ],
)
def test_unusable_objects_are_explained(item: Object, text: str) -> None:
    assert text in (object_problem(item, 8, 6) or "")


@pytest.mark.parametrize(
    "item",
    [
        Object((0, 0, 8, 6), rle.encode(WHOLE), 1, 0.5),
        Object((-3, -3, 20, 20)),
        Object((7.5, 5.5, 8.5, 9), label=0),
        Object((0, 0, 0.01, 0.01)),
        Object((0, 0, 4, 4), label=2**31 - 1),
        Object((0, 0, 4, 4), label=-1),
    ],
)
def test_usable_objects_have_no_problem(item: Object) -> None:
    assert object_problem(item, 8, 6) is None


def test_annotated_sizes_are_held_against_the_header(folder: Path) -> None:
    assert verified_size(folder / "turned.jpg") == (6, 8)
    for annotated in ((6, 8), (8, 6)):  # with the orientation, and without
        assert verified_size(folder / "turned.jpg", annotated) == annotated
    assert verified_size(folder / "grey.png", (8, 6)) == (8, 6)
    with pytest.raises(DataError, match=r"grey\.png: is 8 x 6 pixels, but annotated as 6 x 8"):
        verified_size(folder / "grey.png", (6, 8))


def test_a_skipped_image_takes_its_objects_with_it(folder: Path) -> None:
    skipped: list[Skipped] = []
    assert usable_size(folder / "zero.jpg", skipped.append, objects=["one", "two"]) is None
    image, *objects = skipped
    assert image == Skipped(str(folder / "zero.jpg"), "is empty (0 bytes)")
    assert objects == [
        SkippedObject("one", "its image cannot be used"),
        SkippedObject("two", "its image cannot be used"),
    ]


@pytest.fixture
def index(folder: Path, tmp_path: Path) -> ObjectIndex:
    rows = [
        ImageObjects(
            "grey.png",
            8,
            6,
            (Object((0, 0, 4, 4), rle.encode(WHOLE), 0), Object((0, 0, 8, 3), label=1), Object((5, 5, 4, 4))),
        ),
        ImageObjects("rgba.png", 6, 8, (Object((0, 0, 1, 1)),)),
        ImageObjects("gone.png", 6, 8),
        ImageObjects("sixteen.png", 8, 6, (Object((0, 0, 1, 1), label=1), Object((0, 0, 4, 4), b"0"))),
    ]
    write_index(
        tmp_path / "i.parquet", rows, root=folder, provenance="detected:x", classes=["cat", "dog", "eel"]
    )
    return ObjectIndex.open(tmp_path / "i.parquet")


def test_check_names_every_fault(index: ObjectIndex, folder: Path) -> None:
    assert [(s.what.removeprefix(f"{folder}/"), s.why) for s in problems(index)] == [
        ("grey.png, object 2", "box (5, 5, 4, 4) is inverted"),
        ("rgba.png", "is 8 x 6 pixels, but annotated as 6 x 8"),
        ("gone.png", "no such file"),
        ("sixteen.png, object 1", "mask has 0 pixels, but the image has 8 x 6 = 48"),
    ]
    assert next(problems(index)).what.endswith("grey.png, object 2")


def test_statistics_count_and_measure(index: ObjectIndex) -> None:
    found = statistics(index)
    assert (
        found.images,
        found.unreadable,
        found.without_objects,
        found.objects,
        found.masks,
        found.most_objects,
    ) == (4, 0, 1, 6, 2, 3)
    assert found.classes == {"cat": 1, "dog": 2, "eel": 0}
    assert (found.unlabelled, found.per_image, found.provenance) == (3, 1.5, "detected:x")
    assert found.image_side == pytest.approx([48**0.5] * 5)
    assert found.object_side[2] == pytest.approx(np.median(np.sqrt([16, 24, 0, 1, 1, 16])))
    assert found.object_share[-1] == pytest.approx(np.quantile([16, 24, 0, 1, 1, 16], 0.95) / 48)
    assert dict(found.table())["objects a used class (least, most)"] == "1, 2"


def test_statistics_of_a_folder_count_what_cannot_be_read(folder: Path) -> None:
    found = statistics(ObjectIndex.open(folder))
    assert (found.images, found.unreadable, found.objects, found.per_image) == (10, 2, 8, 1.0)
    assert found.provenance == "whole-image"


def test_statistics_of_an_empty_index_are_printable(tmp_path: Path) -> None:
    from rich.console import Console

    write_index(tmp_path / "i.parquet", [], root=tmp_path, provenance="annotated", classes=[])
    found = statistics(ObjectIndex.open(tmp_path / "i.parquet"))
    assert (found.images, found.objects, found.object_side) == (0, 0, ())
    console = Console(file=io.StringIO(), width=100)
    console.print(found)
    assert "annotated" in console.file.getvalue()  # type: ignore[attr-defined]
