"""What a run says while it runs: a progress bar (or plain lines), `metrics.jsonl`, TensorBoard if asked,
skipped files by name.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.text import Text

from odis.errors import OdisError
from odis.machine.progress import ProgressBar, error_console
from odis.machine.ranks import Ranks, gather_over_ranks
from odis.train.metrics import JsonLines, collapse_warning
from odis.types import Skipped


class RunLog:
    """Speaks for the first rank, and for all of them about what they skipped and what was not finite."""

    def __init__(
        self,
        out: Path,
        ranks: Ranks,
        *,
        total_steps: int,
        start_step: int,
        prototypes: int,
        tensorboard: bool,
    ) -> None:
        self.out, self.ranks, self.total_steps, self.prototypes = out, ranks, total_steps, prototypes
        self.console = error_console()
        self._found: list[tuple[int, Skipped]] = []  # skipped on this rank, not yet named; with the step
        self._skipped: set[str] = set()
        self._bar = ProgressBar(self.console, keep=True, shown=ranks.is_first)
        self._writer: Any = None
        if not ranks.is_first:
            return
        self._lines = JsonLines(out / "metrics.jsonl", from_step=start_step)
        self._skipped_lines = JsonLines(out / "skipped.jsonl", from_step=start_step)
        self._skipped |= {record["what"] for record in self._skipped_lines.read()}
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as e:
                raise OdisError(
                    "train.tensorboard: tensorboard is not installed; run: pip install 'odis[tensorboard]'"
                ) from e
            self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=start_step + 1)
        self._bar("step", start_step, total_steps)
        self._bar.start()

    @property
    def skipped(self) -> int:
        """Files and objects skipped in this run, each counted once: known to the first rank, as of the last
        `name_skipped`.
        """
        return len(self._skipped)

    def skip(self, step: int, skipped: list[Skipped]) -> None:
        """These were passed over on the way to step number `step`; several ranks name what they found when
        `name_skipped` is called.
        """
        self._found += [(step, s) for s in skipped]
        if not self.ranks.distributed:
            self.name_skipped()

    def name_skipped(self) -> None:
        """Name what any rank has skipped, each file or object once, on the console and in `skipped.jsonl`.
        All ranks must call it.
        """
        found, self._found = gather_over_ranks(self._found), []
        if not self.ranks.is_first:
            return
        for step, s in found:
            if s.what not in self._skipped:
                self._skipped.add(s.what)
                self.warn(f"skipped {s.what}: {s.why}")
                self._skipped_lines.write({"step": step, "what": s.what, "why": s.why})

    def nonfinite(self, step: int, images: list[str]) -> None:
        """Name the images of a step that was not taken: the first on the console, all in
        `nonfinite.jsonl`.
        """
        shown = ", ".join(images[:8]) + (
            f" and {len(images) - 8} more, named in nonfinite.jsonl" if len(images) > 8 else ""
        )
        self.warn(f"step {step}: loss or gradient is not finite; the step was not taken; images: {shown}")
        with (self.out / "nonfinite.jsonl").open("a") as f:  # a log, like those of `JsonLines`
            f.write(json.dumps({"step": step, "images": images}) + "\n")

    def warn(self, message: str) -> None:
        self.console.print(Text.assemble(("warning", "yellow"), f": {message}"), soft_wrap=True)

    def say(self, message: str) -> None:
        if self.ranks.is_first:
            self.console.print(message, soft_wrap=True)

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self._bar("step", step, self.total_steps)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write one line of metrics after `step` steps."""
        if not self.ranks.is_first:
            return
        self._lines.write({"step": step, **values})
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if "loss" not in values:
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
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()


class Throughput:
    """Images/s, share of time spent waiting for data, and time left, over one log interval."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._steps = 0

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def stepped(self) -> None:
        self._steps += 1

    def read(self, batch_size: int, steps_left: int) -> dict[str, float]:
        """The interval's figures; the next one starts now."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        steps = max(self._steps, 1)
        values = {
            "images_per_second": batch_size * steps / elapsed,
            "data_wait": min(1.0, self._waited / elapsed),
            "seconds_left": steps_left * elapsed / steps,
        }
        self.restart()
        return values
