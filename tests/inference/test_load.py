"""Loading: runs, checkpoints, and any timm model as a baseline; what the baseline answers, against timm asked
by hand.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

import odis
from odis.backbones.baseline import build_baseline, takes_object_tokens
from odis.backbones.build import build_vit
from odis.backbones.saved import save_model
from odis.config.options import load_recipe
from odis.config.query import QueryConfig
from odis.data.views import make_sample
from odis.errors import ConfigError, DataError, OdisError
from odis.inference import load
from odis.method.vit import ObjectViT
from odis.train.checkpoint import checkpoints
from odis.train.loop import pretrain
from odis.train.saved_state import model_card
from odis.types import ImageObjects, Object

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

BOXES = np.array([(0, 0, 40, 40), (20, 10, 80, 60)], dtype=np.float32)


def picture(width: int, height: int, seed: int = 0) -> Tensor:
    return torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of some architectures, with classifiers, as published files have them."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name in ("resnet18", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"):
        save_file(
            {k: v.contiguous() for k, v in timm.create_model(name).state_dict().items()},
            folder / f"{name}.safetensors",
        )
    return folder


def baseline(name: str, weights: Path) -> odis.inference.Encoder:
    return load(f"timm:{name}@{weights / name}.safetensors", device="cpu")


def by_hand(
    name: str, weights: Path, encoder: odis.inference.Encoder, image: Tensor
) -> tuple[Tensor, Tensor]:
    """The image resized to the square: its pooled vector and its feature map (rows, columns, D)."""
    model = timm.create_model(name, num_classes=0, checkpoint_path="").eval()
    state = {
        k: v
        for k, v in odis.backbones.weights.read_state(weights / f"{name}.safetensors").items()
        if not k.startswith(("fc.", "head."))
    }
    model.load_state_dict(state)
    resized = (
        tv.resize(image, [224, 224], interpolation=tv.InterpolationMode.BICUBIC, antialias=True).float() / 255
    )
    mean, std = torch.tensor(encoder.mean)[:, None, None], torch.tensor(encoder.std)[:, None, None]
    with torch.no_grad():
        features = model.forward_features(((resized - mean) / std)[None])
        vector = model(((resized - mean) / std)[None])[0]
    return vector, features[0].permute(1, 2, 0) if name == "resnet18" else features[0]


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_any_timm_model_is_a_baseline_in_every_mode_but_masked_attention(name: str, weights: Path) -> None:
    encoder, image = baseline(name, weights), picture(80, 60)
    assert encoder.modes == ("crop", "blackout", "mean-pool", "whole-image")
    vector, grid = by_hand(name, weights, encoder, image)
    whole = encoder.embed(image, boxes=BOXES, mode="whole-image")
    torch.testing.assert_close(whole.objects, vector.expand(2, -1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.image, vector, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.patches, grid.flatten(0, 1), atol=1e-4, rtol=1e-4)
    assert whole.grid == (7, 7)
    cut = by_hand(name, weights, encoder, image[:, 10:60, 20:80])[0]
    torch.testing.assert_close(
        encoder.embed(image, boxes=BOXES, mode="crop").objects[1], cut, atol=1e-4, rtol=1e-4
    )
    pooled = encoder.embed(image, boxes=[[0, 0, 80, 60]], mode="mean-pool").objects[0]
    torch.testing.assert_close(pooled, grid.flatten(0, 1).mean(0), atol=1e-4, rtol=1e-4)
    with pytest.raises(
        OdisError,
        match=rf"mode masked-attention: timm:{name}.* has no object token; its modes are crop, blackout",
    ):
        encoder.embed(image)


def test_a_baseline_is_asked_at_other_sizes_if_it_takes_them(weights: Path) -> None:
    assert baseline("resnet18", weights).embed(picture(50, 90), mode="whole-image", size=160).grid == (5, 5)
    with pytest.raises(OdisError, match="size 256: SwinTransformer takes no images of this size"):
        baseline("swin_tiny_patch4_window7_224", weights).query_builder(QueryConfig(("crop",), size=256))


def test_vits_that_read_their_class_token_get_object_tokens_and_others_do_not() -> None:
    names = (
        "vit_small_patch14_dinov2",
        "deit3_small_patch16_224",
        "vit_small_patch16_dinov3",
        "resnet18",
        "eva02_tiny_patch14_224",
        "eva02_base_patch16_clip_224",
    )
    assert [takes_object_tokens(name) for name in names] == [True, True, True, False, False, True]
    # These are plain ViTs too, but their authors pool patches: there is no trained token to ask.
    pooled = ("vit_base_patch16_siglip_224", "eva_large_patch14_196", "vit_little_patch16_reg4_gap_256")
    assert not any(takes_object_tokens(name) for name in pooled)


def test_dinov3_is_read_out_as_its_authors_do() -> None:
    model = build_baseline("vit_small_patch16_dinov3", 64, None)
    assert (model.pooling, model.patch_dim, model._grids) == ("token", 384, {64: (4, 4)})
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens, features = model(x), model.model.forward_features(x)
    torch.testing.assert_close(tokens.image, features[:, 0])
    torch.testing.assert_close(tokens.patches, features[:, 5:])  # after [CLS] and four registers


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("inception_v3", 299, (8, 8)),
        ("tf_efficientnet_b2", 260, (9, 9)),
        ("tf_efficientnet_b2", 280, (9, 9)),
        ("pit_ti_224", 224, (0, 0)),
    ],
)
def test_a_baseline_is_asked_at_its_own_size_whatever_its_map(
    name: str, size: int, grid: tuple[int, int]
) -> None:
    model = build_baseline(name, 224 if name.startswith("pit") else 260, None)
    encoder = odis.inference.Encoder(model, size, (0.5,) * 3, (0.5,) * 3, source=name)
    found = encoder.embed(picture(50, 70), boxes=[[0, 0, 20, 20], [10, 10, 50, 70]], mode="whole-image")
    assert found.grid == grid
    assert found.objects.shape == (2, model.image_dim)
    if grid == (0, 0):
        assert encoder.modes == ("crop", "blackout", "whole-image")
        with pytest.raises(OdisError, match="mode mean-pool: pit_ti_224 has no feature map"):
            encoder.embed(picture(50, 70), mode="mean-pool")
    else:
        assert encoder.embed(picture(50, 70), boxes=[[0, 0, 20, 20]], mode="mean-pool").objects.shape == (
            1,
            model.patch_dim,
        )


def test_weights_of_another_model_are_refused(weights: Path) -> None:
    with pytest.raises(ConfigError, match="does not fit resnet18"):
        build_baseline("resnet18", 224, weights / "vit_tiny_patch16_224.safetensors")
    with pytest.raises(OdisError, match="is not a file"):
        load("timm:resnet18@nowhere.safetensors")


def test_a_checkpoint_holds_the_teacher_that_the_model_file_holds(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        tv.to_pil_image(picture(40, 40, i)).save(tmp_path / "images" / f"{i}.png")
    tiny = {
        "model__embed_dim": 24,
        "model__depth": 1,
        "model__num_heads": 2,
        "head__prototypes": 24,
        "head__hidden": 24,
    }
    config = load_recipe(
        "debug",
        data=str(tmp_path / "images"),
        train__steps=2,
        train__batch_size=2,
        train__device="cpu",
        views__local_views=0,
        views__global_size=32,
        loader__workers=0,
        **tiny,
    )
    run = pretrain(config, tmp_path / "run", recipe="debug")
    (path,) = checkpoints(run / "checkpoints")
    one, other = load(run, device="cpu"), odis.load(path, device="cpu")
    assert isinstance(other.model, ObjectViT)
    assert one.card == other.card
    assert (other.card["step"], other.provenance, other.source) == (2, "whole-image", str(path))
    assert torch.equal(one.embed(picture(50, 30)).objects, other.embed(picture(50, 30)).objects)
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-2000])
    torch.save({"step": 3}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in (
        ("cut.pt", "not a whole checkpoint"),
        ("other.pt", "not a checkpoint that odis wrote"),
        ("list.pt", "not a check"),
    ):
        with pytest.raises(DataError, match=message) as error:
            load(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_wrong_pair_of_statistics_would_be_seen(weights: Path) -> None:
    """AugReg's network sees the pixels as it was trained to: by .5, not by ImageNet's statistics."""
    name, image = "vit_tiny_patch16_224.augreg_in21k", picture(224, 224)
    found = load(f"timm:{name}@{weights / 'vit_tiny_patch16_224.safetensors'}", device="cpu")
    features = found.embed(image, mode="whole-image").image
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    state = odis.backbones.weights.read_state(weights / "vit_tiny_patch16_224.safetensors")
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith("head.")})
    gaps = []
    for mean, std in ((0.5, 0.5), (torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))):
        mean, std = (torch.as_tensor(one).reshape(-1, 1, 1) for one in (mean, std))
        with torch.no_grad():
            gaps.append(float((model((image / 255 - mean)[None] / std)[0] - features).abs().max()))
    assert gaps[0] < 1e-4
    assert gaps[1] > 0.05


def test_precision_is_chosen_for_the_device(weights: Path) -> None:
    assert baseline("vit_tiny_patch16_224", weights).precision == "fp32"
    assert (
        load(f"timm:resnet18@{weights / 'resnet18.safetensors'}", device="cpu", precision="bf16").precision
        == "bf16"
    )


def test_the_package_names_what_it_has() -> None:
    assert odis.Object is odis.types.Object
    names = "Object, __version__, compare, embed, evaluate, export, finetune, index, load, pretrain"
    with pytest.raises(AttributeError, match=f"no attribute 'lode'; it has {names}$"):
        odis.lode  # noqa: B018


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"mask_coverage": 0.0, "mask_margin": 1, "mask_shape": "component-boxes"},
        {"mask_coverage": 0.0, "mask_margin": 1},
    ],
)
def test_objects_are_queried_by_the_patches_that_training_reads(tmp_path, rule):
    """A view of the whole image has the masks that a query of it has, through the model file."""
    views = {
        "global_size": 32,
        "local_views": 0,
        "global_scale": (1.0, 1.0),
        "ratio": (1.0, 1.0),
        "flip": 0.0,
    }
    model = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "object_tokens": "read-only"}
    settings = {f"views__{k}": v for k, v in (views | rule).items()} | {
        f"model__{k}": v for k, v in model.items()
    }
    config = load_recipe("debug", data="x", objects__per_image=2, **settings)
    run = SimpleNamespace(config=config, patch_size=8, provenance="x", step=1, recipe="debug")
    save_model(tmp_path / "model.safetensors", build_vit(config.model, 32), model_card(run))
    inside = np.zeros((40, 40), dtype=bool)
    inside[3:12, 3:5] = inside[20:22, 30:39] = True
    objects = (Object((1, 1, 19.5, 9)), Object((3, 3, 39, 22), odis.objects.rle.encode(inside)))
    image = picture(40, 40)
    trained, _, _ = make_sample(
        np.random.default_rng(0),
        image,
        ImageObjects("a.png", 40, 40, objects),
        config.objects,
        config.views,
        config.prediction,
        8,
    )
    asked = load(tmp_path, device="cpu").query_builder(QueryConfig())(image, objects)[0].masks
    for view in trained:
        assert view.crop.width == view.crop.height == 40
        assert sorted(view.object_masks.tolist()) == sorted(asked.tolist())
