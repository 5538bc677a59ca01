"""What a detector is shown: boxes and masks move with the pixels; what cannot be used is named."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import odis
from odis.downstream.detection import on_square, target_of
from odis.downstream.detection_data import (
    DetectionPart,
    DetectionSample,
    TestSamples,
    TrainSamples,
    shown,
    small_mask,
)
from odis.downstream.starts import open_starts
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object, Skipped


def block(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int]) -> tuple[Image.Image, ImageObjects]:
    """An image that is white in one box and black elsewhere, with that box and its mask as the object."""
    mask = np.zeros(size[::-1], bool)
    mask[y0:y1, x0:x1] = True
    image = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    return image, ImageObjects("a", *size, (Object((x0, y0, x1, y1), rle.encode(mask), 1),))


@given(
    st.data(),
    st.integers(8, 90),
    st.integers(8, 90),
    st.floats(20, 130),
    st.booleans(),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_boxes_and_masks_lie_where_the_pixels_are(data, width, height, longer, flip, corner):
    x0 = data.draw(st.integers(0, width - 4))
    y0 = data.draw(st.integers(0, height - 4))
    x1, y1 = data.draw(st.integers(x0 + 4, width)), data.draw(st.integers(y0 + 4, height))
    image, row = block(x0, y0, x1, y1, (width, height))
    pixels, boxes, labels, masks = shown(image, row, longer, 64, flip, corner, masks=True)
    assert pixels.shape[1] <= 64
    assert pixels.shape[2] <= 64
    assert (masks.dtype, labels.dtype, boxes.dtype) == (np.uint8, np.int64, np.float32)
    assert len(boxes) == len(labels) == len(masks) <= 1
    if not len(boxes):
        return
    assert labels.tolist() == [1]
    bx0, by0, bx1, by1 = boxes[0]
    assert 0 <= bx0 < bx1 <= pixels.shape[2]
    assert 0 <= by0 < by1 <= pixels.shape[1]
    # Away from its rim, which resizing blurs by up to a pixel and a half of the larger raster.
    soft = 1.5 * max(1.0, longer / max(width, height))
    rows, columns = np.mgrid[: pixels.shape[1], : pixels.shape[2]] + 0.5

    def within(margin: float) -> np.ndarray:
        return (
            (columns > bx0 + margin * (bx0 > 0))
            & (columns < bx1 - margin * (bx1 < pixels.shape[2]))
            & (rows > by0 + margin * (by0 > 0))
            & (rows < by1 - margin * (by1 < pixels.shape[1]))
        )

    # A rim may lie just outside of what is shown, and its blur within. At the border of the image is none.
    left, right = (width - x1, width - x0) if flip else (x0, x1)
    inner = (
        (columns > bx0 + soft * (left > 0))
        & (columns < bx1 - soft * (right < width))
        & (rows > by0 + soft * (y0 > 0))
        & (rows < by1 - soft * (y1 < height))
    )
    assert (pixels[0][inner] > 250).all()
    assert (masks[0][within(soft)] == 1).all()
    assert (pixels[0][~within(-soft)] < 5).all()
    assert not masks[0][~within(-soft)].any()


def test_a_mask_never_vanishes_and_holds_0_and_1():
    mask = np.zeros((80, 80), bool)
    mask[:, 41] = True
    item = Object((41, 0, 42, 80), rle.encode(mask), 0)
    row = ImageObjects("a", 80, 80, (item,))
    small = small_mask(item, row, (8, 8), False)
    assert small.sum() == 1
    assert small[:, 4].any()
    assert small_mask(item, row, (8, 8), True)[:, 3].any()
    assert set(np.unique(small_mask(item, row, (80, 80), False))) == {0, 1}


def test_an_image_that_is_larger_than_the_square_is_cut_anywhere():
    image, row = block(0, 0, 100, 50, (100, 50))
    for corner, left in (((0.0, 0.0), 0), ((1.0, 1.0), 36), ((0.5, 0.0), 18)):
        image.putpixel((left, 0), (7, 7, 7))
        pixels = shown(image, row, 100, 64, False, corner, masks=False)[0]
        assert pixels.shape == (3, 50, 64)
        assert pixels[0, 0, 0] == 7
        image.putpixel((left, 0), (255, 255, 255))


@pytest.fixture
def mixed(tmp_path) -> ObjectIndex:
    """An image with an object of each kind that is left out somewhere, and one that cannot be read."""
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    mask = rle.encode(np.ones((20, 30), bool))
    objects = (
        Object((0, 0, 30, 20), mask, 1),
        Object((1, 1, 9, 9), None, 0),
        Object((1, 1, 9, 9), mask, None),
        Object((1, 1, 9, 9), rle.encode(np.ones((4, 4), bool)), 0),  # the mask of another image
        Object((5, 5, 5, 9), None, 0),
    )
    rows = [ImageObjects("a.png", 30, 20, objects), ImageObjects("gone.png", 30, 20)]
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=["x", "y"])
    return ObjectIndex.open(tmp_path / "i.parquet")


@pytest.mark.parametrize(
    ("positions", "masks", "kept", "left_out"),
    [
        ([0, 1], True, [1], ["has no mask", "has no label", "mask has 16 pixels", "is empty"]),
        ([1, 0], False, [0, 1], ["has no label", "mask has 16 pixels", "is empty"]),
        ([], False, [0, 0, 0], ["mask has 16 pixels", "is empty"]),
    ],
)
def test_objects_that_cannot_be_used_are_named(mixed, positions, masks, kept, left_out):
    part = DetectionPart(mixed, range(2), positions, masks)
    sample = TestSamples(part, 30)[0]
    assert sample.labels.tolist() == kept
    assert [one.label for one in sample.truth.objects] == kept
    said = [one.why for one in sample.skipped]
    assert len(said) == len(left_out)
    assert all(any(words in why for why in said) for words in left_out)
    gone = TestSamples(part, 30)[1]
    assert isinstance(gone, Skipped)
    assert gone.why == "no such file"


def test_a_train_image_is_drawn_from_seed_and_place_alone(squares):
    part = DetectionPart(ObjectIndex.open(squares / "indexes" / "train.parquet"), range(6), [0, 1], True)
    whole = [TrainSamples(part, 48, 48, (0.5, 1.5), seed=1, start=0, count=14)[i] for i in range(14)]
    later = TrainSamples(part, 48, 48, (0.5, 1.5), seed=1, start=9, count=5)
    for i in range(5):
        assert np.array_equal(whole[9 + i].pixels, later[i].pixels)
        assert np.array_equal(whole[9 + i].masks, later[i].masks)
    assert sorted(one.number for one in whole[:6]) == sorted(one.number for one in whole[6:12]) == [*range(6)]
    other = TrainSamples(part, 48, 48, (0.5, 1.5), seed=2, start=0, count=14)
    assert any(not np.array_equal(whole[i].pixels, other[i].pixels) for i in range(6))


def test_crowds_are_never_targets(tmp_path):
    """torchvision would train on one as an object; the index has none."""
    (tmp_path / "val").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "val" / "a.jpg")
    one = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 9, 9], "area": 81}
    crowd = one | {
        "id": 2,
        "iscrowd": 1,
        "bbox": [9, 9, 9, 9],
        "segmentation": {"size": [20, 30], "counts": [600]},
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}],
        "annotations": [one | {"segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}, crowd],
        "categories": [{"id": 1, "name": "cat"}],
    }))  # fmt: skip
    index = odis.index("coco", tmp_path, tmp_path / "i.parquet", split="val")
    sample = TestSamples(DetectionPart(index, [0], [0], True), 30)[0]
    assert sample.boxes.tolist() == [[0, 0, 9, 9]]


def test_a_batch_is_padded_after_it_is_normalised(model):
    (start,) = open_starts([model])
    picture = np.full((3, 5, 8), 255, np.uint8)
    images, sizes = on_square([picture], start, 16, torch.device("cpu"))
    assert sizes == [(5, 8)]
    expected = [(1 - m) / s for m, s in zip(start.mean, start.std)]
    torch.testing.assert_close(images[0, :, 4, 7], torch.tensor(expected))
    assert not images[0, :, 5:].any()
    assert not images[0, :, :, 8:].any()
    empty = DetectionSample(
        0, picture, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, 5, 8), np.uint8), None
    )
    target = target_of(empty, 16, masks=True, device=torch.device("cpu"))
    assert {k: (tuple(v.shape), v.dtype) for k, v in target.items()} == {
        "boxes": ((0, 4), torch.float32), "labels": ((0,), torch.int64), "masks": ((0, 16, 16), torch.uint8),
    }  # fmt: skip
