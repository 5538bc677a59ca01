"""The page as a whole: what is in it, that nothing outside it is needed, and what is refused before it is
written.
"""

import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from odis.cli import run as run_command
from odis.config.query import ReadConfig
from odis.errors import DataError, OdisError
from odis.inference import Encoder, load
from odis.objects.index import ObjectIndex, write_index
from odis.report.write import write_report
from odis.types import ImageObjects

RESULTS: dict[str, Any] = {
    "evaluation": "knn",
    "settings": {"k": [20]},
    "test": {"index": "val.parquet", "provenance": "annotated", "images": 8, "objects": 30, "classes": 10},
    "rows": [
        {
            "model": "one",
            "provenance": "annotated",
            "mode": "crop",
            "size": 36,
            "scores": {"k=20": {"value": 57.25, "low": 55, "high": 59}},
        }
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def both(run: Path, pooled: Path, folder: Path) -> str:
    """The report of two runs, one of them with a results file."""
    (run / "knn.json").write_text(json.dumps(RESULTS))
    assert write_report(folder / "both.html", [run, pooled], images=2, read=ReadConfig(device="cpu")) == []
    return (folder / "both.html").read_text()


@pytest.fixture(scope="module")
def page(both: str, parsed: Callable[[str], Any]) -> Any:
    return parsed(both)


def test_page_has_its_parts_under_headings_that_follow_one_another(page: Any) -> None:
    assert [h.text for h in page.all("h2")] == ["Runs", "Curves", "Results", "Comparisons", "Pictures"]
    levels = [int(node.tag[1]) for node in page.all() if re.fullmatch("h[1-6]", node.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.all("html")[0].attributes["lang"] == "en"
    anchors = {node.attributes["id"] for node in page.all() if "id" in node.attributes}
    assert all(a.attributes["href"][1:] in anchors for a in page.all("a"))


def test_nothing_outside_the_page_is_named(both: str, page: Any) -> None:
    assert not re.search(r"https?:|<script|@import|javascript:", both)
    for node in page.all():
        for name, value in node.attributes.items():
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert value.startswith(("data:image/", "#")), (node.tag, name)
            assert not (value or "").startswith("//")
            assert not name.startswith("on")
    assert all(re.fullmatch(r"#[\w-]+", target) for target in re.findall(r"url\(([^)]*)\)", both))
    assert {node.tag for node in page.all()} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    } == set()
    policy = page.all("meta")[1].attributes["content"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_picture_has_words_and_every_figure_a_caption(page: Any) -> None:
    images = page.all("img")
    assert len(images) > 30
    for image in images:
        assert image.attributes["alt"]
        assert image.attributes["src"].startswith("data:image/")
        assert int(image.attributes["width"]) > 0
        assert int(image.attributes["height"]) > 0
    for figure in page.all("figure"):
        assert figure.all("figcaption")[-1].text
    for region in page.all(role="region"):
        assert region.attributes["aria-label"]
        assert region.attributes["tabindex"] == "0"
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))


def test_head_says_what_the_runs_are(page: Any, run: Path, pooled: Path) -> None:
    rows = {
        row.all("th")[0].text: [td.text for td in row.all("td")]
        for row in page.all("table", class_="runs")[0].all("tbody")[0].all("tr")
    }
    assert rows["folder"] == [str(run), str(pooled)]
    assert rows["recipe"] == ["demo", "demo"]
    assert rows["steps"] == ["3 of 3, 8 images each"] * 2
    assert rows["objects come from"] == ["annotated"] * 2
    assert rows["an object is read by"] == ["[OBJ], read-only", "the mean of its patches"]
    assert rows["images"][0].startswith("16 in ")
    assert rows["seed"] == ["0", "1"]
    record = yaml.safe_load((run / "config.yaml").read_text())
    assert rows["torch"][0] == record["versions"]["torch"]
    assert record["versions"]["odis"] in rows["odis"][0]
    assert rows["device"][0].startswith(record["resolved"]["device"])
    assert "3 of 3 steps; loss" in page.all("header")[0].text


def test_curves_and_results_are_in_the_page(page: Any) -> None:
    titles = [f.all("h4")[0].text for f in page.all("figure", class_="plot")]
    assert "k-NN, masked-attention, k = 20" in titles
    assert len(titles) == len(set(titles)) >= 9
    (table,) = page.all("table", class_="scores")
    assert [d.attributes["value"] for d in table.all("data")] == ["57.25"]


def test_runs_are_asked_about_the_same_images(page: Any, pooled: Path) -> None:
    pictures = page.all("section", id="pictures")[0]
    assert "pooled: It reads an object as the mean of its patches" in pictures.text
    grids = pictures.all("table", class_="heads")
    assert len(grids) == 4, "two objects of two images, by the one run that has object tokens"
    for grid in grids:
        assert [th.text for th in grid.all("thead")[0].all("th")] == ["head 1", "head 2"]
        assert [th.text for th in grid.all("tbody")[0].all("th")] == [
            "layer 1 of 3",
            "layer 2 of 3",
            "layer 3 of 3",
        ]
        assert len(grid.all("img")) == 6
    captions = [c.text for c in pictures.all("figcaption")]
    assert sum(c.endswith("patches") and c.startswith("one,") for c in captions) == 2
    assert sum(c.endswith("patches") and c.startswith("pooled,") for c in captions) == 2
    rows = pictures.all("table", class_="alike")[0].all("tbody")[0].all("tr")
    assert len(rows) == 8
    assert all(len(row.all("img")) == 6 for row in rows)
    marks = [
        (row.all("td")[0].text, small.text)
        for row in rows
        for small in row.all("small")
        if small.text[0] in "=≠"
    ]
    assert len(marks) == 40
    for asked, mark in marks:
        assert (mark[0] == "=") == (f"class {mark[2:]}" == asked)


def test_same_input_gives_the_same_bytes(both: str, run: Path, pooled: Path, folder: Path) -> None:
    write_report(folder / "again.html", [run, pooled], images=2, read=ReadConfig(device="cpu"))
    assert (folder / "again.html").read_text() == both
    assert len(both) < 2_000_000


def test_one_run_alone_in_windows_at_another_size(
    run: Path, folder: Path, capsys: pytest.CaptureFixture, parsed: Any
) -> None:
    bad = folder / "bad.json"
    bad.write_text("{")
    out = folder / "deep" / "one.html"
    options = [
        "--images",
        "1",
        "--device",
        "cpu",
        "--size",
        "48",
        "--context",
        "1.6",
        "--seed",
        "3",
        "--results",
        str(bad),
    ]
    run_command(["report", str(run), "--out", str(out), *options])
    said = capsys.readouterr()
    assert said.out.strip() == str(out)
    assert said.err.strip() == f"left out: {bad}: is not JSON, or not whole"
    page = parsed(out.read_text())
    assert f"Left out: {bad}: is not JSON, or not whole." in page.text
    assert "in a window of 1.6 x the box, at about 48 x 48 px" in page.text
    assert "drawn by seed 3" in page.text
    assert len(page.all("table", class_="heads")) == 2
    assert page.all("ul", class_="legend") == [], "one curve needs no legend"


def test_names_are_escaped_wherever_they_come_from(
    run: Path, scenes: Path, folder: Path, parsed: Any
) -> None:
    nasty = '<script>alert("x")</script>'
    home = folder / "<b>run"
    shutil.copytree(run, home)
    record = yaml.safe_load((home / "config.yaml").read_text())
    record["resolved"] |= {"recipe": nasty, "provenance": nasty, "device": nasty}
    record["config"]["model"]["name"] = nasty
    (home / "config.yaml").write_text(yaml.safe_dump(record))
    (home / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "loss": 1.0, f"knn/{nasty}@3": 5.0, f"loss_{nasty}": 1.0}) + "\n"
    )
    results = RESULTS | {
        "evaluation": nasty,
        "rows": [RESULTS["rows"][0] | {"model": nasty, "mode": nasty, "provenance": nasty}],
    }
    (home / "knn.json").write_text(json.dumps(results))
    index = ObjectIndex.open(scenes / "val.parquet")
    rows = [ImageObjects(row.image, row.width, row.height, row.objects) for row in index]
    shown = folder / "<i>.parquet"
    write_index(shown, rows, root=index.root, provenance=nasty, classes=[f"{nasty}{i}" for i in range(10)])
    write_report(folder / "nasty.html", [home], data=str(shown), images=1, read=ReadConfig(device="cpu"))
    text = (folder / "nasty.html").read_text()
    page = parsed(text)
    assert "<script" not in text
    assert {node.tag for node in page.all()} & {"script", "b", "i"} == set()
    assert text.count("&lt;script&gt;") > 20
    assert f"class {nasty}" in page.text


