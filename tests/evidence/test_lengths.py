"""Tables of runs of several lengths, against numbers that were put in."""

import json

import pytest


def result(value, asked="crop", half=1.0):
    def score(v):
        return {"value": v, "low": v - half, "high": v + half}

    import measure

    return {
        "asked": asked,
        "candidate": "near",
        "flops_per_image": 1e8,
        "flops": 1e12,
        "scores": {
            "knn": {way: score(value if way == asked else value / 2) for way in measure.ASKED},
            **{name: score(value + 1) for name in ("linear", "images_map", "dense_knn", "hummingbird")},
            "corloc": score(5.0),
        },
    }


@pytest.fixture
def results():
    from figures import Results

    cells = {
        "untrained": {0: result(20.0)},
        "supervised.100k": {0: result(60.0)},
        "ibot.30k": {0: result(25.0)},
        "ibot.100k": {seed: result(30.0 + seed) for seed in range(3)},
        "odis-read-only-all.100k": {seed: result(35.0 + seed) for seed in range(3)},
        "crop-only.100k": {0: result(33.0)},
        "odis-single.100k": {0: result(32.0)},
        "odis-single.classes.100k": {0: result(34.0)},
        "ibot.16-64.100k": {0: result(28.0)},
        "odis-read-only-all.16-64.100k": {0: result(27.0)},
    }
    return Results("voc", cells)


def line(table, start):
    return next(row for row in table.splitlines() if row.startswith(start))


def test_a_curve_has_each_length_and_its_share_of_the_headroom(results):
    import lengths

    table = lengths.curves(results)
    assert line(table, "| `ibot`") == "| `ibot` | crop | 25.0 | 12 | 31.0 ± 2.5 | 28 | - | - |"  # 5, 11 of 40
    assert line(table, "| `supervised`") == "| `supervised` | crop | - | - | 60.0 | 100 | - | - |"
    assert "dino" not in table


def test_what_was_not_measured_is_a_dash_and_adopted_runs_have_a_star(results):
    import lengths

    adopted = result(26.0) | {"adopted": True}
    adopted["scores"] = {"knn": adopted["scores"]["knn"]}
    results.cells["dino.30k"] = {0: adopted}
    row = line(lengths.everything(results), "| `dino.30k` *")
    assert row == f"| `dino.30k` * | 1 | 26.0 | 26.0 | 13.0 | 13.0 |{' - |' * 8} 0.100 |"
    del adopted["flops_per_image"]  # of networks that were trained with labels it is not counted
    assert line(lengths.everything(results), "| `dino.30k` *").endswith("| - | - |")
    assert line(lengths.curves(results), "| `dino` *").startswith("| `dino` * | crop | 26.0 | 15 | - |")


def test_a_share_needs_both_ends(results):
    import lengths
    from figures import knn

    del results.cells["supervised.100k"]
    assert lengths.share(results, "ibot.100k", knn()) == "-"
    results.cells["supervised.30k"] = {0: result(10.0)}  # below the untrained one: there is no headroom
    assert lengths.share(results, "ibot.100k", knn()) == "-"


def test_a_world_decides_by_measures_with_headroom_of_ten_intervals(results):
    """The interval of three seeds of step 1 is 4.303 / sqrt(3) = 2.48, of which 40 points are 16."""
    import lengths

    table = lengths.headroom(results)
    assert line(table, "| object k-NN") == (
        "| object k-NN | 20.0 | 60.0 | `supervised.100k` | +40.0 | ± 2.5 over seeds | 16.1 | yes |"
    )
    assert line(table, "| by masked attention |").endswith("| +20.0 | ± 1.2 over seeds | 16.1 | yes |")
    # Of the measures whose scores are the same for all seeds, the interval is that over test images.
    assert line(table, "| CorLoc").endswith("| +0.0 | ± 1.0 over test images | 0.0 | no |")
    said = lengths.decides(results)
    assert "object k-NN" in said.split(". Of less")[0]
    assert "CorLoc" in said.split(". Of less")[1]
    for name in list(results.cells):
        results.cells[name] = {0: results.cells[name][0]}
    assert "| ± 1.0 over test images | 40.0 | yes |" in line(lengths.headroom(results), "| object k-NN")
    assert lengths.decides(results.at("300k")) == "*Not run yet.*\n"


def test_headroom_is_up_to_the_better_of_the_networks_trained_with_labels(results):
    """By masks, the one that has read its objects by masks; each at its longest."""
    import lengths

    results.cells["supervised-masks.30k"] = {0: result(90.0, asked="masked-attention")}
    results.cells["supervised-masks.100k"] = {0: result(50.0, asked="masked-attention")}
    table = lengths.headroom(results)
    masked = line(table, "| by masked attention |")
    assert masked.startswith("| by masked attention | 10.0 | 50.0 | `supervised-masks.100k` | +40.0 |")
    assert line(table, "| by crop |").startswith("| by crop | 20.0 | 60.0 | `supervised.100k` | +40.0 |")
    assert lengths.share(results, "ibot.30k", lengths.MEASURES["by masked attention"]) == "6"  # 2.5 of 40
    assert "| `supervised-masks` | masked-attention | 90.0 |" in lengths.curves(results)
    results.cells["supervised-masks.100k"][1] = result(20.0, asked="masked-attention")  # that learned nothing
    assert line(lengths.headroom(results), "| by masked attention |").startswith(
        "| by masked attention | 10.0 | 50.0 | `supervised-masks.100k` | +40.0 |"
    )


def test_patches_across_an_object_are_ordered_and_compared(results):
    import lengths

    assert lengths.by_patches() == ["16-64", "12-96", "8-64", "8-96"]
    table = lengths.patches(results)
    assert line(table, "| 4 x 4 | 16 | 64 | crop |").endswith("| - | 28.0 | 27.0 | - | - | -1.0 | - |")
    assert line(table, "| 8 x 8 | 8 | 64 | crop |").endswith("| +5.0 ± 0.0 | +2.0 |")
    assert "12 x 12" not in table


