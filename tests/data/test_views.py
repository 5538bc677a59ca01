"""Views against torchvision's own calls, and the objects of a sample against the rules, one view and object
at a time.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from odis.config.training import ObjectsConfig, PredictionConfig, ViewsConfig
from odis.data.augment.cpu import to_chw
from odis.data.augment.draw import apply_photometrics, draw_photometrics
from odis.data.pixels.decode import Decoded
from odis.data.views import make_sample, normalize_pixels, resized_crop
from odis.errors import DataError
from odis.objects import rle
from odis.types import Crop, ImageObjects, Object, View

QUIET = ViewsConfig(
    global_size=48,
    local_size=24,
    local_views=3,
    jitter=0,
    grayscale=0,
    blur=(0, 0, 0),
    solarize=(0, 0, 0),
    local_scale=(0.05, 0.25),
)
BOXES = ((10, 12, 70, 60.5), (75, 5, 99, 20), (60, 50, 64, 54), (0, 0, 30, 70), (90, 60, 100, 75))


def render(image: Decoded, crop: Crop, size: int) -> torch.Tensor:
    """A crop as a view: uint8 (3, size, size)."""
    return torch.from_numpy(to_chw(resized_crop(image, crop, size), crop.flip)).to(torch.uint8)


def picture(seed: int = 0, height: int = 75, width: int = 100) -> torch.Tensor:
    """Smooth random colours, uint8 (3, H, W), laid out as decoded images are."""
    coarse = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    return smooth.mul(255).to(torch.uint8).permute(1, 2, 0).contiguous().permute(2, 0, 1)


def row(*boxes, masks: dict | None = None) -> ImageObjects:
    return ImageObjects(
        "a.png",
        100,
        75,
        tuple(Object(tuple(map(float, b)), (masks or {}).get(i)) for i, b in enumerate(boxes)),
    )


def sample(seed=0, of=None, image=None, views=QUIET, prediction=None, patch_size=8, **objects):
    rng = np.random.default_rng(seed)
    image = picture() if image is None else image
    return make_sample(
        rng,
        image,
        of or row(*BOXES),
        ObjectsConfig(**objects),
        views,
        prediction or PredictionConfig(),
        patch_size,
    )


def all_views(made: tuple) -> list[View]:
    return [*made[0], *made[1]]


@pytest.mark.parametrize("size", [2, 7, 32, 96])
def test_rendering_equals_torchvision(size):
    image, rng = picture(), np.random.default_rng(0)
    for crop in [Crop(0, 0, 100, 75), Crop(3, 4, 4, 5), Crop(0, 0, 32, 32, True)] + [
        Crop(*rng.integers(0, 40, 2).tolist(), *rng.integers(41, 75, 2).tolist(), bool(rng.integers(2)))
        for _ in range(20)
    ]:
        bicubic = InterpolationMode.BICUBIC
        box = (crop.y0, crop.x0, crop.height, crop.width)
        expected = F.resized_crop(
            image.contiguous(), *box, [size, size], interpolation=bicubic, antialias=True
        )
        expected = F.horizontal_flip(expected) if crop.flip else expected
        assert render(Decoded(image), crop, size).equal(expected)


def test_a_single_pixel_fills_a_view():
    assert (
        render(Decoded(torch.full((3, 1, 1), 77, dtype=torch.uint8)), Crop(0, 0, 1, 1, True), 16) == 77
    ).all()


def test_normalising_equals_torchvision():
    pixels, views = torch.stack([picture(i) for i in range(3)]), ViewsConfig()
    expected = F.normalize(F.to_dtype(pixels, torch.float32, scale=True), *map(list, views.statistics))
    torch.testing.assert_close(normalize_pixels(pixels, *views.statistics), expected, atol=1e-6, rtol=1e-6)
    assert normalize_pixels(pixels[0], *views.statistics).equal(
        normalize_pixels(pixels, *views.statistics)[0]
    )


def photometrics(
    rng: np.random.Generator, pixels: torch.Tensor, kind: int, views: ViewsConfig
) -> torch.Tensor:
    """uint8 pixels with what is drawn for them done to them."""
    drawn = draw_photometrics(rng, pixels.shape[-1], kind, views)
    done = torch.empty(pixels.shape)
    apply_photometrics(
        pixels.float().contiguous().numpy(),
        drawn,
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
        done.numpy(),
    )
    assert done.dtype == torch.float32
    assert done.equal(done.to(torch.uint8).float())
    return done.to(torch.uint8)


def torchvision_photometrics(
    rng: np.random.Generator, pixels: torch.Tensor, kind: int, views: ViewsConfig
) -> torch.Tensor:
    """The same draws, every operation torchvision's own."""
    draws = rng.random(4)
    image = F.to_dtype(pixels, torch.float32, scale=True)
    if draws[0] < views.jitter:
        b, c, s, h = (rng.uniform(-1, 1, 4) * views.jitter_strength).tolist()
        for op in rng.permutation(4):
            if views.jitter_strength[op] > 0:
                image = [
                    lambda x: F.adjust_brightness(x, 1 + b),
                    lambda x: F.adjust_contrast(x, 1 + c),
                    lambda x: F.adjust_saturation(x, 1 + s),
                    lambda x: F.adjust_hue(x, h),
                ][op](image)
    if draws[1] < views.grayscale:
        image = F.rgb_to_grayscale(image, 3)
    if draws[2] < views.blur[kind]:
        sigma = rng.uniform(0.1, 2)
        radius = min(max(1, round(pixels.shape[-1] / 20)), int(np.ceil(3 * sigma)), pixels.shape[-1] - 1)
        image = F.gaussian_blur(image, [2 * radius + 1] * 2, [sigma, sigma])
    image = F.to_dtype(image.mul(255).round().div(255), torch.uint8, scale=True)
    return F.solarize(image, 128) if draws[3] < views.solarize[kind] else image


