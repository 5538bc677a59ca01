"""`corloc`: one box an image, found without annotations, against its true boxes (LOST's protocol)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.localization.found_settings import FoundData, FoundSettings, begin
from odis.evaluation.protocols.protocol import (
    Protocol,
    results_of,
    statistics_of,
)
from odis.evaluation.protocols.publications.corloc import ABOUT

if TYPE_CHECKING:
    import numpy as np

    from odis.config.discovery import DiscoverConfig
    from odis.evaluation.protocols.layouts.boxed import BoxedImages
    from odis.evaluation.protocols.projection import Work
    from odis.evaluation.runner import EvaluationRun
    from odis.inference import Encoder

METHODS = {"seeds": "seeds (LOST)", "spectral": "spectral (TokenCut)"}


@dataclass(frozen=True, kw_only=True)
class CorlocSettings(FoundSettings):
    """Settings of the protocol.

    Args:
        method: How objects are found: seeds (LOST), spectral (TokenCut); comma-separated.
        tau: Spectral: cosine above which two patches belong together.
    """

    method: Sequence[str] = ("seeds", "spectral")
    tau: float = 0.2

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        FoundSettings.check(self)
        wrong = [name for name in self.method if name not in METHODS]
        if wrong or not self.method:
            raise OdisError(f"method {','.join(wrong)!r} must be some of {', '.join(METHODS)}")
        if self.size is not None and self.as_published:
            raise OdisError(f"size {self.size}: as published, images are shown at their own size")
        if not -1 <= self.tau < 1:
            raise OdisError(f"tau {self.tau:g} must be from -1 to below 1")

    def configs(self) -> list[DiscoverConfig]:
        """Discovery's settings of each method."""
        from odis.config.discovery import DiscoverConfig

        return [
            DiscoverConfig(
                method="seeds" if name == "seeds" else "spectral",
                size=self.size,
                facet=self.facet,
                tau=self.tau,
                batch_size=self.read.batch_size,
            )
            for name in self.method
        ]


def evaluate_corloc(
    encoders: Encoder | Sequence[Encoder],
    images: BoxedImages,
    settings: CorlocSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
    *,
    predicted: Sequence[str] = (),
) -> dict[str, Any]:
    """Find one box in every image, and count the images in which it is right.

    A box is right if its IoU with any true box, of whatever class, is .5 or more. An image without a found
    box counts as wrong. Each image is shown once to a model, whatever the methods. Memory holds the true
    boxes and one box an image.

    Args:
        encoders: Models to compare; none if only `predicted` is scored.
        images: Images with true boxes.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.
        predicted: Object indexes whose most confident boxes are scored.

    Returns:
        What `results.json` holds; `CorLoc` in percent with 95 % bootstrap intervals over images, and beside
        it how often the box of the whole image, a random box of the same image, and an annotated box of
        another image are right. A row is a model and a method, or an index.

    Raises:
        OdisError: Settings or models that do not fit, or nothing to score.
    """
    import numpy as np

    from odis.evaluation.protocols.localization import box_hits as local
    from odis.evaluation.protocols.localization.discovery import works_of
    from odis.evaluation.protocols.projection import project
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import mean_score
    from odis.objects.index import ObjectIndex

    run = EvaluationRun("corloc", encoders, settings, progress, on_row)
    images = begin(run, images, predicted, "boxes")
    if images.without_objects:
        run.notes.append(
            counted(
                images.without_objects,
                "image has no true box and is left out",
                "images have no true box and are left out",
            )
        )
    chances = {
        "whole image": local.whole_image_hits(images),
        "random box": local.random_box_hits(images, settings.seed),
        "another image's box": local.other_box_hits(images, settings.seed),
    }

    def add(right: dict[int, bool], source: str, mode: str, found: int, **more: Any) -> None:
        numbers = sorted(right)
        values = {"CorLoc": [float(right[i]) for i in numbers]}
        values |= {name: [float(of[i]) for i in numbers] for name, of in chances.items()}
        scores = {name: mean_score(np.array(of), seed=settings.seed) for name, of in values.items()}
        run.add_row(source, mode, scores, without_a_box=len(numbers) - found, **more)

    def works(source: Encoder) -> Iterator[Work]:
        search = _Search(run, source, images, settings)
        return works_of(run, search.encoder, images, search.find, search.store)

    project(run, works)
    for path in predicted:
        run.start()
        index = ObjectIndex.open(path)
        boxes, absent = local.predicted_boxes(index, images)
        right = {i: local.is_right(box, images.boxes(i)) for i, box in enumerate(boxes)}
        found = sum(box is not None for box in boxes)
        add(right, index.path, "most confident box", found, provenance=index.provenance, not_there=absent)
    for source in run.encoders:
        run.start()
        _model_rows(run, source, images, settings, add)
    return results_of(run, ABOUT, settings)


