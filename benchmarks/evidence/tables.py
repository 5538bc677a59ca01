"""Tables, plots and verdicts of the study, made of the cells' JSON; nothing in them is typed.

    python benchmarks/evidence/tables.py [--results DIR] [--doc docs/evidence.md ...] [--plots docs/evidence]

Every block of the document between `<!-- made: NAME -->` and `<!-- end -->` is written anew; the text around
them stays.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import finding_tables
import lengths
import post_tables
from claims import BESIDE_CLAIMS, CLAIMS, Claim
from figures import Figure, Measure, Results, knn, score, verdict
from grid import BEST, BY_LENGTH, LENGTHS, METHODS, REFERENCE, STUDIES
from markdown import NOT_RUN, rows
from measure import ASKED, WAYS
from plots import draw

HERE = Path(__file__).parent

CORE = [cell.name for cell in STUDIES["core"]]

_BLOCK = re.compile(r"(<!-- made: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def core(results: Results) -> str:
    """The core table: every method, every measure."""
    measures: list[tuple[str, Measure]] = [
        ("object k-NN", knn()),
        ("linear probe", score("linear")),
        ("image mAP", score("images_map")),
        ("dense k-NN", score("dense_knn")),
    ]
    measured = [result["scores"] for cells in results.cells.values() for result in cells.values()]
    measures += [
        (title, score(name))
        for title, name in (("Hummingbird", "hummingbird"), ("CorLoc", "corloc"))
        if measured and all(name in scores for scores in measured)
    ]
    header = [
        "method",
        "settings",
        "asked by",
        *(name for name, _ in measures),
        "GFLOP an image",
        "images/s",
        "GiB",
    ]
    body = []
    for name in CORE:
        cells = results.cells.get(name)
        if not cells:
            continue
        first, cost = next(iter(cells.values())), results.cost.get(name)
        body.append(
            [
                f"`{name}`",
                first["candidate"],
                first["asked"],
                *(str(results.of(name, measure)) for _, measure in measures),
                f"{results.of(name, lambda r: r['flops_per_image'] / 1e9).mean:.3f}",
                f"{cost['images_per_second']:.0f}" if cost else "-",
                f"{cost['peak_gib']:.2f}" if cost else "-",
            ]
        )
    return rows(header, body)


CHOICES = ["ibot", REFERENCE, BEST, *(cell.name for cell in STUDIES["authors-digits"])]
"""The choices on digits, after the methods that they are on top of."""


def study(results: Results, name: str) -> str:
    """One of the smaller studies: its cells, and their difference from their method's core cell (equal
    arithmetic, and methods themselves: from the reference).
    """
    header = [
        "cell",
        "seeds",
        "object k-NN",
        "linear probe",
        "image mAP",
        "dense k-NN",
        "k-NN against",
        "difference",
        "arithmetic over it",
    ]
    body = []
    for item in STUDIES[name]:
        if item.name not in results.cells:
            continue
        other = REFERENCE if name == "compute" or item.name == item.method else item.method
        arithmetic = (
            results.of(item.name, lambda r: r["flops"]).mean / results.of(other, lambda r: r["flops"]).mean
        )
        body.append(
            [
                f"`{item.name}`",
                str(len(results.cells[item.name])),
                *(
                    str(results.of(item.name, measure))
                    for measure in (knn(), score("linear"), score("images_map"), score("dense_knn"))
                ),
                f"`{other}` {results.of(other, knn())}",
                results.paired(item.name, other, knn()).signed(),
                f"{arithmetic:.2f}",
            ]
        )
    return rows(header, body)


def claims(results: Results, which: list[Claim] = CLAIMS) -> str:
    """Every claim beside its figure."""
    body = []
    for claim in which:
        found = claim.figure(results)
        shown = f"{found} %" if claim.unit.startswith("%") and found.seeds else found.signed()
        body.append([claim.says, claim.source, f"`{claim.compared}`", shown, verdict(found, claim.bound)])
    return rows(["claim", "whose", "compared (object k-NN)", "measured", "verdict"], body)


def short(results: Results) -> str:
    """The claims by verdict, a line each."""
    by_verdict: dict[str, list[str]] = {
        "held": [],
        "the reverse": [],
        "not decided": [],
        "two seeds, not decided": [],
        "one seed, not decided": [],
        "not run": [],
    }
    for claim in CLAIMS:
        by_verdict[verdict(claim.figure(results), claim.bound)].append(claim.says)
    return "".join(
        f"- **{name[0].upper()}{name[1:]}**: {'; '.join(claims)}.\n"
        for name, claims in by_verdict.items()
        if claims
    )


def choices(results: Results) -> str:
    """What every method chose from: its best k-NN on held-out train images by candidate."""
    candidates = sorted({name for trials in results.trials.values() for name in trials})
    body = []
    for method in METHODS:
        trials = results.trials.get(method, {})
        if trials:
            best = {
                name: max(trial["scores"]["knn"][asked]["value"] for asked in ASKED)
                for name, trial in trials.items()
            }
            body.append(
                [f"`{method}`", *(f"{best[name]:.1f}" if name in best else "-" for name in candidates)]
            )
    return rows(["method", *candidates], body) if body else "*Not run yet.*\n"


def meters(results: Results) -> str:
    """The collapse meters at the end of every method's runs."""
    body = []
    for name, cells in results.cells.items():
        if any(result["meters"][-1]["teacher_entropy"] is None for result in cells.values()):
            continue  # trained with labels: it has no teacher
        last: dict[str, Figure] = {}
        for meter in ("teacher_entropy", "mean_entropy", "feature_spread"):
            # lambda with a default
            last[meter] = results.of(name, lambda r, meter=meter: r["meters"][-1][meter])
        warned = sum(bool(result["collapse"]) for result in cells.values())
        body.append(
            [f"`{name}`", *(f"{value.mean:.2f}" for value in last.values()), f"{warned} of {len(cells)}"]
        )
    return rows(["cell", "teacher entropy", "mean entropy", "feature spread", "collapsed"], body)


