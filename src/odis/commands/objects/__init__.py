"""`odis objects`: find objects, and score what was found."""

from odis.commands.command import Group, from_module

SUMMARY = "Find objects: detect, or discover without annotations; compare two indexes"


def group() -> Group:
    """The commands that find and compare objects."""
    names = ("detect", "discover", "compare")
    return Group(SUMMARY, {"commands": {name: from_module(f"objects.{name}") for name in names}})
