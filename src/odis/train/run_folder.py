"""A run's folder and its `config.yaml`: what was run, and whether a command may resume it."""

from __future__ import annotations

import platform
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from odis import __version__
from odis.config.renamed import translate
from odis.config.strict_yaml import read_yaml
from odis.config.training import PretrainConfig, as_dict
from odis.config.wording import counted
from odis.errors import ConfigError, DataError, OdisWarning
from odis.machine.devices import DTYPES
from odis.machine.files import is_temporary, write_text_whole
from odis.train.checkpoint import checkpoints, newest_step, remove_checkpoint, require_whole, step_of
from odis.train.schedules import Schedules

FREE = {
    "val": "measures, and trains nothing",
    "strict": "stops a run or does not",
    "loader.workers": "how batches are read",
    "loader.prefetch": "how batches are read",
    "loader.keep": "how batches are read",
    "loader.fetch_cache": "how batches are read",
    "loader.render": "how batches are read",
    "model.grad_checkpointing": "rounding",
    "root": "where the images are",
    "train.device": "rounding",
    "train.threads": "rounding",
    "train.compile": "rounding",
    "train.parallel": "rounding",
    "train.log_every": "what is written",
    "train.checkpoint_every": "what is written",
    "train.keep": "what is written",
    "train.loggers": "what is written",
    "train.pictures_every": "what is written",
    "train.knn_every": "when it is measured",
    "train.nonfinite_limit": "when it stops",
}
"""Settings that a resume may change, and what they change; what is trained stays the same, to rounding."""

_BY_CONTENT = ("data", "model.weights")  # compared by their fingerprints, where both are known
_OF_RESTART = ("optim.", "loss.", "train.precision")
"""What the settings that a restart may change begin with."""

_LENGTH = {"train.epochs", "train.steps"}  # compared by the schedules


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "torchvision", "timm", "numpy", "pyarrow")
    return {"odis": __version__, "python": platform.python_version(), **{n: version(n) for n in names}}


def _git_state() -> str | None:
    """Commit of the checkout that odis runs from, `+changes` if it was edited; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "."],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if dirty.strip() else "")


def prepare(
    out: Path, config: PretrainConfig, resolved: dict[str, Any], restart_from: int | None = None
) -> None:
    """Create the run in `out`, or enter it again, and write its `config.yaml`.

    A restart removes the checkpoints and found objects behind its step, and is noted in `config.yaml` under
    `restarts`. The restart that was noted last is not done again.

    Args:
        out: The run's folder.
        config: The run's config; `train.precision` is no longer `auto`.
        resolved: What the settings come to on this data and machine.
        restart_from: The step to go on after, with settings of `optim`, `loss` and `train.precision` that may
            be others; None goes on from the newest checkpoint.

    Raises:
        ConfigError: if `out` holds a run with other settings, on other data, or whose schedules do not go on
            to the length asked for: the message lists the differences. Or if there is no checkpoint of
            `restart_from`.
        DataError: if `out` holds something else.
    """
    path = out / "config.yaml"
    new, restarts = as_dict(config), []
    if path.exists():
        before = read_config(out)
        restarts = list(before.get("restarts") or [])
        changed = _restart_changes(before, new)
        if restart_from is None or (restarts and not changed and restarts[-1]["step"] == restart_from):
            _compare(out, before, config, resolved)
        else:
            _compare(out, before, config, resolved, may_change=tuple(changed))
            _forget_after(out, restart_from)
            restarts.append({"step": restart_from, "changed": changed})
    elif restart_from is not None:
        raise ConfigError(f"restart-from: {out} holds no run to restart")
    elif out.exists() and (
        not out.is_dir() or any(not is_temporary(one) and one.name != ".lock" for one in out.iterdir())
    ):
        raise DataError(
            f"{out}: exists and is not a run (no config.yaml); give an empty or new folder with --out"
        )
    record: dict[str, Any] = {"config": new, "resolved": resolved}
    record |= {"restarts": restarts} if restarts else {}
    record |= {"versions": _versions(), "git": _git_state()}
    write_text_whole(path, yaml.safe_dump(record, sort_keys=False))


def _restart_changes(record: dict[str, Any], config: dict[str, Any]) -> dict[str, list[Any]]:
    """Settings that only a restart may change: before, and now."""
    before, now = flat(record["config"]), flat(config)
    return {
        name: [before.get(name), value]
        for name, value in now.items()
        if name.startswith(_OF_RESTART) and before.get(name) != value
    }


def _forget_after(out: Path, step: int) -> None:
    """Remove the checkpoints behind a step, and the objects that their teachers found.

    Raises:
        ConfigError: There is no checkpoint of that step.
        DataError: It is damaged.
    """
    saved = checkpoints(out / "checkpoints")  # of a step perhaps two: a file, and a folder of shards
    if not (there := [path for path in saved if step_of(path) == step]):
        steps = ", ".join(map(str, sorted({step_of(path) for path in saved})))
        found = f"those of {steps}" if steps else "none"
        raise ConfigError(f"restart-from: {out} has no checkpoint of step {step}; it has {found}")
    require_whole(there)
    found_objects = (out / "objects").glob("step-????????.parquet")
    for path in [path for path in (*saved, *found_objects) if step_of(path) > step]:
        remove_checkpoint(path)


def _compare(
    out: Path,
    record: dict[str, Any],
    config: PretrainConfig,
    resolved: dict[str, Any],
    may_change: tuple[str, ...] = (),
) -> None:
    """Refuse to resume a run as what it is not.

    Args:
        out: The run's folder.
        record: Its `config.yaml`.
        config: The config to resume it with.
        resolved: As of `prepare`; `fingerprints`, if they are there, tell data and weights apart. A run of an
            earlier version has none, and is compared by paths and the number of images.
        may_change: Settings that may differ.

    Raises:
        ConfigError: See `prepare`.
    """
    before, now = flat(record["config"]), flat(as_dict(config))
    known = record.get("resolved") or {}
    were, are = known.get("fingerprints") or {}, resolved.get("fingerprints") or {}
    same = {name for name in _BY_CONTENT if name in were and were.get(name) == are.get(name)}
    changed = [
        name
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
        and name not in {*same, *may_change}
        and not _is_free(name, before, now)
    ]
    if _LENGTH & set(changed):
        why = _length_fault(out, before, config, resolved["images"])
        if why is not None and set(changed) <= _LENGTH:
            raise ConfigError(f"{out}: {why}")
        if why is None:
            changed = [name for name in changed if name not in _LENGTH]
    if changed:
        shown = "; ".join(f"{k}: {before.get(k)} -> {now.get(k)}" for k in changed)
        # A record has all settings of its version.
        other = "finish it with the version of odis it began with" if set(changed) - before.keys() else ""
        raise ConfigError(
            f"{out}: holds a run with other settings ({shown}); give another --out, or "
            f"{other or 'the old settings to resume it'}"
        )
    images = known.get("images")
    if images != resolved["images"]:
        there = f"{config.data} now has {resolved['images']}"
        raise ConfigError(
            f"{out}: holds a run on {counted(known.get('images', 0), 'image')}, but {there}; give another "
            f"--out, or the old data"
        )
    for name, what in (("data", "its images, boxes or masks"), ("model.weights", "its content")):
        if name in were and were[name] != are.get(name, were[name]):
            raise ConfigError(
                f"{out}: holds a run with another {name}: {now[name]} has changed since ({what}); give "
                f"another --out, or what it was"
            )
    if were.get("val") != are.get("val") and "val" in were and "val" in are:
        said = f"{out}: val is another index than before; k-NN scores do not compare with those so far"
        warnings.warn(said, OdisWarning, stacklevel=3)


def _is_free(name: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a setting may change from one part of a run to the next."""
    never = not before.get("objects.rediscover_every") and not now.get("objects.rediscover_every")
    return name in FREE or (never and name.startswith("discover."))


