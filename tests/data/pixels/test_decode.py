"""Decoding at a fraction of the size leaves views what they are; broken files are named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.config.training import LoaderConfig, ObjectsConfig, PretrainConfig, TrainConfig, ViewsConfig
from odis.data import dataset as dataset_module
from odis.data.augment.cpu import to_chw
from odis.data.dataset import ViewDataset
from odis.data.loader import make_loader
from odis.data.pixels import reader
from odis.data.pixels.decode import Decoded, decode, outer_pixels
from odis.data.pixels.shrink import LARGE
from odis.data.views import resized_crop
from odis.errors import DataError
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex, write_index
from odis.types import Crop, ImageObjects, Object

PLAIN = ViewsConfig(
    global_size=64,
    local_size=32,
    local_views=4,
    jitter=0,
    grayscale=0,
    blur=(0, 0, 0),
    solarize=(0, 0, 0),
    mean=(0, 0, 0),
    std=(1 / 255,) * 3,
)


def render(image: Decoded, crop: Crop, size: int) -> torch.Tensor:
    """A crop as a view: uint8 (3, size, size)."""
    return torch.from_numpy(to_chw(resized_crop(image, crop, size), crop.flip)).to(torch.uint8)


def test_a_crop_in_a_shrunk_image():
    image = Decoded(torch.zeros(3, 10, 20, dtype=torch.uint8), 4, (0.25, 0.5))
    assert image.box(Crop(2, 6, 79, 38)) == (0.75, 2.0, 20.0, 10.0)
    assert outer_pixels((0.75, 2.0, 19.2, 10.0)) == (0, 2, 20, 10)
    assert Decoded(image.pixels).box(Crop(3, 4, 5, 9)) == (3, 4, 5, 9)


@pytest.mark.parametrize("flip", [False, True])
def test_crops_within_pixels_follow_the_picture(flip):
    """On a ramp, whose resizing is exact away from its ends, every view is the ramp that its crop says."""
    at_full = np.broadcast_to(np.arange(240.0), (240, 240))
    shrunk = at_full.reshape(120, 2, 120, 2).mean((1, 3))
    image = Decoded(torch.from_numpy(np.round(shrunk).astype(np.uint8)).expand(3, -1, -1), 2)
    for crop in (Crop(11, 20, 112, 121, flip), Crop(50, 3, 199, 152, flip), Crop(1, 1, 238, 238, flip)):
        view = render(image, crop, 50)[0].float().numpy()
        expected = crop.x0 - 0.5 + (np.arange(50) + 0.5) * crop.width / 50
        expected = expected[::-1] if flip else expected
        assert np.abs(view[5:-5, 5:-5] - expected[5:-5]).max() < 1.6


def test_views_of_photos_are_nearly_those_of_the_full_decode(coco_dir: Path):
    """COCO's photos are sharp to the pixel, which makes this the hard case; hardest where a view needs just
    half of them, since it then is what the decoder's filter left. Bilinear views differ from bicubic ones by
    2 levels; these by 3, and by less where more is left.
    """
    rng, differences, contrast = np.random.default_rng(0), {2.0: [], 3.0: []}, []
    for path in sorted(coco_dir.glob("val2017/*.jpg"))[:12]:
        with Image.open(path) as opened:
            width, height = opened.size
        full, half = decode(path, (width, height)), decode(path, (width, height), 2)
        for need, found in differences.items():
            side = int(64 * need)
            for _ in range(4):
                x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
                crop = Crop(x, y, x + side, y + side)
                one, other = render(full, crop, 64).float(), render(half, crop, 64).float()
                found.append(float((one - other).abs().mean()))
                contrast.append(float(other.std() / one.std()))
    assert np.mean(differences[2.0]) < 4  # of 255
    assert np.mean(differences[3.0]) < 2
    assert 0.98 < np.mean(contrast) < 1.0


def test_photos_have_the_pixels_of_the_full_decode_whatever_decodes_them(coco_dir: Path, tmp_path: Path):
    rng = np.random.default_rng(0)
    for k, mode in enumerate(("L", "CMYK", "RGB")):
        Image.fromarray(rng.integers(0, 256, (23, 37, 3), dtype=np.uint8)).convert(mode).save(
            tmp_path / f"{k}.jpg", progressive=k == 2
        )
    Image.fromarray(rng.integers(0, 256, (23, 37, 3), dtype=np.uint8)).save(tmp_path / "named.png", "JPEG")
    for path in [*sorted(coco_dir.glob("*/*.jpg"))[:20], *sorted(tmp_path.iterdir())]:
        whole = load_image(path)
        pixels = decode(path, whole.size).pixels
        assert pixels.dtype == torch.uint8
        assert pixels.stride()[0] == 1, "channels lie side by side"
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(whole))


def test_a_jpeg_that_is_cut_off_is_refused(coco_dir: Path, tmp_path: Path):
    path = tmp_path / "cut.jpg"
    whole = next(coco_dir.glob("val2017/*.jpg")).read_bytes()
    for share in (0.3, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with Image.open(path) as opened:
            size = opened.size
        with pytest.raises(DataError, match=r"cut\.jpg: cannot be decoded \(.*truncated"):
            decode(path, size)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> ObjectIndex:
    """Three images of more than `LARGE` pixels, turned or not, with an object, and a small one."""
    folder, rows = tmp_path_factory.mktemp("photos"), []
    for k, (name, orientation, sides) in enumerate(
        [
            ("a.jpg", 1, (1201, 901)),
            ("b.jpg", 6, (1201, 901)),
            ("c.png", 1, (1201, 901)),
            ("d.jpg", 1, (200, 150)),
        ]
    ):
        coarse = np.random.default_rng(k).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC).save(
            folder / name, exif=exif, quality=95
        )
        width, height = sides[::-1] if orientation == 6 else sides
        rows.append(ImageObjects(name, width, height, (Object((0.0, 0.0, 0.7 * width, 0.6 * height)),)))
    write_index(folder / "index.parquet", rows, root=folder, provenance="annotated", classes=[])
    return ObjectIndex.open(folder / "index.parquet")


def settings(*keep: str) -> PretrainConfig:
    return PretrainConfig(
        objects=ObjectsConfig(),
        views=PLAIN,
        train=TrainConfig(batch_size=4, seed=3, device="cpu"),
        loader=LoaderConfig(0, 2, list(keep)),
    )


def test_training_takes_the_same_views_from_fewer_pixels(photos, monkeypatch):
    shrinks = []

    def recorded(path, size, shrink, *more):
        shrinks.append(shrink)
        return decode(path, size, shrink, *more)

    monkeypatch.setattr(reader, "decode", recorded)
    dataset = ViewDataset(photos, settings(), 8)
    made = [dataset[0, row] for row in range(4)]
    assert min(shrinks[:3]) >= 2, shrinks
    assert shrinks[3] == 1
    monkeypatch.setattr(dataset_module, "needed_shrink", lambda *_: 1)
    for row, sample in enumerate(made):
        whole = dataset[0, row]
        for one, other in zip(
            sample.global_views + sample.local_views, whole.global_views + whole.local_views
        ):
            assert one.crop == other.crop
            assert one.object_masks.equal(other.object_masks)
            # Smooth pictures leave nothing but rounding and JPEG; a view in the wrong place or orientation
            # would be tens off.
            assert (one.pixels - other.pixels).abs().mean() < (1.2 if row < 3 else 0.0) + 1e-9
    assert LARGE < 1201 * 901


def test_the_cache_holds_what_would_be_decoded_anew(photos):
    for kept, anew in zip(
        make_loader(photos, settings("memory"), patch_size=8, start_step=0, steps=8),
        make_loader(photos, settings(), patch_size=8, start_step=0, steps=8),
        strict=True,
    ):
        assert kept.global_views.equal(anew.global_views)
        assert kept.local_views.equal(anew.local_views)


def test_a_size_that_no_image_has_is_an_error_in_one_line(photos, tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    write_index(
        tmp_path / "index.parquet",
        [ImageObjects("a.png", 0, 4)],
        root=tmp_path,
        provenance="annotated",
        classes=[],
    )
    dataset = ViewDataset(ObjectIndex.open(tmp_path / "index.parquet"), replace(settings(), strict=True), 8)
    with pytest.raises(DataError, match=r"a\.png: is 5 x 4 pixels, but its objects are for 0 x 4"):
        dataset[0, 0]
