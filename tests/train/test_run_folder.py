"""A run's folder: what it holds, which command may enter it again, what is refused and how."""

import os
import warnings
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from odis import __version__
from odis.cli import main
from odis.config.discovery import DiscoverConfig
from odis.config.options import load_recipe
from odis.config.training import (
    LoaderConfig,
    LossConfig,
    ModelConfig,
    ObjectsConfig,
    OptimConfig,
    PretrainConfig,
    TrainConfig,
    ViewsConfig,
    as_dict,
)
from odis.errors import ConfigError, DataError, OdisWarning
from odis.train.run_folder import FREE, prepare, read_config

RESOLVED = {"images": 20, "lr": 0.001}
CONFIG = PretrainConfig(data="train.parquet")


def test_folder_says_what_the_run_is_and_where_it_ran(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    prepare(out, CONFIG, RESOLVED)
    assert [p.name for p in out.iterdir()] == ["config.yaml"]
    record = read_config(out)
    assert record["config"] == as_dict(CONFIG)
    assert record["resolved"] == RESOLVED
    assert record["versions"]["odis"] == __version__
    assert set(record["versions"]) >= {"python", "torch", "torchvision", "timm", "numpy"}
    assert record["git"] is None or len(record["git"].removesuffix("+changes")) == 40


def test_config_in_the_folder_is_a_recipe(tmp_path: Path) -> None:
    config = load_recipe("debug", data="x", train__steps=3)
    prepare(tmp_path, config, RESOLVED)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(read_config(tmp_path)["config"]))
    assert load_recipe(str(tmp_path / "again.yaml")) == config


def test_same_settings_enter_again_and_the_record_is_renewed(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG, RESOLVED)
    prepare(tmp_path, CONFIG, RESOLVED | {"device": "another"})
    assert read_config(tmp_path)["resolved"] == RESOLVED | {"device": "another"}


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, tuple):
        return tuple(v + 1 for v in value)
    return 2 * value + 1 if isinstance(value, int | float) else f"{value}x"


SETTINGS = [("", f.name) for f in fields(PretrainConfig) if not is_dataclass(getattr(CONFIG, f.name))]
SETTINGS += [
    (s.name, f.name)
    for s in fields(PretrainConfig)
    if is_dataclass(v := getattr(CONFIG, s.name))
    for f in fields(v)
]

# What may change between the parts of a run: how it is run, what is written down, and what is not used.
USED = {
    "val",
    "root",
    "strict",
    "loader.workers",
    "loader.prefetch",
    "loader.keep",
    "loader.fetch_cache",
    "loader.render",
    "model.grad_checkpointing",
    "train.device",
    "train.threads",
    "train.compile",
    "train.parallel",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.knn_every",
    "train.loggers",
    "train.pictures_every",
    "train.nonfinite_limit",
}
UNUSED = {f"discover.{f.name}" for f in fields(CONFIG.discover)}  # without objects.rediscover_every


def after_steps(out: Path, steps: int) -> None:
    (out / "checkpoints").mkdir(exist_ok=True)
    (out / "checkpoints" / f"step-{steps:08}.pt").touch()


def test_what_each_free_setting_changes_is_said() -> None:
    assert FREE.keys() == USED
    assert all(FREE.values())


@pytest.mark.parametrize(("section", "name"), SETTINGS, ids=lambda s: s or "root")
def test_only_settings_that_change_no_result_may_change(tmp_path: Path, section: str, name: str) -> None:
    prepare(tmp_path, CONFIG, RESOLVED)
    after_steps(tmp_path, 2)
    before = (tmp_path / "config.yaml").read_text()
    if section:
        part = getattr(CONFIG, section)
        other = replace(CONFIG, **{section: replace(part, **{name: changed(getattr(part, name))})})
    else:
        other = replace(CONFIG, **{name: changed(getattr(CONFIG, name))})
    dotted = f"{section}.{name}" if section else name
    if dotted in USED | UNUSED:
        prepare(tmp_path, other, RESOLVED)
        assert read_config(tmp_path)["config"] == as_dict(other)
        return
    with pytest.raises(ConfigError) as refusal:
        prepare(tmp_path, other, RESOLVED)
    old, new = (as_dict(c)[section][name] if section else as_dict(c)[name] for c in (CONFIG, other))
    if dotted in ("train.epochs", "train.steps"):
        assert "holds a run of 8 steps, 2 of them taken, whose learning rate" in str(refusal.value)
    else:
        assert f"({dotted}: {old} -> {new})" in str(refusal.value)
    assert (tmp_path / "config.yaml").read_text() == before