def _length_fault(out: Path, before: dict[str, Any], config: PretrainConfig, images: int) -> str | None:
    """Why the run cannot have the length that `config` asks for; None if its steps so far are the same."""
    taken = newest_step(out / "checkpoints")
    epochs = float(before.get("train.epochs", config.train.epochs))
    train = replace(config.train, epochs=epochs, steps=before.get("train.steps"))
    old, new = Schedules(replace(config, train=train), images), Schedules(config, images)
    if all(old.at(step) == new.at(step) for step in range(taken)):
        return None
    return (
        f"holds a run of {counted(old.total_steps, 'step')}, {taken} of them taken, whose learning rate, "
        f"weight decay and teacher momentum follow curves that end there: it cannot become one of "
        f"{new.total_steps}; to train on from its weights, give another --out and --model.weights "
        f"{out / 'model.safetensors'}"
    )


def read_config(out: Path) -> dict[str, Any]:
    """`config.yaml` of a run. Old names of settings are translated, with one warning.

    Raises:
        DataError: if it is missing, or not the config of a run.
    """
    record, changes = _read(out)
    if changes:
        message = f"{out / 'config.yaml'}: has settings of an earlier version: {'; '.join(changes)}"
        warnings.warn(message, OdisWarning, stacklevel=2)
    return record


def recorded_precision(out: Path) -> str | None:
    """The precision of the run in `out`; None without a run, or if it is no precision of today.

    Raises:
        DataError: if `config.yaml` is not the config of a run.
    """
    if not (out / "config.yaml").exists():
        return None
    train = _read(out)[0]["config"].get("train")
    precision = train.get("precision") if isinstance(train, dict) else None
    return precision if precision in DTYPES else None


def _read(out: Path) -> tuple[dict[str, Any], list[str]]:
    path = out / "config.yaml"
    try:
        record = read_yaml(path.read_bytes())
    except FileNotFoundError as e:
        raise DataError(f"{out}: not a run folder: it has no config.yaml") from e
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read: {e}") from e
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise DataError(f"{path}: not the config of a run")
    if not isinstance(record.get("resolved") or {}, dict) or not _are_restarts(record.get("restarts") or []):
        raise DataError(f"{path}: not the config of a run: its resolved or restarts are damaged")
    record["config"], changes = translate(record["config"])
    return record, changes


def _are_restarts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("step"), int) for one in value
    )
