"""One way to ask a network for the objects of an image in each of the two image handlings: our discovery's,
and that of LOST.

Letters: H, W the image in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from odis.backbones.features import Facet, has_attention, keeps_aspect, patch_features
from odis.config.discovery import DiscoverConfig
from odis.data.views import normalize_pixels
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.images.store import FeatureStore, Made, files_key, model_key
from odis.evaluation.protocols.images.stream import in_order
from odis.evaluation.protocols.layouts.boxed import BoxedImages
from odis.evaluation.protocols.projection import Work, seconds_shown
from odis.evaluation.runner import EvaluationRun
from odis.finding.discover.discoverer import Discoverer
from odis.finding.discover.seeds import grow_objects
from odis.finding.discover.spectral import Finding, cut_objects
from odis.inference import Encoder
from odis.objects.images import load_image
from odis.types import Box, Object, Skipped


class WholePictures(Dataset["np.ndarray | Skipped"]):
    """Images at their own size, turned as their annotations are: uint8 (H, W, 3), or why there is none."""

    def __init__(self, images: BoxedImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> np.ndarray | Skipped:
        path, row = self.images.paths[i], self.images.rows[i]
        try:
            return np.array(load_image(path, (row.width, row.height)))
        except DataError as error:
            return Skipped(path, str(error).removeprefix(f"{path}: "))


def stream_found(
    run: EvaluationRun,
    images: BoxedImages,
    what: str,
    find: Callable[[list[np.ndarray]], list[Made]],
    store: FeatureStore,
) -> Iterator[tuple[int, Made]]:
    """What is found in each image, in order: read from the store where it is there. Images that cannot be
    read are skipped, named, and counted in `run.sides["test"]`.

    Args:
        run: Is told what was read and skipped.
        images: The images.
        what: What the progress is called.
        find: Finds in some images, (H, W, 3) each.
        store: Keeps what was found.

    Raises:
        DataError: With `--strict`, for the first image that cannot be read.
    """
    skipped = 0

    def make(numbers: Sequence[int]) -> Iterator[tuple[int, Made | Skipped]]:
        return in_order(run, WholePictures(images.select(numbers)), numbers, find)

    for number, item in store.stream(len(images), make):
        if isinstance(item, Skipped):
            run.skip(item)
            skipped += 1
        else:
            yield number, item
        if run.progress is not None:
            run.progress(what, number + 1, len(images))
    run.sides["test"] |= {"images": len(images) - skipped, "skipped": skipped}


def works_of(
    run: EvaluationRun,
    encoder: Encoder,
    images: BoxedImages,
    find: Callable[[list[np.ndarray]], list[Made]],
    store: FeatureStore,
) -> Iterator[Work]:
    """What there is to do for a model, measured; see `stream_found`."""
    pictures = WholePictures(images)
    seconds = seconds_shown(pictures, lambda some: find(list(some)), encoder, run.settings.read)
    yield Work("images", store.missing(len(images)), seconds)


def store_of(
    run: EvaluationRun, encoder: Encoder, images: BoxedImages, cache: str | None, settings: Mapping[str, Any]
) -> FeatureStore:
    """The store of what a model finds in images, by all that it depends on."""
    if cache is None:
        return FeatureStore("", {})
    key = {
        "protocol": run.name,
        "model": model_key(encoder),
        "files": files_key(images.paths),
        "settings": {name: value for name, value in settings.items() if name != "cache"},
    }
    return FeatureStore(cache, key)


def facet_of(encoder: Encoder, facet: Facet | None) -> Facet:
    """The features that are read where none are named: the keys, or what comes out of a model without
    them.
    """
    return facet or ("key" if has_attention(encoder.model) else "token")


def check_own_size(encoder: Encoder) -> None:
    """Refuse a model that does not take images of any size.

    Raises:
        OdisError: naming it.
    """
    if not keeps_aspect(encoder.model):
        raise OdisError(
            f"{encoder.source or 'this model'} takes squares of one size alone; LOST shows an image at its "
            f"own size, so --as-published needs a ViT that takes any"
        )


class OurDiscovery:
    """Objects by `odis objects discover`'s own defaults, several methods in one pass of the network."""

    def __init__(self, encoder: Encoder, configs: Sequence[DiscoverConfig], name: str) -> None:
        self.configs = configs
        self.finder = Discoverer(
            encoder.model, encoder.mean, encoder.std, configs[0], name=name, image_size=encoder.image_size,
            interpolation=encoder.interpolation,
        )  # fmt: skip

    def __call__(self, images: Sequence[np.ndarray]) -> list[list[list[Object]]]:
        """Of each method, and of each image, the objects, the clearest first."""
        return self.finder.by_methods(images, self.configs)


@torch.no_grad()
def facet_features(encoder: Encoder, pixels: np.ndarray, facet: Facet) -> tuple[Tensor, tuple[int, int]]:
    """A facet of the patches of an image (H, W, 3), zero-padded right and below to whole patches once its
    pixels are normalised: float32 (1, P, D), and rows and columns.
    """
    side = encoder.patch_size
    height, width = pixels.shape[:2]
    image = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()).to(encoder.device)
    normal = normalize_pixels(image, encoder.mean, encoder.std)
    padded = pad(normal, (0, -width % side, 0, -height % side))
    with torch.autocast(encoder.device.type, enabled=False):
        features, grid = patch_features(encoder.model, padded, facet)
    return features.float(), grid


def findings_at_own_size(
    encoder: Encoder, image: np.ndarray, configs: Sequence[DiscoverConfig], facet: Facet
) -> list[list[Finding]]:
    """What each method finds first in an image (H, W, 3) at its own size, as LOST shows it
    (`main_lost.py`).
    """
    features, grid = facet_features(encoder, image, facet)
    found = []
    for config in configs:
        if config.method == "spectral":
            found += cut_objects(features, grid, tau=config.tau, max_objects=1)
        else:
            found += grow_objects(features, grid, k=config.seeds_k, max_objects=1)
    return found


def patch_box(mask: np.ndarray, side: int, width: int, height: int) -> Box:
    """The box of the patches of a bool (rows, columns) mask, in pixels, clipped to the image."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(xs[0] * side),
        float(ys[0] * side),
        float(min((xs[-1] + 1) * side, width)),
        float(min((ys[-1] + 1) * side, height)),
    )