@pytest.mark.parametrize("strength", [(0.4, 0.4, 0.2, 0.1), (0.8, 0, 0, 0.5), (0, 0.5, 1, 0)])
@pytest.mark.parametrize("size", [96, 24, 1])
def test_photometrics_equal_torchvisions_operations(strength, size):
    views = ViewsConfig(
        jitter_strength=strength, blur=(1.0, 0.1, 0.5), solarize=(0.0, 0.7, 0.3), grayscale=0.3
    )
    for seed in range(25):
        pixels = render(Decoded(picture(seed)), Crop(10, 10, 60, 70), size)
        before = pixels.clone()
        ours = photometrics(np.random.default_rng(seed), pixels, seed % 3, views)
        theirs = torchvision_photometrics(np.random.default_rng(seed), pixels, seed % 3, views)
        assert ours.dtype == torch.uint8
        assert (ours.int() - theirs.int()).abs().max() <= 1
        assert pixels.equal(before)


def test_photometrics_follow_their_probabilities():
    pixels, rng = render(Decoded(picture()), Crop(0, 0, 75, 75), 16), np.random.default_rng(0)
    off = replace(QUIET, flip=0)
    assert all(photometrics(rng, pixels, kind, off).equal(pixels) for kind in (0, 1, 2))
    grayscale = [photometrics(rng, pixels, 0, replace(off, grayscale=0.2)) for _ in range(1000)]
    assert np.mean([g[0].equal(g[1]) for g in grayscale]) == pytest.approx(0.2, abs=0.04)
    for kind, share in enumerate((0.9, 0.1, 0.5)):
        for name in ("blur", "solarize"):
            views = replace(off, **{name: (0.9, 0.1, 0.5)})
            changed = [not photometrics(rng, pixels, kind, views).equal(pixels) for _ in range(600)]
            # The faintest blurs change nothing at 8 bits.
            assert np.mean(changed) == pytest.approx(share * (0.95 if name == "blur" else 1), abs=0.06)
    jittered = [photometrics(rng, pixels, 2, replace(off, jitter=0.8)) for _ in range(600)]
    assert np.mean([not j.equal(pixels) for j in jittered]) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("name", ["blur", "solarize"])
def test_first_other_and_local_views_have_probabilities_of_their_own(name):
    noise = torch.rand(3, 75, 100, generator=torch.Generator().manual_seed(0)).mul(128).to(torch.uint8)
    image = (
        255 - noise // 2 - picture() // 4
    )  # rough, so that blur shows, and bright, so that solarisation does
    quiet = replace(QUIET, global_views=3)
    for kind in range(3):
        views = replace(quiet, **{name: tuple(float(k == kind) for k in range(3))})
        differ = np.zeros(6, dtype=bool)
        for seed in range(4):  # the faintest blurs change nothing
            pairs = zip(
                all_views(sample(seed, image=image, views=quiet)),
                all_views(sample(seed, image=image, views=views)),
            )
            differ |= [not a.pixels.equal(b.pixels) for a, b in pairs]
        assert (
            differ.tolist()
            == [[True] + [False] * 5, [False, True, True] + [False] * 3, [False] * 3 + [True] * 3][kind]
        )


