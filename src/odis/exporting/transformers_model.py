"""An odis model as a class of transformers, which reads objects. Importing this file registers it:

import odis.exporting.transformers_model
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("exported/odis")
objects = model(pixel_values, object_masks=masks).object_features
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from odis.backbones.build import build_vit
from odis.config.pixels import PixelFormat
from odis.config.training import ModelConfig
from odis.errors import OdisError
from odis.exporting.network import ObjectFeatures

try:
    from transformers import AutoConfig, AutoModel, PreTrainedModel
    from transformers.configuration_utils import PretrainedConfig
    from transformers.modeling_outputs import ModelOutput
except ImportError as error:
    raise OdisError(
        "odis.exporting.transformers_model: transformers is not installed; pip install 'odis[export]'"
    ) from error


class OdisConfig(PretrainedConfig):
    """What rebuilds the network.

    Args:
        card: Metadata of the model's file: `model`, `image_size`, `provenance` and more.
        settings: Those of every configuration.
    """

    model_type = "odis"

    def __init__(self, card: dict[str, Any] | None = None, **settings: Any) -> None:
        self.card = card or {}
        super().__init__(**settings)


@dataclass
class OdisOutput(ModelOutput):
    """What `OdisModel` returns; P patches, Q objects, D width.

    Args:
        last_hidden_state: (B, 1 + P, D): the whole image as one object, then the patches.
        pooler_output: (B, D), the whole image as one object.
        object_features: (B, Q, D); None where no object was asked for.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    object_features: Tensor | None = None


class OdisModel(PreTrainedModel):
    """A backbone with object tokens.

    Args:
        config: Of the folder.
    """

    config_class = OdisConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"

    def __init__(self, config: OdisConfig) -> None:
        super().__init__(config)
        card = config.card
        settings = ModelConfig(**card["model"] | {"weights": None})
        channels = PixelFormat.of_card(card).channels
        self.backbone = build_vit(settings, card["image_size"], drop_path=0.0, channels=channels)
        self.pooled = settings.object_readout == "mean-pool"
        cast(Any, self).post_init()

    def _init_weights(self, module: Any) -> None:
        """Weights come from the file; what no file holds, such as the periods of rotations, is made anew."""
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def forward(
        self, pixel_values: Tensor, object_masks: Tensor | None = None, return_dict: bool | None = None
    ) -> OdisOutput | tuple[Tensor, ...]:
        """Features of B images, at any size that the patches tile.

        Args:
            pixel_values: float (B, C, H, W), as the image processor makes them.
            object_masks: bool (B, Q, rows, columns): the patches of each object; None asks for no object.
            return_dict: If false, a tuple comes back.
        """
        patch = self.backbone.patch_embed.patch_size[0]
        views, _, height, width = pixel_values.shape
        none = torch.ones(
            views, 0, height // patch, width // patch, dtype=torch.bool, device=pixel_values.device
        )
        asked = SimpleNamespace(network=self.backbone, pooled=self.pooled)
        features = ObjectFeatures(cast(Any, asked))
        objects, image, patches = features(
            pixel_values, none if object_masks is None else object_masks.bool()
        )
        out = OdisOutput(
            last_hidden_state=torch.cat([image.unsqueeze(1), patches], dim=1),
            pooler_output=image,
            object_features=None if object_masks is None else objects,
        )
        if return_dict is False:
            values: tuple[Tensor, ...] = out.to_tuple()
            return values
        return out


AutoConfig.register("odis", OdisConfig, exist_ok=True)
AutoModel.register(OdisConfig, OdisModel, exist_ok=True)
