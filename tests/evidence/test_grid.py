"""Every cell is a config that can train, and differs from the base in what it says alone."""

from pathlib import Path

import pytest

from odis.config.checks import check
from odis.config.training import as_dict


def flat(tree, prefix=""):
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def cells():
    import grid

    return {cell.name: cell for study in grid.STUDIES for cell in grid.cells(study)}


def known_worlds():
    import worlds

    return worlds.worlds(worlds.Roots(photographs=Path("somewhere"), voc=Path("elsewhere")))


def first(world):
    """One of its candidates."""
    return next(iter(world.candidates))


@pytest.mark.parametrize("base", ["scenes", "photographs", "photographs-50", "tiny-imagenet", "voc"])
def test_every_cell_can_train_and_changes_what_it_says(base):
    import cell as one
    import grid
    import worlds

    known = known_worlds()
    assert set(worlds.worlds()) == {"scenes", "digits", "scenes-context", "scenes-one"}
    assert set(known) - set(worlds.worlds()) == {
        *("photographs", "photographs-50", "photographs-wide"),
        *("tiny-imagenet", "voc"),
    }
    world = known[base]
    candidate = first(world)
    by_length = {cell.name for study in ("patches", "mask-widths") for cell in grid.cells(study)}
    plain = flat(as_dict(one.config_of(world, grid.Cell("plain", "odis-single"), candidate, "x.parquet", 3)))
    for name, cell in cells().items():
        there = name in by_length if base == "photographs-50" else base == "scenes" and not cell.images
        if not there and name not in grid.METHODS:
            continue  # the same settings on another base, or of another length
        config = one.config_of(world, cell, candidate, "x.parquet", 3)
        check(config)
        changed = {key for key, value in flat(as_dict(config)).items() if value != plain[key]}
        length = {"train.epochs", "optim.warmup_epochs"} if cell.images else set()
        assert changed <= set(grid.METHODS[cell.method]) | set(cell.settings) | length, name
        assert config.train.seed == 3


def test_methods_are_the_recipes_of_their_names(tmp_path):
    """What makes a method is what its published recipe says it is."""
    import grid

    from odis.config.options import load_recipe

    about = (
        "objects.use",
        "objects.per_image",
        "views.object_crops",
        "views.local_crops",
        "views.object_masks",
        "model.object_tokens",
        "model.object_readout",
        "loss.patch_weight",
    )
    assert set(grid.TABLE) <= set(grid.METHODS)
    reference = flat(as_dict(load_recipe("odis-vits16", data="x")))
    for method in ("dino", "ibot", "crop-only", "mask-only", "mean-pool"):
        recipe = flat(as_dict(load_recipe(f"{method}-vits16", data="x")))
        assert {name: recipe[name] for name in about} == {
            name: grid.METHODS[method].get(name, reference[name]) for name in about
        }


def test_all_the_choices_of_the_authors_are_their_recipes():
    """But for what belongs to their size: local views, collapse guards, clipping."""
    import grid

    recipe = flat(as_dict(load("odis-authors-vits16")))
    chosen = dict(grid.METHODS["authors"])
    assert chosen.pop("objects.sampling") == "area"  # says that the largest object of the crop is taken
    assert {name: recipe[name] for name in chosen} == chosen
    assert grid.METHODS["odis-beside"]["model.object_tokens"] == recipe["model.object_tokens"]


def load(name):
    from odis.config.options import load_recipe

    return load_recipe(name, data="x")


def test_cells_of_one_name_are_one_cell():
    import grid

    met = {}
    for cell in (cell for study in grid.STUDIES for cell in grid.cells(study)):
        assert met.setdefault(cell.name, cell) == cell
    assert set(grid.ONE_SEED) <= set(grid.STUDIES)
    with pytest.raises(ValueError, match="no study 'nothing'"):
        grid.cells("nothing")


