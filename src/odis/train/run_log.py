"""The log of a run: progress bar or plain lines, `metrics.jsonl`, loggers, names of skipped files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from odis.machine.files import bring_to_disk
from odis.machine.progress import ProgressBar, error_console
from odis.machine.ranks import Ranks
from odis.train.loggers import maker
from odis.train.loggers.guard import GuardedLogger, LoggedRun
from odis.train.loggers.sent import SentLines
from odis.train.metrics import JsonLines, collapse_warning
from odis.types import Skipped


class RunLog:
    """Console, metrics and skipped files of a run.

    The first rank logs for all. Skipped files and non-finite steps are named whatever rank met them.

    Args:
        out: The run's folder.
        ranks: This rank.
        total_steps: Steps of the run.
        start_step: Steps taken before; log lines after it are dropped.
        prototypes: K, for the warning of collapse.
        loggers: Names of the loggers that get the metrics too.
        config: The run's settings, flat, for these.
        anew: The run goes on from `start_step` with other settings: loggers begin a run of their own.
    """

    def __init__(
        self,
        out: Path,
        ranks: Ranks,
        *,
        total_steps: int,
        start_step: int,
        prototypes: int,
        loggers: Sequence[str] = (),
        config: dict[str, Any] | None = None,
        anew: bool = False,
    ) -> None:
        self.out, self.ranks, self.total_steps, self.prototypes = out, ranks, total_steps, prototypes
        self.console = error_console()
        self._found: list[tuple[int, Skipped]] = []  # skipped on this rank, not yet named; with the step
        self._skipped: set[str] = set()
        self._bar = ProgressBar(self.console, keep=True, shown=ranks.is_first, lines=False)
        self._loggers: list[GuardedLogger] = []
        self._at, self._shows = start_step, bool(loggers)
        if not ranks.is_first:
            return
        self._lines = JsonLines(out / "metrics.jsonl", from_step=start_step)
        self._skipped_lines = JsonLines(out / "skipped.jsonl", from_step=start_step)
        self._bad_lines = JsonLines(out / "nonfinite.jsonl", from_step=start_step)
        self._scored = {record["step"] for record in self._lines.read() if "loss" not in record}
        self._skipped |= {record["what"] for record in self._skipped_lines.read()}
        if loggers:
            sent = SentLines(out, anew=anew)
            told = LoggedRun(out, out.absolute().name, config or {}, start_step, sent)
            self._loggers = [GuardedLogger(name, maker(name), told, self.warn) for name in loggers]
        self._bar("step", start_step, total_steps)
        self._bar.start()

    @property
    def skipped(self) -> int:
        """Number of files and objects skipped, as the first rank knew it at the last `name_skipped`."""
        return len(self._skipped)

    def skip(self, step: int, skipped: list[Skipped]) -> None:
        """Note what was skipped before step `step`. Several ranks name it at the next `name_skipped`."""
        self._found += [(step, s) for s in skipped]
        if not self.ranks.distributed:
            self.name_skipped()

    def name_skipped(self) -> None:
        """Name each file or object that any rank skipped, once, on the console and in `skipped.jsonl`. All
        ranks must call it.
        """
        found, self._found = [one for part in self.ranks.gather(self._found) for one in part], []
        if not self.ranks.is_first:
            return
        for step, s in found:
            if s.what not in self._skipped:
                self._skipped.add(s.what)
                self.warn(f"skipped {s.what}: {s.why}")
                self._skipped_lines.write({"step": step, "what": s.what, "why": s.why})

    def nonfinite(self, step: int, images: list[str]) -> None:
        """Name the images of a step that was not taken: eight on the console, all in `nonfinite.jsonl`."""
        shown = ", ".join(images[:8]) + (
            f" and {len(images) - 8} more, named in nonfinite.jsonl" if len(images) > 8 else ""
        )
        self.warn(f"step {step}: loss or gradient is not finite; the step was not taken; images: {shown}")
        if self.ranks.is_first:
            self._bad_lines.write({"step": step, "images": images})

    def has_scores(self, step: int) -> bool:
        """Whether the first rank wrote the scores of the evaluation after `step` steps."""
        return self.ranks.is_first and step in self._scored

    def bring_to_disk(self) -> None:
        """Make the logs last: before the state that they belong to is saved."""
        for lines in (self._lines, self._skipped_lines, self._bad_lines) if self.ranks.is_first else ():
            bring_to_disk(lines.path)

    def warn(self, message: str) -> None:
        """Print a warning, on every rank."""
        self.console.print(Text.assemble(("warning", "yellow"), f": {message}"), soft_wrap=True)

    def say(self, message: str) -> None:
        """Print a line, on the first rank."""
        if self.ranks.is_first:
            self.console.print(message, soft_wrap=True)

    def advance(self, step: int) -> None:
        """Move the progress bar to `step` steps."""
        self._at = step
        self._bar("step", step, self.total_steps)

    def shows_pictures(self, step: int, every: int) -> bool:
        """Whether the loggers, which are the first rank's, are to get pictures after `step` steps."""
        return self._shows and every > 0 and step % every == 0

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Hand pictures, uint8 (height, width, 3), to the loggers."""
        for logger in self._loggers:
            logger.pictures(step, pictures)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the metrics after `step` steps."""
        if not self.ranks.is_first:
            return
        self._lines.write({"step": step, **values})
        for logger in self._loggers:
            logger.scalars(step, dict(values))
        if "loss" not in values:
            self._scored.add(step)
            self.say(
                f"step {step}/{self.total_steps}  "
                + "  ".join(f"{name} {value:.1f}" for name, value in values.items())
            )
            return
        text = (
            f"loss {values.get('loss', float('nan')):.3f}  {values.get('images_per_second', 0):.1f} img/s  "
            f"wait {100 * values.get('data_wait', 0):.0f}%  {values.get('memory_gib', 0):.1f} GiB"
        )
        if self._bar.shown:
            self._bar("step", step, self.total_steps, text)
        else:
            left = values.get("seconds_left", 0)
            self.say(f"step {step}/{self.total_steps}  {text}  {int(left // 60)}:{int(left % 60):02d} left")
        if (warning := collapse_warning(values, self.prototypes)) is not None:
            self.warn(warning)

    def close(self) -> None:
        """Stop the bar, and end the loggers."""
        self._bar.stop()
        for logger in self._loggers:
            logger.close(complete=self._at >= self.total_steps)


class Throughput:
    """Images per second, share of time waiting for data, and time left, over one log interval."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin an interval now."""
        self._start = time.perf_counter()
        self._waited = 0.0
        self._steps = 0

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for data."""
        self._waited += seconds

    def stepped(self) -> None:
        """Count a step."""
        self._steps += 1

    def read(self, batch_size: int, steps_left: int) -> dict[str, float]:
        """The interval's figures. The next interval begins now."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        steps = max(self._steps, 1)
        values = {
            "images_per_second": batch_size * steps / elapsed,
            "data_wait": min(1.0, self._waited / elapsed),
            "seconds_left": steps_left * elapsed / steps,
        }
        self.restart()
        return values
