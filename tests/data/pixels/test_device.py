"""Images that stay on the training device: the same batches as without, read and sent once, as long as there
is room.
"""

import pickle
import re
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.config.training import LoaderConfig, PretrainConfig, TrainConfig, ViewsConfig
from odis.data.loader import make_loader
from odis.data.pixels import reader
from odis.data.pixels.decode import Decoded, decode
from odis.data.pixels.device import CacheRef, DeviceCache
from odis.data.pixels.request import ImageRequest
from odis.data.raw_batch import RawBatch
from odis.objects.index import ObjectIndex, write_index
from odis.types import Batch, ImageObjects, Object

COUNT = 6


def asked(row: int, shrink: int) -> ImageRequest:
    return ImageRequest(row, "not read", (0, 0), shrink)


def takes(store: DeviceCache, shrink: int) -> bool:
    """Whether an image at 1 / `shrink` of its size would be sent whole."""
    image = Decoded(torch.zeros(3, 1, 1, dtype=torch.uint8))
    marked = store.put(asked(0, shrink), image)
    assert marked.pixels is image.pixels
    assert marked.kept_as in (None, shrink)
    return marked.kept_as is not None


def config(
    size: str | None = "1GiB", workers: int = 0, keep: tuple[str, ...] = (), **loader
) -> PretrainConfig:
    on_device = [f"device:{size}"] if size else []
    return PretrainConfig(
        views=ViewsConfig(global_size=48, local_size=24, local_views=3),
        train=TrainConfig(batch_size=3, seed=4, device="cpu"),
        loader=LoaderConfig(workers=workers, render="device", keep=[*on_device, *keep], **loader),
    )


@pytest.fixture
def images(tmp_path: Path) -> ObjectIndex:
    """Small noise, with an object each; a photograph that is decoded at a fraction, one fraction or another;
    and one that is no image.
    """
    rng, rows = np.random.default_rng(0), []
    for i in range(COUNT - 2):
        height, width = (int(n) for n in rng.integers(40, 90, 2))
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(ImageObjects(f"{i}.png", width, height, (Object((5, 6, 30, 33)),)))
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (1301, 901), Image.Resampling.BICUBIC
    )
    coarse.save(tmp_path / "photo.jpg")
    rows.append(ImageObjects("photo.jpg", 1301, 901, ()))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    rows.append(ImageObjects("broken.jpg", 50, 50, ()))
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=[])
    return ObjectIndex.open(tmp_path / "i.parquet")


def load(index: ObjectIndex, settings: PretrainConfig, steps: int = 8, start_step: int = 0) -> list[Batch]:
    return [
        b.to("cpu") for b in make_loader(index, settings, patch_size=8, start_step=start_step, steps=steps)
    ]


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs):
        for field in fields(Batch):
            one, other = getattr(a, field.name), getattr(b, field.name)
            assert one.equal(other) if isinstance(one, torch.Tensor) else one == other, field.name


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keep", [(), ("memory",), ("disk:",), ("memory", "disk:")], ids=str)
def test_batches_are_those_without_bit_for_bit(images, tmp_path, workers, keep):
    keep = tuple(f"{one}{tmp_path / 'copies'}" if one == "disk:" else one for one in keep)
    expected = load(images, config(None, keep=keep))
    assert any(batch.skipped for batch in expected)
    assert_equal(load(images, config(workers=workers, keep=keep)), expected)
    assert_equal(load(images, config(workers=workers, keep=keep), start_step=3), expected[3:])


def test_an_image_is_read_and_sent_once(images, monkeypatch):
    read: list[str] = []

    def counted(path, *rest) -> Decoded:
        read.append(Path(path).name)
        return decode(path, *rest)

    monkeypatch.setattr(reader, "decode", counted)
    first = list(
        make_loader(images, config(), patch_size=8, start_step=0, steps=2)
    )  # made before any is taken: nothing is there yet
    assert all(ref.sent for batch in first for ref in batch.refs)
    read.clear()
    there: set[tuple[int, int]] = set()
    sent = 0
    for batch in make_loader(images, config(), patch_size=8, start_step=0, steps=40):
        assert isinstance(batch, RawBatch)
        whole = [ref for ref in batch.refs if ref.sent]
        assert batch.pixels.numel() == sum(3 * ref.sent[0] * ref.sent[1] for ref in whole)
        assert not there & {(ref.row, ref.shrink) for ref in whole}
        assert {(ref.row, ref.shrink) for ref in batch.refs if not ref.sent} <= there
        there |= {(ref.row, ref.shrink) for ref in whole}
        sent += len(whole)
        batch.to("cpu")
    assert {row for row, _ in there} == set(range(COUNT - 1))
    assert len([name for name in read if name != "broken.jpg"]) == sent < 12 < 40 * 3


