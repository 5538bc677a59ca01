"""Semantic segmentation: heads, scores against the evaluation's own, windows."""

import numpy as np
import pytest
import torch
from torch import nn

from odis.backbones.build import build_vit
from odis.downstream.semantic import LabelCounts, MultiScaleHead, Segmenter, SemanticTask, label_image
from odis.downstream.settings import SemanticSettings
from odis.downstream.starts import open_starts
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.segmentation.segmented_settings import SegmentedData
from odis.evaluation.scores import iou_score


@pytest.mark.parametrize(("head", "grid"), [("linear", 4), ("multi-scale", 8)])
def test_a_head_scores_each_class_and_all_of_it_learns(tiny, head, grid):
    settings = SemanticSettings(head=head, channels=8, dropout=0.0)
    net = Segmenter(build_vit(tiny.model, 32), 5, settings).train()
    scores = net(torch.randn(2, 3, 32, 32))
    assert (scores.shape, scores.dtype) == ((2, 5, grid, grid), torch.float32)
    scores.square().sum().backward()
    assert all(p.grad is not None for p in net.head.parameters())
    net.dtype = torch.bfloat16
    torch.testing.assert_close(net.eval()(torch.ones(1, 3, 32, 32)), _fp32(net), atol=0.3, rtol=0.1)


def _fp32(net: Segmenter) -> torch.Tensor:
    net.dtype = torch.float32
    found: torch.Tensor = net.eval()(torch.ones(1, 3, 32, 32))
    return found


def test_dropout_drops_whole_channels_in_training_only():
    head = MultiScaleHead(6, 4, 3, 0.5)
    x = torch.randn(1, 6, 4, 4)
    assert torch.equal(head.eval()(x), head.eval()(x))
    assert not torch.equal(head.train()(x), head.train()(x))


def test_scores_are_those_of_the_evaluation_in_resamples_too():
    rng = np.random.default_rng(0)
    labelled, predicted = rng.integers(0, 50, (2, 6, 4))
    labelled[:, 3] = predicted[:, 3] = 0  # a class that is nowhere
    counts = np.stack([np.minimum(labelled, predicted) // 2, predicted, labelled], axis=1)
    found = LabelCounts(counts)
    assert found.scores(np.ones(6))["mIoU"] == pytest.approx(iou_score(counts)[0].value / 100)
    assert found.scores(np.ones(6))["pixel accuracy"] == pytest.approx(counts[:, 0].sum() / labelled.sum())
    taken = [0, 0, 5]
    drawn = found.scores(np.bincount(taken, minlength=6).astype(float))
    assert drawn["mIoU"] == pytest.approx(iou_score(counts[taken])[0].value / 100)
    assert np.isnan(LabelCounts(0 * counts).scores(np.ones(6))["mIoU"])


class Colours(nn.Module):
    """Scores of three classes that are the channels of the image itself."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (32, 75)])
def test_windows_cover_an_image_of_any_aspect(model, size):
    """Each pixel gets the class of its channel, in the image's own size."""
    (start,) = open_starts([model])
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (size[0] // 8, size[1] // 5 + 1)), np.ones((8, 5), int))[:, : size[1]]
    pixels = (labels == np.arange(3)[:, None, None]).astype(np.uint8) * 255
    found = label_image(Colours(), pixels, labels.shape, start, 32, torch.device("cpu"))
    assert np.array_equal(found.numpy(), labels)


def test_patches_tile_a_view_and_classes_are_matched_by_name(squares, model, tmp_path):
    data = SegmentedData(train=str(squares), test=str(squares / "indexes" / "test.parquet"))
    with pytest.raises(DataError, match=r"shows 'background', a class that .* does not list \(ground, dark"):
        SemanticTask(data, SemanticSettings(size=32))
    task = SemanticTask(
        SegmentedData(
            train=str(squares / "indexes" / "train.parquet"), test=str(squares / "indexes" / "test.parquet")
        ),
        SemanticSettings(size=32),
    )
    assert task.classes == ["background", "dark", "light"]
    (start,) = open_starts([model])
    task.check(start, 8)
    with pytest.raises(OdisError, match="size 32 must be a multiple of the patch size 14"):
        task.check(start, 14)