def test_every_difference_is_shown(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG, RESOLVED)
    other = replace(
        CONFIG,
        views=ViewsConfig(global_scale=(0.1, 1.0)),
        train=TrainConfig(seed=4),
        loader=LoaderConfig(workers=9),
    )
    with pytest.raises(
        ConfigError, match=r"views\.global_scale: \[0\.25, 1\.0\] -> \[0\.1, 1\.0\]"
    ) as refusal:
        prepare(tmp_path, other, RESOLVED)
    assert "train.seed: 0 -> 4" in str(refusal.value)
    assert "workers" not in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


def test_setting_of_another_version_is_a_difference(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG, RESOLVED)
    record = read_config(tmp_path)
    del record["config"]["views"]["grayscale"]
    record["config"]["views"]["sepia"] = 0.5
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
    said = r"views\.grayscale: None -> 0\.2; views\.sepia: 0\.5 -> None\).*the version of odis it began with"
    with pytest.raises(ConfigError, match=said):
        prepare(tmp_path, CONFIG, RESOLVED)


def test_a_run_with_settings_of_before_the_new_spelling_goes_on(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG, RESOLVED)
    record = read_config(tmp_path)
    views, loss = record["config"]["views"], record["config"]["loss"]
    views["grey"] = views.pop("grayscale")
    loss["centring"] = loss.pop("centering").replace("center", "centre")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
    with pytest.warns(OdisWarning, match=r"views\.grey is now views\.grayscale") as said:
        prepare(tmp_path, CONFIG, RESOLVED)
    (warning,) = said
    assert str(warning.message) == (
        f"{tmp_path / 'config.yaml'}: has settings of an earlier version: loss.centring is now "
        f"loss.centering center; views.grey is now views.grayscale"
    )
    assert read_config(tmp_path)["config"] == as_dict(CONFIG)


def test_an_old_setting_with_another_value_is_a_difference_under_its_new_name(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG, RESOLVED)
    record = read_config(tmp_path)
    del record["config"]["views"]["grayscale"]
    record["config"]["views"]["grey"] = 0.7
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
    with (
        pytest.warns(OdisWarning, match="grey"),
        pytest.raises(ConfigError, match=r"\(views\.grayscale: 0\.7 -> 0\.2\)"),
    ):
        prepare(tmp_path, CONFIG, RESOLVED)


@pytest.mark.parametrize("name", ["tau", "batch_size"])
def test_discovery_is_compared_where_it_is_used(tmp_path: Path, name: str) -> None:
    config = replace(CONFIG, objects=ObjectsConfig(rediscover_every=1.0))
    prepare(tmp_path, config, RESOLVED)
    value = changed(getattr(CONFIG.discover, name))
    with pytest.raises(ConfigError, match=rf"discover\.{name}: "):
        prepare(tmp_path, replace(config, discover=DiscoverConfig(**{name: value})), RESOLVED)


# --- data and weights, by their fingerprints
# ------------------------------------------------------------------------------------------------------------


def with_prints(**prints: str) -> dict[str, Any]:
    return RESOLVED | {"fingerprints": {name.replace("__", "."): value for name, value in prints.items()}}


