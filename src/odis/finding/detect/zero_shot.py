"""Zero-shot detectors of transformers: what to find is said in words, or nothing is said and every object is
meant.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from odis.config.wording import counted
from odis.errors import ConfigError
from odis.finding.detect.candidates import Candidates, alike
from odis.finding.detect.hub import encoder_of, load_pretrained
from odis.finding.detect.keep import Limits
from odis.finding.detect.precision import run_in

# One text for all phrases, and a score a token of it; the others give a score a phrase.
_TOKEN_WISE = {"grounding-dino", "mm-grounding-dino"}

_ENCODERS = ("model.backbone", "owlv2.vision_model", "owlvit.vision_model", "vision_backbone")

ANY_OBJECT = "object"


def phrases_of(prompt: str) -> list[str]:
    """The phrases of a prompt, which commas separate.

    Raises:
        ConfigError: There is none, one occurs twice, or one has a full stop in it (Grounding DINO separates
            phrases by those).
    """
    phrases = [phrase.strip().removesuffix(".").strip() for phrase in prompt.split(",")]
    phrases = [phrase for phrase in phrases if phrase]
    if not phrases:
        raise ConfigError('prompt: holds no phrase; write for example --prompt "a person, a dog"')
    seen: set[str] = set()
    for phrase in phrases:
        if "." in phrase:
            raise ConfigError(f"prompt: {phrase!r} has a full stop in it; phrases are separated by commas")
        if phrase.lower() in seen:
            raise ConfigError(f"prompt: {phrase!r} occurs twice")
        seen.add(phrase.lower())
    return phrases


class ZeroShotDetector:
    """A network for `AutoModelForZeroShotObjectDetection`: Grounding DINO, MM Grounding DINO, OWL-ViT, OWLv2,
    OmDet-Turbo.

    With a prompt, each phrase is a class. Without, there are no classes: OWLv2 gives the score of its
    objectness head (Minderer et al. 2023, arXiv 2306.09683, section 3.2), the others are asked for "object".

    Args:
        source: See `load_pretrained`.
        prompt: Phrases with commas between, or None.
        limits: Scores below are left out early.
        device: Where it runs.
        dtype: Type of the image encoder's arithmetic.

    Raises:
        ConfigError: For a prompt that cannot be asked.
        OdisError: See `load_pretrained`.
    """

    def __init__(
        self, source: str, prompt: str | None, limits: Limits, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.classes = [] if prompt is None else phrases_of(prompt)
        self._phrases = self.classes or [ANY_OBJECT]
        loaded = load_pretrained(source, "AutoModelForZeroShotObjectDetection", "with")
        self.name, self.revision, self._kind = loaded.name, loaded.revision, loaded.kind
        self._processor, self._limits, self._device = loaded.processor, limits, device
        self._model = loaded.model.to(device).requires_grad_(False).eval()
        self._takes = set(
            inspect.signature(self._model.forward).parameters
        )  # a processor may make more, such as a mask of padding
        self._check_length()
        if self._kind in _TOKEN_WISE:
            self._spans = self._phrase_spans()
        encoder = encoder_of(self._model, _ENCODERS)
        if encoder is not None:
            run_in(encoder, dtype, device)

    @torch.inference_mode()
    def __call__(self, images: list[np.ndarray]) -> list[Candidates]:
        """Candidates of each image; see `DetectionModel`."""
        prepared = [self._prepare(image) for image in images]
        answers: list[Candidates | None] = [None] * len(images)
        for group in alike([inputs["pixel_values"].shape for inputs in prepared]):
            # Every image brings its own copy of the text, as the networks take it: one text, or one list of
            # phrases, an image.
            batch = {
                key: torch.cat([prepared[i][key] for i in group]).to(self._device)
                for key in prepared[group[0]]
                if key in self._takes
            }
            sizes = torch.tensor([images[i].shape[:2] for i in group], device=self._device)
            for i, found in zip(group, self._find(batch, sizes), strict=True):
                answers[i] = found
        return [answer for answer in answers if answer is not None]

    def _prepare(self, image: np.ndarray) -> dict[str, Tensor]:
        # A PIL image says which axis is the colours; an array of three rows would be taken for one of three
        # colours.
        return dict(
            self._processor(images=[Image.fromarray(image)], text=[list(self._phrases)], return_tensors="pt")
        )

    def _find(self, batch: dict[str, Tensor], sizes: Tensor) -> list[Candidates]:
        outputs = self._model(**batch)
        finish, least = self._processor.post_process_grounded_object_detection, self._limits.min_score
        if self._kind in _TOKEN_WISE:
            # All queries, so that row q of the answer is query q of the logits, whose tokens say which phrase
            # it is.
            found = finish(
                outputs, batch["input_ids"], threshold=-1.0, text_threshold=2.0, target_sizes=sizes
            )
            labels = [self._phrase_of_query(logits) for logits in outputs.logits]
        elif self._kind == "omdet-turbo":
            found = finish(outputs, threshold=least, nms_threshold=self._limits.nms, target_sizes=sizes)
            labels = [one["labels"] for one in found]
        else:
            if not self.classes and self._kind == "owlv2":
                outputs.logits = outputs.objectness_logits[..., None]
            found = finish(outputs, threshold=least, target_sizes=sizes)
            labels = [one["labels"] for one in found]
        return [
            Candidates(
                one["boxes"].float().cpu(),
                one["scores"].float().cpu(),
                of_one.cpu() if self.classes else None,
            )
            for one, of_one in zip(found, labels, strict=True)
        ]

    def _phrase_of_query(self, logits: Tensor) -> Tensor:
        """For each query, the phrase that has the token with the highest logit; logits are (queries,
        tokens).
        """
        best = torch.stack(
            [logits[:, start:end].amax(dim=1) for start, end in self._spans], dim=1
        )  # (queries, phrases)
        return best.argmax(dim=1)

    def _phrase_spans(self) -> list[tuple[int, int]]:
        """First and last-but-one position of each phrase's tokens in the text, which has a full stop behind
        each phrase.
        """
        ids = self._prepare(np.zeros((32, 32, 3), np.uint8))["input_ids"][0].tolist()
        stops = [
            i for i, token in enumerate(ids) if token == self._processor.tokenizer.convert_tokens_to_ids(".")
        ]
        spans = list(zip([1, *(stop + 1 for stop in stops)], stops))  # the first token opens the text
        if len(spans) != len(self._phrases) or any(start == end for start, end in spans):
            raise ConfigError(
                f"prompt: the tokenizer of {self.name} does not keep its "
                f"{counted(len(self._phrases), 'phrase')} apart"
            )
        return spans

    def _check_length(self) -> None:
        """The networks fail on texts longer than they were made for, image after image."""
        ids = self._prepare(np.zeros((32, 32, 3), np.uint8))
        key = "input_ids" if "input_ids" in ids else "classes_input_ids"
        length = int(ids[key].shape[-1])
        config = self._model.config
        text = getattr(config, "text_config", config)
        most = min(getattr(config, "max_text_len", length), getattr(text, "max_position_embeddings", length))
        if length > most:
            raise ConfigError(f"prompt: is {counted(length, 'token')} long, {self.name} takes {most}")
