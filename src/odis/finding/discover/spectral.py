"""Objects as the clearest cuts through an image's patches (normalised cut).

TokenCut (Wang et al., CVPR 2022, section 3) cuts the graph of an image's patches once and takes the smaller
world of the two as its object; MaskCut (CutLER: Wang et al., CVPR 2023, section 3.2) cuts again without what
was found. The graph has an edge of 1 between patches whose features agree by more than tau, else of 1e-5. The
cut is read from the second smallest solution of `(D - W) x = value D x` (Shi and Malik, 2000): x splits the
patches at its mean.

A solution has no sign, and where values coincide it is any of many. What is returned depends on neither: the
seed is the patch on which the solutions can be largest, and x the one that is. All is computed in float64,
since weak edges set values that float32 cannot tell apart.

Letters: B images, P patches of each (row-major), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import normalize

WEAK_EDGE = 1e-5
# what differs by less, in relation to the largest, is equal: values of a cut, components of its vector
TOLERANCE = 1e-7
CORNERS = 3  # an object has fewer corners of the image than this
_AT_ONCE = 1 << 24  # edges that are held at once


@dataclass(frozen=True, slots=True)
class Finding:
    """One object on the patch grid."""

    mask: np.ndarray  # bool (rows, columns), connected
    field: (
        np.ndarray
    )  # float64 (rows, columns), 0..1: how much each patch is of this side of the image; above .5 it is
    seed: int  # the patch it was found from
    value: float  # 0..1: how clear the method holds it to be


def cut_objects(
    features: Tensor, grid: tuple[int, int], *, tau: float, max_objects: int
) -> list[list[Finding]]:
    """Objects of B images by repeated normalised cuts, at most `max_objects` each, in the order of their
    discovery.

    Of the two sides of a cut the foreground is that of the patch with the largest |component|, unless it
    holds three or four of the image's corners (MaskCut's rule, made independent of the sign). The object is
    the part of it that hangs together (4 neighbours) with its largest component. Its patches lose their
    features before the next cut, and are in no later object. An image is done when nothing is left to cut.

    Args:
        features: (B, P, D) on any device.
        grid: Rows and columns, P of them.
        tau: Cosine above which two patches belong together.
        max_objects: Cuts of an image.

    Returns:
        For each image its findings; `value` is 1 - the value of the cut: 1 for parts with no common edge, 0
        for nothing to cut.
    """
    images, patches, _ = features.shape
    together = max(1, _AT_ONCE // max(1, patches**2))
    if images > together:
        parts = features.split(together)
        return [
            found for part in parts for found in cut_objects(part, grid, tau=tau, max_objects=max_objects)
        ]
    unit = normalize(features.detach().to(float64_device(features)).double(), dim=-1)
    found: list[list[Finding]] = [[] for _ in range(images)]
    free = np.ones((images, patches), dtype=bool)
    active = list(range(images)) if patches > 1 else []
    for _ in range(max_objects):
        if not active:
            break
        left = torch.from_numpy(free[active]).to(unit.device)
        vectors, values, seeds = second_solutions(edges(unit[active] * left[..., None], tau), left)
        still = []
        for i, x, value, seed in zip(active, vectors.cpu().numpy(), values.tolist(), seeds.tolist()):
            finding = _foreground(x, seed, free[i], grid, 1 - value) if 1 - value > TOLERANCE else None
            if finding is None:
                continue
            found[i].append(finding)
            free[i] &= ~finding.mask.ravel()
            if free[i].sum() > 1:
                still.append(i)
        active = still
    return found


def edges(unit: Tensor, tau: float) -> Tensor:
    """W (B, P, P) of l2-normalised features (B, P, D): 1 where their cosine is above tau, else 1e-5."""
    return (unit @ unit.transpose(1, 2) > tau).to(unit.dtype).clamp_min(WEAK_EDGE)


def second_solutions(weights: Tensor, seedable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The second smallest solution of `(D - W) x = value D x` of each graph, x' D x = 1.

    Args:
        weights: W, float64 (B, P, P), symmetric, above 0; P > 1.
        seedable: bool (B, P), patches that may be a seed.

    Returns:
        x (B, P), positive at its seed; value (B,), from 0 (two parts) to P / (P - 1) at most; the seed (B,),
        the first patch where |x| is largest of all solutions with this value.
    """
    root = weights.sum(dim=-1).sqrt()
    trivial = root / root.norm(
        dim=-1, keepdim=True
    )  # x = 1 at value 0 is known: without it the second is the first
    matrix = weights / (root[:, :, None] * root[:, None]) - 2 * trivial[:, :, None] * trivial[:, None]
    similarity, basis = torch.linalg.eigh(matrix)  # rising; 1 - value, and -1 for the trivial one
    alike = similarity >= similarity[:, -1:] - TOLERANCE
    solutions = basis * alike[:, None] / root[:, :, None]  # (B, P, solutions)
    reach = solutions.norm(dim=-1) * seedable
    seeds = (reach >= reach.amax(dim=-1, keepdim=True) * (1 - TOLERANCE)).int().argmax(dim=-1)
    at_seed = solutions.gather(1, seeds[:, None, None].expand(-1, 1, solutions.shape[2]))
    x = (solutions * at_seed).sum(dim=-1)
    return x / (x * root).norm(dim=-1, keepdim=True), 1 - similarity[:, -1], seeds


def connected(mask: np.ndarray, seed: int) -> np.ndarray:
    """The part of a bool (rows, columns) mask that hangs together with patch `seed`, which is in it; 4
    neighbours.
    """
    labels, _ = ndimage.label(mask)
    part: np.ndarray = labels == labels.flat[seed]
    return part


def _foreground(
    x: np.ndarray, seed: int, free: np.ndarray, grid: tuple[int, int], clearness: float
) -> Finding | None:
    """The object that x shows, or None if none of the free patches is of its side."""
    slack = TOLERANCE * np.abs(x).max()
    x = x - x.mean()
    if x[seed] < 0:  # positive at its seed, and yet below the mean
        x = -x
    if _corners(x > slack, grid) >= CORNERS:
        x = -x
    side = (x > slack) & free
    if not side.any():
        return None
    highest = x[side].max()
    seed = int(np.flatnonzero(side & (x >= highest - slack))[0])
    mask = connected(side.reshape(grid), seed)
    field = np.clip(0.5 + 0.5 * x / highest, 0, 1).reshape(grid)
    return Finding(mask, field, seed, min(max(clearness, 0.0), 1.0))


def _corners(side: np.ndarray, grid: tuple[int, int]) -> int:
    """How many of the image's four corners a side holds; those of a single row or column count twice."""
    corners = side.reshape(grid)[[0, 0, -1, -1], [0, -1, 0, -1]]
    return int(corners.sum())


def float64_device(features: Tensor) -> torch.device:
    """Where features can be computed in float64: where they are, or the CPU if their device knows no such
    numbers.
    """
    return torch.device("cpu") if features.device.type == "mps" else features.device