def test_bases_of_photographs_differ_in_what_they_say():
    from odis.config.options import load_recipe

    known = known_worlds()
    coarse, fine = (
        flat(as_dict(load_recipe(str(known[name].base), data="x"))) for name in ("photographs", "voc")
    )
    assert {key for key in fine if fine[key] != coarse[key]} == {
        "model.patch_size",
        "loss.koleo_weight",
        "train.precision",
        "train.epochs",  # said by the length of a cell
        "optim.warmup_epochs",
    }


@pytest.mark.parametrize("base", ["photographs-50", "photographs-wide", "voc"])
def test_a_length_in_images_is_what_a_run_sees(base):
    """Whatever an epoch is; and a world of a tenth of the size has runs of a tenth of the length."""
    import cell as one
    import grid

    from odis.train.schedules import Schedules

    known, world = cells(), known_worlds()[base]
    for name, images in grid.LENGTHS.items():
        for size in (world, world.of_size(world.train // 10)):
            config = one.config_of(size, known[f"ibot.{name}"], first(size), "x.parquet", 0)
            steps = Schedules(config, size.train).total_steps
            assert steps * 64 * world.train / size.train == pytest.approx(images, rel=0.02)
            assert config.optim.warmup_epochs == pytest.approx(0.06 * config.train.epochs, rel=1e-3)
    trial = one.config_of(world, grid.Cell("ibot", "ibot"), first(world), "x.parquet", 0)
    assert trial.train.epochs * world.train == pytest.approx(30_000, rel=1e-3)  # of which a trial has a share


def test_candidates_of_photographs_differ_in_rate_and_weight_alone():
    import cell as one
    import grid

    for name, scale in (("photographs-50", [0.15, 0.5]), ("voc", [0.25, 1.0])):
        world, seen = known_worlds()[name], set()
        assert set(world.candidates) == {"slow-0.1", "slow-0.25", "fast-0.1", "fast-0.25"}
        for candidate in world.candidates:
            config = one.config_of(world, grid.Cell("ibot", "ibot"), candidate, "x.parquet", 0)
            assert list(config.views.global_scale) == scale
            seen.add((config.optim.base_lr, config.loss.koleo_weight))
        assert seen == {(rate, weight) for rate in (0.004, 0.008) for weight in (0.1, 0.25)}


def test_wide_scenes_have_as_many_objects_as_large_in_half_as_many_images():
    """So that a view of `near` shows as much of its surroundings as one on the smaller scenes."""
    import cell as one
    import grid

    small, wide = (known_worlds()[name] for name in ("photographs-50", "photographs-wide"))
    assert 2 * wide.train == small.train
    assert 2 * wide.test == small.test
    assert wide.candidates == grid.WIDE
    sides = []
    for world, candidate in ((small, "slow-0.25"), (wide, "near")):
        config = one.config_of(world, grid.Cell("ibot", "ibot"), candidate, "x.parquet", 0)
        assert (config.optim.base_lr, config.loss.koleo_weight) == (0.004, 0.25)
        sides.append([share**0.5 * world.side for share in config.views.global_scale])
    assert sides[1] == pytest.approx(sides[0], rel=0.03)


def test_whole_images_are_shown_as_large_as_in_training(tmp_path):
    """Twice the view, twice the image; and its side is tiled by the patches of every cell."""
    import cell as one
    import grid

    world = known_worlds()["voc"]
    assert (world.side_of(64), world.side_of(96), world.side_of(128)) == (128, 192, 256)
    for cell in grid.cells("patches"):
        config = one.config_of(world, cell, first(world), "x.parquet", 0)
        assert world.side_of(config.views.global_size) % config.model.patch_size == 0


def test_all_objects_are_as_many_as_an_image_of_the_world_has():
    import cell as one
    import grid

    for world in known_worlds().values():
        config = one.config_of(world, grid.Cell("all", "odis-read-only-all"), first(world), "x.parquet", 0)
        assert config.objects.per_image == world.most_objects
