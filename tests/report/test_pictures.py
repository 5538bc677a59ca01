"""What models are shown to see: attention, components and neighbours against direct computation; what is
drawn where.
"""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.decomposition import PCA
from torchvision.transforms.v2 import functional as tv

from odis.backbones.attention_maps import object_attention_maps
from odis.backbones.build import build_vit
from odis.config.query import QueryConfig
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import OdisError
from odis.inference import Encoder, embed_index, load
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.objects.pixels import ShownImage
from odis.report.drawing import (
    close_up,
    cut_out,
    fitted,
    outlined,
    overlaid,
    patches,
    photo,
    region_of,
    stretched,
)
from odis.report.features import (
    attention_maps,
    layers_shown,
    nearest,
    no_attention,
    patch_colours,
    patch_features,
    whole_size,
)
from odis.report.runs import Run, read_runs
from odis.report.samples import SEARCHED, ReportSample, SampleImage, draw_sample, open_data
from odis.types import Features, ImageObjects, Object


def encoder(object_tokens: str = "read-only") -> Encoder:
    """A small untrained network whose outputs depend on all its parameters."""
    torch.manual_seed(0)
    model = ModelConfig(
        "vit_tiny_patch16_224", None, object_tokens, "token", patch_size=8, embed_dim=32, depth=4, num_heads=2
    )
    vit = build_vit(model, 32).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return Encoder.of(vit, PretrainConfig(model=model, views=ViewsConfig(global_size=32)))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def decoded(html: str) -> Image.Image:
    (uri,) = re.findall(r'src="data:image/\w+;base64,([^"]+)"', html)
    return Image.open(io.BytesIO(base64.b64decode(uri)))


# --- what models answer
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("object_tokens", ["read-only", "single", "beside"])
def test_attention_is_that_of_the_backbone_on_the_resized_image(object_tokens: str) -> None:
    enc, image = encoder(object_tokens), picture(100, 52)  # patches do not tile it: it is resized to 24 x 48
    items = [Object((0, 0, 50, 52)), Object((60.0, 10.0, 99.0, 50.0))]
    found = attention_maps(enc, ShownImage(image), items, QueryConfig(size=32))
    pixels = tv.resize(
        tv.pil_to_tensor(image), [24, 48], interpolation=tv.InterpolationMode.BICUBIC, antialias=True
    )
    x = (
        (pixels.float() / 255 - torch.tensor(enc.mean)[:, None, None]) / torch.tensor(enc.std)[:, None, None]
    )[None]
    for answer, item in zip(found, items, strict=True):
        assert answer.layers == [0, 1, 3]
        assert answer.weights.shape == (3, 2, 3, 6)
        mask = torch.from_numpy(answer.mask.reshape(1, 1, -1))
        for layer, weights in zip(answer.layers, answer.weights):
            expected = object_attention_maps(enc.model, x, mask, layer)[0, 0].reshape(2, 3, 6).numpy()
            np.testing.assert_allclose(weights, expected, atol=1e-5)
            assert (weights[:, ~answer.mask] == 0).all()
        assert answer.picture is image
        np.testing.assert_array_equal(answer.region, region_of(item, image.size, image.size))
    expected_mask = np.zeros((3, 6), bool)
    expected_mask[:, :3] = True
    np.testing.assert_array_equal(found[0].mask, expected_mask)


def test_attention_in_a_window_shows_the_window() -> None:
    enc = encoder()
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[20:30, 40:50] = 255
    (answer,) = attention_maps(
        enc,
        ShownImage(Image.fromarray(pixels)),
        [Object((40, 20, 50, 30))],
        QueryConfig(size=32, context=2.0),
    )
    assert answer.weights.shape[2:] == (4, 4)
    white = np.asarray(answer.picture.convert("L")) > 127
    assert min(white.shape) >= 200
    assert (white == answer.region).mean() > 0.98
    assert 0.2 < answer.region.mean() < 0.3, "the object is half as wide as its window"


def test_layers_are_first_middle_and_last() -> None:
    assert [layers_shown(n) for n in (1, 2, 3, 4, 12)] == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 5, 11]]


