"""Grounds that tell a class."""

import numpy as np
import pytest

from odis.objects.scenes.grounds import themed_ground


@pytest.mark.parametrize("theme", range(10))
def test_grounds_are_equally_bright_and_keep_their_hue(theme: int) -> None:
    luma = np.array([0.299, 0.587, 0.114])
    ground = themed_ground(np.random.default_rng(theme), theme, 240, 75.0)
    assert ground.shape == (240, 240, 3)
    assert ground.min() >= 0
    assert ground.max() <= 255
    assert abs((ground @ luma).mean() - 75) < 2
    assert 8 < (ground @ luma).std() < 16, "a pattern that shows, and that does not outshine ink"
    shares = ground / ground.sum(axis=2, keepdims=True)
    assert np.ptp(shares, axis=(0, 1)).max() < 1e-9
