"""Samples depend on their seed alone; images and objects that cannot be used are named and passed over."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from odis.config.training import (
    LoaderConfig,
    ObjectsConfig,
    PredictionConfig,
    PretrainConfig,
    TrainConfig,
    ViewsConfig,
)
from odis.data.dataset import ViewDataset
from odis.data.loader import make_loader
from odis.data.pixels import reader
from odis.data.raw_batch import RawBatch
from odis.errors import DataError
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import Batch, ImageObjects, Object

VIEWS = ViewsConfig(global_size=16, local_size=8, local_views=3, local_scale=(0.05, 0.25))


def config(batch_size=4, strict=False, workers=0, **objects) -> PretrainConfig:
    return PretrainConfig(
        strict=strict,
        objects=ObjectsConfig(**({"per_image": 3} | objects)),
        views=VIEWS,
        prediction=PredictionConfig(probability=0.7, ratio=0.5, spread=0.3),
        train=TrainConfig(batch_size=batch_size, seed=5, device="cpu"),
        loader=LoaderConfig(workers=workers),
    )


def save(path: Path, seed: int, width: int = 24, height: int = 20) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
        path
    )


def load(index: ObjectIndex, settings: PretrainConfig, steps: int = 5) -> list[Batch]:
    return list(make_loader(index, settings, patch_size=4, start_step=0, steps=steps))


def test_the_same_image_gives_other_views_in_another_epoch_and_another_seed(tmp_path):
    for k in range(4):
        save(tmp_path / f"{k}.png", k)
    index = ObjectIndex.open(tmp_path)
    dataset = ViewDataset(index, config(), 4)
    other = ViewDataset(index, replace(config(), train=replace(config().train, seed=6)), 4)
    one, same, later, reseeded = dataset[2, 3], dataset[2, 3], dataset[3, 3], other[2, 3]
    assert one.global_views[0].pixels.equal(same.global_views[0].pixels)
    assert not one.global_views[0].pixels.equal(later.global_views[0].pixels)
    assert not one.global_views[0].pixels.equal(reseeded.global_views[0].pixels)


def odd_images(folder: Path) -> None:
    """Images of every kind that trains, a truncated one, an empty file and one that is none."""
    pixels = np.random.default_rng(1).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    Image.fromarray(pixels[:1, :1, :3]).save(folder / "a_single_pixel.png")
    Image.fromarray(pixels[..., 0]).save(folder / "b_grey.jpg")
    Image.fromarray(pixels, mode="CMYK").save(folder / "c_cmyk.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "d_16_bit.png")
    Image.fromarray(pixels, mode="RGBA").save(folder / "e_rgba.png")
    save(folder / "f_truncated.jpg", 2, 200, 200)
    whole = (folder / "f_truncated.jpg").read_bytes()
    (folder / "f_truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "g_empty.png").touch()
    (folder / "h_text.png").write_text("not an image")


def test_images_of_every_kind_train_and_broken_ones_are_passed_over(tmp_path):
    odd_images(tmp_path)
    batches = load(ObjectIndex.open(tmp_path), config(batch_size=8), steps=1)
    names = [Path(p).name for p in batches[0].paths]
    assert set(names) == {"a_single_pixel.png", "b_grey.jpg", "c_cmyk.jpg", "d_16_bit.png", "e_rgba.png"}
    assert (
        names.count("a_single_pixel.png") == 4
    )  # itself, and in place of the three that precede it in a circle
    assert {Path(s.what).name for s in batches[0].skipped} == {"f_truncated.jpg", "g_empty.png", "h_text.png"}
    assert all(s.why and s.what not in s.why for s in batches[0].skipped)
    assert torch.isfinite(batches[0].global_views).all()


def bad_objects(folder: Path) -> ObjectIndex:
    save(folder / "a.png", 0)
    save(folder / "b.png", 1)
    nan = float("nan")
    boxes = [(5.0, 5.0, 5.0, 9.0), (9.0, 9.0, 4.0, 4.0), (30.0, 0.0, 40.0, 9.0), (nan, 0.0, 5.0, 5.0)]
    objects = [Object(box) for box in boxes]
    objects += [Object((1.0, 1.0, 9.0, 9.0), rle.encode(np.ones((7, 7)))), Object((2.0, 3.0, 20.0, 18.0))]
    rows = [
        ImageObjects("a.png", 24, 20, tuple(objects)),
        ImageObjects("b.png", 25, 20, (Object((0.0, 0.0, 5.0, 5.0)),)),
    ]
    write_index(folder / "index.parquet", rows, root=folder, provenance="annotated", classes=[])
    return ObjectIndex.open(folder / "index.parquet")


def test_bad_objects_are_named_and_left_out(tmp_path):
    dataset = ViewDataset(bad_objects(tmp_path), config(per_image=4), 4)
    made = dataset[0, 0]
    assert [s.what for s in made.skipped] == [f"{tmp_path / 'a.png'}, object {k}" for k in range(5)]
    for word, item in zip(("empty", "inverted", "outside", "finite", "mask has 49 pixels"), made.skipped):
        assert word in item.why
    assert max(int(view.visible.sum()) for view in made.global_views) == 1
    # The size of the image is not the row's: the next row stands in for it.
    stand_in = dataset[0, 1]
    assert stand_in.index == 0
    assert stand_in.skipped[0].what == str(tmp_path / "b.png")
    assert "24 x 20" in stand_in.skipped[0].why
    # It stands in with the views of the sample it replaces, not with a copy of its own.
    assert not stand_in.global_views[0].pixels.equal(made.global_views[0].pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_stops_at_the_first_bad_file_or_object_in_one_line(tmp_path, workers):
    index = bad_objects(tmp_path)
    dataset = ViewDataset(index, config(strict=True), 4)
    with pytest.raises(DataError, match=r"a\.png, object 0: .*empty"):
        dataset[0, 0]
    with pytest.raises(DataError, match=r"b\.png: is 24 x 20"):
        dataset[0, 1]
    with pytest.raises(DataError) as caught:
        load(index, config(strict=True, workers=workers))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_usable_image_is_an_error_that_says_so(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of its 2 images can be used; .*\.png"):
        load(ObjectIndex.open(tmp_path), config())


@pytest.mark.parametrize("place", ["memory", "device:1GiB", "disk"])
def test_what_is_kept_is_not_fetched_from_the_store_again(
    tmp_path: Path, image_server: Any, place: str
) -> None:
    """Six images with a batch of three: the third batch is the first of the second epoch."""
    rows = []
    for k in range(6):
        Image.new("RGB", (1404, 1001), (k, 2 * k, 40)).save(image_server.folder / f"{k}.jpg")
        rows.append(ImageObjects(f"{k}.jpg", 1404, 1001, (Object((5.0, 5.0, 900.0, 700.0)),)))
    write_index(tmp_path / "i.parquet", rows, root=image_server.url, provenance="annotated", classes=[])
    # Views so small that all need an image of 1 / 8, so it is read at one scale.
    views = ViewsConfig(global_size=32, global_scale=(0.9, 1.0), local_size=16, local_views=0)
    kept = f"disk:{tmp_path / 'copies'}" if place == "disk" else place
    render = "device" if place.startswith("device") else "cpu"
    settings = PretrainConfig(
        views=views,
        train=TrainConfig(batch_size=3, seed=4, device="cpu"),
        loader=LoaderConfig(workers=0, keep=[kept], render=render),
    )
    asked = []
    index = ObjectIndex.open(tmp_path / "i.parquet")
    for batch in make_loader(index, settings, patch_size=8, start_step=0, steps=6):
        if isinstance(batch, RawBatch):
            batch.to(torch.device("cpu"))
        asked.append(len(image_server.asked))
    assert asked == [3, 6, 6, 6, 6, 6]


def test_what_is_fetched_ahead_is_what_will_be_read(
    tmp_path: Path, image_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views of two sizes need a photograph at one scale or another, and memory keeps each of them."""
    rows, ahead, decoded = [], [], []
    for k in range(4):
        Image.new("RGB", (1404, 1001), (k, 2 * k, 40)).save(image_server.folder / f"{k}.jpg")
        rows.append(ImageObjects(f"{k}.jpg", 1404, 1001, (Object((5.0, 5.0, 900.0, 700.0)),)))
    write_index(tmp_path / "i.parquet", rows, root=image_server.url, provenance="annotated", classes=[])
    index = ObjectIndex.open(tmp_path / "i.parquet")
    dataset = ViewDataset(index, replace(config(), loader=LoaderConfig(workers=0, keep=["memory"])), 4)
    fetch, decode = dataset.reader.bytes.ahead, reader.decode

    def told(addresses: Iterable[str]) -> Any:
        ahead.append(list(addresses))
        return fetch(ahead[-1])

    def seen(path: str, size: tuple[int, int], shrink: int, *more: Any) -> Any:
        decoded[-1].append(path)
        return decode(path, size, shrink, *more)

    monkeypatch.setattr(dataset.reader.bytes, "ahead", told)
    monkeypatch.setattr(reader, "decode", seen)
    for epoch in range(8):
        decoded.append([])
        keys = [(epoch, row) for row in range(4)]
        with dataset.fetched(keys):
            for key in keys:
                dataset[key]
    assert ahead == decoded
    assert len(decoded[0]) == 4
    assert 0 < sum(map(len, decoded[1:])) < 7 * 4