SUSTAINED = 1e14
"""FLOP/s that the projection for a GPU assumes: a tenth of what an H100 is sold for in bf16. Nothing here has
measured it.
"""


def cost(results: Results) -> str:
    """What a run of each method costs: measured where `cost.py` ran, and by its arithmetic on a GPU."""
    if not results.cost:
        return NOT_RUN
    how, images = results.measured, results.measured["images_a_run"]
    header = [
        "method",
        "GFLOP an image",
        "images/s",
        "GiB",
        "images a run",
        "hours a run",
        f"hours at {SUSTAINED / 1e12:.0f} TFLOP/s",
    ]
    body = []
    for name, row in results.cost.items():
        hours = images / row["images_per_second"] / 3600
        projected = images * row["gflop_per_image"] * 1e9 / SUSTAINED / 3600
        numbers = (
            f"{row['gflop_per_image']:.3f}",
            f"{row['images_per_second']:.1f}",
            f"{row['peak_gib']:.2f}",
        )
        body.append([f"`{name}`", *numbers, f"{images:,}", f"{hours:.2f}", f"{projected:.2g}"])
    said = (
        f"Measured on {how['device']}, {how['precision']}, batches of {how['batch']}; settings: "
        f"{how['candidate']}."
    )
    return f"{rows(header, body)}\n{said}\n"


BLOCKS: dict[str, Callable[[Results], str]] = {
    "core": core,
    "modes": lambda results: lengths.in_ways(results, CORE, ASKED, "method"),
    "modes-authors": lambda results: lengths.in_ways(results, CHOICES, WAYS, "method"),
    "claims": claims,
    "claims-authors": lambda results: claims(results, BESIDE_CLAIMS),
    "short": short,
    "choices": choices,
    "meters": meters,
    "cost": cost,
    **{
        name: (lambda results, name=name: study(results, name))
        for name in STUDIES
        if name not in ("core", *BY_LENGTH)
    },
    **lengths.BLOCKS,
    **finding_tables.BLOCKS,
    **post_tables.BLOCKS,
}


def made(name: str, everything: dict[str, Results]) -> str:
    """The text of a block, `TABLE WORLD`; or `TABLE WORLD LENGTH`, for the runs of one length.

    Raises:
        ValueError: There is no such table or length.
    """
    table, _, of = name.partition(" ")
    world, _, length = of.partition(" ")
    if table not in BLOCKS or not world:
        raise ValueError(f"no block {name!r}; they are TABLE WORLD with a table of {', '.join(BLOCKS)}")
    if length and length not in LENGTHS:
        raise ValueError(f"no block {name!r}; lengths are {', '.join(LENGTHS)}")
    found = everything.get(world, Results(world))
    return BLOCKS[table](found.at(length) if length else found)


def anew(text: str, everything: dict[str, Results]) -> str:
    """A document with its blocks written anew.

    Raises:
        ValueError: It has a block that there is no table for.
    """
    return _BLOCK.sub(lambda block: f"{block[1]}\n{made(block['name'], everything)}\n{block[3]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=HERE / "results",
        help="figures of the cells (default: beside this file)",
    )
    parser.add_argument(
        "--doc",
        type=Path,
        nargs="+",
        help="documents whose blocks are written anew; without one all tables are printed",
    )
    parser.add_argument("--plots", type=Path, help="folder for the plots")
    args = parser.parse_args()
    everything = {path.name: Results.read(path) for path in sorted(args.results.glob("*")) if path.is_dir()}
    if args.doc is not None:
        for doc in args.doc:
            try:
                doc.write_text(anew(doc.read_text(), everything))
            except ValueError as error:
                sys.exit(f"{doc}: {error}")
    else:
        for results in everything.values():
            for name, table in BLOCKS.items():
                if (name in post_tables.BLOCKS) == (results.world in post_tables.FOLDERS):
                    print(f"## {results.world}: {name}\n\n{table(results)}")
    if args.plots is not None:
        args.plots.mkdir(parents=True, exist_ok=True)
        for results in everything.values():
            if results.world not in post_tables.FOLDERS:
                draw(results, args.plots)


if __name__ == "__main__":
    main()
