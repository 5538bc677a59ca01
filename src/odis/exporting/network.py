"""What leaves odis: a backbone as one graph, from pixels and objects to features.

Letters: B images of one size, Q objects of each, D width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from odis.backbones.relative import RelativeViT
from odis.errors import OdisError
from odis.exporting.boxes import masks_of_boxes
from odis.inference.encoder import Encoder
from odis.method.pair import pool
from odis.method.vit import ObjectViT

NOT_OURS = (
    "is no model that odis wrote: give a run, its model.safetensors or a checkpoint (timm's own are in timm "
    "already)"
)

_FAR = 1e6  # pixels: beyond every image


@dataclass(frozen=True, slots=True)
class Exported:
    """A model that is exported.

    Args:
        encoder: It, on the CPU in float32.
        network: Its backbone.
        card: Metadata of its file.
        size: Side in pixels that preprocessing resizes images to.
    """

    encoder: Encoder
    network: ObjectViT
    card: dict[str, Any]
    size: int

    @staticmethod
    def of(encoder: Encoder, size: int | None = None) -> Exported:
        """An encoder, as what is exported of it.

        Raises:
            OdisError: It is no model that odis trained, or its patches do not tile the size.
        """
        network = encoder.model
        if not isinstance(network, ObjectViT) or "model" not in encoder.card:
            raise OdisError(f"{encoder.source or 'this model'}: {NOT_OURS}")
        side = encoder.image_size if size is None else size
        if side < 2 * encoder.patch_size or side % encoder.patch_size:
            raise OdisError(
                f"size {side} must be a multiple of the patch size {encoder.patch_size}, and two patches "
                f"or more"
            )
        network = copy.deepcopy(network).to("cpu", torch.float32).requires_grad_(False).eval()
        own = replace(encoder, model=network, precision="fp32")
        return Exported(own, network, without_paths(encoder.card), side)

    @property
    def pooled(self) -> bool:
        """Whether an object is the mean of its patches."""
        return self.encoder.object_readout == "mean-pool"


def without_paths(card: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a model as it may be published: of a file that training started from the name alone."""
    start = card.get("start_weights")
    if not start:
        return dict(card)
    return card | {"start_weights": start | {"source": Path(str(start.get("source", ""))).name}}


def any_size(network: Any) -> bool:
    """Whether timm's own class answers as the network does at sizes that it was not made for."""
    if isinstance(network, RelativeViT):
        return False
    return network.pos_embed is None or network.architecture.pos_resize == "timm"


class ObjectFeatures(nn.Module):
    """Features of images and of their objects, as `Encoder.embed` gives them, from normalised pixels.

    An object of which no patch is given reads its own token alone.

    Args:
        exported: The model.
    """

    def __init__(self, exported: Exported) -> None:
        super().__init__()
        self.network = exported.network
        self.pooled = exported.pooled
        self.one_each = exported.network.object_tokens != "read-only"

    def forward(self, pixel_values: Tensor, object_masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Objects, image and patches.

        Args:
            pixel_values: float32 (B, 3, H, W), normalised; sides multiples of the patch size.
            object_masks: bool (B, Q, rows, columns), the patches of each object; Q may be 0.

        Returns:
            objects (B, Q, D); image (B, D), the whole image as one object; patches (B, rows * columns, D).
        """
        whole = object_masks.new_ones(object_masks.shape[0], 1, *object_masks.shape[2:])
        return self.with_whole(pixel_values, torch.cat([whole, object_masks], dim=1))

    def with_whole(self, pixel_values: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, for masks (B, 1 + Q, rows, columns) whose first is the whole image."""
        masks = masks.flatten(2)
        if self.pooled:
            patches = self.network(pixel_values).patches
            objects = pool(patches, masks)
        elif self.one_each:
            views, queries = pixel_values.shape[0], masks.shape[1]
            images = pixel_values.unsqueeze(1).expand(-1, queries, -1, -1, -1).flatten(0, 1)
            tokens = self.network(images, masks.flatten(0, 1).unsqueeze(1))
            objects = tokens.objects.squeeze(1).unflatten(0, (views, queries))
            patches = tokens.patches.unflatten(0, (views, queries))[:, 0]
        else:
            tokens = self.network(pixel_values, masks)
            objects, patches = tokens.objects, tokens.patches
        return objects[:, 1:], objects[:, 0], patches


class BoxFeatures(nn.Module):
    """`ObjectFeatures`, with objects given as boxes.

    Args:
        exported: The model.
    """

    def __init__(self, exported: Exported) -> None:
        super().__init__()
        self.features = ObjectFeatures(exported)
        self.patch = exported.encoder.patch_size
        self.coverage = float(exported.encoder.mask_coverage)
        self.margin = int(exported.encoder.mask_margin)
        self.shape = exported.encoder.mask_shape

    def forward(self, pixel_values: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Objects, image and patches.

        Args:
            pixel_values: As of `ObjectFeatures`.
            boxes: float32 (B, Q, 4): x0, y0, x1, y1 in pixels of `pixel_values`, x1 and y1 exclusive.
        """
        rows, columns = pixel_values.shape[2] // self.patch, pixel_values.shape[3] // self.patch
        # Of no object, too, there is one: a graph with nothing in it could not be traced for any number.
        whole = boxes.new_tensor([0.0, 0.0, _FAR, _FAR])
        boxes = torch.cat([whole.expand(boxes.shape[0], 1, 4), boxes], dim=1)
        masks = masks_of_boxes(boxes, rows, columns, self.patch, self.coverage, self.margin, self.shape)
        return self.features.with_whole(pixel_values, masks)
