"""Hugging Face's data sets in place: the layouts of `push_to_hub` and `save_to_disk`, boxes and labels."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from odis.errors import DataError, OdisWarning
from odis.objects import rle
from odis.objects.build import build_index
from odis.objects.clean import Unread
from odis.objects.edit.pack import pack_index
from odis.objects.edit.rows import merge_indexes, sample_index
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex, write_index
from odis.objects.sources.huggingface import class_names
from odis.types import ImageObjects, Object, Skipped

NAMES = {"names": ["cat", "dog", "cow"], "_type": "ClassLabel"}

RECTANGLE = np.zeros((10, 20), bool)
RECTANGLE[2:6, 1:4] = True


def png(color: int, size: tuple[int, int] = (20, 10)) -> bytes:
    held = io.BytesIO()
    Image.new("L", size, color).save(held, "PNG")
    return held.getvalue()


def write(
    path: Path, rows: list[dict[str, Any]], features: dict[str, Any] | None = None, **options: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if features is not None:
        said = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": said})
    if path.suffix == ".parquet":
        pq.write_table(table, path, **options)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)


def built(root: Path, split: str | None = None) -> tuple[ObjectIndex, list[Skipped]]:
    skipped: list[Skipped] = []
    build_index("huggingface", root, root.parent / "i.parquet", split, report=skipped.append, max_skipped=1)
    return ObjectIndex.open(root.parent / "i.parquet"), skipped


def pixels(index: ObjectIndex) -> list[int]:
    found = [load_image(index.image_path(i)) for i in range(len(index))]
    return [image.getpixel((0, 0))[0] for image in found]  # type: ignore[index]


def image(color: int, path: str | None = None) -> dict[str, Any]:
    return {"bytes": png(color), "path": path}


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_boxes_and_classes_are_read(tmp_path: Path, ending: str) -> None:
    root = tmp_path / "data"
    objects = {"bbox": [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 5.0]], "category": [2, 0], "area": [1, 2]}
    rows = [
        {"image": image(1, "a/b.png"), "objects": objects, "id": 7},
        {"image": image(2), "objects": {"bbox": [], "category": [], "area": []}, "id": 8},
        {"image": image(3, "c.png"), "objects": objects, "id": 9},
    ]
    features = {"image": {"_type": "Image"}, "objects": {"category": {"feature": NAMES, "_type": "List"}}}
    write(root / f"data/train-00000-of-00001.{ending}", rows, features)
    write(root / f"data/test-00000-of-00001.{ending}", rows[:1], features)
    index, skipped = built(root, "train")
    assert (index.provenance, index.classes) == ("annotated", ["cat", "dog", "cow"])
    assert pixels(index) == [1, 2, 3]
    boxes = (Object((1.0, 2.0, 4.0, 6.0), label=2), Object((0.0, 0.0, 5.0, 5.0), label=0))
    assert [row.objects for row in index] == [boxes, (), boxes]
    names = [index.image_name(i).rpartition("/")[2] for i in range(3)]
    assert names == ["b.png", "000001.png", "c.png"]
    assert [one.what.rpartition(" ")[2] for one in skipped] == ["id"]
    with pytest.raises(DataError, match="a split must be named; there are train, test"):
        built(root)


@pytest.mark.parametrize(
    ("row", "objects"),
    [
        ({"box": [1.0, 2.0, 3.0, 4.0], "label": 1}, [Object((1, 2, 4, 6), label=1)]),
        (
            {"bbox": [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 5.0]], "labels": [2, 0], "scores": [0.5, 0.25]},
            [Object((1, 2, 4, 6), label=2, score=0.5), Object((0, 0, 5, 5), label=0, score=0.25)],
        ),
        (
            {"bboxes": [[1.0, 2.0, 3.0, 4.0]] * 2, "category_id": [1, 2], "iscrowd": [1, 0],
             "score": [1.0, 1.0]},
            [Object((1, 2, 4, 6), label=2, score=1.0)],
        ),
        (
            {"bbox": [[1.0, 2.0, 3.0, 4.0]], "segmentation": [[[1.0, 2.0, 4.0, 2.0, 4.0, 6.0, 1.0, 6.0]]],
             "classes": [0]},
            [Object((1, 2, 4, 6), rle.encode(RECTANGLE), label=0)],
        ),
    ],
)  # fmt: skip
def test_columns_beside_a_column_of_boxes_are_read(
    tmp_path: Path, row: dict[str, Any], objects: list[Object]
) -> None:
    (label,) = set(row) & {"label", "labels", "category_id", "classes"}
    root = tmp_path / "data"
    write(root / "0.parquet", [{"image": image(1), **row, "id": 4}], {label: {"feature": NAMES}})
    index, skipped = built(root)
    assert (index.provenance, index.classes) == ("annotated", NAMES["names"])
    assert index[0].objects == tuple(objects)
    assert [one.what.rpartition(" ")[2] for one in skipped if isinstance(one, Unread)] == ["id"]


def test_a_label_beside_objects_is_said_to_be_unread(tmp_path: Path) -> None:
    root = tmp_path / "data"
    objects = {"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [2]}
    write(root / "0.parquet", [{"image": image(1), "objects": objects, "label": 1, "category": 1}])
    index, skipped = built(root)
    assert index.classes == ["2"]
    assert [one.what.rpartition(" ")[2] for one in skipped] == ["label", "category"]


def test_images_with_a_label_are_whole_ones(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rows = [{"img": image(k), "coarse": 0, "fine": k % 3 if k else -1} for k in range(5)]
    other = {"names": ["x"], "_type": "Value"}
    write(root / "0.arrow", rows, {"img": {"_type": "Image"}, "coarse": other, "fine": NAMES})
    index, _ = built(root)
    assert (index.provenance, index.classes) == ("whole-image", ["cat", "dog", "cow"])
    assert [row.objects[0].label for row in index] == [None, 1, 2, 0, 1]
    assert pixels(index) == list(range(5))


def test_labels_without_metadata_are_their_own_names(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root / "0.parquet", [{"image": image(k), "label": name} for k, name in enumerate(["b", "a", "b"])])
    index, _ = built(root)
    assert index.classes == ["a", "b"]
    assert [row.objects[0].label for row in index] == [1, 0, 1]


def test_images_without_bytes_are_where_their_path_says(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(
        root / "sub/0.parquet",
        [
            {"image": {"bytes": None, "path": "a.png"}},
            {"image": {"bytes": None, "path": str(tmp_path / "b.png")}},
            {"image": {"bytes": None, "path": None}},
            {"image": {"bytes": b"broken", "path": "x.png"}},
            {"image": image(3)},
        ],
    )
    (root / "sub/a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    index, skipped = built(root)
    assert pixels(index) == [1, 2, 3]
    assert [one.why.partition(" (")[0] for one in skipped] == [
        "has no image in image",
        "is not an image that can be read",
    ]


def test_an_image_in_a_large_compressed_page_is_said(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(8):
        held = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (250, 300, 3), dtype=np.uint8)).save(held, "PNG")
        rows.append({"image": {"bytes": held.getvalue(), "path": None}})
    write(root / "0.parquet", rows)
    with pytest.warns(
        OdisWarning, match=r"an image of 22\d kB lies in a compressed page of 1\.8 MB.*odis index pack"
    ):
        build_index("huggingface", root, tmp_path / "i.parquet")


def test_images_in_pages_go_through_stores_edits_and_packing(tmp_path: Path, image_server: Any) -> None:
    root = image_server.folder / "data"
    write(root / "0.parquet", [{"image": image(k)} for k in range(3)])
    write(root / "1.parquet", [{"image": image(3)}], compression="none", use_dictionary=False)
    index, _ = built(root)
    assert [("@snappy:" in index.image_name(i)) for i in range(4)] == [True, True, True, False]
    behind = ObjectIndex.open(index.path, root=f"{image_server.url}/data")
    assert pixels(behind) == pixels(index) == [0, 1, 2, 3]
    assert {method for method, _, _ in image_server.asked} == {"GET"}
    assert len(image_server.asked) == 4
    sample_index(index, tmp_path / "sample.parquet", 4, 0)
    assert pixels(ObjectIndex.open(tmp_path / "sample.parquet")) == [0, 1, 2, 3]
    (image_server.folder / "9.png").write_bytes(png(9))
    other = tmp_path / "o.parquet"
    row = ImageObjects("9.png", 20, 10)
    write_index(other, [row], root=image_server.folder, provenance="whole-image", classes=[])
    merge_indexes([ObjectIndex.open(other), index], image_server.folder / "merged.parquet")
    image_server.folder.rename(tmp_path / "moved")  # together with the images
    assert pixels(ObjectIndex.open(tmp_path / "moved" / "merged.parquet")) == [9, 0, 1, 2, 3]
    (tmp_path / "moved").rename(image_server.folder)
    packed = ObjectIndex.open(pack_index(behind, tmp_path / "packed").path)
    assert pixels(packed) == [0, 1, 2, 3]
    assert not any("@" in packed.image_name(i) for i in range(4))


def test_what_holds_no_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data/0.parquet", [{"text": "a"}])
    with pytest.raises(DataError, match=r"0\.parquet: has the columns text, of which none holds images"):
        built(tmp_path / "data")
    (tmp_path / "data/0.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match=r"0\.parquet: cannot be read"):
        built(tmp_path / "data")
    (tmp_path / "data/0.parquet").unlink()
    with pytest.raises(DataError, match="no Parquet or Arrow files"):
        built(tmp_path / "data")


@pytest.mark.parametrize(
    ("feature", "names"),
    [
        (NAMES, ["cat", "dog", "cow"]),
        (
            {"feature": {"bbox": {"_type": "List"}, "category": NAMES}, "_type": "Sequence"},
            ["cat", "dog", "cow"],
        ),
        ([{"category": NAMES}], ["cat", "dog", "cow"]),
        ({"dtype": "int64", "_type": "Value"}, None),
        ({"_type": "ClassLabel", "names": [1]}, None),
        (None, None),
    ],
)
def test_class_names_are_found_in_features_old_and_new(feature: Any, names: list[str] | None) -> None:
    assert class_names(feature) == names
