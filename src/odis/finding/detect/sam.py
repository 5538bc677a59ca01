"""Masks for boxes by networks of the SAM family (Kirillov et al. 2023, arXiv 2304.02643; SAM 2: arXiv
2408.00714).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from odis.finding.detect.hub import encoder_of, load_pretrained
from odis.finding.detect.precision import run_in
from odis.objects import rle
from odis.types import Box

_BOXES_AT_ONCE = 16  # their masks are float32 of the image's size before they are thresholded


class BoxMasks:
    """A network for `AutoModelForMaskGeneration` that is asked for the object in each box.

    Of the masks it proposes for a box, the one it expects the highest intersection over union of is taken.

    Args:
        source: See `load_pretrained`.
        device: Where it runs.
        dtype: Type of the image encoder's arithmetic.

    Raises:
        OdisError: See `load_pretrained`.
    """

    def __init__(self, source: str, device: torch.device, dtype: torch.dtype) -> None:
        loaded = load_pretrained(source, "AutoModelForMaskGeneration", "masks")
        self.name, self.revision = loaded.name, loaded.revision
        self._processor, self._device = loaded.processor, device
        self._model = loaded.model.to(device).requires_grad_(False).eval()
        encoder = encoder_of(self._model, ("vision_encoder",))
        if encoder is not None:
            run_in(encoder, dtype, device)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, boxes: Sequence[Box]) -> list[bytes | None]:
        """A mask for each box.

        Args:
            image: uint8 (height, width, 3), RGB.
            boxes: In pixels of the image.

        Returns:
            COCO compressed RLE of the whole image; None where the mask is empty.
        """
        if not boxes:
            return []
        asked = [[list(box) for box in boxes]]
        inputs = self._processor(images=[Image.fromarray(image)], input_boxes=asked, return_tensors="pt")
        embedded = self._model.get_image_embeddings(inputs["pixel_values"].to(self._device))
        if isinstance(embedded, tuple):  # SAM-HQ
            known = {"image_embeddings": embedded[0], "intermediate_embeddings": embedded[1]}
        else:
            known = {"image_embeddings": embedded}
        sizes = [inputs["original_sizes"].tolist()]
        if "reshaped_input_sizes" in inputs:  # networks that pad the image to a square
            sizes.append(inputs["reshaped_input_sizes"].tolist())
        masks: list[bytes | None] = []
        for chunk in inputs["input_boxes"].float().split(_BOXES_AT_ONCE, dim=1):
            answer = self._model(**known, input_boxes=chunk.to(self._device), multimask_output=True)
            best = _best(answer.pred_masks[0], answer.iou_scores[0]).float().cpu()
            (whole,) = self._processor.post_process_masks([best], *sizes)
            masks += [rle.encode(mask) if mask.any() else None for mask in whole[:, 0].numpy()]
        return masks


def _best(masks: Tensor, scores: Tensor) -> Tensor:
    """Of (n, m, h, w) logits and (n, m) scores, the masks with the highest score, (n, 1, h, w)."""
    return masks[torch.arange(len(masks), device=masks.device), scores.argmax(dim=1)][:, None]
