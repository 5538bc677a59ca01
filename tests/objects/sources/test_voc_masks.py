"""Instance maps of VOC and the boxes of the same image: each mask goes to its object, or to none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.errors import ConfigError, DataError
from odis.objects import rle
from odis.objects.build import build_index
from odis.objects.index import ObjectIndex
from odis.objects.sources.label_map_files import voc_palette
from odis.objects.sources.voc_masks import masks_of
from odis.types import Box, Skipped

WIDTH, HEIGHT = 40, 30

BOXES: list[Box] = [(2, 2, 12, 12), (14, 2, 24, 12), (2, 14, 38, 28)]


def save_map(path: Path, boxes: list[Box], **values: Any) -> np.ndarray:
    """Instance k + 1 is a box; pixels between are 255, as VOC's borders are."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        found[int(y0) : int(y1), int(x0) : int(x1)] = k + 1
    found[13, :] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(found, mode="P")
    image.putpalette(voc_palette().ravel().tolist())
    image.save(path)
    return found


def found_masks(
    path: Path, boxes: list[Box], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> tuple[Any, list[str]]:
    skipped: list[Skipped] = []
    masks = masks_of(path, boxes, size, skipped.append)
    return [None if m is None else rle.decode(m, *size) for m in masks], [one.why for one in skipped]


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(3)))
def test_each_mask_goes_to_its_box_whatever_its_number(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    path = tmp_path_factory.mktemp("one") / "a.png"
    values = save_map(path, [BOXES[k] for k in order])
    masks, skipped = found_masks(path, BOXES)
    assert skipped == []
    for k, mask in enumerate(masks):
        assert np.array_equal(mask, values == order.index(k) + 1)


def test_of_two_boxes_that_agree_the_one_of_the_number_is_taken(tmp_path: Path) -> None:
    save_map(tmp_path / "a.png", [(2, 2, 12, 12)])
    masks, _ = found_masks(tmp_path / "a.png", [(2, 2, 12, 13), (2, 2, 12, 12)])
    assert [mask is not None for mask in masks] == [True, False]


def test_what_no_box_agrees_with_and_a_map_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_map(path, BOXES)
    masks, skipped = found_masks(path, [BOXES[0], (30, 2, 38, 10)])
    assert [mask is not None for mask in masks] == [True, False]
    assert skipped == ["instances that no box agrees with"] * 2
    masks, skipped = found_masks(path, BOXES, (WIDTH, HEIGHT + 1))
    assert masks == [None] * 3
    assert skipped == ["instance maps that cannot be used: is 40 x 30 pixels, its image 40 x 31"]
    path.write_bytes(b"no PNG")
    masks, (why,) = found_masks(path, BOXES)
    assert masks == [None] * 3
    assert why.startswith("instance maps that cannot be used: cannot be decoded")
    assert found_masks(tmp_path / "none.png", BOXES) == ([None] * 3, [])


def test_the_command_reads_them_if_they_are_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    tags = ("xmin", "ymin", "xmax", "ymax")
    for name in "ab":
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"JPEGImages/{name}.jpg")
        objects = "".join(
            "<object><name>cat</name><bndbox>"
            + "".join(f"<{tag}>{v + (k < 2)}</{tag}>" for k, (tag, v) in enumerate(zip(tags, box)))
            + "</bndbox></object>"
            for box in BOXES
        )
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    (root / "ImageSets/Main/val.txt").write_text("a\nb\n")
    with pytest.raises(
        DataError, match=r"SegmentationObject: no instance maps \(PNG\) here, and --masks asks"
    ):
        build_index("voc", root, tmp_path / "i.parquet", "val", masks=True)
    values = save_map(root / "SegmentationObject/a.png", BOXES)
    for asked in (False, True):
        build_index("voc", root, tmp_path / f"{asked}.parquet", "val", masks=asked)
        index = ObjectIndex.open(tmp_path / f"{asked}.parquet")
        assert [[o.box for o in row.objects] for row in index] == [BOXES, BOXES]
        assert [o.mask is not None for row in index for o in row.objects] == [asked] * 3 + [False] * 3
    mask = index[0].objects[1].mask
    assert mask is not None
    assert np.array_equal(rle.decode(mask, WIDTH, HEIGHT), values == 2)
    with pytest.raises(ConfigError, match="masks: yolo has no masks beside its boxes; voc has"):
        build_index("yolo", root, tmp_path / "x.parquet", masks=True)
