"""`odis demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.config.query import QueryConfig
from odis.explorer.extra import require_extra
from odis.explorer.settings import ExploreSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SUMMARY = "Make scenes, pretrain on them, evaluate before and after, draw what was learned"


def add_options(parser: ArgumentParser) -> None:
    """Where to, and the seed."""
    parser.add_argument(
        "--out", type=str, default="odis-demo", help="folder for scenes, run, results.json and demo.png"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes and training")
    parser.add_argument(
        "--explore", action="store_true", help="then open the explorer on the network before and after"
    )


def run(options: Any) -> None:
    """Run the demo; a second call resumes it, or draws again.

    Raises:
        OdisError: `--explore` without its extra, before anything is made.
    """
    if options.explore:
        require_extra()
    from odis.commands.demo.steps import CONTEXT, explored, run_demo

    out = Path(options.out)
    run_demo(out, seed=options.seed)
    if options.explore:
        from odis.commands.index.said import say
        from odis.explorer.serve import explore

        networks, data = explored(out)
        explore(networks, data, ExploreSettings(query=QueryConfig(context=CONTEXT)), say)