def test_networks_without_attention_say_why(pooled: Path) -> None:
    assert no_attention(encoder()) is None
    assert "mean of its patches" in str(no_attention(load(pooled, device="cpu")))
    odd = encoder()
    odd.model.split_queries = False
    assert "not timm's common one" in str(no_attention(odd))


def test_components_are_those_of_sklearn() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(5, 16, generator=generator) * torch.tensor([5.0, 4.0, 3.0, 0.5, 0.2])[:, None]
    grids = [(4, 6), (5, 5)]
    features = [
        Features(
            torch.empty(1, 16), None, torch.randn(r * c, 5, generator=generator) @ directions + 3, (r, c)
        )
        for r, c in grids
    ]
    colours, share = patch_colours(features)
    pca = PCA(3).fit(torch.cat([f.patches for f in features]).numpy())
    assert share == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-5)
    values = np.concatenate([pca.transform(f.patches.numpy()) for f in features])
    signs = np.sign(pca.components_[np.arange(3), np.abs(pca.components_).argmax(1)])
    values = values * signs
    low, high = np.percentile(values, [2, 98], axis=0)
    expected = 255 * np.clip((values - low) / (high - low), 0, 1)
    assert [c.shape for c in colours] == [(4, 6, 3), (5, 5, 3)]
    np.testing.assert_allclose(np.concatenate([c.reshape(-1, 3) for c in colours]), expected, atol=1)


def test_components_of_few_patches_or_equal_ones() -> None:
    colours, _ = patch_colours([Features(torch.empty(1, 8), None, torch.randn(2, 8), (1, 2))])
    assert colours[0].shape == (1, 2, 3)
    colours, share = patch_colours([Features(torch.empty(1, 8), None, torch.ones(6, 8), (2, 3))])
    assert (colours[0] == 0).all()
    assert share == 0


def test_patch_features_are_those_of_embed() -> None:
    enc, images = encoder("single"), [picture(64, 32), picture(40, 40, 1)]
    for found, image in zip(
        patch_features(enc, [ShownImage(one) for one in images], 32), images, strict=True
    ):
        expected = enc.embed([image], mode="whole-image", size=32)[0]
        assert found.grid == expected.grid
        assert torch.equal(found.patches, expected.patches)


@pytest.mark.parametrize("context", [None, 1.5])
def test_nearest_objects_are_those_of_a_full_comparison(
    run: Path, scenes: Path, context: float | None
) -> None:
    enc, index = load(run, device="cpu"), ObjectIndex.open(scenes / "val.parquet")
    sample = draw_sample(index, 3, seed=1)
    done: list[int] = []
    found, searched = nearest(enc, sample, QueryConfig(size=36, context=context), done.append)
    assert done == list(range(1, 9))
    everything = embed_index(enc, index, size=36, context=context)
    assert searched == len(everything.features) == sum(len(row.objects) for row in index)
    unit = F.normalize(everything.features, dim=1)
    places = list(zip(everything.rows.tolist(), everything.numbers.tolist()))
    for shown in sample.shown:
        for number in shown.numbers:
            cosines = unit @ unit[places.index((shown.row, number))]
            elsewhere = [(float(c), place) for c, place in zip(cosines, places) if place[0] != shown.row]
            best = sorted(elsewhere, reverse=True)[:5]
            answer = found[shown.row, number]
            np.testing.assert_allclose([one.cosine for one in answer], [c for c, _ in best], atol=1e-5)
            assert [(one.row, one.number) for one in answer] == [place for _, place in best]
    assert len(found) == sum(len(shown.numbers) for shown in sample.shown)


def test_whole_images_are_asked_at_the_scale_of_training() -> None:
    enc = encoder()

    def size(scale: Any, given: int | None = None) -> int:
        return whole_size(
            enc, Run(Path("a"), "a", {"config": {"views": {"global_scale": scale}}}, [], 0), given
        )

    assert size([0.25, 0.25]) == 64
    assert size([0.25, 1.0]) == 40  # 32 / sqrt(.625) = 40.5
    assert size([1.0, 1.0]) == size(None) == size("x") == 32
    assert size([0.25, 0.25], 48) == 48
    with pytest.raises(OdisError, match="size 50 must be a multiple of the patch size 8"):
        size([1, 1], 50)


# --- what is shown
# ------------------------------------------------------------------------------------------------------------


