"""Masks for the boxes of an index: everything else of it stays as it is."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.errors import ConfigError, DataError
from odis.finding.detect.index_masks import build_masks, mask_objects
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

SETTINGS = {"masks": "flat"}


class BoxAsMask:
    """The mask of a box is the box, to whole pixels; of one image it fails."""

    name, revision = "flat", "1"
    calls = 0

    def __call__(self, image, boxes):
        type(self).calls += 1
        if image[0, 0, 0] == 99:
            raise RuntimeError("CUDA error:\n out of memory")
        made = []
        for x0, y0, x1, y1 in boxes:
            inside = np.zeros(image.shape[:2], bool)
            inside[int(y0) : int(y1), int(x0) : int(x1)] = True
            made.append(rle.encode(inside) if inside.any() else None)
        return made


@pytest.fixture
def index(tmp_path: Path) -> ObjectIndex:
    """Six images of 20 x 12 pixels; the third is cut off, the fifth is one on which the network fails."""
    rows = []
    for k in range(6):
        Image.new("RGB", (20, 12), (99 if k == 4 else k, 0, 0)).save(tmp_path / f"{k}.png")
        objects = [
            Object((1.0, 2.0, 8.0 + k, 9.0), None, 1, 0.5),
            Object((0.0, 0.0, 0.5, 0.5), rle.encode(np.ones((12, 20))), None, None),
        ]
        rows.append(ImageObjects(f"{k}.png", 20, 12, tuple(objects[: k % 3])))
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    write_index(
        tmp_path / "boxes.parquet", rows, root=tmp_path, provenance="annotated", classes=["cat", "dog"]
    )
    return ObjectIndex.open(tmp_path / "boxes.parquet")


def test_boxes_labels_and_scores_stay_and_masks_are_made(index: ObjectIndex, tmp_path: Path):
    skipped = []
    summary = mask_objects(
        index, tmp_path / "m.parquet", BoxAsMask, settings=SETTINGS, part_size=4, report=skipped.append
    )
    made = ObjectIndex.open(tmp_path / "m.parquet")
    assert (made.provenance, made.classes) == ("annotated+masks:flat@1", ["cat", "dog"])
    assert [row.image for row in made] == ["0.png", "1.png", "3.png", "5.png"]
    assert (summary.images, summary.written, summary.images_skipped) == (6, 4, 2)
    assert [Path(s.what).name for s in skipped] == ["2.png", "4.png"]
    assert "making masks in it failed (CUDA error: out of memory)" in skipped[1].why
    before = {row.image: row for row in index}
    for row in made:
        assert [(o.box, o.label, o.score) for o in row.objects] == [
            (o.box, o.label, o.score) for o in before[row.image].objects
        ]
    (first, second) = made[3].objects
    assert rle.area(first.mask) == (8 + 5 - 1) * 7
    assert second.mask is None  # it came out empty


def test_a_run_goes_on_where_it_was_interrupted(index: ObjectIndex, tmp_path: Path):
    out = tmp_path / "m.parquet"
    whole = tmp_path / "whole.parquet"
    mask_objects(index, whole, BoxAsMask, settings=SETTINGS, part_size=1)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mask_objects(index, out, BoxAsMask, settings=SETTINGS, part_size=1, progress=interrupt)
    assert not out.exists()
    before, steps = BoxAsMask.calls, []
    mask_objects(
        index,
        out,
        BoxAsMask,
        settings=SETTINGS,
        part_size=1,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert BoxAsMask.calls - before == 3  # of the four left, one cannot be read
    assert list(ObjectIndex.open(out)) == list(ObjectIndex.open(whole))
    assert steps == [(k, 6) for k in range(1, 7)]
    assert mask_objects(index, out, BoxAsMask, settings=SETTINGS, part_size=1) is None
    with pytest.raises(DataError, match="was not made with these settings"):
        mask_objects(index, out, BoxAsMask, settings={"masks": "other"}, part_size=1)


def test_what_cannot_be_masked_is_refused(index: ObjectIndex, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    with pytest.raises(DataError, match="is a folder of images and has no boxes"):
        mask_objects(ObjectIndex.open(folder), tmp_path / "m.parquet", BoxAsMask, settings=SETTINGS)
    with pytest.raises(ConfigError, match="part-size: is 0"):
        mask_objects(index, tmp_path / "m.parquet", BoxAsMask, settings=SETTINGS, part_size=0)
    with pytest.raises(ConfigError, match="threads: is -1"):
        build_masks("transformers:x", threads=-1)
    with pytest.raises(ConfigError, match="masks: is 'sam', must be transformers:NAME"):
        build_masks("sam")


def test_a_real_network_makes_them(index: ObjectIndex, tmp_path: Path, sam: Path):
    mask_objects(
        index, tmp_path / "m.parquet", partial(build_masks, f"transformers:{sam}"), settings=SETTINGS
    )
    made = ObjectIndex.open(tmp_path / "m.parquet")
    assert made.provenance.startswith(f"annotated+masks:{sam.name}@")
    assert any(o.mask for row in made for o in row.objects)
    for row in made:
        for item in row.objects:
            if item.mask is not None:
                rle.check(item.mask, 20, 12)
