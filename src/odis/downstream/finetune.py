"""`odis.finetune`: starting points trained on a task, each by several seeds, and compared."""

from __future__ import annotations

import contextlib
import json
import re
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from odis import __version__
from odis.config.arguments import with_values
from odis.config.strict_yaml import read_yaml
from odis.config.wording import did_you_mean
from odis.downstream.compare import compare
from odis.downstream.settings import TASKS, FinetuneSettings
from odis.downstream.starts import Start, open_starts
from odis.downstream.task import Reading, Task, TaskAnswers
from odis.downstream.training import finetune_start
from odis.errors import ConfigError, DataError, OdisError, OdisWarning
from odis.evaluation.evaluation import Progress
from odis.inference import Encoder
from odis.machine.allocator import keep_freed_memory
from odis.machine.devices import describe_device, resolve_device, resolve_precision
from odis.machine.files import is_temporary, remove_leftovers, write_json_whole, write_text_whole
from odis.machine.locks import sole_owner
from odis.machine.ranks import Ranks, launch
from odis.train.stop import stop_signals
from odis.types import Skipped

RESULTS, RECORD = "results.json", "config.yaml"

StartingPoint = str | Path | Encoder
"""`random`, `random:SOURCE`, `before:RUN`, or what `odis.load` takes or returned."""


