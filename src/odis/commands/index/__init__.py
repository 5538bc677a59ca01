"""`odis index`: annotations to an object index, and an index to another or back."""

from functools import partial

from odis.commands.command import Command, Group, from_module
from odis.commands.index import read

SUMMARY = "Read annotations into an object index (Parquet); export, filter, sample, merge, perturb one"

_EDITS = ("stats", "filter", "sample", "merge", "perturb", "export")


def group() -> Group:
    """A command for each annotation format, and those that work on an index."""
    formats = {
        name: Command(summary, partial(read.add_options, name), partial(read.run, name))
        for name, summary in read.FORMATS.items()
    }
    edits = {name: from_module(f"index.{name}") for name in _EDITS}
    return Group(SUMMARY, {"annotation formats": formats, "commands on an index": edits})
