"""True boxes of each layout, with the published counting, and the images of a list."""

from pathlib import Path

import pytest

from odis.errors import DataError
from odis.evaluation.protocols.layouts.boxed import open_boxed
from odis.objects.index import write_index
from odis.types import ImageObjects, Object


def test_voc_counts_from_0_and_keeps_difficult_and_truncated(tmp_path: Path, layouts):
    objects = [
        layouts.OBJECT.format(name="dog", t=0, d=1, box=(1, 1, 60, 40)),
        layouts.OBJECT.format(name="cat", t=1, d=0, box=(11, 6, 20, 30)),
    ]
    names = {"2008_000002": objects, "2007_000002": objects[:1], "2009_000001": []}
    layouts.voc(tmp_path / "VOC2012", names)
    found = open_boxed(tmp_path)
    assert found.paths == [str(tmp_path / "VOC2012/JPEGImages" / f"{n}.jpg") for n in list(names)[:2]]
    assert found.boxes(0).tolist() == [[0, 0, 60, 40], [10, 5, 20, 30]]
    assert found.counts() == {"objects": 3, "crowds": 0, "without_objects": 1, "not_there": 0}
    (tmp_path / "list.txt").write_text("JPEGImages/2007_000002.jpg\n2010_000009\n")
    listed = open_boxed(tmp_path / "VOC2012", "trainval", tmp_path / "list.txt")
    assert [Path(path).stem for path in listed.paths] == ["2007_000002"]
    assert listed.not_there == 1
    (tmp_path / "VOC2007" / "Annotations").mkdir(parents=True)
    with pytest.raises(DataError, match="holds VOC2007, VOC2012; name one"):
        open_boxed(tmp_path)


def test_coco20k_is_a_list_of_train2014_without_crowds(tmp_path: Path, layouts):
    names = [f"COCO_train2014_{i:012}.jpg" for i in (9, 25, 30)]
    layouts.coco(tmp_path, "train2014", names, crowd=True)
    # as LOST ships it, with a folder; the last one is not in these annotations
    (tmp_path / "20k.txt").write_text(f"train2014/{names[2]}\n{names[0]}\nCOCO_train2014_{77:012}.jpg\n")
    found = open_boxed(tmp_path, file_list=tmp_path / "20k.txt")
    assert [Path(path).name for path in found.paths] == [names[0], names[2]]
    assert [found.boxes(i).tolist() for i in (0, 1)] == [[[5.5, 4, 25.5, 14.25]]] * 2
    assert found.counts() == {"objects": 2, "crowds": 2, "without_objects": 0, "not_there": 1}
    # the same images under the names of 2017
    layouts.coco(tmp_path / "2017", "train2017", [f"{i:012}.jpg" for i in (9, 30)])
    found = open_boxed(tmp_path / "2017", file_list=tmp_path / "20k.txt")
    assert [Path(path).name for path in found.paths] == [f"{9:012}.jpg", f"{30:012}.jpg"]


def test_an_index_is_read_whole(tmp_path: Path, layouts):
    layouts.picture(tmp_path / "a.png")
    rows = [ImageObjects("a.png", 60, 40, (Object((1, 2, 3, 4)), Object((5, 5, 5, 9))))]
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=[])
    found = open_boxed(tmp_path / "i.parquet")
    assert found.boxes(0).tolist() == [[1, 2, 3, 4]]
    assert len(found.skipped) == 1


def test_what_has_no_box_is_one_line(tmp_path: Path, layouts):
    with pytest.raises(DataError, match="no such folder or object index"):
        open_boxed(tmp_path / "gone")
    with pytest.raises(DataError, match="neither VOC"):
        open_boxed(tmp_path)
    layouts.voc(tmp_path / "VOC2007", {"000005": []})
    with pytest.raises(DataError, match="none of its images has a box"):
        open_boxed(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="lists no image"):
        open_boxed(tmp_path, file_list=tmp_path / "empty.txt")
    with pytest.raises(DataError, match="cannot be read as text"):
        open_boxed(tmp_path, file_list=tmp_path / "no.txt")
    (tmp_path / "photos").mkdir()
    layouts.picture(tmp_path / "photos" / "a.png")
    write_index(
        tmp_path / "w.parquet",
        [ImageObjects("a.png", 60, 40, (Object((0, 0, 60, 40)),))],
        root=tmp_path / "photos",
        provenance="whole-image",
        classes=[],
    )
    with pytest.raises(DataError, match="its objects are whole images"):
        open_boxed(tmp_path / "w.parquet")
