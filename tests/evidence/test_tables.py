"""Tables are the cells' JSON, and the projection of a study's cost is its arithmetic."""

import json

import pytest

SHARED = {
    "world": "small",
    "device": "a core",
    "precision": "fp32",
    "batch": 8,
    "candidate": "middle",
    "images_a_run": 7200,
}


def _written(folder, methods):
    folder.mkdir()
    (folder / "cost.json").write_text(json.dumps({**SHARED, "methods": methods}))


def test_the_cost_of_a_run_is_images_over_their_rate_and_arithmetic_over_that_of_a_gpu(tmp_path):
    import tables
    from figures import Results

    _written(
        tmp_path / "small", {"ibot": {"images_per_second": 2.0, "gflop_per_image": 500.0, "peak_gib": 1.5}}
    )
    table = tables.cost(Results.read(tmp_path / "small"))
    row = next(line for line in table.splitlines() if line.startswith("| `ibot`")).split("|")
    assert [cell.strip() for cell in row[2:-1]] == [
        "500.000",
        "2.0",
        "1.50",
        "7,200",
        "1.00",
        "0.01",
    ]  # 3.6e15 FLOP at 1e14 a second
    assert "a core, fp32, batches of 8; settings: middle" in table


def test_a_world_of_which_nothing_was_measured_has_no_figures(tmp_path):
    import tables

    assert tables.made("cost nowhere", {}) == "*Not run yet.*\n"
    assert tables.made("core nowhere", {}) == "*Not run yet.*\n"
    with pytest.raises(ValueError, match="no block 'costs scenes'"):
        tables.made("costs scenes", {})


def test_methods_are_measured_side_by_side(tmp_path, monkeypatch, capsys):
    import cost

    work, results = tmp_path / "work", tmp_path / "results"
    monkeypatch.setattr(
        "sys.argv", ["cost.py", "--work", str(work), "--results", str(results), "--methods", "ibot"]
    )
    monkeypatch.setattr("worlds.World.index", _small_index)
    with pytest.raises(SystemExit):
        cost.main()
    assert "choose settings first (run.py), or give --candidate" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", _argv(work, results))
    cost.main()
    written = json.loads((results / "scenes" / "cost.json").read_text())
    assert (written["batch"], written["images_a_run"], written["candidate"]) == (4, 5 * 24, "near")
    assert set(written["methods"]) == {"ibot", "odis-read-only-1"}
    assert all(row["images_per_second"] > 0 and row["peak_gib"] > 0 for row in written["methods"].values())
    # The same patches, and tokens besides.
    assert (
        written["methods"]["odis-read-only-1"]["gflop_per_image"]
        > written["methods"]["ibot"]["gflop_per_image"]
        > 0
    )


def _argv(work, results):
    found = [
        "cost.py",
        "--work",
        str(work),
        "--results",
        str(results),
        "--rounds",
        "1",
        "--batch",
        "4",
        "--candidate",
        "near",
    ]
    return [*found, "--methods", "ibot", "odis-read-only-1"]


def _small_index(self, part, work):
    from odis.objects.index import ObjectIndex
    from odis.objects.scenes.write import write_scenes

    path = work / "train.parquet"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        write_scenes(work / "train", path, count=24, split="train", seed=0)
    return ObjectIndex.open(path)


def test_a_cell_is_compared_with_what_it_differs_from(tmp_path):
    import tables
    from figures import Results

    def result(accuracy):
        value = {"value": accuracy}
        scores = {"knn": {"crop": value}, "linear": value, "images_map": value, "dense_knn": value}
        return {0: {"asked": "crop", "flops": 1.0, "scores": scores}}

    accuracies = {
        "ibot": 10.0,
        "ibot.longer": 13.0,
        "odis-single": 20.0,
        "odis-read-only-all": 30.0,
        "ibot.compute": 14.0,
        "odis-beside": 23.0,
        "odis-read-only-all.sees-cls": 31.0,
    }
    found = Results("small", {name: result(accuracy) for name, accuracy in accuracies.items()})
    assert "| `ibot` 10.0 | +3.0 |" in tables.study(found, "longer")
    assert "| `odis-single` 20.0 | -6.0 |" in tables.study(found, "compute")
    digits = tables.study(found, "authors-digits")
    assert "| `odis-single` 20.0 | +3.0 |" in digits  # not `odis-beside` with itself
    assert "| `odis-read-only-all` 30.0 | +1.0 |" in digits


def test_choices_on_digits_are_shown_in_every_way_to_ask_beside_what_they_are_on_top_of():
    import tables
    from figures import Results
    from measure import WAYS

    def asked(first):
        return {0: {"scores": {"knn": {way: {"value": first + k} for k, way in enumerate(WAYS)}}}}

    names = ["odis-read-only-all.sees-cls", "authors", "odis-single", "dino"]
    cells = {name: asked(10.0 * (1 + number)) for number, name in enumerate(names)}
    lines = tables.BLOCKS["modes-authors"](Results("small", cells)).splitlines()
    assert lines[0] == f"| method | {' | '.join(WAYS)} |"
    assert [line.split("`")[1] for line in lines[2:]] == [names[2], names[1], names[0]]
    assert lines[2].endswith("| 30.0 | 31.0 | 32.0 | 33.0 | 34.0 | 35.0 | 36.0 | 37.0 |")


def test_protocols_have_columns_where_every_cell_was_measured_by_them():
    import tables
    from figures import Results

    def cells(*more):
        value = {"value": 10.0}
        scores = {"knn": {"crop": value}, "linear": value, "images_map": value, "dense_knn": value}
        scores |= {name: {"value": 42.0} for name in more}
        one = {"asked": "crop", "candidate": "near", "flops_per_image": 1e9, "scores": scores}
        return {0: one}

    everywhere = Results("small", {n: cells("hummingbird", "corloc") for n in ("ibot", "odis-single")})
    somewhere = Results("small", {"ibot": cells("hummingbird", "corloc"), "odis-single": cells("corloc")})
    assert "| Hummingbird | CorLoc |" in tables.core(everywhere)
    assert "| 42.0 | 42.0 |" in tables.core(everywhere)
    assert "| Hummingbird |" not in tables.core(somewhere)
    assert "| CorLoc |" in tables.core(somewhere)


def test_every_claim_has_one_verdict():
    import tables
    from claims import CLAIMS
    from figures import Results

    def result(accuracy):
        value = {"value": accuracy}
        return {
            "asked": "crop",
            "scores": {"knn": dict.fromkeys(("crop", "masked-attention", "blackout", "whole-image"), value)},
        }

    cells = {
        "odis-single": {seed: result(50.0 + seed) for seed in range(3)},
        "ibot": {seed: result(40.0 + seed) for seed in range(3)},
    }
    cells["crop-only"] = {0: result(60.0)}
    said = tables.short(Results("small", cells))
    assert "- **Held**: the object as the unit beats the image." in said
    assert "- **One seed, not decided**: crops alone bring most of the gain; masks add to crops." in said
    assert sum(said.count(claim.says) for claim in CLAIMS) == len(CLAIMS)
