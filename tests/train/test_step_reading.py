"""A training step reads in six files: what runs in one is traced."""

import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import odis
from odis.config import PretrainConfig
from odis.data.loader import make_loader
from odis.model.pair import build_pair
from odis.objects.index import ObjectIndex, write_index
from odis.options import load_recipe
from odis.train.distributed import Ranks
from odis.train.optim import build_optimizer
from odis.train.schedules import Schedules
from odis.train.step import Centres, Question, Run, StudentPass, train_step
from odis.types import ImageObjects, Object

READ = {"train/step", "model/pair", "model/vit", "model/attention", "model/heads", "losses"}
# Linear layers, values, AdamW, meters, sums over ranks, shapes.
LEAVES = {"model/linear", "train/schedules", "train/optim", "train/metrics", "ranks", "config", "types"}


def a_run(config: PretrainConfig) -> Run:
    student, teacher = build_pair(config)
    question = Question.of(config)
    return Run(
        config, Ranks(0, 1, torch.device("cpu")), question, student, teacher, StudentPass(student, question),
        Centres(config.head.prototypes, config.loss.centre_momentum), optimizer=build_optimizer(student, config.optim),
        scaler=torch.amp.GradScaler("cpu", enabled=False), schedules=Schedules(config, 100), step=5,
    )  # fmt: skip


@pytest.mark.parametrize("tokens", ["single", "read-only"])
def test_a_step_reads_in_six_files(tmp_path: Path, tokens: str) -> None:
    """What runs between a batch and new weights stands in the six files that the README names, and in leaves that need no reading."""
    data = tmp_path / "index.parquet"
    Image.new("RGB", (40, 32)).save(tmp_path / "a.png")
    write_index(data, [ImageObjects("a.png", 40, 32, (Object((4, 4, 30, 28)),))], root=tmp_path, provenance="annotated", classes=[])
    config = load_recipe(
        "debug", data=str(data), model__object_tokens=tokens, model__embed_dim=24, loss__image_weight=1.0, loss__koleo_weight=0.1,
        loss__centring="sinkhorn", head__norm="batch", train__batch_size=2, loader__workers=0,
    )  # fmt: skip
    batches = list(make_loader(ObjectIndex.open(config.data), config, patch_size=8, start_step=0, steps=1))
    run = a_run(config)
    before = {name: value.clone() for name, value in run.teacher.state_dict().items()}
    root, ran = Path(odis.__file__).parent, set()

    def note(frame, event, arg):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(root):
            ran.add(path.relative_to(root).with_suffix("").as_posix())

    sys.setprofile(note)
    try:
        train_step(run, batches, meters=True)
    finally:
        sys.setprofile(None)
    assert any(not torch.equal(before[name], value) for name, value in run.teacher.state_dict().items())
    assert ran >= READ
    assert ran <= READ | LEAVES


def test_the_readme_names_these_files() -> None:
    readme = " ".join((Path(__file__).parents[2] / "README.md").read_text().split())
    named = re.search(r"reads in six files: (.*?)\. ", readme)
    assert named is not None
    assert {name.removesuffix(".py") for name in re.findall(r"`([^`]+)`", named[1])} == READ
