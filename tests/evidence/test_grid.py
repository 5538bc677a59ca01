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


@pytest.mark.parametrize("base", ["scenes", "photographs", "tiny-imagenet"])
def test_every_cell_can_train_and_changes_what_it_says(base, tmp_path):
    import cell as one
    import grid
    import worlds

    known = worlds.worlds(tmp_path)
    assert set(known) == {"scenes", "scenes-context", "scenes-one", "photographs", "tiny-imagenet"}
    world = known[base]
    candidate = "middle"
    plain = flat(as_dict(one.config_of(world, grid.Cell("plain", "odis-single"), candidate, "x.parquet", 3)))
    for name, cell in cells().items():
        if base != "scenes" and cell.name not in grid.METHODS:
            continue  # the same settings on another base
        config = one.config_of(world, cell, candidate, "x.parquet", 3)
        check(config)
        changed = {key for key, value in flat(as_dict(config)).items() if value != plain[key]}
        assert changed <= set(grid.METHODS[cell.method]) | set(cell.settings), name
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
    reference = flat(as_dict(load_recipe("odis-vits16", data="x")))
    for method in ("dino", "ibot", "crop-only", "mask-only", "mean-pool"):
        recipe = flat(as_dict(load_recipe(f"{method}-vits16", data="x")))
        assert {name: recipe[name] for name in about} == {
            name: grid.METHODS[method].get(name, reference[name]) for name in about
        }


def test_cells_of_different_studies_have_different_names():
    import grid

    names = [cell.name for study in grid.STUDIES for cell in grid.cells(study)]
    assert len(set(names)) == len(names)
    assert set(grid.ONE_SEED) <= set(grid.STUDIES)
    with pytest.raises(ValueError, match="no study 'nothing'"):
        grid.cells("nothing")


def test_all_objects_are_as_many_as_an_image_of_the_world_has():
    import cell as one
    import grid
    import worlds

    for world in worlds.worlds(Path("somewhere")).values():
        config = one.config_of(world, grid.Cell("all", "odis-read-only-all"), "far", "x.parquet", 0)
        assert config.objects.per_image == world.most_objects
