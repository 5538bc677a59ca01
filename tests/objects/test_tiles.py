"""Tiles of slides: which hold tissue, at which magnification, and their pixels."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import odis
from odis.cli import run
from odis.config.training import ViewsConfig
from odis.data.pixels import shrink
from odis.data.pixels.decode import decode
from odis.data.pixels.disk import DiskCache
from odis.data.pixels.request import ImageRequest
from odis.errors import ConfigError, DataError
from odis.objects.decoding import slide_tiles
from odis.objects.decoding.slide_tiles import open_slide
from odis.objects.edit.pack import pack_index
from odis.objects.images import header_sizes, load_image
from odis.objects.index import ObjectIndex
from odis.objects.listing import list_files
from odis.objects.storage.address import Tile, file_of, parse_tile
from odis.objects.tiles import Tiling, tile_slides, tiles_of
from odis.types import Skipped

WIDTH, HEIGHT = 512, 384


def painted(seed: int = 0) -> np.ndarray:
    """White glass; its left half is stained, in noise."""
    rng = np.random.default_rng(seed)
    slide = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
    slide[:, : WIDTH // 2] = rng.integers(0, 256, (HEIGHT, WIDTH // 2, 3)) // 2 + np.array([120, 0, 90])
    return slide


def write(path: Path, slide: np.ndarray, mpp: float | None = 0.25) -> Path:
    """A pyramid of two levels in tiles, as OpenSlide reads it; the second averages squares of two pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = slide.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean((1, 3)).round().astype(np.uint8)
    size = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for level, pixels in enumerate((slide, half)):
            file.write(pixels, tile=(64, 64), photometric="rgb", subfiletype=int(level > 0), **size)
    return path


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    for k, name in enumerate(("benign", "tumour")):
        write(tmp_path / "slides" / name / f"{k}.tif", painted(k))
    return tmp_path / "slides"


def test_tiles_of_tissue_and_their_pixels(slides: Path, tmp_path: Path) -> None:
    counts = tile_slides(slides, out := tmp_path / "i.parquet", Tiling(side=128), lambda one: None)
    # 4 columns x 3 rows of each slide, of which the left half is stained.
    assert (counts.slides, counts.tiles, counts.blank) == (2, 12, 12)
    index = ObjectIndex.open(out)
    assert (len(index), index.classes, index.provenance) == (12, ["benign", "tumour"], "whole-image")
    assert [row.objects[0].label for row in index] == [0] * 6 + [1] * 6
    tile = parse_tile(index.image_name(4))
    assert tile == Tile("benign/0.tif", 0, 0, 256, 128, 128)
    assert header_sizes(index.image_path(4)) == [(128, 128)]
    assert np.array_equal(np.array(load_image(index.image_path(4), (128, 128))), painted(0)[256:, :128])


def test_a_magnification_is_read_from_the_level_next_to_it(slides: Path, tmp_path: Path) -> None:
    path = slides / "benign" / "0.tif"
    (first, *_), _ = tiles_of(path, Tiling(side=64, mpp=0.5))
    assert (first.level, first.width) == (1, 64)
    half = painted(0)[:128, :128].reshape(64, 2, 64, 2, 3).mean((1, 3)).round()
    assert np.array_equal(np.array(load_image(first.address)), half)
    # In between, the finer level is taken: 64 pixels of .375 micrometres are 96 of .25.
    (between, *_), _ = tiles_of(path, Tiling(side=64, mpp=0.375))
    assert (between.level, between.width) == (0, 96)
    unsaid = write(tmp_path / "unsaid" / "a.tif", painted(), mpp=None)
    with pytest.raises(DataError, match="does not say its micrometres a pixel; leave out --mpp"):
        tiles_of(unsaid, Tiling(mpp=0.5))


def test_tiles_follow_slides_that_move_and_are_not_packed(slides: Path, tmp_path: Path) -> None:
    tile_slides(slides, out := tmp_path / "i.parquet", Tiling(side=128), lambda one: None)
    with pytest.raises(DataError, match=r"0\.tif#tile=0,.*: is a tile of a slide, and tiles are not packed"):
        pack_index(ObjectIndex.open(out), tmp_path / "packed")
    assert not list((tmp_path / "packed").glob("*"))
    first = ObjectIndex.open(out).image_path(0)
    assert file_of(first) == str(slides / "benign" / "0.tif")
    (tmp_path / "moved").mkdir()
    slides.rename(tmp_path / "moved" / "slides")
    index = ObjectIndex.open(out, root=tmp_path / "moved")  # the folder above
    assert header_sizes(index.image_path(0)) == [(128, 128)]


