"""Frozen models: `load` one, `embed` pictures or a whole object index."""

from odis.inference.encoder import Encoder
from odis.inference.load import load
from odis.inference.stream import IndexFeatures, embed_index, stream_index

__all__ = ["Encoder", "IndexFeatures", "embed_index", "load", "stream_index"]
