"""Tables of what `findings.py` and `agreement.py` measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from figures import Results
from markdown import NOT_RUN, rows


def _runs(results: Results) -> dict[str, Any]:
    found: dict[str, Any] = results.findings.get("runs", {})
    return found


def attention(results: Results) -> str:
    """Attention to the object over its share of patches, by block."""
    body = [
        [f"`{name}`", f"{run['images_seen']:,}", *(f"{lift:.2f}" for lift in run["attention"]["lift"])]
        for name, run in _runs(results).items()
    ]
    blocks = max((len(run["attention"]["lift"]) for run in _runs(results).values()), default=0)
    return rows(["network", "images seen", *(f"block {k + 1}" for k in range(blocks))], body)


def loss(results: Results) -> str:
    """Where the object loss stops falling."""
    body = []
    for name, run in _runs(results).items():
        one = run["loss"]
        body.append(
            [
                f"`{name}`",
                f"{one['seen']:,}",
                f"{one['log_k']:.2f}",
                f"{one['loss'][-1]:.2f}",
                f"{one['fall']:.2f}",
                f"{one['stopped_at']:,}",
                f"{100 * one['stopped_at'] / one['seen']:.0f}",
            ]
        )
    header = [
        "network",
        "images seen",
        "log K",
        "loss at the end",
        "fall",
        "95 % of it after",
        "% of the run",
    ]
    return rows(header, body)


def leak(results: Results) -> str:
    """Change of `[OBJ]` when pixels outside the object are replaced, over that to another object."""
    body = [
        [
            f"`{name}`",
            str(run["objects"]),
            f"{100 * run['attention']['share_of_patches']:.0f}",
            *(f"{100 * run['leak'][way]:.0f}" for way in ("masked", "unmasked")),
        ]
        for name, run in _runs(results).items()
    ]
    header = ["network", "objects", "mask's share of the window, %"]
    return rows([*header, "change asked with the mask, %", "about the whole window, %"], body)


def targets(results: Results) -> str:
    """The teacher's targets with masks and without."""
    body = []
    for name, run in _runs(results).items():
        for way in ("masked", "unmasked"):
            one = run["targets"][way]
            numbers = [f"{one['entropy']:.2f}", f"{one['entropy_of_mean']:.2f}"]
            numbers += [f"{one['agreement']:.1f}", f"{one['gap']:.3f}", str(one["objects"])]
            body.append([f"`{name}`", "with the mask" if way == "masked" else "whole view", *numbers])
    header = ["teacher", "asked", "entropy, nats", "of the mean", "views agree, %", "cosine gap", "objects"]
    return rows(header, body)


def patch_counts(results: Results) -> str:
    """How many patches an object has in a global view."""
    body = [
        [
            name,
            str(one["patches_a_view"]),
            *(f"{value:.0f}" for value in one["quartiles"]),
            f"{one['few']:.1f}",
            f"{one['all_hidden']:.1f}",
        ]
        for name, one in results.findings.get("patches", {}).items()
    ]
    header = ["geometry", "patches a view", "a quarter have at most", "half", "three quarters"]
    return rows([*header, "4 or fewer, %", "all hidden, %"], body)


def same_object(results: Results) -> str:
    """Of pairs of random crops, those that have an object in common, by how much of an image a crop shows."""
    scales: list[list[float]] = []
    for one in results.agreement.values():
        scales += [at["scale"] for at in one["scales"] if at["scale"] not in scales]
    body = []
    for name, one in results.agreement.items():
        by_scale = {tuple(at["scale"]): at for at in one["scales"]}
        line = [f"`{name}`", f"{one['images']:,}", f"{one['objects'] / one['images']:.1f}"]
        for scale in scales:
            at = by_scale.get(tuple(scale))
            line.append(f"{at['same']:.0f} ({at['kept']:.0f})" if at else "-")
        body.append(line)
    shown = [f"{low:g} to {high:g}".replace("0.", ".") for low, high in scales]
    return rows(["data", "images", "objects an image", *shown], body)


def picture(name: str, says: str) -> Callable[[Results], str]:
    """The picture of `finding_plots.py`, for a page that lies beside it."""
    return lambda results: f"![{says}](finding-{name}.png)\n" if results.findings else NOT_RUN


BLOCKS: dict[str, Callable[[Results], str]] = {
    "looks": attention,
    "looks-picture": picture("attention", "Objects in windows, and below the attention of each network"),
    "object-loss": loss,
    "object-loss-picture": picture("loss", "Object loss of each network against images seen"),
    "leak": leak,
    "targets": targets,
    "same-object": same_object,
    "patch-counts": patch_counts,
    "patch-counts-picture": picture("patches", "Share of views with so many patches of the object or fewer"),
}
