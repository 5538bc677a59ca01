"""The data and the settings that the protocols of found objects share, and how they begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.protocols.protocol import ProtocolSettings, not_offered
from odis.evaluation.settings import require_given

if TYPE_CHECKING:
    from odis.evaluation.protocols.layouts.boxed import BoxedImages
    from odis.evaluation.runner import EvaluationRun
    from odis.inference import Encoder


@dataclass(frozen=True, slots=True)
class FoundData:
    """The images with true objects, and what is held against them.

    Args:
        test: Pascal VOC (a folder such as VOCdevkit/VOC2007), COCO, or an object index (.parquet).
        split: VOC: a list of ImageSets/Main, by default trainval. COCO: train2014, val2017, ...
        file_list: Only images that this file lists, a name a line: COCO20k's coco_20k_filenames.txt.
        predicted: Object index that is scored as a detector's objects are; again for more. No model is needed
            then.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("test",)

    test: str = ""
    split: str | None = None
    file_list: str | None = None
    predicted: Sequence[str] = field(default=(), metadata={"repeat": True})

    def open(self, *, keep_empty: bool = False) -> BoxedImages:
        """The images.

        Args:
            keep_empty: Those without an object too.

        Raises:
            OdisError: They are not given.
            DataError: They cannot be read, or have no object.
        """
        from odis.evaluation.protocols.layouts.boxed import open_boxed

        require_given(self)
        return open_boxed(self.test, self.split, self.file_list, keep_empty=keep_empty)


@dataclass(frozen=True, kw_only=True)
class FoundSettings(ProtocolSettings):
    """Settings of the protocol.

    Args:
        size: Side of the square whose area images are shown at, with their aspect; by default the model's
            own. As published, corloc shows images at their own size, maskcut at 480 x 480.
        facet: Features that are read: key, query, value or token; by default key, or token for a model
            without keys.
        cache: Folder in which found objects are kept; an interrupted call goes on there.
    """

    max_train: int | None = not_offered()
    size: int | None = None
    facet: Literal["key", "query", "value", "token"] | None = None
    cache: str | None = None

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        ProtocolSettings.check(self)
        if self.size is not None and self.size < 1:
            raise OdisError(f"size {self.size} must be 1 or more")

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """Models that cannot be asked so are refused; there may be none.

        Raises:
            OdisError: Naming the model.
        """
        if self.as_published:
            from odis.evaluation.protocols.localization.discovery import check_own_size

            for encoder in encoders:
                check_own_size(encoder)


def begin(run: EvaluationRun, images: BoxedImages, predicted: Sequence[str], annotated: str) -> BoxedImages:
    """The images that take part, drawn as the run's settings say; what is left out is noted in the run.

    Args:
        run: Gets `sides["test"]`.
        images: All images.
        predicted: Object indexes to score.
        annotated: What the number of true objects is called in `sides["test"]`.

    Raises:
        OdisError: There is neither a model nor an index.
    """
    from odis.evaluation.subset import draw_rows

    if not run.encoders and not predicted:
        raise OdisError("nothing to score: give --model, or --predicted with an object index")
    rows = draw_rows(len(images), run.settings.max_test, run.settings.seed)
    images = images if len(rows) == len(images) else images.select(rows)
    run.note_skipped(images.skipped)
    counts = images.counts()
    run.sides["test"] = {
        "index": images.path,
        "provenance": images.provenance,
        "classes": images.classes,
        "images": len(images),
        **{name: value for name, value in counts.items() if name != "objects"},
        annotated: counts["objects"],
    }
    if images.not_there:
        run.notes.append(
            f"{counted(images.not_there, 'listed image is', 'listed images are')} not in the annotations"
        )
    return images