def finetune(
    task: str,
    models: StartingPoint | Sequence[StartingPoint],
    out: str | Path,
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fine-tune backbones on a task and compare them, as `odis finetune` does; the same call resumes.

    `odis.finetune("detection", ["random", "runs/coco"], "coco-boxes", train="coco-train.parquet",
    test="coco-val.parquet", seeds=[0, 1, 2])`

    Args:
        task: `detection`, `instances`, `semantic` or `classification`.
        models: Starting points: what `odis.load` takes (a run, a checkpoint, `timm:NAME`), `before:RUN` for
            the weights that a run of odis began from, or `random`, the architecture of the first other one.
        out: Folder of the comparison. It gets one folder for each starting point and seed, with the
            fine-tuned `model.safetensors`, and `results.json`. A later call may add starting points and
            seeds.
        progress: Called with what is measured, how many images were, and how many there are.
        settings: Options of the command, `_` for `-`: `train`, `test`, `size`, `steps`, `lr`, `layer_decay`,
            `frozen`, `seeds`.

    Returns:
        What `results.json` holds: `rows` with the scores of each starting point, in percent, mean over seeds,
        95 % intervals over test images, and `differences` to the first one.

    Raises:
        OdisError: For an unknown task or setting, data or starting points that cannot be used, or steps that
            are not finite.
    """
    if not isinstance(task, str) or task not in TASKS:
        raise OdisError(
            f"{task}: no such task{did_you_mean(str(task), list(TASKS))}; there are {', '.join(TASKS)}"
        )
    data, of_data = with_values(TASKS[task].data, settings)
    chosen, of_settings = with_values(TASKS[task].settings, settings)
    for key in settings:
        if key not in (known := [*of_data, *of_settings]):
            close = did_you_mean(key, known)
            raise OdisError(f"{key}: {task} has no such setting{close}; it has {', '.join(known)}")
    if not isinstance(out, str | Path):
        raise OdisError(f"out: is {out!r}, must be a path")
    sources = [models] if isinstance(models, str | Path | Encoder) else list(models)
    return run_finetuning(task, sources, Path(out), data, chosen, progress)


def run_finetuning(
    name: str,
    sources: Sequence[StartingPoint],
    out: Path,
    data: Any,
    settings: FinetuneSettings,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """See `finetune`, with data and settings as dataclasses."""
    settings.check()
    if launch().world_size > 1:
        raise OdisError("fine-tuning runs in one process; start it without torchrun")
    if out.is_file():
        raise DataError(f"{out}: is a file; a comparison is a folder")
    device = resolve_device(settings.read.device)
    precision = resolve_precision(settings.read.precision, device)
    task = make_task(name, data, settings)
    starts = open_starts(sources)
    for start in starts:
        patch = start.build(0).patch_embed.patch_size
        task.check(start, int(patch[0]))
    with sole_owner(out, inside=True):
        remove_leftovers(out)
        _enter(out, task, data, precision.name)
        for note in task.notes:
            warnings.warn(note, OdisWarning, stacklevel=2)
        if device.type == "cpu":
            keep_freed_memory()
        here = Ranks(0, 1, device)
        skipped: dict[tuple[str, str], None] = {}

        def skip(items: Sequence[Skipped]) -> None:
            skipped.update({(one.what, one.why): None for one in items})

        reading = Reading(settings.read, device, precision.dtype, skip, progress)
        measured: dict[str, list[TaskAnswers]] = {start.source: [] for start in starts}
        seconds: dict[str, float] = {start.source: 0.0 for start in starts}
        with stop_signals(here) as stop:
            # Seeds outside: each round compares all starting points, should there be no time for more.
            for seed in settings.seeds:
                for start in starts:
                    began = time.perf_counter()
                    folder = out / folder_of(start, seed)
                    answers = finetune_start(task, start, seed, folder, reading, here, stop)
                    measured[start.source].append(answers)
                    skip(_named_in(folder / "skipped.jsonl"))
                    seconds[start.source] += time.perf_counter() - began
                found = results(task, starts, measured, skipped, precision.name, seconds)
                found |= {"device": describe_device(device), "complete": seed == settings.seeds[-1]}
                write_json_whole(out / RESULTS, found)
    return found


def make_task(name: str, data: Any, settings: Any) -> Task:
    """The task of a name.

    Raises:
        OdisError: Data are missing.
        DataError: They cannot be used.
    """
    if name == "semantic":
        from odis.downstream.semantic import SemanticTask

        return SemanticTask(data, settings)
    if name == "classification":
        from odis.downstream.classification import ClassificationTask

        return ClassificationTask(data, settings)
    from odis.downstream.detection import DetectionTask

    return DetectionTask(data, settings, masks=name == "instances")


def folder_of(start: Start, seed: int) -> str:
    """The folder of a fine-tuning: it tells architectures, weights and seeds apart, whatever their paths."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(Path(start.source).parts[-2:])).strip("-.")[-60:]
    return f"{words or 'model'}-{start.fingerprint}-seed{seed}"


def results(
    task: Task,
    starts: Sequence[Start],
    measured: dict[str, list[TaskAnswers]],
    skipped: dict[tuple[str, str], None],
    precision: str,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """What `results.json` holds, in the form of the results of an evaluation."""
    settings = task.settings
    scores, differences = compare({one.source: measured[one.source] for one in starts}, settings.resamples)
    rows = [
        {
            "model": start.source,
            "mode": "frozen" if settings.frozen else "fine-tuned",
            "scores": {name: score.as_dict() for name, score in scores[start.source].items()},
            "provenance": start.provenance,
            "recipe": start.recipe,
            "step": start.step,
            "size": settings.size,
            "precision": precision,
            "seconds": round(seconds[start.source], 1),
        }
        for start in starts
    ]
    first = starts[0].source
    return {
        "evaluation": f"finetune-{task.name}",
        "odis_version": __version__,
        "settings": settings.as_dict() | {"seeds": list(settings.seeds)[: len(measured[starts[0].source])]},
        **task.sides,
        "rows": rows,
        "differences": [
            {"model": name, "less": first, "scores": {what: one.as_dict() for what, one in of_one.items()}}
            for name, of_one in differences.items()
        ],
        "left_out": [],
        "notes": task.notes,
        "skipped": [{"what": what, "why": why} for what, why in skipped],
    }


def _named_in(file: Path) -> list[Skipped]:
    """Files and objects that a training, or its measurement, left out."""
    if not file.exists():
        return []
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [Skipped(one["what"], one["why"]) for one in lines]


def _enter(out: Path, task: Task, data: Any, precision: str) -> None:
    """Write what is compared to the folder, or hold it against what is there.

    Raises:
        ConfigError: The folder holds a comparison with other settings or data.
        DataError: It holds something else.
    """
    record: dict[str, Any] = {
        "task": task.name,
        "settings": task.settings.as_dict() | {"precision": precision},
        "data": task.fingerprint(),
        "classes": task.classes,
    }
    path = out / RECORD
    if not path.exists():
        if any(not is_temporary(one) and one.name != ".lock" for one in out.iterdir()):
            raise DataError(f"{out}: exists and is no comparison (no {RECORD}); give an empty or new folder")
        about = {name: getattr(data, name) for name in data.__dataclass_fields__}
        about = {name: list(v) if isinstance(v, tuple) else v for name, v in about.items()}
        whole = record | {"paths": about, "odis_version": __version__}
        write_text_whole(path, yaml.safe_dump(whole, sort_keys=False))
        return
    before = None
    with contextlib.suppress(OSError, ValueError):
        before = read_yaml(path.read_bytes())
    if not isinstance(before, dict) or not isinstance(before.get("settings"), dict):
        raise DataError(f"{path}: not the record of a comparison")
    if before.get("task") != record["task"]:
        raise ConfigError(f"{out}: holds a comparison of {before.get('task')}; give another --out")
    was, now = before["settings"], record["settings"]
    changed = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if changed:
        shown = "; ".join(f"{name}: {was.get(name)} -> {now.get(name)}" for name in changed)
        raise ConfigError(
            f"{out}: holds a comparison with other settings ({shown}); give another --out, or the "
            f"old settings"
        )
    if any(before.get(name) != record[name] for name in ("data", "classes")):
        raise ConfigError(f"{out}: holds a comparison on other data; give another --out, or the old data")
