"""The shapes that flow through odis, written once.

Letters in shape comments, here and everywhere:
B images (or views), C channels, G global views an image, L local views an image, Q object tokens a view, P
patches a view (row-major on the patch grid), D embedding width, K prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Box = tuple[float, float, float, float]
"""`(x0, y0, x1, y1)` in pixels of the image, x1 and y1 exclusive."""


@dataclass(frozen=True, slots=True)
class Object:
    """One object of an image.

    `mask` is COCO compressed RLE counts over the whole image (height x width), or None for a box object.
    """

    box: Box
    mask: bytes | None = None
    label: int | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ImageObjects:
    """One row of the object index: an image and its objects, in the index's order."""

    image: str
    width: int
    height: int
    objects: tuple[Object, ...] = ()

    @property
    def boxes(self) -> np.ndarray:
        """float32 (n, 4)."""
        return np.array([o.box for o in self.objects], dtype=np.float32).reshape(-1, 4)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or object that was left out, and why. `what` names the file, and the object in it if it is
    one.
    """

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Crop:
    """Pure geometry: an integer box in the image (x1, y1 exclusive) and whether the rendered view is
    mirrored.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    flip: bool = False

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0


@dataclass(slots=True)
class View:
    """A rendered crop: its pixels, the crop that made them, and the objects on its patch grid."""

    pixels: Tensor  # float32 (C, S, S), normalised
    crop: Crop
    object_masks: Tensor  # bool (Q, P); where `visible` is false all-true, or empty (see `make_sample`)
    visible: Tensor  # bool (Q,): the slot holds an object and the object has a patch in this view


@dataclass(slots=True)
class Sample:
    """All views of one image. Slot 0 of every view is the target object."""

    global_views: list[View]
    local_views: list[View]
    prediction_masks: Tensor  # bool (G, P): patches hidden from the student
    index: int  # row of the object index that was used
    path: str
    skipped: list[Skipped] = field(default_factory=list)  # rows passed over on the way to this one


@dataclass(slots=True)
class Batch:
    """One step's input. Views are view-major: row `g * B + b` of a flattened tensor is view g of image b.

    The index tensors are made where the batch is made, on the CPU, so that a training step never waits for
    the device to learn how many objects are visible or how many patches are hidden. "Object row" means a
    position in the flattened (views * B * Q) object tokens.
    """

    global_views: Tensor  # float32 (G * B, C, S, S)
    local_views: Tensor  # float32 (L * B, C, s, s)
    global_masks: Tensor  # bool (G * B, Q, P), object masks
    local_masks: Tensor  # bool (L * B, Q, p)
    global_visible: Tensor  # bool (G, B, Q)
    local_visible: Tensor  # bool (L, B, Q)
    prediction_masks: Tensor  # bool (G * B, P)
    hidden: Tensor  # int64 (H,): positions of the hidden patches in the flattened (G * B * P) patches
    hidden_weight: Tensor  # float32 (H,): 1 / hidden patches in that view
    teacher_rows: Tensor  # int64 (T,): object rows of global views with a visible object
    student_global_rows: (
        Tensor  # int64: object rows of global views whose object another global view shows too
    )
    student_local_rows: Tensor  # int64: object rows of local views whose object a global view shows too
    pairs: Tensor  # float32 (): the (teacher view, student view, object) pairs that the object term is over
    paths: list[str]  # B image paths
    indices: list[int]  # B rows of the object index
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def size(self) -> int:
        """B, the number of images."""
        return len(self.paths)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(self, **{name: v.to(device, non_blocking=True) for name, v in self._tensors().items()})

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by the data loader)."""
        return replace(self, **{name: v.pin_memory() for name, v in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        from torch import Tensor

        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}


@dataclass(slots=True)
class Tokens:
    """What the backbone returns for B views, after the final norm."""

    objects: Tensor | None  # (B, Q, D); None when no object was asked for
    image: (
        Tensor | None
    )  # (B, D): `[CLS]`; None if the backbone has none, or if it stood for the object (`single`, masked)
    patches: Tensor  # (B, P, D)
    grid: tuple[int, int]  # rows and columns of the patch grid, P = rows * columns


@dataclass(slots=True)
class SelectedTokens:
    """The tokens of B views that somebody reads, after the final norm."""

    objects: Tensor | None  # (R, D): the object tokens that were asked for; None if no object was
    image: Tensor | None  # (B, D), as in `Tokens`; None too if it was not asked for
    patches: Tensor  # (H, D): the patches that were asked for


@dataclass(slots=True)
class Features:
    """Frozen features of one image's objects."""

    objects: Tensor  # (n, D)
    image: Tensor | None = None  # (D,): the whole image as one object
    patches: Tensor | None = None  # (P, D)
    grid: tuple[int, int] | None = None


@dataclass(slots=True)
class TeacherOutput:
    """What the student is to predict, without gradient."""

    objects: Tensor  # (T, K) probabilities
    patches: Tensor  # (H, K) probabilities
    image: Tensor | None  # (G * B, K) probabilities; None unless the image term is on
    object_logits: Tensor  # (T, K), for the center
    patch_logits: Tensor  # (H, K), for the center; with `center_patches: all` (1, K), the mean of all patches
    image_logits: Tensor | None  # (G * B, K)


@dataclass(slots=True)
class StudentOutput:
    """Student logits; object rows are the global ones, then the local ones."""

    objects: Tensor  # (R, K)
    patches: Tensor  # (H, K)
    global_image: Tensor | None  # (G * B, K)
    local_image: Tensor | None  # (L * B, K)
    projections: Tensor  # (R, bottleneck) unit vectors of the object rows, before the prototypes
    features: Tensor  # (R, D) backbone features of the object rows, for the collapse meters
    every_patch: Tensor | None = None  # (G * B * P, D) of the global views, hidden ones too; for an anchor


@dataclass(slots=True)
class Losses:
    """The weighted sum and its terms, scalars."""

    total: Tensor
    objects: Tensor
    patches: Tensor
    image: Tensor | None
    koleo: Tensor | None
    gram: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """Those that there are, under their names in `metrics.jsonl`."""
        terms = {
            "loss": self.total,
            "loss_object": self.objects,
            "loss_patch": self.patches,
            "loss_image": self.image,
            "loss_koleo": self.koleo,
            "loss_gram": self.gram,
        }
        return {name: value for name, value in terms.items() if value is not None}
