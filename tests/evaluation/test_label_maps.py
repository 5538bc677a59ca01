"""Labels of pixels from objects and from PNG files in VOC's and ADE20K's layout; what is refused; patch
shares against a loop.
"""

import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask

from odis.data.geometry.patches import mask_rectangles, patch_coverage
from odis.errors import DataError, OdisError
from odis.evaluation.label_layouts import VOC_CLASSES, open_label_maps
from odis.evaluation.label_maps import BACKGROUND, IGNORE, LabelledImages, patch_label_shares
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object, Skipped

WIDTH, HEIGHT = 12, 9


def photo(path: Path, width: int = WIDTH, height: int = HEIGHT, orientation: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = Image.Exif()
    if orientation is not None:
        tags[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=tags)


def rectangle(x0: int, y0: int, x1: int, y1: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y0:y1, x0:x1] = 1
    return rle.encode(mask)


def of_mask(x0: int, y0: int, x1: int, y1: int, label: int | None) -> Object:
    """A rectangle as a mask, in a box that is the whole image: only the mask can say which pixels are
    meant.
    """
    return Object((0, 0, WIDTH, HEIGHT), rectangle(x0, y0, x1, y1), label)


def opened(
    folder: Path, *objects: Object, classes: tuple[str, ...] = ("cup", "table"), boxes: bool = False
) -> LabelledImages:
    """One image with these objects."""
    if not (folder / "a.png").exists():
        photo(folder / "a.png")
    row = ImageObjects("a.png", WIDTH, HEIGHT, objects)
    write_index(folder / "index.parquet", [row], root=folder, provenance="detected:x", classes=list(classes))
    return LabelledImages.from_index(ObjectIndex.open(folder / "index.parquet"), boxes)


# --- from an object index ---


def test_masks_become_labels_and_the_rest_is_background(tmp_path: Path) -> None:
    polygon = coco_mask.merge(coco_mask.frPyObjects([[1.0, 1.0, 6.0, 1.0, 1.0, 6.0]], HEIGHT, WIDTH))[
        "counts"
    ]
    data = opened(tmp_path, Object((1, 1, 6, 6), polygon, 1), of_mask(8, 2, 12, 9, 0))
    image, labels, skipped = data.read(0)
    assert (data.classes, data.provenance, len(data)) == (["background", "cup", "table"], "detected:x", 1)
    assert data.path == str(tmp_path / "index.parquet")
    assert data.image_path(0) == str(tmp_path / "a.png")
    assert (image.mode, image.size, skipped) == ("RGB", (WIDTH, HEIGHT), [])
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(tmp_path / "a.png")))
    expected = np.full((HEIGHT, WIDTH), BACKGROUND)
    expected[rle.decode(polygon, WIDTH, HEIGHT) == 1] = 2
    expected[2:, 8:] = 1
    assert labels.dtype == np.int32
    assert 5 < (expected == 2).sum() < 25  # a triangle, not its box
    np.testing.assert_array_equal(labels, expected)


def test_the_smaller_mask_is_on_top_whatever_the_order_and_of_equal_ones_the_later(tmp_path: Path) -> None:
    table, cup = of_mask(0, 0, 10, 8, 1), of_mask(2, 2, 5, 5, 0)  # both boxes are the whole image
    for objects in ((table, cup), (cup, table)):
        labels = opened(tmp_path, *objects).read(0)[1]
        assert (labels[2:5, 2:5] == 1).all()
        assert (labels == 2).sum() == 80 - 9
    equal = of_mask(2, 2, 5, 5, 1)
    assert opened(tmp_path, cup, equal).read(0)[1][3, 3] == 2
    assert opened(tmp_path, equal, cup).read(0)[1][3, 3] == 1


def test_objects_without_a_label_are_ignored_pixels(tmp_path: Path) -> None:
    labels = opened(
        tmp_path, of_mask(0, 0, 6, 6, None), of_mask(1, 1, 3, 3, 0), of_mask(0, 0, 12, 9, 1)
    ).read(0)[1]
    expected = np.full((HEIGHT, WIDTH), 2)
    expected[:6, :6] = IGNORE
    expected[1:3, 1:3] = 1
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("boxes", [False, True])
def test_boxes_without_a_mask_are_filled_if_asked_else_unknown(tmp_path: Path, boxes: bool) -> None:
    objects = (
        Object((1.6, 2, 4.4, 5.5), label=0),
        Object((-3, 6.2, 50, 99), label=1),
        Object((5.2, 5.2, 5.4, 5.4), label=0),
    )
    labels = opened(tmp_path, *objects, of_mask(0, 0, 12, 9, 1), boxes=boxes).read(0)[1]
    expected = np.full((HEIGHT, WIDTH), 2)
    expected[2:6, 2:4] = 1 if boxes else IGNORE
    expected[6:9, :] = 2 if boxes else IGNORE
    expected[5, 5] = 1 if boxes else IGNORE  # smaller than a pixel, and yet there
    np.testing.assert_array_equal(labels, expected)
    unlabelled = opened(tmp_path, Object((1, 2, 4, 5)), boxes=boxes).read(0)[1]
    assert (unlabelled == IGNORE).sum() == 9
    assert opened(tmp_path, Object((11.9, 8.9, 12, 9), label=0), boxes=True).read(0)[1][8, 11] == 1


