"""torchvision's detection and instance segmentation models, with published weights or those of a file."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import detection, get_model_weights, list_models
from torchvision.models.detection.roi_heads import paste_masks_in_image

from odis.config.wording import counted
from odis.errors import ConfigError, DataError, OdisError
from odis.finding.detect.candidates import Candidates, alike
from odis.finding.detect.keep import Limits
from odis.finding.detect.precision import run_in
from odis.machine.checksums import refuse_compressed
from odis.machine.pickles import pickle_fault
from odis.objects import rle

# Published by torchvision with frozen batch norm that adds nothing to the variance (`overwrite_eps` in their
# builders).
_NO_EPS = {
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
}

_NOT_A_CLASS = {"__background__", "N/A", "no person"}  # among torchvision's category names

# The last layer that tells classes apart, by family; its rows are the classes, times the anchors of a place.
_CLASS_LAYERS = {
    "roi_heads.box_predictor.cls_score.weight",
    "head.classification_head.cls_logits.weight",
    "head.classification_head.module_list.0.weight",
    "head.classification_head.module_list.0.1.weight",
}


def model_names() -> list[str]:
    """The names that can stand behind `torchvision:`."""
    names: list[str] = list_models(module=detection)
    return names


class TorchvisionDetector:
    """A model of `torchvision.models.detection`.

    Labels of the model are positions in torchvision's list of categories; those without a name (background,
    and the gaps in COCO's 91 category numbers) are left out, so that the classes are the 80 of COCO.

    Args:
        name: torchvision's name of the model.
        file: A state dict (`.pth`, `.pt`, `.safetensors`), or None for the published weights.
        class_names: Names of the classes; None for those of the published weights, or for numbers.
        limits: The model's own thresholds are set to these, so that it does not drop what would stay.
        device: Where it runs.
        dtype: Type of the image encoder's arithmetic.

    Raises:
        ConfigError: There is no such model, or not one name a class.
        DataError: The file cannot be read, or is not of this model.
        OdisError: The published weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        file: str | None,
        class_names: list[str] | None,
        limits: Limits,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        if name not in model_names():
            raise ConfigError(
                f"with: torchvision has no detector {name!r}; it has {', '.join(model_names())}"
            )
        if file is None:
            state, self.revision, categories = _published(name)
        else:
            state, self.revision, categories = _read(file), file_hash(file), None
        count = _count_classes(name, state, file)
        if categories is None and count == 91:
            categories = list(get_model_weights("fasterrcnn_resnet50_fpn").DEFAULT.meta["categories"])
        if file is not None and name.startswith("keypointrcnn") and count == 2:
            categories = list(get_model_weights(name).DEFAULT.meta["categories"])
        self.name, self._device = name, device
        self._places, self.classes = _places(name, count, categories, class_names)
        self._model = _build(name, count, state, file).to(device).requires_grad_(False).eval()
        _set_limits(self._model, limits)
        _postpone_masks(self._model)
        run_in(self._model.backbone, dtype, device)

    @torch.inference_mode()
    def __call__(self, images: list[np.ndarray]) -> list[Candidates]:
        """Candidates of each image; see `DetectionModel`."""
        answers: list[Candidates | None] = [None] * len(images)
        fixed = self._model.transform.fixed_size is not None  # resized to one shape, whatever it was
        for group in alike([() if fixed else image.shape[:2] for image in images]):
            tensors = [
                torch.from_numpy(images[i].copy()).to(self._device).permute(2, 0, 1).float() / 255
                for i in group
            ]
            for i, found in zip(group, self._model(tensors), strict=True):
                answers[i] = self._candidates(found, images[i].shape[:2])
        return [answer for answer in answers if answer is not None]

    def _candidates(self, found: dict[str, Tensor], shape: tuple[int, ...]) -> Candidates:
        found = {
            name: value.float().cpu() if value.is_floating_point() else value.cpu()
            for name, value in found.items()
        }
        labels = self._places[found["labels"]]
        named = labels >= 0
        boxes, labels = found["boxes"][named], labels[named]
        if "small_masks" not in found:
            return Candidates(boxes, found["scores"][named], labels)
        masks = found["small_masks"][named]

        def mask(i: int) -> bytes | None:
            (pasted,) = paste_masks_in_image(masks[i : i + 1], boxes[i : i + 1], (shape[0], shape[1]))
            inside = pasted[0].numpy() > 0.5
            return rle.encode(inside) if inside.any() else None

        return Candidates(boxes, found["scores"][named], labels, mask)


