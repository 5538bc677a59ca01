"""The study of post-training end to end on few scenes, and its tables from figures that are known."""

import json
from dataclasses import replace

import pytest


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A public network of scenes of one digit, and a target of scenes of several; two steps of each run."""
    import cell
    import measure
    import post
    import post_grid
    import worlds

    folder = tmp_path_factory.mktemp("post")
    place = cell.Place(folder / "work", folder / "results")
    tiny = worlds.worlds()["scenes-one"].of_size(24)
    tiny = replace(tiny, candidates={post_grid.PUBLIC.name: {}}, shrunk=1.0)
    many = worlds.worlds()["scenes"].of_size(24)
    world = replace(
        many, candidates={name: {"optim.base_lr": r} for name, r in post_grid.RATES.items()}, shrunk=1.0
    )
    target = post_grid.Target(world, "knn", {"read-only": ("decay-anchor",)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(post, "PUBLIC", replace(post_grid.PUBLIC, images=64))
        patch.setattr(post_grid, "LENGTH", 128)
        patch.setattr(post, "TRIAL", 64)
        patch.setattr(post, "ASKED", ("crop", "masked-attention"))
        patch.setattr(post, "MEASURED", ("crop", "masked-attention", measure.NARROW[0]))
        post.run_public(place, tiny)
        yield place, target, tiny


def test_a_cell_starts_from_the_public_network_and_is_measured_on_both(small):
    import post

    place, target, tiny = small
    made = json.loads(post.public_result(place).read_text())
    assert (made["cell"], made["images_seen"]) == ("public", 64)
    assert made["config"]["objects"]["use"] is False
    post.run_trial(place, target, "read-only", "rate-1-4")
    trial = json.loads(post.trial_result(place, target, "read-only", "rate-1-4").read_text())
    assert set(trial["scores"]) == {"knn"}
    assert trial["config"]["train"]["seed"] == 1000
    only = replace(
        target, world=replace(target.world, candidates={"rate-1-4": target.world.candidates["rate-1-4"]})
    )
    cells = {cell.name: cell for cell, _ in only.cells()}
    post.run_cell(place, only, tiny, cells["read-only.decay-anchor"], 2)
    found = json.loads((place.results / "post-scenes" / "read-only.decay-anchor-seed2.json").read_text())
    assert (found["candidate"], found["seed"], found["images_seen"]) == ("rate-1-4", 2, 128)
    config = found["config"]
    assert config["model"]["weights"] == "public-seed0.safetensors"
    assert str(place.work.parent) not in json.dumps(found)  # no path of the machine it was made on
    assert config["model"]["object_tokens"] == "read-only"
    assert (config["optim"]["base_lr"], config["optim"]["layer_decay"]) == (2.0e-3, 0.9)
    assert config["loss"]["gram_weight"] == 2.0
    assert set(found["scores"]) == {"knn", "dense_knn", "known"}
    assert set(found["scores"]["knn"]) == {"crop", "masked-attention", "masked-attention, whole patches"}
    post.run_start(place, target, tiny)
    start = json.loads((place.results / "post-scenes" / "public-seed0.json").read_text())
    assert start["images_seen"] == 0
    # The public network itself, but for its weights in 16 bits.
    assert start["scores"]["known"]["value"] == pytest.approx(made["scores"]["known"]["value"], abs=9)


def test_the_rate_and_the_way_to_ask_are_the_best_on_held_out_images(small, tmp_path):
    import post
    from cell import Place

    _, target, _ = small
    place = Place(tmp_path, tmp_path)
    scores = {"rate-1": (20.0, 31.0), "rate-1-4": (33.0, 30.0), "rate-1-16": (33.0, 32.0)}
    with pytest.raises(FileNotFoundError):
        post.chosen(place, target, "ibot")
    for candidate, (crop, masked) in scores.items():
        path = post.trial_result(place, target, "ibot", candidate)
        path.parent.mkdir(parents=True, exist_ok=True)
        knn = {"crop": {"value": crop}, "masked-attention": {"value": masked}}
        path.write_text(json.dumps({"scores": {"knn": knn}}))
    assert post.chosen(place, target, "ibot") == ("rate-1-4", "crop")


def test_what_is_done_is_not_done_again_and_stages_wait_for_each_other(tmp_path, monkeypatch, capsys):
    import post
    from cell import Place
    from worlds import Roots

    target = post.targets(Roots(nuclei=tmp_path))["nuclei"]
    place = Place(tmp_path / "work", tmp_path / "results")
    trials, cells = post.trials_of(place, target), post.cells_of(place, target)
    assert len(trials) == 9
    assert [job.name.split(".", 1)[1] for job in cells] == [
        "public", "ibot-seed0", "read-only-seed0", "beside-seed0", "read-only.whole-patches-seed0",
        "read-only.decay-seed0", "read-only.anchor-seed0", "read-only.decay-anchor-seed0", "ibot-seed1",
        "read-only-seed1", "beside-seed1", "read-only.whole-patches-seed1", "ibot-seed2", "read-only-seed2",
        "beside-seed2", "read-only.whole-patches-seed2",
    ]  # fmt: skip
    ran = []

    def work_through(jobs, base, logs, processes, end, script):
        assert script == "post.py"
        for job in jobs:
            if not job.result.exists():
                ran.append(job.name)
                job.result.parent.mkdir(parents=True, exist_ok=True)
                job.result.write_text("{}")
        return ([jobs[3].name], 0) if len(jobs) == 9 else ([], 0)

    class Nothing:
        name = "tiny"

        def index(self, part, work):
            return None

    monkeypatch.setattr(post, "work_through", work_through)
    monkeypatch.setattr(post, "known", lambda roots: Nothing())
    monkeypatch.setattr(
        post, "targets", lambda roots: {"nuclei": replace(target, world=replace(target.world))}
    )
    monkeypatch.setattr("worlds.World.index", lambda self, part, work: None)
    arguments = ["post.py", "--photographs", "p", "--nuclei", "n", "--work", str(place.work)]
    monkeypatch.setattr("sys.argv", [*arguments, "--results", str(place.results)])
    with pytest.raises(SystemExit, match=f"failed: {trials[3].name}"):
        post.main()
    assert ran == ["public", *(job.name for job in trials)]  # cells wait for the trials
    assert "16 runs are left; the same command goes on" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*arguments, "--targets", "moon"])
    with pytest.raises(SystemExit):
        post.main()
    assert "no target 'moon'; the folders that are given make nuclei" in capsys.readouterr().err


def test_the_parts_of_the_nuclei_have_no_image_in_common(tmp_path):
    import post_grid
    from PIL import Image

    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    images = [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 8} for i in range(9)]
    for image in images:
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / image["file_name"])
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
        for i in range(9)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "nucleus"}]}
    (tmp_path / "annotations" / "instances.json").write_text(json.dumps(content))
    world = post_grid.targets(post_grid.Roots(nuclei=tmp_path))["nuclei"].world
    world = replace(world, write=post_grid.divided(tmp_path, (4, 2, 3)), train=4, choose=2, test=3)
    parts = [{row.image for row in world.index(part, tmp_path)} for part in ("train", "choose", "test")]
    assert [len(part) for part in parts] == [4, 2, 3]
    assert len(set.union(*parts)) == 9


def test_tables_are_the_cells_figures():
    import post_tables
    from figures import Results

    def cell(knn, dense, known, **more):
        asked = {"crop": {"value": knn}, "masked-attention": {"value": 0.0}}
        scores = {"knn": asked, "dense_knn": {"value": dense}, "known": {"value": known}}
        return {"asked": "crop", "candidate": "rate-1", "scores": scores, **more}

    results = Results("post-voc")
    results.cells = {
        "public": {0: cell(30.0, 10.0, 40.0)},
        "ibot": {k: cell(32.0 + k, 11.0, 39.0) for k in range(3)},
        "read-only": {k: cell(37.0 + k + k % 2 / 10, 12.0, 39.5 + k / 10) for k in range(3)},
        "read-only.anchor": {0: cell(36.0, 12.5, 40.0)},
    }
    lines = {line.split("|")[1].strip(): line for line in post_tables.scores(results).splitlines()[2:]}
    assert "| 30.0 | - | 10.0 | - | 40.0 | - |" in lines["`public`"]
    assert "| 38.0 ± 2.5 | +8.0 ± 2.5 | 12.0 ± 0.0 | +2.0 ± 0.0 |" in lines["`read-only`"]
    assert "| `read-only.anchor` | 1 | rate-1 | crop | 36.0 | +6.0 |" in lines["`read-only.anchor`"]
    said = {
        line.split("|")[1].strip(): line.split("|")[4].strip()
        for line in post_tables.claims(results).splitlines()
    }
    assert said["read-only is above ibot, by crop"] == "held"
    assert said["read-only.whole-patches is above read-only, by crop"] == "not run"
    ways = post_tables.asked(results).splitlines()
    assert "| `read-only` | 3 | 38.0 ± 2.5 | +8.0 ± 2.5 | 0.0 ± 0.0 |" in ways[4]
    assert said["objects (read-only) beat continued iBOT by 3 points"] == "held"
    assert said["read-only loses at most 1 point of what was known"] == "held"
    assert said["objects (beside) beat the public network"] == "not run"
    assert said["anchor keeps more of what was known (read-only)"] == "one seed, not decided"
    for table in post_tables.BLOCKS.values():
        assert table(Results("post-nuclei")) == "*Not run yet.*\n"
