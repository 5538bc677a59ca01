"""A fine-tuned network on new images: `load_finetuned("coco-boxes/runs-coco-1a2b3c4d-seed0")`.

Letters: n objects of an image, H, W its height and width, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from odis.backbones.build import build_vit
from odis.backbones.names import without_hub
from odis.config.training import ModelConfig
from odis.downstream.classification import Classifier
from odis.downstream.detection import find
from odis.downstream.detection_data import shown
from odis.downstream.detector import ViTDetector
from odis.downstream.pyramid import canvas_side
from odis.downstream.semantic import Segmenter, label_image
from odis.downstream.settings import TASKS
from odis.downstream.starts import Start
from odis.downstream.task import batch_pixels
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.classification.classify import view_of
from odis.evaluation.protocols.images.views import pixels_of
from odis.evaluation.protocols.segmentation.ade_views import short_side
from odis.inference.pictures import Picture, as_pixels, is_one_picture
from odis.machine.checksums import DamagedError, reason, verify_safetensors
from odis.machine.devices import resolve_device, resolve_precision
from odis.machine.files import check_readable
from odis.types import ImageObjects


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a fine-tuned network says of one image.

    Args:
        boxes: float32 (n, 4), x0, y0, x1, y1 in pixels, the highest score first; None unless it detects.
        labels: int64 (n,), positions in `Finetuned.classes`; with a segmenter (H, W); with a classifier a
            scalar.
        scores: float32 (n,); with a classifier (C,), the probability of each class; else None.
        masks: bool (n, H, W), of a network that was trained on masks.
    """

    labels: np.ndarray
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Finetuned:
    """A fine-tuned network.

    Args:
        task: What it was trained on.
        classes: Names of the classes.
        card: What is written in its file.
        module: The network, in eval mode.
        start: Where its backbone started.
        settings: Those of the task.
        device: Where it runs.
    """

    task: str
    classes: list[str]
    card: dict[str, Any]
    module: nn.Module
    start: Start
    settings: Any
    device: torch.device

    def predict(self, images: Picture | Sequence[Picture]) -> Any:
        """Predictions on pictures of any size: paths, PIL images, arrays or tensors, as `Encoder.embed` takes
        them.

        Returns:
            list[Prediction], one for each image; of one picture its Prediction, in no list.

        Raises:
            DataError: For a picture that cannot be used; the message names it.
        """
        if is_one_picture(images):
            one: Any = images
            return self._of(as_pixels(one, "the picture"))
        pictures: list[Any] = list(images)  # type: ignore[arg-type]  # one picture was ruled out
        return [self._of(as_pixels(one, f"picture {k}")) for k, one in enumerate(pictures)]

    @torch.no_grad()
    def _of(self, pixels: torch.Tensor) -> Prediction:
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        size = (image.height, image.width)
        if isinstance(self.module, ViTDetector):
            side = canvas_side(self.settings.size, self._patch(), self.settings.scales)
            nothing = ImageObjects("", image.width, image.height)
            resized = shown(image, nothing, self.settings.size, side, masks=False)[0]
            (found,) = find(self.module, [resized], [size], self.start, side, self.device)
            masks = found["masks"].cpu().numpy().astype(bool) if "masks" in found else None
            boxes, scores = (found[name].cpu().numpy() for name in ("boxes", "scores"))
            return Prediction(found["labels"].cpu().numpy() - 1, boxes, scores, masks)
        if isinstance(self.module, Segmenter):
            small, _ = short_side(image, np.zeros(size, np.int32), self.settings.size)
            labels = label_image(
                self.module, pixels_of(small), size, self.start, self.settings.size, self.device
            )
            return Prediction(labels.cpu().numpy())
        view = view_of(self.settings.size)(image)
        scores = self.module(batch_pixels([view], self.start, self.device))[0].softmax(dim=0).cpu().numpy()
        return Prediction(np.asarray(scores.argmax()), scores=scores)

    def _patch(self) -> int:
        backbone: Any = self.module.backbone
        return int(backbone.patch_embed.patch_size[0])


def load_finetuned(path: str | Path, *, device: str = "auto", precision: str = "auto") -> Finetuned:
    """Load what `odis finetune` trained: a folder of one starting point and seed, or its
    `model.safetensors`.

    Args:
        path: The folder or file.
        device: `auto` (the GPU if there is one), `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `fp32` or `bf16`; `auto` is bf16 on a GPU that has it, else fp32.

    Raises:
        DataError: For anything else, or a damaged file.
        OdisError: A device that is not here.
    """
    where = resolve_device(device)
    dtype = resolve_precision(precision, where).dtype
    file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    check_readable(file)
    try:
        verify_safetensors(file)
        with safe_open(file, framework="pt") as content:
            card = json.loads((content.metadata() or {})["odis"])
        name, classes = card["task"], [str(one) for one in card["classes"]]
        settings: Any = replace(TASKS[name].settings, **_settings_in(card, name))
        config = ModelConfig(**card["model"] | {"weights": None})
        start = Start(
            str(file), config, card["image_size"], tuple(card["mean"]), tuple(card["std"]), None,
            str(card["provenance"]),
        )  # fmt: skip
        with without_hub():
            backbone = build_vit(config, start.image_size, drop_path=0.0)
        module: nn.Module
        if name == "semantic":
            module = Segmenter(backbone, len(classes), settings, dtype)
        elif name == "classification":
            mean_pool = config.object_readout == "mean-pool"
            module = Classifier(backbone, len(classes), mean_pool=mean_pool, dtype=dtype)
        else:
            module = ViTDetector(backbone, len(classes), settings, masks=name == "instances", dtype=dtype)
        module.load_state_dict(load_file(file))
    except DamagedError as error:
        raise DataError(f"{file}: not a whole file ({reason(error, file)})") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OdisError) as error:
        why = str(error).splitlines()[0][:200]
        raise DataError(
            f"{file}: not a network that odis finetune wrote ({type(error).__name__}: {why})"
        ) from error
    module.to(where).requires_grad_(False).eval()
    return Finetuned(name, classes, card, module, start, settings, where)


def _settings_in(card: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings in a card that the task has today."""
    known = TASKS[name].settings.as_dict()
    return {key: value for key, value in card["settings"].items() if key in known}
