"""Starting points: what each name means, and what tells them apart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import odis
from odis.backbones.published import follow_weights
from odis.config.options import load_recipe
from odis.downstream.starts import open_starts
from odis.errors import ConfigError, DataError, OdisError
from odis.train.start import build_run


def test_a_model_starts_from_its_weights_and_statistics(model, tiny):
    (start,) = open_starts([model])
    assert (start.mean, start.std, start.image_size) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.3), 32)
    assert (start.recipe, start.step, start.provenance) == ("tiny", 7, "annotated")
    expected = odis.load(model, device="cpu").model.state_dict()
    for seed in (0, 1):
        state = start.build(seed, drop_path=0.1, grad_checkpointing=True).state_dict()
        assert all(torch.equal(state[name], value) for name, value in expected.items())
    (encoder,) = open_starts([odis.load(model, device="cpu")])
    assert encoder.fingerprint == start.fingerprint
    assert replace(start, model=replace(start.model, drop_path_kind="timm")).fingerprint == start.fingerprint
    assert replace(start, model=replace(start.model, pos_resize="dino")).fingerprint != start.fingerprint
    other = tiny.save(model.with_name("other.safetensors"), seed=4)
    assert open_starts([other])[0].fingerprint != start.fingerprint


def test_random_is_the_architecture_of_the_first_other_one_drawn_by_the_seed(model):
    drawn, start = open_starts(["random", model])
    (named,) = open_starts([f"random:{model}"])
    assert drawn.fingerprint == named.fingerprint != start.fingerprint
    assert (drawn.provenance, drawn.weights, drawn.mean) == ("nothing", None, start.mean)
    one, again, other = (drawn.build(seed).blocks[0].mlp.fc1.weight for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, start.build(0).blocks[0].mlp.fc1.weight)


def test_before_is_what_a_run_began_from(tmp_path: Path, tiny):
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.new("RGB", (40, 40), (60 * i, 90, 20)).save(tmp_path / "images" / f"{i}.png")
    config = load_recipe(
        "debug", data=str(tmp_path / "images"), train__steps=2, train__batch_size=2, train__device="cpu",
        views__global_size=32, views__local_views=0, loader__workers=0, model__embed_dim=32, model__depth=1,
        model__num_heads=2, head__prototypes=24, head__hidden=24, train__seed=5,
    )  # fmt: skip
    run = odis.pretrain(config, tmp_path / "run")
    before, after = open_starts([f"before:{run}", run])
    built = build_run(follow_weights(config), tiny.one_rank()[0], images=4).student.backbone.state_dict()
    assert before.weights is not None
    assert all(torch.equal(before.weights[name], value) for name, value in built.items())
    assert before.model == after.model
    assert (before.step, after.step, before.provenance) == (0, 2, "nothing")
    assert (before.mean, before.std) == (after.mean, after.std)
    record = yaml.safe_load((run / "config.yaml").read_text())
    del record["config"]["views"]["mean"]
    (run / "config.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(DataError, match=r"config\.yaml: not the config of a run of this version \('mean'\)"):
        open_starts([f"before:{run}"])


def test_what_cannot_be_started_from_is_refused(model, tmp_path):
    for sources, message in (
        ([], "at least one starting point"),
        (["random"], "give random:SOURCE"),
        ([model, str(model)], "is given twice"),
        ([tmp_path / "gone"], "no such run folder or model file"),
        ([f"before:{tmp_path}"], "not a run folder"),
    ):
        with pytest.raises((ConfigError, DataError, OdisError), match=message) as error:
            open_starts(sources)
        assert "\n" not in str(error.value)
    bare = replace(odis.load(model, device="cpu"), card={}, source="mine")
    with pytest.raises(OdisError, match="mine: an encoder in memory"):
        open_starts([bare])


def test_a_network_that_is_no_plain_vit_is_refused(model):
    from odis.backbones.baseline import build_baseline

    encoder = replace(
        odis.load(model, device="cpu"), model=build_baseline("resnet10t", 64, None), source="timm:r"
    )
    with pytest.raises(OdisError, match="timm:r: is a timm ResNet; fine-tuning takes ViTs"):
        open_starts([encoder])
