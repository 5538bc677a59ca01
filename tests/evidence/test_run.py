"""The study end to end on few scenes: trials, cells, figures; interrupted and gone on with."""

import json
from dataclasses import replace

import pytest


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One cell of the study on 30 scenes, with the settings that are chosen from cut down to one."""
    import cell
    import grid
    import measure
    import worlds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "PROBE_STEPS", 50)
        folder = tmp_path_factory.mktemp("evidence")
        place, world = (
            cell.Place(folder / "work", folder / "results"),
            replace(worlds.worlds()["scenes"].of_size(30), candidates={"near": grid.CANDIDATES["near"]}),
        )
        cell.run_trial(place, world, "ibot", "near")
        cell.run_cell(place, world, grid.cells("core")[1], 4)
        yield place, world


def test_a_cell_writes_what_its_figures_depend_on(small):
    import measure

    place, world = small
    result = json.loads(place.result(world, "ibot", 4).read_text())
    assert (result["world"], result["cell"], result["seed"], result["candidate"]) == (
        "scenes",
        "ibot",
        4,
        "near",
    )
    assert set(result["scores"]["knn"]) == set(measure.WAYS)
    assert all(score["low"] <= score["value"] <= score["high"] for score in result["scores"]["knn"].values())
    assert {"linear", "images_map", "dense_knn"} <= set(result["scores"])
    assert result["scores"]["knn_both"] == {}  # its [CLS] is its object token
    assert result["steps"] == 2  # 5 epochs of 30 images
    assert result["images_seen"] == 2 * 64
    assert result["flops"] == pytest.approx(result["images_seen"] * result["flops_per_image"])
    assert result["config"]["objects"]["use"] is False
    assert result["config"]["train"]["seed"] == 4
    assert result["config"]["train"]["epochs"] == 5
    assert (place.work / result["run"] / "config.yaml").exists()
    assert result["config"]["data"] == "scenes/data/train.parquet"  # no path of the machine it was made on
    trial = json.loads(place.trial(world, "ibot", "near").read_text())
    assert trial["config"]["train"]["epochs"] == 2.5
    assert trial["config"]["train"]["seed"] != 4


def test_settings_are_chosen_by_images_that_are_neither_trained_nor_tested_on(small):
    import cell

    place, world = small
    parts = {
        part: {row.image for row in world.index(part, place.work)} for part in ("train", "choose", "test")
    }
    roots = {part: world.index(part, place.work).root for part in parts}
    assert len(set(roots.values())) == 3
    assert [len(images) for images in parts.values()] == [30, 30, 30]
    trial = json.loads(place.trial(world, "ibot", "near").read_text())
    values = {asked: score["value"] for asked, score in trial["scores"]["knn"].items()}
    best = max(values.values())
    two = replace(world, candidates={name: {} for name in ("near", "far")})
    for change, candidate in ((-100.0, "near"), (1.0, "far")):
        for asked, score in trial["scores"]["knn"].items():
            score["value"] = values[asked] + change
        place.trial(world, "ibot", "far").write_text(json.dumps(trial))
        chosen, asked = cell.chosen(place, two, "ibot")
        assert (chosen, values[asked]) == (candidate, best)
    with pytest.raises(FileNotFoundError):
        cell.chosen(place, two, "dino")


def test_of_one_candidate_nothing_is_tried_and_the_trained_network_says_how_to_ask(small):
    import cell
    import run as runner

    from odis.inference import load

    place, world = small
    assert cell.chosen(place, world, "dino") == ("near", "")
    assert runner.trials(place, world, ["core"], None) == []
    result = json.loads(place.result(world, "ibot", 4).read_text())
    encoder = load(place.work / result["run"], device="cpu")
    assert result["asked"] == cell.asked_best(place, world, encoder)


def test_equal_arithmetic_is_that_of_the_reference(small, monkeypatch):
    import cell
    import grid

    place, world = small
    monkeypatch.setattr(cell, "chosen", lambda *_: ("near", "crop"))
    monkeypatch.setattr(cell, "_BATCHES", 1)
    reference = cell.plan(place, world, grid.Cell("odis-single", "odis-single"), 0)
    for share in (1.0, 0.5):
        ours = cell.plan(place, world, grid.Cell("all", "odis-read-only-all", compute=share), 0)
        assert ours.flops_per_image > 1.1 * reference.flops_per_image  # more tokens a view
        arithmetic = ours.flops_per_image * ours.config.train.epochs
        assert arithmetic == pytest.approx(
            share * reference.flops_per_image * reference.config.train.epochs, rel=1e-3
        )


def test_a_slice_ends_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    import run as runner

    results = [tmp_path / f"{k}.json" for k in range(3)]
    script = tmp_path / "run.py"
    script.write_text(
        "import pathlib, sys, time\n"
        "out = pathlib.Path(sys.argv[-1])\n"
        "saved = out.with_suffix('.saved')\n"
        "if saved.exists():\n"
        "    sys.exit(out.write_text('{}') and 0)\n"
        "try:\n"
        "    out.with_suffix('.began').touch()\n"
        "    time.sleep(100)\n"
        "except KeyboardInterrupt:\n"
        "    saved.touch()\n"
        "    sys.exit(130)\n"
    )
    monkeypatch.setattr(runner, "HERE", tmp_path)
    began = [path.with_suffix(".began") for path in results[:2]]
    # The slice ends as soon as two of the three runs have begun.
    monkeypatch.setattr(
        runner.time, "monotonic", lambda: 1.0 if all(path.exists() for path in began) else 0.0
    )
    jobs = [runner.Job(path.stem, (str(path),), path) for path in results]
    assert runner.work_through(jobs, [], tmp_path / "logs", 2, 0.5) == ([], 3)
    assert [path.with_suffix(".saved").exists() for path in results] == [True, True, False]
    monkeypatch.setattr(runner.time, "monotonic", lambda: 0.0)
    assert runner.work_through(jobs[:2], [], tmp_path / "logs", 2, 0.5) == ([], 0)
    assert [path.exists() for path in results] == [True, True, False]
    assert "failed" not in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    import run as runner

    for arguments, said in (
        (
            ("--world", "moon"),
            "no world 'moon'; there are scenes, digits, scenes-context, scenes-one; photographs, -50, "
            "-wide and tiny-imagenet need --photographs; voc needs --voc",
        ),
        (("--processes", "0"), "--processes 0 must be 1 or more"),
        (("--images", "3"), "--images 3 must be 20 or more"),
        (("--study", "everything"), "invalid choice: 'everything'"),
        (("--candidates", "nearest"), "no candidate 'nearest'; there are near, middle, far"),
    ):
        monkeypatch.setattr("sys.argv", ["run.py", "--work", str(tmp_path / "work"), *arguments])
        with pytest.raises(SystemExit) as stopped:
            runner.main()
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_failing_run_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    import run as runner

    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, pathlib\n"
        "name = sys.argv[sys.argv.index('--job') + 1]\n"
        "sys.exit('broken') if name == 'bad' else pathlib.Path(name).write_text('{}')\n"
    )
    monkeypatch.setattr(runner, "HERE", tmp_path)
    jobs = [runner.Job("bad", ("bad",), bad), runner.Job("good", (str(good),), good)]
    failed, left = runner.work_through(jobs, [], tmp_path / "logs", 1, float("inf"))
    assert (failed, left) == (["bad"], 0)
    assert good.exists()
    assert "bad: failed (1), see its log" in capsys.readouterr().out
    assert "broken" in (tmp_path / "logs" / "bad.log").read_text()
    assert runner.work_through(jobs[1:], [], tmp_path / "logs", 1, float("inf")) == (
        [],
        0,
    )  # is there already
    assert capsys.readouterr().out == ""


def test_protocols_are_measured_on_photographs_beside_k_nn(small):
    """The scores that a cell of the photograph world has too, here of a cell of scenes."""
    import cell
    import measure

    from odis.inference import load

    place, world = small
    encoder = load(place.work / json.loads(place.result(world, "ibot", 4).read_text())["run"], device="cpu")
    found = measure.patches(encoder, cell.parts(place, replace(world, photographed=True), encoder))
    assert set(found) == {"dense_knn", "hummingbird", "corloc"}
    assert all(0 <= score["low"] <= score["value"] <= score["high"] <= 100 for score in found.values())


def test_a_kept_backbone_is_the_run_in_16_bits(small, tmp_path):
    import cell

    from odis.inference import load

    place, world = small
    run = place.work / json.loads(place.result(world, "ibot", 4).read_text())["run"]
    assert not place.result(world, "ibot", 4).with_suffix(".safetensors").exists()  # seed 0 alone is kept
    whole, kept = load(run, device="cpu"), tmp_path / "kept.safetensors"
    cell.keep_backbone(whole, kept)
    assert kept.stat().st_size < 0.6 * (run / "model.safetensors").stat().st_size
    again = load(kept, device="cpu")
    assert again.card == whole.card
    weights = whole.model.state_dict()
    for name, value in again.model.state_dict().items():
        assert value.dtype == weights[name].dtype
        assert (value == weights[name].half()).all()


def test_all_cells_of_a_seed_come_before_the_next_seed(tmp_path):
    import cell
    import grid
    import run as runner
    import worlds

    place, world = cell.Place(tmp_path, tmp_path), worlds.worlds()["scenes"]
    jobs = runner.runs(place, world, ["core", "headroom", "noise"], [0, 1], None)
    names = [one.name for study in ("core", "headroom", "noise") for one in grid.cells(study)]
    once = list(dict.fromkeys(names))  # the untrained network is in two of them
    assert len(once) == len(names) - 1
    assert [job.name for job in jobs] == [f"{name}-seed{seed}" for seed in (0, 1) for name in once]
    only = ["ibot", "odis-read-only-all.jitter-0.1"]
    waits = {job.arguments[1] for job in runner.trials(place, world, ["core", "noise"], only)}
    assert waits == {"ibot", "odis-read-only-all"}
    waits = {job.arguments[1] for job in runner.trials(place, world, ["headroom"], ["supervised.30k"])}
    assert not waits


def test_an_adopted_run_has_the_scores_of_its_cell(small, tmp_path, monkeypatch, capsys):
    import adopt

    place, world = small
    was = json.loads(place.result(world, "ibot", 4).read_text())
    monkeypatch.setattr(adopt, "worlds", lambda roots: {"scenes": world})
    arguments = ["adopt.py", str(place.work / was["run"]), "--world", "scenes", "--seed", "4"]
    arguments += ["--work", str(place.work), "--results", str(tmp_path), "--measures", "objects"]
    monkeypatch.setattr("sys.argv", [*arguments, "--cell", "ibot"])
    adopt.main()
    now = json.loads((tmp_path / "scenes" / "ibot-seed4.json").read_text())
    assert now["adopted"] is True
    assert now["scores"] == {name: was["scores"][name] for name in ("knn", "knn_both")}
    assert (now["steps"], now["images_seen"], now["meters"]) == (
        was["steps"],
        was["images_seen"],
        was["meters"],
    )
    assert now["config"]["data"] == "train.parquet"
    assert now["asked"] in now["scores"]["knn"]
    monkeypatch.setattr("sys.argv", [*arguments, "--cell", "ibots"])
    with pytest.raises(SystemExit):
        adopt.main()
    assert "no cell 'ibots' in grid.py" in capsys.readouterr().err
