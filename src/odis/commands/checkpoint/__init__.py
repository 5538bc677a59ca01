"""`odis checkpoint`: what is done with the checkpoints of a run."""

from odis.commands.command import Group, from_module

SUMMARY = "Make one file of a checkpoint that ranks wrote in shards"


def group() -> Group:
    """The commands on a checkpoint."""
    return Group(SUMMARY, {"commands": {"consolidate": from_module("checkpoint.consolidate")}})