def file_hash(path: str | Path, *more: str | Path) -> str:
    """Twelve hex digits of the SHA-256 of one or several files: what tells weights of one name apart.

    Raises:
        DataError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for file in (path, *more):
        try:
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()[:12]


def _published(name: str) -> tuple[dict[str, Tensor], str, list[str]]:
    """State dict, name of the weights, and their categories."""
    weights = get_model_weights(name).DEFAULT
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except Exception as error:  # no network, no space, a damaged file in the cache
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        why = " ".join(str(error).split())
        raise OdisError(
            f"with: the weights of torchvision:{name} cannot be had ({why}); without a network, put "
            f"{Path(weights.url).name} into {folder} "
            f"(TORCH_HOME moves it), or give a file: torchvision:{name}@FILE"
        ) from error
    return dict(state), weights.name, list(weights.meta["categories"])


def _read(file: str) -> dict[str, Tensor]:
    path = Path(file)
    if not path.is_file():
        raise DataError(f"{file}: no such file of weights")
    try:
        refuse_compressed(path)
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # damaged files raise anything
        raise DataError(f"{file}: cannot be read as a state dict ({pickle_fault(error)})") from error
    if isinstance(state, dict) and isinstance(
        state.get("model"), dict
    ):  # as torchvision's training script writes it
        state = state["model"]
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise DataError(f"{file}: holds no state dict (names to tensors)")
    return dict(state)


def _blank(name: str, classes: int) -> Any:
    """The model without weights. torchvision would fetch a pretrained backbone unless told not to."""
    return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)


def _count_classes(name: str, state: dict[str, Tensor], file: str | None) -> int:
    """How many classes (background included) a state dict tells apart."""
    with torch.device("meta"):
        blank = {key: value.shape for key, value in _blank(name, 2).state_dict().items()}
    key = next(k for k in blank if k in _CLASS_LAYERS)
    if key not in state:
        raise DataError(f"{file or name}: is no state dict of torchvision's {name}: it has no {key}")
    rows, of_two = state[key].shape[0], blank[key][0]
    if rows < of_two or (2 * rows) % of_two:
        raise DataError(
            f"{file or name}: is no state dict of torchvision's {name}: {key} has {counted(rows, 'row')}"
        )
    return int(2 * rows // of_two)


def _build(name: str, classes: int, state: dict[str, Tensor], file: str | None) -> Any:
    model = _blank(name, classes)
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a tensor of another shape
        raise DataError(
            f"{file or name}: is no state dict of torchvision's {name} ({' '.join(str(error).split())[:200]})"
        ) from error
    # Frozen batch norm, as it is in published weights, counts no batches.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unknown:
        wrong = f"it lacks {missing[0]}" if missing else f"{unknown[0]} is not part of that"
        raise DataError(f"{file or name}: is no state dict of torchvision's {name}: {wrong}")
    if name in _NO_EPS and not any(key.endswith("num_batches_tracked") for key in state):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    return model


def _places(
    name: str, count: int, categories: list[str] | None, given: list[str] | None
) -> tuple[Tensor, list[str]]:
    """Where each label of the model stands among the classes (int64 (count,), -1 for no class), and their
    names.
    """
    if given is not None:
        if len(given) not in (count, count - 1):
            raise ConfigError(
                f"classes: {counted(len(given), 'name')}, but the weights of {name} tell "
                f"{counted(count - 1, 'class')} apart (besides background)"
            )
        categories = ["__background__"] * (count - len(given)) + given
    elif categories is None:
        # With a sigmoid a class (RetinaNet, FCOS) label 0 may be one; with a softmax it is the background.
        first = 0 if name.startswith(("retinanet", "fcos")) else 1
        categories = ["__background__"] * first + [f"class {k}" for k in range(first, count)]
    if len(categories) != count:
        raise DataError(
            f"with: the weights of {name} tell {counted(count, 'class')} apart, but have "
            f"{counted(len(categories), 'name')}"
        )
    places: list[int] = []
    names: list[str] = []
    for category in categories:
        places.append(-1 if category in _NOT_A_CLASS else len(names))
        if category not in _NOT_A_CLASS:
            names.append(category)
    return torch.tensor(places), names


def _set_limits(model: Any, limits: Limits) -> None:
    """Thresholds of the model itself. Its NMS is within a class: what it drops there is not looked at across
    classes.
    """
    holder = model.roi_heads if hasattr(model, "roi_heads") else model
    holder.score_thresh = math.nextafter(limits.min_score, -1.0)
    holder.nms_thresh = limits.nms
    holder.detections_per_img = max(holder.detections_per_img, limits.max_objects)


def _postpone_masks(model: Any) -> None:
    """Have the model return masks as they leave its head (28 x 28 in the box), under `small_masks`.

    It would paste all of them into the image at once: a hundred float masks of a photograph of twelve
    megapixels are five gigabytes.
    """
    finish = model.transform.postprocess

    def postprocess(result: list[dict[str, Tensor]], *sizes: Any) -> list[dict[str, Tensor]]:
        small = [found.pop("masks", None) for found in result]
        done: list[dict[str, Tensor]] = finish(result, *sizes)
        for found, masks in zip(done, small):
            if masks is not None:
                found["small_masks"] = masks
        return done

    model.transform.postprocess = postprocess
