"""The detector, and what is known to go wrong with a plain ViT in torchvision's R-CNNs."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import roi_heads, rpn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, batched_nms, roi_align

from odis.backbones.build import build_vit
from odis.downstream.detector import (
    PyramidAnchors,
    ViTDetector,
    check_target,
    pasted,
    roi_align_of,
)
from odis.downstream.pyramid import strides
from odis.downstream.settings import SCALES


@pytest.fixture
def detector(tiny) -> Callable[..., ViTDetector]:
    """Makes a tiny detector of two classes."""

    def make(masks: bool = True) -> ViTDetector:
        torch.manual_seed(0)
        return ViTDetector(build_vit(tiny.model, 32), 2, tiny.detection, masks=masks)

    return make


def target(boxes: list[list[float]], side: int = 48) -> dict[str, torch.Tensor]:
    """Boxes of class 1 with the masks that fill them."""
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), side, side, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, corners.long()):
        mask[y0:y1, x0:x1] = 1
    return {"boxes": corners, "labels": torch.ones(len(boxes), dtype=torch.int64), "masks": masks}


@pytest.mark.parametrize("masks", [False, True])
def test_a_batch_without_objects_has_a_finite_loss_and_runs_backward(detector, masks: bool):
    net = detector(masks).train()
    losses, _ = net(torch.randn(2, 3, 48, 48), [(40, 48), (48, 30)], [target([]), target([])])
    total = sum(losses.values())
    assert bool(torch.isfinite(total))
    total.backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_all_that_is_trained_gets_a_gradient(detector):
    net = detector().train()
    losses, _ = net(torch.randn(1, 3, 48, 48), [(48, 48)], [target([[4, 4, 30, 36]])])
    sum(losses.values()).backward()
    assert {n for n, p in net.named_parameters() if p.grad is None} == {
        "backbone.mask_token", "backbone.object_token",
    }  # fmt: skip
    assert set(losses) == {
        "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask",
    }  # fmt: skip


@pytest.mark.parametrize("patch", [8, 14, 16])
def test_anchors_lie_at_the_strides_of_the_pyramid(patch: int):
    """torchvision's own round 3.5 pixels down to 3."""
    steps, side = strides(patch, SCALES), 8 * patch
    maps = [torch.zeros(1, 1, round(side / step), round(side / step)) for step in steps]
    (found,) = PyramidAnchors(steps, 8.0)(ImageList(torch.zeros(1, 3, side, side), [(side, side)]), maps)
    start = 0
    for step, level in zip(steps, maps):
        n = level.shape[-1]
        centres = ((found[start : start + 3 * n * n, :2] + found[start : start + 3 * n * n, 2:]) / 2)[::3]
        expected = torch.tensor([[x * step, y * step] for y in range(n) for x in range(n)])
        torch.testing.assert_close(centres, expected)
        start += 3 * n * n
    assert start == len(found)


def test_regions_are_read_at_the_scale_of_the_maps_whatever_came_first():
    """torchvision's own guess the scales from the first images: here a stride of 2 would become one of 4."""
    steps = [2.0, 4.0, 8.0]
    maps = {str(k): torch.randn(1, 3, round(128 / s), round(128 / s)) for k, s in enumerate(steps)}
    boxes = [torch.tensor([[3.0, 5, 20, 40], [0, 0, 120, 110]])]
    fresh = roi_align_of(steps, 4, 7)(maps, boxes, [(60, 128)])
    used = roi_align_of(steps, 4, 7)
    for size in ((128, 30), (16, 128), (128, 128)):
        assert torch.equal(used(maps, boxes, [size]), fresh)
    guessed = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
    guessed(maps, boxes, [(60, 60)])
    assert guessed.scales != used.scales == [1 / 2, 1 / 4, 1 / 8]
    # The second box is 115 pixels wide, over 14 patches of 4, so that it is read one level below the patches.
    torch.testing.assert_close(fresh[1], roi_align(maps["2"], boxes, 7, 1 / 8, 2)[1])


@pytest.mark.parametrize("patch", [8, 14, 16])
def test_levels_are_those_of_the_pyramid_paper_at_any_patch(patch: int):
    """FPN, equation 1: 224 pixels at stride 16 are 14 patches, read at the patches' own resolution."""
    mapper = roi_align_of(strides(patch, SCALES), patch, 7).map_levels
    sides = [1.0, 3.4 * patch, 7.01 * patch, 13.9 * patch, 14.01 * patch, 28.01 * patch, 500.0 * patch]
    boxes = torch.tensor([[5.0, 9, 5 + s, 9 + s] for s in sides])
    expected = [min(max(math.floor(4 + math.log2(s / (14 * patch))), 2), 5) - 2 for s in sides]
    assert mapper([boxes]).tolist() == expected == [0, 0, 1, 1, 2, 3, 3]