def test_a_sample_has_the_shapes_and_pixels_of_its_crops():
    image = picture()
    views, locals_, hidden = sample(per_image=3)
    assert len(views) == 2
    assert len(locals_) == 3
    assert hidden.shape == (2, 36)
    assert hidden.dtype == torch.bool
    for view, size in [(v, 48) for v in views] + [(v, 24) for v in locals_]:
        assert view.pixels.dtype == torch.float32
        shown = render(Decoded(image), view.crop, size)
        assert view.pixels.equal(normalize_pixels(shown, *QUIET.statistics))
        assert view.object_masks.shape == (3, (size // 8) ** 2)
        assert view.object_masks.dtype == view.visible.dtype == torch.bool
        assert view.visible.shape == (3,)
        assert all(isinstance(v, int) for v in (view.crop.x0, view.crop.y1))
    assert len(sample(views=replace(QUIET, local_views=0))[1]) == 0


def overlap(crop: Crop, box) -> float:
    across = min(crop.x1, box[2]) - max(crop.x0, box[0])
    down = min(crop.y1, box[3]) - max(crop.y0, box[1])
    return (
        max(0, across) * max(0, down) / min(crop.width * crop.height, (box[2] - box[0]) * (box[3] - box[1]))
    )


def expected_slot(slow, view, box, mask, views, min_visible):
    """Mask and visibility of one object in one view, by the rules."""
    side = int(view.object_masks.shape[1] ** 0.5)
    item = Object(box, None if mask is None else rle.encode(mask))
    on_grid = slow.object_mask(
        item,
        (100, 75),
        view.crop,
        (side, side),
        views.mask_coverage,
        views.mask_margin,
        views.mask_shape,
    )
    share = overlap(view.crop, box)
    visible = share > 0 and share >= min_visible and bool(on_grid.any())
    return (
        on_grid.flatten() if visible and views.object_masks else np.ones(side * side, dtype=bool)
    ), visible


def pixel_mask(i: int) -> np.ndarray:
    """An ellipse in box i."""
    x0, y0, x1, y1 = BOXES[i]
    y, x = np.mgrid[:75, :100] + 0.5
    return ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mask_margin": 1},
        {"mask_coverage": 0.9},
        {"mask_coverage": 0, "mask_shape": "component-boxes", "mask_margin": 1},
        {"object_masks": False},
        {"object_crops": False},
    ],
)
@pytest.mark.parametrize("min_visible", [0.0, 0.4])
def test_object_masks_and_visibility_follow_the_rules(slow, change, min_visible):
    views = replace(QUIET, **change)
    masks = {i: pixel_mask(i) for i in (1, 3)}
    of = row(*BOXES, masks={i: rle.encode(m) for i, m in masks.items()})
    seen = []
    for seed in range(12):
        views_of_image = all_views(sample(seed, of, views=views, per_image=5, min_visible=min_visible))
        # All five objects are there, in an order that the sample does not tell: the one that explains every
        # view is it.
        slots = [
            [expected_slot(slow, view, box, masks.get(i), views, min_visible) for view in views_of_image]
            for i, box in enumerate(BOXES)
        ]
        for slot in range(5):
            got = [(view.object_masks[slot].numpy(), bool(view.visible[slot])) for view in views_of_image]
            seen += [visible for _, visible in got]
            assert any(all((m == n).all() and a == b for (m, a), (n, b) in zip(got, rule)) for rule in slots)
    assert 0.1 < np.mean(seen) < 0.9


def test_masks_lie_where_the_pixels_are():
    mask = pixel_mask(0)
    white = torch.from_numpy(mask.astype(np.uint8) * 255).expand(3, -1, -1)
    plain = replace(QUIET, mean=(0, 0, 0), std=(1, 1, 1), mask_coverage=0.5)
    differences = []
    for seed in range(20):
        globals_, locals_, _ = sample(seed, row(BOXES[0], masks={0: rle.encode(mask)}), white, plain)
        for view in globals_ + locals_:
            side = view.pixels.shape[-1] // 8
            shown = view.pixels[0].reshape(side, 8, side, 8).mean((1, 3)).flatten()
            if view.visible[0] and shown.max() > 0.6:
                clear = (shown - 0.5).abs() > 0.1
                differences += (view.object_masks[0] != (shown >= 0.5))[clear].tolist()
    assert len(differences) > 500
    assert np.mean(differences) < 0.002


