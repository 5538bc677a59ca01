"""Projection heads: an MLP, l2 norm, and prototypes of fixed or learned length (DINO, section 3.1 and
appendix C).

Letters: R rows (tokens, from none to many), D width of the backbone, K prototypes.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odis.config.training import HeadConfig
from odis.machine.batch_norm import BatchNorm
from odis.machine.devices import full_precision


class ProjectionHead(nn.Module):
    """Tokens to prototype logits.

    Linear layers with GELU between, to the bottleneck; l2 norm; the cosine with every prototype, times its
    learned length unless `norm_last_layer` fixes that at 1. With `norm: batch` a batch norm follows every
    hidden layer, and one without affine the bottleneck.

    Args:
        dim: D.
        config: Sizes and norms.
    """

    def __init__(self, dim: int, config: HeadConfig) -> None:
        super().__init__()
        batch = self.mixes_rows = config.norm == "batch"
        widths = [dim, *[config.hidden] * (config.layers - 1), config.bottleneck]
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            hidden = i < config.layers - 1
            linear = nn.Linear(fan_in, fan_out, bias=not batch)  # a batch norm would subtract the bias again
            nn.init.trunc_normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
            layers.append(linear)
            if batch:
                layers.append(BatchNorm(fan_out, affine=hidden))
            if hidden:
                layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers)
        self.last_layer = Prototypes(
            config.bottleneck, config.prototypes, learn_length=not config.norm_last_layer
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (R, K) of tokens (R, D); R may be 0."""
        return self.last_layer(self.project(x))

    def project(self, x: Tensor) -> Tensor:
        """Unit vectors (R, bottleneck) of tokens (R, D): where the prototypes are."""
        return F.normalize(self.mlp(x).float(), dim=-1, eps=1e-6)

    def mean_logits(self, x: Tensor) -> Tensor:
        """The mean (1, K) of the logits of tokens (R, D). Logits are linear in projections, so the prototypes
        see one row.
        """
        mean = self.project(x).mean(dim=0, keepdim=True)
        with full_precision(mean):
            logits: Tensor = self.last_layer(mean)
        return logits

    def forward_list(self, kinds: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Projections (R, bottleneck) and logits (R, K) of tokens of several kinds, each (R, D) with an R of
        its own.

        All go through in one call, in which the prototypes are normalised once; unless the head mixes rows:
        then each kind is a batch.
        """
        rows = [len(kind) for kind in kinds]
        if self.mixes_rows and len(kinds) > 1:
            return [pair for kind in kinds for pair in self.forward_list([kind])]
        projections = self.project(torch.cat(kinds))
        return list(zip(projections.split(rows), self.last_layer(projections).split(rows), strict=True))


class Prototypes(nn.Module):
    """A linear layer without bias whose rows are normalised; `length` (K, 1) scales each row if it is
    learned.
    """

    def __init__(self, dim: int, prototypes: int, *, learn_length: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(prototypes, dim))
        nn.init.uniform_(self.weight, -(dim**-0.5), dim**-0.5)  # as nn.Linear begins, in DINO and iBOT
        self.length = nn.Parameter(torch.ones(prototypes, 1)) if learn_length else None

    def forward(self, x: Tensor) -> Tensor:
        weight = F.normalize(self.weight, dim=-1)
        return F.linear(x, weight if self.length is None else weight * self.length)
