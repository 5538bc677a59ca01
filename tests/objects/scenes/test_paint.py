"""The colours of the scenes."""

import numpy as np

from odis.objects.scenes import paint


def test_colours_have_the_luma_they_are_given() -> None:
    luma = np.random.default_rng(1).uniform(60, 200, (500, 1))
    colours = paint._coloured(np.random.default_rng(0), luma)
    assert colours.min() > -1e-9
    assert colours.max() < 255 + 1e-9
    assert np.abs(colours @ np.array([0.299, 0.587, 0.114]) - luma[:, 0]).max() < 1e-9
    assert np.ptp(colours, axis=1).mean() > 60  # and strong hues
