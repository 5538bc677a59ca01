"""`odis objects discover`."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.objects.engine import add_engine, run_finder
from odis.config.arguments import add_arguments
from odis.config.discovery import DiscoverConfig, check_discover
from odis.config.options import require
from odis.config.query import ReadConfig

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from odis.finding.finder import Finder

OPENS_INDEX = True
REQUIRED = ("with", "out")
SUMMARY = "Find objects without annotations, in the patch features of a network; the same command resumes"


def add_options(parser: ArgumentParser) -> None:
    """Which images, which network, how to find, and where to."""
    parser.add_argument(
        "images", type=str, help="folder of images, or an index; the objects of an index are ignored"
    )
    parser.add_argument(
        "--with", type=str, help="run folder, model file, checkpoint, timm:NAME or timm:NAME@FILE"
    )
    parser.add_argument(
        "--out", type=str, help="index to write: a file (.parquet), or a folder for one in parts"
    )
    add_arguments(parser, ReadConfig(), ["device"])
    add_engine(parser)
    parser.add_class_arguments(DiscoverConfig, "discover")


def run(options: Any) -> None:
    """Write the index of what was found, and print what it holds.

    Raises:
        OdisError: See `find_objects` and `build_discoverer`.
    """
    require(options, *REQUIRED)
    discover = DiscoverConfig(**options.discover.as_dict())
    check_discover(discover)

    from odis.objects.index import ObjectIndex

    source = _whole(options["with"])
    build = partial(build_discoverer, source, discover, options.device, options.threads)
    settings = {"find": "discover", "with": source, "weights": _weights(source), "discover": asdict(discover)}
    run_finder(options, ObjectIndex.open(options.images), build, settings, batch_size=discover.batch_size)


def _whole(source: str) -> str:
    """The source with a file or folder in it named from the root on: a worker of Ray may stand elsewhere."""
    name, at, file = source.rpartition("@") if source.startswith("timm:") else ("", "", source)
    return (
        f"{name}{at}{Path(file).absolute()}"
        if (at or not source.startswith("timm:")) and Path(file).exists()
        else source
    )


def _weights(source: str) -> str | None:
    """What tells the weights in a file from others that lay there before; None for those of a hub."""
    path = Path(source.rpartition("@")[2] if source.startswith("timm:") else source)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def build_discoverer(source: str, discover: DiscoverConfig, device: str, threads: int) -> Finder:
    """What discovers objects in the features of a network: made here, or in a worker of Ray.

    Raises:
        OdisError: for a model that cannot be loaded or asked for such features.
    """
    import torch

    from odis.finding.discover.discoverer import Discoverer
    from odis.inference import load
    from odis.inference.colours import require_colours
    from odis.machine.allocator import keep_freed_memory

    if threads:
        torch.set_num_threads(threads)
    encoder = load(source, device=device, precision="fp32")
    require_colours(encoder, "discovery")
    if encoder.device.type == "cpu":
        keep_freed_memory()
    name = encoder.source if encoder.source.startswith("timm:") else Path(encoder.source).name
    return Discoverer(
        encoder.model, encoder.mean, encoder.std, discover, name=name, image_size=encoder.image_size,
        interpolation=encoder.interpolation,
    )  # fmt: skip
