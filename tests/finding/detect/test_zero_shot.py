"""Zero-shot detectors, built small from their real classes, saved and loaded: against their own logits, boxes
and tokens.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.errors import ConfigError
from odis.finding.detect.keep import Limits
from odis.finding.detect.load import DetectSettings, build_detector
from odis.finding.detect.zero_shot import ZeroShotDetector, phrases_of

FAMILIES = ["grounding_dino", "owl_v2", "owl_vit", "omdet"]
EVERYTHING = Limits(min_score=0.0, nms=1.0, min_size=0.0, max_objects=1000)
PROMPT = "a cat, red dogs, person"


def network(folder: Path, prompt: str | None, limits: Limits = EVERYTHING) -> ZeroShotDetector:
    return ZeroShotDetector(str(folder), prompt, limits, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("prompt", [PROMPT, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_answered_as_its_images_one_by_one(
    family: str, prompt: str | None, pictures: list[np.ndarray], request
):
    detector = build_detector(
        DetectSettings(f"transformers:{request.getfixturevalue(family)}", prompt=prompt, limits=EVERYTHING)
    )
    assert detector.classes == (["a cat", "red dogs", "person"] if prompt else [])
    answers = detector(pictures)
    assert sum(map(len, answers)) > 10
    for picture, objects in zip(pictures, answers, strict=True):
        (alone,) = detector([picture])
        assert [o.label for o in objects] == [o.label for o in alone]
        # A batch rounds otherwise than one image: in float32 by less than 1e-4 of 100 pixels and of a score.
        np.testing.assert_allclose([o.box for o in objects], [o.box for o in alone], rtol=0, atol=1e-2)
        np.testing.assert_allclose([o.score for o in objects], [o.score for o in alone], rtol=0, atol=1e-4)
        for item in objects:
            assert 0 <= item.box[0] < item.box[2] <= picture.shape[1]
            assert 0 <= item.box[1] < item.box[3] <= picture.shape[0]
            assert (item.label in range(3)) if prompt else item.label is None
    if prompt and family != "omdet":  # of random weights it prefers one phrase everywhere
        assert len({o.label for objects in answers for o in objects}) > 1


def raw(folder: Path, texts: list[str], picture: np.ndarray):
    """The network's own outputs, and its processor."""
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    inputs = processor(images=Image.fromarray(picture), text=[texts], return_tensors="pt")
    with torch.no_grad():
        return model(**inputs), inputs, processor


def in_pixels(box: torch.Tensor, width: float, height: float) -> list[float]:
    """A box given by relative centre and size."""
    x, y, w, h = box.tolist()
    return [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("prompt", [PROMPT, None])
def test_owl_v2_boxes_scores_and_labels(owl_v2: Path, prompt: str | None, pictures: list[np.ndarray]):
    picture = pictures[0]
    (found,) = network(owl_v2, prompt)([picture])
    outputs, _, _ = raw(owl_v2, phrases_of(prompt) if prompt else ["object"], picture)
    side = max(picture.shape[:2])  # it sees the image padded to a square
    assert len(found.boxes) == 16
    for q in range(16):
        logits = outputs.logits[0, q].tolist() if prompt else [outputs.objectness_logits[0, q].item()]
        np.testing.assert_allclose(found.boxes[q], in_pixels(outputs.pred_boxes[0, q], side, side), atol=1e-3)
        assert found.scores[q].item() == pytest.approx(sigmoid(max(logits)), abs=1e-6)
        if prompt:
            assert found.labels[q].item() == logits.index(max(logits))
    assert (found.labels is None) == (prompt is None)


def test_grounding_dino_labels_are_the_phrase_of_the_best_token(
    grounding_dino: Path, pictures: list[np.ndarray]
):
    picture = pictures[1]
    (found,) = network(grounding_dino, PROMPT)([picture])
    outputs, inputs, processor = raw(grounding_dino, ["a cat", "red dogs", "person"], picture)
    words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    assert words == ["[CLS]", "a", "cat", ".", "red", "dog", "##s", ".", "person", ".", "[SEP]"]
    phrase_of_token = {1: 0, 2: 0, 4: 1, 5: 1, 6: 1, 8: 2}
    height, width = picture.shape[:2]
    assert len(found.boxes) == 12
    for q in range(12):
        logits = outputs.logits[0, q]
        best = max(phrase_of_token, key=lambda t: logits[t].item())
        assert found.labels[q].item() == phrase_of_token[best]
        assert found.scores[q].item() == pytest.approx(sigmoid(logits.max().item()), abs=1e-6)
        np.testing.assert_allclose(
            found.boxes[q], in_pixels(outputs.pred_boxes[0, q], width, height), atol=1e-3
        )


def test_grounding_dino_labels_agree_with_the_text_of_the_library(
    grounding_dino: Path, pictures: list[np.ndarray]
):
    detector = network(grounding_dino, PROMPT)
    outputs, inputs, processor = raw(grounding_dino, detector.classes, pictures[0])
    said = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(0)).tolist()
    outputs.logits = torch.full_like(outputs.logits, -5.0)
    for q, phrase in enumerate(said):
        outputs.logits[0, q, {0: [1, 2], 1: [4, 5, 6], 2: [8]}[phrase]] = 3.0
    (own,) = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=0.5, text_threshold=0.5
    )
    assert own["text_labels"] == [detector.classes[phrase] for phrase in said]
    assert detector._phrase_of_query(outputs.logits[0]).tolist() == said


@pytest.mark.parametrize("family", ["owl_v2", "owl_vit", "omdet"])
def test_low_scores_are_left_out(family: str, pictures: list[np.ndarray], request):
    folder = request.getfixturevalue(family)
    (every,) = network(folder, PROMPT)(pictures[:1])
    least = every.scores.median().item()
    (some,) = network(folder, PROMPT, Limits(min_score=least, nms=1.0, min_size=0.0))(pictures[:1])
    assert sorted(some.scores.tolist()) == sorted(s for s in every.scores.tolist() if s > least)
    assert 0 < len(some.scores) < len(every.scores)


def test_phrases():
    assert phrases_of("a person, a dog") == ["a person", "a dog"]
    assert phrases_of(" A big   dog.,cat , ") == ["A big   dog", "cat"]
    for prompt, says in (
        ("", "holds no phrase"),
        (" , .", "holds no phrase"),
        ("a cat. a dog", "full stop"),
        ("dog, Dog", "occurs twice"),
    ):
        with pytest.raises(ConfigError, match=says):
            phrases_of(prompt)


@pytest.mark.parametrize("family", ["grounding_dino", "owl_v2", "owl_vit"])
def test_a_prompt_that_is_too_long_is_refused_at_once(family: str, request):
    folder = request.getfixturevalue(family)
    with pytest.raises(ConfigError, match=r"^prompt: is \d+ tokens long, .* takes (16|64)$"):
        network(folder, " ".join(["person"] * 70))
    network(folder, "a cat")


def test_words_that_the_tokenizer_drops_are_refused(grounding_dino: Path):
    with pytest.raises(ConfigError, match="keep its 2 phrases apart"):
        network(grounding_dino, "a cat, \u00ad")