def test_run_without_model_or_images_says_so(run: Path, folder: Path, parsed: Any) -> None:
    home = folder / "young"
    home.mkdir()
    shutil.copy(run / "config.yaml", home)
    notes = write_report(folder / "young.html", [home, run], images=1, read=ReadConfig(device="cpu"))
    assert len(notes) == 1
    assert "has not written its model.safetensors yet" in notes[0]
    text = parsed((folder / "young.html").read_text()).text
    assert "young: no metrics yet" in text
    assert "has not written its model.safetensors yet" in text
    (home / "model.safetensors").write_bytes(b"torn")
    record = yaml.safe_load((home / "config.yaml").read_text())
    record["config"] |= {"data": str(folder / "gone.parquet"), "val": None}
    (home / "config.yaml").write_text(yaml.safe_dump(record))
    notes = write_report(folder / "young.html", [home], images=1, read=ReadConfig(device="cpu"))
    text = parsed((folder / "young.html").read_text()).text
    assert "not here any more" in text
    assert "not a model that odis wrote" in text
    assert len(notes) == 2


def test_folder_of_images_and_images_that_cannot_be_used(
    run: Path, scenes: Path, folder: Path, parsed: Any
) -> None:
    write_report(
        folder / "plain.html", [run], data=str(scenes / "val"), images=1, read=ReadConfig(device="cpu")
    )
    text = parsed((folder / "plain.html").read_text()).text
    assert "objects: whole-image" in text
    assert "Object 1 (no class)" in text
    empty = folder / "none.parquet"
    write_index(empty, [ImageObjects("gone.png", 8, 8)], root=folder, provenance="annotated", classes=[])
    notes = write_report(folder / "none.html", [run], data=str(empty), read=ReadConfig(device="cpu"))
    assert "none of its images can be used" in notes[0]
    lone = folder / "lone.parquet"
    index = ObjectIndex.open(scenes / "val.parquet")
    write_index(lone, [index[0]], root=index.root, provenance="annotated", classes=index.classes)
    write_report(folder / "lone.html", [run], data=str(lone), read=ReadConfig(device="cpu"))
    assert "no object of another image to compare with" in (folder / "lone.html").read_text()


