"""Finding objects in a corpus: failures stay with their image, an interruption costs a part, Ray makes the
same index.
"""

import functools
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from odis.errors import ConfigError, DataError
from odis.finding.corpus import find_objects
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object, Skipped

SETTINGS = {"with": "brightness"}


class Brightness:
    """Finds the part of an image that is bright; fails on images that are all black."""

    provenance = "detected:brightness@1"
    classes: ClassVar[list[str]] = ["bright"]

    def __init__(self, log: Path | None = None, die_once: Path | None = None) -> None:
        self.log, self.die_once = log, die_once

    def __call__(self, images: list[np.ndarray]) -> list[list[Object]]:
        if (
            self.die_once is not None
            and not self.die_once.exists()
            and any(image[0, 0, 2] == 77 for image in images)
        ):
            self.die_once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write("".join(f"{image[0, 0, 2]}\n" for image in images))
        if any(not image.any() for image in images):
            raise ValueError("nothing to\nsee")
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> list[Object]:
        bright = image[..., 0] > 127
        if not bright.any():
            return []
        ys, xs = np.nonzero(bright)
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        return [Object(box, rle.encode(bright), label=0, score=0.25), Object((5.0, 5.0, 5.0, 9.0))]


def picture(path: Path, number: int, black: bool = False, bright: bool = True) -> None:
    pixels = np.zeros((12 + number % 3, 16, 3), dtype=np.uint8)
    if not black:
        pixels[..., 2] = number
        pixels[..., 1] = 1
    if bright and not black:
        pixels[2 : 4 + number % 5, 3:9, 0] = 255
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """23 images: one is black (the finder fails), one truncated, one without anything bright."""
    images = tmp_path / "images"
    for i in range(23):
        picture(images / f"{i:02d}.png", i, black=i == 5, bright=i != 7)
    (images / "11.png").write_bytes((images / "11.png").read_bytes()[:60])
    return images


def expected() -> tuple[list[str], int]:
    return [f"{i:02d}.png" for i in range(23) if i not in (5, 11)], 20


def test_failures_stay_with_the_image_that_caused_them(folder: Path, tmp_path: Path):
    out, skipped, seen = tmp_path / "found.parquet", [], []
    summary = find_objects(
        ObjectIndex.open(folder), out, Brightness, settings=SETTINGS, batch_size=4, part_size=6,
        report=skipped.append, progress=lambda *now: seen.append(now),
    )  # fmt: skip
    names, objects = expected()
    index = ObjectIndex.open(out)
    assert [row.image for row in index] == names
    assert index.provenance == "detected:brightness@1"
    assert index.root == folder
    assert (summary.images, summary.written, summary.images_skipped) == (23, 21, 2)
    assert (summary.objects, summary.kept, summary.objects_skipped) == (2 * objects, objects, objects)
    assert {row.image for row in index if not row.objects} == {"07.png"}
    row = index[0]
    assert row.objects[0].box == (3.0, 2.0, 9.0, 4.0)
    assert rle.decode(row.objects[0].mask, row.width, row.height).sum() == 12
    whys = {
        Path(item.what.split(",")[0]).name: item.why for item in skipped if "found object" not in item.what
    }
    assert whys["05.png"] == "finding objects in it failed (nothing to see)"
    assert "cannot be decoded" in whys["11.png"]
    assert sum("is empty" in item.why for item in skipped) == objects
    assert seen == [(0, 23), (6, 23), (12, 23), (18, 23), (23, 23)]


@pytest.mark.parametrize(("batch_size", "part_size"), [(1, 1), (3, 7), (8, 512)])
def test_batches_and_parts_change_nothing(folder: Path, tmp_path: Path, batch_size: int, part_size: int):
    find_objects(
        ObjectIndex.open(folder),
        tmp_path / "a.parquet",
        Brightness,
        settings=SETTINGS,
        batch_size=4,
        part_size=6,
    )
    out = tmp_path / "b"
    find_objects(
        ObjectIndex.open(folder),
        out,
        Brightness,
        settings=SETTINGS,
        batch_size=batch_size,
        part_size=part_size,
    )
    assert list(ObjectIndex.open(out)) == list(ObjectIndex.open(tmp_path / "a.parquet"))


