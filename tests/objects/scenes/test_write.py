"""Scenes on disk: the same every time, and described by their index."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from odis.errors import DataError
from odis.objects import rle
from odis.objects.check import problems
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.objects.scenes.write import write_scenes
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


def test_the_index_describes_the_pictures(index: ObjectIndex) -> None:
    assert list(problems(index)) == []
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


def test_an_index_of_scenes_takes_context(tmp_path: Path) -> None:
    write_scenes(tmp_path, tmp_path / "i.parquet", count=40, split="val", seed=0, context=1.0)
    shares = [
        np.bincount([o.label for o in row.objects]).max() / len(row.objects)
        for row in ObjectIndex.open(tmp_path / "i.parquet")
    ]
    assert np.mean(shares) > 0.65  # without a theme: 0.4
