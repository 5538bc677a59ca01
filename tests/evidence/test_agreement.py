"""How often two random crops of an image show the same object."""

import json

import numpy as np
import pytest

from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object


def index_of(folder, boxes, size=(100, 80)):
    rows = [
        ImageObjects(f"{i}.png", *size, tuple(Object(box) for box in image)) for i, image in enumerate(boxes)
    ]
    write_index(folder / "x.parquet", rows, root=folder, provenance="annotated", classes=())
    return ObjectIndex.open(folder / "x.parquet")


def overlap(crop, box):
    """In whole pixels, counted."""
    inside = np.zeros((80, 100), dtype=bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    area = min(inside.sum(), (crop[2] - crop[0]) * (crop[3] - crop[1]))
    return inside[crop[1] : crop[3], crop[0] : crop[2]].sum() / area


def test_pairs_are_counted_as_by_hand(tmp_path, monkeypatch):
    import agreement

    monkeypatch.setattr(agreement, "PAIRS", 300)
    boxes = [[(3, 5, 30, 40), (50, 2, 95, 30), (20, 60, 32, 78)], [(0, 0, 100, 80)], []]
    found = agreement.agreement(index_of(tmp_path, boxes), (0.1, 0.4))
    rng = np.random.default_rng(0)
    same = kept = shown = 0
    for image in boxes[:2]:  # one without objects says nothing
        for pair in agreement.propose_crops(rng, 100, 80, (150, 2), (0.1, 0.4), (3 / 4, 4 / 3)):
            one, two = ({k for k, box in enumerate(image) if overlap(crop, box) >= 0.5} for crop in pair)
            same += bool(one & two)
            kept += 2 * len(one & two)
            shown += len(one) + len(two)
    assert found["pairs"] == 300
    assert found["same"] == pytest.approx(100 * same / 300)
    assert found["kept"] == pytest.approx(100 * kept / shown)
    assert found["objects"] == pytest.approx(shown / 600)
    assert 0 < found["same"] < 100


def test_whole_images_show_the_same_and_small_crops_of_distant_objects_do_not(tmp_path, monkeypatch):
    import agreement

    monkeypatch.setattr(agreement, "PAIRS", 100)
    corners = [[(0, 0, 8, 8), (92, 72, 100, 80)]]
    index = index_of(tmp_path, corners)
    assert agreement.agreement(index, (1.0, 1.0))["same"] == 100
    assert agreement.agreement(index, (0.01, 0.02))["same"] < 20


def test_the_command_writes_what_the_table_shows(tmp_path, monkeypatch):
    import agreement
    import finding_tables
    from figures import Results

    monkeypatch.setattr(agreement, "PAIRS", 50)
    path, out = index_of(tmp_path, [[(0, 0, 100, 80)]]).path, tmp_path / "world" / "agreement.json"
    command = ["agreement.py", str(path), "--names", "large", "--scale", ".1", ".2", "--scale", ".4", "1"]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(out)])
    agreement.main()
    assert json.loads(out.read_text())["large"]["scales"][0]["same"] == 100
    table = finding_tables.same_object(Results.read(tmp_path / "world"))
    assert "| `large` | 1 | 1.0 | 100 (100) | 100 (100) |" in table
    assert ".1 to .2 | .4 to 1 |" in table
    monkeypatch.setattr("sys.argv", [*command[:3], "one", "two", *command[4:], "--out", str(out)])
    with pytest.raises(SystemExit):
        agreement.main()
    monkeypatch.setattr("sys.argv", ["agreement.py", "nowhere.parquet", *command[2:], "--out", str(out)])
    with pytest.raises(SystemExit, match=r"nowhere\.parquet"):
        agreement.main()
    empty = index_of(tmp_path, [[]]).path
    monkeypatch.setattr("sys.argv", ["agreement.py", str(empty), *command[2:], "--out", str(out)])
    with pytest.raises(SystemExit, match=r"x\.parquet: no image has an object"):
        agreement.main()
