import hashlib
import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from odis.errors import DataError
from odis.objects import rle
from odis.objects.build import build_index
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex, check_index
from odis.objects.scenes import compose as scenes
from odis.objects.scenes.compose import Scene, compose, split_digits, write_scenes
from odis.objects.scenes.grounds import themed_ground
from odis.types import Object

SCENES = 300


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ObjectIndex:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, folder / "train.parquet", count=SCENES, split="train", seed=1)
    return ObjectIndex.open(folder / "train.parquet")


def test_same_seed_same_bytes(index: ObjectIndex, tmp_path: Path) -> None:
    write_scenes(tmp_path, tmp_path / "again.parquet", count=5, split="train", seed=1)
    again = ObjectIndex.open(tmp_path / "again.parquet")
    for i in range(5):  # scene i does not depend on how many were asked for
        assert Path(again.image_path(i)).read_bytes() == Path(index.image_path(i)).read_bytes()
        assert again[i] == index[i]


def test_another_seed_or_split_gives_other_scenes(index: ObjectIndex, tmp_path: Path) -> None:
    for split, seed in (("train", 2), ("val", 1)):
        write_scenes(tmp_path, tmp_path / "other.parquet", count=3, split=split, seed=seed)
        other = ObjectIndex.open(tmp_path / "other.parquet")
        assert all(
            Path(other.image_path(i)).read_bytes() != Path(index.image_path(i)).read_bytes() for i in range(3)
        )
        assert other[0].image == f"{split}/000000.png"


def test_train_and_val_share_no_digit_and_leave_none_out() -> None:
    (train, train_labels), (val, val_labels) = split_digits("train"), split_digits("val")
    digits = load_digits()
    seen = {image.tobytes() for image in train}
    assert not any(image.tobytes() in seen for image in val)
    assert len(train) + len(val) == len(digits.images)
    whole = sorted(np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in digits.images)
    assert sorted(image.tobytes() for image in (*train, *val)) == whole
    for label in range(10):
        n = (digits.target == label).sum()
        assert (train_labels == label).sum() == round(0.75 * n)
        assert (val_labels == label).sum() == n - round(0.75 * n)
    with pytest.raises(DataError, match="no split 'test'; there are train and val"):
        split_digits("test")


def test_the_index_describes_the_pictures(index: ObjectIndex) -> None:
    assert check_index(index, decode=True) == []
    assert (len(index), index.classes, index.provenance) == (SCENES, [str(k) for k in range(10)], "annotated")
    assert {len(row.objects) for row in index} == {3, 4, 5}
    counts = np.bincount([item.label for row in index for item in row.objects], minlength=10)
    assert counts.min() > 0.6 * counts.mean()


def test_box_and_mask_agree_and_no_box_is_covered(index: ObjectIndex) -> None:
    for row in index:
        for item in row.objects:
            assert item.mask is not None
            mask = rle.decode(item.mask, 96, 96)
            ys, xs = np.nonzero(mask)
            assert item.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert 14 <= item.box[3] - item.box[1] <= 48
        for a, b in itertools.combinations(row.objects, 2):
            w = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
            h = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
            smaller = min((o.box[2] - o.box[0]) * (o.box[3] - o.box[1]) for o in (a, b))
            assert max(w, 0) * max(h, 0) <= 0.1 * smaller + 1e-9
            assert not (rle.decode(a.mask or b"", 96, 96) & rle.decode(b.mask or b"", 96, 96)).any()


def crops(index: ObjectIndex) -> list[tuple[np.ndarray, np.ndarray, Object]]:
    """Pixels and mask inside the box of every object."""
    found = []
    for i, row in enumerate(index):
        pixels = np.asarray(load_image(index.image_path(i))).astype(np.float64)
        for item in row.objects:
            x0, y0, x1, y1 = map(int, item.box)
            found.append((pixels[y0:y1, x0:x1], rle.decode(item.mask or b"", 96, 96)[y0:y1, x0:x1] > 0, item))
    return found


def accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Of 15 nearest neighbours, the first half of the objects against the second."""
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    half = len(labels) // 2
    return KNeighborsClassifier(15).fit(features[:half], labels[:half]).score(features[half:], labels[half:])


def test_only_the_shape_gives_the_digit_away(index: ObjectIndex) -> None:
    found = crops(index)
    labels = np.array([item.label for _, _, item in found])
    colour = np.array([pixels[mask].mean(axis=0) for pixels, mask, _ in found])
    behind = np.array([pixels[~mask].mean(axis=0) for pixels, mask, _ in found])
    centre = np.array([((o.box[0] + o.box[2]) / 2, (o.box[1] + o.box[3]) / 2) for _, _, o in found])
    shape = np.array(
        [np.asarray(Image.fromarray(mask.astype(np.float32)).resize((8, 8))).ravel() for _, mask, _ in found]
    )
    assert accuracy(shape, labels) > 0.75
    assert accuracy(np.hstack([colour, behind, centre]), labels) < 0.16
    assert accuracy(colour, labels) < 0.16
    assert accuracy(centre, labels) < 0.16


def test_digits_are_legible_and_all_about_as_bright(index: ObjectIndex) -> None:
    luma = np.array([0.299, 0.587, 0.114])
    contrast = np.array(
        [(pixels @ luma)[mask].mean() - (pixels @ luma)[~mask].mean() for pixels, mask, _ in crops(index)]
    )
    assert np.quantile(contrast, 0.02) > 60
    assert contrast.std() < 0.15 * contrast.mean()


def test_colours_have_the_luma_they_are_given() -> None:
    luma = np.random.default_rng(1).uniform(60, 200, (500, 1))
    colours = scenes._coloured(np.random.default_rng(0), luma)
    assert colours.min() > -1e-9
    assert colours.max() < 255 + 1e-9
    assert np.abs(colours @ np.array([0.299, 0.587, 0.114]) - luma[:, 0]).max() < 1e-9
    assert np.ptp(colours, axis=1).mean() > 60  # and strong hues


def test_size_and_numbers_are_as_asked(tmp_path: Path) -> None:
    write_scenes(
        tmp_path,
        tmp_path / "i.parquet",
        count=8,
        split="val",
        seed=0,
        size=64,
        digits=(1, 2),
        digit_size=(12, 16),
    )
    for row in ObjectIndex.open(tmp_path / "i.parquet"):
        assert (row.width, row.height) == (64, 64)
        assert 1 <= len(row.objects) <= 2
        assert all(8 <= o.box[3] - o.box[1] <= 24 for o in row.objects)


def test_a_full_scene_drops_digits_rather_than_cover_them() -> None:
    images, labels = split_digits("val")
    full = [
        compose(np.random.default_rng(i), images, labels, size=48, digits=(9, 9), digit_size=(20, 20))
        for i in range(10)
    ]
    assert all(2 <= len(scene.labels) < 9 for scene in full)
    assert all(len(scene.labels) == len(scene.masks) for scene in full)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"count": 0}, "count is 0"),
        ({"digits": (0, 3)}, "digits is"),
        ({"digits": (4, 3)}, "digits is"),
        ({"digit_size": (4, 8)}, "digit_size is"),
        ({"digits": (9, 9)}, "do not fit"),
        ({"split": "test"}, "no split 'test'"),
        ({"context": 1.5}, "context is 1.5, must be in 0..1"),
        ({"context": float("nan")}, "context is nan"),
    ],
)
def test_impossible_scenes_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict, text: str
) -> None:
    with pytest.raises(DataError, match=text):
        write_scenes(
            tmp_path / "out",
            tmp_path / "out/i.parquet",
            **{"count": 2, "split": "train", "seed": 0, **options},
        )
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: scenes cannot be written"):
        write_scenes(tmp_path / "file", tmp_path / "i.parquet", count=1, split="train", seed=0)


def test_scenes_are_a_source_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "read", partial(scenes.read, count=3))
    summary = build_index("scenes", tmp_path / "new", tmp_path / "i.parquet", split="val")
    index = ObjectIndex.open(tmp_path / "i.parquet")
    assert (summary.images, summary.written, summary.kept) == (3, 3, sum(len(row.objects) for row in index))
    assert index.root == tmp_path / "new"


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


@pytest.mark.parametrize("theme", range(10))
def test_grounds_are_equally_bright_and_keep_their_hue(theme: int) -> None:
    luma = np.array([0.299, 0.587, 0.114])
    ground = themed_ground(np.random.default_rng(theme), theme, 240, 75.0)
    assert ground.shape == (240, 240, 3)
    assert ground.min() >= 0
    assert ground.max() <= 255
    assert abs((ground @ luma).mean() - 75) < 2
    assert 8 < (ground @ luma).std() < 16, "a pattern that shows, and that does not outshine ink"
    shares = ground / ground.sum(axis=2, keepdims=True)
    assert np.ptp(shares, axis=(0, 1)).max() < 1e-9


def test_an_index_of_scenes_takes_context(tmp_path: Path) -> None:
    write_scenes(tmp_path, tmp_path / "i.parquet", count=40, split="val", seed=0, context=1.0)
    shares = [
        np.bincount([o.label for o in row.objects]).max() / len(row.objects)
        for row in ObjectIndex.open(tmp_path / "i.parquet")
    ]
    assert np.mean(shares) > 0.65  # without a theme: 0.4