def test_a_slide_is_asked_for_once_a_tile(slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(path: str, *more: Any) -> Any:
        asked.append(path)
        return open_slide(path, *more)

    monkeypatch.setattr(slide_tiles, "open_slide", counted)
    tile = Tile(str(slides / "benign" / "0.tif"), 0, 0, 0, 64, 64)
    decode(tile.address, (64, 64))
    assert asked == [tile.slide]
    with pytest.raises(DataError, match="is 64 x 64 pixels, but its objects are for 64 x 32"):
        decode(tile.address, (64, 32))


def test_copies_of_tiles_are_kept_on_disk_until_their_slide_changes(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shrink, "LARGE", 1)  # so that tiles as small as these are copied
    views = ViewsConfig(global_size=16, local_size=8)
    address = Tile(str(slides / "benign" / "0.tif"), 0, 0, 0, 256, 256).address
    request = ImageRequest(0, address, (256, 256), shrink.guaranteed_shrink(256, 256, views))
    cache = DiskCache(tmp_path / "copies", views)
    put = cache.put(request, decode(address, request.size, request.shrink))
    got = cache.get(request)
    assert got is not None
    assert torch.equal(got.pixels, put.pixels)
    os.utime(slides / "benign" / "0.tif", (1, 1))
    assert cache.get(request) is None


def _sum(address: str) -> int:
    return int(np.array(load_image(address)).sum())


def test_workers_that_are_forked_from_a_reader_read_the_same(slides: Path) -> None:
    tiles, _ = tiles_of(slides / "tumour" / "1.tif", Tiling(side=128))
    addresses = [tile.address for tile in tiles]
    alone = [_sum(address) for address in addresses]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_sum, addresses * 3) == alone * 3


def test_a_network_trains_on_tiles(slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "i.parquet")
    run(["index", "tiles", str(slides), "--out", out, "--side", "128"])
    said = capsys.readouterr()
    assert said.out.strip() == out
    assert "12 tiles of 2 slides; 12 others have too little tissue" in said.err
    made = odis.pretrain(
        "debug", tmp_path / "run", data=out, train__steps=1, train__batch_size=4, train__device="cpu",
        train__threads=1, loader__workers=0, views__global_size=32, views__local_size=16,
        model__embed_dim=32, model__num_heads=2, model__depth=1, head__prototypes=24,
    )  # fmt: skip
    assert (made / "model.safetensors").is_file()


def test_what_is_no_slide_is_named(slides: Path, tmp_path: Path) -> None:
    (slides / "benign" / "b.svs").write_bytes(b"no slide")
    passed: list[Skipped] = []
    tile_slides(slides, tmp_path / "i.parquet", Tiling(side=128), passed.append)
    assert [Path(one.what).name for one in passed] == ["b.svs"]
    assert "no slide that can be read" in passed[0].why
    kinds: list[str] = []
    list_files(slides).report(lambda one: kinds.append(one.why))
    assert kinds == [".svs files (`odis index tiles` cuts slides into tiles)"]
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no slide"):
        tile_slides(empty, tmp_path / "j.parquet", Tiling(), passed.append)
    glass = write(tmp_path / "glass" / "a.tif", np.full((HEIGHT, WIDTH, 3), 240, np.uint8))
    with pytest.raises(DataError, match="no tile of its 1 slide has so much tissue"):
        tile_slides(glass, tmp_path / "j.parquet", Tiling(side=128), passed.append)
    assert not (tmp_path / "j.parquet").exists()
    beyond = Tile(str(slides / "benign" / "0.tif"), 0, 500, 0, 128, 128).address
    with pytest.raises(DataError, match="reaches beyond the slide of 512 x 384 pixels"):
        load_image(beyond)
    with pytest.raises(DataError, match="has level 7, but the slide has 2"):
        load_image(beyond.replace("tile=0,500", "tile=7,0"))
    with pytest.raises(DataError, match="there is no slide"):
        load_image(beyond.replace("0.tif", "gone.tif"))


@pytest.mark.parametrize(
    ("tiling", "why"),
    [
        (Tiling(side=8), "--side: is 8, must be 16 pixels or more"),
        (Tiling(mpp=0.0), "--mpp: is 0, must be above 0"),
        (Tiling(tissue=1.5), r"--tissue: is 1.5, must be from 0 to 1"),
    ],
)
def test_options_that_cut_nothing(tiling: Tiling, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        tiling.check()
