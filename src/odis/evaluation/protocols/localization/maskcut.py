"""`maskcut`: up to three masks an image, by repeated cuts, scored without classes as COCO scores masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.localization.found_settings import FoundData, FoundSettings, begin
from odis.evaluation.protocols.protocol import (
    Protocol,
    results_of,
    statistics_of,
)
from odis.evaluation.protocols.publications.maskcut import ABOUT

if TYPE_CHECKING:
    from odis.evaluation.protocols.layouts.boxed import BoxedImages
    from odis.inference import Encoder
    from odis.types import ImageObjects

PUBLISHED_SIDE, PUBLISHED_TAU = 480, 0.15


@dataclass(frozen=True, kw_only=True)
class MaskcutSettings(FoundSettings):
    """Settings of the protocol.

    Args:
        max_objects: Masks of an image.
        tau: Cosine above which two patches belong together; by default .2, as published .15.
    """

    max_objects: int = 3
    tau: float | None = None

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        FoundSettings.check(self)
        if self.max_objects < 1:
            raise OdisError(f"max-objects {self.max_objects} must be 1 or more")
        if self.size is not None and self.as_published:
            raise OdisError(f"size {self.size}: as published, images are squashed to {PUBLISHED_SIDE}")
        if not -1 <= self.threshold < 1:
            raise OdisError(f"tau {self.threshold:g} must be from -1 to below 1")

    @property
    def threshold(self) -> float:
        """The tau that is used."""
        return self.tau if self.tau is not None else PUBLISHED_TAU if self.as_published else 0.2


def evaluate_maskcut(
    encoders: Encoder | Sequence[Encoder],
    images: BoxedImages,
    settings: MaskcutSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
    *,
    predicted: Sequence[str] = (),
) -> dict[str, Any]:
    """Find up to `max_objects` masks in every image, and score them and their boxes without classes.

    Memory holds the masks of all objects, true and found, run-length encoded.

    Args:
        encoders: Models to compare; none if only `predicted` is scored.
        images: Images with true objects. Where one of these has no mask, only boxes are scored.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.
        predicted: Object indexes that are scored.

    Returns:
        What `results.json` holds; AP50, AP and AR100 of boxes and masks in percent with 95 % bootstrap
        intervals over images. A row is a model or an index; the last one is chance: each image is given the
        true objects of another one.

    Raises:
        OdisError: Settings or models that do not fit, or nothing to score.
    """
    from odis.evaluation.protocols.localization.found_masks import (
        MaskSearch,
        objects_of_index,
        of_other_images,
    )
    from odis.evaluation.protocols.projection import project
    from odis.evaluation.runner import EvaluationRun
    from odis.objects.index import ObjectIndex

    run = EvaluationRun("maskcut", encoders, settings, progress, on_row)
    images = begin(run, images, predicted, "annotated")
    if not any(row.objects for row in images.rows):
        raise OdisError(
            f"{images.path}: none of the {counted(len(images), 'image')} has an object; nothing can be found"
        )
    if not _has_masks(images):
        run.notes.append(f"{images.path}: some objects have no mask; only boxes are scored")
    project(run, lambda one: MaskSearch(run, statistics_of(one, settings), images, settings).works())
    everything = list(range(len(images)))
    for path in predicted:
        run.start()
        index = ObjectIndex.open(path)
        found, absent = objects_of_index(index, images)
        more = {"provenance": index.provenance, "not_there": absent}
        run.add_row(index.path, "its objects", _scores(images, everything, found, settings), **more)
    for source in run.encoders:
        run.start()
        search = MaskSearch(run, statistics_of(source, settings), images, settings)
        numbers, found = search.objects()
        run.add(
            source,
            "spectral cuts" + (", squashed" if settings.as_published else ""),
            _scores(images, numbers, found, settings),
            size=search.size,
            precision="fp32",
            objects=sum(len(row.objects) for row in found),
        )
    if len(images) > 1:
        run.start()
        chance = _scores(images, everything, of_other_images(images, settings.seed), settings, masks=False)
        run.add_bound("chance", "the true objects of another image", chance, provenance="annotated")
    return results_of(run, ABOUT, settings)


def _has_masks(images: BoxedImages) -> bool:
    return all(one.mask is not None for row in images.rows for one in row.objects)


def _scores(
    images: BoxedImages,
    numbers: Sequence[int],
    found: Sequence[ImageObjects],
    settings: MaskcutSettings,
    *,
    masks: bool = True,
) -> dict[str, Any]:
    """Scores of what was found in some of the images."""
    import os

    from odis.evaluation.protocols.localization.coco_scores import coco_scores, crowds_of

    chosen = images.select(numbers)
    crowds = {}
    if images.instances and os.path.isfile(images.instances):
        crowds = crowds_of(images.instances, [os.path.basename(path) for path in chosen.paths])
    kinds: list[Literal["box", "mask"]] = ["box", "mask"] if masks and _has_masks(images) else ["box"]
    scores: dict[str, Any] = {}
    for kind in kinds:
        scores |= coco_scores(chosen.rows, found, kind, crowds=crowds, seed=settings.seed)
    return scores


def _run(
    models: Models,
    data: FoundData,
    settings: MaskcutSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    images = data.open(keep_empty=True)
    return evaluate_maskcut(models(), images, settings, progress, on_row, predicted=data.predicted)


PROTOCOL = Protocol(
    name="maskcut",
    summary="MaskCut (CutLER): up to 3 masks an image by repeated cuts; AP50 and AR100 without classes",
    data=FoundData(),
    settings=MaskcutSettings(),
    run=_run,
    titles={
        "maskcut": Titles(
            "maskcut: {test}",
            "MaskCut, class-agnostic",
            "Objects found without annotations, scored as COCO scores detections of a single class. Higher "
            "is better.",
        )
    },
    about=ABOUT,
    needs_model=False,
)
