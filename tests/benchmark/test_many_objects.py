"""What `benchmarks/step.py` counts of eight read-only object tokens against one is the arithmetic of the
tokens that are added.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "step.py"


def test_eight_objects_cost_the_tokens_they_add(tmp_path: Path):
    file = tmp_path / "step.json"
    arguments = [
        "--tiny",
        "--batch",
        "2",
        "--rounds",
        "1",
        "--only",
        "objects-1",
        "objects-8",
        "--json",
        str(file),
    ]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, eight = json.loads(file.read_text())["variants"]
    width, depth, hidden, bottleneck, prototypes = 32, 2, 64, 32, 64
    token = 2 * depth * 12 * width**2  # query, key, value, projection 4; MLP 8
    head = 2 * (width * hidden + hidden**2 + hidden * bottleneck + bottleneck * prototypes)
    student, teacher = (
        7 * 12,
        7 * 2,
    )  # tokens more: two global views and ten local ones; the teacher sees the global ones
    added = (3 * student + teacher) * (token + head)  # backward twice as much as forward
    # Objects attend to all tokens, the others to each other alone. Backward: five products for two; in the
    # last block of local views, of which only objects are read, it is four.
    many = {grid: 8 * (grid + 1 + 8) - (grid + 1 + 1) for grid in (64, 16)}
    few = many[16]
    attention = 4 * width * (depth * (3.5 * 2 + 2) * many[64] + 10 * ((depth - 1) * 3.5 * many[16] + 3 * few))
    assert eight["gflop_per_image"] - one["gflop_per_image"] == pytest.approx(
        (added + attention) / 1e9, rel=1e-4
    )
    assert one["to_one_object"] is None
    assert eight["to_one_object"][0] > 0
    assert "to objects-1" in done.stdout
    assert "to own iBOT" not in done.stdout
