"""Label maps become objects: connected regions or instances, in VOC's and ADE20K's layout; whatever is left
out is named and counted.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from odis.errors import DataError
from odis.objects import rle
from odis.objects.build import Summary, build_index
from odis.objects.clean import Crowd, SkippedObject
from odis.objects.index import ObjectIndex
from odis.objects.sources import label_maps
from odis.objects.sources.label_map_files import IGNORED
from odis.objects.sources.label_maps import ADE_CLASSES, MIN_REGION, VOC_CLASSES, ade_classes
from odis.types import ImageObjects, Object, Skipped

WIDTH, HEIGHT = 40, 30
CAT, DOG, PERSON = (VOC_CLASSES.index(name) + 1 for name in ("cat", "dog", "person"))


def photo(path: Path, width: int = WIDTH, height: int = HEIGHT, orientation: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = Image.Exif()
    if orientation is not None:
        tags[0x0112] = orientation
    Image.new("RGB", (width, height), (90, 120, 60)).save(path, exif=tags)


def save_map(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if (
        palette
    ):  # as VOC's are stored: the colours are for people, the positions in the palette are the values
        image.putpalette([k * 7 % 256 for k in range(768)])
        assert image.mode == "P"
    image.save(path)


def empty() -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), dtype=np.uint8)


def voc(root: Path, maps: dict[str, np.ndarray], instances: dict[str, np.ndarray] | None = None) -> Path:
    for name, values in maps.items():
        photo(root / f"JPEGImages/{name}.jpg")
        save_map(root / f"SegmentationClass/{name}.png", values, palette=True)
    for name, values in (instances or {}).items():
        save_map(root / f"SegmentationObject/{name}.png", values, palette=True)
    write_list(root, "\n".join(maps) + "\n")
    (root / "class_names.txt").write_text("\n".join(["_background_", *VOC_CLASSES]) + "\n")
    return root


def write_list(root: Path, text: str | bytes) -> None:
    path = root / "ImageSets/Segmentation/val.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def ade(root: Path, maps: dict[str, np.ndarray], part: str = "training") -> Path:
    for name, values in maps.items():
        photo(root / f"images/{part}/{name}.jpg")
        save_map(root / f"annotations/{part}/{name}.png", values)
    return root


def read(root: Path, split: str | None = "val") -> tuple[list[ImageObjects], list[Skipped], list[str]]:
    skipped: list[Skipped] = []
    source = label_maps.read(root, split, skipped.append)
    assert (source.root, source.provenance) == (root, "annotated")
    return list(source.rows), skipped, source.classes


def built(root: Path, split: str = "val", **options: Any) -> tuple[ObjectIndex, Summary, list[Skipped]]:
    skipped: list[Skipped] = []
    summary = build_index(
        "label-maps", root, root / "i.parquet", split=split, report=skipped.append, **options
    )
    return ObjectIndex.open(root / "i.parquet"), summary, skipped


def rectangle(values: np.ndarray, x0: int, y0: int, x1: int, y1: int, value: int) -> np.ndarray:
    values[y0:y1, x0:x1] = value
    return values


def pixels(item: Object, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    assert item.mask is not None
    return rle.decode(item.mask, shape[1], shape[0]) != 0


# --- regions ---


def test_regions_of_voc(tmp_path: Path) -> None:
    values = empty()
    rectangle(values, 20, 2, 30, 12, CAT)
    rectangle(values, 30, 12, 38, 20, CAT)  # touches the other at a corner: one region
    rectangle(values, 1, 1, 9, 9, CAT)
    rectangle(values, 9, 1, 17, 9, PERSON)  # touches a cat, of another class
    rectangle(values, 0, 20, 7, 29, CAT)  # 63 pixels
    values[28, 39] = DOG
    values[1, 1] = IGNORED
    rectangle(values, 8, 20, 17, 29, IGNORED)
    rows, skipped, classes = read(voc(tmp_path, {"2007_000032": values, "2007_000001": empty()}))
    assert classes == list(VOC_CLASSES)
    assert [row.image for row in rows] == [
        f"JPEGImages/2007_0000{k}.jpg" for k in ("32", "01")
    ]  # in the order of the list
    assert (rows[0].width, rows[0].height) == (WIDTH, HEIGHT)
    assert rows[1].objects == ()
    assert [(o.box, o.label, o.score) for o in rows[0].objects] == [
        ((20, 2, 38, 20), CAT - 1, None),
        ((9, 1, 17, 9), PERSON - 1, None),
    ]
    one, _ = rows[0].objects
    assert np.array_equal(
        pixels(one), rectangle(rectangle(empty(), 20, 2, 30, 12, 1), 30, 12, 38, 20, 1) == 1
    )
    path = tmp_path / "SegmentationClass/2007_000032.png"
    assert skipped == [
        Crowd(f"{path}, cat 1", "has 63 pixels, fewer than 64"),  # one of its 64 is ignored
        Crowd(f"{path}, cat 3", "has 63 pixels, fewer than 64"),
        Crowd(f"{path}, dog 1", "has 1 pixels, fewer than 64"),
    ]


def test_regions_of_ade20k_and_its_names(tmp_path: Path) -> None:
    first = rectangle(rectangle(empty(), 0, 0, 40, 10, 3), 5, 10, 15, 30, 150)
    root = ade(
        tmp_path, {"ADE_train_00000002": first, "ADE_train_00000001": rectangle(empty(), 0, 0, 8, 8, 1)}
    )
    names = {1: "wall", 2: "building, edifice", 3: "sky", 22: "water"}
    lines = [
        f"{k}{' ' if k == 22 else ''}\t0.0010 \t12\t 3\t{names.get(k, f'thing {k}')} "
        for k in range(1, ADE_CLASSES + 1)
    ]
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(lines) + "\n")
    rows, skipped, classes = read(root, "train")
    assert skipped == []
    assert [row.image for row in rows] == [f"images/training/ADE_train_0000000{k}.jpg" for k in (1, 2)]
    assert [[(o.box, classes[o.label or 0]) for o in row.objects] for row in rows] == [
        [((0, 0, 8, 8), "wall")],
        [((0, 0, 40, 10), "sky"), ((5, 10, 15, 30), "thing 150")],
    ]
    assert len(classes) == 150
    assert classes[:3] + classes[21:22] == ["wall", "building, edifice", "sky", "water"]
    (root / "objectInfo150.txt").unlink()
    assert read(root, "train")[2][149] == "class 150"


def flooded(values: np.ndarray) -> list[np.ndarray]:
    """Connected regions by a walk over the pixels: slow, and nothing like the code."""
    seen, regions = values == 0, []
    for start in map(tuple, np.argwhere(~seen)):
        if seen[start]:
            continue
        region, pending = np.zeros(values.shape, dtype=bool), [start]
        seen[start] = True
        while pending:
            y, x = pending.pop()
            region[y, x] = True
            for v in range(max(y - 1, 0), min(y + 2, values.shape[0])):
                for u in range(max(x - 1, 0), min(x + 2, values.shape[1])):
                    if not seen[v, u] and values[v, u] == values[y, x]:
                        seen[v, u] = True
                        pending.append((v, u))
        regions.append(region)
    return regions


def seen_box(region: np.ndarray) -> tuple[float, ...]:
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


blocky = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8),
    elements=st.sampled_from([0, 1, 2, 150]),
)


@settings(max_examples=60, deadline=None)
@given(blocky, st.integers(1, 7), st.integers(1, 7))
def test_any_map_becomes_its_connected_regions(coarse: np.ndarray, high: int, wide: int) -> None:
    values = coarse.repeat(high, axis=0).repeat(wide, axis=1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photo(root / "images/validation/a.jpg", values.shape[1], values.shape[0])
        save_map(root / "annotations/validation/a.png", values)
        ((row,), skipped, _) = read(root)
    expected = flooded(values)
    large = [region for region in expected if region.sum() >= MIN_REGION]
    assert len(skipped) == len(expected) - len(large)
    assert all(isinstance(s, Crowd) for s in skipped)
    found = {pixels(item, values.shape).tobytes(): item for item in row.objects}
    assert len(found) == len(row.objects) == len(large)
    for region in large:
        item = found[region.tobytes()]
        assert item.box == seen_box(region)
        assert item.label == values[region][0] - 1


# --- instances ---


def test_instances_of_voc_have_the_class_of_most_of_their_pixels(tmp_path: Path) -> None:
    values = rectangle(rectangle(empty(), 0, 0, 20, 10, CAT), 20, 0, 40, 10, DOG)
    numbers = rectangle(
        rectangle(empty(), 0, 0, 12, 10, 2), 12, 0, 30, 10, 1
    )  # touching cats are two, and no region counts
    numbers[29, 0] = numbers[20, 39] = 7  # in two parts, and small: as it was annotated
    values[29, 0] = values[20, 39] = PERSON
    numbers[0, 0] = IGNORED
    rows, skipped, _ = read(voc(tmp_path, {"a": values}, {"a": numbers}))
    assert skipped == []
    assert [(o.box, o.label) for o in rows[0].objects] == [
        ((12, 0, 30, 10), DOG - 1),  # 80 pixels are of the cat, 100 of the dog
        ((0, 0, 12, 10), CAT - 1),
        ((0, 20, 40, 30), PERSON - 1),
    ]
    for item, number in zip(rows[0].objects, (1, 2, 7)):
        assert np.array_equal(pixels(item), numbers == number)


def test_an_instance_without_a_class_is_named(tmp_path: Path) -> None:
    values = rectangle(rectangle(empty(), 0, 0, 4, 10, CAT), 10, 0, 14, 10, IGNORED)
    numbers = rectangle(rectangle(rectangle(empty(), 0, 0, 4, 10, 1), 10, 0, 14, 10, 2), 20, 0, 24, 10, 3)
    index, summary, skipped = built(voc(tmp_path, {"a": values}, {"a": numbers}))
    path = tmp_path / "SegmentationObject/a.png"
    why = "has no class: most of its pixels are background or ignored"
    assert skipped == [SkippedObject(f"{path}, instance 2", why), SkippedObject(f"{path}, instance 3", why)]
    assert len(index[0].objects) == 1
    assert (summary.objects, summary.kept, summary.objects_skipped, summary.crowds) == (3, 1, 2, 0)
    with pytest.raises(DataError, match=r"a\.png, instance 2: has no class"):
        built(tmp_path, strict=True)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.uint8, (6, 9), elements=st.sampled_from([0, 1, 9, 20, 255])),
    hnp.arrays(np.uint8, (6, 9), elements=st.sampled_from([0, 1, 2, 5, 254, 255])),
)
def test_any_instances_are_objects_or_named(values: np.ndarray, numbers: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        voc(root, {"a": values}, {"a": numbers})
        photo(root / "JPEGImages/a.jpg", 9, 6)
        ((row,), skipped, _) = read(root)
    expected: list[tuple[np.ndarray, int]] = []
    for number in sorted(set(numbers.ravel().tolist()) - {0, 255}):
        votes = [0 if v in (0, 255) else int(v) for v in values[numbers == number]]
        winner = min(set(votes), key=lambda v: (-votes.count(v), v))
        expected += [(numbers == number, winner - 1)] if winner else []
    assert len(skipped) + len(expected) == len(set(numbers.ravel().tolist()) - {0, 255})
    assert len(row.objects) == len(expected)
    for item, (region, label) in zip(row.objects, expected):
        assert np.array_equal(pixels(item, (6, 9)), region)
        assert (item.box, item.label) == (seen_box(region), label)


def test_the_folder_of_instances_decides_for_all_images(tmp_path: Path) -> None:
    values = rectangle(empty(), 0, 0, 10, 10, CAT)
    root = voc(tmp_path, {"a": values, "b": values, "c": values}, {"a": values, "c": values[:20]})
    rows, skipped, _ = read(root)
    assert [row.image for row in rows] == ["JPEGImages/a.jpg"]
    objects = root / "SegmentationObject"
    size = f"is 40 x 20 pixels, but {root}/SegmentationClass/c.png is 40 x 30 pixels"
    assert skipped == [Skipped(f"{objects}/b.png", "no such file"), Skipped(f"{objects}/c.png", size)]


# --- what is wrong ---


def test_counts_add_up_whatever_is_wrong(tmp_path: Path) -> None:
    good = rectangle(rectangle(empty(), 0, 0, 10, 10, CAT), 20, 20, 22, 22, DOG)
    root = voc(
        tmp_path, dict.fromkeys(("good", "gone", "text", "wide", "value", "cut", "colour", "nomap"), good)
    )
    (root / "JPEGImages/gone.jpg").unlink()
    (root / "JPEGImages/text.jpg").write_text("text")
    photo(root / "JPEGImages/wide.jpg", WIDTH + 1)
    maps = root / "SegmentationClass"
    save_map(maps / "value.png", rectangle(good.copy(), 12, 12, 13, 13, 21))
    save_map(maps / "cut.png", np.random.default_rng(0).integers(0, 21, (HEIGHT, WIDTH)))
    (maps / "cut.png").write_bytes((maps / "cut.png").read_bytes()[:300])
    Image.new("RGB", (WIDTH, HEIGHT)).save(maps / "colour.png")
    (maps / "nomap.png").unlink()
    listed = "good gone text wide value cut colour nomap  good ../good /good ..\\good C:good"
    write_list(root, listed.replace(" ", "\n"))
    _, summary, skipped = built(root)
    found = [(s.what.removeprefix(f"{root}/"), s.why) for s in skipped]
    cut = next(why for what, why in found if what.endswith("cut.png"))
    assert cut.startswith("cannot be decoded (")
    names = f"is not the name of an image in {root}/JPEGImages"
    assert found == [
        ("ImageSets/Segmentation/val.txt, line 10", "'good' was listed before"),
        ("ImageSets/Segmentation/val.txt, line 11", f"'../good' {names}"),
        ("ImageSets/Segmentation/val.txt, line 12", f"'/good' {names}"),
        ("ImageSets/Segmentation/val.txt, line 13", f"'..\\\\good' {names}"),
        ("ImageSets/Segmentation/val.txt, line 14", f"'C:good' {names}"),
        ("JPEGImages/gone.jpg", "no such file"),
        ("SegmentationClass/gone.png, cat 1", "its image cannot be used"),
        ("JPEGImages/text.jpg", "is not an image that can be read (unknown format)"),
        ("SegmentationClass/text.png, cat 1", "its image cannot be used"),
        ("JPEGImages/wide.jpg", "is 41 x 30 pixels, but annotated as 40 x 30"),
        ("SegmentationClass/wide.png, cat 1", "its image cannot be used"),
        ("SegmentationClass/cut.png", cut),
        (
            "SegmentationClass/colour.png",
            "has colours; a labelmap.txt beside the folders of the data set, with a line name:r,g,b:: for "
            "each class, says what they mean",
        ),
        ("SegmentationClass/nomap.png", "no such file"),
    ]
    assert (summary.images, summary.written, summary.images_skipped) == (13, 2, 11)
    assert (summary.objects, summary.kept, summary.objects_skipped, summary.crowds) == (
        11,
        2,
        3,
        6,
    )  # a dog of 4 pixels in each map, and a pixel of value 21
    with pytest.raises(DataError, match=r"val\.txt, line 10: 'good' was listed before"):
        built(root, strict=True)


def test_strict_lets_small_regions_pass(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": rectangle(rectangle(empty(), 0, 0, 10, 10, CAT), 20, 20, 22, 22, DOG)})
    _, summary, skipped = built(root, strict=True)
    assert (summary.objects, summary.kept, summary.objects_skipped, summary.crowds, skipped) == (
        2,
        1,
        0,
        1,
        [],
    )


def test_an_ade20k_map_and_image_without_each_other_are_named(tmp_path: Path) -> None:
    values = rectangle(empty(), 0, 0, 10, 10, 5)
    root = ade(
        tmp_path,
        {"a": values, "b": values, "c": values, "d": rectangle(values.copy(), 20, 0, 28, 10, 151)},
        "validation",
    )
    (root / "images/validation/a.jpg").unlink()
    (root / "annotations/validation/c.png").unlink()
    _, summary, skipped = built(root)
    assert [(s.what.removeprefix(f"{root}/"), s.why) for s in skipped] == [
        ("images/validation/a.jpg", "no such file"),
        ("annotations/validation/a.png, class 5 1", "its image cannot be used"),
        ("annotations/validation/c.png", "no such file"),
        (
            "annotations/validation/d.png, value 151 1",
            "has a value or colour that the list of classes has not: kept without label",
        ),
    ]
    assert (summary.images, summary.written, summary.objects, summary.kept) == (4, 2, 4, 3)


def test_a_turned_photo_fits_its_map_turned_or_not(tmp_path: Path) -> None:
    values = rectangle(empty(), 0, 0, 10, 20, CAT)
    root = voc(tmp_path, {"a": values, "b": values.T})
    for name in "ab":
        photo(root / f"JPEGImages/{name}.jpg", orientation=6)
    rows, skipped, _ = read(root)
    assert skipped == []
    assert [(row.width, row.height, row.objects[0].box) for row in rows] == [
        (40, 30, (0, 0, 10, 20)),
        (30, 40, (0, 0, 20, 10)),
    ]


def test_maps_of_other_depths(tmp_path: Path) -> None:
    path = voc(tmp_path, {"a": empty()}) / "SegmentationClass/a.png"
    values = rectangle(empty(), 0, 0, 10, 10, 1).astype(np.uint16)
    Image.fromarray(values == 1).save(path)
    assert [o.label for o in read(tmp_path)[0][0].objects] == [0]  # a bit is 0 or 1
    Image.fromarray(values).save(path)
    assert [o.label for o in read(tmp_path)[0][0].objects] == [0]
    Image.fromarray(300 * values).save(path)
    assert read(tmp_path)[1][0].why == "has the value 300; its values may be 0 to 255"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda lines: [], "its first line must be titles"),
        (lambda lines: lines[1:], "its first line must be titles"),
        (lambda lines: [line.replace("\t", ",") for line in lines], "its first line must be titles"),
        (lambda lines: lines[:-1], "does not name class 150"),
        (lambda lines: [*lines[:5], "5\t0.1", *lines[6:]], "does not name class 5; a line has 5 fields"),
        (lambda lines: [*lines[:5], "5\t0.1\t1\t1\t ", *lines[6:]], "does not name class 5"),
        (lambda lines: [*lines, lines[7]], "names class 7 twice"),
    ],
)
def test_a_list_of_names_that_is_none_is_refused(tmp_path: Path, change: Any, text: str) -> None:
    lines = ["Idx\tRatio\tTrain\tVal\tName", *(f"{k}\t0.1\t1\t1\tname {k}" for k in range(1, 151))]
    path = tmp_path / "objectInfo150.txt"
    path.write_text("\n".join(lines))
    assert ade_classes(path) == [f"name {k}" for k in range(1, 151)]
    path.write_text("\n".join(change(lines)))
    with pytest.raises(DataError, match=text):
        ade_classes(path)