def test_the_target_is_in_slot_0_and_drawn_by_area(slow):
    areas, first = np.array([(b[2] - b[0]) * (b[3] - b[1]) for b in BOXES]), []
    views, covered = replace(QUIET, mask_coverage=0.01), []
    for seed in range(1000, 1350):
        globals_, locals_, _ = sample(seed, views=views)
        rules = [
            [expected_slot(slow, v, box, None, views, 0)[0] for v in globals_ + locals_] for box in BOXES
        ]
        got = [v.object_masks[0].numpy() for v in globals_ + locals_]
        matches = [i for i, rule in enumerate(rules) if all((a == b).all() for a, b in zip(rule, got))]
        assert all(v.visible[0] for v in globals_)
        if len(matches) == 1:
            covered += [overlap(v.crop, BOXES[matches[0]]) >= 0.5 for v in globals_]
            first.append(matches[0])
    assert np.mean(covered) > 0.99
    assert len(first) > 330
    assert np.bincount(first, minlength=5) / len(first) == pytest.approx(areas / areas.sum(), abs=0.07)


@pytest.mark.parametrize(
    "of",
    [
        row(),
        row((5, 5, 5, 9), (float("nan"), 0, 9, 9), (30, 30, 20, 20), (200, 0, 210, 9)),
        row((1, 1, 2.5, 60)),
    ],
)
@pytest.mark.parametrize("use", [True, False])
def test_without_objects_the_whole_image_is_the_object(of, use):
    for candidates in (1, 20):
        views = replace(QUIET, candidates=candidates)
        globals_, locals_, _ = sample(3, of, views=views, per_image=2, use=use, min_size=2)
        for view in globals_ + locals_:
            assert view.object_masks.all()
            assert view.visible.tolist() == [True, False]
        plain = sample(3, row(*BOXES), views=views, use=False)
        assert [v.crop for v in plain[0] + plain[1]] == [v.crop for v in globals_ + locals_]


def test_slots_beyond_the_objects_are_not_visible():
    for view in all_views(sample(of=row(BOXES[0], BOXES[3]), per_image=4)):
        assert view.visible[2:].tolist() == [False, False]
        assert view.object_masks[2:].all()


def test_others_are_drawn_at_random(slow):
    views = replace(QUIET, global_scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3), flip=0.0, mask_coverage=0.01)
    rules = {
        expected_slot(slow, sample(views=views)[0][0], box, None, views, 0)[0].tobytes(): i
        for i, box in enumerate(BOXES)
    }
    pairs = [
        [
            rules[m.numpy().tobytes()]
            for m in sample(s, views=views, per_image=2, sampling="uniform")[0][0].object_masks
        ]
        for s in range(400)
    ]
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(np.array(pairs).T), 1)
    assert counts.diagonal().sum() == 0
    assert counts[~np.eye(5, dtype=bool)] == pytest.approx([20] * 20, abs=15)


def test_a_sample_depends_on_its_seed_alone_and_geometry_not_on_photometrics():
    loud = replace(QUIET, jitter=0.8, grayscale=0.2, blur=(1, 0.1, 0.5))
    one, same, quiet, other = sample(1, views=loud), sample(1, views=loud), sample(1), sample(2, views=loud)
    for a, b, c in zip(one[0] + one[1], same[0] + same[1], quiet[0] + quiet[1]):
        assert a.pixels.equal(b.pixels)
        assert a.crop == b.crop == c.crop
        assert a.object_masks.equal(c.object_masks)
        assert not a.pixels.equal(c.pixels)
    assert one[2].equal(quiet[2])
    assert [v.crop for v in one[0]] != [v.crop for v in other[0]]
    flips = [
        v.crop.flip for seed in range(60) for v in all_views(sample(seed, views=replace(QUIET, flip=0.2)))
    ]
    assert np.mean(flips) == pytest.approx(0.2, abs=0.08)


def test_free_crops_ignore_the_target():
    edge = row((0, 28, 12, 40))
    for change, part in (({"object_crops": False}, 0), ({"local_crops": "free"}, 1)):

        def shown(views, part=part):
            return np.mean(
                [
                    overlap(v.crop, (0, 28, 12, 40)) > 0
                    for seed in range(60)
                    for v in sample(seed, edge, views=views)[part]
                ]
            )

        assert shown(QUIET) > 0.9
        assert shown(replace(QUIET, **change)) < shown(QUIET) - 0.2


def test_local_views_without_masks_stand_for_the_target_as_they_are():
    """Whether it is in them or not; crops and global views stay the same."""
    free = replace(QUIET, local_crops="free", local_views=6)
    absent = []
    for seed in range(8):
        masked = sample(seed, row(BOXES[2]), views=free)
        whole = sample(seed, row(BOXES[2]), views=replace(free, local_masks=False))
        for a, b in zip(masked[0], whole[0]):
            assert a.crop == b.crop
            assert a.object_masks.equal(b.object_masks)
        for a, b in zip(masked[1], whole[1]):
            assert a.crop == b.crop
            assert b.object_masks.all()
            assert b.visible.tolist() == [True]
            absent.append(not a.visible[0])
    assert np.mean(absent) > 0.3


