"""What all evaluations share: query the models, count what was read, collect the rows of `results.json`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from odis import __version__
from odis.errors import DataError, OdisWarning
from odis.evaluation.evaluation import OnRow, Progress
from odis.evaluation.scores import Score
from odis.evaluation.settings import EvaluationSettings
from odis.evaluation.subset import Subset
from odis.inference import Encoder, IndexFeatures, stream_index
from odis.inference.stream import concat
from odis.types import Skipped


class EvaluationRun:
    """One evaluation while it runs.

    Args:
        name: `knn`, `linear`, ...
        encoders: The models; one, or several to compare.
        settings: Checked here, alone and against the models.
        progress: Called after each image.
        on_row: Called with the results so far after each row.
        multi_label: Images with more labels than one take part too.

    Attributes:
        encoders: The models, as a list.
        sides: What was read, by `train`, `test` or `gallery`.
        notes: Lines below the table.
        projected: How long it was expected to take, if that was asked for.

    Raises:
        OdisError: settings that exclude each other, or that no model takes.
    """

    def __init__(
        self,
        name: str,
        encoders: Encoder | Sequence[Encoder],
        settings: EvaluationSettings,
        progress: Progress | None = None,
        on_row: OnRow | None = None,
        *,
        multi_label: bool = False,
    ) -> None:
        self.encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
        settings.check()
        settings.check_models(self.encoders)
        self.name, self.settings, self.multi_label = name, settings, multi_label
        self.progress, self.on_row = progress, on_row
        self.sides: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.projected: dict[str, Any] | None = None
        self._rows: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []
        self._skipped: dict[tuple[str, str], None] = {}  # ordered, each once: every mode meets them again
        self._started = time.perf_counter()

    def models(self) -> Iterator[tuple[Encoder, str]]:
        """Each model in each mode that it has; the others are listed as left out."""
        for encoder in self.encoders:
            for mode in self.settings.query.modes:
                if (why := self.settings.lacks(encoder, mode)) is not None:
                    self._left_out.append({"model": encoder.source, "mode": mode, "why": why})
                    continue
                self.start()
                yield encoder, mode

    def start(self) -> None:
        """The seconds of the next row count from now."""
        self._started = time.perf_counter()

    def stream(self, encoder: Encoder, mode: str, subset: Subset, side: str) -> Iterator[IndexFeatures]:
        """Features of a subset, chunk by chunk; `sides[side]` counts what was in it."""
        query, what = self.settings.query, f"{encoder.source or 'model'}, {mode}, {side}"
        counts = {"images": 0, "objects": 0, "unlabelled": 0, "several_labels": 0, "skipped": 0}
        for chunk in stream_index(
            encoder,
            subset.index,
            query.only(mode),
            self.settings.read,
            rows=subset.rows,
            progress=None if self.progress is None else partial(_of, self.progress, what, len(subset.rows)),
        ):
            labels = [len(of_one) for of_one in chunk.label_sets]
            taking_part = sum(n > 0 if self.multi_label else n == 1 for n in labels)
            new = {
                "images": chunk.images,
                "objects": taking_part,
                "unlabelled": labels.count(0),
                "several_labels": len(labels) - taking_part - labels.count(0),
                "skipped": len(chunk.skipped),
            }
            counts = {name: count + new[name] for name, count in counts.items()}
            self.note_skipped(chunk.skipped)
            yield chunk
        described = {"index": subset.index.path, "provenance": subset.index.provenance}
        self.sides[side] = {**described, **counts, "classes": len(subset.index.classes)}

    def features(self, encoder: Encoder, mode: str, subset: Subset, side: str) -> IndexFeatures:
        """All features of a subset, in memory."""
        return concat(
            list(self.stream(encoder, mode, subset, side)), encoder.width(mode, self.settings.query.readout)
        )

    def note(self, lines: Sequence[str]) -> None:
        """Say something of the scores: now, and below the table."""
        for line in lines:
            if line not in self.notes:
                self.notes.append(line)
                warnings.warn(line, OdisWarning, stacklevel=2)

    def note_skipped(self, skipped: Sequence[Skipped]) -> None:
        """Record files and objects that could not be used."""
        self._skipped.update({(item.what, item.why): None for item in skipped})

    def skip(self, *items: Skipped) -> None:
        """Record files or objects that could not be used.

        Raises:
            DataError: With `--strict`, for the first of them.
        """
        if items and self.settings.read.strict:
            raise DataError(f"{items[0].what}: {items[0].why}")
        self.note_skipped(items)

    def add(self, encoder: Encoder, mode: str, scores: dict[str, Score], **more: Any) -> None:
        """Add a row: a model in a mode, its scores, and further entries."""
        size = self.settings.query.size
        read = {"obj": encoder.readout, "cls": "[CLS]", "both": f"[CLS] and {encoder.readout}"}
        described = {
            "provenance": encoder.provenance,
            "recipe": encoder.card.get("recipe"),
            "step": encoder.card.get("step"),
            "size": encoder.image_size if size is None else size,
            "precision": encoder.precision,
            "readout": read[self.settings.query.readout],
        }
        self.add_row(encoder.source, mode, scores, **described | more)

    def add_row(self, source: str, mode: str, scores: dict[str, Score], **more: Any) -> None:
        """Add a row of what is no model, such as an index; see `add`."""
        self._rows.append(
            {
                "model": source,
                "mode": mode,
                "scores": {name: score.as_dict() for name, score in scores.items()},
                **dict.fromkeys(("provenance", "recipe", "step", "size", "precision", "readout")),
                **more,
                "seconds": round(time.perf_counter() - self._started, 1),
            }
        )
        if self.on_row is not None:
            self.on_row(self.results())

    def add_bound(self, name: str, mode: str, scores: dict[str, Score], **more: Any) -> None:
        """Add a row that no model reached, chance or ceiling: the best of a table is never such a row."""
        self.add_row(name, mode, scores, bound=True, **more)

    def results(self) -> dict[str, Any]:
        """What `results.json` holds."""
        return {
            "evaluation": self.name,
            "odis_version": __version__,
            "settings": self.settings.as_dict(),
            **self.sides,
            "rows": self._rows,
            "left_out": self._left_out,
            "notes": self.notes,
            "skipped": [{"what": what, "why": why} for what, why in self._skipped],
            **({} if self.projected is None else {"projected": self.projected}),
        }


def _of(progress: Progress, what: str, total: int, done: int) -> None:
    progress(what, done, total)
