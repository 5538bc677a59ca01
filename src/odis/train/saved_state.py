"""The state of a run on disk: what is kept, what is published, and where a later call goes on."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from odis import __version__
from odis.backbones.build import build_vit
from odis.backbones.published import start_record
from odis.backbones.saved import save_model
from odis.config.pixels import PixelFormat
from odis.config.training import PretrainConfig, as_dict
from odis.errors import ConfigError, DataError
from odis.machine.files import told_if_slow
from odis.machine.shards import local, map_tensors, shard_like, whole_state
from odis.method.vit import ObjectViT
from odis.train.checkpoint import newest_whole, save_checkpoint, save_sharded, set_aside
from odis.train.shard_files import Target
from odis.train.update import TrainState

_PARTS = ("student", "teacher", "optimizer", "centers", "scaler")


def is_good(run: TrainState) -> bool:
    """Whether every weight, center and moment is finite: a state that can be trained on and published. All
    ranks call it, since each may hold a part only.
    """
    here = map_tensors([getattr(run, name).state_dict() for name in _PARTS], local)
    return not run.ranks.any(not are_finite(here, run.ranks.device))


def are_finite(states: Any, device: torch.device) -> bool:
    """Whether every number in some state dicts, which lie on this device, is finite."""
    checks = [torch.isfinite(t).all().to(device) for t in _tensors(states) if t.is_floating_point()]
    return bool(torch.stack(checks).all())


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for one in inner for tensor in _tensors(one)]


def save_state(run: TrainState, out: Path) -> None:
    """Write the state as a checkpoint, and the teacher's backbone as `model.safetensors`. All ranks call it.

    Raises:
        DataError: if it cannot be written.
    """
    state: dict[str, Any] = {name: getattr(run, name).state_dict() for name in _PARTS}
    state |= {
        "step": run.step,
        "nonfinite": run.nonfinite,
        "meters": run.meters.state_dict(run.ranks),
        "config": as_dict(run.config),
        "card": model_card(run),
        "odis_version": __version__,
    }
    slow = told_if_slow(out, f"step {run.step}") if run.ranks.is_first else contextlib.nullcontext()
    with slow:
        backbone, folder, keep = whole_backbone(run), out / "checkpoints", run.config.train.keep
        # The model first: if the run is killed in between, the resume writes it again with the checkpoint.
        if backbone is not None and run.ranks.is_first:
            save_model(out / "model.safetensors", backbone, model_card(run))
        if run.sharded:
            save_sharded(folder, run.step, state, keep, run.ranks)
        elif run.ranks.is_first:
            save_checkpoint(folder, run.step, state, keep)
        run.ranks.barrier()


def restore_state(run: TrainState, out: Path) -> list[str]:
    """Take over the state of the newest checkpoint that is whole, if there is one. All ranks call it.

    Args:
        run: Gets the state.
        out: The run's folder. Damaged checkpoints get another name.

    Returns:
        A line about each damaged checkpoint.

    Raises:
        DataError: if there are checkpoints and none is whole, or of a run with other settings.
    """
    folder = out / "checkpoints"
    newest = newest_whole(folder, target=_places(run), ranks=run.ranks)
    if newest is None:
        return []
    state, path = newest.state, newest.path
    try:
        for name in _PARTS:
            part = getattr(run, name)
            part.load_state_dict(_parts_of(state[name], part))
        run.step, run.nonfinite = state["step"], state["nonfinite"]
        if state.get("meters"):  # earlier versions kept none
            run.meters.load_state_dict(state["meters"], run.ranks.rank, run.ranks.device)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as e:
        written = f"odis {state.get('odis_version')} wrote it, this is {__version__}"
        raise DataError(
            f"{path}: does not fit the run's settings ({written}): {str(e).splitlines()[0]}"
        ) from e
    if run.ranks.is_first:
        set_aside(newest.damaged)
    run.ranks.barrier()
    return [f"{fault}; the run goes on from {path.name}" for fault in newest.damaged.values()]


def _parts_of(state: dict[str, Any], holder: Any) -> dict[str, Any]:
    """A whole state dict, with this rank's parts in place of the tensors that it holds a part of."""
    if isinstance(holder, torch.optim.Optimizer):
        parameters = [p for group in holder.param_groups for p in group["params"]]
        moments = {
            i: {key: shard_like(value, parameters[i]) for key, value in of_one.items()}
            for i, of_one in state["state"].items()
        }
        return state | {"state": moments}
    now = holder.state_dict()
    return {
        key: shard_like(value, now[key]) if isinstance(now.get(key), Tensor) else value
        for key, value in state.items()
    }


