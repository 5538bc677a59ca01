"""The encoder against the backbone asked by hand and against timm; a whole index; loading and its
refusals.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from odis.backbones.adapters import start_object_token
from odis.backbones.build import build_vit
from odis.backbones.saved import save_model
from odis.config.query import MODES
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import DataError, OdisError
from odis.inference import Encoder, embed_index, load
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def encoder(object_tokens: str = "read-only", readout: str = "token") -> Encoder:
    """A small untrained backbone whose object token differs from `[CLS]`."""
    torch.manual_seed(0)
    model = ModelConfig(
        "vit_tiny_patch16_224", None, object_tokens, readout, patch_size=8, embed_dim=32, depth=2, num_heads=2
    )
    config = PretrainConfig(model=model, views=ViewsConfig(global_size=32, mean=MEAN, std=STD))
    vit = build_vit(model, 32).eval()
    with torch.no_grad():
        for (
            parameter
        ) in vit.parameters():  # untrained norms and biases are ones and zeros, which hides mistakes
            parameter.add_(0.05 * torch.randn_like(parameter))
    return Encoder.of(vit, config, provenance="annotated", source="tiny")


def picture(width: int, height: int, seed: int = 0) -> Tensor:
    return torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def network_input(image: Tensor, height: int, width: int) -> Tensor:
    resized = tv.resize(image, [height, width], interpolation=tv.InterpolationMode.BICUBIC, antialias=True)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return ((resized.float() / 255 - mean) / std)[None]


def patches(grid: tuple[int, int], *cells: tuple[int, int]) -> Tensor:
    mask = torch.zeros(grid, dtype=torch.bool)
    for row, column in cells:
        mask[row, column] = True
    return mask.flatten()


def close(a: Tensor, b: Tensor) -> None:
    """To rounding in float32, which is measured by the largest entries: the small ones are what cancelled."""
    largest = float(b.detach().abs().max()) if b.numel() else 0.0
    torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * largest)


BOXES = np.array(
    [(0, 0, 16, 16), (112, 16, 128, 32), (0, 0, 128, 32), (20, 4, 44, 30), (64, 0, 65, 1)], dtype=np.float32
)


@pytest.mark.parametrize("object_tokens", ["read-only", "single", "beside"])
def test_masked_attention_is_the_backbone_asked_by_hand(object_tokens: str) -> None:
    enc, image = encoder(object_tokens), picture(128, 32)
    x = network_input(image, 16, 64)
    masks = [patches((2, 8), (0, 0)), patches((2, 8), (1, 7)), torch.ones(16, dtype=torch.bool)]
    expected = [enc.model(x, m[None, None]).objects[0, 0] for m in masks]
    close(enc.embed([image], [BOXES[:3]])[0].objects, torch.stack(expected))


@pytest.mark.parametrize("object_tokens", ["read-only", "single", "beside"])
def test_masks_are_as_wide_as_they_are_asked_for(object_tokens: str) -> None:
    """The box has .56 of patches 1 and 2 in the first row, and .66 of those in the second."""
    enc, image = encoder(object_tokens), picture(128, 32)
    x, box = network_input(image, 16, 64), BOXES[3:4]
    both_rows = [(row, column) for row in (0, 1) for column in (1, 2)]
    ring = [(row, column) for row in (0, 1) for column in (0, 1, 2, 3)]
    for asked, cells in (
        ({"mask_coverage": 1.0}, both_rows[2:]),
        ({"mask_coverage": 0.5}, both_rows),
        ({}, both_rows),
        ({"mask_coverage": 1.0, "mask_margin": 1}, ring),
        ({"mask_margin": 1}, ring),
    ):
        mask = patches((2, 8), *cells)
        close(enc.embed([image], [box], **asked)[0].objects, enc.model(x, mask[None, None]).objects[0])
        tokens = enc.embed([image], [box], **asked)[0].patches
        close(enc.embed([image], [box], "mean-pool", **asked)[0].objects[0], tokens[mask].mean(0))
    with pytest.raises(OdisError, match="mask-margin 1 goes with modes masked-attention and mean-pool"):
        enc.embed([image], [box], "crop", mask_margin=1)


def test_read_only_asks_all_objects_in_one_pass_and_the_others_in_one_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for object_tokens, shapes in (
        ("read-only", (1, 6)),
        ("single", (6, 1)),
        ("beside", (6, 1)),
    ):  # five objects, and the whole image
        enc, calls = encoder(object_tokens), []
        forward = enc.model.forward
        monkeypatch.setattr(enc.model, "forward", lambda x, m: (calls.append(m.shape[:2]), forward(x, m))[1])  # noqa: B023
        together = enc.embed([picture(128, 32)], [BOXES])[0].objects
        assert calls == [shapes]
        alone = [enc.embed([picture(128, 32)], [BOXES[i : i + 1]])[0].objects for i in range(5)]
        close(together, torch.cat(alone))
        assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("object_tokens", ["read-only", "single", "beside"])
def test_crop_blackout_and_whole_image_ask_about_all_they_show(object_tokens: str) -> None:
    enc, image = encoder(object_tokens), picture(64, 64)
    dark = (255 * torch.tensor(MEAN)).round().to(torch.uint8)[:, None, None].repeat(1, 64, 64)
    dark[:, 4:30, 20:44] = image[:, 4:30, 20:44]
    everything = torch.ones(1, 1, 16, dtype=torch.bool)
    for mode, shown in (("crop", image[:, 4:30, 20:44]), ("blackout", dark), ("whole-image", image)):
        expected = enc.model(network_input(shown, 32, 32), everything).objects[0]
        close(enc.embed([image], [BOXES[3:4]], mode)[0].objects, expected)


@pytest.mark.parametrize("object_tokens", ["read-only", "beside"])
def test_cls_is_that_of_the_same_pass_and_both_is_cls_and_the_object_side_by_side(object_tokens: str) -> None:
    enc, image, mask = encoder(object_tokens), picture(64, 64), patches((4, 4), (0, 0), (0, 1))
    box, everything = np.array([[0, 0, 32, 16]]), torch.ones(1, 1, 16, dtype=torch.bool)
    x = network_input(image, 32, 32)
    crop = network_input(image[:, :16, :32], 32, 32)
    asked = {
        "masked-attention": (x, mask[None, None]),
        "crop": (crop, everything),
        "whole-image": (x, everything),
    }
    for mode, (pixels, masks) in asked.items():
        tokens = enc.model(pixels, masks)
        expected = torch.cat([tokens.image[0], tokens.objects[0, 0]])
        for readout, part in (("obj", expected[32:]), ("cls", expected[:32]), ("both", expected)):
            found = enc.embed(image, None, mode, boxes=box, readout=readout)
            close(found.objects[0], part)
            assert enc.width(mode, readout) == len(part)
    tokens = enc.model(x, everything if object_tokens == "beside" else None)
    mean = tokens.patches[0, mask].mean(0)
    found = enc.embed(image, None, "mean-pool", boxes=box, readout="both")
    close(found.objects[0], torch.cat([tokens.image[0], mean]))
    boxes = [[BOXES[3], BOXES[0]]]
    several = enc.embed([image], None, boxes=boxes, readout="both")[0]
    close(several.objects[:, 32:], enc.embed([image], None, boxes=boxes)[0].objects)
    whole = enc.model(x, everything)
    close(several.image, torch.cat([whole.image[0], whole.objects[0, 0]]))
    assert enc.embed(image, None, boxes=np.zeros((0, 4)), readout="both").objects.shape == (0, 64)


def test_a_model_without_a_class_token_beside_the_object_says_so() -> None:
    enc = encoder("single")
    for mode in ("masked-attention", "crop", "blackout", "whole-image"):
        with pytest.raises(OdisError, match=f"readout cls: tiny has no .CLS. beside what mode {mode} reads"):
            enc.embed(picture(32, 32), None, mode, readout="cls")
    assert enc.embed(picture(32, 32), None, "mean-pool", readout="both").objects.shape == (1, 64)
    pooled = encoder(readout="mean-pool")
    tokens = pooled.model(network_input(picture(32, 32), 32, 32))
    found = pooled.embed(picture(32, 32), None, "whole-image", readout="both").objects[0]
    close(found, torch.cat([tokens.image[0], tokens.patches[0].mean(0)]))


def test_mean_pool_is_the_mean_of_the_patches() -> None:
    enc, image = encoder(), picture(128, 32)
    tokens = enc.model(network_input(image, 16, 64))
    found = enc.embed([image], [BOXES[:3]], "mean-pool")[0]
    close(
        found.objects, torch.stack([tokens.patches[0, 0], tokens.patches[0, 15], tokens.patches[0].mean(0)])
    )
    pooled = encoder(readout="mean-pool")
    close(pooled.embed([image], [BOXES])[0].objects, pooled.embed([image], [BOXES], "mean-pool")[0].objects)
    close(
        pooled.embed([image], None, "whole-image")[0].objects[0],
        pooled.model(network_input(image, 16, 64)).patches[0].mean(0),
    )


def test_beside_is_asked_about_whole_images_with_its_object_token_among_the_keys() -> None:
    enc, image = encoder("beside"), picture(128, 32)
    x, everything = network_input(image, 16, 64), torch.ones(1, 1, 16, dtype=torch.bool)
    expected, plain = enc.model(x, everything), enc.model(x)
    assert not torch.allclose(expected.patches, plain.patches, atol=1e-3)
    how = tv.InterpolationMode.BICUBIC
    pixels = tv.resize(image, [16, 64], interpolation=how, antialias=True)[None].numpy()
    close(enc.tokens(pixels).patches, expected.patches)
    close(enc.block_tokens(pixels, 1)[0][0], expected.image)
    found = enc.embed([image], [BOXES[:3]], "mean-pool")[0]
    close(found.objects[0], expected.patches[0, 0])
    for mode in ("masked-attention", "mean-pool", "whole-image"):
        close(enc.embed([image], [BOXES[:3]], mode)[0].patches, expected.patches[0])
    close(enc.embed([image], [BOXES[:1]])[0].image, expected.objects[0, 0])
    assert enc.embed([image], [np.zeros((0, 4))])[0].objects.shape == (0, 32)


def test_whole_image_is_timms_class_token() -> None:
    torch.manual_seed(1)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0
    )
    state = vit.state_dict()
    for object_tokens in ("read-only", "single"):
        enc = encoder(object_tokens)
        enc.model.load_state_dict(state, strict=False)
        if object_tokens == "read-only":
            start_object_token(enc.model)
        image = picture(32, 32)
        with torch.no_grad():
            expected = vit.eval().forward_features(network_input(image, 32, 32))[0]
        found = enc.embed([image], [BOXES[:2].clip(0, 32)[:1]], "whole-image")[0]
        close(found.objects[0], expected[0])
        close(found.image, expected[0])
        close(found.patches, expected[1:])
        assert found.grid == (4, 4)


def test_every_mode_answers_in_order_for_pictures_of_many_sizes() -> None:
    sizes = [(40, 40), (64, 32), (40, 40), (30, 90), (64, 32), (8, 8)]
    images = [picture(w, h, seed) for seed, (w, h) in enumerate(sizes)]
    objects = [
        [Object((0, 0, w / (n + 1), h)) for n in range(count)]
        for (w, h), count in zip(sizes, (1, 3, 0, 2, 5, 1))
    ]
    for object_tokens in ("read-only", "single", "beside"):
        enc = encoder(object_tokens)
        for mode in MODES:
            together = enc.embed(images, objects, mode, batch_size=4)
            for image, items, found in zip(images, objects, together):
                alone = enc.embed([image], [items], mode)[0]
                assert found.objects.shape == (len(items), 32)
                close(found.objects, alone.objects)
                assert found.grid == alone.grid
                if found.patches is not None and alone.patches is not None:
                    close(found.patches, alone.patches)


@pytest.mark.parametrize("object_tokens", ["read-only", "single", "beside"])
def test_windows_of_several_sizes_answer_for_their_own_objects(object_tokens: str) -> None:
    enc, images = encoder(object_tokens), [picture(200, 100), picture(200, 100, 1)]
    boxes = [[(5, 5, 25, 25), (10, 10, 170, 90), (60, 60, 90, 90)], [(5, 5, 25, 25)]]
    together = enc.embed(images, boxes=boxes, context=1.6)
    for image, of_image, found in zip(images, boxes, together):
        assert found.patches is None
        for n, box in enumerate(of_image):
            close(found.objects[n], enc.embed(image, boxes=[box], context=1.6).objects[0])


def test_a_model_without_class_token_answers_for_images_without_objects() -> None:
    torch.manual_seed(0)
    model = ModelConfig(
        "vit_base_patch16_siglip_224",
        None,
        "single",
        "mean-pool",
        patch_size=8,
        embed_dim=32,
        depth=1,
        num_heads=2,
    )
    config = PretrainConfig(model=model, views=ViewsConfig(global_size=32))
    enc = Encoder.of(build_vit(model, 32, drop_path=0.0), config)
    assert not enc.model.has_class_token
    one, none = enc.embed([picture(32, 32), picture(32, 32, 1)], boxes=[[(0, 0, 9, 9)], []])
    assert (one.objects.shape, none.objects.shape) == ((1, 32), (0, 32))
    close(none.image, none.patches.mean(0))
    assert none.patches.shape == (16, 32)


def test_patches_come_only_from_a_plain_pass_over_the_whole_image() -> None:
    image = picture(64, 64)
    given = {mode: encoder().embed([image], [BOXES[3:4]], mode)[0].patches is not None for mode in MODES}
    assert given == {
        "masked-attention": True,
        "crop": False,
        "blackout": False,
        "mean-pool": True,
        "whole-image": True,
    }
    assert encoder().embed([image], [BOXES[3:4]], context=1.5)[0].patches is None


@pytest.mark.parametrize("object_tokens", ["read-only", "single"])
def test_patches_and_image_are_the_plain_images_whatever_is_asked(object_tokens: str) -> None:
    enc, image = encoder(object_tokens), picture(128, 32)
    plain = enc.model(network_input(image, 16, 64))
    whole = enc.embed(image, mode="whole-image").objects[0]
    close(
        whole, enc.model(network_input(image, 16, 64), torch.ones(1, 1, 16, dtype=torch.bool)).objects[0, 0]
    )
    for objects in (BOXES[:3], BOXES[:1], BOXES[:0]):
        found = enc.embed([image], [objects])[0]
        assert found.objects.shape == (len(objects), 32)
        close(found.image, whole)
        close(found.patches, plain.patches[0])
        assert found.grid == (2, 8)
    pooled = enc.embed(image, boxes=BOXES[:2], mode="mean-pool")
    close(pooled.image, plain.patches[0].mean(0))
    assert pooled.objects.shape == (2, 32)


def test_a_model_in_training_is_left_as_it_was_and_features_can_be_trained_on() -> None:
    enc = encoder()
    enc.model.train()
    enc.model.blocks[0].drop_path1.drop_prob = 0.9
    features = enc.embed([Image.new("RGB", (30, 20))])[0].objects
    assert enc.model.training
    assert not features.requires_grad
    weight = torch.ones(32, requires_grad=True)
    (features @ weight).sum().backward()
    close(weight.grad, features[0])


def test_bf16_is_near_fp32() -> None:
    enc = encoder()
    exact = enc.embed([picture(64, 64)], [BOXES[3:4]])[0].objects
    enc.precision = "bf16"
    rough = enc.embed([picture(64, 64)], [BOXES[3:4]])[0].objects
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "mask"}, "mode 'mask' is none of masked-attention, crop"),
        ({"size": 36}, "size 36 must be a multiple of the patch size 8"),
        ({"context": 0.5}, "context 0.5 must be 1 or more"),
        (
            {"context": 2.0, "mode": "crop"},
            "context 2 goes with mode masked-attention, which is not among crop",
        ),
        ({"objects": []}, "objects are of 0 images, must be of 1 image"),
        ({"objects": [np.array([(3, 3, 1, 9)])]}, r"image 0, object 0: box \(3, 3, 1, 9\) is inverted"),
    ],
)
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(OdisError, match=message):
        encoder().embed([picture(16, 16)], **({"objects": None} | arguments))


def write_pictures(folder: Path, objects: Sequence[Sequence[Object]]) -> ObjectIndex:
    rows = []
    for i, items in enumerate(objects):
        width, height = (40, 24) if i % 2 else (32, 32)
        Image.fromarray(picture(width, height, i).permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
        rows.append(ImageObjects(f"{i}.png", width, height, tuple(items)))
    write_index(folder / "index.parquet", rows, root=folder, provenance="annotated", classes=["a", "b"])
    return ObjectIndex.open(folder / "index.parquet")


def test_an_index_is_embedded_as_its_images_are(tmp_path: Path) -> None:
    objects = [[Object((0, 0, 8 + i, 20), label=n % 2) for n in range(i % 4)] for i in range(9)]
    objects[4] = [Object((3, 3, 9, 9))]
    index = write_pictures(tmp_path, objects)
    images = [Image.open(index.image_path(i)) for i in range(9)]
    for mode in MODES:
        enc, seen = encoder("single" if mode == "masked-attention" else "read-only"), []
        found = embed_index(enc, index, mode, batch_size=3, progress=seen.append)
        close(found.features, torch.cat([f.objects for f in enc.embed(images, objects, mode)]))
        assert found.rows.tolist() == [i for i, items in enumerate(objects) for _ in items]
        assert found.numbers.tolist() == [n for items in objects for n in range(len(items))]
        assert found.labels.tolist() == [
            -1 if o.label is None else o.label for items in objects for o in items
        ]
        assert (found.images, found.skipped, seen) == (9, [], list(range(1, 10)))


def test_an_index_is_asked_with_masks_of_any_width(tmp_path: Path) -> None:
    index, enc = write_pictures(tmp_path, [[Object((0, 0, 9, 9), label=1)]] * 2), encoder()
    for asked in ({"mask_coverage": 1.0}, {"mask_coverage": 0.0, "mask_margin": 1}):
        images = [Image.open(index.image_path(i)) for i in range(2)]
        expected = enc.embed(images, [[Object((0, 0, 9, 9))]] * 2, **asked)
        close(embed_index(enc, index, **asked).features, torch.cat([one.objects for one in expected]))


def test_workers_and_chosen_rows(tmp_path: Path) -> None:
    index, enc = write_pictures(tmp_path, [[Object((0, 0, 9, 9), label=1)]] * 6), encoder()
    here = embed_index(enc, index, "crop", rows=[5, 0, 3])
    there = embed_index(enc, index, "crop", rows=[5, 0, 3], workers=2)
    assert torch.equal(here.features, there.features)
    assert here.rows.tolist() == there.rows.tolist() == [5, 0, 3]
    nothing = embed_index(enc, index, rows=[])
    assert nothing.features.shape == (0, 32)
    assert nothing.rows.shape == nothing.labels.shape == (0,)


def test_what_cannot_be_used_is_skipped_by_name_or_refused(tmp_path: Path) -> None:
    good = Object((0, 0, 9, 9), label=0)
    index = write_pictures(tmp_path, [[good], [good, Object((50, 0, 60, 9), label=1), good], [good]])
    (tmp_path / "0.png").write_bytes(b"")
    found = embed_index(encoder(), index, "crop")
    assert list(zip(found.rows.tolist(), found.numbers.tolist())) == [(1, 0), (1, 2), (2, 0)]
    assert found.images == 2
    assert [s.what for s in found.skipped] == [str(tmp_path / "0.png"), f"{tmp_path / '1.png'}, object 1"]
    with pytest.raises(DataError, match=r"0\.png: is empty"):
        embed_index(encoder(), index, "crop", strict=True)


def card(enc: Encoder) -> dict:
    model = {
        "name": "vit_tiny_patch16_224",
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "object_tokens": "read-only",
    }
    return {
        "model": model | {"object_readout": "token"},
        "image_size": 32,
        "patch_size": 8,
        "mean": list(MEAN),
        "std": list(STD),
        "mask_coverage": 0.3,
        "mask_margin": 1,
        "mask_shape": "component-boxes",
        "provenance": "annotated",
        "step": 7,
        "recipe": "demo",
        "odis_version": "0",
    }


def test_a_run_and_its_file_load_as_they_were_trained(tmp_path: Path) -> None:
    enc = encoder()
    save_model(tmp_path / "model.safetensors", enc.model, card(enc))
    enc.mask_coverage, enc.mask_margin, enc.mask_shape = 0.3, 1, "component-boxes"
    expected = enc.embed([picture(64, 64)], [BOXES[3:4]])[0].objects
    for source in (tmp_path, str(tmp_path / "model.safetensors")):
        loaded = load(source, device="cpu")
        assert torch.equal(loaded.embed([picture(64, 64)], [BOXES[3:4]])[0].objects, expected)
        assert (loaded.provenance, loaded.source, loaded.card["step"]) == ("annotated", str(source), 7)
        assert not any(p.requires_grad for p in loaded.model.parameters())


def test_what_is_not_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    enc = encoder()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("config: {}")
    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    save_model(tmp_path / "whole.safetensors", enc.model, card(enc))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    wrong = card(enc)
    wrong["model"]["depth"] = 3
    save_model(tmp_path / "wrong.safetensors", enc.model, wrong)
    poor = card(enc)
    del poor["mean"]
    save_model(tmp_path / "poor.safetensors", enc.model, poor)
    for source, message in (
        (tmp_path, "not a run's folder: it has no model.safetensors"),
        (tmp_path / "begun", "this run has not written its model.safetensors yet"),
        (tmp_path / "none", r"no such run folder or model file \(a model by name is timm:NAME\)"),
        (tmp_path / "other.safetensors", "not a model that odis wrote"),
        (tmp_path / "cut.safetensors", "not a model that odis wrote, or not whole"),
        (tmp_path / "wrong.safetensors", "not a model that odis wrote"),
        (tmp_path / "poor.safetensors", "its card lacks 'mean'"),
        ("timm:vit_nothing", "timm:vit_nothing: timm has no model vit_nothing"),
    ):
        with pytest.raises(OdisError, match=message) as error:
            load(source, device="cpu")
        assert str(source) in str(error.value)
        assert "\n" not in str(error.value)
    for arguments, message in (
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "qpu"}, "qpu"),
        ({"precision": "fp8"}, "fp8"),
    ):
        with pytest.raises(OdisError, match=message):
            load(tmp_path / "whole.safetensors", **arguments)


def test_timms_weights_load_from_a_file_and_say_so_when_they_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(vit.state_dict(), tmp_path / "weights.safetensors")
    loaded = load(f"timm:vit_tiny_patch16_224@{tmp_path / 'weights.safetensors'}", device="cpu")
    image = picture(224, 224)
    x = (image.float()[None] / 255 - 0.5) / 0.5  # this model's own mean and deviation
    with torch.no_grad():
        expected = vit.eval().forward_features(x)[0, 0]
    for mode in ("whole-image", "masked-attention"):
        close(loaded.embed([image], None, mode)[0].objects[0], expected)
    assert json.dumps(loaded.card) == "{}"

    def offline(*_: object, **__: object) -> None:
        raise OSError("hub.example cannot be reached\nand so on")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        OdisError,
        match=r"^timm:vit_tiny_patch16_224: .*cannot be reached.*; without a network.* "
        r"timm:vit_tiny_patch16_224@FILE",
    ):
        load("timm:vit_tiny_patch16_224", device="cpu")