def test_the_same_data_under_another_path_enters_again(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG, with_prints(data="1"))
    moved = replace(CONFIG, data="/elsewhere/train.parquet")
    prepare(tmp_path, moved, with_prints(data="1"))
    assert read_config(tmp_path)["config"] == as_dict(moved)
    with pytest.raises(ConfigError, match=r"\(data: /elsewhere/train\.parquet -> train\.parquet\)"):
        prepare(tmp_path, CONFIG, with_prints(data="2"))


def test_other_data_under_the_same_path_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG, with_prints(data="1"))
    with pytest.raises(ConfigError) as refusal:
        prepare(tmp_path, CONFIG, with_prints(data="2"))
    assert str(refusal.value) == (
        f"{tmp_path}: holds a run with another data: train.parquet has changed since (its images, boxes or "
        f"masks); give another --out, or what it was"
    )


@pytest.mark.parametrize(("now", "path", "allowed"), [("1", "b", True), ("2", "a", False), ("2", "b", False)])
def test_weights_are_compared_likewise(tmp_path: Path, now: str, path: str, allowed: bool) -> None:
    first, other = (replace(CONFIG, model=ModelConfig(weights=f"{name}.pth")) for name in ("a", path))
    prepare(tmp_path, first, with_prints(data="1", model__weights="1"))
    if allowed:
        prepare(tmp_path, other, with_prints(data="1", model__weights=now))
        return
    with pytest.raises(ConfigError, match=r"model\.weights"):
        prepare(tmp_path, other, with_prints(data="1", model__weights=now))


def test_another_val_trains_the_same_and_is_said(tmp_path: Path) -> None:
    config = replace(CONFIG, val="val.parquet")
    prepare(tmp_path, config, with_prints(data="1", val="1"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(tmp_path, replace(config, val="moved.parquet"), with_prints(data="1", val="1"))
    with pytest.warns(OdisWarning, match="val is another index than before; k-NN scores do not compare"):
        prepare(tmp_path, config, with_prints(data="1", val="2"))


def test_a_run_of_before_the_fingerprints_is_compared_as_it_was(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG, RESOLVED)
    with pytest.raises(ConfigError, match=r"\(data: train\.parquet -> \./train\.parquet\)"):
        prepare(tmp_path, replace(CONFIG, data="./train.parquet"), with_prints(data="1"))
    prepare(tmp_path, CONFIG, with_prints(data="1"))
    prepare(tmp_path, replace(CONFIG, data="./train.parquet"), with_prints(data="1"))  # now it has one


# --- another length
# ------------------------------------------------------------------------------------------------------------


def of_length(flat: bool = False, **train: Any) -> PretrainConfig:
    """With `flat`, nothing depends on the step, so that any length goes on."""
    optim = OptimConfig(
        base_lr=0.1, min_lr=0.1, warmup_epochs=0, weight_decay=0.1, weight_decay_end=0.1, momentum_teacher=1.0
    )
    loss = LossConfig(warmup_teacher_temp_epochs=0)
    config = replace(CONFIG, train=TrainConfig(batch_size=10, **train))
    return replace(config, optim=optim, loss=loss) if flat else config


def test_a_finished_run_says_how_to_train_on(tmp_path: Path) -> None:
    prepare(tmp_path, of_length(epochs=100), RESOLVED)
    after_steps(tmp_path, 200)
    with pytest.raises(ConfigError) as refusal:
        prepare(tmp_path, of_length(epochs=200), RESOLVED)
    assert str(refusal.value) == (
        f"{tmp_path}: holds a run of 200 steps, 200 of them taken, whose learning rate, weight decay and "
        f"teacher momentum follow curves that end there: it cannot become one of 400; to train on from its "
        f"weights, give another --out and --model.weights {tmp_path / 'model.safetensors'}"
    )


@pytest.mark.parametrize("length", [{"epochs": 200.0}, {"steps": 300}, {"epochs": 150.0}])
def test_a_run_whose_schedules_are_flat_goes_on(tmp_path: Path, length: dict[str, Any]) -> None:
    prepare(tmp_path, of_length(flat=True, epochs=100), RESOLVED)
    after_steps(tmp_path, 200)
    prepare(tmp_path, of_length(flat=True, **length), RESOLVED)
    assert read_config(tmp_path)["config"] == as_dict(of_length(flat=True, **length))


def test_before_the_first_checkpoint_a_run_may_get_another_length(tmp_path: Path) -> None:
    prepare(tmp_path, of_length(epochs=100), RESOLVED)
    prepare(tmp_path, of_length(epochs=200), RESOLVED)


def test_the_same_length_in_steps_is_the_same_run(tmp_path: Path) -> None:
    prepare(tmp_path, of_length(epochs=100), RESOLVED)
    after_steps(tmp_path, 150)
    prepare(tmp_path, of_length(steps=200), RESOLVED)


def test_another_length_beside_another_setting_is_a_difference_like_any(tmp_path: Path) -> None:
    prepare(tmp_path, of_length(epochs=100), RESOLVED)
    after_steps(tmp_path, 200)
    with pytest.raises(ConfigError, match=r"train\.epochs: 100 -> 200; train\.seed: 0 -> 3"):
        prepare(tmp_path, of_length(epochs=200, seed=3), RESOLVED)


def test_data_with_another_number_of_images_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG, RESOLVED)
    with pytest.raises(
        ConfigError, match=r"holds a run on 20 images, but train\.parquet now has 21; give another --out"
    ):
        prepare(tmp_path, CONFIG, RESOLVED | {"images": 21})
    assert read_config(tmp_path)["resolved"] == RESOLVED


@pytest.mark.parametrize("content", ["photo.jpg", "checkpoints/step-00000001.pt", ".hidden"])
def test_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / content).parent.mkdir(exist_ok=True)
    (tmp_path / content).write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="exists and is not a run"):
        prepare(tmp_path, CONFIG, RESOLVED)
    assert sorted(tmp_path.rglob("*")) == before


