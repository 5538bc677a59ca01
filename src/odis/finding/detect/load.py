"""From settings to a finder of objects: a detector by name, what is kept of its boxes, and masks for them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odis.errors import ConfigError, DataError
from odis.finding.detect.candidates import Candidates, DetectionModel, Masks
from odis.finding.detect.keep import Limits, keep
from odis.machine.devices import resolve_device, resolve_precision
from odis.types import Object

FAMILIES = ("torchvision", "transformers")


@dataclass(frozen=True, slots=True)
class DetectSettings:
    """What finds objects, and how; picklable, so that every worker builds its own.

    Args:
        detector: `torchvision:NAME`, `torchvision:NAME@FILE`, or `transformers:FOLDER_OR_NAME[@REVISION]`.
        prompt: What to find, phrases with commas between (`transformers:` only); None for every object.
        masks: `transformers:FOLDER_OR_NAME[@REVISION]` of a SAM network that makes a mask for each box; None
            for the detector's own, if it makes any.
        class_names: Names of the classes of `torchvision:NAME@FILE`.
        limits: Which boxes become objects.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`: of the image encoders.
        threads: Threads of torch in the process that builds the detector; 0 leaves them as they are.
    """

    detector: str
    prompt: str | None = None
    masks: str | None = None
    class_names: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0

    def check(self) -> None:
        """Refuse what cannot be built, without looking at weights.

        Raises:
            ConfigError: Naming the setting and what is allowed.
            DataError: A file of weights is not there.
        """
        self.limits.check()
        if self.threads < 0:
            raise ConfigError(f"threads: is {self.threads}, must be 0 or more")
        resolve_precision(self.precision, torch.device("cpu"))
        family, rest = _family(self.detector, "with", FAMILIES)
        if family == "torchvision":
            if self.prompt is not None:
                raise ConfigError(
                    "prompt: torchvision's detectors know their classes; a prompt goes with --with "
                    "transformers:..."
                )
            _, file = _torchvision_name(rest)
            if self.class_names is not None and file is None:
                raise ConfigError(
                    "classes: published weights have their own; names go with --with torchvision:NAME@FILE"
                )
        elif self.class_names is not None:
            raise ConfigError(
                "classes: goes with --with torchvision:NAME@FILE; name classes of transformers:... by "
                "--prompt"
            )
        if self.prompt is not None:
            from odis.finding.detect.zero_shot import phrases_of

            phrases_of(self.prompt)
        if self.masks is not None:
            masks_source(self.masks)

    def of_result(self) -> dict[str, Any]:
        """Everything that the objects depend on, as plain JSON values; of weights in local files, also what
        they hold.

        Raises:
            DataError: A file of weights cannot be read.
        """
        said = {name: value for name, value in asdict(self).items() if name not in ("device", "threads")}
        local = {
            name: local_hash(source)
            for name, source in (("detector", self.detector), ("masks", self.masks))
            if source
        }
        return said | {"weights": local}


class Detector:
    """A finder of objects (see `odis.finding.corpus.Finder`): a network's boxes, those kept, and their masks.

    Args:
        network: Proposes boxes.
        limits: Which are kept.
        masks: Makes a mask for each box, or None for those of the network, if it makes any.
    """

    def __init__(self, network: DetectionModel, limits: Limits, masks: Masks | None = None) -> None:
        self._network, self._limits, self._masks = network, limits, masks
        self.classes = list(network.classes)
        self.provenance = f"detected:{network.name}@{network.revision}"
        if masks is not None:
            self.provenance += f"+masks:{masks.name}@{masks.revision}"

    def __call__(self, images: list[np.ndarray]) -> list[list[Object]]:
        """The objects of each image, the highest score first.

        Args:
            images: uint8 (height, width, 3), RGB, each of its own size.
        """
        return [
            self._objects(image, found) for image, found in zip(images, self._network(images), strict=True)
        ]

    def _objects(self, image: np.ndarray, found: Candidates) -> list[Object]:
        height, width = image.shape[:2]
        kept, chosen = keep(found.boxes, found.scores, found.labels, (width, height), self._limits)
        boxes = [(x0, y0, x1, y1) for x0, y0, x1, y1 in kept.tolist()]
        masks: list[bytes | None] = [None] * len(boxes)
        if self._masks is not None:
            masks = self._masks(image, boxes)
        elif found.mask is not None:
            masks = [found.mask(i) for i in chosen.tolist()]
        labels = [None] * len(boxes) if found.labels is None else found.labels[chosen].tolist()
        return [
            Object(*values)
            for values in zip(boxes, masks, labels, found.scores[chosen].tolist(), strict=True)
        ]


def build_detector(settings: DetectSettings) -> Detector:
    """Load the networks that the settings name.

    Raises:
        ConfigError: See `DetectSettings.check`; or the network is none for this, or its classes are not as
            given.
        DataError: Weights in a file or folder cannot be used.
        OdisError: Weights cannot be had, a package is missing, or the device is not here.
    """
    settings.check()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = resolve_device(settings.device)
    dtype = resolve_precision(settings.precision, device).dtype
    family, rest = _family(settings.detector, "with", FAMILIES)
    network: DetectionModel
    if family == "torchvision":
        from odis.finding.detect.torchvision_models import TorchvisionDetector

        name, file = _torchvision_name(rest)
        names = None if settings.class_names is None else list(settings.class_names)
        network = TorchvisionDetector(name, file, names, settings.limits, device, dtype)
    else:
        from odis.finding.detect.zero_shot import ZeroShotDetector

        network = ZeroShotDetector(rest, settings.prompt, settings.limits, device, dtype)
    masks: Masks | None = None
    if settings.masks is not None:
        from odis.finding.detect.sam import BoxMasks

        masks = BoxMasks(masks_source(settings.masks), device, dtype)
    return Detector(network, settings.limits, masks)


def local_hash(source: str) -> str | None:
    """What tells the weights in a local file or folder from others of its name; None for those of a hub.

    Raises:
        DataError: They cannot be read.
    """
    from odis.finding.detect.hub import folder_hash
    from odis.finding.detect.torchvision_models import file_hash

    family, _, rest = source.partition(":")
    if family == "transformers":
        return folder_hash(Path(rest)) if Path(rest).is_dir() else None
    _, at, file = rest.partition("@")
    return file_hash(file) if at else None


def read_class_names(path: str) -> tuple[str, ...]:
    """Names of classes from a text file, one a line; empty lines are left out.

    Raises:
        DataError: The file cannot be read, holds no name, or one twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as text ({getattr(error, 'strerror', None) or error})"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path}: holds no name of a class; it has one a line")
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"{path}: names the class {twice[0]!r} twice")
    return tuple(names)


def masks_source(masks: str) -> str:
    """What stands behind `transformers:` in the name of a SAM network.

    Raises:
        ConfigError: It does not begin so.
    """
    return _family(masks, "masks", ("transformers",))[1]


def _family(source: str, option: str, families: tuple[str, ...]) -> tuple[str, str]:
    family, colon, rest = source.partition(":")
    if family not in families or not colon or not rest:
        allowed = " or ".join(f"{name}:NAME" for name in families)
        raise ConfigError(f"{option}: is {source!r}, must be {allowed} (of a file or revision: ...@...)")
    return family, rest


def _torchvision_name(rest: str) -> tuple[str, str | None]:
    """Name and file of `NAME[@FILE]`."""
    import difflib

    from odis.finding.detect.torchvision_models import model_names

    name, at, file = rest.partition("@")
    if name not in model_names():
        close = difflib.get_close_matches(name, model_names(), n=3, cutoff=0.5)
        meant = f" (did you mean {', '.join(close)}?)" if close else ""
        raise ConfigError(
            f"with: torchvision has no detector {name!r}{meant}; it has {', '.join(model_names())}"
        )
    if at and not file:
        raise ConfigError(f"with: torchvision:{name}@ names no file of weights")
    if file and not Path(file).is_file():
        raise DataError(f"{file}: no such file of weights")
    return name, file or None
