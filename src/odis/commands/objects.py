"""`odis objects`: objects found in images, by a detector or in a network's features, and held against
others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from odis.commands.finding import add_engine, run_finder
from odis.config.checks import check_discover
from odis.config.options import did_you_mean, new_parser, parse, require
from odis.config.training import DiscoverConfig
from odis.errors import OdisError
from odis.finding.finder import Finder
from odis.machine.allocator import keep_freed_memory
from odis.machine.files import write_json_whole
from odis.objects.edit.compare import compare
from odis.objects.index import ObjectIndex


def run_objects(arguments: list[str]) -> None:
    """Detect or discover objects, or compare two indexes.

    Raises:
        OdisError: for an unknown command or option, and whatever the command refuses.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name.ljust(10)}{about}" for name, (about, _) in _COMMANDS.items()]
        print("\n".join(["usage: odis objects COMMAND [options]", "", "commands:", *lines, ""]))
        print("`odis objects COMMAND --help` lists the options of a command.")
        return
    name = arguments[0]
    if name not in _COMMANDS:
        known = list(_COMMANDS)
        raise OdisError(f"{name}: no such command{did_you_mean(name, known)}; there are {', '.join(known)}")
    _COMMANDS[name][1](arguments[1:])


def _detect(arguments: list[str]) -> None:
    from odis.commands.detect import run_detect

    run_detect(arguments)


def _discover(arguments: list[str]) -> None:
    parser = new_parser(
        "objects discover",
        "Find objects without annotations, in the patch features of a network; write an index.",
    )
    parser.add_argument(
        "images", type=str, help="folder of images, or an index, whose own objects are not looked at"
    )
    parser.add_argument(
        "--with", type=str, help="run folder, model file, checkpoint, timm:NAME or timm:NAME@FILE"
    )
    parser.add_argument(
        "--out", type=str, help="index to write: a file (.parquet), or a folder for one in parts"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    add_engine(parser)
    parser.add_class_arguments(DiscoverConfig, "discover")
    options = parse(parser, arguments)
    require(options, "with", "out")
    discover = DiscoverConfig(**options.discover.as_dict())
    check_discover(discover)
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

    if threads:
        torch.set_num_threads(threads)
    encoder = load(source, device=device, precision="fp32")
    if encoder.device.type == "cpu":
        keep_freed_memory()
    name = encoder.source if encoder.source.startswith("timm:") else Path(encoder.source).name
    return Discoverer(
        encoder.model, encoder.mean, encoder.std, discover, name=name, image_size=encoder.image_size
    )


def _compare(arguments: list[str]) -> None:
    parser = new_parser(
        "objects compare",
        "How well the objects of one index are those of another, in the images of both: CorLoc, AP, recall.",
    )
    parser.add_argument(
        "predicted", type=str, help="object index that is measured: detected, discovered, noisy"
    )
    parser.add_argument("truth", type=str, help="object index it is measured against")
    parser.add_argument(
        "--out", type=str | None, default=None, help="also write the figures to this JSON file"
    )
    options = parse(parser, arguments)
    found = compare(ObjectIndex.open(options.predicted), ObjectIndex.open(options.truth))
    Console(markup=False, emoji=False).print(found)
    if options.out is not None:
        write_json_whole(options.out, found.as_dict())
        print(options.out)


_COMMANDS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "detect": ("find objects with an off-the-shelf detector", _detect),
    "discover": ("find objects without annotations, in the features of a network", _discover),
    "compare": ("measure the objects of one index against those of another", _compare),
}