def _places(run: TrainState) -> Target | None:
    """Where a folder of shards is read to: if the run is sharded, to this rank's parts alone."""
    if not run.sharded:
        return None
    student, teacher = run.student.state_dict(), run.teacher.state_dict()
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]

    def target(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        part, _, key = name.partition("/")
        if part == "optimizer":  # state/NUMBER/MOMENT
            like: Any = dict(enumerate(parameters)).get(int(key.split("/")[1]))
        else:
            like = (student if part == "student" else teacher).get(key)
        if like is None or like.shape != shape:
            here = "is not in this run" if like is None else f"is {tuple(like.shape)} in this run"
            raise ConfigError(f"the checkpoint does not fit the run's settings: its {name} {here}")
        return torch.empty_like(like.detach(), dtype=dtype)

    return target


def whole_backbone(run: TrainState, *, everywhere: bool = False) -> ObjectViT | None:
    """The teacher's backbone, to evaluate or to write. All ranks call it.

    Args:
        run: If its teacher is sharded, this is another network, with its weights as they are now.
        everywhere: All ranks want it, not the first one only; the others get None if it is sharded.
    """
    backbone = run.teacher.backbone
    if not run.sharded:
        return backbone
    keep = everywhere or run.ranks.is_first
    state = whole_state(backbone.state_dict(), keep)
    return filled_backbone(run.config, backbone, state).to(run.ranks.device) if keep else None


def filled_backbone(config: PretrainConfig, like: ObjectViT, state: dict[str, Tensor]) -> ObjectViT:
    """A backbone as a config trains it, which takes these weights over: none are drawn, and none are copied.

    Args:
        config: The run's config.
        like: A backbone of it, of which the buffers that are not saved are taken.
        state: The weights.
    """
    model = replace(config.model, weights=None, grad_checkpointing=False)
    with torch.device("meta"):
        network = build_vit(model, config.views.global_size, drop_path=0.0, channels=config.views.channels)
    network.load_state_dict(state, assign=True)
    for name, buffer in like.named_buffers():
        if name not in state:
            holder, _, own = name.rpartition(".")
            network.get_submodule(holder)._buffers[own] = local(buffer)
    return network.eval().requires_grad_(False)


def model_card(run: TrainState) -> dict[str, Any]:
    """The card in `model.safetensors`: enough to rebuild the backbone and query it as it was trained."""
    return card_of(
        run.config,
        patch_size=run.patch_size,
        provenance=run.provenance,
        step=run.step,
        recipe=run.recipe,
    )


def card_of(
    config: PretrainConfig, *, patch_size: int, provenance: str, step: int, recipe: str
) -> dict[str, Any]:
    """The card of a backbone that a config trains, after so many steps.

    Args:
        config: The settings.
        patch_size: Side of a patch in pixels.
        provenance: Where the objects of the training came from.
        step: Steps that were taken.
        recipe: Name of the recipe.
    """
    views = config.views
    return {
        "model": asdict(config.model) | {"weights": None},
        "image_size": views.global_size,
        "patch_size": patch_size,
        "mean": list(views.statistics[0]),
        "std": list(views.statistics[1]),
        **PixelFormat(views.channels, views.value_ranges).card(),
        "start_weights": start_record(config.model),
        "mask_coverage": views.mask_coverage,
        "mask_margin": views.mask_margin,
        "mask_shape": views.mask_shape,
        "provenance": provenance,
        "step": step,
        "recipe": recipe,
        "odis_version": __version__,
    }