def test_sample_is_drawn_by_the_seed_with_the_largest_objects(scenes: Path) -> None:
    index = ObjectIndex.open(scenes / "train.parquet")
    one, same, other = draw_sample(index, 4, 0), draw_sample(index, 4, 0), draw_sample(index, 4, 1)
    assert [s.row for s in one.shown] == [s.row for s in same.shown] != [s.row for s in other.shown]
    assert sorted(one.searched) == list(range(16))
    for shown in one.shown:
        area = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (o.box for o in index[shown.row].objects)]
        assert [area[n] for n in shown.numbers] == sorted(area, reverse=True)[:2]
        assert shown.image.size == (96, 96)
    assert len(draw_sample(index, 99, 0).shown) == 16


def test_images_and_objects_that_cannot_be_used_are_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    picture(20, 10).save(tmp_path / "good.png")
    good = Object((2, 2, 8, 8), label=0)
    over = Object((-50.0, -50.0, 3.0, 3.0))  # large, but little of it lies in the image
    rows = [
        ImageObjects("bad.png", 20, 10, (good,)),
        ImageObjects("gone.png", 20, 10, (good,)),
        ImageObjects("good.png", 20, 10, ()),
        ImageObjects("good.png", 20, 10, (Object((5, 5, 2, 2)), over, good)),
    ]
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=["a"])
    sample = draw_sample(ObjectIndex.open(tmp_path / "i.parquet"), 4, 0)
    assert [(s.row, s.numbers) for s in sample.shown] == [(3, [2, 1])]
    assert 3 in sample.searched


def test_search_stops_at_enough_objects(tmp_path: Path) -> None:
    picture(8, 8).save(tmp_path / "a.png")
    rows = [ImageObjects("a.png", 8, 8, (Object((0, 0, 4, 4)),) * 100)] * 20
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=[])
    sample = draw_sample(ObjectIndex.open(tmp_path / "i.parquet"), 2, 0)
    assert len(sample.searched) == SEARCHED // 100
    assert {s.row for s in sample.shown} <= set(sample.searched)
    assert len(draw_sample(sample.index, 8, 0).searched) == 8


def test_data_is_val_before_data_and_what_is_gone_is_said(run: Path, scenes: Path, tmp_path: Path) -> None:
    (one,) = read_runs([run])
    index, source = open_data([one], None)
    assert (index.path, source) == (str(scenes / "val.parquet"), f"val of {one.label}")

    def with_data(**data: Any) -> Run:
        return replace(one, record={"config": data})

    index, source = open_data(
        [with_data(val=str(tmp_path / "gone"), data=str(scenes / "train.parquet"))], None
    )
    assert (len(index), source) == (16, f"data of {one.label}")
    index, source = open_data([with_data(val=None, data=str(tmp_path / "gone")), one], None)
    assert source == f"val of {one.label}"
    index, source = open_data([with_data(val=3, data=str(tmp_path / "gone"))], None)
    assert index is None
    assert str(tmp_path / "gone") in source
    assert "--data" in source
    assert open_data([one], str(scenes / "train.parquet"))[1] == "given with --data"


# --- what is drawn
# ------------------------------------------------------------------------------------------------------------


def test_pictures_keep_the_image_s_aspect() -> None:
    image = picture(300, 150)
    assert fitted(300, 150, 100) == (100, 50)
    assert fitted(1000, 1, 100) == (100, 1)
    for html in (photo(image, 100, "a<b"), outlined(image, [Object((10, 10, 90, 90))], 100, "a<b")):
        assert 'width="100" height="50"' in html
        assert decoded(html).size == (150, 75)
        assert 'alt="a&lt;b"' in html
    cut = decoded(cut_out(image, Object((-20.5, 10.2, 99.5, 500.0)), 100, "")).size
    assert cut == fitted(100, 140, 150)