def test_an_interrupted_run_goes_on_without_repeating_or_losing_an_image(folder: Path, tmp_path: Path):
    out, log, index = tmp_path / "found.parquet", tmp_path / "log", ObjectIndex.open(folder)
    build = functools.partial(Brightness, log)

    def interrupt(done: int, total: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_objects(index, out, build, settings=SETTINGS, batch_size=2, part_size=6, progress=interrupt)
    assert not out.exists()
    summary = find_objects(index, out, build, settings=SETTINGS, batch_size=2, part_size=6)
    find_objects(index, tmp_path / "whole.parquet", Brightness, settings=SETTINGS, batch_size=2, part_size=6)
    assert list(ObjectIndex.open(out)) == list(ObjectIndex.open(tmp_path / "whole.parquet"))
    numbers = [
        int(n) for n in log.read_text().split() if n != "0"
    ]  # a batch that failed is asked again image by image
    assert sorted(set(numbers)) == [n for n in range(1, 23) if n not in (5, 11)]
    assert len(numbers) == len(set(numbers)) + 1  # 4 shared its batch with the black one
    assert (summary.images, summary.written) == (23, 21)
    assert find_objects(index, out, build, settings=SETTINGS, batch_size=2, part_size=6) is None
    with pytest.raises(DataError, match="was not made with these settings"):
        find_objects(index, out, build, settings={"with": "other"}, batch_size=2, part_size=6)


def test_a_finder_that_fails_on_everything_ends_the_run(tmp_path: Path):
    for i in range(20):
        picture(tmp_path / "images" / f"{i:02d}.png", i, black=True)
    with pytest.raises(
        DataError, match=r"brightness@1: failed on each of its first 16 images; on .*15\.png: nothing to see"
    ):
        find_objects(
            ObjectIndex.open(tmp_path / "images"), tmp_path / "out.parquet", Brightness, settings=SETTINGS
        )


def test_nothing_usable_makes_no_index(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no image that can be used; the first: .*a\.png: is not an image"):
        find_objects(
            ObjectIndex.open(tmp_path / "images"), tmp_path / "out.parquet", Brightness, settings=SETTINGS
        )
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_an_index_may_say_which_images(folder: Path, tmp_path: Path):
    rows = [ImageObjects("03.png", 16, 12), ImageObjects("04.png", 99, 99)]
    write_index(tmp_path / "some.parquet", rows, root=folder, provenance="annotated", classes=["x"])
    skipped: list[Skipped] = []
    out = tmp_path / "out.parquet"
    find_objects(
        ObjectIndex.open(tmp_path / "some.parquet"), out, Brightness, settings=SETTINGS, report=skipped.append
    )
    assert [row.image for row in ObjectIndex.open(out)] == ["03.png"]
    assert any("its objects are for 99 x 99" in item.why for item in skipped)


@pytest.mark.parametrize("name", ["batch_size", "part_size", "workers"])
def test_sizes_are_checked(folder: Path, tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match=f"{name.replace('_', '-')}: is 0, must be 1 or more"):
        find_objects(
            ObjectIndex.open(folder), tmp_path / "x.parquet", Brightness, settings=SETTINGS, **{name: 0}
        )


@pytest.fixture
def cluster(ray_cluster) -> None:
    """A Ray cluster to which this module's classes are sent as they are: its workers cannot import a test."""
    ray_cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("cluster")
def test_ray_makes_the_same_index_with_a_worker_killed(folder: Path, tmp_path: Path):
    picture(folder / "13.png", 77)  # whichever worker meets this one first is killed
    index, killed = ObjectIndex.open(folder), tmp_path / "killed"
    summary = find_objects(
        index, tmp_path / "local.parquet", Brightness, settings=SETTINGS, batch_size=2, part_size=3
    )
    build = functools.partial(Brightness, None, killed)
    skipped: list[Skipped] = []
    by_ray = find_objects(
        index,
        tmp_path / "ray.parquet",
        build,
        settings=SETTINGS,
        batch_size=2,
        part_size=3,
        engine="ray",
        workers=2,
        report=skipped.append,
    )
    assert killed.exists()
    assert list(ObjectIndex.open(tmp_path / "ray.parquet")) == list(
        ObjectIndex.open(tmp_path / "local.parquet")
    )
    assert str(by_ray).split(":", 1)[1] == str(summary).split(":", 1)[1]
    assert len(skipped) == by_ray.images_skipped + by_ray.objects_skipped


def _no_finder() -> Brightness:
    raise DataError("weights.pth: no such file")


@pytest.mark.usefixtures("cluster")
def test_ray_hands_over_the_one_line_of_an_error(folder: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"^weights\.pth: no such file$"):
        find_objects(
            ObjectIndex.open(folder),
            tmp_path / "ray.parquet",
            _no_finder,
            settings=SETTINGS,
            engine="ray",
            workers=2,
        )


def test_ray_is_asked_for_when_it_is_missing(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Exception, match=r"pip install 'odis\[ray\]'"):
        find_objects(
            ObjectIndex.open(folder), tmp_path / "ray.parquet", Brightness, settings=SETTINGS, engine="ray"
        )
