"""What all evaluations of objects and images share: how models are asked, what is written down of it, which
modes a model has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from odis import __version__
from odis.config.query import MODES, QueryConfig, ReadConfig
from odis.errors import OdisError
from odis.evaluation.parts import Part
from odis.evaluation.scores import Score
from odis.inference import Encoder, IndexFeatures, stream_index
from odis.inference.stream import concat
from odis.types import Skipped

Progress = Callable[[str, int, int], None]
"""Called with what is being read, how many images were, and of how many."""

Each = Callable[[dict[str, Any]], None]
"""Called with the results so far."""

_UNWRITTEN = ("batch_size", "workers", "strict")  # how fast, not what


@dataclass(frozen=True, slots=True)
class Asking:
    """How models are asked about the objects of an index.

    Args:
        modes: How objects are asked about (`queries.MODES`). A model that has not one of them is left out
            there.
        images: Ask about each image as one object, whatever objects it has.
        size: Side in pixels the models are asked at; by default the one each was trained at.
        context: Window of `masked-attention` over the box's longer side, see `Encoder.embed`; other modes
            have none.
        max_train: At most so many train images, drawn by `seed`.
        max_test: At most so many test images, drawn by `seed`.
        seed: Of the two draws, of bootstrap resamples, and of what an evaluation draws itself.
        batch_size: Images a model sees at once.
        workers: Processes that decode images.
        strict: Stop at the first image or object that cannot be used, instead of naming and counting it.
    """

    modes: Sequence[str] = ("masked-attention",)
    images: bool = False
    size: int | None = None
    context: float | None = None
    max_train: int | None = None
    max_test: int | None = None
    seed: int = 0
    batch_size: int = 64
    workers: int = 0
    strict: bool = False

    @property
    def things(self) -> str:
        """What is asked about, in a word."""
        return "images" if self.images else "objects"

    def window(self, mode: str) -> float | None:
        """The context that goes with a mode."""
        return self.context if mode == "masked-attention" else None

    def check(self, encoders: Sequence[Encoder]) -> None:
        """Refuse settings that do not fit, before an image is read.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        if not encoders or not self.modes:
            raise OdisError("at least one model and one mode are needed")
        for name, value in (
            ("max-train", self.max_train),
            ("max-test", self.max_test),
            ("batch-size", self.batch_size),
        ):
            if value is not None and value < 1:
                raise OdisError(f"{name} {value} must be 1 or more")
        if self.workers < 0:
            raise OdisError(f"workers {self.workers} must be 0 or more")
        if self.context is not None and "masked-attention" not in self.modes:
            raise OdisError(
                f"context {self.context:g} goes with mode masked-attention, which is not among "
                f"{', '.join(self.modes)}"
            )
        if self.context is not None and self.images:
            raise OdisError(
                f"context {self.context:g} is a window around an object, but images are asked about"
            )
        nobody = not any(mode in encoder.modes for encoder in encoders for mode in self.modes)
        for encoder in encoders:
            for mode in self.modes:
                # What one model has not is left out of its rows; what no model has, or is no mode at all, is
                # refused.
                if mode in encoder.modes or mode not in MODES or nobody:
                    encoder.query_builder(QueryConfig((mode,), size=self.size, context=self.window(mode)))


@dataclass(slots=True)
class Evaluation:
    """One evaluation while it runs: asks the models and gathers what `results.json` holds.

    Args:
        name: `knn`, `linear`, ...
        settings: How, with at least what `Asking` has.
        progress: Called after each image.
        each: Called with the results so far after each row.
        several: Images with more labels than one take part too.
    """

    name: str
    settings: Asking
    progress: Progress | None = None
    each: Each | None = None
    several: bool = False
    sides: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: dict[tuple[str, str], None] = field(
        default_factory=dict
    )  # ordered, each once: every mode meets them again
    started: float = field(default_factory=time.perf_counter)

    def asked(self, encoders: Sequence[Encoder]) -> Iterator[tuple[Encoder, str]]:
        """Each model in each mode that it has; the others are noted."""
        self.settings.check(encoders)
        for encoder in encoders:
            for mode in self.settings.modes:
                if mode not in encoder.modes:
                    why = f"has no object token; its modes are {', '.join(encoder.modes)}"
                    self.left_out.append({"model": encoder.source, "mode": mode, "why": why})
                    continue
                self.start()
                yield encoder, mode

    def start(self) -> None:
        """The seconds of the next row count from now."""
        self.started = time.perf_counter()

    def stream(self, encoder: Encoder, mode: str, part: Part, side: str) -> Iterator[IndexFeatures]:
        """Features of a part, chunk by chunk; what the part holds is noted under `side` as it comes."""
        settings, what, total = self.settings, f"{encoder.source or 'model'}, {mode}, {side}", len(part.rows)
        progress = self.progress
        counts = {"images": 0, "objects": 0, "unlabelled": 0, "several_labels": 0, "skipped": 0}
        described = {"index": part.index.path, "provenance": part.index.provenance}
        for chunk in stream_index(
            encoder,
            part.index,
            QueryConfig((mode,), settings.images, settings.size, settings.window(mode)),
            ReadConfig(settings.batch_size, settings.workers, strict=settings.strict),
            rows=part.rows,
            progress=None if progress is None else lambda done: progress(what, done, total),
        ):
            labels = [len(of_one) for of_one in chunk.label_sets]
            taking_part = sum(n > 0 if self.several else n == 1 for n in labels)
            new = {
                "images": chunk.images,
                "objects": taking_part,
                "unlabelled": labels.count(0),
                "skipped": len(chunk.skipped),
            }
            new["several_labels"] = 0 if self.several else len(labels) - taking_part - labels.count(0)
            counts = {name: count + new[name] for name, count in counts.items()}
            self.note(chunk.skipped)
            yield chunk
        self.sides[side] = {**described, **counts, "classes": len(part.index.classes)}

    def features(self, encoder: Encoder, mode: str, part: Part, side: str) -> IndexFeatures:
        """All features of a part, in memory."""
        return concat(list(self.stream(encoder, mode, part, side)), encoder.width(mode))

    def note(self, skipped: Sequence[Skipped]) -> None:
        """What was left out, and why."""
        self.skipped.update({(s.what, s.why): None for s in skipped})

    def add(self, encoder: Encoder, mode: str, scores: dict[str, Score], **more: Any) -> None:
        """One row of the table: a model in a mode, its scores, and what else is to be said."""
        self.rows.append(
            {
                "model": encoder.source,
                "provenance": encoder.provenance,
                "recipe": encoder.card.get("recipe"),
                "step": encoder.card.get("step"),
                "size": encoder.image_size if self.settings.size is None else self.settings.size,
                "precision": encoder.precision,
                "readout": encoder.readout,
                "mode": mode,
                "scores": {name: score.as_dict() for name, score in scores.items()},
                **more,
                "seconds": round(time.perf_counter() - self.started, 1),
            }
        )
        if self.each is not None:
            self.each(self.results())

    def results(self) -> dict[str, Any]:
        """What `results.json` holds."""
        settings = {
            k: list(v) if isinstance(v, tuple | list) else v
            for k, v in asdict(self.settings).items()
            if k not in _UNWRITTEN
        }
        return {
            "evaluation": self.name,
            "odis_version": __version__,
            "settings": settings,
            **self.sides,
            "rows": self.rows,
            "left_out": self.left_out,
            "notes": self.notes,
            "skipped": [{"what": what, "why": why} for what, why in self.skipped],
        }
