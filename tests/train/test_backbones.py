"""Rotary, relative and register backbones train with object masks, resume bit for bit, and are asked about
objects.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.errors import ConfigError
from odis.inference import load
from odis.objects.index import write_index
from odis.train.checkpoint import checkpoints, load_checkpoint
from odis.train.loop import pretrain
from odis.types import ImageObjects, Object

BOXES = ((4.0, 4.0, 30.0, 40.0), (20.0, 10.0, 60.0, 44.0))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(root / f"{i}.png")
        rows.append(ImageObjects(f"{i}.png", 64, 48, tuple(Object(box) for box in BOXES)))
    write_index(root / "index.parquet", rows, root=root, provenance="annotated", classes=[])
    return root / "index.parquet"


def settings(index: Path, name: str, patch: int) -> PretrainConfig:
    return load_recipe(
        "debug", data=str(index), train__steps=4, train__batch_size=2, train__device="cpu",
        train__checkpoint_every=2, views__global_size=3 * patch, views__local_size=2 * patch,
        views__local_views=1, loader__workers=0, model__name=name, model__patch_size=patch,
        model__embed_dim=24, model__depth=2, model__num_heads=2, model__object_tokens="read-only",
        model__drop_path=0.2, objects__per_image=2, head__prototypes=16, head__hidden=16, optim__base_lr=0.05,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("vit_small_patch16_dinov3", 16),
        ("eva02_tiny_patch14_224", 14),
        ("beit_base_patch16_224", 16),
        ("vit_small_patch14_reg4_dinov2", 14),
    ],
)
def test_it_trains_resumes_and_embeds(name: str, patch: int, index: Path, tmp_path: Path) -> None:
    pretrain(settings(index, name, patch), tmp_path / "run")
    middle, last = checkpoints(tmp_path / "run" / "checkpoints")
    before, after = (load_checkpoint(path)["student"] for path in (middle, last))
    moved = {k for k, v in before.items() if not torch.equal(v, after[k])}
    assert {"backbone.object_token", "backbone.blocks.0.attn.proj.weight"} <= moved
    last.unlink()
    pretrain(settings(index, name, patch), tmp_path / "run")
    again = load_checkpoint(last)["student"]
    assert all(torch.equal(v, again[k]) for k, v in after.items())
    encoder = load(tmp_path / "run", device="cpu")
    image = np.random.default_rng(1).integers(0, 255, (50, 40, 3), dtype=np.uint8)
    both = encoder.embed(image, boxes=[list(BOXES[0]), [10.0, 0.0, 40.0, 20.0]]).objects
    alone = encoder.embed(image, boxes=[list(BOXES[0])]).objects
    assert both.shape == (2, 24)
    torch.testing.assert_close(both[0], alone[0], rtol=0, atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-6)


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "vit_tiny_r_s16_p8_224", "deit_tiny_distilled_patch16_224"]
)
def test_a_model_that_cannot_is_refused_in_one_line(name: str, index: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.name: {name} ") as refusal:
        pretrain(load_recipe("debug", data=str(index), model__name=name, loader__workers=0), tmp_path / "run")
    assert "\n" not in str(refusal.value)
