"""`odis.finetune` and the command: compared, resumed, added to, refused in one line; and loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import odis
from odis.cli import main
from odis.downstream import finetune as module
from odis.downstream import training
from odis.downstream.predict import load_finetuned
from odis.errors import ConfigError, DataError, OdisError
from odis.machine.locks import sole_owner
from odis.report.results import find_results
from odis.report.tables import tables

DETECTOR = {
    "size": 48, "batch": 2, "channels": 8, "hidden": 16, "scales": [2.0, 1.0], "anchor": 2.0, "proposals": 40,
    "regions": 16,
}  # fmt: skip
QUICK = {"steps": 2, "resamples": 5, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def sets(squares: Path) -> dict[str, dict[str, Any]]:
    """Data and settings of each task."""
    indexes = {"train": squares / "indexes" / "train.parquet", "test": squares / "indexes" / "test.parquet"}
    classes = {"train": squares / "classes" / "train", "test": squares / "classes" / "val"}
    return {
        "detection": indexes | DETECTOR | QUICK | {"steps": 4},  # all train images are met
        "instances": indexes | DETECTOR | QUICK,
        "semantic": {"train": squares, "test": squares, "size": 32, "channels": 8, "batch": 2} | QUICK,
        "classification": classes | {"size": 32, "batch": 2} | QUICK,
    }


@pytest.fixture(scope="module")
def made(sets, model, tmp_path_factory) -> Callable[[str], SimpleNamespace]:
    """A comparison of random weights and the model, by two seeds where a training is quick; once a task."""
    done: dict[str, SimpleNamespace] = {}

    def make(task: str) -> SimpleNamespace:
        if task not in done:
            out = tmp_path_factory.mktemp(task) / "out"
            seeds = [0, 1] if task in ("semantic", "classification") else [0]
            found = odis.finetune(task, ["random", model], out, seeds=seeds, **sets[task])
            done[task] = SimpleNamespace(out=out, found=found)
        return done[task]

    return make


SCORES = {
    "detection": ["AP box", "AP50 box", "AP75 box", "AR100 box", "APs box", "APm box", "APl box"],
    "instances": ["AP box", "AP mask"],
    "semantic": ["mIoU", "pixel accuracy"],
    "classification": ["top-1"],
}


@pytest.mark.parametrize("task", SCORES)
def test_a_comparison_has_a_row_a_start_and_is_read_by_the_report(task, made, model):
    one = made(task)
    written = json.loads((one.out / "results.json").read_text())
    assert written == json.loads(json.dumps(one.found))
    assert written["complete"] is True
    assert [row["model"] for row in written["rows"]] == ["random", str(model)]
    assert [row["provenance"] for row in written["rows"]] == ["nothing", "annotated"]
    for row in written["rows"]:
        assert set(SCORES[task]) <= row["scores"].keys()
        for score in row["scores"].values():
            assert len(score["seeds"]) == len(one.found["settings"]["seeds"])
            if score["value"] is not None:
                assert score["value"] == pytest.approx(np.mean(score["seeds"]), abs=2e-3)
                assert score["low"] <= score["value"] <= score["high"]
    assert [(d["model"], d["less"]) for d in written["differences"]] == [(str(model), "random")]
    folders = sorted(p.name for p in one.out.iterdir() if p.is_dir())
    assert len(folders) == 2 * len(one.found["settings"]["seeds"])
    assert sum(name.startswith("random-") for name in folders) == len(folders) / 2
    if task == "detection":
        assert [Path(item["what"]).name for item in written["skipped"]] == ["broken.png"]
    groups, skipped = find_results([], [one.out / "results.json"])
    assert not skipped
    page = str(tables(groups, skipped))
    assert all(name in page for name in (f"finetune-{task}", *SCORES[task], str(model)))


def test_the_same_call_trains_nothing_and_more_starts_and_seeds_are_added(
    made, sets, model, tiny, tmp_path, monkeypatch
):
    one = made("classification")
    trained: list[tuple[str, int]] = []
    build = training.build

    def spy(task, start, seed, folder, reading):
        trained.append((Path(start.source).name, seed))
        return build(task, start, seed, folder, reading)

    monkeypatch.setattr(training, "build", spy)
    again = odis.finetune(
        "classification", ["random", model], one.out, seeds=[0, 1], **sets["classification"]
    )
    assert trained == []
    assert [row["scores"] for row in again["rows"]] == [row["scores"] for row in one.found["rows"]]
    other = tiny.save(tmp_path / "other.safetensors", seed=9)
    more = odis.finetune("classification", [model, other], one.out, seeds=[1, 2], **sets["classification"])
    assert trained == [("other.safetensors", 1), ("model.safetensors", 2), ("other.safetensors", 2)]
    assert (
        more["rows"][0]["scores"]["top-1"]["seeds"][0] == one.found["rows"][1]["scores"]["top-1"]["seeds"][1]
    )


def test_other_weights_under_the_same_path_are_trained_anew(sets, tiny, tmp_path):
    for seed in (1, 2):
        tiny.save(tmp_path / "m.safetensors", seed=seed)
        odis.finetune(
            "classification", tmp_path / "m.safetensors", tmp_path / "out", **sets["classification"]
        )
    assert len([p for p in (tmp_path / "out").iterdir() if p.is_dir()]) == 2


def test_a_folder_of_other_settings_or_data_is_refused(made, sets, model, squares, tmp_path):
    one, quick = made("classification"), sets["classification"]

    def refused(message: str, task: str = "classification", out: Path = one.out, **more: Any) -> None:
        with pytest.raises(OdisError, match=message) as error:
            odis.finetune(task, model, out, **quick | more)
        assert "\n" not in str(error.value)

    refused(r"holds a comparison with other settings \(lr: 0.0001 -> 0.5\)", lr=0.5)
    refused(r"precision: fp32 -> bf16", precision="bf16")
    refused("holds a comparison on other data", test=squares / "classes" / "train")
    with pytest.raises(ConfigError, match="holds a comparison of classification"):
        odis.finetune("semantic", model, one.out, **sets["semantic"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    refused("exists and is no comparison", out=tmp_path / "full")
    refused("is a file; a comparison is a folder", out=squares / "class_names.txt")
    with sole_owner(one.out, inside=True):
        refused("another call in this process is writing it")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("settings: [")
    refused("not the record of a comparison", out=tmp_path / "broken")
    # What changes no result may be another.
    odis.finetune("classification", model, one.out, **quick | {"log_every": 1, "checkpoint_every": 1})


def test_what_cannot_be_is_refused_before_anything_is_trained(sets, model, tmp_path, monkeypatch):
    quick, out = sets["detection"], tmp_path / "out"
    for task, more, message in (
        ("detect", {}, r"detect: no such task \(did you mean detection\?\); there are detection, instances"),
        ("detection", {"stepz": 3}, r"stepz: detection has no such setting \(did you mean steps\?\)"),
        ("detection", {"steps": 0}, "steps 0 must be 1 or more"),
        ("detection", {"steps": "3"}, "steps: is '3', must be a whole number"),
        ("detection", {"test": ""}, "--test is required"),
        ("detection", {"crowds": tmp_path / "gone.json"}, r"gone\.json"),
        ("classification", sets["classification"] | {"size": 30}, "must be a multiple of the patch size 8"),
    ):
        given = more if task == "classification" else quick | more
        with pytest.raises(OdisError, match=message):
            odis.finetune(task, model, out, **given)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OdisError, match="fine-tuning runs in one process; start it without torchrun"):
        odis.finetune("detection", model, out, **quick)
    assert not out.exists() or not list(out.iterdir())


def test_an_index_without_what_a_task_learns_is_refused(sets, model, tmp_path, squares):
    from odis.objects.index import ObjectIndex, write_index
    from odis.types import ImageObjects, Object

    index = ObjectIndex.open(sets["detection"]["train"])
    rows = [ImageObjects(one.image, 56, 40, tuple(Object(o.box) for o in one.objects)) for one in index]
    write_index(tmp_path / "bare.parquet", rows, root=squares, provenance="x", classes=["dark", "light"])
    write_index(
        tmp_path / "none.parquet",
        [ImageObjects(rows[0].image, 56, 40)],
        root=squares,
        provenance="x",
        classes=[],
    )
    for task, name, message in (
        ("detection", "bare", "none of its objects has a label"),
        ("instances", "bare", "none of its objects has a mask; `detection` takes boxes"),
        ("detection", "none", "it holds no object"),
    ):
        with pytest.raises(DataError, match=message):
            odis.finetune(
                task, model, tmp_path / "out", **sets["detection"] | {"train": tmp_path / f"{name}.parquet"}
            )


def test_the_command_is_the_function(made, sets, model, tmp_path, capsys):
    words = []
    for name, value in sets["detection"].items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words.append(f"--{name.replace('_', '-')}={text}")
    main([
        "finetune", "detection", "--model=random", f"--model={model}", "--workers=0", *words,
        f"--out={tmp_path / 'out'}",
    ])  # fmt: skip
    by_command = json.loads((tmp_path / "out" / "results.json").read_text())
    for row, expected in zip(by_command["rows"], made("detection").found["rows"], strict=True):
        assert row["scores"] == expected["scores"]
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(tmp_path / "out" / "results.json")
    assert "95 % bootstrap intervals over test images" in " ".join(said.out.split())
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["task"] == "detection"
    with pytest.raises(SystemExit) as stop:
        main(["finetune", "detection", "--model=random", f"--out={tmp_path / 'x'}"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "odis finetune: --train is required; --help lists the options\n"


@pytest.mark.parametrize("task", SCORES)
def test_what_was_trained_is_loaded_and_asked(task, made, sets, squares, tmp_path):
    folders = sorted(p for p in made(task).out.iterdir() if p.is_dir())
    folder = next(p for p in folders if not p.name.startswith("random"))
    net = load_finetuned(folder, device="cpu")
    assert (net.task, net.card["seed"], net.card["step"]) == (task, 0, sets[task]["steps"])
    assert net.classes[-2:] == ["dark", "light"]
    picture = Image.open(squares / "val" / "1.png")
    one = net.predict(picture)
    (again,) = load_finetuned(folder / "model.safetensors", device="cpu").predict([np.asarray(picture)])
    for name in ("labels", "boxes", "scores", "masks"):
        assert np.array_equal(getattr(one, name), getattr(again, name)), name
    if task == "semantic":
        assert one.labels.shape == (40, 56)
    elif task == "classification":
        assert one.scores.shape == (2,)
        assert one.scores.sum() == pytest.approx(1)
        assert one.labels == one.scores.argmax()
    else:
        assert len(one.boxes) == len(one.labels) == len(one.scores)
        assert (one.boxes[:, 2:] <= [56, 40]).all()
        assert (one.masks is None) == (task == "detection")
        assert list(one.scores) == sorted(one.scores, reverse=True)
        if task == "instances":
            assert one.masks.shape == (len(one.boxes), 40, 56)
    with pytest.raises(DataError, match="no such file"):
        net.predict(tmp_path / "gone.png")


def test_what_is_no_finetuned_network_is_refused(model, made, tmp_path):
    with pytest.raises(DataError, match=r"not a network that odis finetune wrote \(KeyError: 'task'"):
        load_finetuned(model, device="cpu")
    with pytest.raises(DataError, match="no such file"):
        load_finetuned(tmp_path / "gone", device="cpu")
    folder = next(p for p in made("classification").out.iterdir() if p.is_dir())
    content = (folder / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-9])
    (tmp_path / "changed.safetensors").write_bytes(content[:-9] + bytes(9))
    for name in ("cut", "changed"):
        with pytest.raises(DataError, match=rf"{name}\.safetensors: not a") as error:
            load_finetuned(tmp_path / f"{name}.safetensors", device="cpu")
        assert "\n" not in str(error.value)
    with pytest.raises(DataError):  # nor is it one for odis.load
        odis.load(folder / "model.safetensors", device="cpu")


def test_names_of_folders_are_plain_and_short(model):
    start = SimpleNamespace(source="timm:vit a/../b?c@" + "x" * 300, fingerprint="12345678")
    name = module.folder_of(start, 3)
    assert len(name) < 100
    assert "/" not in name
    assert name.endswith("-12345678-seed3")
