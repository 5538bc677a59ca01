"""What a run begins with: `train.precision auto` is chosen once, and a resume keeps it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from odis.backbones.published import follow_weights
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.errors import ConfigError, DataError
from odis.machine import devices
from odis.machine.ranks import Ranks
from odis.train.loop import pretrain
from odis.train.run_folder import prepare, read_config
from odis.train.start import build_run, settle_precision

HERE = Ranks(0, 1, torch.device("cpu"))
TINY = {
    "views__global_size": 16, "views__local_size": 8, "model__depth": 1, "model__embed_dim": 24,
    "model__num_heads": 2, "train__steps": 2, "train__batch_size": 2, "train__device": "cpu",
    "loader__workers": 0,
}  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((24, 24, 3), 40 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def speedup(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How many times as fast bf16 is on this CPU, as if it had been measured."""
    found = {"bf16": 2.0}
    monkeypatch.setattr(devices, "bf16_speedup", lambda threads: found["bf16"])
    return found


def config_of(images: Path, precision: str, **more: object) -> PretrainConfig:
    return load_recipe("debug", data=str(images), **TINY | {"train__precision": precision} | more)


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def test_the_default_is_auto() -> None:
    assert PretrainConfig().train.precision == "auto"
    assert load_recipe("odis-small", data="x").train.precision == "auto"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_named_precision_stays_and_nothing_is_measured(
    images: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "bf16_speedup", lambda threads: pytest.fail("measured"))
    config = config_of(images, precision)
    settled = settle_precision(config, HERE)
    assert (settled.config, settled.asked, settled.why, settled.note) == (config, precision, "", "")


@pytest.mark.parametrize(("ratio", "precision"), [(2.0, "bf16"), (0.5, "fp32")])
def test_a_new_run_takes_what_is_faster(
    images: Path, tmp_path: Path, speedup: dict[str, float], ratio: float, precision: str
) -> None:
    speedup["bf16"] = ratio
    config = config_of(images, "auto")
    settled = settle_precision(config, HERE, tmp_path / "none")
    assert settled.config == replace(config, train=replace(config.train, precision=precision))
    assert settled.why == f"products in bf16 are {ratio} times as fast as in fp32 on this CPU"
    assert settled.note == ""
    assert build_run(config, HERE, images=4).config.train.precision == precision


def test_the_choice_is_said_recorded_and_kept_on_a_machine_that_would_choose_otherwise(
    images: Path, tmp_path: Path, speedup: dict[str, float], capsys: pytest.CaptureFixture
) -> None:
    """The resumed run is, bit for bit, one that was told bf16 and never stopped."""
    auto, told = config_of(images, "auto", train__steps=4), config_of(images, "bf16", train__steps=4)
    pretrain(told, tmp_path / "told")
    capsys.readouterr()

    def stop(*_: object) -> dict[str, float]:
        raise KeyboardInterrupt

    stopping = config_of(
        images, "auto", train__steps=4, train__checkpoint_every=2, train__knn_every=2, val=str(images)
    )
    with pytest.raises(KeyboardInterrupt):
        pretrain(stopping, tmp_path / "auto", evaluate=stop)
    first = capsys.readouterr().err.splitlines()[0]
    assert "bf16 (auto: products in bf16 are 2.0 times as fast as in fp32 on this CPU) on " in first
    record = read_config(tmp_path / "auto")
    assert record["config"]["train"]["precision"] == "bf16"
    assert record["resolved"]["precision"] == "bf16"
    assert record["resolved"]["precision_asked"] == "auto"

    speedup["bf16"] = 0.5
    pretrain(auto, tmp_path / "auto")
    said = capsys.readouterr().err
    assert "bf16 (auto: as the run began) on " in said
    assert "resumed after step 2" in said
    assert (
        "train.precision auto: the run goes on in bf16, as it began; begun here it would take fp32 (products "
        "in bf16 are 0.5 times as fast as in fp32 on this CPU)"
    ) in said
    assert read_config(tmp_path / "auto")["config"]["train"]["precision"] == "bf16"
    assert weights(tmp_path / "auto") == weights(tmp_path / "told")


def test_a_resume_may_name_what_auto_chose_and_nothing_else(
    images: Path, tmp_path: Path, speedup: dict[str, float]
) -> None:
    pretrain(config_of(images, "auto"), tmp_path / "run")
    pretrain(config_of(images, "bf16"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"\(train\.precision: bf16 -> fp32\)"):
        pretrain(config_of(images, "fp32"), tmp_path / "run")
    assert speedup["bf16"] == 2.0


def test_auto_goes_on_with_a_run_of_a_named_precision(
    images: Path, tmp_path: Path, speedup: dict[str, float]
) -> None:
    """As with runs of before there was `auto`, whose default was bf16."""
    speedup["bf16"] = 0.5
    config = config_of(images, "bf16")
    prepare(tmp_path / "run", config, {"images": 4})
    settled = settle_precision(config_of(images, "auto"), HERE, tmp_path / "run")
    assert settled.config == config
    assert "the run goes on in bf16" in settled.note


def test_a_damaged_record_is_no_choice(images: Path, tmp_path: Path, speedup: dict[str, float]) -> None:
    assert speedup
    prepare(tmp_path / "run", follow_weights(config_of(images, "bf16")), {"images": 4})
    record = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    record["config"]["train"]["precision"] = "fp8"
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(ConfigError, match=r"\(train\.precision: fp8 -> bf16\)"):
        pretrain(config_of(images, "auto"), tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("a: [")
    with pytest.raises(DataError, match="cannot be read"):
        pretrain(config_of(images, "auto"), tmp_path / "run")
