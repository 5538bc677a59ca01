"""The head of the report: the runs, their settings and their progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from odis.config.wording import counted
from odis.report.page import Html, bullets, concat, element, paragraph, scrolled
from odis.report.runs import Run
from odis.report.svg import key
from odis.train.metrics import collapse_warning

_UNKNOWN = "not written down"


def summary(runs: Sequence[Run]) -> Html:
    """One sentence a run: steps done, loss, signs of collapse."""
    if len(runs) == 1:
        return paragraph(f"{runs[0].label}: {_standing(runs[0])}", class_="summary")
    return concat(
        [
            paragraph(f"{counted(len(runs), 'run')}.", class_="summary"),
            bullets([f"{run.label}: {_standing(run)}" for run in runs]),
        ]
    )


def overview(runs: Sequence[Run]) -> Html:
    """Table of the runs: model, data, views, device, versions. One column a run."""
    rows = [(name, [say(run) for run in runs]) for name, say in _ROWS.items()]
    heads = [element("th", key(number), " ", run.label, scope="col") for number, run in enumerate(runs)]
    table = element(
        "table",
        element("thead", element("tr", element("td", ""), *heads)) if len(runs) > 1 else None,
        element(
            "tbody",
            *[
                element("tr", element("th", name, scope="row"), *[element("td", text) for text in said])
                for name, said in rows
            ],
        ),
        class_="runs",
    )
    return scrolled("What the runs are", table)


def _standing(run: Run) -> str:
    total = run.setting("resolved.total_steps")
    if not run.lines:
        return f"no metrics yet, of {_count(total, 'step')}." if total else "no metrics yet."
    step = max(line["step"] for line in run.lines)
    losses = [value for value in run.curve("loss")[1] if math.isfinite(value)]
    said = [f"{_count(step)} of {_count(total, 'step')}" if total else _count(step, "step")]
    if losses:
        said.append(f"loss from {losses[0]:.3f} to {losses[-1]:.3f}")
    meters = {name: run.last(name) for name in ("teacher_entropy", "mean_entropy", "feature_spread")}
    values = {name: value for name, value in meters.items() if value is not None}
    prototypes = run.setting("config.head.prototypes")
    if len(values) == len(meters) and isinstance(prototypes, int) and prototypes > 1:
        said.append(collapse_warning(values, prototypes) or "the meters do not say collapse")
    if skipped := run.last("skipped"):
        said.append(f"{_count(skipped, 'file or object', 'files or objects')} skipped")
    return "; ".join(said) + "."


def _count(value: Any, noun: str = "", plural: str | None = None) -> str:
    if not (isinstance(value, int | float) and math.isfinite(value)):
        return _UNKNOWN
    return counted(round(value), noun, plural) if noun else f"{value:,.0f}"


def _told(name: str) -> Callable[[Run], str]:
    def say(run: Run) -> str:
        value = run.setting(name)
        return _UNKNOWN if value is None or value == "" else str(value)

    return say


def _model(run: Run) -> str:
    name = run.setting("config.model.name")
    if not name:
        return _UNKNOWN
    said = [str(name)]
    for key_, text in (
        ("embed_dim", "width {}"),
        ("depth", "block"),
        ("num_heads", "head"),
        ("patch_size", "patches of {}"),
    ):
        value = run.setting(f"config.model.{key_}")
        if value is not None:
            said.append(text.format(value) if "{}" in text else _count(value, text))
    parameters = run.setting("resolved.backbone_parameters")
    if isinstance(parameters, int):
        said.append(f"{parameters / 1e6:.1f} M parameters")
    weights = run.setting("config.model.weights")
    return ", ".join([*said, f"started from {weights}" if weights else "started from random weights"])


def _readout(run: Run) -> str:
    if run.setting("config.model.object_readout") == "mean-pool":
        return "the mean of its patches"
    masks = "" if trained_on_masks(run) else "; trained without object masks"
    return f"[OBJ], {run.setting('config.model.object_tokens') or _UNKNOWN}{masks}"


def trained_on_masks(run: Run) -> bool:
    """Whether `[OBJ]` read objects in training, rather than whole views."""
    return (
        run.setting("config.objects.use") is not False
        and run.setting("config.views.object_masks") is not False
    )


def _steps(run: Run) -> str:
    last = max((line["step"] for line in run.lines), default=None)
    done = "none logged yet" if last is None else _count(last)
    return (
        f"{done} of {_count(run.setting('resolved.total_steps'))}, "
        f"{_count(run.setting('config.train.batch_size'), 'image')} each"
    )


def _images(run: Run) -> str:
    return f"{_count(run.setting('resolved.images'))} in {_told('config.data')(run)}"


def _views(run: Run) -> str:
    return f"{_told('config.views.global_views')(run)} of {_told('config.views.global_size')(run)} px" + (
        f", {local} of {_told('config.views.local_size')(run)} px"
        if (local := run.setting("config.views.local_views"))
        else ""
    )


def _arithmetic(run: Run) -> str:
    ranks = run.setting("resolved.ranks")
    many = f", {counted(ranks, 'rank')}" if isinstance(ranks, int) and ranks > 1 else ""
    return f"{_told('resolved.device')(run)}, {_told('config.train.precision')(run)}{many}"


def _commit(run: Run) -> str:
    commit = run.setting("git")
    return (
        f", commit {commit[:12]}{' with changes' if '+' in commit else ''}"
        if isinstance(commit, str) and commit
        else ""
    )


_ROWS: dict[str, Callable[[Run], str]] = {
    "folder": lambda run: str(run.path),
    "recipe": lambda run: run.setting("resolved.recipe") or "no recipe",
    "model": _model,
    "an object is read by": _readout,
    "steps": _steps,
    "images": _images,
    "objects come from": _told("resolved.provenance"),
    "views of an image": _views,
    "seed": _told("config.train.seed"),
    "device": _arithmetic,
    "odis": lambda run: _told("versions.odis")(run) + _commit(run),
    "torch": _told("versions.torch"),
}
