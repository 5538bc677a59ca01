"""A run's folder and its `config.yaml`: what was run, and whether a command may resume it."""

from __future__ import annotations

import platform
import subprocess
import warnings
from pathlib import Path
from typing import Any

import yaml

from odis import __version__
from odis.config.renamed import translate
from odis.config.training import PretrainConfig, as_dict
from odis.errors import ConfigError, DataError, OdisWarning
from odis.machine.devices import DTYPES
from odis.machine.files import write_text_whole

# Settings that a resume may change: they do not change what is computed.
_FREE = {
    "val",
    "strict",
    "loader.workers",
    "loader.prefetch",
    "loader.keep",
    "loader.render",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.knn_every",
    "train.tensorboard",
    "train.nonfinite_limit",
}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


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


def prepare(out: Path, config: PretrainConfig, resolved: dict[str, Any]) -> None:
    """Create the run in `out`, or enter it again, and write its `config.yaml`.

    Args:
        out: The run's folder.
        config: The run's config; `train.precision` is no longer `auto`.
        resolved: What the settings come to on this data and machine.

    Raises:
        ConfigError: if `out` holds a run with other settings or another number of images. The message lists
            the differences.
        DataError: if `out` holds something else.
    """
    path = out / "config.yaml"
    new = as_dict(config)
    if path.exists():
        record = read_config(out)
        before, now = _flat(record["config"]), _flat(new)
        changed = [
            k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and k not in _FREE
        ]
        if changed:
            shown = "; ".join(f"{k}: {before.get(k)} -> {now.get(k)}" for k in changed)
            raise ConfigError(
                f"{out}: holds a run with other settings ({shown}); give another --out, or the old "
                f"settings to resume it"
            )
        images = (record.get("resolved") or {}).get("images")
        if images != resolved["images"]:
            there = f"{config.data} now has {resolved['images']}"
            raise ConfigError(
                f"{out}: holds a run on {images} images, but {there}; give another --out, or the old data"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out}: exists and is not a run (no config.yaml); give an empty or new folder with --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    record = {"config": new, "resolved": resolved, "versions": _versions(), "git": _git_state()}
    write_text_whole(path, yaml.safe_dump(record, sort_keys=False))


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
        record = yaml.safe_load(path.read_text())
    except FileNotFoundError as e:
        raise DataError(f"{out}: not a run folder: it has no config.yaml") from e
    except (OSError, yaml.YAMLError) as e:
        raise DataError(f"{path}: cannot be read: {e}") from e
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise DataError(f"{path}: not the config of a run")
    record["config"], changes = translate(record["config"])
    return record, changes
