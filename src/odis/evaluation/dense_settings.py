"""The settings and the data of the two evaluations of patches, `dense-knn` and `segment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from odis.config.query import QueryConfig
from odis.errors import OdisError
from odis.evaluation.settings import EvaluationSettings, require_given

if TYPE_CHECKING:
    from odis.evaluation.label_maps import LabelledImages
    from odis.inference import Encoder

PATCHES = "patches"
"""The mode of evaluations of patches: they come from a plain pass over the whole image."""


@dataclass(frozen=True, kw_only=True)
class DenseSettings(EvaluationSettings):
    """Settings of evaluations of patches.

    Args:
        query: Only its size may be set: patches are read from whole images.
        max_patches: Hold at most this many train patches in memory (but one of each image), equally many of
            each image, drawn by the seed: about 8 (D + C) bytes each at the peak.
    """

    query: QueryConfig = field(default_factory=QueryConfig, metadata={"only": ("size",)})
    max_patches: int = 200_000

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        if self.query != QueryConfig(size=self.query.size):
            raise OdisError("patches are read from whole images: of the query, only the size may be set")
        if self.max_patches < 1:
            raise OdisError(f"max-patches {self.max_patches} must be 1 or more")
        self.check_counts()

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """Refuse models without patches, before an image is read.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        if not encoders:
            raise OdisError("at least one model is needed")
        for encoder in encoders:
            encoder.query_builder(QueryConfig(("mean-pool",), size=self.query.size))

    def as_dict(self) -> dict[str, Any]:
        """See `EvaluationSettings.as_dict`."""
        return EvaluationSettings.as_dict(self) | {"modes": [PATCHES]}


@dataclass(frozen=True, slots=True)
class DenseData:
    """Images with a label for each pixel.

    Args:
        train: Object index (.parquet) with masks, or folder of PNG label maps in the layout of VOC or
            ADE20K, to learn from.
        test: The same, to measure on.
        train_split: Of label maps: the list or folder to learn from.
        test_split: Of label maps: the list or folder to measure on.
        boxes: Of an index: give the whole box of an object without a mask its class.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("train", "test")

    train: str = ""
    test: str = ""
    train_split: str = "train"
    test_split: str = "val"
    boxes: bool = False

    def open(self) -> tuple[LabelledImages, LabelledImages]:
        """Train and test part.

        Raises:
            OdisError: one is not given.
            DataError: one cannot be read, or has no label.
        """
        from odis.evaluation.dense import open_labelled

        require_given(self)
        return (
            open_labelled(self.train, self.train_split, boxes=self.boxes),
            open_labelled(self.test, self.test_split, boxes=self.boxes),
        )
