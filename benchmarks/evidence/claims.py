"""What was published or hoped for, each as a difference that the study measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from figures import Figure, Results, knn
from grid import BEST, WHOLE

POST = "author's post on ODIS"
PAPER = "arXiv 2506.05409"
OURS = "ours"


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, who made it, and the figure that is above `bound` if it holds."""

    says: str
    source: str
    compared: str
    figure: Callable[[Results], Figure]
    bound: float = 0.0
    unit: str = "points"


def _gap(result: Results, cell: str, ours: str, theirs: str) -> Figure:
    return result.paired(cell, cell, knn(ours), knn(theirs))


def published(ours: str) -> list[Claim]:
    """What was published of ODIS, for one kind of its object token (a method of `grid.METHODS`)."""

    def help_of_masks(results: Results) -> Figure:
        def gain(result: dict[str, Any]) -> float:
            return knn("masked-attention")(result) - knn("whole-image")(result)

        return results.paired(ours, "ibot", gain)

    return [
        Claim(
            "the object as the unit beats the image",
            PAPER,
            f"{ours} - ibot",
            lambda r: r.paired(ours, "ibot", knn()),
        ),
        Claim(
            "crops alone bring most of the gain",
            POST,
            f"gain of crop-only over that of {ours}",
            lambda r: r.kept("crop-only", ours, "ibot", knn()),
            50.0,
            "% of the gain",
        ),
        Claim(
            "crops bring more than masks",
            POST,
            "crop-only - mask-only",
            lambda r: r.paired("crop-only", "mask-only", knn()),
        ),
        Claim(
            "masks add to crops",
            POST,
            f"{ours} - crop-only",
            lambda r: r.paired(ours, "crop-only", knn()),
        ),
        Claim(
            "a mean of patches is far behind",
            POST,
            f"{ours} - mean-pool",
            lambda r: r.paired(ours, "mean-pool", knn()),
        ),
        Claim(
            "masks at inference help ODIS more than iBOT",
            PAPER,
            f"(masked-attention - whole-image): {ours} - ibot",
            help_of_masks,
        ),
        Claim(
            "masking pixels instead (blackout) is worse",
            PAPER,
            f"{ours}: masked-attention - blackout",
            lambda r: _gap(r, ours, "masked-attention", "blackout"),
        ),
    ]


CLAIMS = [
    *published("odis-single"),
    Claim(
        "several objects a view help, if tokens are read-only",
        OURS,
        "odis-read-only-4 - odis-read-only-1",
        lambda r: r.paired("odis-read-only-4", "odis-read-only-1", knn()),
    ),
    Claim(
        "read-only tokens for all objects beat a single one",
        OURS,
        f"{BEST} - odis-single",
        lambda r: r.paired(BEST, "odis-single", knn()),
    ),
    Claim(
        "read-only tokens that read whole patches beat the image",
        OURS,
        f"{WHOLE} - ibot",
        lambda r: r.paired(WHOLE, "ibot", knn()),
    ),
    Claim(
        "read-only tokens that read whole patches beat crops alone",
        OURS,
        f"{WHOLE} - crop-only",
        lambda r: r.paired(WHOLE, "crop-only", knn()),
    ),
    Claim(
        "the same at equal arithmetic",
        OURS,
        f"{BEST}.compute - odis-single",
        lambda r: r.paired(f"{BEST}.compute", "odis-single", knn()),
    ),
    Claim(
        "half of the arithmetic is enough for single's score",
        OURS,
        f"{BEST}.half-compute - odis-single",
        lambda r: r.paired(f"{BEST}.half-compute", "odis-single", knn()),
    ),
    Claim(
        "discovered objects keep 80 % of the gain over iBOT",
        OURS,
        f"gain of {BEST}.discovered over that of {BEST}",
        lambda r: r.kept(f"{BEST}.discovered", BEST, "ibot", knn()),
        80.0,
        "% of the gain",
    ),
    Claim(
        "boxes moved by .3 of their size, 30 % missing, keep 70 %",
        OURS,
        f"gain of {BEST}.jitter-0.3-missing-0.3 over that of {BEST}",
        lambda r: r.kept(f"{BEST}.jitter-0.3-missing-0.3", BEST, "ibot", knn()),
        70.0,
        "% of the gain",
    ),
]

BESIDE_CLAIMS = [*published("odis-beside"), *published("authors")]
"""The published ones again, of the authors' kind of token and with all their choices."""