def test_file_is_refused_and_an_empty_folder_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(DataError, match="exists and is not a run"):
        prepare(tmp_path / "file", CONFIG, RESOLVED)
    (tmp_path / "empty").mkdir()
    prepare(tmp_path / "empty", CONFIG, RESOLVED)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "cannot be read"),
        ("", "not the config of a run"),
        ("config: 3", "not the config of a run"),
        ("[1]", "not the config"),
    ],
)
def test_config_that_is_none_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DataError, match=says) as refusal:
        prepare(tmp_path, CONFIG, RESOLVED)
    assert str(tmp_path / "config.yaml") in str(refusal.value)
    assert (tmp_path / "config.yaml").read_text() == text


def test_folder_that_is_no_run_has_no_config(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a run folder: it has no config\.yaml"):
        read_config(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(np.full((24, 24, 3), 40 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def command(images: Path, out: Path, *more: str) -> list[str]:
    tiny = [
        "--views.global_size=16",
        "--views.local_size=8",
        "--model.depth=1",
        "--model.embed_dim=24",
        "--model.num_heads=2",
    ]
    fixed = ["--train.steps=2", "--train.batch_size=2", "--train.device=cpu", "--loader.workers=0"]
    return ["pretrain", "--data", str(images), "--out", str(out), "--recipe", "debug", *tiny, *fixed, *more]


def test_refusals_reach_the_command_line(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def refusal(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    out = tmp_path / "run"
    main(command(images, out))
    assert "(train.seed: 0 -> 1)" in refusal(*command(images, out, "--train.seed=1"))
    main(command(images, out, "--loader.prefetch=3", "--strict"))
    assert "complete" in capsys.readouterr().err
    os.remove(images / "4.png")
    assert f"holds a run on 5 images, but {images} now has 4" in refusal(*command(images, out))
    assert "exists and is not a run" in refusal(*command(images, images))
    assert "Not a directory" in refusal(*command(images, images / "0.png" / "run"))