def test_outlines_follow_boxes_and_masks() -> None:
    image = Image.new("RGB", (80, 60), (128, 128, 128))
    box = np.asarray(decoded(outlined(image, [Object((20, 10, 60, 50))], 160, ""))).astype(int)
    changed = np.abs(box - 128).max(2) > 40
    scale = 3.0  # 160 * 1.5 / 80
    assert changed[int(30 * scale), int(20 * scale) : int(20 * scale) + 3].any(), "the left side"
    assert not changed[int(35 * scale), int(35 * scale)], "the middle is the image"
    assert not changed[int(5 * scale), int(5 * scale)], "so is what lies outside"
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:40] = True
    item = Object((20, 10, 60, 50), mask=rle.encode(mask))
    np.testing.assert_array_equal(region_of(item, (80, 60), (80, 60)), mask)
    assert region_of(item, (80, 60), (40, 30)).sum() == pytest.approx(mask.sum() / 4, rel=0.1)
    thin = np.zeros((60, 80), bool)
    thin[30, 40] = True
    assert region_of(Object((40, 30, 41, 31), mask=rle.encode(thin)), (80, 60), (8, 6)).any(), (
        "a mask too thin to be seen is its box"
    )
    np.testing.assert_array_equal(
        region_of(Object((20, 10, 60, 50)), (80, 60), (8, 6)), np.pad(np.ones((4, 4), bool), ((1, 1), (2, 2)))
    )


def test_a_patch_covers_the_pixels_it_was_read_from() -> None:
    grid = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(stretched(grid, (6, 4)), grid.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(stretched(grid, (4, 2), (1 / 3, 0.5, 1, 1)), [[4, 4, 5, 5]] * 2)
    assert stretched(grid, (99, 2)).tolist() == [
        [0] * 33 + [1] * 33 + [2] * 33,
        [3] * 33 + [4] * 33 + [5] * 33,
    ]


def test_attention_is_bright_where_it_is_strong_and_absent_outside_the_mask() -> None:
    image = Image.new("RGB", (90, 60), (100, 100, 100))
    weights, mask = np.zeros((2, 3), np.float32), np.zeros((2, 3), bool)
    mask[:, 1:], weights[0, 1], weights[1, 2] = True, 0.6, 0.1
    region = region_of(Object((0, 0, 90, 60)), image.size, image.size)
    close = close_up(image, region, mask, 90)
    assert close.window == (0, 0, 1, 1)
    seen = np.asarray(decoded(overlaid(close, weights, mask, 0, "")).convert("L")).astype(int)
    height, width = seen.shape
    centre = lambda r, c: seen[int((r + 0.5) / 2 * height), int((c + 0.5) / 3 * width)]
    assert centre(0, 1) > centre(1, 2) + 20 > centre(1, 1) + 20
    assert centre(0, 0) == pytest.approx(centre(1, 0), abs=2)
    colours = np.asarray(decoded(overlaid(close, weights, mask, 0, ""))).astype(int)
    outside = colours[height // 4, width // 6]
    assert outside.max() - outside.min() < 6, "grey"


def test_close_up_holds_the_object_and_its_patches_with_room() -> None:
    image = picture(400, 200)
    item, mask = Object((100, 50, 120, 70)), np.zeros((10, 20), bool)
    mask[2:4, 4:6] = True  # 80..120 x 40..80
    close = close_up(image, region_of(item, image.size, image.size), mask, 100)
    left, top, right, bottom = close.window
    assert (left * 400, right * 400) == pytest.approx((68, 132))
    assert (top * 200, bottom * 200) == pytest.approx((28, 92))
    assert close.size == (100, 100)
    expected = (
        np.asarray(image.crop((68, 28, 132, 92)).resize((150, 150), Image.Resampling.BICUBIC).convert("L"))
        / 255
    )
    np.testing.assert_allclose(close.grey[..., 0], expected, atol=1e-6)
    assert close.region.mean() == pytest.approx((20 / 64) ** 2, abs=0.01)


def test_colours_of_patches_are_stored_as_they_are() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 7, 3), dtype=np.uint8)
    html = patches(colours, picture(70, 41), 140, "")
    np.testing.assert_array_equal(np.asarray(decoded(html)), colours)
    assert 'width="140" height="82"' in html


def test_shown_names_the_file() -> None:
    item = ImageObjects("a/b/c.png", 8, 8, (Object((0, 0, 1, 1)), Object((0, 0, 2, 2))))
    shown = SampleImage(0, picture(8, 8), item, [1])
    assert (shown.name, shown.objects) == ("c.png", [item.objects[1]])
    assert ReportSample.__doc__