def test_unusable_objects_are_named_and_the_others_stay(tmp_path: Path) -> None:
    wrong_size = Object((0, 0, 5, 5), rectangle(0, 0, 2, 2, WIDTH + 1), 0)
    data = opened(
        tmp_path,
        wrong_size,
        of_mask(0, 0, 2, 2, 1),
        of_mask(4, 4, 6, 6, 7),
        Object((5, 5, 2, 2), label=0),
        boxes=True,
    )
    _, labels, skipped = data.read(0)
    assert [s.what for s in skipped] == [f"{tmp_path / 'a.png'}, object {k}" for k in (0, 2, 3)]
    assert all(isinstance(s, Skipped) for s in skipped)
    assert ["pixels" in skipped[0].why, "label 7" in skipped[1].why, "inverted" in skipped[2].why] == [
        True
    ] * 3
    assert (labels == 2).sum() == 4
    assert (labels[4:6, 4:6] == IGNORE).all(), "an object whose label is no class is there, and unknown"
    assert (labels == BACKGROUND).sum() == labels.size - 8


def test_an_image_without_objects_is_background(tmp_path: Path) -> None:
    assert (opened(tmp_path).read(0)[1] == BACKGROUND).all()


@pytest.mark.parametrize("turned", [True, False])
def test_an_index_made_for_the_turned_or_the_stored_photo_fits(tmp_path: Path, turned: bool) -> None:
    photo(tmp_path / "a.png", orientation=6)
    width, height = (HEIGHT, WIDTH) if turned else (WIDTH, HEIGHT)
    item = Object((0, 0, 2, 3), rectangle(0, 0, 2, 3, width, height), 0)
    row = ImageObjects("a.png", width, height, (item,))
    write_index(tmp_path / "index.parquet", [row], root=tmp_path, provenance="annotated", classes=["cup"])
    image, labels, _ = LabelledImages.from_index(ObjectIndex.open(tmp_path / "index.parquet")).read(0)
    assert image.size == labels.shape[::-1] == (width, height)
    assert (labels[:3, :2] == 1).all()
    stored = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(np.asarray(image), np.rot90(stored, -1) if turned else stored)


def test_an_index_is_refused_if_its_image_or_itself_cannot_be_used(tmp_path: Path) -> None:
    data = opened(tmp_path)
    photo(tmp_path / "a.png", WIDTH + 1)
    with pytest.raises(DataError, match=r"a\.png: is 13 x 9 pixels, but its objects are for 12 x 9"):
        data.read(0)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no such file"):
        data.read(0)
    with pytest.raises(DataError, match="has no classes"):
        opened(tmp_path, classes=())
    write_index(tmp_path / "empty.parquet", [], root=tmp_path, provenance="annotated", classes=["cup"])
    with pytest.raises(DataError, match=r"empty\.parquet: has no images"):
        LabelledImages.from_index(ObjectIndex.open(tmp_path / "empty.parquet"))


# --- from label maps ---

VOC_VALUES = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
VOC_VALUES[2:5, 3:9], VOC_VALUES[5, :], VOC_VALUES[0, 0] = 15, 255, 20
ADE_VALUES = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) + 43  # up to 150
ADE_VALUES[0, :4] = 0


def palette_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette([(37 * k + c) % 256 for k in range(256) for c in (0, 80, 160)])
    image.save(path)


def grey_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000002\n2007_000001 \n\n")
    (lists / "train.txt").write_text("2007_000003\n")
    for number in (1, 2, 3):
        photo(root / "JPEGImages" / f"2007_{number:06}.jpg")
        palette_png(root / "SegmentationClass" / f"2007_{number:06}.png", VOC_VALUES)
    return root


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    for split, names in (("training", ("ADE_train_2", "ADE_train_1")), ("validation", ("ADE_val_1",))):
        for name in names:
            photo(root / "images" / split / f"{name}.jpg")
            grey_png(root / "annotations" / split / f"{name}.png", ADE_VALUES)
    (root / "images" / "training" / "._ADE_train_1.jpg").write_bytes(b"left by a file manager")
    (root / "images" / "training" / "index.html").touch()
    titles = "Idx\tRatio\tTrain\tVal\tName\n"
    (root / "objectInfo150.txt").write_text(
        titles + "".join(f"{k} \t0.1\t9\t3\tthing {k}, stuff \n" for k in range(1, 151))
    )
    return root