def test_choices_one_by_one_are_against_the_reference_of_their_length(results):
    import lengths

    assert line(lengths.one_by_one(results), "| `odis-single.classes.100k`").startswith(
        "| `odis-single.classes.100k` | 1 | 34.0 | +2.0 |"
    )


def test_masks_of_another_width_are_against_read_only_tokens_of_the_same_length(results):
    import lengths

    results.cells["odis-read-only-all.whole-patches.100k"] = {0: result(39.0)}
    row = line(lengths.trained_widths(results), "| `odis-read-only-all.whole-patches.100k`")
    assert row.startswith("| `odis-read-only-all.whole-patches.100k` | 1 | 39.0 | +4.0 | 19.5 | +2.0 |")
    assert row.endswith("| 40.0 | +4.0 |")


def test_methods_are_against_each_other_in_every_way_to_ask(results):
    import tables

    at = {seed: result(39.0 + 2 * seed, asked="masked-attention") for seed in range(2)}
    at[1]["scores"]["knn"]["masked-attention, whole patches"] = {"value": 44.0}
    results.cells["odis-read-only-all.whole-patches.100k"] = at
    results.cells["ibot.100k"][1]["scores"]["knn"]["masked-attention, whole patches"] = {"value": 40.0}
    table = tables.made("against voc 100k", {"voc": results})
    pairs = table.splitlines()[0]
    assert (
        "whole-patches - ibot | odis-read-only-all.whole-patches - crop-only | odis-read-only-all - ibot"
        in pairs
    )
    row = line(table, "| crop |").split("|")[2:4]  # 19.5, 20.5 against 30, 31; and 19.5 against 33
    assert row == [" -10.5 ", " -13.5 "]
    assert line(table, "| masked-attention, whole patches |").split("|")[2:4] == [" +4.0 ", " - "]
    assert line(table, "| linear probe |").split("|")[2] == " +9.5 "  # 9 and 10
    assert "whole-patches" not in tables.made("against voc 30k", {"voc": results})


def test_ibot_at_its_own_rate_is_against_ibot_at_that_of_all(results):
    import lengths

    results.cells["ibot.fast.100k"] = {0: result(29.0)}
    assert line(lengths.rates(results), "| `ibot.fast.100k`").startswith(
        "| `ibot.fast.100k` | 1 | 29.0 | -1.0 |"
    )


def test_blocks_may_name_a_length(results):
    import tables

    claims = tables.made("claims voc 100k", {"voc": results})
    assert "| `odis-single - ibot` | +2.0 | one seed, not decided |" in claims
    assert "`crop-only`" not in tables.made("core voc 30k", {"voc": results})
    assert "| `untrained` |" in tables.made("core voc 30k", {"voc": results})
    with pytest.raises(ValueError, match="lengths are 30k, 100k, 300k"):
        tables.made("core voc 20k", {"voc": results})


def test_what_was_measured_on_other_data_has_a_table_each(tmp_path):
    import measure
    import tables
    from figures import Results

    one = {"value": 40.0, "low": 38.0, "high": 42.0}
    row = {"cell": "ibot.100k", "asked": "crop", "scores": {"knn": dict.fromkeys(measure.ASKED, one)}}
    found = {"name": "coco617", "test": {"images": 210, "objects": 1700}, "rows": {"ibot.100k-seed0": row}}
    (tmp_path / "voc" / "on").mkdir(parents=True)
    (tmp_path / "voc" / "on" / "coco617.json").write_text(json.dumps(found))
    said = tables.made("transfer voc", {"voc": Results.read(tmp_path / "voc")})
    assert said.startswith("On `coco617` (210 images, 1700 objects):")
    assert "| `ibot.100k-seed0` | crop | 40.0 ± 2.0 |" in said
    assert tables.made("transfer voc", {}) == "*Not run yet.*\n"


def test_readouts_are_of_networks_that_have_both_tokens(results):
    import lengths

    score = {"masked-attention": {"value": 20.0}}
    results.cells["odis-read-only-all.100k"] = {0: result(36.0)}
    results.cells["odis-read-only-all.100k"][0]["scores"]["knn_both"] = score
    table = lengths.readouts(results)
    assert table.splitlines()[2:] == ["| `odis-read-only-all.100k` | masked-attention | 18.0 | 20.0 | +2.0 |"]


def test_first_runs_are_sorted_by_length_with_intervals_over_test_images(tmp_path):
    import tables
    from figures import Results

    one = {"value": 16.7, "low": 15.8, "high": 17.6}
    (tmp_path / "voc" / "first").mkdir(parents=True)
    for name, seen in (("ibot", 99968), ("untrained", 0)):
        run = {"name": name, "images_seen": seen, "scores": dict.fromkeys(("crop", "masked", "window"), one)}
        (tmp_path / "voc" / "first" / f"{name}.json").write_text(json.dumps(run))
    said = tables.made("first-runs voc", {"voc": Results.read(tmp_path / "voc")}).splitlines()
    shown = "16.7 ± 0.9 | 16.7 ± 0.9 | 16.7 ± 0.9 |"
    assert said[2:] == [f"| `untrained` | 0 | {shown}", f"| `ibot` | 99,968 | {shown}"]


def test_plots_are_drawn_of_what_was_run(results, tmp_path):
    from plots import draw

    drawn = [path.name for path in draw(results, tmp_path)]
    assert drawn == ["voc-curves.png", "voc-patches.png"]  # without lengths only the untrained one is there
    assert all((tmp_path / name).stat().st_size > 10_000 for name in drawn)
