"""Composed scenes: what is drawn, and themes."""

import hashlib

import numpy as np

from odis.objects.scenes.compose import Scene, compose
from odis.objects.scenes.digits import split_digits


def test_a_full_scene_drops_digits_rather_than_cover_them() -> None:
    images, labels = split_digits("val")
    full = [
        compose(np.random.default_rng(i), images, labels, size=48, digits=(9, 9), digit_size=(20, 20))
        for i in range(10)
    ]
    assert all(2 <= len(scene.labels) < 9 for scene in full)
    assert all(len(scene.labels) == len(scene.masks) for scene in full)


def themed(context: float, count: int) -> list[Scene]:
    images, labels = split_digits("train")
    return [compose(np.random.default_rng([5, i]), images, labels, context=context) for i in range(count)]


def same(a: Scene, b: Scene) -> bool:
    return a.labels == b.labels and np.array_equal(a.pixels, b.pixels) and np.array_equal(a.masks, b.masks)


def test_without_context_scenes_are_what_they_were_before_there_was_any() -> None:
    digest = hashlib.sha256()
    for split in ("train", "val"):
        images, labels = split_digits(split)
        for i in range(6):
            scene = compose(np.random.default_rng([7, i]), images, labels)
            for part in (scene.pixels, *scene.masks):
                digest.update(part.tobytes())
            digest.update(bytes(scene.labels))
            assert scene.theme is None
    small = compose(np.random.default_rng(3), images, labels, size=64, digits=(1, 2), digit_size=(12, 16))
    digest.update(small.pixels.tobytes())
    # Made by these lines when `compose` had no `context`.
    assert digest.hexdigest() == "b95bf3170d0356d7527bdd49dac5d2acf674300ad7975f157f196ab3e3f46f62"


def test_a_larger_share_themes_more_scenes_and_changes_no_other() -> None:
    plain, some, most = themed(0, 100), themed(0.3, 100), themed(0.8, 100)
    assert 0.18 < np.mean([scene.theme is not None for scene in some]) < 0.42
    assert 0.68 < np.mean([scene.theme is not None for scene in most]) < 0.92
    for a, b, c in zip(plain, some, most):
        assert same(b, a if b.theme is None else c)
        assert c.theme is not None or same(c, a)


def test_most_digits_are_of_the_theme() -> None:
    images, labels = split_digits("val")
    # One digit each, which always finds a place: the draws are independent.
    found = [
        compose(
            np.random.default_rng([6, i]),
            images,
            labels,
            size=48,
            digits=(1, 1),
            digit_size=(12, 16),
            context=1.0,
        )
        for i in range(500)
    ]
    share = np.mean([scene.labels[0] == scene.theme for scene in found])
    expected = 0.7 + 0.3 / 10
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(found))
    counts = np.bincount([scene.theme or 0 for scene in found], minlength=10)
    assert counts.min() > 25


def outside(scene: Scene) -> np.ndarray:
    """The picture with a grey rectangle over every digit's box, float (size, size, 3)."""
    pixels = scene.pixels.astype(np.float64)
    for mask in scene.masks:
        ys, xs = np.nonzero(mask)
        pixels[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = np.nan
    return pixels


def colour(scene: Scene) -> np.ndarray:
    """Median colour outside all boxes."""
    return np.nanmedian(outside(scene), axis=(0, 1))


def texture(scene: Scene) -> np.ndarray:
    """Of the grey picture outside all boxes: how alike pixels are that lie so far apart, whatever the
    phase.
    """
    grey = outside(scene) @ np.array([0.299, 0.587, 0.114])
    shifts = [(dy, dx) for dy in range(0, 16, 4) for dx in range(-15, 16, 4)]
    return np.array(
        [np.nanmean(np.minimum(np.abs(grey - np.roll(grey, shift, axis=(0, 1))), 60)) for shift in shifts]
    )


def nearest_mean(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on the second half of the nearest of the class means of the first."""
    half = len(labels) // 2
    kinds = np.unique(labels[:half])
    means = np.stack([features[:half][labels[:half] == k].mean(axis=0) for k in kinds])
    found = kinds[((features[half:, None] - means) ** 2).sum(axis=2).argmin(axis=1)]
    return float((found == labels[half:]).mean())


def test_only_with_context_do_the_surroundings_tell_the_class() -> None:
    found, plain = themed(1.0, 200), themed(0, 300)
    themes = np.array([scene.theme for scene in found])
    assert nearest_mean(np.array([colour(scene) for scene in found]), themes) > 0.9
    assert nearest_mean(np.array([texture(scene) for scene in found]), themes) > 0.9, "in grey too"
    first = np.array([scene.labels[0] for scene in plain])
    bound = 0.1 + 4 * np.sqrt(0.1 * 0.9 / 150)
    assert nearest_mean(np.array([colour(scene) for scene in plain]), first) < bound
    assert nearest_mean(np.array([texture(scene) for scene in plain]), first) < bound
