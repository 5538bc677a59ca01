"""Masks for boxes, by SAM networks built small from their real classes: against the network asked one box at
a time.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from odis.finding.detect.sam import BoxMasks, _best
from odis.objects import rle

BOXES = [(0.0, 0.0, 30.5, 20.0), (10.0, 5.0, 50.0, 60.0), (1.0, 2.0, 3.0, 3.0)]


def loaded(folder: Path) -> BoxMasks:
    return BoxMasks(str(folder), torch.device("cpu"), torch.float32)


def slow_mask(folder: Path, picture: np.ndarray, box) -> np.ndarray:
    """The mask with the highest expected overlap, of the network's own forward pass over one image and one
    box, in the image's pixels.
    """
    from transformers import AutoModelForMaskGeneration, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForMaskGeneration.from_pretrained(folder).eval()
    inputs = processor(images=Image.fromarray(picture), input_boxes=[[list(box)]], return_tensors="pt")
    with torch.no_grad():
        outputs = model(
            **{
                k: v.float() if k in ("pixel_values", "input_boxes") else v
                for k, v in inputs.items()
                if "size" not in k
            }
        )
    assert outputs.iou_scores.shape == (1, 1, 3)
    mask = outputs.pred_masks[0, 0, outputs.iou_scores[0, 0].argmax()][None, None]
    if "reshaped_input_sizes" in inputs:  # SAM pads to a square
        height, width = inputs["reshaped_input_sizes"][0].tolist()
        mask = interpolate(mask, (64, 64), mode="bilinear", align_corners=False)[..., :height, :width]
    return (interpolate(mask, picture.shape[:2], mode="bilinear", align_corners=False)[0, 0] > 0).numpy()


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_each_box_gets_the_mask_it_would_get_alone(family: str, pictures: list[np.ndarray], request):
    folder = request.getfixturevalue(family)
    masks = loaded(folder)
    inside = 0
    for picture in pictures[:2]:
        height, width = picture.shape[:2]
        for box, counts in zip(BOXES, masks(picture, BOXES), strict=True):
            expected = slow_mask(folder, picture, box)
            got = np.zeros((height, width)) if counts is None else rle.decode(counts, width, height)
            assert (got != expected).sum() <= 3  # a pixel at the threshold may round the other way
            inside += int(expected.sum())
    assert inside > 0


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_more_boxes_than_are_asked_at_once(family: str, pictures: list[np.ndarray], request):
    masks, picture = loaded(request.getfixturevalue(family)), pictures[0]
    draw = np.random.default_rng(0)
    corners = draw.uniform(0, 40, (37, 2))
    boxes = [
        tuple(map(float, box))
        for box in np.concatenate([corners, corners + draw.uniform(2, 20, (37, 2))], axis=1)
    ]
    many = masks(picture, boxes)
    assert len(many) == 37
    for k in (0, 15, 16, 36):
        (alone,) = masks(picture, [boxes[k]])
        height, width = picture.shape[:2]
        first, second = (
            np.zeros((height, width)) if m is None else rle.decode(m, width, height) for m in (many[k], alone)
        )
        assert (first != second).sum() <= 3
    assert masks(picture, []) == []


def test_an_empty_mask_is_none(sam: Path, pictures: list[np.ndarray]):
    masks = loaded(sam)
    with torch.no_grad():
        masks._model.mask_decoder.iou_prediction_head.proj_out.weight.zero_()
        masks._model.mask_decoder.upscale_conv2.bias.zero_()
        masks._model.mask_decoder.upscale_conv2.weight.zero_()  # all logits 0, and a mask is above 0
    assert masks(pictures[0], BOXES) == [None, None, None]


def test_the_best_of_several_masks():
    masks = torch.arange(2 * 3 * 1 * 1.0).reshape(2, 3, 1, 1)
    assert _best(masks, torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.2, 0.1]])).flatten().tolist() == [1.0, 3.0]
