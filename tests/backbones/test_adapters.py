"""Positions on another grid against the published formula, written out; tokens at their start."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from odis.backbones.adapters import dino_positions
from odis.backbones.build import build_vit
from odis.config.training import ModelConfig
from odis.errors import ConfigError

TINY = ModelConfig("vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=1, num_heads=2)


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, as torch has it."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def weights(new: int, old: int) -> Tensor:
    """(new, old): new position i is read at (i + 0.5) * old / (new + 0.1) - 0.5; beyond the border the last
    old one goes on.
    """
    found = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        at = (i + 0.5) * old / (new + 0.1) - 0.5
        for j in range(int(at // 1) - 1, int(at // 1) + 3):
            found[i, min(max(j, 0), old - 1)] += cubic(at - j)
    return found


def resized(table: Tensor, new: tuple[int, int], old: tuple[int, int], prefix: int) -> Tensor:
    grid = table[0, prefix:].view(*old, -1)
    grid = torch.einsum("ri,cj,ijd->rcd", weights(new[0], old[0]), weights(new[1], old[1]), grid)
    return torch.cat([table[:, :prefix], grid.flatten(0, 1)[None]], dim=1)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(
    ("new", "old"), [((6, 6), (14, 14)), ((2, 3), (4, 4)), ((9, 4), (5, 7)), ((1, 1), (3, 3))]
)
def test_positions_as_dino_resizes_them(new: tuple[int, int], old: tuple[int, int], prefix: int) -> None:
    table = torch.randn(1, prefix + old[0] * old[1], 5, dtype=torch.float64)
    found = dino_positions(table, list(new), list(old), prefix)
    torch.testing.assert_close(found, resized(table, new, old, prefix), rtol=1e-9, atol=1e-9)


def test_positions_of_their_own_grid_are_the_table() -> None:
    table = torch.randn(1, 17, 8)
    assert dino_positions(table, [4, 4], [4, 4], 1) is table


@pytest.mark.parametrize("pos_resize", ["timm", "dino"])
def test_a_small_view_has_the_positions_that_the_config_says(pos_resize: Literal["timm", "dino"]) -> None:
    """A network whose table is 0 has timm's positions and DINO's alike: what is added tells them apart."""
    model = build_vit(ModelConfig(**vars(TINY) | {"pos_resize": pos_resize}), 32)
    images = torch.randn(2, 3, 16, 16)
    x = model.embed(images, None, None)[0]
    table = model.pos_embed.detach().clone()
    with torch.no_grad():
        model.pos_embed.zero_()
    added = (x - model.embed(images, None, None)[0])[0].double().detach()
    expected = resized(table.double(), (2, 2), (4, 4), 1)[0]
    off = float((added - expected).abs().max())
    assert (off < 1e-6) == (pos_resize == "dino"), off
    assert off < 0.1


def test_without_a_table_there_is_nothing_to_resize() -> None:
    model = ModelConfig("vit_small_patch16_dinov3", depth=1, pos_resize="dino", object_tokens="read-only")
    with pytest.raises(ConfigError, match=r"^model\.pos_resize: is dino, but vit_small"):
        build_vit(model, 32)


def test_the_mask_token_starts_at_zero() -> None:
    """As iBOT's `masked_embed` and DINOv2's `mask_token`."""
    assert not build_vit(TINY, 32).mask_token.any()