class _Search:
    """One model: how boxes are found, and where they are kept."""

    def __init__(
        self, run: EvaluationRun, source: Encoder, images: BoxedImages, settings: CorlocSettings
    ) -> None:
        from odis.evaluation.protocols.localization import discovery

        self.encoder, self.settings = statistics_of(source, settings), settings
        self.configs, self.name = settings.configs(), source.source or "model"
        self.facet = discovery.facet_of(self.encoder, settings.facet)
        published = settings.as_published
        self.finder = None if published else discovery.OurDiscovery(self.encoder, self.configs, self.name)
        self.size = None if self.finder is None else self.finder.finder.size
        asked = settings.as_dict() | {"facet": self.facet, "size": self.size}
        self.store = discovery.store_of(run, self.encoder, images, settings.cache, asked)

    def find(self, pictures: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The box of each method in each image, NaN where there is none."""
        import numpy as np

        from odis.evaluation.protocols.localization.box_hits import first_box

        if self.finder is None:
            of_images = [_published_boxes(self.encoder, one, self.configs, self.facet) for one in pictures]
        else:
            by_method = [[first_box(of) for of in of_one] for of_one in self.finder(pictures)]
            of_images = [list(of) for of in zip(*by_method)]
        none = (np.nan,) * 4
        return [{"boxes": np.array([none if b is None else b for b in of])} for of in of_images]


def _model_rows(
    run: EvaluationRun, source: Encoder, images: BoxedImages, settings: CorlocSettings, add: Any
) -> None:
    """The rows of a model, one a method."""
    from odis.evaluation.protocols.localization import discovery
    from odis.evaluation.protocols.localization.box_hits import is_right

    search = _Search(run, source, images, settings)
    right: list[dict[int, bool]] = [{} for _ in search.configs]
    found = [0] * len(search.configs)
    for i, made in discovery.stream_found(run, images, f"{search.name}, test", search.find, search.store):
        for k, box in enumerate(made["boxes"].tolist()):
            there = not math.isnan(box[0])
            right[k][i] = is_right(tuple(box) if there else None, images.boxes(i))
            found[k] += there
    shown = ", own size, zero-padded" if search.size is None else ""
    for k, method in enumerate(settings.method):
        mode = f"{METHODS[method]}, {search.facet} features{shown}"
        add(
            right[k],
            source.source,
            mode,
            found[k],
            provenance=source.provenance,
            recipe=source.card.get("recipe"),
            step=source.card.get("step"),
            size="own size" if search.size is None else search.size,
            precision="fp32",
            readout=search.facet,
        )


def _published_boxes(
    encoder: Encoder, image: Any, configs: Sequence[DiscoverConfig], facet: Any
) -> list[Any]:
    """The box of what each method finds first in an image at its own size."""
    from odis.evaluation.protocols.localization.discovery import findings_at_own_size, patch_box

    of_methods, side = findings_at_own_size(encoder, image, configs, facet), encoder.patch_size
    height, width = image.shape[:2]
    return [patch_box(found[0].mask, side, width, height) if found else None for found in of_methods]


def _run(
    models: Models,
    data: FoundData,
    settings: CorlocSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    images = data.open()
    return evaluate_corloc(models(), images, settings, progress, on_row, predicted=data.predicted)


PROTOCOL = Protocol(
    name="corloc",
    summary="CorLoc (LOST): one box an image by seeds or spectral cuts, on VOC07, VOC12, COCO20k; its chance",
    data=FoundData(),
    settings=CorlocSettings(),
    run=_run,
    titles={
        "corloc": Titles(
            "corloc: {test}",
            "CorLoc, LOST's protocol",
            "The share of images whose one found box has an IoU of .5 or more with a true box, beside how "
            "often boxes are right that nobody looked for. Higher is better.",
        )
    },
    about=ABOUT,
    needs_model=False,
)
