"""The demo end to end, on few scenes and few steps: its files, what they say, and what a second call does."""

import contextlib
import io
import json
import re
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from odis.cli import main
from odis.commands.demo import steps as demo
from odis.config.checks import check
from odis.config.options import load_recipe
from odis.config.query import QueryConfig
from odis.config.recipes import recipe_path
from odis.errors import ConfigError
from odis.explorer.settings import ExploreSettings
from odis.inference import load
from odis.objects.index import ObjectIndex
from odis.train import loop
from odis.train import start as starting

SMALL = {"TRAIN_SCENES": 24, "TEST_SCENES": 6, "NEIGHBOUR_SCENES": 20, "K": 5}


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(demo, name, value)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demo's recipe cut to three steps of a tiny network."""
    recipe = yaml.safe_load(recipe_path("demo").read_text())
    recipe["model"] |= {"embed_dim": 24, "depth": 2, "num_heads": 2}
    recipe["head"] |= {"hidden": 32, "prototypes": 32, "bottleneck": 16}
    recipe["train"] |= {"steps": 3, "batch_size": 8}
    recipe["loader"] = {"workers": 0}
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


@dataclass
class Done:
    """A demo that ran."""

    out: Path
    returned: dict[str, Any]
    shown: str
    start: dict[str, Tensor]  # the student's backbone before the first step


@pytest.fixture(scope="module")
def done(small: str, tmp_path_factory: pytest.TempPathFactory) -> Done:
    out, start, build = tmp_path_factory.mktemp("demo") / "out", {}, starting.build_optimizer

    def noted(student: Any, optim: Any) -> Any:
        start.update({k: v.clone() for k, v in student.backbone.state_dict().items()})
        return build(student, optim)

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a newcomer should not meet one
        for name, value in SMALL.items():
            patch.setattr(demo, name, value)
        patch.setattr(starting, "build_optimizer", noted)
        returned = demo.run_demo(out, recipe=small)
    return Done(out, returned, said.getvalue(), start)


def test_demo_leaves_scenes_run_numbers_and_picture(done: Done) -> None:
    out, shown = done.out, done.shown
    results = json.loads((out / "results.json").read_text())
    assert results == done.returned
    modes = {"masked-attention", "crop"}
    assert set(results["untrained"]) == set(results["trained"]) == modes
    assert all(0 <= results[when][mode] <= 100 for when in ("untrained", "trained") for mode in modes)
    logged = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [3]
    assert results["seconds"] == round(3 * 8 / logged[0]["images_per_second"], 1)
    assert (results["train_scenes"], results["test_scenes"], results["k"]) == (24, 6, 5)
    with Image.open(out / "demo.png") as picture:
        assert min(picture.size) > 400
        assert np.asarray(picture.convert("L")).std() > 10, "not blank"
    train, test = (ObjectIndex.open(out / "scenes" / f"{split}.parquet") for split in ("train", "val"))
    assert (len(train), len(test)) == (24, 6)
    assert load(out / "run").card["step"] == 3
    rows = json.loads((out / "run" / "knn.json").read_text())["rows"]
    for row in rows:
        when = "untrained" if row["model"] == "untrained" else "trained"
        assert results[when][row["mode"]] == round(row["scores"]["k=5"]["value"], 1)
    assert len(rows) == 4
    for mode in modes:
        before, after = results["untrained"][mode], results["trained"][mode]
        assert re.search(
            rf"{mode} +│ +{before:.1f} +│ +{after:.1f} +│ +{re.escape(f'{after - before:+.1f}')} ", shown
        )
    for name in ("demo.png", "results.json", "run/model.safetensors"):
        assert str(out / name) in shown, "paths are not broken over lines"


def test_second_call_trains_nothing_draws_again_and_says_the_same(
    done: Done, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = (done.out / "demo.png").read_bytes()
    (done.out / "demo.png").unlink()

    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("a complete run takes no step")

    monkeypatch.setattr(loop, "train_step", never)
    assert demo.run_demo(done.out, recipe=small) == done.returned
    assert (done.out / "demo.png").read_bytes() == picture
    with pytest.raises(ConfigError, match=r"train\.seed: 0 -> 1"):
        demo.run_demo(done.out, seed=1, recipe=small)


def test_seconds_add_up_over_log_lines_of_unequal_length_and_speed(tmp_path: Path) -> None:
    lines = [
        {"step": 10, "images_per_second": 20.0},
        {"step": 10, "knn": 50.0},
        {"step": 25, "images_per_second": 60.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert demo._pretraining_seconds(tmp_path, 8) == pytest.approx(10 * 8 / 20 + 15 * 8 / 60)


def test_it_ends_with_the_page_of_the_run_and_the_command_of_the_explorer(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_line, command = done.shown.splitlines()[-2:]
    page = Path(page_line.removeprefix("a page of the run: "))
    assert page == done.out / "report.html"
    assert "masked-attention" in page.read_text()
    assert "untrained" in page.read_text()
    asked: list[Any] = []
    monkeypatch.setattr("odis.explorer.serve.explore", lambda *given: asked.append(given))
    main(shlex.split(command.removeprefix("ask it with the mouse: odis ")))
    ((networks, data, settings, _),) = asked
    assert networks == [str(done.out / "untrained"), str(done.out / "run")]
    assert [load(network).card["step"] for network in networks] == [0, 3]
    assert len(ObjectIndex.open(data)) == SMALL["TEST_SCENES"]
    assert settings.query.context == demo.CONTEXT
    before = load(networks[0]).model.state_dict()
    assert all(torch.equal(before[name], value) for name, value in done.start.items())


def test_untrained_is_what_training_starts_from(done: Done, small: str) -> None:
    config = load_recipe(small, data=str(done.out / "scenes" / "train.parquet"))
    untrained = demo._untrained(config).model.state_dict()
    assert untrained.keys() == done.start.keys()
    assert all(torch.equal(untrained[name], value) for name, value in done.start.items())


def test_seed_makes_other_scenes_and_another_network(
    done: Done, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("draw_demo", "write_report"):
        monkeypatch.setattr(demo, name, lambda *arguments, **more: None)
    assert demo.run_demo(tmp_path, seed=1, recipe=small)["seed"] == 1
    one, two = (ObjectIndex.open(out / "scenes" / "train.parquet") for out in (done.out, tmp_path))
    assert [row.objects for row in one] != [row.objects for row in two]
    assert (done.out / "run" / "model.safetensors").read_bytes() != (
        tmp_path / "run" / "model.safetensors"
    ).read_bytes()


def test_recipe_of_the_demo_trains_many_read_only_objects_without_labels() -> None:
    config = load_recipe("demo", data="x")
    check(config)
    assert config.model.object_tokens == "read-only"
    assert config.objects.per_image > 1
    assert config.val is None


def test_command_runs_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(demo, "run_demo", lambda out, *, seed: calls.append((out, seed)))
    main(["demo"])
    main(["demo", "--out", str(tmp_path), "--seed", "3"])
    assert calls == [(Path("odis-demo"), 0), (tmp_path, 3)]
    calls.clear()
    monkeypatch.setattr("odis.explorer.serve.explore", lambda *given: calls.append(given[:3]))
    main(["demo", "--out", str(tmp_path), "--explore"])
    settings = ExploreSettings(query=QueryConfig(context=demo.CONTEXT))
    assert calls == [(tmp_path, 0), (*demo.explored(tmp_path), settings)]
    monkeypatch.setattr("odis.explorer.extra.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["demo", "--explore"])
    assert len(calls) == 2, "nothing is made"
