"""`odis demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SUMMARY = "Make scenes, pretrain on them, evaluate before and after, draw what was learned"


def add_options(parser: ArgumentParser) -> None:
    """Where to, and the seed."""
    parser.add_argument(
        "--out", type=str, default="odis-demo", help="folder for scenes, run, results.json and demo.png"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes and training")


def run(options: Any) -> None:
    """Run the demo; a second call resumes it, or draws again."""
    from odis.commands.demo.steps import run_demo

    run_demo(Path(options.out), seed=options.seed)