def test_voc_is_read(voc: Path) -> None:
    data = open_label_maps(voc, "val")
    assert (data.path, data.provenance, len(data)) == (str(voc), "label-maps", 2)
    assert data.classes == list(VOC_CLASSES)
    assert (len(VOC_CLASSES), VOC_CLASSES[0], VOC_CLASSES[15], VOC_CLASSES[20]) == (
        21,
        "background",
        "person",
        "tvmonitor",
    )
    assert [data.image_path(i) for i in range(2)] == [
        str(voc / "JPEGImages" / f"2007_{n:06}.jpg") for n in (2, 1)
    ]  # as listed
    image, labels, skipped = data.read(1)
    assert (image.mode, image.size, skipped, labels.dtype) == ("RGB", (WIDTH, HEIGHT), [], np.int32)
    expected = VOC_VALUES.astype(int)
    expected[expected == 255] = IGNORE
    np.testing.assert_array_equal(labels, expected)
    assert len(open_label_maps(str(voc), "train")) == 1


def test_ade_is_read(ade: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsorted = {
        str(p.parent): sorted((f.name for f in p.parent.iterdir()), reverse=True)
        for p in ade.glob("images/*/*")
    }
    monkeypatch.setattr(os, "listdir", lambda folder: unsorted[str(folder)])
    data = open_label_maps(ade, "train")
    assert (data.path, data.provenance, len(data)) == (str(ade), "label-maps", 2)
    assert [data.image_path(i) for i in range(2)] == [
        str(ade / "images" / "training" / f"ADE_train_{k}.jpg") for k in (1, 2)
    ]
    assert (len(data.classes), data.classes[0], data.classes[149]) == (
        150,
        "thing 1, stuff",
        "thing 150, stuff",
    )
    labels = data.read(0)[1]
    np.testing.assert_array_equal(labels, ADE_VALUES.astype(int) - 1)
    assert (labels[0, :4] == IGNORE).all()
    assert labels.max() == 149
    for split in ("val", "validation"):
        assert open_label_maps(ade, split).image_path(0).endswith("ADE_val_1.jpg")
    (ade / "objectInfo150.txt").unlink()
    assert open_label_maps(ade, "val").classes == [f"class {k}" for k in range(1, 151)]


@pytest.mark.parametrize("turned", [True, False])
def test_a_map_of_the_turned_or_the_stored_photo_fits(voc: Path, turned: bool) -> None:
    path = voc / "JPEGImages" / "2007_000001.jpg"
    photo(path, orientation=8)
    values = np.ascontiguousarray(np.rot90(VOC_VALUES)) if turned else VOC_VALUES
    palette_png(voc / "SegmentationClass" / "2007_000001.png", values)
    image, labels, _ = open_label_maps(voc, "val").read(1)
    assert image.size == labels.shape[::-1] == values.shape[::-1]
    stored = np.asarray(Image.open(path))
    np.testing.assert_array_equal(np.asarray(image), np.rot90(stored) if turned else stored)


@pytest.mark.parametrize("dtype", [bool, np.uint16])
def test_maps_of_other_depths_hold_the_same_values(voc: Path, dtype: type) -> None:
    values = (
        np.where(VOC_VALUES == 15, 255, 0) if dtype is bool else VOC_VALUES
    )  # 1 bit a pixel: black and white, 0 and 255
    grey_png(voc / "SegmentationClass" / "2007_000002.png", values.astype(dtype))
    labels = open_label_maps(voc, "val").read(0)[1]
    np.testing.assert_array_equal(labels, np.where(values == 255, IGNORE, values.astype(int)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.full((HEIGHT, WIDTH), 21, dtype=np.uint8),
            r"2007_000002\.png: has the value 21; its values may be 0 to 20 and 255, the lines of its list",
        ),
        (np.full((HEIGHT, WIDTH), 256, dtype=np.uint16), r"2007_000002\.png: has the value 256"),
        (
            np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8),
            r"2007_000002\.png: has RGB pixels; a label map has one value a pixel",
        ),
        (
            np.zeros((WIDTH, HEIGHT), dtype=np.uint8),
            r"2007_000002\.png: is 9 x 12 pixels, but its image .*2007_000002\.jpg is 12 x 9",
        ),
    ],
)
def test_a_map_that_does_not_fit_is_named(voc: Path, values: np.ndarray, message: str) -> None:
    grey_png(voc / "SegmentationClass" / "2007_000002.png", values)
    (voc / "class_names.txt").write_text("\n".join(VOC_CLASSES))
    data = open_label_maps(voc, "val")
    with pytest.raises(DataError, match=message):
        data.read(0)
    data.read(1)


