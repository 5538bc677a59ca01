"""What is kept of what is found, and where it lies in the image."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from odis.config.discovery import DiscoverConfig
from odis.errors import ConfigError
from odis.finding.discover.objects import check_discover, clearness, discover
from odis.objects import rle
from odis.objects.clean import object_problem
from odis.types import Object

GRID = (8, 10)
LOOSE = DiscoverConfig(max_objects=4, min_area=0, max_area=1, max_overlap=1, min_score=0)


def features_of(*blocks: tuple[int, int, int, int], agreement: float = 0.0) -> torch.Tensor:
    """(1, P, D): a ground, and blocks (top, left, bottom, right) of a feature each, of which one agrees so
    much with the ground.
    """
    kind = np.zeros(GRID, dtype=int)
    for number, (top, left, bottom, right) in enumerate(blocks, 1):
        kind[top:bottom, left:right] = number
    basis = torch.eye(len(blocks) + 1)
    basis[1:] = math.sqrt(1 - agreement**2) * basis[1:] + agreement * basis[0]
    return basis[torch.from_numpy(kind.ravel())][None]


@pytest.mark.parametrize("method", ["spectral", "seeds"])
def test_a_clear_object_is_found_where_it_is(method: str):
    [[item]] = discover(
        features_of((2, 3, 5, 7)), GRID, [(200, 80)], DiscoverConfig(method=method, max_objects=1)
    )
    assert item.box == (60, 20, 140, 50)
    assert item.label is None
    assert item.score == pytest.approx(0.5), (
        "its patches agree with each other, and not at all with those beside them"
    )
    assert object_problem(item, 200, 80) is None
    mask = rle.decode(item.mask, 200, 80)
    assert mask.sum() > 0.9 * 80 * 30
    assert mask[:20].sum() == mask[50:].sum() == mask[:, :60].sum() == mask[:, 140:].sum() == 0


def test_images_of_a_batch_have_sizes_of_their_own():
    features = torch.cat([features_of((2, 3, 5, 7)), torch.ones(1, 80, 2), features_of((1, 1, 3, 3))])
    found = discover(features, GRID, [(100, 80), (64, 64), (20, 16)], replace(LOOSE, max_objects=1))
    assert [[item.box for item in of_one] for of_one in found] == [[(30, 20, 70, 50)], [], [(2, 2, 6, 6)]]


def test_an_image_without_an_object_yields_none():
    noise = torch.ones(2, 80, 8) + 0.02 * torch.randn(2, 80, 8, generator=torch.Generator().manual_seed(0))
    assert discover(noise, GRID, [(64, 64)] * 2, DiscoverConfig()) == [[], []]
    assert discover(noise, GRID, [(64, 64)] * 2, DiscoverConfig(method="seeds")) == [[], []]


def boxes(objects: list[Object]) -> list[tuple[float, ...]]:
    return [item.box for item in objects]


LARGE, SMALL = (1, 1, 5, 7), (6, 8, 7, 9)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, [LARGE, SMALL]),
        ({"min_area": 0.02}, [LARGE]),
        ({"max_area": 0.2}, [SMALL]),
        ({"max_objects": 1}, [LARGE]),
        ({"min_score": 0.51}, []),
    ],
    ids=str,
)
def test_rules_keep_objects_of_a_size_that_are_clear(change: dict, kept: list):
    [found] = discover(
        features_of(LARGE, SMALL), GRID, [(100, 80)], replace(LOOSE, **{"max_objects": 2} | change)
    )
    expected = {tuple(10.0 * v for v in (left, top, right, bottom)) for top, left, bottom, right in kept}
    assert set(boxes(found)) == expected


def test_guides_draw_the_masks_of_their_images():
    guide = np.full((80, 100), 0.2)
    guide[23:47, 33:66] = 0.9
    features, sizes = torch.cat([features_of((2, 3, 5, 7))] * 2), [(100, 80)] * 2
    settings = replace(LOOSE, max_objects=1)
    moved = np.full((80, 100), 0.2)
    moved[22:46, 35:68] = 0.9
    found = discover(features, GRID, sizes, settings, [guide, moved])
    assert [boxes(of_one) for of_one in found] == [[(33, 23, 66, 47)], [(35, 22, 68, 46)]]
    found = discover(features, GRID, sizes, replace(settings, edge_radius=0), [guide, guide])
    assert [boxes(of_one) for of_one in found] == [[(30, 20, 70, 50)]] * 2


def test_of_two_boxes_that_overlap_the_clearer_stays():
    """A block inside another, whose boxes overlap by 12 of 30. The outer one stands out more: it disagrees
    with the ground.
    """
    features = features_of((1, 1, 6, 7), (2, 2, 5, 6))
    ground, outer = features[0, 0].clone(), features[0, 11].clone()
    features[0, (features[0] == outer).all(dim=1)] = -0.6 * ground + 0.8 * outer
    settings = replace(LOOSE, method="seeds", max_objects=2)
    sizes = [(100, 80)]
    [both] = discover(features, GRID, sizes, settings)
    assert boxes(both) == [(10, 10, 70, 60), (20, 20, 60, 50)]
    assert both[0].score > both[1].score
    assert boxes(discover(features, GRID, sizes, replace(settings, max_overlap=0.39))[0]) == boxes(both)[:1]
    assert boxes(discover(features, GRID, sizes, replace(settings, max_overlap=0.41))[0]) == boxes(both)


def test_objects_come_the_clearest_first():
    features = features_of((1, 1, 4, 4), (5, 6, 7, 9))
    ground, first, second = (features[0, p].clone() for p in (0, 11, 56))
    features[0, (features[0] == first).all(dim=1)] = 0.7 * ground + math.sqrt(0.51) * first
    [found] = discover(features, GRID, [(100, 80)], replace(LOOSE, max_objects=2, tau=0.8))
    assert boxes(found) == [(60, 50, 90, 70), (10, 10, 40, 40)]
    assert [item.score for item in found] == pytest.approx([0.5, 0.15])
    assert torch.equal(second, features[0, 56])


def test_settings_reach_the_methods():
    alike = features_of((2, 3, 5, 7), agreement=0.5)
    sizes = [(100, 80)]
    assert len(discover(alike, GRID, sizes, replace(LOOSE, tau=0.6, max_objects=1))[0]) == 1
    assert discover(alike, GRID, sizes, replace(LOOSE, tau=0.4))[0] == [], "all patches agree"
    centred = discover(alike, GRID, sizes, replace(LOOSE, tau=0.4, center=True, max_objects=1))[0]
    assert boxes(centred) == [(30, 20, 70, 50)]
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 80, 4, generator=rng)
    few, many = (discover(noise, GRID, sizes, replace(LOOSE, method="seeds", seeds_k=k)) for k in (1, 50))
    assert few != many


def slow_clearness(unit: np.ndarray, mask: np.ndarray) -> float:
    rows, columns = mask.shape
    inside = [r * columns + c for r in range(rows) for c in range(columns) if mask[r, c]]
    beside = [
        r * columns + c
        for r in range(rows)
        for c in range(columns)
        if not mask[r, c]
        and any(
            mask[y, x]
            for y in (r - 1, r, r + 1)
            for x in (c - 1, c, c + 1)
            if 0 <= y < rows and 0 <= x < columns
        )
    ]
    mean = sum(unit[p] for p in inside) / len(inside)
    mean = mean / math.sqrt(mean @ mean)
    cosines = [[float(unit[p] @ mean) for p in part] for part in (inside, beside)]
    return max(0.0, (sum(cosines[0]) / len(inside) - sum(cosines[1]) / len(beside)) / 2)


@pytest.mark.parametrize("seed", range(6))
def test_clearness_is_contrast_with_what_is_beside(seed: int):
    rng = np.random.default_rng(seed)
    unit = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((42, 5)) + seed), dim=1)
    mask = rng.random((6, 7)) < (0.1, 0.3, 0.6)[seed % 3]
    mask[0, 0], mask[5, 6] = True, False
    assert clearness(unit.numpy(), mask) == pytest.approx(slow_clearness(unit.numpy(), mask))


def test_what_fills_the_image_stands_out_from_nothing():
    assert clearness(np.ones((4, 2)), np.ones((2, 2), dtype=bool)) == 0


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("method", "nonsense", "spectral or seeds"),
        ("facet", "nonsense", "key, query, value or token"),
        ("size", 0, "1 pixel or more"),
        ("tau", 1.0, "from -1 to below 1"),
        ("tau", math.nan, "from -1 to below 1"),
        ("min_area", 0.9, "from 0 to max_area (0.8)"),
        ("max_area", 0.0, "above 0 and at most 1"),
        ("max_overlap", 1.5, "from 0 to 1"),
        ("min_score", -0.1, "from 0 to 1"),
        ("max_objects", 0, "1 or more"),
        ("edge_radius", -1.0, "from 0 to 16 patches"),
        ("seeds_k", 0, "1 or more"),
        ("batch_size", 0, "1 or more"),
    ],
)
def test_settings_that_cannot_be_are_named(name: str, value: object, allowed: str):
    settings = replace(DiscoverConfig(), **{name: value})
    with pytest.raises(ConfigError) as error:
        check_discover(settings)
    assert str(error.value).startswith(f"discover.{name}: is {value}, must be ")
    assert allowed in str(error.value)
    with pytest.raises(ConfigError, match=rf"^other\.{name}: "):
        check_discover(settings, "other")
    with pytest.raises(ConfigError):
        discover(features_of(), GRID, [(10, 10)], settings)


def test_every_setting_can_be_wrong_or_is_a_switch():
    shares = {"min_area", "max_area", "max_overlap", "min_score"}
    others = {"method", "facet", "size", "tau", "max_objects", "seeds_k", "edge_radius", "batch_size"}
    assert {f.name for f in fields(DiscoverConfig)} == shares | others | {"center", "grayscale"}


@pytest.mark.parametrize(("shape", "images"), [((1, 79, 2), 1), ((80, 2), 1), ((2, 80, 2), 1)], ids=str)
def test_features_of_another_shape_are_refused(shape: tuple[int, ...], images: int):
    with pytest.raises(ValueError, match="8 x 10 patches"):
        discover(torch.ones(shape), GRID, [(10, 10)] * images, DiscoverConfig())
