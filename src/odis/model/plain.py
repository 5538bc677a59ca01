"""Any timm model as it is: the baseline beside a backbone that reads objects.

It answers with one vector an image and a map of features, so it can be asked by crop, blackout, mean-pool and whole image; it has no
object token and so no masked attention.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from odis.errors import ConfigError
from odis.model.weights import one_line, read_state
from odis.types import Tokens


def takes_object_tokens(name: str) -> bool:
    """Whether a timm model is a plain `VisionTransformer`, which `ObjectViT` can adopt. No weight is made to find out.

    Raises:
        ConfigError: if timm cannot make the model.
    """
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
    except Exception as error:  # timm raises whatever it likes
        raise ConfigError(f"model.name: {name}: {one_line(error)}") from error
    return type(model) is VisionTransformer and type(model.patch_embed) is PatchEmbed


class PlainModel(nn.Module):
    """A timm model that returns `Tokens` without objects: its own pooled vector as `image`, its last feature map as `patches`.

    Args:
        model: The timm model, without classifier.
        image_size: Side in pixels of the square images it is asked at.

    Attributes:
        patch_side: Pixels of the image that one cell of the feature map stands for.
        image_dim: Width of `image`.
        patch_dim: Width of `patches`.
    """

    def __init__(self, model: Any, image_size: int) -> None:
        super().__init__()
        self.model = model
        self._sizes = {image_size}
        with torch.no_grad():
            tokens = self.eval()(torch.zeros(1, 3, image_size, image_size))
        self.patch_side = image_size // tokens.grid[0]
        assert tokens.image is not None
        self.image_dim, self.patch_dim = tokens.image.shape[-1], tokens.patches.shape[-1]

    @torch.no_grad()
    def check_size(self, size: int, device: torch.device) -> None:
        """Raise `ConfigError` unless the model takes square images of `size` pixels; it is asked once a size."""
        if size in self._sizes:
            return
        try:
            self(torch.zeros(1, 3, size, size, device=device))
        except Exception as error:  # each architecture has its own way to refuse
            raise ConfigError(f"size {size}: {type(self.model).__name__} takes no images of this size: {one_line(error)}") from error
        self._sizes.add(size)

    def forward(self, images: Tensor) -> Tokens:
        """Vector and feature map of B images (B, 3, H, W)."""
        features = self.model.forward_features(images)
        image = self.model.forward_head(features, pre_logits=True)
        if features.ndim == 4:
            width = self.model.num_features
            grid_last = features if features.shape[-1] == width and features.shape[1] != width else features.permute(0, 2, 3, 1)
            return Tokens(None, image, grid_last.flatten(1, 2), (grid_last.shape[1], grid_last.shape[2]))
        patches = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
        rows = round(patches.shape[1] ** 0.5)
        if rows * rows != patches.shape[1]:
            raise ConfigError(
                f"model.name: {type(self.model).__name__} returns {patches.shape[1]} tokens, which are no square map of patches"
            )
        return Tokens(None, image, patches, (rows, rows))


def build_plain(name: str, image_size: int, weights: str | Path | None) -> PlainModel:
    """A timm model by name, in eval mode.

    Args:
        name: Any of `timm.list_models()`.
        image_size: Side in pixels of its images.
        weights: `timm` for the published ones, a file, or None for random ones.

    Raises:
        ConfigError: for a model that gives no feature map, or weights that cannot be had or are not the model's.
    """
    try:
        model: Any = timm.create_model(name, pretrained=weights == "timm", num_classes=0)
    except Exception as error:  # timm and its hub client raise whatever they like
        raise ConfigError(f"model.name: {name}: {one_line(error)}") from error
    if weights not in (None, "timm"):
        state = read_state(Path(str(weights)))
        classifier = model.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{prefix}." for prefix in ([classifier] if isinstance(classifier, str) else classifier))
        state = {k: v for k, v in state.items() if not (heads and k.startswith(heads))}
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise ConfigError(f"model.weights: {weights} does not fit {name}: {one_line(error)}") from error
    try:
        return PlainModel(model, image_size).eval()
    except ConfigError:
        raise
    except Exception as error:  # an architecture that takes no such size, or whose features are no map
        raise ConfigError(f"model.name: {name} cannot be asked for features at {image_size} pixels: {one_line(error)}") from error
