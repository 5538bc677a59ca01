"""The tokens before the patches, for libraries that know `[CLS]` and registers and no object token.

A `beside` object token that reads the whole image is one more register: all tokens see it, and it sees all.
So a plain network with that register gives the patches and `[CLS]` that odis gives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odis.exporting.network import Exported


def prefix_tokens(network: Any) -> Tensor:
    """`[CLS]`, registers and the `beside` object token, (1, n, D), with their positions added."""
    found = [token for token in (network.cls_token, network.reg_token) if token is not None]
    if not found:
        return torch.zeros(1, 0, network.embed_dim)
    tokens = torch.cat(found, dim=1)
    if network.pos_embed is not None and not network.no_embed_class:
        tokens = tokens + network.pos_embed[:, : tokens.shape[1]]
    if is_beside(network):
        tokens = torch.cat([tokens, network.object_token + network.object_pos], dim=1)
    return tokens


def patch_positions(network: Any) -> Tensor:
    """(1, P, D), on the grid that the network was made for."""
    skipped = 0 if network.no_embed_class else network.num_prefix_tokens
    positions: Tensor = network.pos_embed[:, skipped:]
    return positions


def is_beside(network: Any) -> bool:
    """Whether the object token is seen by all others."""
    return bool(network.object_tokens == "beside")


def beside_fault(network: Any) -> str | None:
    """Why the object token is no register; None if it is, or is not `beside`."""
    if is_beside(network) and not network.object_sees_cls:
        return "its object token is seen by [CLS] and does not see it"
    return None


def first_patch(exported: Exported) -> int:
    """Position of the first patch in a library without object tokens."""
    return exported.network.num_prefix_tokens + int(is_beside(exported.network))
