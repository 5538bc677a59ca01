"""The target in the first crop, against the loop that draws crop after crop and counts pixels; classes as
objects.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, ks_2samp
from torchvision.transforms import RandomResizedCrop

from odis.config.training import ObjectsConfig, ViewsConfig
from odis.data.framing import all_objects, choose_objects, frame_views, shown_shares
from odis.data.geometry.areas import total_areas
from odis.objects import rle
from odis.types import ImageObjects, Object

WIDTH, HEIGHT = 60, 48
RATIO = (3 / 4, 4 / 3)
VIEWS = ViewsConfig(
    global_views=3,
    global_scale=(0.05, 0.2),
    local_views=2,
    local_scale=(0.05, 0.2),
    min_coverage=0.0,
    candidates=2,
    local_candidates=3,
)
FIRST = ObjectsConfig(target="first-crop", first_crop_draws=3, first_crop_coverage=0.3)
# Two boxes of a class, one of another, a ring and a stroke with masks, and a dot without a label.
BOXES = [(2, 2, 12, 14), (40, 4, 58, 12), (20, 20, 44, 40), (5, 26, 17, 44), (50, 30, 52, 46), (30, 4, 33, 7)]
LABELS = [0, 0, 1, 2, 1, None]


def ring() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[26:44, 5:17] = True
    mask[29:41, 8:14] = False
    return mask


def row(labels=LABELS) -> ImageObjects:
    masks = {3: rle.encode(ring())}
    objects = [Object(tuple(map(float, b)), masks.get(k), labels[k]) for k, b in enumerate(BOXES)]
    return ImageObjects("a.png", WIDTH, HEIGHT, tuple(objects))


def units(unit: str) -> list[tuple[int, ...]]:
    return [(k,) for k in range(6)] if unit == "instances" else [(0, 1), (2, 4), (3,), (5,)]


def painted(members: tuple[int, ...]) -> np.ndarray:
    canvas = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for k in members:
        x0, y0, x1, y1 = BOXES[k]
        canvas[y0:y1, x0:x1] |= ring()[y0:y1, x0:x1] if k == 3 else True
    return canvas


def draw(scale: tuple[float, float]) -> tuple[int, int, int, int]:
    image = torch.empty(1).expand(3, HEIGHT, WIDTH)
    top, left, h, w = RandomResizedCrop.get_params(image, list(scale), list(RATIO))
    return left, top, left + w, top + h


def pixels(canvas: np.ndarray, crop: tuple[int, int, int, int]) -> int:
    x0, y0, x1, y1 = crop
    return int(canvas[y0:y1, x0:x1].sum())


def literal_loop(unit: str, local_crops: str) -> tuple[list, int | None, list[bool]]:
    """Crops, target and lost views of one image, drawn one after the other."""
    canvases = [painted(members) for members in units(unit)]
    target = None
    for _ in range(3):
        first = draw(VIEWS.global_scale)
        x0, y0, x1, y1 = first
        counts = [pixels(canvas, first) for canvas in canvases]
        if any(count >= 0.3 * (x1 - x0) * (y1 - y0) for count in counts):
            target = counts.index(max(counts))
            break
    if target is None:
        crops = [draw(VIEWS.global_scale) for _ in range(3)] + [draw(VIEWS.local_scale) for _ in range(2)]
        return crops, None, [False] * 5
    crops, lost = [first], [False]
    for _ in range(2):
        for _ in range(2):
            crop = draw(VIEWS.global_scale)
            if pixels(canvases[target], crop):
                crops.append(crop)
                lost.append(False)
                break
        else:
            crops.append(draw(VIEWS.global_scale))
            lost.append(True)
    for _ in range(2):
        tried = [draw(VIEWS.local_scale) for _ in range(3)]
        showing = [crop for crop in tried if pixels(canvases[target], crop)]
        crops.append((showing or tried)[0] if local_crops == "object-aware" else tried[0])
    return crops, target, [*lost, False, False]


@pytest.mark.parametrize(("unit", "local_crops"), [("instances", "object-aware"), ("classes", "free")])
def test_first_crop_is_distributed_as_the_literal_loop(unit, local_crops):
    torch.manual_seed(0)
    n = 800
    theirs = [literal_loop(unit, local_crops) for _ in range(n)]
    ours = []
    for seed in range(n):
        framed = frame_views(
            np.random.default_rng(seed), row(), WIDTH, HEIGHT, replace(FIRST, unit=unit),
            replace(VIEWS, local_crops=local_crops),
        )  # fmt: skip
        members = framed.chosen.members
        target = units(unit).index(members[0]) if members else None
        ours.append((framed.crops.tolist(), target, framed.lost.tolist()))
    outcomes = [Counter((target, tuple(lost)) for _, target, lost in made) for made in (ours, theirs)]
    assert {None, 0, 1, 2} <= {target for target, _ in outcomes[0]}
    assert any(any(lost) for _, lost in outcomes[0])
    common = [key for key in outcomes[0] | outcomes[1] if min(o[key] for o in outcomes) >= 5]
    table = np.array([[o[key] for key in common] for o in outcomes])
    assert chi2_contingency(table).pvalue > 1e-3
    assert table.sum() > 1.9 * n
    for view in range(5):
        for kept in (True, False):  # of images with a target, and of those without
            crops = [
                np.array([crops[view] for crops, target, _ in made if (target is not None) == kept])
                for made in (ours, theirs)
            ]
            assert len(crops[0]) > 30
            for corner in range(4):
                assert ks_2samp(crops[0][:, corner], crops[1][:, corner]).pvalue > 1e-3


@pytest.mark.parametrize("unit", ["instances", "classes"])
def test_views_are_what_the_rule_says_of_their_crops(unit):
    """Pixel by pixel: the first crop shows enough of something, the target is its largest object, and a view
    that is not lost shows some of it.
    """
    canvases = [painted(members) for members in units(unit)]
    objects, lost = replace(FIRST, unit=unit, per_image=3), 0
    for seed in range(150):
        framed = frame_views(np.random.default_rng(seed), row(), WIDTH, HEIGHT, objects, VIEWS)
        if not framed.chosen.members:
            assert not framed.lost.any()
            continue
        counts = [pixels(canvas, tuple(framed.crops[0])) for canvas in canvases]
        x0, y0, x1, y1 = framed.crops[0]
        target = units(unit).index(framed.chosen.members[0])
        assert counts[target] == max(counts) >= 0.3 * (x1 - x0) * (y1 - y0)
        assert len(set(framed.chosen.members)) == 3
        for crop, gone in zip(framed.crops[:3], framed.lost[:3]):
            assert gone or pixels(canvases[target], tuple(crop))
        assert not framed.lost[[0, 3, 4]].any()
        lost += framed.lost.sum()
        shares = shown_shares(framed.crops, framed.chosen, objects)
        for v, crop in enumerate(framed.crops):
            size = (crop[2] - crop[0]) * (crop[3] - crop[1])
            for slot, members in enumerate(framed.chosen.members):
                canvas = painted(members)
                least = min(size, canvas.sum())
                assert shares[v, slot] == pytest.approx(pixels(canvas, tuple(crop)) / least, abs=1e-9)
    assert lost > 5


def test_min_coverage_holds_for_the_other_global_views():
    views, shown = replace(VIEWS, min_coverage=0.5, candidates=4), []
    for seed in range(60):
        framed = frame_views(np.random.default_rng(seed), row(), WIDTH, HEIGHT, FIRST, views)
        if framed.chosen.members:
            share = shown_shares(framed.crops[1:3], framed.chosen, FIRST)[:, 0]
            assert (share[~framed.lost[1:3]] >= 0.5).all()
            shown += framed.lost[1:3].tolist()
    assert 0.02 < np.mean(shown) < 0.98


def test_an_image_without_objects_is_drawn_as_with_a_target_from_the_index():
    empty = ImageObjects("a.png", WIDTH, HEIGHT)
    for unit in ("instances", "classes"):
        first, index = (
            frame_views(
                np.random.default_rng(0), empty, WIDTH, HEIGHT, ObjectsConfig(unit=unit, target=target), VIEWS
            )
            for target in ("first-crop", "index")
        )
        assert (first.crops == index.crops).all()
        assert first.chosen.members == index.chosen.members == [()]
        assert first.chosen.shapes.boxes.tolist() == [[0, 0, WIDTH, HEIGHT]]


def test_a_class_is_all_objects_of_one_label_that_are_large_enough():
    every = all_objects(row(), WIDTH, HEIGHT, ObjectsConfig(unit="classes"))
    assert every.members == [(0, 1), (2, 4), (3,), (5,)]
    assert total_areas(every.shapes).tolist() == [painted(members).sum() for members in every.members]
    large = all_objects(row(), WIDTH, HEIGHT, ObjectsConfig(unit="classes", min_size=5))
    assert large.members == [(0, 1), (2,), (3,)]
    unlabelled = all_objects(row([None] * 6), WIDTH, HEIGHT, ObjectsConfig(unit="classes"))
    assert unlabelled.members == [(k,) for k in range(6)]
    assert all_objects(row(), WIDTH, HEIGHT, ObjectsConfig(unit="classes", use=False)) is None


def test_classes_are_drawn_by_the_area_of_their_union():
    objects = ObjectsConfig(unit="classes", per_image=2)
    drawn = [
        choose_objects(np.random.default_rng(seed), row(), WIDTH, HEIGHT, objects).members
        for seed in range(1500)
    ]
    areas = np.array([painted(members).sum() for members in units("classes")])
    first = Counter(members[0] for members in drawn)
    share = np.array([first[members] for members in units("classes")]) / len(drawn)
    assert share == pytest.approx(areas / areas.sum(), abs=0.05)
    assert all(len(set(members)) == 2 for members in drawn)


def test_crops_around_a_class_show_its_objects_and_not_the_space_between():
    """The box around two far objects covers what lies between them, where nothing is."""
    far = ImageObjects(
        "a.png",
        WIDTH,
        HEIGHT,
        (Object((0.0, 0.0, 6.0, 48.0), label=0), Object((54.0, 0.0, 60.0, 48.0), label=0)),
    )
    views = replace(VIEWS, global_scale=(0.02, 0.05), min_coverage=0.3, candidates=60)
    shown = []
    for seed in range(40):
        framed = frame_views(
            np.random.default_rng(seed), far, WIDTH, HEIGHT, ObjectsConfig(unit="classes"), views
        )
        canvas = np.zeros((HEIGHT, WIDTH), dtype=bool)
        canvas[:, :6] = canvas[:, 54:] = True
        for crop in framed.crops[:3]:
            size = (crop[2] - crop[0]) * (crop[3] - crop[1])
            shown.append(pixels(canvas, tuple(crop)) >= 0.3 * min(size, canvas.sum()))
    assert np.mean(shown) > 0.9
