"""The commands of `odis`, one file each. Adding one takes its file and its name in `COMMANDS`."""

from odis.commands.command import Group, from_module

COMMANDS = (
    "pretrain",
    "checkpoint",
    "index",
    "objects",
    "inspect",
    "embed",
    "evaluate",
    "compare",
    "finetune",
    "export",
    "benchmark",
    "report",
    "explore",
    "scenes",
    "demo",
    "slurm",
    "completion",
)
"""Modules of this package, in the order of `odis --help`."""


def commands() -> Group:
    """All commands, as one group."""
    return Group(
        "Pretrain Vision Transformers by object-level self-distillation.",
        {"commands": {name: from_module(name) for name in COMMANDS}},
    )