def test_workers_see_what_the_training_process_keeps(images):
    loader = make_loader(images, config(workers=2, prefetch=1), patch_size=8, start_step=0, steps=30)
    sent = []
    for batch in loader:
        sent.append(batch.pixels.numel())
        batch.to("cpu")
    assert sent[0] > 0
    assert sum(sent[20:]) == 0


def test_when_it_is_full_others_travel_as_before(images):
    expected = load(images, config(None), steps=12)
    small = config("30KB")  # an image or two
    found, parts, kept = [], [], []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for batch in make_loader(images, small, patch_size=8, start_step=0, steps=12):
            parts.append(sum(ref is None for ref in batch.refs))
            kept.append(sum(ref is not None and ref.sent is None for ref in batch.refs))
            found.append(batch.to("cpu"))
    (warning,) = seen
    assert re.search(
        r"^loader.keep device: 0.00 GiB are full with [12] of 6 images; others are sent for every batch$",
        str(warning.message),
    )
    assert_equal(found, expected)
    assert parts[0] == 0
    assert sum(kept[4:]) > 0
    assert sum(parts[4:]) + sum(kept[4:]) == 3 * 8  # of what does not stay no more is sent than is shown


def test_an_image_is_found_with_its_geometry_and_without_pixels():
    store = DeviceCache(3, 10**6)
    assert store.get(asked(1, 2)) is None
    pixels = torch.arange(5 * 7 * 3, dtype=torch.uint8).view(5, 7, 3)
    shown = store.shown(CacheRef(1, 2, (1, 2, 6, 4), (5, 7), 4, (0.25, -0.5)), pixels)
    assert torch.equal(shown, pixels[2:4, 1:6])
    found = store.get(asked(1, 2))
    assert found is not None
    assert found.pixels.is_meta
    assert (tuple(found.pixels.shape), found.shrink, found.offset) == ((3, 5, 7), 4, (0.25, -0.5))
    assert store.get(asked(1, 1)) is None
    assert store.get(asked(0, 2)) is None
    again = store.shown(CacheRef(1, 2, (0, 0, 7, 5), None), None)
    assert torch.equal(again, pixels)
    pixels.zero_()
    assert again.any(), "it keeps images of its own"


def test_sizes_beyond_its_levels_are_not_kept():
    store = DeviceCache(1, 10**6)
    assert takes(store, 1)
    assert takes(store, 128)
    assert not takes(store, 256)
    assert store.get(asked(0, 256)) is None


def test_a_process_that_was_not_forked_sends_all():
    store = DeviceCache(2, 100)
    store.shown(CacheRef(0, 1, (0, 0, 2, 2), (2, 2)), torch.zeros(2, 2, 3, dtype=torch.uint8))
    other = pickle.loads(pickle.dumps(store))
    assert store.get(asked(0, 1)) is not None
    assert other.get(asked(0, 1)) is None
    assert takes(other, 1)


def test_without_room_for_one_nothing_is_kept():
    store = DeviceCache(2, 11)
    with pytest.warns(UserWarning, match="with 0 of 2 images"):
        shown = store.shown(CacheRef(0, 1, (0, 0, 2, 1), (2, 2)), torch.ones(2, 2, 3, dtype=torch.uint8))
    assert shown.shape == (1, 2, 3)
    assert store.get(asked(0, 1)) is None
    assert not takes(store, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.shown(CacheRef(0, 1, (0, 0, 2, 1), (2, 2)), torch.ones(2, 2, 3, dtype=torch.uint8))
