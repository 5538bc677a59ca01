"""What finds objects in images with nothing but a network: its patch features, and how objects are discovered
in them.

`model.keys` reads the features, `objects.discover` finds objects in them; this asks the one for the images of
the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from odis.backbones.baseline import TimmBaseline
from odis.backbones.features import Facet, has_attention, keeps_aspect, patch_features
from odis.config.discovery import DiscoverConfig, check_discover
from odis.config.pixels import Channels
from odis.data.geometry.patches import patch_grid
from odis.data.views import normalize_pixels
from odis.errors import ConfigError
from odis.finding.discover.objects import discover
from odis.finding.discover.refine import luminance
from odis.method.vit import ObjectViT
from odis.types import Object


class Discoverer:
    """Finds objects in images by a model's own features; no annotation, and no training of its own.

    An image is resized, keeping its aspect, to the grid of whole patches nearest to size x size pixels in
    area; nothing is padded or cut off. (A model that takes squares alone sees it resized to the square.) The
    model may be one in training: it is asked in eval mode in fp32 without gradients, and its mode, weights
    and the random state are afterwards what they were. The same images give the same objects.

    Args:
        model: The backbone, on the device it is to run on.
        mean: Channel means of pixels in 0..1.
        std: Channel deviations.
        config: How objects are found, and which are kept.
        name: What the model is called in the provenance.
        image_size: Side in pixels it was trained at, where `config.size` sets none; by default what its patch
            embedding was made for.
        interpolation: How images were resized in its training: `bicubic` or another of torchvision's.

    Attributes:
        provenance: `discovered:<method>@<name>`.
        classes: None are known: the objects have no labels.
        facet: The features that are read: those of the config, or else the keys, or `token` for a model
            without keys.
        size: Side in pixels it is asked at.

    Raises:
        ConfigError: for settings that cannot be, a size that the model does not take, features that it does
            not have.
    """

    def __init__(
        self,
        model: ObjectViT | TimmBaseline,
        mean: Channels,
        std: Channels,
        config: DiscoverConfig,
        *,
        name: str,
        image_size: int | None = None,
        interpolation: str = "bicubic",
    ) -> None:
        check_discover(config)
        self.interpolation = tv.InterpolationMode(interpolation)
        self.model, self.mean, self.std, self.config = model, mean, std, config
        self.size = config.size or image_size or _size_of(model)
        self.patch_size = (
            model.patch_side if isinstance(model, TimmBaseline) else model.patch_embed.patch_size[0]
        )
        self.facet: Facet = config.facet or ("key" if has_attention(model) else "token")
        self.provenance = f"discovered:{config.method}@{name}"
        self.classes: list[str] = []
        self.keeps_aspect = keeps_aspect(model)
        if self.keeps_aspect and self.size % self.patch_size:
            raise ConfigError(
                f"discover.size: is {self.size}, must be a multiple of the patch size {self.patch_size}"
            )
        if isinstance(model, TimmBaseline) and not self.keeps_aspect:
            try:
                model.grid_at(self.size, self.device)
            except ConfigError as error:
                raise ConfigError(f"discover.size: {error}") from error
        self._features(
            torch.zeros(1, 3, *self._shape(1, 1), dtype=torch.uint8)
        )  # refuses before any image is read

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def __call__(self, images: Sequence[np.ndarray]) -> list[list[Object]]:
        """Objects of each image, the clearest first.

        Args:
            images: uint8 (H, W, 3) RGB, each of its own size.
        """
        return self.by_methods(images, [self.config])[0]

    def by_methods(
        self, images: Sequence[np.ndarray], configs: Sequence[DiscoverConfig]
    ) -> list[list[list[Object]]]:
        """Objects of each image by several settings of one pass: what the network is shown and which of its
        features are read is of the config given at the start.

        Args:
            images: As in a call.
            configs: How objects are found, and which are kept.

        Returns:
            For each config what a call returns.
        """
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self._found(images, configs)

    def _found(
        self, images: Sequence[np.ndarray], configs: Sequence[DiscoverConfig]
    ) -> list[list[list[Object]]]:
        found: list[list[list[Object]]] = [[[] for _ in images] for _ in configs]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(self._shape(image.shape[0], image.shape[1]), []).append(i)
        for shape, places in groups.items():
            for start in range(0, len(places), self.config.batch_size):
                batch = places[start : start + self.config.batch_size]
                features, grid = self._features(torch.stack([self._resized(images[i], shape) for i in batch]))
                sizes = [(images[i].shape[1], images[i].shape[0]) for i in batch]
                guided = any(config.edge_radius for config in configs)
                guides = [luminance(images[i]) for i in batch] if guided else None
                for config, of_config in zip(configs, found):
                    drawn_to = guides if config.edge_radius else None
                    for i, objects in zip(batch, discover(features, grid, sizes, config, drawn_to)):
                        of_config[i] = objects
        return found

    def _features(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return patch_features(
            self.model, normalize_pixels(pixels.to(self.device), self.mean, self.std), self.facet
        )

    def _shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels at which the model sees an image."""
        if not self.keeps_aspect:
            return self.size, self.size
        rows, columns = patch_grid(self.size, self.patch_size, (height, width))
        return rows * self.patch_size, columns * self.patch_size

    def _resized(self, image: np.ndarray, shape: tuple[int, int]) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if self.config.grayscale:
            pixels = tv.rgb_to_grayscale(pixels, num_output_channels=3)
        resized: Tensor = tv.resize(pixels, list(shape), interpolation=self.interpolation, antialias=True)
        return resized


def _size_of(model: ObjectViT | TimmBaseline) -> int:
    embed = getattr(model.model if isinstance(model, TimmBaseline) else model, "patch_embed", None)
    size = getattr(embed, "img_size", None)
    if size is None:
        raise ConfigError(
            "discover.size: is null, but the model does not say at what size it was trained; set it"
        )
    return int(size[0])
