"""Any timm model as it is: the baseline beside a backbone that reads objects.

It answers with one vector an image and a map of features, so it can be asked by crop, blackout, mean-pool and
whole image; it has no object token and so no masked attention.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from odis.backbones.adapters import CLASSES
from odis.backbones.weights import key_fault, one_line, read_state
from odis.errors import ConfigError
from odis.types import Tokens

# What the authors of published weights read out, where timm's default for the architecture differs from it.
_PUBLISHED_POOLING = {"vit_*_dinov3*": "token"}


def takes_object_tokens(name: str) -> bool:
    """Whether a timm model is of a class that `ObjectViT` adopts and reads out its `[CLS]`.

    A model that pools patches (SigLIP, EVA, ...) has no trained token to start object tokens from. No weight
    is made to find out.

    Raises:
        ConfigError: if timm cannot make the model.
    """
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, num_classes=0)
    except Exception as error:  # timm raises whatever it likes
        raise ConfigError(f"model.name: {name}: {one_line(error)}") from error
    plain = type(model) in CLASSES and type(model.patch_embed) is PatchEmbed
    return plain and model.cls_token is not None and (published_pooling(name) or model.global_pool) == "token"


def published_pooling(name: str) -> str | None:
    """What the authors of a model read out, in timm's words, where timm's default for it differs."""
    return next((how for pattern, how in _PUBLISHED_POOLING.items() if fnmatch(name, pattern)), None)


def token_norm(model: Any) -> nn.Module:
    """What the tokens of timm's `forward_features` still have to go through. A model that pools by average
    has its final norm behind the pooling (`fc_norm`) and none before it, so that patches would be left
    without.
    """
    after = getattr(model, "fc_norm", None)
    bare = isinstance(getattr(model, "norm", None), nn.Identity)
    return after if bare and isinstance(after, nn.Module) else nn.Identity()


class TimmBaseline(nn.Module):
    """A timm model that returns `Tokens` without objects: its own pooled vector as `image`, its last feature
    map as `patches`.

    Args:
        model: The timm model, without classifier.
        image_size: Side in pixels of the square images it is asked at.

    Attributes:
        patch_side: Pixels of the image that one cell of the feature map stands for, rounded.
        image_dim: Width of `image`.
        patch_dim: Width of `patches`; 0 for a model that has no feature map.
    """

    def __init__(self, model: Any, image_size: int) -> None:
        super().__init__()
        self.model = model
        self._grids: dict[int, tuple[int, int]] = {}
        with torch.no_grad():
            tokens = self.eval()(torch.zeros(1, 3, image_size, image_size))
        self._grids[image_size] = tokens.grid
        assert tokens.image is not None
        self.patch_dim, self.image_dim = tokens.patches.shape[-1], tokens.image.shape[-1]
        self.patch_side = round(image_size / max(1, tokens.grid[0]))

    @property
    def pooling(self) -> str:
        """How the model makes its vector, in timm's words."""
        return str(getattr(self.model, "global_pool", "") or "pooling")

    @torch.no_grad()
    def grid_at(self, size: int, device: torch.device) -> tuple[int, int]:
        """Rows and columns of the feature map of square images of `size` pixels; it is asked once a size.

        Raises:
            ConfigError: if the model takes no such images.
        """
        if size not in self._grids:
            training = self.training
            try:
                self._grids[size] = self.eval()(torch.zeros(1, 3, size, size, device=device)).grid
            except Exception as error:  # each architecture has its own way to refuse
                raise ConfigError(
                    f"size {size}: {type(self.model).__name__} takes no images of this size: "
                    f"{one_line(error)}"
                ) from error
            finally:
                self.train(training)
        return self._grids[size]

    def forward(self, images: Tensor) -> Tokens:
        """Vector and feature map of B images (B, 3, H, W); a model without a map gives one of no cells."""
        features = self.model.forward_features(images)
        image = self.model.forward_head(features, pre_logits=True)
        patches, grid = self._map(features)
        return Tokens(None, image, image.new_empty(len(image), 0, 0) if patches is None else patches, grid)

    def _map(self, features: Any) -> tuple[Tensor | None, tuple[int, int]]:
        """(B, P, D) and rows and columns, or None: `forward_features` is a map in one of two layouts, a row
        of tokens, or neither.
        """
        if isinstance(features, Tensor) and features.ndim == 4:
            width = self.model.num_features
            last = (
                features
                if features.shape[-1] == width and features.shape[1] != width
                else features.permute(0, 2, 3, 1)
            )
            return last.flatten(1, 2), (last.shape[1], last.shape[2])
        if isinstance(features, Tensor) and features.ndim == 3:
            patches = token_norm(self.model)(features[:, getattr(self.model, "num_prefix_tokens", 0) :])
            side = round(patches.shape[1] ** 0.5)
            if side > 1 and side * side == patches.shape[1]:
                return patches, (side, side)
        return None, (0, 0)


def build_baseline(name: str, image_size: int, weights: str | Path | None) -> TimmBaseline:
    """A timm model by name, in eval mode.

    Args:
        name: Any of `timm.list_models()`.
        image_size: Side in pixels of its images.
        weights: `timm` for the published ones, a file, or None for random ones.

    Raises:
        ConfigError: for a model that cannot be asked for features, or weights that cannot be had or are not
            the model's.
    """
    try:
        pooling = published_pooling(name)
        changes: dict[str, Any] = {} if pooling is None else {"global_pool": pooling}
        model: Any = timm.create_model(name, pretrained=weights == "timm", num_classes=0, **changes)
    except Exception as error:  # timm and its hub client raise whatever they like
        raise ConfigError(f"model.name: {name}: {one_line(error)}") from error
    if weights not in (None, "timm"):
        state = read_state(Path(str(weights)))
        classifier = model.pretrained_cfg.get("classifier") or ()
        heads = tuple(
            f"{prefix}." for prefix in ([classifier] if isinstance(classifier, str) else classifier)
        )
        state = {k: v for k, v in state.items() if not (heads and k.startswith(heads))}
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            why = key_fault(state, model.state_dict()) or one_line(error)
            raise ConfigError(f"model.weights: {weights} does not fit {name}: it {why}") from error
    try:
        return TimmBaseline(model, image_size).eval()
    except Exception as error:  # an architecture that takes no such size
        raise ConfigError(
            f"model.name: {name} cannot be asked for features at {image_size} pixels: {one_line(error)}"
        ) from error
