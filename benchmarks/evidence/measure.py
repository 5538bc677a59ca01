"""The measures of a network: the same for every cell, and for kept backbones on any other data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from odis.config.query import MODES, QueryConfig, Readout
from odis.evaluation.dense_knn import DenseKnnSettings, evaluate_dense_knn
from odis.evaluation.knn import KnnSettings, evaluate_knn
from odis.evaluation.label_maps import LabelledImages
from odis.evaluation.linear import LinearSettings, evaluate_linear
from odis.evaluation.protocols.layouts.boxed import open_boxed
from odis.evaluation.protocols.layouts.segmentation import SegmentedImages
from odis.evaluation.protocols.localization.corloc import CorlocSettings, evaluate_corloc
from odis.evaluation.protocols.segmentation.hummingbird import HummingbirdSettings, evaluate_hummingbird
from odis.evaluation.settings import Grid
from odis.inference import Encoder
from odis.objects.index import ObjectIndex

K = 20

CONTEXT = 1.6
"""Window over the box, in which an object is about as large as in a view of training."""

WINDOW = "masked-attention, window"

WHOLE_PATCHES = ", whole patches"
"""Ends ways to ask whose masks have the patches alone that an object covers whole, whatever a network was
trained with.
"""

NARROW = tuple(way + WHOLE_PATCHES for way in ("masked-attention", WINDOW))
"""Such ways to ask."""

ASKED = (*MODES, WINDOW)
"""How objects are asked about: the five modes on images of the world's size, and masked attention in a
window. Of these a method chooses.
"""

WAYS = (*ASKED, *NARROW)
"""All that are measured on the test part."""

RATIO = 2
"""Side at which whole images of other data are shown, over that of a view: as for scenes and VOC."""

NEIGHBOURS = 1000
"""Train images whose objects are neighbours, or on which a classifier is trained."""

MEMORY = 20_000
"""Patches in the memory of in-context segmentation."""

DENSE_TEST = 300
"""Test images at most whose patches are labelled, or in which objects are found."""

PROBE_STEPS = 1000
"""Steps of the linear probes."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a network is measured on.

    Args:
        train: Its objects are neighbours, and train linear classifiers.
        test: Its objects and images are classified.
        labelled: Train and test images with a class for every pixel.
        segmented: The same as the protocols of segmentation take them; None to leave those protocols out.
        side: At which whole images are shown, in pixels.
    """

    train: ObjectIndex
    test: ObjectIndex
    labelled: tuple[LabelledImages, LabelledImages]
    segmented: tuple[SegmentedImages, SegmentedImages] | None
    side: int


def object_knn(
    encoder: Encoder, train: ObjectIndex, test: ObjectIndex, side: int, ways: Sequence[str] = ASKED
) -> dict[str, Any]:
    """k-NN accuracy of objects in several ways to ask, with its interval over test images."""
    return {asked: knn_of(encoder, train, test, side, asked, "obj") for asked in ways}


def both_knn(encoder: Encoder, train: ObjectIndex, test: ObjectIndex, side: int) -> dict[str, Any]:
    """The same by `[CLS]` and `[OBJ]` concatenated, of a network that has both, where a way reads them."""
    ways = ("masked-attention", WINDOW) if "both" in encoder.readouts("masked-attention") else ()
    return {asked: knn_of(encoder, train, test, side, asked, "both") for asked in ways}


def knn_of(
    encoder: Encoder,
    train: ObjectIndex,
    test: ObjectIndex,
    side: int,
    asked: str,
    readout: Readout,
    width: tuple[float | None, int | None] = (None, None),
) -> dict[str, Any]:
    """k-NN accuracy of objects in one of `WAYS`, with its interval over test images.

    Args:
        width: `mask_coverage` and `mask_margin` of the question; None as the network was trained.
    """
    coverage, margin = width
    if asked.endswith(WHOLE_PATCHES):
        asked, coverage, margin = asked.removesuffix(WHOLE_PATCHES), 1.0, 0
    window = asked == WINDOW
    mode = "masked-attention" if window else asked
    # A box that is cut out, and a window, are resized to the size of a view; whole images are asked about at
    # their own.
    size = None if window or mode == "crop" else side
    query = QueryConfig(
        modes=(mode,),
        size=size,
        context=CONTEXT if window else None,
        readout=readout,
        mask_coverage=coverage,
        mask_margin=margin,
    )
    settings = KnnSettings(query=query, k=(K,), max_train=NEIGHBOURS)
    found: dict[str, Any] = evaluate_knn(encoder, train, test, settings)["rows"][0]["scores"][f"k={K}"]
    return found


def objects(encoder: Encoder, parts: Parts) -> dict[str, Any]:
    """`knn` of objects, and `knn_both` where the network has the two tokens."""
    asked = encoder, parts.train, parts.test, parts.side
    return {"knn": object_knn(*asked, WAYS), "knn_both": both_knn(*asked)}


def probes(encoder: Encoder, parts: Parts) -> dict[str, Any]:
    """Linear probes: `linear` of objects by masked attention, `images_map` of the classes of whole images,
    `linear_narrow` of objects by whole patches.
    """
    torch.manual_seed(0)
    grid = Grid(steps=PROBE_STEPS)

    def of_objects(query: QueryConfig) -> Any:
        settings = LinearSettings(query=query, grid=grid, max_train=NEIGHBOURS)
        return evaluate_linear(encoder, parts.train, parts.test, settings)["rows"][0]["scores"]["top-1"]

    linear = of_objects(QueryConfig(size=parts.side))
    images = evaluate_linear(
        encoder,
        parts.train,
        parts.test,
        LinearSettings(
            query=QueryConfig(modes=("whole-image",), images=True, size=parts.side),
            grid=grid,
            multi_label=True,
            max_train=NEIGHBOURS,
        ),
    )
    return {
        "linear": linear,
        "images_map": images["rows"][0]["scores"]["mAP"],
        "linear_narrow": of_objects(QueryConfig(size=parts.side, mask_coverage=1.0, mask_margin=0)),
    }


def patches(encoder: Encoder, parts: Parts) -> dict[str, Any]:
    """Scores of patches: `dense_knn`; and, where the protocols of segmentation are measured, `hummingbird`,
    its plain mIoU at temperature .02, and `corloc` of discovery by seeds.
    """
    dense = evaluate_dense_knn(
        encoder,
        *parts.labelled,
        DenseKnnSettings(
            query=QueryConfig(size=parts.side), max_patches=MEMORY, max_train=NEIGHBOURS, max_test=DENSE_TEST
        ),
    )
    scores = {"dense_knn": dense["rows"][0]["scores"]["mIoU"]}
    if parts.segmented is None:
        return scores
    in_context = evaluate_hummingbird(
        encoder,
        *parts.segmented,
        HummingbirdSettings(
            size=parts.side,
            memory=(MEMORY,),
            passes=1,
            beta=(0.02,),
            max_train=NEIGHBOURS,
            max_test=DENSE_TEST,
        ),
    )
    located = evaluate_corloc(
        encoder,
        open_boxed(parts.test.path),
        CorlocSettings(method=("seeds",), size=parts.side, max_test=DENSE_TEST),
    )
    return scores | {
        "hummingbird": in_context["rows"][0]["scores"]["mIoU, beta 0.02"],
        "corloc": located["rows"][0]["scores"]["CorLoc"],
    }


MEASURES: dict[str, Callable[[Encoder, Parts], dict[str, Any]]] = {
    "objects": objects,
    "probes": probes,
    "patches": patches,
}
"""All that is measured of a network, in three parts."""


def measured(encoder: Encoder, parts: Parts, which: Sequence[str] = tuple(MEASURES)) -> dict[str, Any]:
    """Every measure of a trained network, or some parts of them."""
    return {name: score for part in which for name, score in MEASURES[part](encoder, parts).items()}
