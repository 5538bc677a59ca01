"""What `detect` and `discover` share: how the work is spread over processes, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.index.said import reported
from odis.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from odis.finding.finder import Finder
    from odis.objects.build import Summary
    from odis.objects.index import ObjectIndex
    from odis.types import Skipped


def add_engine(parser: Any) -> None:
    """Declare how the work is spread and resumed: `--engine`, `--workers`, `--gpus`, `--part-size`,
    `--threads`.
    """
    parser.add_argument(
        "--engine",
        type=str,
        choices=["local", "ray"],
        default="local",
        help="ray: Ray Data, by RAY_ADDRESS or here",
    )
    parser.add_argument("--workers", type=int, default=1, help="ray only: how many work at the same time")
    parser.add_argument(
        "--gpus", type=float, default=0.0, help="ray only: GPUs, or a share of one, for each worker"
    )
    parser.add_argument(
        "--part-size", type=int, default=512, help="images a part: an interruption loses one part at most"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of each worker; 0 leaves torch's choice"
    )


def run_finder(
    options: Any,
    index: ObjectIndex,
    build: Callable[[], Finder],
    settings: dict[str, Any],
    *,
    batch_size: int,
) -> None:
    """Find objects in all images, say what came of it, and print what the index holds.

    Args:
        options: `out`, and what `add_engine` declares.
        index: The images.
        build: Makes the finder.
        settings: What the result depends on.
        batch_size: Images the finder is given at once.

    Raises:
        OdisError: See `corpus.find_objects`.
    """

    from odis.finding.corpus import find_objects

    def work(report: Callable[[Skipped], None], progress: Callable[[int, int], None]) -> Summary | None:
        return find_objects(
            index,
            Path(options.out),
            build,
            settings=settings,
            batch_size=batch_size,
            part_size=options.part_size,
            engine=options.engine,
            workers=options.workers,
            gpus=options.gpus,
            report=report,
            progress=progress,
        )

    check_engine(options)
    watch(options.out, work)


def check_engine(options: Any) -> None:
    """Refuse what `add_engine` declares and cannot be.

    Raises:
        ConfigError: naming the option.
    """
    if not options.gpus >= 0:
        raise ConfigError(f"gpus: is {options.gpus:g}, must be 0 or more")
    if options.threads < 0:
        raise ConfigError(f"threads: is {options.threads}, must be 0 or more")


def watch(
    out: str, work: Callable[[Callable[[Skipped], None], Callable[[int, int], None]], Summary | None]
) -> None:
    """Run `work(report, progress)` with a progress bar, naming what it leaves out; then say what came of it
    and what the index `out` holds.

    Args:
        out: The index that is made.
        work: Makes it, and returns its summary, or None if it was there already.
    """
    from odis.machine.progress import ProgressBar, error_console, output_console
    from odis.objects.index import ObjectIndex, statistics

    console = error_console()
    with reported() as report, ProgressBar(console, keep=True) as bar:
        bar("images", 0, None)
        summary = work(report, lambda done, total: bar("images", done, total))
    already = f"{out}: is there already, made with these settings of these images"
    console.print(already if summary is None else str(summary), soft_wrap=True)
    output_console().print(statistics(ObjectIndex.open(out)))