def test_vocs_names_are_given_where_the_values_are_vocs(voc: Path) -> None:
    assert open_label_maps(voc, "val").classes == list(VOC_CLASSES)
    data = open_label_maps(voc, "val")
    grey_png(voc / "SegmentationClass" / "2007_000002.png", np.full((HEIGHT, WIDTH), 22, np.uint8))
    with pytest.raises(DataError, match=r"its values may be 0 to 20 and 255 \(VOC\)"):
        data.read(0)
    found = open_label_maps(voc, "train")  # shows no 22 itself
    assert found.classes == list(VOC_CLASSES)
    found = open_label_maps(voc, "val")
    assert found.classes == ["background", *(f"class {k}" for k in range(1, 23))]
    assert found.background == 0
    for name in (1, 2, 3):
        for folder, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
            (voc / folder / f"2007_{name:06}.{ending}").rename(voc / folder / f"a{name}.{ending}")
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("a1\na3\n")
    found = open_label_maps(voc, "val")  # values of VOC, but names that say nothing
    assert found.classes[1] == "class 1"
    assert len(found.classes) == 23  # of the whole folder
    (voc / "labelmap.txt").write_text(
        "".join(f"{'background' if not k else f'c{k}'}:{k},0,0::\n" for k in range(21))
    )
    found = open_label_maps(voc, "val")
    assert found.classes == ["background", *(f"c{k}" for k in range(1, 21))]
    assert found.background == 0


def test_ade_refuses_values_above_150(ade: Path) -> None:
    grey_png(ade / "annotations" / "validation" / "ADE_val_1.png", ADE_VALUES + 1)
    with pytest.raises(
        DataError, match=r"ADE_val_1\.png: has the value 151; its values may be 0 to 150 \(ADE20K\)"
    ):
        open_label_maps(ade, "val").read(0)


@pytest.mark.parametrize("file", ["SegmentationClass/2007_000002.png", "JPEGImages/2007_000002.jpg"])
def test_files_that_are_missing_or_broken_are_named(voc: Path, file: str) -> None:
    data, path = open_label_maps(voc, "val"), voc / file
    whole = path.read_bytes()
    cut = whole[: -40 if path.suffix == ".jpg" else whole.index(b"IDAT") + 8]
    for content, reason in (
        (b"", "empty"),
        (b"no image", "not an image"),
        (cut, "cannot be decoded"),
        (None, "no such file"),
    ):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{path.name}: .*{reason}"):
            data.read(0)
    path.write_bytes(whole)
    data.read(0)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("JPEGImages", "JPEGImages: no such folder; VOC's layout has one"),
        ("ImageSets", "Segmentation: no such folder; VOC's layout has one"),
        (
            "SegmentationClass",
            r"holds no label maps in a known layout: VOC \(JPEGImages, .*\) or ADE20K \(images/training, ",
        ),
    ],
)
def test_folders_voc_lacks_are_named(voc: Path, missing: str, message: str) -> None:
    shutil.rmtree(voc / missing)
    with pytest.raises(DataError, match=message) as caught:
        open_label_maps(voc, "val")
    assert "\n" not in str(caught.value)


