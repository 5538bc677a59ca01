"""The way of a newcomer, from published data to a table and a picture."""

import html
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from odis.cli import main
from odis.config.query import MODES
from odis.objects.index import ObjectIndex, write_index
from odis.train.run_folder import read_config
from odis.types import ImageObjects, Object

TINY = [
    "--recipe=debug",
    "--views.global_size=32",
    "--views.local_size=16",
    "--model.depth=2",
    "--model.embed_dim=32",
    "--model.num_heads=2",
    "--head.prototypes=24",
    "--train.device=cpu",
    "--train.steps=3",
    "--train.batch_size=4",
    "--loader.workers=0",
]


def said(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """What a command that succeeds prints to stdout."""
    capsys.readouterr()
    code = None
    try:
        main(list(arguments))
    except SystemExit as stop:  # as --help of a command ends
        code = stop.code
    assert code in (0, None)
    return capsys.readouterr().out


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two classes with three images each."""
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = tmp_path / "pictures" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def way(capsys: pytest.CaptureFixture, train: Path | str, test: Path | str, out: Path, *more: str) -> dict:
    """Pretrain on `train`, evaluate on `test`, inspect; the results."""
    main(["pretrain", "--data", str(train), "--out", str(out / "run"), *TINY])
    output = capsys.readouterr()
    assert output.out == "", "progress is not a result"
    assert "step 3/3" in output.err
    assert f"done: {out / 'run' / 'model.safetensors'}" in output.err
    assert {p.name for p in (out / "run").iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
    }
    assert read_config(out / "run")["resolved"]["recipe"] == "debug"

    arguments = [
        "--model",
        str(out / "run"),
        "--train",
        str(train),
        "--test",
        str(test),
        "--workers=0",
        *more,
    ]
    shown = said(capsys, "evaluate", "knn", *arguments, "--out", str(out / "results" / "knn.json"))
    results = json.loads((out / "results" / "knn.json").read_text())
    for row in results["rows"]:
        for score in row["scores"].values():
            assert f"{score['value']:.2f}" in shown
        assert row["mode"] in shown
    assert results["train"]["provenance"] in shown
    assert shown.splitlines()[-1] == str(out / "results" / "knn.json")

    picture = out / "picture.png"
    assert said(capsys, "inspect", str(test), "--out", str(picture), "--images=2", *TINY) == f"{picture}\n"
    with Image.open(picture) as image:
        assert min(image.size) > 300
        assert np.asarray(image.convert("L")).std() > 10, "not blank"
    return results


def test_tiny_imagenet_from_its_layout_to_a_table(
    tiny_imagenet_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root, index = subset_of_tiny_imagenet(tiny_imagenet_dir, tmp_path / "few"), tmp_path / "index.parquet"
    shown = said(capsys, "index", "tiny-imagenet", str(root), "--split", "train", "--out", str(index))
    assert re.search(r"images +│ 60 ", shown)
    assert re.search(r"objects +│ 60 ", shown)
    results = way(capsys, index, index, tmp_path, "--mode=masked-attention,crop,whole-image", "--k=1,10")
    assert results["test"]["objects"] == 60
    assert [row["mode"] for row in results["rows"]] == ["masked-attention", "crop", "whole-image"]
    # Asked about itself, every object is its own nearest neighbour: a table that says less is wrong.
    assert all(row["scores"]["k=1"]["value"] == 100 for row in results["rows"])
    assert results["rows"][0]["provenance"] == results["train"]["provenance"] == "annotated"
    for evaluation, score, *more in (
        ("linear", "top-1", "--train", str(index), "--steps", "30", "--lrs", "0.1"),
        ("transfer", "index", "--train", str(index), "--costs", "0.1,1"),
        ("retrieval", "mAP", "--mode", "crop,masked-attention"),
    ):
        rows = evaluated(capsys, tmp_path, evaluation, "--test", str(index), *more)
        assert all(0 < row["scores"][score]["value"] <= 100 for row in rows)
    assert [row["mode"] for row in rows] == ["crop", "masked-attention"]


def evaluated(capsys: pytest.CaptureFixture, folder: Path, evaluation: str, *arguments: str) -> list[dict]:
    """Rows of an evaluation of the run in `folder`, each of which is in the table."""
    out = folder / f"{evaluation}.json"
    shown = said(
        capsys,
        "evaluate",
        evaluation,
        "--model",
        str(folder / "run"),
        "--workers=0",
        "--out",
        str(out),
        *arguments,
    )
    rows = json.loads(out.read_text())["rows"]
    assert all(f"{score['value']:.2f}" in shown for row in rows for score in row["scores"].values())
    assert shown.splitlines()[-1] == str(out)
    return rows


def subset_of_tiny_imagenet(whole: Path, root: Path) -> Path:
    """Three classes of 20 images in the published layout."""
    root.mkdir()
    names = (whole / "wnids.txt").read_text().split()[:3]
    (root / "wnids.txt").write_text("\n".join(names) + "\n")
    (root / "words.txt").write_text((whole / "words.txt").read_text())
    for name in names:
        (root / "train" / name / "images").mkdir(parents=True)
        lines = (whole / "train" / name / f"{name}_boxes.txt").read_text().splitlines()[:20]
        (root / "train" / name / f"{name}_boxes.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            image = Path("train") / name / "images" / line.split("\t")[0]
            os.link(whole / image, root / image)
    return root


def test_coco_from_its_layout_to_a_table(
    coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    indices = {}
    for split in ("train2017", "val2017"):
        indices[split] = tmp_path / f"{split}.parquet"
        shown = said(capsys, "index", "coco", str(coco_dir), "--split", split, "--out", str(indices[split]))
        assert re.search(r"provenance +│ annotated", shown)
    results = way(
        capsys,
        indices["train2017"],
        indices["val2017"],
        tmp_path,
        "--k=5",
        "--mode=crop",
        "--max-train=10",
        "--max-test=6",
    )
    assert results["test"]["images"] == 6
    assert results["test"]["objects"] > 6
    sides = [
        "--train",
        str(indices["train2017"]),
        "--test",
        str(indices["val2017"]),
        "--max-train=8",
        "--max-test=4",
    ]
    rows = evaluated(capsys, tmp_path, "knn", *sides, "--k=3", f"--mode={','.join(MODES)}", "--size=64")
    assert [row["mode"] for row in rows] == list(MODES)
    (dense,) = evaluated(capsys, tmp_path, "dense-knn", *sides, "--k=5")
    (segment,) = evaluated(capsys, tmp_path, "segment", *sides, "--steps=20", "--lrs=0.1", "--size=48")
    assert 0 < dense["scores"]["mIoU"]["value"] < 100
    assert set(segment["iou"]) <= {"background", *ObjectIndex.open(indices["train2017"]).classes}


def test_folder_needs_no_index(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    results = way(capsys, pictures, pictures, tmp_path, "--mode=whole-image", "--k=1")
    assert results["rows"][0]["scores"] == {"k=1": {"value": 100.0, "low": 100.0, "high": 100.0}}
    assert results["rows"][0]["provenance"] == "whole-image"


def test_scenes_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", "12"), ("val", "8")):
        shown = said(capsys, "scenes", "--out", "scenes", "--split", split, "--count", count)
        assert re.search(rf"images +│ {count} ", shown)
        assert shown.splitlines()[-1] == f"scenes/{split}.parquet"
    results = way(capsys, "scenes/train.parquet", "scenes/val.parquet", tmp_path / "out", "--k=3")
    assert results["test"]["images"] == 8


POST = ["--views.global_size=56", "--views.local_size=28", "--train.steps=2", "--train.batch_size=4"]
POST += ["--train.device=cpu", "--train.threads=1", "--head.prototypes=24", "--loader.workers=0"]
SMALLER = {
    "pretrain": [*POST, "--head.hidden=16", "--head.bottleneck=8"],
    "compare": ["--k=2", "--steps=20", "--lrs=0.1", "--weight-decays=0", "--workers=0"],
    "report": ["--images=1"],
}


def test_post_training_in_three_commands_goes_from_a_timm_name_to_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As README and docs have them, on a small network of random weights in place of the published one."""
    create = timm.create_model

    def small(name: str, pretrained: bool = False, **options: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return create(name, **options | {"embed_dim": 32, "depth": 2, "num_heads": 2})

    monkeypatch.setattr(timm, "create_model", small)
    monkeypatch.chdir(tmp_path)
    rng, colours = np.random.default_rng(0), np.array([[200, 40, 40], [40, 60, 200]])
    for part, count in (("train", 8), ("val", 6)):
        rows = []
        for i in range(count):
            pixels = rng.integers(90, 120, (56, 84, 3))
            pixels[8:48, 6:40] += colours[i % 2] - 100
            pixels[8:48, 44:80] += colours[1 - i % 2] - 100
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{part}{i}.png")
            objects = (Object((6, 8, 40, 48), label=i % 2), Object((44, 8, 80, 48), label=1 - i % 2))
            rows.append(ImageObjects(f"{part}{i}.png", 84, 56, objects))
        write_index(
            tmp_path / f"coco-{part}.parquet", rows, root=tmp_path, provenance="annotated", classes=["a", "b"]
        )
    root = Path(__file__).resolve().parents[1]
    blocks = [
        re.findall(
            r"^```sh\n(odis pretrain --recipe odis-post-.*?)^```$", (root / page).read_text(), re.M | re.S
        )
        for page in ("README.md", "docs/public-weights.md")
    ]
    assert blocks[0] == blocks[1]
    [block] = blocks[0]
    lines = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [line[0] for line in lines] == ["pretrain", "compare", "report"]
    for line in lines:
        main([*line, *SMALLER[line[0]]])
    said = capsys.readouterr().out
    results = json.loads((tmp_path / "runs/post/compare.json").read_text())
    names = ["timm:vit_small_patch14_reg4_dinov2", "runs/post"]
    assert [results[which]["model"] for which in ("before", "after")] == names
    assert [results[which]["size"] for which in ("before", "after")] == [56, 56]
    measured = {row["measure"] for row in results["data"][0]["measures"]}
    assert {"object k-NN", "object linear probe", "hummingbird mIoU"} <= measured
    assert "".join(results["verdict"].split()) in "".join(said.split())
    assert html.escape(results["verdict"]) in (tmp_path / "post.html").read_text()
    assert read_config(tmp_path / "runs/post")["config"]["optim"]["layer_decay"] == 0.9
