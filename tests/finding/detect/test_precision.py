"""Where a detector runs and in which arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from odis.finding.detect import zero_shot
from odis.finding.detect.keep import Limits
from odis.finding.detect.precision import run_in
from odis.finding.detect.sam import BoxMasks
from odis.finding.detect.zero_shot import ZeroShotDetector
from odis.objects import rle

CPU = torch.device("cpu")


class Encoder(nn.Module):
    """Answers in every form that encoders answer in, and remembers the type it computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, *, mask: torch.Tensor):
        y = self.layer(x)
        self.seen = y.dtype
        return {"maps": [(y, mask)], "none": None, "count": 3, "again": y}


def test_a_part_runs_in_a_type_and_answers_in_float32():
    encoder, x, mask = Encoder(), torch.randn(2, 4), torch.tensor([True, False])
    plain = encoder(x, mask=mask)
    run_in(encoder, torch.bfloat16, CPU)
    answer = encoder(x, mask=mask)
    assert encoder.seen == torch.bfloat16
    assert answer["again"].dtype == answer["maps"][0][0].dtype == torch.float32
    assert answer["maps"][0][1].dtype == torch.bool
    assert (answer["none"], answer["count"]) == (None, 3)
    torch.testing.assert_close(answer["again"], plain["again"], atol=0.05, rtol=0.05)
    assert not torch.equal(answer["again"], plain["again"])


def test_float32_leaves_a_part_as_it_is():
    encoder = Encoder()
    run_in(encoder, torch.float32, CPU)
    assert "forward" not in encoder.__dict__


def floats_in(value: Any) -> list[torch.Tensor]:
    """The floating-point tensors in a nest of dictionaries, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in floats_in(part)]


@pytest.mark.parametrize("family", ["grounding_dino", "owl_v2", "owl_vit", "omdet"])
def test_detectors_run_their_encoder_in_the_type_asked_for(family: str, pictures: list[np.ndarray], request):
    """What the encoder answers is compared: of close candidates others may be chosen after it, as each CPU
    rounds.
    """
    folder: Path = request.getfixturevalue(family)
    limits = Limits(min_score=0.0, nms=1.0, min_size=0.0)
    answers, seen, inside = [], [], []
    for dtype in (torch.float32, torch.bfloat16):
        detector = ZeroShotDetector(str(folder), "a cat, person", limits, CPU, dtype)
        (encoder,) = (
            module for name, module in detector._model.named_modules() if name in zero_shot._ENCODERS
        )
        encoder.register_forward_hook(lambda module, inputs, output: seen.append(floats_in(output)))
        layer = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
        layer.register_forward_hook(lambda module, inputs, output: inside.append(output.dtype))
        answers.append(detector(pictures[:1])[0])
    assert inside == [torch.float32, torch.bfloat16]
    assert answers[1].boxes.dtype == answers[1].scores.dtype == torch.float32
    assert not torch.equal(answers[0].scores.sort().values, answers[1].scores.sort().values)
    exact, rough = seen
    assert len(exact) == len(rough) > 0
    for one, other in zip(exact, rough):
        assert other.dtype == torch.float32
        # An operation in bfloat16 rounds by a part in 512; some tens of them follow one another.
        assert (other - one).norm() < 0.05 * one.norm()


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_mask_networks_do_too(family: str, pictures: list[np.ndarray], request):
    folder, boxes = str(request.getfixturevalue(family)), [(0.0, 0.0, 30.0, 20.0), (10.0, 5.0, 50.0, 60.0)]
    plain, reduced = (BoxMasks(folder, CPU, dtype) for dtype in (torch.float32, torch.bfloat16))
    seen = []
    next(
        m for m in reduced._model.vision_encoder.modules() if isinstance(m, nn.Linear)
    ).register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for first, second in zip(plain(pictures[0], boxes), reduced(pictures[0], boxes), strict=True):
        height, width = pictures[0].shape[:2]
        assert (rle.decode(first, width, height) != rle.decode(second, width, height)).mean() < 0.1
    assert torch.bfloat16 in seen
