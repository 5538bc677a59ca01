"""The data and the settings that the protocols of segmentation share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from odis.errors import OdisError
from odis.evaluation.protocols.protocol import ProtocolSettings
from odis.evaluation.settings import require_given

if TYPE_CHECKING:
    from odis.evaluation.protocols.layouts.segmentation import SegmentedImages
    from odis.inference import Encoder

PATCHES = "patches"
"""The mode of these protocols: patches of a plain pass over the whole view."""


@dataclass(frozen=True, slots=True)
class SegmentedTest:
    """Images with a label for each pixel.

    Args:
        test: Root folder of VOC, ADE20K, COCO-Stuff, Cityscapes or label maps, or object index with masks, to
            measure on.
        test_split: List or folder of it; by default val.
        target: Of COCO-Stuff: its things (12 super-classes), stuff (15) or all (27).
        ignore: Of label maps without a list of classes: values that are no class, besides 255.
        boxes: Of an index: give the whole box of an object without a mask its class.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("test",)

    test: str = ""
    test_split: str = ""
    target: str = "stuff"
    ignore: Sequence[int] = ()
    boxes: bool = False

    def open_test(self) -> SegmentedImages:
        """The test part.

        Raises:
            OdisError: It is not given.
            DataError: It cannot be read, or has no label.
        """
        from odis.evaluation.protocols.layouts.segmentation import open_segmented

        require_given(self)
        return open_segmented(
            self.test,
            self.test_split,
            part="val",
            target=self.target,
            ignore=self.ignore,
            boxes=self.boxes,
        )


@dataclass(frozen=True, slots=True)
class SegmentedData(SegmentedTest):
    """The two parts.

    Args:
        train: The same, to learn from.
        train_split: List or folder of it; by default trainaug where VOC has such a list, else train.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("train", "test")

    train: str = ""
    train_split: str = ""

    def open(self) -> tuple[SegmentedImages, SegmentedImages]:
        """Train and test part.

        Raises:
            OdisError: One is not given.
            DataError: One cannot be read, or has no label.
        """
        from odis.evaluation.protocols.layouts.segmentation import open_segmented

        require_given(self)
        train = open_segmented(
            self.train,
            self.train_split,
            part="train",
            target=self.target,
            ignore=self.ignore,
            boxes=self.boxes,
        )
        return train, self.open_test()


@dataclass(frozen=True, kw_only=True)
class SegmentedSettings(ProtocolSettings):
    """Settings that the protocols of segmentation share.

    Args:
        size: Side of the square view in pixels; each model takes the largest multiple of its patch up to it.
        cache: Folder to keep features in, so that an interrupted call goes on; by default none are kept.
    """

    size: int = 448
    cache: str = ""

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        ProtocolSettings.check(self)
        if self.size < 1:
            raise OdisError(f"size {self.size} must be 1 or more")

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """See `ProtocolSettings.check_models`; a model must have patches that tile the view."""
        from odis.config.query import QueryConfig

        ProtocolSettings.check_models(self, encoders)
        for encoder in encoders:
            encoder.query_builder(QueryConfig(("mean-pool",), size=self.side_of(encoder)))

    def side_of(self, encoder: Encoder) -> int:
        """The side of a model's view.

        Raises:
            OdisError: It is less than a patch.
        """
        side = self.size // encoder.patch_size * encoder.patch_size
        if not side:
            raise OdisError(f"size {self.size} is less than a patch of {encoder.patch_size} pixels")
        return side