def test_losses_decoding_and_nms_are_in_float32_under_autocast(detector, monkeypatch: pytest.MonkeyPatch):
    seen: set[torch.dtype] = set()

    def spy(boxes, scores, idxs, threshold):
        seen.update({boxes.dtype, scores.dtype})
        return batched_nms(boxes, scores, idxs, threshold)

    for module in (rpn, roi_heads):
        monkeypatch.setattr(module.box_ops, "batched_nms", spy)
    net = detector()
    net.dtype = torch.bfloat16
    images, sizes = torch.randn(1, 3, 48, 48), [(48, 48)]
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = net.train()(images, sizes, [target([[4, 4, 30, 36]])])
        found = net.eval()(images, sizes)[1]
    assert seen == {torch.float32}
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert all(found[0][name].dtype == torch.float32 for name in ("boxes", "scores", "masks"))


def test_overlapping_boxes_of_the_last_of_80_classes_far_right_are_one(detector):
    """The offset of a class times 4000 pixels is 320,000, which half precision cannot hold."""
    head = detector(False).roi_heads
    proposals = torch.tensor([[3900.0, 3900, 3990, 3990], [3902, 3901, 3991, 3990], [3000, 3000, 3050, 3050]])
    logits = torch.full((3, 81), -8.0)
    logits[:, 80] = torch.tensor([4.0, 3.0, 3.0])
    boxes, _, labels = head.postprocess_detections(
        logits, torch.zeros(3, 81 * 4), [proposals], [(4000, 4000)]
    )
    of_last = boxes[0][labels[0] == 80]
    torch.testing.assert_close(of_last, proposals[[0, 2]])


def test_nothing_in_it_keeps_running_statistics(detector):
    """So none can change while the backbone is frozen, and no epsilon is lost."""
    kinds = {type(module) for module in detector().modules()}
    assert not any("BatchNorm" in kind.__name__ for kind in kinds)
    assert not [name for name, _ in detector().named_buffers() if "running" in name]
    assert any(issubclass(kind, nn.LayerNorm) for kind in kinds)


def test_targets_that_train_something_else_are_refused(detector):
    whole = target([[4, 4, 30, 36]])
    check_target(whole, (48, 48), True)
    check_target(target([]), (48, 48), True)
    wrong = [
        ({"masks": whole["masks"] * 255}, "masks hold the value 255"),
        ({"masks": whole["masks"][:, :40]}, r"must be uint8 \(1, 48, 48\)"),
        ({"masks": whole["masks"].float()}, "masks are torch.float32"),
        ({"boxes": torch.tensor([[30.0, 4, 4, 36]])}, "boxes must have x1 > x0"),
        ({"boxes": torch.zeros(1, 4, dtype=torch.float64)}, "boxes are torch.float64"),
        ({"labels": torch.tensor([0])}, "labels count from 1"),
        ({"labels": torch.tensor([1, 1])}, "labels are"),
    ]
    for change, message in wrong:
        with pytest.raises(ValueError, match=message):
            check_target(whole | change, (48, 48), True)
    with pytest.raises(ValueError, match="masks hold the value 255"):
        detector().train()(torch.randn(1, 3, 48, 48), [(48, 48)], [whole | {"masks": whole["masks"] * 255}])


def test_what_is_found_is_told_in_pixels_of_the_image():
    """A box on the square at half the image's width and a third of its height; the mask fills its box."""
    found = {
        "boxes": torch.tensor([[2.0, 3, 12, 9], [0, 0, 99, 99]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.9, 0.2]),
        "masks": torch.ones(2, 1, 28, 28),
    }
    made = pasted(found, (2.0, 3.0), (40, 30))
    assert made["boxes"].tolist() == [[4, 9, 24, 27], [0, 0, 30, 40]]
    rows, columns = np.nonzero(made["masks"][0].numpy())
    assert made["masks"].shape == (2, 40, 30)
    assert abs(rows.min() - 9) <= 1
    assert abs(rows.max() + 1 - 27) <= 1
    assert abs(columns.min() - 4) <= 1
    assert abs(columns.max() + 1 - 24) <= 1
    assert made["masks"][1].float().mean() > 0.9
    nothing = {name: value[:0] for name, value in found.items()}
    assert pasted(nothing, (2.0, 3.0), (40, 30))["masks"].shape == (0, 40, 30)
