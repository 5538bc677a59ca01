"""`odis index`: annotations to an object index, and an index to another or back."""

from odis.commands.command import Command, Group, from_module
from odis.commands.index.read import readers

SUMMARY = "Read annotations into an object index (Parquet); export, filter, split, sample, merge one"

_EDITS = ("stats", "filter", "sample", "split", "merge", "perturb", "pack", "export")


def group() -> Group:
    """A command for each annotation format, and those that work on an index."""
    edits = {name: from_module(f"index.{name}") for name in _EDITS}
    sections: dict[str, dict[str, Command | Group]] = {
        "which format": {"auto": from_module("index.auto")},
        "annotation formats": {**readers()},
        "images without annotations": {"tiles": from_module("index.tiles")},
        "commands on an index": edits,
    }
    return Group(SUMMARY, sections, moved={"scenes": "odis scenes"})
