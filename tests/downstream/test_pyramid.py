"""The pyramid: its resolutions for any patch, and squares that everything tiles."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from odis.backbones.build import build_vit
from odis.downstream.pyramid import SimplePyramid, canvas_side, padded, patch_map, strides
from odis.downstream.settings import SCALES


@pytest.mark.parametrize("patch", [8, 14, 16])
def test_levels_have_the_resolutions_of_the_scales(patch: int):
    side = canvas_side(100, patch, SCALES)
    x = torch.randn(2, 12, side // patch, side // patch)
    levels = SimplePyramid(12, 6, SCALES)(x)
    assert [tuple(one.shape) for one in levels] == [(2, 6, *[round(side * s / patch)] * 2) for s in SCALES]
    assert [side / one.shape[-1] for one in levels] == strides(patch, SCALES)


def test_every_parameter_of_a_pyramid_gets_a_gradient():
    pyramid = SimplePyramid(12, 6, SCALES)
    sum(one.square().sum() for one in pyramid(torch.randn(1, 12, 4, 4))).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum()) for p in pyramid.parameters())


@given(
    size=st.integers(1, 2000),
    patch=st.sampled_from([4, 8, 14, 16, 32]),
    scales=st.sets(st.sampled_from(SCALES), min_size=1).map(lambda s: sorted(s, reverse=True)),
)
def test_the_square_is_the_least_that_patches_and_all_levels_tile(size, patch, scales):
    side = canvas_side(size, patch, scales)
    coarsest = 2 * patch / min(scales)  # the level of the largest anchors
    assert side >= size
    assert side % patch == 0
    assert (side / coarsest).is_integer()
    assert not any(n % patch == 0 and (n / coarsest).is_integer() for n in range(size, side))


def test_an_image_is_padded_below_and_to_the_right_and_its_features_do_not_depend_on_the_batch(tiny):
    torch.manual_seed(0)
    backbone = build_vit(tiny.model, 32).eval()
    one, other = torch.randn(3, 20, 32), torch.randn(3, 32, 9)
    square = padded(one, 32)
    assert torch.equal(square[:, :20], one)
    assert not square[:, 20:].any()
    alone = patch_map(backbone, padded(one, 32)[None])
    together = patch_map(backbone, torch.stack([padded(other, 32), padded(one, 32)]))
    assert alone.shape == (1, 32, 4, 4)
    torch.testing.assert_close(together[1], alone[0])
