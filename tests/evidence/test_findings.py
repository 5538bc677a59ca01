"""What is measured of trained networks, on networks and data of which the answer is known."""

import copy
import json
import math

import pytest
import torch


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run on scenes of digits, of read-only tokens, and its indexes."""
    import findings
    import worlds

    from odis.config.options import load_recipe
    from odis.train.loop import pretrain

    folder = tmp_path_factory.mktemp("findings")
    world = worlds.worlds()["scenes"].of_size(24)
    train, test = world.index("train", folder), world.index("test", folder)
    small = {
        "model.embed_dim": 32,
        "model.depth": 2,
        "model.num_heads": 2,
        "model.object_tokens": "read-only",
    }
    small |= {"train.batch_size": 8, "train.steps": 4, "train.log_every": 1, "head.prototypes": 64}
    small |= {"head.hidden": 32, "head.bottleneck": 16}
    options = {name.replace(".", "__"): value for name, value in small.items()}
    pretrain(load_recipe(str(world.base), data=train.path, **options), folder / "run", recipe="tiny")
    return findings.Trained.open(folder / "run", "tiny"), train, test


@pytest.fixture
def asked(trained, monkeypatch):
    import findings

    monkeypatch.setattr(findings, "AREA", (0.0, 1.0))
    run, _, test = trained
    return findings.windows(run.encoder, test, 6)


def test_a_network_without_preference_attends_by_area(trained, asked, monkeypatch):
    import findings

    run, _, _ = trained

    def even(model, images, masks, layer):
        return torch.full((len(images), 1, 2, masks.shape[-1]), 0.5 / masks.shape[-1])

    monkeypatch.setattr(findings, "object_attention_maps", even)
    assert findings.attention(run, asked)["lift"] == pytest.approx([1.0, 1.0], rel=1e-5)

    def inside(model, images, masks, layer):
        return asked.masks[:, :, None].float() / 7

    monkeypatch.setattr(findings, "object_attention_maps", inside)
    share = asked.masks.float().mean(dim=(1, 2))
    expected = (1 / share).mean().item()
    assert findings.attention(run, asked)["lift"] == pytest.approx([expected, expected], rel=1e-5)


def test_a_leak_is_nothing_for_the_object_alone_and_all_for_the_surroundings(trained, asked, monkeypatch):
    import findings

    run, _, _ = trained
    rows = asked.pixels.shape[-1] // run.encoder.patch_size
    grids = asked.masks.reshape(-1, 1, rows, rows)
    pixel = grids.repeat_interleave(run.encoder.patch_size, 2).repeat_interleave(run.encoder.patch_size, 3)

    def of(where):
        return lambda run, pixels, masks: (pixels.float() * where).flatten(1)

    monkeypatch.setattr(findings, "_objects", of(pixel))
    assert findings.leak(run, asked)["masked"] == pytest.approx(0, abs=1e-5)
    monkeypatch.setattr(findings, "_objects", of(~pixel))
    assert findings.leak(run, asked)["masked"] > 0.3


def test_targets_are_those_of_the_teacher(trained):
    import findings

    run, train, _ = trained
    found = findings.targets(run, train)
    for way in ("masked", "unmasked"):
        assert 0 < found[way]["entropy"] <= found[way]["entropy_of_mean"] <= math.log(64) + 1e-4
        assert 0 <= found[way]["agreement"] <= 100
    assert found["masked"]["objects"] == found["unmasked"]["objects"] > 0
    assert found["masked"] != found["unmasked"]


def test_a_loss_stops_where_a_twentieth_of_its_fall_is_left(trained, tmp_path):
    from dataclasses import replace

    import findings

    run, _, _ = trained
    assert [line["loss_object"] for line in lines(run.folder)]
    losses = [6.0 - 0.01 * min(step, 200) for step in range(1, 401)]
    text = [json.dumps({"step": step, "loss_object": loss}) for step, loss in enumerate(losses, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(text))
    found = findings.loss_curve(replace(run, folder=tmp_path))
    assert found["seen"] == 400 * 8
    assert found["fall"] == pytest.approx(2.0, abs=0.15)  # both ends are means
    assert found["stopped_at"] / 8 == pytest.approx(190, abs=6)
    assert found["log_k"] == pytest.approx(math.log(64))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_twice_the_patches_across_a_view_are_four_times_those_of_an_object(trained, monkeypatch):
    import findings

    run, train, _ = trained
    monkeypatch.setattr(findings, "GEOMETRIES", {"few": (8, 256), "many": (4, 256)})
    config = copy.deepcopy(run.config)
    config.views.global_scale = (0.3, 0.8)
    found = findings.patch_counts(config, train)
    assert (found["few"]["patches_a_view"], found["many"]["patches_a_view"]) == (1024, 4096)
    few, many = (sum(found[name]["counts"]) for name in ("few", "many"))
    assert 3.2 < many / few < 4.8  # patches at the edge of an object are the difference to 4
    assert 0 <= found["many"]["all_hidden"] <= found["few"]["all_hidden"] + 20


def test_one_command_writes_figures_pictures_and_tables(trained, tmp_path, monkeypatch):
    import findings
    import tables
    from figures import Results

    run, train, test = trained
    out = tmp_path / "voc" / "findings.json"
    monkeypatch.setattr(findings, "AREA", (0.0, 1.0))
    monkeypatch.setattr(
        "sys.argv",
        [
            *("findings.py", str(run.folder), "--names", "tiny", "--train", train.path, "--test", test.path),
            *("--out", str(out), "--plots", str(tmp_path / "plots")),
        ],
    )
    findings.main()
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"finding-attention.png", "finding-loss.png", "finding-patches.png"}
    assert json.loads(out.read_text())["runs"]["tiny"]["config"]["data"] == "train.parquet"  # no path
    everything = {"voc": Results.read(tmp_path / "voc")}
    for block in ("looks", "object-loss", "leak", "targets"):
        assert "| `tiny` |" in tables.made(f"{block} voc", everything)
    assert "(recipes) | 196 |" in tables.made("patch-counts voc", everything)
    assert tables.made("looks-picture voc", {}) == "*Not run yet.*\n"
    monkeypatch.setattr(
        "sys.argv",
        ["findings.py", str(tmp_path), "--train", train.path, "--test", test.path, "--out", str(out)],
    )
    with pytest.raises(SystemExit, match=r"config\.yaml"):
        findings.main()
