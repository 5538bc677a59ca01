"""What a folder is said to hold, and what is refused."""

from pathlib import Path

import pytest
from PIL import Image

from odis.cli import main
from odis.commands.functions import index as make_index
from odis.errors import DataError
from odis.objects.index import ObjectIndex
from odis.objects.sources.recognise import Candidate, recognise, recognised


def images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / name)


def test_images_alone_are_a_folder_and_notes_are_no_annotations(tmp_path: Path) -> None:
    images(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "cat/a.txt").write_text("a cat on a mat, seen in May\n")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "scores.csv").write_text("name,points\nx,1\n")
    (tmp_path / "page.xml").write_text("<html/>")
    assert recognise(tmp_path) == [Candidate("folder", "images (cat/a.png) without annotations")]


def test_labels_beside_images_are_yolo(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert recognised(tmp_path).form == "yolo"


def test_a_table_is_one_by_its_columns(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    table = tmp_path / "objects.csv"
    table.write_text("file_name,x,y,w,h,label\na.png,1,2,3,4,cat\n")
    expected = Candidate("table", "objects.csv: columns file_name, x, y, w, h, label")
    assert recognise(tmp_path) == recognise(table) == [expected]


def test_what_is_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="holds no annotations in a layout that is known, and no image"):
        recognised(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        recognised(tmp_path / "none")


def test_an_index_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path, "data/a.png")
    (tmp_path / "data/t.csv").write_text("image,x0,y0,x1,y1\na.png,1,2,3,4\n")
    made = make_index("auto", tmp_path / "data", tmp_path / "made.parquet")
    assert [o.box for o in made[0].objects] == [(1, 2, 3, 4)]
    with pytest.raises(DataError, match=r"is an object index already; odis index stats"):
        recognised(tmp_path / "made.parquet")
    main(["index", "auto", str(tmp_path / "data")])
    said = capsys.readouterr()
    assert said.out == f"odis index table {tmp_path / 'data'} --out INDEX.parquet\n"
    assert said.err == f"{tmp_path / 'data'}: table, as t.csv: columns image, x0, y0, x1, y1 shows\n"
    main(["index", "auto", str(tmp_path / "data"), "--out", str(tmp_path / "i.parquet")])
    assert list(ObjectIndex.open(tmp_path / "i.parquet")) == list(made)
