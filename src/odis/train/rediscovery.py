"""Rediscovery: training starts on whole images; every n epochs the teacher finds the objects anew.

No annotation is used. The found objects are an index in the run's folder, `objects/step-NNNNNNNN.parquet`.
They depend only on the teacher at that step, so a killed and resumed run trains on the same objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from odis.config.training import PretrainConfig
from odis.errors import DataError
from odis.finding.corpus import count_parts, finish, write_part
from odis.finding.discover.discoverer import Discoverer
from odis.finding.finder import PartWorker
from odis.objects.edit.overlay import Overlay
from odis.objects.index import WHOLE_IMAGE, ObjectIndex
from odis.objects.parts import Parts, is_made
from odis.train.saved_state import whole_backbone
from odis.train.schedules import Schedules
from odis.train.update import TrainState
from odis.types import Skipped

_PART_SIZE = 512  # images of which the results are lost at most when discovery is killed


def provenance_of(config: PretrainConfig, index: ObjectIndex) -> str:
    """The provenance of the objects that a run trains on."""
    return (
        f"discovered:{config.discover.method}@teacher"
        if config.objects.rediscover_every
        else index.provenance
    )


def boundaries(config: PretrainConfig, schedules: Schedules) -> list[int]:
    """The steps after which objects are discovered."""
    steps: list[int] = []
    every = config.objects.rediscover_every * schedules.steps_per_epoch
    while every:
        step = max(len(steps) + 1, round((len(steps) + 1) * every))
        if step >= schedules.total_steps:
            break
        steps.append(step)
    return steps


class Rounds:
    """The objects that training uses at each step.

    Without `objects.rediscover_every` these are the index's, from the first step to the last.

    Args:
        run: The run. Its teacher finds the objects.
        index: The images. Until the first discovery its own objects are used if they were discovered too,
            never if they were annotated.
        out: The run's folder.
    """

    def __init__(self, run: TrainState, index: ObjectIndex, out: Path) -> None:
        self.run, self.index, self.folder = run, index, out / "objects"

    def span(self, skip: Callable[[Skipped], None]) -> tuple[ObjectIndex, int]:
        """The index for the coming steps, and the step at which it ends. At a boundary this discovers the
        objects. Of a discovery that is interrupted, the finished parts stay.

        Args:
            skip: Called with each file or object that a discovery skips.

        Raises:
            DataError: The objects found at an earlier step are gone, or no image can be used.
        """
        step, total = self.run.step, self.run.schedules.total_steps
        if not self.run.config.objects.rediscover_every:
            return self.index, total
        marks = boundaries(self.run.config, self.run.schedules)
        end = next((mark for mark in marks if mark > step), total)
        start = max((mark for mark in marks if mark <= step), default=0)
        if start == 0:
            found = self.index.provenance.startswith("discovered:") or self.index.provenance == WHOLE_IMAGE
            return (self.index if found else Overlay(self.index)), end
        return Overlay(self.index, ObjectIndex.open(self._found(start, skip), root=self.index.root)), end

    def _found(self, step: int, skip: Callable[[Skipped], None]) -> Path:
        path = self.folder / f"step-{step:08d}.parquet"
        settings = {
            "step": step,
            "discover": asdict(self.run.config.discover),
            "images": self.index.fingerprint(),
        }
        if path.exists() and is_made(path, settings):
            return path
        if self.run.step != step:
            raise DataError(
                f"{path}: is gone, and the teacher of step {step} with it; resume from a checkpoint of "
                f"step {step} or before"
            )
        self.run.ranks.barrier()
        worker, parts = self._worker(), Parts(path, root=self.index.root, settings=settings)
        total = count_parts(self.index, _PART_SIZE)
        mine = range(self.run.ranks.rank, total, self.run.ranks.world_size)
        for k in sorted(set(mine) - parts.done()):
            found = worker(k)
            write_part(parts, k, found)
            for item in found.skipped:
                skip(item)
        self.run.ranks.barrier()
        if self.run.ranks.is_first:
            finish(parts, total)
        self.run.ranks.barrier()
        return path

    def _worker(self) -> PartWorker:
        config = self.run.config
        views, discover = config.views, config.discover
        backbone = whole_backbone(self.run, everywhere=True)
        assert backbone is not None
        finder = Discoverer(
            backbone, *views.statistics, discover, name="teacher", image_size=views.global_size
        )
        return PartWorker(self.index, finder, part_size=_PART_SIZE, batch_size=discover.batch_size)
