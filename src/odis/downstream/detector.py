"""Faster R-CNN and Mask R-CNN of torchvision on a simple pyramid of a plain ViT.

What torchvision guesses from the shapes of maps is set here: the strides of anchors, which it rounds down (3
for the 3.5 pixels of a patch of 14), and the scales of RoIAlign, which it rounds to a power of two and keeps
from the first batch on. Every image lies on the same square, so that its features do not depend on the batch.
Anchors, losses, decoding and NMS are computed in float32.

Letters: B images, S side of the square, n objects of an image, C channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from odis.downstream.pyramid import SimplePyramid, patch_map, strides
from odis.downstream.settings import DetectionSettings
from odis.machine.devices import full_precision
from odis.method.vit import ObjectViT

MOST = 100
"""Objects that are found in an image at most, as COCO counts them."""

LEAST_SCORE = 0.01
"""Found objects below it are dropped."""

Target = dict[str, Tensor]
"""`boxes` float32 (n, 4), `labels` int64 (n,) from 1, and for masks `masks` uint8 (n, H, W) of 0 and 1."""


class PyramidAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """Anchors whose strides are those of the pyramid, not what is left of them after rounding.

    Args:
        steps: Pixels from one cell of each level to the next.
        side: Side of an anchor over the stride of its level.
    """

    def __init__(self, steps: Sequence[float], side: float) -> None:
        super().__init__(tuple((side * step,) for step in steps), ((0.5, 1.0, 2.0),) * len(steps))
        self.steps = tuple(steps)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """(anchors, 4) for each image: x0, y0, x1, y1 in pixels."""
        first = feature_maps[0]
        self.set_cell_anchors(torch.float32, first.device)
        sizes = [one.shape[-2:] for one in feature_maps]
        every = torch.cat(self.grid_anchors(sizes, [[step, step] for step in self.steps]))
        return [every] * len(image_list.image_sizes)


def roi_align_of(steps: Sequence[float], patch: int, output: int) -> Any:
    """RoIAlign over the levels of a pyramid with these strides: an object 14 patches wide is read at the
    resolution of the patches (as 224 pixels at stride 16 are), one half as wide at the next finer one.
    """
    align = MultiScaleRoIAlign([str(k) for k in range(len(steps))], output, sampling_ratio=2)
    align.scales = [1 / step for step in steps]
    align.map_levels = _Levels(steps, patch)
    return align


class _Levels(LevelMapper):  # type: ignore[misc]  # as above
    """Which level a box is read at (FPN, arXiv 1612.03144, equation 1), for any strides."""

    def __init__(self, steps: Sequence[float], patch: int) -> None:
        self.steps, self.patch = tuple(steps), patch

    def __call__(self, boxlists: list[Tensor]) -> Tensor:
        boxes = torch.cat(boxlists)
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp_min(1e-6).sqrt()
        wanted = torch.floor(torch.log2(side / (14 * self.patch)) + 1e-6)  # 0 is the patches' own resolution
        have = torch.tensor(self.steps, device=side.device).div(self.patch).log2()
        return (wanted[:, None] - have).abs().argmin(dim=1)


class ViTDetector(nn.Module):
    """A ViT as a detector.

    Args:
        backbone: The ViT.
        classes: How many there are, without the background.
        settings: Widths, scales and anchors.
        masks: Find masks too.
        dtype: Precision of backbone and pyramid.
    """

    def __init__(
        self,
        backbone: ObjectViT,
        classes: int,
        settings: DetectionSettings,
        *,
        masks: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.backbone, self.dtype, self.masks = backbone, dtype, masks
        patch, channels = int(backbone.patch_embed.patch_size[0]), settings.channels
        self.pyramid = SimplePyramid(backbone.embed_dim, channels, settings.scales)
        steps = strides(patch, settings.scales)
        given: Any = nn.Identity()
        given.out_channels = channels
        common: dict[str, Any] = {
            # One level more, for the largest anchors.
            "rpn_anchor_generator": PyramidAnchors([*steps, 2 * steps[-1]], settings.anchor),
            "box_roi_pool": roi_align_of(steps, patch, 7),
            "box_head": TwoMLPHead(channels * 49, settings.hidden),
            "box_predictor": FastRCNNPredictor(settings.hidden, classes + 1),
            "box_score_thresh": LEAST_SCORE,
            "box_detections_per_img": MOST,
            "box_batch_size_per_image": settings.regions,
        }
        for part in ("train", "test"):
            for place in ("pre", "post"):
                common[f"rpn_{place}_nms_top_n_{part}"] = settings.proposals
        whole: Any = (
            MaskRCNN(
                given,
                mask_roi_pool=roi_align_of(steps, patch, 14),
                mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
                mask_predictor=MaskRCNNPredictor(channels, channels, classes + 1),
                **common,
            )
            if masks
            else FasterRCNN(given, **common)
        )
        self.rpn, self.roi_heads = whole.rpn, whole.roi_heads

    def maps(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The pyramid (B, C, rows, columns) of images (B, 3, S, S), in float32, and one coarser level."""
        x = patch_map(self.backbone, images, self.dtype)
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            levels = self.pyramid(x)
        found = OrderedDict((str(k), one.float()) for k, one in enumerate(levels))
        found["pool"] = F.max_pool2d(found[str(len(levels) - 1)], 1, 2)
        return found

    def forward(
        self, images: Tensor, sizes: list[tuple[int, int]], targets: list[Target] | None = None
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Losses, in training; else what is found in each image, in pixels of the square.

        Args:
            images: (B, 3, S, S), normalised; zeros beyond each image.
            sizes: Height and width of each image on its square.
            targets: True objects, in training.

        Returns:
            Losses by name; and `boxes` (n, 4), `labels` (n,) from 1, `scores` (n,), with masks also `masks`
            (n, 1, 28, 28), probabilities within the box.

        Raises:
            ValueError: A target that would train something else than it says.
        """
        for target in targets or ():
            check_target(target, (images.shape[-2], images.shape[-1]), self.masks)
        maps = self.maps(images)
        with full_precision(images):
            proposals, of_rpn = self.rpn(ImageList(images, sizes), maps, targets)
            found, of_heads = self.roi_heads(maps, proposals, sizes, targets)
        return cast("dict[str, Tensor]", {**of_rpn, **of_heads}), found


def check_target(target: Target, size: tuple[int, int], masks: bool) -> None:
    """Refuse what torchvision trains on without a word: masks of 0 and 255 (a negative loss), masks of
    another size, boxes without an extent, labels from 0.

    Raises:
        ValueError: Saying what is wrong.
    """
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype != torch.float32:
        raise ValueError(f"boxes are {boxes.dtype} {tuple(boxes.shape)}, must be float32 (n, 4)")
    if labels.shape != (len(boxes),) or labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}, must be int64 ({len(boxes)},)")
    if len(boxes) and (not bool((boxes[:, 2:] > boxes[:, :2]).all()) or int(labels.min()) < 1):
        raise ValueError("boxes must have x1 > x0 and y1 > y0, and labels count from 1")
    if not masks:
        return
    given = target["masks"]
    if given.shape != (len(boxes), *size) or given.dtype != torch.uint8:
        raise ValueError(f"masks are {given.dtype} {tuple(given.shape)}, must be uint8 {(len(boxes), *size)}")
    if given.numel() and int(given.max()) > 1:
        raise ValueError(f"masks hold the value {int(given.max())}; they must be 0 and 1")


def pasted(found: dict[str, Tensor], scale: tuple[float, float], size: tuple[int, int]) -> dict[str, Tensor]:
    """What was found on the square, in pixels of the image.

    Args:
        found: Of one image, see `ViTDetector.forward`.
        scale: Pixels of the image along x and y for one of the square.
        size: Height and width of the image.

    Returns:
        `boxes` (n, 4), `labels`, `scores`, and with masks `masks`, uint8 (n, H, W) of 0 and 1.
    """
    boxes = found["boxes"] * found["boxes"].new_tensor([scale[0], scale[1], scale[0], scale[1]])
    height, width = size
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    made = {"boxes": boxes, "labels": found["labels"], "scores": found["scores"]}
    if "masks" in found:
        whole = paste_masks_in_image(found["masks"], boxes, (height, width))[:, 0]
        made["masks"] = (whole >= 0.5).to(torch.uint8)
    return made
