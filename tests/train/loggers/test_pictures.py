"""Pictures of a step: the view as it was, its object tinted, hidden patches dark, attention where it is."""

from types import SimpleNamespace

import numpy as np
import torch

from odis.config.training import PretrainConfig
from odis.errors import OdisError
from odis.train.loggers import pictures
from odis.train.loggers.pictures import step_pictures


def test_each_column_shows_what_it_says(monkeypatch) -> None:
    config = PretrainConfig(data="x")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in config.views.statistics)
    pixels = torch.full((2, 3, 8, 8), 0.5)
    masks = torch.zeros(2, 3, 4, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 0, 3] = True
    hidden = torch.zeros(2, 4, dtype=torch.bool)
    hidden[0, 1] = True
    batch = SimpleNamespace(
        size=2, global_views=(pixels - mean) / std, global_masks=masks, prediction_masks=hidden
    )
    teacher = SimpleNamespace(patch_embed=SimpleNamespace(patch_size=(4, 4)))
    weights = torch.zeros(2, 1, 2, 4)
    weights[:, :, :, 2] = 0.25
    monkeypatch.setattr(pictures, "object_attention_maps", lambda *given: weights)
    found = step_pictures(batch, teacher, config)
    views, attention = found["views"], found["attention"]
    assert (views.shape, attention.shape, views.dtype) == ((16, 24, 3), (16, 16, 3), np.uint8)
    assert (np.abs(views[:, :8].astype(int) - 128) <= 1).all()
    tinted = (views[:, 8:16] != views[:, :8]).any(axis=2)
    expected = np.zeros((16, 8), bool)
    expected[:4, :4] = expected[12:, 4:] = True
    assert np.array_equal(tinted, expected)
    dark = views[:, 16:].max(axis=2) < 60
    assert np.array_equal(np.argwhere(dark).min(0), [0, 4])
    assert dark.sum() == 16
    bright = attention[:, 8:, 0] == 255
    assert np.array_equal(np.argwhere(bright)[[0, -1]], [[4, 0], [15, 3]])

    def refuses(*given: object) -> None:
        raise OdisError("no attention")

    monkeypatch.setattr(pictures, "object_attention_maps", refuses)
    assert list(step_pictures(batch, teacher, config)) == ["views"]
