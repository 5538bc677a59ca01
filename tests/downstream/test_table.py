"""The table of a comparison: every score of a detector in 80 columns, whole."""

from typing import Any

from rich.console import Console

from odis.downstream.table import comparison_table

NAMES = [
    f"{kind} {of}" for of in ("box", "mask") for kind in ("AP", "AP50", "AP75", "AR100", "APs", "APm", "APl")
]


def row(model: str, less: float, seeds: int) -> dict[str, Any]:
    scores = {
        name: {
            "value": 10.0 + k - less,
            "low": 9.0 + k - less,
            "high": 11.0 + k - less,
            "seeds": [10.0 + k] * seeds,
        }
        for k, name in enumerate(NAMES)
    }
    scores["APl mask"] = {"value": None, "low": None, "high": None, "seeds": [None] * seeds}
    return {"model": model, "scores": scores}


def found(models: int, seeds: int) -> dict[str, Any]:
    names = ["random", "before:runs/coco", "runs/coco"][:models]
    return {
        "evaluation": "finetune-instances", "settings": {"seeds": list(range(seeds))}, "test": {"images": 86},
        "rows": [row(name, 0.0, seeds) for name in names],
        "differences": [{"less": "random", **row(name, 10.0, seeds)} for name in names[1:]],
        "skipped": [], "notes": [],
    }  # fmt: skip


def printed(what: dict[str, Any]) -> list[str]:
    console = Console(width=80)
    with console.capture() as held:
        console.print(comparison_table(what))
    return held.get().splitlines()


def test_every_score_is_whole_in_80_columns():
    lines = printed(found(3, 3))
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    for k, name in enumerate(NAMES[:-1]):
        scores, differences = (i for i, one in enumerate(cells) if one[0] == name)
        assert cells[scores][1:] == [f"{10 + k:.2f}"] * 3
        assert cells[scores + 1][1:] == [f"{9 + k:.1f} to {11 + k:.1f}"] * 3
        assert cells[differences][1:] == [f"{k:.2f}"] * 2
        assert cells[differences + 1][1:] == [f"{k - 1:.1f} to {k + 1:.1f}"] * 2
    assert any("10.0, 10.0, 10.0" in line for line in lines)
    assert "percent; mean of seeds 0, 1, 2 and the score of each" in " ".join(lines)


def test_one_seed_is_said_once():
    lines = printed(found(1, 1))
    assert "percent; seed 0, 95 % bootstrap intervals over test images" in lines
    (last,) = (line.split("│") for line in lines if "│ APl mask" in line)
    assert last[2].strip() == "-"