def test_splits_voc_lacks_are_named(voc: Path) -> None:
    with pytest.raises(DataError, match=r"trainval\.txt: no such file; splits that are there: train, val"):
        open_label_maps(voc, "trainval")
    lists = voc / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"val\.txt: lists no images"):
        open_label_maps(voc, "val")
    (lists / "val.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"val\.txt: is not UTF-8 text"):
        open_label_maps(voc, "val")


def test_what_ade_lacks_is_named(ade: Path) -> None:
    with pytest.raises(DataError, match="has no split 'test'; ADE20K's layout has train and val"):
        open_label_maps(ade, "test")
    info = ade / "objectInfo150.txt"
    info.write_text(info.read_text().replace("\n77 \t", "\n77 "))
    with pytest.raises(DataError, match=r"objectInfo150\.txt: does not name class 77"):
        open_label_maps(ade, "val")
    (ade / "images" / "validation" / "ADE_val_1.jpg").unlink()
    with pytest.raises(DataError, match=r"validation: holds no images \(\.jpg\)"):
        open_label_maps(ade, "val")
    shutil.rmtree(ade / "annotations" / "validation")
    with pytest.raises(DataError, match=r"annotations.validation: no such folder; ADE20K's layout has one"):
        open_label_maps(ade, "val")
    with pytest.raises(DataError, match="no such folder"):
        open_label_maps(ade / "nowhere", "val")


def test_workers_read_the_same(voc: Path, tmp_path: Path) -> None:
    for data in (open_label_maps(voc, "val"), opened(tmp_path, of_mask(1, 1, 5, 5, 0))):
        here = [data.read(i)[1] for i in range(len(data))]  # opens the index, whose tables do not travel
        copy = pickle.loads(pickle.dumps(data))
        assert (copy.path, copy.provenance, copy.classes, len(copy)) == (
            data.path,
            data.provenance,
            data.classes,
            len(data),
        )
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as workers:
            there = [labels for _, labels, _ in workers.map(data.read, range(len(data)))]
        np.testing.assert_array_equal(there, here)


# --- shares of patches ---


def slow_shares(labels: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Every pixel with every patch, in exact fractions."""
    height, width = labels.shape
    shares = [[Fraction(0)] * classes for _ in range(grid[0] * grid[1])]

    def overlap(pixel: int, part: int, length: Fraction) -> Fraction:
        return (
            max(
                Fraction(0),
                min(Fraction(pixel + 1), (part + 1) * length) - max(Fraction(pixel), part * length),
            )
            / length
        )

    for p, share in enumerate(shares):
        for y in range(height):
            for x in range(width):
                if labels[y, x] != IGNORE:
                    down = overlap(y, p // grid[1], Fraction(height, grid[0]))
                    share[labels[y, x]] += down * overlap(x, p % grid[1], Fraction(width, grid[1]))
    return np.array(shares, dtype=np.float64)


@settings(max_examples=60, deadline=None)
@given(
    st.data(), st.integers(1, 7), st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)
)
def test_shares_equal_a_loop_on_any_grid(
    data: st.DataObject, rows: int, columns: int, height: int, width: int, classes: int
) -> None:
    labels = data.draw(hnp.arrays(np.int32, (height, width), elements=st.integers(IGNORE, classes - 1)))
    shares = patch_label_shares(labels, (rows, columns), classes)
    assert (shares.shape, shares.dtype) == ((rows * columns, classes), np.float32)
    np.testing.assert_allclose(shares, slow_shares(labels, (rows, columns), classes), atol=1e-7)
    assert (shares.sum(1) <= 1 + 1e-6).all()


@pytest.mark.parametrize("grid", [(2, 3), (7, 5), (14, 14), (1, 1), (40, 60)])
def test_shares_equal_the_coverage_of_training_masks(grid: tuple[int, int]) -> None:
    labels = np.random.default_rng(1).integers(IGNORE, 6, (38, 53)).astype(np.int32)
    shares = patch_label_shares(labels, grid, 8)
    whole, upright = np.array([[0.0, 0.0, 53.0, 38.0]]), np.array([False])
    for c in range(8):
        rectangles = mask_rectangles(rle.run_lengths(rle.encode(labels == c)), 38).astype(np.float64)
        expected = patch_coverage(rectangles, whole, upright, *grid, 0.0)[0]
        np.testing.assert_allclose(shares[:, c].reshape(grid), expected, atol=1e-6)
    if grid == (1, 1):
        np.testing.assert_allclose(shares.sum(1), (labels != IGNORE).mean(), atol=1e-6)


def test_shares_by_hand() -> None:
    labels = np.array([[0, 0, 1], [2, IGNORE, 1]])
    np.testing.assert_allclose(
        patch_label_shares(labels, (1, 2), 3), [[0.5, 0, 1 / 3], [1 / 6, 2 / 3, 0]], atol=1e-7
    )
    np.testing.assert_array_equal(patch_label_shares(np.full((4, 4), IGNORE), (2, 2), 3), np.zeros((4, 3)))
    full = patch_label_shares(np.ones((375, 500), dtype=np.int32), (27, 36), 2)
    np.testing.assert_array_equal(
        full, np.tile([0, 1], (27 * 36, 1))
    )  # exactly one, on a grid that does not divide


@pytest.mark.parametrize("labels", [np.array([[0, 3]]), np.array([[0, -2]]), np.empty((0, 4), dtype=int)])
def test_labels_out_of_range_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(OdisError, match="must be from 0 to 2, or -1 where they are ignored"):
        patch_label_shares(labels, (2, 2), 3)
