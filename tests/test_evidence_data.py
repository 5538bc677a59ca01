"""Scenes of photographs for the study in benchmarks/evidence, on a small data set in the layout of
Tiny-ImageNet.

Every image of it is of one colour that no other has, so a pixel of a scene says which image it is from.
"""

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from odis.errors import DataError
from odis.objects.check import problems
from odis.objects.index import ObjectIndex

WNIDS = [f"n{k:08d}" for k in (30, 10, 20, 60, 50, 40, 70, 80)]
CHOSEN = [WNIDS[1], WNIDS[0], WNIDS[4], WNIDS[6]]  # 10, 30, 50, 70: every second in sorted order
IMAGES = 8


def module() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "evidence" / "photographs.py"
    spec = importlib.util.spec_from_file_location("evidence_photographs", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


photographs = module()

write = photographs.write_photograph_scenes


def colour_of(split: str, k: int, i: int) -> tuple[int, int, int]:
    """Of image i of class k (a position in WNIDS): far from every other."""
    return 30 * k + 15, 28 * i + 20, 60 if split == "train" else 200


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of eight images a split; the last two of each class have boxes that cannot be used."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("".join(f"{wnid}\tname of {wnid}, other name\n" for wnid in WNIDS))
    (root / "val/images").mkdir(parents=True)
    val = []
    for k, wnid in enumerate(WNIDS):
        (root / f"train/{wnid}/images").mkdir(parents=True)
        train = []
        for i in range(IMAGES):
            x1, y1 = {IMAGES - 2: (12, 12), IMAGES - 1: (63, 24)}.get(
                i, (40 + i, 50)
            )  # too small, too wide, or neither
            for split, name, lines, fields in (
                ("train", f"train/{wnid}/images/{wnid}_{i}.JPEG", train, [f"{wnid}_{i}.JPEG"]),
                ("val", f"val/images/val_{k}_{i}.JPEG", val, [f"val_{k}_{i}.JPEG", wnid]),
            ):
                Image.new("RGB", (64, 64), colour_of(split, k, i)).save(root / name, quality=95)
                lines.append("\t".join([*fields, "3", "4", str(x1), str(y1)]))
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text("\n".join(train) + "\n")
    (root / "val/val_annotations.txt").write_text("\n".join(val) + "\n")
    return root


def scenes(root: Path, split: str, count: int, **options: object) -> tuple[object, list]:
    found = photographs.gather(root, split, 4)
    return found, [photographs.compose(np.random.default_rng([0, i]), found, **options) for i in range(count)]


def origin(pixel: np.ndarray) -> tuple[str, int, int]:
    """Split, class and number of the image whose colour is nearest."""
    images = list(itertools.product(("train", "val"), range(len(WNIDS)), range(IMAGES)))
    distance = [np.abs(pixel.astype(int) - colour_of(*image)).sum() for image in images]
    assert min(distance) <= 12
    return images[int(np.argmin(distance))]


@pytest.mark.parametrize("split", ["train", "val"])
def test_pixels_come_from_the_images_they_should(root: Path, tmp_path: Path, split: str) -> None:
    write(tmp_path, tmp_path / "i.parquet", root=root, count=40, split=split, seed=3, classes=4)
    index = ObjectIndex.open(tmp_path / "i.parquet")
    assert list(problems(index)) == []
    assert (len(index), index.provenance) == (40, "annotated")
    assert index.classes == [f"name of {wnid}" for wnid in CHOSEN]
    behind = set()
    for i, row in enumerate(index):
        assert (row.width, row.height) == (128, 128)
        assert 2 <= len(row.objects) <= 4
        pixels = np.asarray(Image.open(index.image_path(i)))
        free = np.ones((128, 128), dtype=bool)
        for k, item in enumerate(row.objects):
            x0, y0, x1, y1 = map(int, item.box)
            free[y0:y1, x0:x1] = False
            inner = np.zeros((128, 128), dtype=bool)
            inner[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] = True
            for other in row.objects[k + 1 :]:  # pasted later, over this one
                a, b, c, d = map(int, other.box)
                inner[b:d, a:c] = False
            assert np.ptp(pixels[inner].astype(int), axis=0).max() <= 2, "the object covers its box, opaque"
            where, label, number = origin(np.median(pixels[inner], axis=0))
            assert (where, WNIDS[label]) == (split, CHOSEN[item.label or 0])
            assert number < IMAGES - 2, "boxes too small or too wide are not cut out"
            assert item.mask is None
        where, label, _ = origin(np.median(pixels[free], axis=0))
        assert where == split
        assert WNIDS[label] not in CHOSEN
        behind.add(label)
    assert len(behind) == 4


def test_shares_of_the_pictures_have_none_in_common(root: Path) -> None:
    def pictures(share: tuple[float, float]) -> set[str]:
        found = photographs.gather(root, "train", 4, share)
        cut = {cutting.image for kind in found.cuttings for cutting in kind}
        return cut | {name for kind in found.backgrounds for name in kind}

    first, last, all_of_them = pictures((0.0, 0.7)), pictures((0.7, 1.0)), pictures((0.0, 1.0))
    assert not first & last
    assert first | last == all_of_them
    # Of six that can be cut out and eight that can lie behind, in each of four classes.
    assert len(last) == 4 * (2 + 2)
    with pytest.raises(DataError, match="has no box in train that can be used"):
        pictures((0.99, 1.0))


def test_objects_keep_their_aspect_and_do_not_cover_one_another(root: Path) -> None:
    _, found = scenes(root, "train", 150)
    assert {len(scene.boxes) for scene in found} == {2, 3, 4}
    for scene in found:
        assert len(scene.boxes) == len(scene.labels) == len(scene.cuttings)
        assert len({cutting.image for cutting in scene.cuttings}) == len(scene.cuttings)
        for (x0, y0, x1, y1), cutting in zip(scene.boxes, scene.cuttings):
            assert min(x0, y0) >= 0
            assert max(x1, y1) <= 128
            assert 36 <= y1 - y0 <= 64
            a, b, c, d = cutting.box
            assert abs((x1 - x0) - (y1 - y0) * (c - a) / (d - b)) <= 0.5
        for (a0, b0, a1, b1), (c0, d0, c1, d1) in itertools.combinations(scene.boxes, 2):
            shared = max(min(a1, c1) - max(a0, c0), 0) * max(min(b1, d1) - max(b0, d0), 0)
            assert shared <= 0.1 * min((a1 - a0) * (b1 - b0), (c1 - c0) * (d1 - d0))
    counts = np.bincount([label for scene in found for label in scene.labels], minlength=4)
    assert counts.min() > 0.7 * counts.mean()
    assert np.mean([len(set(scene.labels)) > 1 for scene in found]) > 0.6, (
        "crops of one scene show different classes"
    )


def test_edges_fade(root: Path) -> None:
    found, (scene, *_) = scenes(root, "train", 1, objects=(1, 1))
    x0, y0, x1, y1 = scene.boxes[0]
    middle = (y0 + y1) // 2
    line = scene.pixels[middle, x0 : x0 + 4].astype(float)
    behind = np.asarray(found.image(scene.background), dtype=float)[0, 0]
    pasted = scene.pixels[middle, (x0 + x1) // 2].astype(float)
    share = ((line - behind) @ (pasted - behind)) / ((pasted - behind) @ (pasted - behind))
    assert share == pytest.approx([1 / 3, 2 / 3, 1, 1], abs=0.04)


def test_a_scene_depends_on_seed_split_and_number_only(root: Path, tmp_path: Path) -> None:
    def made(name: str, count: int, split: str = "train", **options: object) -> list[bytes]:
        write(
            tmp_path / name,
            tmp_path / f"{name}.parquet",
            root=root,
            count=count,
            split=split,
            classes=4,
            **{"seed": 1, **options},
        )
        return [(tmp_path / name / split / f"{i:06d}.png").read_bytes() for i in range(3)]

    first = made("few", 3)
    assert made("many", 9) == first
    assert all(a != b for a, b in zip(first, made("seed", 3, seed=2)))
    assert all(a != b for a, b in zip(first, made("split", 3, split="val")))


def test_context_pairs_background_with_class_and_moves_no_other_scene(root: Path) -> None:
    found, plain = scenes(root, "train", 400)
    _, half = scenes(root, "train", 400, context=0.5)
    _, all_ = scenes(root, "train", 400, context=1.0)
    assert all(scene.theme is None for scene in plain)
    assert len(set(found.partners)) == 4
    assert 0.4 < np.mean([scene.theme is not None for scene in half]) < 0.6
    for a, b, c in zip(plain, half, all_):
        assert np.array_equal(b.pixels, (a if b.theme is None else c).pixels)
        assert c.background in found.backgrounds[found.partners[c.theme]]
    of_theme = np.array([label == scene.theme for scene in all_ for label in scene.labels])
    expected = 0.7 + 0.3 / 4
    assert abs(of_theme.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 400)
    # Without context, the class of the background says nothing: for each, every class is as frequent as the
    # others.
    table = np.zeros((4, 4))
    for scene in plain:
        table[
            next(k for k, images in enumerate(found.backgrounds) if scene.background in images),
            scene.labels[0],
        ] += 1
    assert ((table - 25) ** 2 / 25).sum() < 37.7  # chi-squared of 15 degrees of freedom, 0.1 %


def test_classes_may_be_named(root: Path, tmp_path: Path) -> None:
    write(
        tmp_path,
        tmp_path / "i.parquet",
        root=root,
        count=2,
        split="train",
        seed=0,
        classes=[WNIDS[3], WNIDS[2]],
    )
    assert ObjectIndex.open(tmp_path / "i.parquet").classes == [f"name of {WNIDS[2]}", f"name of {WNIDS[3]}"]


def test_a_scene_too_full_has_fewer_objects(root: Path) -> None:
    _, found = scenes(root, "train", 10, size=96, objects=(2, 9), height=(40, 60))
    assert all(2 <= len(scene.boxes) <= 6 for scene in found)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"split": "test"}, "no split 'test'; there are train and val"),
        ({"root": "nowhere"}, "nowhere: no split 'train'; there are none of train, val, test"),
        ({"count": 0}, "count is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"objects": (3, 2)}, r"objects is \[3, 2\]"),
        ({"height": (4, 9)}, r"height is \[4, 9\]"),
        ({"height": (36, 200)}, "do not fit into a scene of 128"),
        ({"objects": (9, 9)}, "do not fit"),
        ({"context": -0.1}, "context is -0.1, must be in 0..1"),
        (
            {"context": 0.5, "classes": 6},
            "context needs a class for the background of each of 6 classes, only 2 are left",
        ),
        ({"classes": 8}, r"classes is 8, must be in 1..7"),
        ({"classes": ["n1"]}, "no class 'n1'"),
    ],
)
def test_impossible_scenes_are_refused_before_anything_is_written(
    root: Path, tmp_path: Path, options: dict, text: str
) -> None:
    arguments = {"root": root, "count": 2, "split": "train", "seed": 0, "classes": 4, **options}
    with pytest.raises(DataError, match=text):
        write(tmp_path / "out", tmp_path / "out/i.parquet", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: scenes cannot be written"):
        write(tmp_path / "file", tmp_path / "i.parquet", root=root, count=1, split="train", seed=0, classes=4)
