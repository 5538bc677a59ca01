"""What a run says while it runs: a progress bar (or plain lines), `metrics.jsonl`, TensorBoard if asked, skipped files by name."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from odis.errors import OdisError
from odis.train.distributed import Ranks
from odis.train.metrics import JsonLines, collapse_warning
from odis.types import Skipped


def peak_memory(device: torch.device) -> float:
    """Largest memory so far in GiB: the GPU's allocations, or this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        # Not getrusage: its maximum is inherited from the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**20
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Report:
    """Speaks for the first rank; other ranks only report what they skipped."""

    def __init__(self, out: Path, ranks: Ranks, *, total_steps: int, start_step: int, prototypes: int, tensorboard: bool) -> None:
        self.out, self.ranks, self.total_steps, self.prototypes = out, ranks, total_steps, prototypes
        self.console = Console(stderr=True)
        self._skipped: set[str] = set()
        self._bar: Progress | None = None
        self._writer: Any = None
        if not ranks.is_first:
            return
        self._lines = JsonLines(out / "metrics.jsonl", from_step=start_step)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as e:
                raise OdisError("train.tensorboard: tensorboard is not installed; run: pip install 'odis[tensorboard]'") from e
            self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=start_step + 1)
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn(),
                console=self.console,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=total_steps, completed=start_step, text="")
            self._bar.start()

    @property
    def skipped(self) -> int:
        """Files and objects this rank has skipped, each counted once."""
        return len(self._skipped)

    def skip(self, skipped: list[Skipped]) -> None:
        """Name each skipped file or object once, on the console and in `skipped.jsonl`."""
        new = {s.what: s for s in skipped if s.what not in self._skipped}
        self._skipped |= new.keys()
        for s in new.values():
            self.warn(f"skipped {s.what}: {s.why}")
            with (self.out / "skipped.jsonl").open("a") as f:
                f.write(json.dumps({"what": s.what, "why": s.why}) + "\n")

    def warn(self, message: str) -> None:
        self.console.print(f"[yellow]warning[/]: {message}", highlight=False, soft_wrap=True)

    def say(self, message: str) -> None:
        if self.ranks.is_first:
            self.console.print(message, highlight=False, soft_wrap=True)

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write one line of metrics after `step` steps."""
        if not self.ranks.is_first:
            return
        self._lines.write({"step": step, **values})
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if "loss" not in values:
            self.say(f"step {step}/{self.total_steps}  " + "  ".join(f"{name} {value:.1f}" for name, value in values.items()))
            return
        text = (
            f"loss {values.get('loss', float('nan')):.3f}  {values.get('images_per_second', 0):.1f} img/s  "
            f"wait {100 * values.get('data_wait', 0):.0f}%  {values.get('memory_gib', 0):.1f} GiB"
        )
        if self._bar is not None:
            self._bar.update(self._task, text=text)
        else:
            left = values.get("seconds_left", 0)
            self.say(f"step {step}/{self.total_steps}  {text}  {int(left // 60)}:{int(left % 60):02d} left")
        if (warning := collapse_warning(values, self.prototypes)) is not None:
            self.warn(warning)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._writer is not None:
            self._writer.close()


class Clock:
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
