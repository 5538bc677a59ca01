"""NYU Depth v2 in BTS's layout, with lists and without."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.errors import DataError
from odis.evaluation.protocols.layouts.nyu import open_nyu, read_depth


def pair(folder: Path, number: int, millimetres: int = 2500) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (640, 480)).save(folder / f"rgb_{number:05}.jpg")
    depth = np.full((480, 640), millimetres, np.uint16)
    depth[0] = 0
    depth[1] = 10001
    Image.fromarray(depth).save(folder / f"sync_depth_{number:05}.png")


def test_lists_are_found_wherever_their_files_are(tmp_path: Path):
    pair(tmp_path / "sync" / "kitchen_0028b", 45)
    pair(tmp_path / "official_splits" / "test" / "bathroom", 7)
    line = "/kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png 518.8579\n"
    (tmp_path / "nyudepthv2_train_files_with_gt.txt").write_text(
        line + "/kitchen_0028b/rgb_00046.jpg None 518.8579\n"
    )
    (tmp_path / "nyu_test.txt").write_text("bathroom/rgb_00007.jpg bathroom/sync_depth_00007.png 518.8579\n")
    train, test = open_nyu(tmp_path, "train"), open_nyu(tmp_path, "test")
    assert train.pairs == (
        tuple(str(tmp_path / "sync/kitchen_0028b" / n) for n in ("rgb_00045.jpg", "sync_depth_00045.png")),
    )
    assert train.unpaired == 1
    assert [Path(a).name for a, _ in test.pairs] == ["rgb_00007.jpg"]
    (tmp_path / "other.txt").write_text("gone/rgb_1.jpg gone/sync_depth_1.png\n")
    with pytest.raises(DataError, match=r"first image gone/rgb_1\.jpg is in none of"):
        open_nyu(tmp_path, "train", tmp_path / "other.txt")
    (tmp_path / "other.txt").write_text("a\n")
    with pytest.raises(DataError, match="lists no image with its depth map"):
        open_nyu(tmp_path, "train", tmp_path / "other.txt")
    with pytest.raises(DataError, match="cannot be read"):
        open_nyu(tmp_path, "train", tmp_path / "none.txt")


def test_without_lists_pairs_are_found(tmp_path: Path):
    for number in (2, 1):
        pair(tmp_path / "sync" / "a", number)
    Image.new("RGB", (640, 480)).save(tmp_path / "sync" / "a" / "rgb_00003.jpg")
    found = open_nyu(tmp_path, "train")
    assert [Path(a).name for a, _ in found.pairs] == ["rgb_00001.jpg", "rgb_00002.jpg"]
    assert found.unpaired == 1
    with pytest.raises(DataError, match="neither a list"):
        open_nyu(tmp_path, "test")
    with pytest.raises(DataError, match="no such folder"):
        open_nyu(tmp_path / "gone", "test")


def test_depth_is_in_metres_and_0_where_it_is_not_known(tmp_path: Path):
    pair(tmp_path, 1)
    depth = read_depth(str(tmp_path / "sync_depth_00001.png"))
    assert depth.dtype == np.float32
    assert (depth[:2] == 0).all()
    np.testing.assert_allclose(depth[2:], 2.5)
    Image.new("L", (640, 480)).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match="16-bit grey"):
        read_depth(str(tmp_path / "grey.png"))
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "small.png")
    with pytest.raises(DataError, match="must be 640 x 480"):
        read_depth(str(tmp_path / "small.png"))
