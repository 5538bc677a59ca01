"""fp16 is refused for a network whose blocks leave large values, before its features are wrong."""

from typing import Any

import numpy as np
import pytest
import timm
import torch

from odis.backbones.baseline import TimmBaseline
from odis.backbones.build import build_vit
from odis.backbones.fp16_range import LIMIT, largest_by_block, require_fp16_range
from odis.config.training import ModelConfig
from odis.errors import OdisError
from odis.inference import Encoder
from odis.method.vit import ObjectViT


def small(kind: str = "read-only") -> ObjectViT:
    torch.manual_seed(0)
    config = ModelConfig(
        "vit_tiny_patch16_224",
        None,
        kind,
        patch_size=8,
        embed_dim=32,
        depth=3,
        num_heads=2,  # type: ignore[arg-type]
    )
    return build_vit(config, 16, drop_path=0.0).eval()


def outlier(model: ObjectViT, block: int, value: float) -> None:
    """Let one channel of a block's MLP add a value to every token, as public towers have."""
    layer: Any = model.blocks[block].mlp.fc2
    with torch.no_grad():
        layer.bias[3] = value


@pytest.mark.parametrize("kind", ["read-only", "single", "beside"])
def test_values_are_those_after_each_of_timms_blocks(kind: str) -> None:
    model, images = small(kind), torch.randn(2, 3, 16, 16)
    outlier(model, 1, 1234.0)
    if kind == "beside":  # one more token in the sequence, which timm has not
        assert largest_by_block(model, images)[1] == pytest.approx(1234, abs=20)
        return
    reference = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0
    )
    reference.load_state_dict({k: v for k, v in model.state_dict().items() if k in reference.state_dict()})
    seen: list[float] = []
    for block in reference.blocks:
        block.register_forward_hook(lambda module, given, left: seen.append(float(left.abs().max())))
    with torch.no_grad():
        reference.eval()(images)
    assert largest_by_block(model, images) == pytest.approx(seen, rel=1e-4)
    assert seen[1] > 1000 > seen[0]


def test_a_large_value_refuses_fp16_and_says_where() -> None:
    model, images = small(), torch.randn(1, 3, 16, 16)
    outlier(model, 1, 19_000.0)
    assert max(require_fp16_range(model, images, "it")) == pytest.approx(19_000, rel=0.01)
    for value, shown in ((1.1 * LIMIT, r"22,0\d\d"), (float("inf"), "inf"), (float("nan"), "nan")):
        outlier(model, 1, value)
        with pytest.raises(
            OdisError, match=rf"it: precision fp16: block 2 leaves values up to {shown}.*bf16"
        ):
            require_fp16_range(model, images, "it")


def test_a_timm_model_of_stages_is_looked_at_too() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=0)
    plain, images = TimmBaseline(model, 32).eval(), torch.randn(1, 3, 32, 32)
    assert len(largest_by_block(plain, images)) >= 4
    with torch.no_grad():
        model.layer3[0].bn2.bias.fill_(30_000.0)
    with pytest.raises(OdisError, match="precision fp16"):
        require_fp16_range(plain, images, "it")
    assert not model.layer3._forward_hooks


def test_an_encoder_records_them_once_and_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 3, 16, 16), dtype=np.uint8)
    encoder = Encoder(small(), 16, (0.5,) * 3, (0.5,) * 3, precision="fp16", source="runs/x")
    first = encoder.tokens(pixels)
    assert len(encoder.largest_by_block) == 3
    assert max(encoder.largest_by_block) < 100
    with monkeypatch.context() as patch:
        patch.setattr("odis.inference.encoder.require_fp16_range", lambda *_: pytest.fail("asked again"))
        assert torch.equal(encoder.tokens(pixels).patches, first.patches)
    outlier(encoder.model, 2, 60_000.0)  # type: ignore[arg-type]
    again = Encoder(encoder.model, 16, (0.5,) * 3, (0.5,) * 3, precision="fp16", source="runs/x")
    with pytest.raises(OdisError, match="runs/x: precision fp16: block 3 leaves"):
        again.tokens(pixels)
    for precision in ("fp32", "bf16"):
        again.precision = precision
        assert again.tokens(pixels).patches.isfinite().all()
        assert not again.largest_by_block
