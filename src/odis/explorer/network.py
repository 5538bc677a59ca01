"""One network of the explorer: what it answers about an object, as JSON for the page.

Letters: P patches, D width.
"""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis.backbones.attention_maps import object_attention_layers
from odis.config.feature_tables import FeatureTableConfig
from odis.config.query import QueryConfig
from odis.data.views import normalize_pixels
from odis.errors import OdisError
from odis.explorer.features import FeatureBank, home_of
from odis.explorer.pictures import ShownPicture
from odis.explorer.settings import QUESTION_MODES, ExploreSettings
from odis.inference.encoder import Encoder
from odis.inference.feature_tables import describe
from odis.inference.load import load
from odis.inference.queries import Query
from odis.method.vit import ObjectViT
from odis.objects.index import ObjectIndex
from odis.report.features import depth, no_attention, patch_colours, whole_size
from odis.report.runs import labels, read_runs
from odis.types import Object

_PATCHES = 16  # pictures whose patches are kept


class ExploredNetwork:
    """A frozen network, its queries by mode, and the features of the index that it is compared with.

    Args:
        source: As given on the command line.
        label: Short name.
        encoder: The network.
        settings: Size, context, how images are read.
        index: What is searched.
        whole: Side in pixels of whole images.
    """

    def __init__(
        self,
        source: str,
        label: str,
        encoder: Encoder,
        settings: ExploreSettings,
        index: ObjectIndex,
        whole: int,
    ) -> None:
        self.source, self.label, self.encoder = source, label, encoder
        self.whole = whole
        trained = encoder.image_size if settings.query.size is None else settings.query.size
        self.queries: dict[str, QueryConfig] = {}
        for mode in QUESTION_MODES:
            if mode in encoder.modes:
                windowed = mode == "masked-attention" and settings.query.context is not None
                side = trained if mode == "crop" or windowed else whole
                query = settings.query if windowed else QueryConfig((mode,))
                self.queries[mode] = QueryConfig((mode,), size=side, context=query.context)
                encoder.query_builder(self.queries[mode])  # refuses a size that patches do not tile
        first = next(iter(self.queries.values()))
        about = describe(encoder, index, FeatureTableConfig(first))
        home = home_of(source, about["weights"])
        self.banks = {
            mode: FeatureBank(encoder, index, query, settings.read, home, about["index_content"])
            for mode, query in self.queries.items()
        }
        self._patches: OrderedDict[tuple[int | None, str], dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def about(self) -> dict[str, Any]:
        """What the page is told of it."""
        return {
            "label": self.label,
            "source": self.source,
            "modes": list(self.queries),
            "first": next(iter(self.queries)),
            "no_attention": self._no_attention(),
            "layers": depth(self.encoder) if isinstance(self.encoder.model, ObjectViT) else 0,
            "step": self.encoder.card.get("step"),
            "sizes": {mode: query.size for mode, query in self.queries.items()},
            "context": next(iter(self.queries.values())).context,
        }

    def _no_attention(self) -> str | None:
        if not isinstance(self.encoder.model, ObjectViT):
            return "It has no object token, so there is no attention of one."
        return no_attention(self.encoder)

    def answer(self, picture: ShownPicture, item: Object, mode: str, neighbours: int) -> dict[str, Any]:
        """What the network says of one object in one mode.

        Args:
            picture: Where the object is. The objects of this image are no neighbours.
            item: A usable object.
            mode: One of `queries`.
            neighbours: How many.

        Raises:
            OdisError: its features are not finite.
        """
        builder = self.encoder.query_builder(self.queries[mode])
        (query,) = builder(torch.from_numpy(picture.shown.pixels(self.encoder.pixels)), [item])
        ((_, read, _),) = self.encoder.run_queries([(0, query)], builder, 1)
        feature = read[0, 0].float().cpu()
        if not bool(feature.isfinite().all()):
            raise OdisError(
                f"{self.label}: its features are not finite, so its weights or precision are at fault"
            )
        bank, frame = self.banks[mode], builder.frame(item, *picture.size)
        rows, columns = self._grid(query)
        return {
            "mode": mode,
            "frame": [frame.x0, frame.y0, frame.x1, frame.y1],
            "fill": list(builder.fill[:3] if len(builder.fill) >= 3 else builder.fill[:1] * 3),
            "rows": rows,
            "columns": columns,
            "mask": "".join("01"[int(inside)] for inside in query.masks[0]),
            "neighbours": [
                {"row": one.row, "number": one.number, "cosine": round(one.cosine, 4)}
                for one in bank.search.nearest(feature, neighbours, picture.row)
            ],
            "attention": self._attention(query) if mode == "masked-attention" else None,
        }

    def _grid(self, query: Query) -> tuple[int, int]:
        if not isinstance(self.encoder.model, ObjectViT):
            grid: tuple[int, int] | None = self.encoder.model.grid_at(
                query.pixels.shape[1], self.encoder.device
            )
            return grid or (1, 1)
        rows, columns = (side // self.encoder.patch_size for side in query.pixels.shape[1:])
        return rows, columns

    def _attention(self, query: Query) -> dict[str, Any] | None:
        """Attention of `[OBJ]` to the patches in every layer and head; None for a network without."""
        model, device = self.encoder.model, self.encoder.device
        if self._no_attention() is not None or not isinstance(model, ObjectViT):
            return None
        images = torch.from_numpy(query.pixels[None]).to(device)
        maps: Tensor = object_attention_layers(
            model,
            normalize_pixels(images, self.encoder.mean, self.encoder.std),
            torch.from_numpy(query.masks[None]).to(device),
        )[:, 0, 0]  # (layers, heads, P)
        return packed_attention(maps.float().cpu())

    def patches(self, picture: ShownPicture) -> dict[str, Any] | None:
        """The first three principal components of the patches of a picture as colours; None for a network
        without a feature map.
        """
        key = (picture.row, picture.objects.row.image)
        if key in self._patches:
            self._patches.move_to_end(key)
            return self._patches[key]
        read = torch.from_numpy(picture.shown.pixels(self.encoder.pixels))
        features = self.encoder.embed([read], mode="whole-image", size=self.whole)[0]
        if features.patches is None or features.grid is None or not len(features.patches):
            return None
        (colours,), share = patch_colours([features])
        found = {
            "rows": features.grid[0],
            "columns": features.grid[1],
            "colours": base64.b64encode(colours.tobytes()).decode(),
            "share": round(share, 4),
        }
        self._patches[key] = found
        while len(self._patches) > _PATCHES:
            self._patches.popitem(last=False)
        return found


def packed_attention(maps: Tensor) -> dict[str, Any]:
    """Attention in a byte a patch: each head of each layer on a scale from 0 to its largest weight.

    Args:
        maps: float32 (layers, heads, P), not negative.
    """
    largest = maps.amax(dim=2)
    steps = (255 * maps / largest.clamp_min(1e-12)[..., None]).round().to(torch.uint8).numpy()
    return {
        "layers": maps.shape[0],
        "heads": maps.shape[1],
        "largest": [[round(value, 6) for value in layer] for layer in largest.tolist()],
        "weights": base64.b64encode(np.ascontiguousarray(steps).tobytes()).decode(),
    }


def load_networks(
    sources: Sequence[str], index: ObjectIndex, settings: ExploreSettings
) -> list[ExploredNetwork]:
    """The networks of a command line.

    Args:
        sources: Folders of runs, model files, checkpoints or `timm:NAME`.
        index: What is searched.
        settings: How they are asked.

    Raises:
        OdisError: one cannot be loaded or asked so.
    """
    named = [source for source in sources if not source.startswith("timm:")]
    short = dict(zip(named, labels(named))) if named else {}
    encoders = [load(one, device=settings.read.device, precision=settings.read.precision) for one in sources]
    sizes = _whole_sizes(sources, encoders, settings.query.size)
    return [
        ExploredNetwork(
            source, short.get(source, source.removeprefix("timm:")), encoder, settings, index, whole
        )
        for source, encoder, whole in zip(sources, encoders, sizes)
    ]


def _whole_sizes(sources: Sequence[str], encoders: Sequence[Encoder], size: int | None) -> list[int]:
    """Side in pixels of whole images, for each network: that given; else of a run that at which objects are
    about as large as in its training. A network that is no run, as one before its training, gets that of a
    run that trained at the same size, so that the two see the same.
    """
    found: list[int | None] = [
        whole_size(encoder, read_runs([source])[0], size)
        if (Path(source) / "config.yaml").is_file()
        else size
        for source, encoder in zip(sources, encoders)
    ]
    of_runs = {_geometry(encoder): side for encoder, side in zip(encoders, found) if side is not None}
    return [
        of_runs.get(_geometry(encoder), encoder.image_size) if side is None else side
        for encoder, side in zip(encoders, found)
    ]


def _geometry(encoder: Encoder) -> tuple[int, int]:
    return encoder.image_size, encoder.patch_size
