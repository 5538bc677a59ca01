"""The settings of object discovery, in a pretraining run (`discover.`) and in `odis objects discover`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odis.config.require import require


@dataclass
class DiscoverConfig:
    """Object discovery in a network's own features, without annotations.

    Args:
        method: `spectral`: repeated normalized cuts (TokenCut, CVPR 2022; MaskCut, CVPR 2023). `seeds`:
            region growing from the patch that correlates with the fewest others (LOST, BMVC 2021).
        size: Images are resized to the area of a square of this side in pixels, with their aspect ratio. By
            default the model's training size. An object should be several patches high.
        facet: Features of the last attention layer (`key`, `query`, `value`), or `token`, its output. By
            default `key`, or `token` for a model without such a layer.
        grayscale: Convert images to grayscale, for a network that was trained on grayscale views.
        center: Subtract the image's mean feature first. Small networks need it: all their patches agree with
            the mean.
        max_objects: Most objects in an image.
        tau: `spectral`: cosine above which two patches belong together.
        seeds_k: `seeds`: how many patches of fewest correlations may join the seed.
        edge_radius: Masks follow edges of the image up to this many patches away (guided filter). 0 keeps the
            patch masks.
        min_area: Smallest area of a mask, as a share of the image.
        max_area: Largest area of a mask.
        max_overlap: Of two boxes with more IoU than this, the one of lower score is dropped.
        min_score: Lowest score of an object, 0 to 1: half of how much more its own patches agree with its
            mean feature than the patches around it do.
        batch_size: Images of the same shape in a forward pass.
    """

    method: Literal["spectral", "seeds"] = "spectral"
    size: int | None = None
    facet: Literal["key", "query", "value", "token"] | None = None
    grayscale: bool = False
    center: bool = False
    max_objects: int = 3
    tau: float = 0.2
    seeds_k: int = 100
    edge_radius: float = 1.0
    min_area: float = 0.01
    max_area: float = 0.8
    max_overlap: float = 0.8
    min_score: float = 0.1
    batch_size: int = 32


def check_discover(settings: DiscoverConfig, prefix: str = "discover") -> None:
    """Refuse settings that cannot find objects.

    Args:
        settings: What is checked.
        prefix: What the dotted names of settings begin with.

    Raises:
        ConfigError: Naming the first offending setting, and what is allowed.
    """

    def allow(ok: bool, name: str, allowed: str) -> None:
        require(ok, f"{prefix}.{name}", f"is {getattr(settings, name)}, must be {allowed}")

    allow(settings.method in ("spectral", "seeds"), "method", "spectral or seeds")
    allow(
        settings.facet in (None, "key", "query", "value", "token"),
        "facet",
        "key, query, value or token, or null",
    )
    allow(settings.size is None or settings.size >= 1, "size", "1 pixel or more, or null")
    allow(-1 <= settings.tau < 1, "tau", "from -1 to below 1")
    allow(0 < settings.max_area <= 1, "max_area", "above 0 and at most 1")
    allow(
        0 <= settings.min_area <= settings.max_area, "min_area", f"from 0 to max_area ({settings.max_area:g})"
    )
    for name in ("max_overlap", "min_score"):
        allow(0 <= getattr(settings, name) <= 1, name, "from 0 to 1")
    allow(0 <= settings.edge_radius <= 16, "edge_radius", "from 0 to 16 patches")
    for name in ("max_objects", "seeds_k", "batch_size"):
        allow(getattr(settings, name) >= 1, name, "1 or more")