REFUSED = {
    "no --out": (["RUN"], "--out is required"),
    "no run": (["--out", "OUT"], "runs"),
    "not a run": (["HERE", "--out", "OUT"], "not a run folder"),
    "no folder": (["HERE/gone", "--out", "OUT"], "not a run folder"),
    "a run twice": (["RUN", "RUN/.", "--out", "OUT"], "is given twice"),
    "no images": (["RUN", "--out", "OUT", "--images", "0"], "images: is 0, must be 1 or more"),
    "a word for images": (["RUN", "--out", "OUT", "--images", "x"], "images"),
    "a seed below 0": (["RUN", "--out", "OUT", "--seed", "-1"], "seed: is -1"),
    "no data": (["RUN", "--out", "OUT", "--data", "HERE/gone"], "no such file or folder"),
    "no results": (["RUN", "--out", "OUT", "--results", "HERE/gone.json"], "no such results file"),
    "results a folder": (["RUN", "--out", "OUT", "--results", "HERE"], "is a folder, not a results file"),
    "a size patches do not tile": (["RUN", "--out", "OUT", "--size", "50"], "multiple of the patch size 12"),
    "a context below 1": (["RUN", "--out", "OUT", "--context", "0.5"], "context"),
    "a device that is not here": (["RUN", "--out", "OUT", "--device", "cuda:99"], "device: is 'cuda:99'"),
    "out a folder": (["RUN", "--out", "HERE"], "is a folder"),
    "out below a file": (["RUN", "--out", "RUN/config.yaml/x.html", "--images", "1"], "cannot be written"),
    "an unknown option": (["RUN", "--out", "OUT", "--imagess", "3"], "--imagess: no such option"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_and_nothing_written(name: str, run: Path, tmp_path: Path) -> None:
    arguments, message = REFUSED[name]
    there = {"RUN": str(run), "OUT": str(tmp_path / "out.html"), "HERE": str(tmp_path)}
    written = [re.sub("^(RUN|OUT|HERE)", lambda found: there[found[0]], argument) for argument in arguments]
    before = sorted(run.iterdir())
    with pytest.raises(OdisError, match=re.escape(message)) as refused:
        run_command(["report", *written])
    assert len(str(refused.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert sorted(run.iterdir()) == before


def test_an_old_report_stays_until_the_new_one_is_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.html"
    out.write_text("old")

    def full(self: Path, *arguments: Any, **more: Any) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device"):
        write_report(out, [run], images=1, read=ReadConfig(device="cpu"))
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]
    assert out.read_bytes() == b"old"


def test_size_context_device_and_precision_reach_the_models(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parsed: Callable[[str], Any]
) -> None:
    loaded: list[Encoder] = []
    monkeypatch.setattr(
        "odis.report.write.load", lambda *a, **more: (loaded.append(load(*a, **more)), loaded[-1])[1]
    )
    options = ["--images=1", "--size=24", "--context=2", "--device=cpu", "--precision=bf16"]
    run_command(["report", str(run), "--out", str(tmp_path / "a.html"), *options])
    assert [(one.device.type, one.precision) for one in loaded] == [("cpu", "bf16")]
    text = parsed((tmp_path / "a.html").read_text()).text
    assert "Objects are queried in a window of 2 x the box, at about 24 x 24 px" in text
