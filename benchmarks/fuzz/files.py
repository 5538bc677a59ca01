"""Files that odis writes and users edit or exchange: recipes, the config and metrics of a run, models with
their cards, checkpoints. Adding one takes a function, what is checked of it, and its line in `FILES`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fuzz.sets import DataSet
from odis.config.checks import check
from odis.config.options import load_recipe
from odis.config.training import ModelConfig, PretrainConfig, as_dict
from odis.errors import DataError

# What imports torch is imported where it is used: inputs of other kinds do not wait for it.

_CONFIG = PretrainConfig(data="x.parquet")
_RESOLVED = {"images": 4, "fingerprints": {"data": "0123456789abcdef"}}
_MODEL = ModelConfig("vit_tiny_patch16_224", patch_size=8, embed_dim=16, depth=1, num_heads=2)
_CARD = {
    "model": as_dict(PretrainConfig(model=_MODEL))["model"], "image_size": 16, "mean": [0.5] * 3,
    "std": [0.5] * 3, "mask_coverage": 0.5, "mask_margin": 0, "provenance": "annotated", "step": 4,
}  # fmt: skip
_LAST = 6  # step that a run of `metrics` is resumed from

_made: dict[str, Any] = {}


def _vit() -> Any:
    import torch

    from odis.backbones.build import build_vit

    if "vit" not in _made:
        torch.manual_seed(0)
        _made["vit"] = build_vit(_MODEL, 16, drop_path=0.0)
    return _made["vit"]


def recipe(root: Path) -> None:
    """Every setting, as `config.yaml` has them."""
    (root / "r.yaml").write_text(yaml.safe_dump(as_dict(_CONFIG), sort_keys=False))


def check_recipe(root: Path, out: Path, rng: np.random.Generator) -> str:
    """What is read is what the file says."""
    found = as_dict(load_recipe(root / "r.yaml"))
    check(load_recipe(root / "r.yaml"))
    said = yaml.safe_load((root / "r.yaml").read_text(encoding="utf-8-sig"))
    wrong = [
        f"{section}.{key} is {value!r}, the file says {said[section][key]!r}"
        for section, settings in found.items()
        for key, value in (settings.items() if isinstance(settings, dict) else ())
        if isinstance(said.get(section), dict) and key in said[section]
        if not _same(value, said[section][key])
    ]
    return "; ".join(wrong[:3])


def _same(read: Any, said: Any) -> bool:
    """Whether a setting is what the file says; a number may stand there as text."""
    if isinstance(read, list | tuple) and isinstance(said, list):
        return len(read) == len(said) and all(map(_same, read, said))
    if isinstance(read, int | float) and isinstance(said, str):
        try:
            return read == float(said)
        except ValueError:
            return str(read) == said
    return bool(read == said or str(read) == str(said) or read != read)


def config(root: Path) -> None:
    """The folder of a run."""
    from odis.train.run_folder import prepare

    prepare(root / "run", _CONFIG, _RESOLVED)


def check_config(root: Path, out: Path, rng: np.random.Generator) -> str:
    """A run is entered again with the settings in it, and with no others."""
    from odis.train.run_folder import prepare, read_config, recorded_precision

    folder = root / "run"
    record = read_config(folder)
    recorded_precision(folder)
    (out / "again.yaml").write_text(yaml.safe_dump(record["config"]))
    again = load_recipe(out / "again.yaml")
    check(again)
    prepare(folder, again, _RESOLVED)
    return "" if as_dict(again) == read_config(folder)["config"] else "another config was written"


def metrics(root: Path) -> None:
    """Metrics of nine steps and a k-NN."""
    lines = [{"step": step, "loss": 1 / step} for step in range(1, 10)]
    lines.insert(4, {"step": 4, "knn/crop@20": 50.0})
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def check_metrics(root: Path, out: Path, rng: np.random.Generator) -> str:
    """A resume keeps lines of steps that were taken, and no others; each is a record."""
    from odis.train.metrics import JsonLines

    path = root / "metrics.jsonl"
    if not path.is_file():
        return ""
    before = path.read_text(errors="replace").splitlines()
    lines = JsonLines(path, from_step=_LAST)
    lines.write({"step": _LAST + 1, "loss": 0.5})
    found = lines.read()
    if found[-1] != {"step": _LAST + 1, "loss": 0.5}:
        return "the line that was written is not read"
    if any(not isinstance(one["step"], int) or one["step"] > _LAST for one in found[:-1]):
        return "a line of a later step was kept"
    kept = path.read_text(errors="replace").splitlines()[:-1]
    return "" if set(kept) <= set(before) else "a line was changed"


def card(root: Path) -> None:
    """A model, and its checkpoint."""
    from odis.backbones.saved import save_model

    save_model(root / "model.safetensors", _vit(), _CARD)
    _save(root, 4)


def _save(folder: Path, step: int) -> None:
    from odis.train.checkpoint import save_checkpoint

    teacher = {f"backbone.{name}": value for name, value in _vit().state_dict().items()}
    state = {"step": step, "student": teacher, "teacher": teacher, "optimizer": {}, "card": _CARD}
    save_checkpoint(folder, step, state, keep=9)


def check_card(root: Path, out: Path, rng: np.random.Generator) -> str:
    """What is read has the weights that were written, whatever else of the file is other."""
    from odis.backbones.saved import load_model, load_teacher

    for read, name in ((load_model, "model.safetensors"), (load_teacher, "step-00000004.pt")):
        found = read(root / name)[0].state_dict()
        if any(not found[key].equal(value) for key, value in _vit().state_dict().items()):
            return f"{name} was read with other weights"
    return ""


def checkpoint(root: Path) -> None:
    """Two checkpoints of a run."""
    for step in (2, 4):
        _save(root, step)


def check_checkpoint(root: Path, out: Path, rng: np.random.Generator) -> str:
    """Of two checkpoints the newest that is whole is taken, as it was written."""
    from odis.train.checkpoint import load_checkpoint, newest_whole

    there = [step for step in (2, 4) if (root / f"step-{step:08d}.pt").is_file()]
    whole = []
    for step in there:
        try:
            load_checkpoint(root / f"step-{step:08d}.pt")
            whole.append(step)
        except DataError:
            continue
    newest = newest_whole(root)
    state = None if newest is None else newest.state
    if (None if state is None else state["step"]) != (max(whole) if whole else None):
        return f"of {there}, whole {whole}, {state and state['step']} was taken"
    if newest is None or state is None:
        return ""
    if len(newest.damaged) < sum(step > state["step"] for step in there):
        return "a damaged checkpoint was passed over in silence"
    same = all(state["teacher"][f"backbone.{k}"].equal(v) for k, v in _vit().state_dict().items())
    return "" if same else "another state was read"


FILES = {
    "recipe": DataSet("recipe", recipe, check=check_recipe),
    "config": DataSet("config", config, check=check_config),
    "metrics": DataSet("metrics", metrics, check=check_metrics),
    "card": DataSet("card", card, check=check_card),
    "checkpoint": DataSet("checkpoint", checkpoint, check=check_checkpoint),
}
"""Files of odis by name, besides the layouts of annotations."""