def test_local_candidates_are_the_crops_tried_for_local_views():
    def shown(candidates, local_candidates):
        views = replace(
            QUIET, local_views=6, candidates=candidates, local_candidates=local_candidates, min_coverage=0
        )
        made = [sample(seed, row(BOXES[2]), views=views) for seed in range(40)]
        return [np.mean([v.visible[0] for m in made for v in m[part]]) for part in (0, 1)]

    one, many = shown(1, 1), shown(30, 30)
    assert one[1] < many[1] - 0.2
    assert shown(30, 1) == [pytest.approx(many[0]), pytest.approx(one[1], abs=0.15)]
    assert shown(1, 30)[1] == pytest.approx(many[1], abs=0.15)
    assert shown(9, None) == shown(9, 9)


@pytest.mark.parametrize("change", [{}, {"object_masks": False}, {"local_masks": False}])
def test_first_crop_masks_are_empty_where_the_target_is_not(slow, change):
    """The target is the object that explains every view that shows it; of a view that does not, or that is
    not counted as one of it, no patch is read. Without a target no view counts.
    """
    views = replace(
        QUIET, mask_coverage=0, mask_shape="component-boxes", mask_margin=1, min_coverage=0,
        local_crops="free", global_scale=(0.1, 0.3), candidates=1, **change,
    )  # fmt: skip
    kinds = set()
    for seed in range(60):
        shown = {"target": "first-crop", "first_crop_coverage": 0.5, "first_crop_draws": 2}
        globals_, locals_, _ = sample(seed, views=views, **shown)
        targets = []
        for box in BOXES:
            rule = [expected_slot(slow, view, box, None, views, 0) for view in globals_ + locals_]
            targets.append((rule, overlap(globals_[0].crop, box)))
        for rule, _ in targets:
            explains = True
            for v, (view, (mask, seen)) in enumerate(zip(globals_ + locals_, rule)):
                if v >= 2 and not views.local_masks:
                    seen, mask = bool(globals_[0].visible[0]), np.ones_like(mask)
                got, visible = view.object_masks[0].numpy(), bool(view.visible[0])
                explains &= (visible <= seen) and (got == (mask if visible else np.zeros_like(mask))).all()
                explains &= visible or v == 1 or not seen  # the second view may show it by chance
            if explains and globals_[0].visible[0]:
                kinds.add("found" if globals_[1].visible[0] else "lost")
                break
        else:
            for view in globals_ + locals_:
                assert not view.visible[0]
                assert not view.object_masks.any()
            kinds.add("none")
    assert kinds == {"found", "lost", "none"}


def test_the_object_stays_visible_in_as_many_patches_as_asked():
    """The rest of a sample does not depend on it, but for photometrics, which are drawn later."""
    views = replace(QUIET, global_scale=(0.3, 1), min_coverage=0)
    often = PredictionConfig(probability=1, ratio=0.5, spread=0.2)
    hides = {0: [], 2: []}
    for seed in range(100):
        plain = sample(seed, row(BOXES[2], BOXES[3]), views=views, prediction=often)
        kept = sample(seed, row(BOXES[2], BOXES[3]), views=views, prediction=replace(often, keep_object=2))
        assert plain[2].sum(1).equal(kept[2].sum(1))
        for count, made in ((0, plain), (2, kept)):
            for view, hidden in zip(made[0], made[2]):
                if view.visible[0]:
                    mask = view.object_masks[0]
                    hides[count].append(int((mask & ~hidden).sum()) < min(2, int(mask.sum())))
        for a, b, before, after in zip(plain[0], kept[0], plain[2], kept[2]):
            assert a.crop == b.crop
            assert a.object_masks.equal(b.object_masks)
            if not a.visible[0]:
                assert before.equal(after)
    assert np.mean(hides[0]) > 0.05
    assert not any(hides[2])


def test_single_pixel_images_make_views():
    image = torch.full((3, 1, 1), 9, dtype=torch.uint8)
    globals_, locals_, _ = sample(of=ImageObjects("a", 1, 1, (Object((0, 0, 1, 1)),)), image=image)
    assert all(v.visible[0] and v.object_masks.all() for v in globals_ + locals_)


def test_a_mask_of_another_size_is_refused():
    wrong = row(BOXES[0], masks={0: rle.encode(np.ones((10, 10)))})
    with pytest.raises(DataError, match="mask has 100 pixels"):
        sample(of=wrong)
