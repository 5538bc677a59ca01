"""Several heads on one frozen network, trained by AdamW iteration by iteration; a training that is
interrupted goes on where it was kept.

Letters: B images, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from odis.evaluation.protocols.images.store import FeatureStore, model_key
from odis.evaluation.protocols.images.stream import read_steps
from odis.evaluation.protocols.training.iterated_settings import IteratedSettings
from odis.evaluation.protocols.training.kept_state import read_tensors, write_tensors
from odis.evaluation.runner import EvaluationRun
from odis.inference import Encoder
from odis.types import Skipped

T = TypeVar("T")


@dataclass(slots=True)
class Head:
    """One head, its optimizer and what it is trained with."""

    module: nn.Module
    optimizer: torch.optim.AdamW
    lr: float
    weight_decay: float

    def step(self, loss: Tensor, *, lr: float, beta1: float, clip: float | None = None) -> None:
        """One step down a loss.

        Args:
            loss: A scalar.
            lr: Learning rate of this iteration.
            beta1: AdamW's first beta.
            clip: Largest norm of the gradient, or None.
        """
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = lr, (beta1, group["betas"][1])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), clip)
        self.optimizer.step()


class IteratedHeads:
    """Heads that learn from the same batches.

    Args:
        heads: Modules on their device, with learning rate and weight decay of each.
        beta2: AdamW's second beta.

    Attributes:
        iteration: Iterations that are done.
        history: A row of numbers that the protocol keeps, one now and then.
    """

    def __init__(self, heads: Sequence[tuple[nn.Module, float, float]], beta2: float) -> None:
        self.heads = [
            Head(
                module,
                torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, beta2), weight_decay=decay),
                lr,
                decay,
            )
            for module, lr, decay in heads
        ]
        self.iteration = 0
        self.history: list[list[float]] = []

    def keep(self, path: Path) -> None:
        """Write the state, to go on from.

        Raises:
            DataError: The file cannot be written.
        """
        tensors: dict[str, Tensor] = {"iteration": torch.tensor(self.iteration)}
        if self.history:
            tensors["history"] = torch.tensor(self.history, dtype=torch.float64)
        for k, head in enumerate(self.heads):
            for name, value in head.module.state_dict().items():
                tensors[f"{k}.head.{name}"] = value
            for name, parameter in head.module.named_parameters():
                for part, kept in head.optimizer.state[parameter].items():
                    tensors[f"{k}.{part}.{name}"] = kept
        write_tensors(path, tensors)

    def resume(self, path: Path) -> None:
        """Go on from a saved state; without one, or if it is damaged, from the start."""
        found = read_tensors(path)
        if found is None:
            return
        for k, head in enumerate(self.heads):
            state = head.module.state_dict()
            head.module.load_state_dict({name: found[f"{k}.head.{name}"] for name in state})
            for name, parameter in head.module.named_parameters():
                kept: dict[str, Any] = {}
                for part in ("step", "exp_avg", "exp_avg_sq"):
                    if f"{k}.{part}.{name}" in found:
                        value = found[f"{k}.{part}.{name}"]
                        kept[part] = value if part == "step" else value.to(parameter.device)
                head.optimizer.state[parameter].update(kept)
        self.iteration = int(found["iteration"])
        self.history = found["history"].tolist() if "history" in found else []


def new_heads(
    settings: IteratedSettings, make: Callable[[], nn.Module], device: torch.device, beta2: float
) -> IteratedHeads:
    """A head for each learning rate and weight decay; every one starts alike, whatever was drawn before."""
    made = []
    for lr, decay in settings.heads:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            made.append((make().to(device), lr, decay))
    return IteratedHeads(made, beta2)


def state_file(
    settings: IteratedSettings, encoder: Encoder, protocol: str, aside: Sequence[str] = (), **key: Any
) -> Path | None:
    """Where the heads of a model are kept, if anywhere.

    Args:
        settings: They depend on all of these, but not on where and how often they are kept.
        encoder: The model.
        protocol: Its name.
        aside: More settings that they do not depend on.
        key: What else they depend on.
    """
    if settings.cache is None:
        return None
    left_out = {"cache", "keep_every", *aside}
    asked = {name: value for name, value in settings.as_dict().items() if name not in left_out}
    folder = FeatureStore(settings.cache, asked | {"protocol": protocol} | key | model_key(encoder)).folder
    return None if folder is None else folder / "heads.safetensors"


def train_iterations(
    run: EvaluationRun,
    heads: IteratedHeads,
    views: Dataset[T | Skipped],
    settings: IteratedSettings,
    what: str,
    *,
    step: Callable[[list[T]], None],
    after: Callable[[int], None] | None = None,
    saved: Path | None = None,
) -> int:
    """Train from the iteration on that the heads have reached; how many views could not be read.

    Args:
        run: Is told what was skipped.
        heads: What is trained.
        views: Those of all steps that are left.
        settings: How many steps, of how many views, and how often the state is kept.
        what: What the progress is called.
        step: One step of all heads on the views that could be read.
        after: Called with the number of steps after each.
        saved: Where the state is kept.
    """
    total, missed = settings.iterations, 0
    for batch in read_steps(run, views, settings.batch):
        if batch:
            step(batch)
        missed += settings.batch - len(batch)
        heads.iteration += 1
        now = heads.iteration
        if after is not None:
            after(now)
        if saved is not None and (now % settings.keep_every == 0 or now == total):
            heads.keep(saved)
        if run.progress is not None:
            run.progress(what, now, total)
    return missed


def image_at(place: int, count: int, seed: int) -> int:
    """Which of `count` images comes at a place of an endless series of permutations."""
    return int(_permutation(seed, place // count, count)[place % count])


@lru_cache(maxsize=4)
def _permutation(seed: int, number: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 3, number]).permutation(count)
