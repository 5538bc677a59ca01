"""`odis index` on an index, and `odis objects compare`, through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.cli import main
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object


@pytest.fixture
def index(tmp_path: Path) -> Path:
    rows = []
    (tmp_path / "train").mkdir()
    for i in range(6):
        Image.fromarray(np.full((40, 60, 3), 40 * i, dtype=np.uint8)).save(tmp_path / "train" / f"{i}.png")
        objects = tuple(
            Object((5.0 * n, 4.0, 5.0 * n + 20, 30.0), label=(i + n) % 2, score=0.5 + 0.1 * n)
            for n in range(i % 4)
        )
        rows.append(ImageObjects(f"train/{i}.png", 60, 40, objects))
    write_index(
        tmp_path / "index.parquet", rows, root=tmp_path, provenance="annotated", classes=["cat", "dog"]
    )
    return tmp_path / "index.parquet"


def said(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[str, str]:
    capsys.readouterr()
    main(list(arguments))
    output = capsys.readouterr()
    return output.out, output.err


def test_an_index_is_filtered_sampled_perturbed_merged_and_counted(
    index: Path, capsys: pytest.CaptureFixture
) -> None:
    out = {
        name: str(index.with_name(f"{name}.parquet")) for name in ("filtered", "sampled", "noisy", "merged")
    }
    shown, counted = said(
        capsys,
        "index",
        "filter",
        str(index),
        "--out",
        out["filtered"],
        "--min-score",
        "0.55",
        "--with-objects",
    )
    assert (shown, counted) == (f"{out['filtered']}\n", "2 images, 3 objects\n")
    assert (
        said(capsys, "index", "sample", str(index), "--out", out["sampled"], "--images", "2", "--seed", "4")[
            0
        ]
        == f"{out['sampled']}\n"
    )
    assert len(ObjectIndex.open(out["sampled"])) == 2
    shown, counted = said(
        capsys,
        "index",
        "perturb",
        str(index),
        "--out",
        out["noisy"],
        "--jitter",
        "0.2",
        "--drop",
        "0.5",
        "--seed",
        "3",
    )
    assert ObjectIndex.open(out["noisy"]).provenance == "annotated+noise(jitter=0.2,drop=0.5,seed=3)"
    assert " of 7 objects" in counted, counted
    (index.parent / "more").mkdir()
    Image.new("RGB", (9, 9)).save(index.parent / "more" / "a.png")
    said(capsys, "index", "merge", str(index), str(index.parent / "more"), "--out", out["merged"])
    shown, _ = said(capsys, "index", "stats", out["merged"])
    assert "│ images " in shown
    assert "│ 7 " in shown
    assert "annotated+whole-image" in shown


def test_an_index_goes_to_coco_and_back(index: Path, capsys: pytest.CaptureFixture) -> None:
    root = index.parent
    (root / "annotations").mkdir()
    json_file = root / "annotations" / "instances_train.json"
    said(capsys, "index", "export", str(index), "--out", str(json_file))
    content = json.loads(json_file.read_text())
    for image in content["images"]:  # COCO's names are below the folder of the split
        image["file_name"] = image["file_name"].removeprefix("train/")
    json_file.write_text(json.dumps(content))
    said(capsys, "index", "coco", str(root), "--split", "train", "--out", str(root / "again.parquet"))
    one, other = ObjectIndex.open(index), ObjectIndex.open(root / "again.parquet")
    assert [row.image for row in one] == [row.image for row in other]
    assert [[(o.box, o.label) for o in row.objects] for row in one] == [
        [(o.box, o.label) for o in row.objects] for row in other
    ]
    shown, _ = said(
        capsys,
        "objects",
        "compare",
        str(root / "again.parquet"),
        str(index),
        "--out",
        str(root / "figures.json"),
    )
    assert "100.00, 100.00" in shown
    assert shown.endswith(f"{root / 'figures.json'}\n")
    assert json.loads((root / "figures.json").read_text())["ap"] == 100


def test_noise_is_seen_by_compare(index: Path, capsys: pytest.CaptureFixture) -> None:
    noisy = str(index.with_name("noisy.parquet"))
    said(capsys, "index", "perturb", str(index), "--out", noisy, "--jitter", "0.3", "--false", "1")
    said(capsys, "objects", "compare", noisy, str(index), "--out", str(index.with_suffix(".json")))
    figures = json.loads(index.with_suffix(".json").read_text())
    assert figures["ap"] < 60
    assert figures["predicted_objects"] == 2 * figures["true_objects"]
    assert figures["predicted"].startswith("annotated+noise(")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["index", "filter", "I", "--out", "o"],
            "odis index: min-score, min-size, classes, with-objects: none is given",
        ),
        (["index", "filter", "I"], "odis index: --out is required"),
        (
            ["index", "filter", "I", "--out", "o", "--classes", "cow"],
            "odis index: classes: I has no class 'cow'",
        ),
        (
            ["index", "sample", "I", "--out", "o", "--images", "99"],
            "odis index: images: is 99, must be from 1 to the 6 of I",
        ),
        (["index", "merge", "I", "--out", "o"], "odis index: merge: takes two or more indexes"),
        (["index", "merge", "I", "I", "--out", "o"], "odis index: "),
        (["index", "export", "none", "--out", "o"], "odis index: none: no such file or folder"),
        (["index", "stats", "none"], "odis index: none: no such file or folder"),
        (["objects", "compaer", "I", "I"], "odis objects: compaer: no such command (did you mean compare?)"),
        (["objects", "compare", "I", "none"], "odis objects: none: no such file or folder"),
        (["objects", "compare", "I"], "odis objects: the following arguments are required: truth"),
    ],
)
def test_mistakes_are_one_line(
    index: Path, capsys: pytest.CaptureFixture, arguments: list[str], line: str
) -> None:
    before = sorted(index.parent.rglob("*"))
    words = [
        str(index) if word == "I" else str(index.parent / "o") if word == "o" else word for word in arguments
    ]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(line.replace("I has", f"{index} has").replace("of I", f"of {index}"))
    assert sorted(index.parent.rglob("*")) == before


def test_help_of_objects(capsys: pytest.CaptureFixture) -> None:
    assert "usage: odis objects COMMAND" in said(capsys, "objects")[0]
