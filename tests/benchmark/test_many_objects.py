"""What `benchmarks/step.py` counts of eight read-only object tokens against one is the arithmetic of the
tokens that are added.
"""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "step.py"


def test_eight_objects_cost_the_tokens_they_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arithmetic is counted; how long steps take is made up, which spares five processes."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("benchmark_step", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    step = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(step)
    rates = {"objects-1": [4.0], "objects-8": [2.0]}
    monkeypatch.setattr(step, "measure", lambda args, device: (rates, [5.0]))
    monkeypatch.setattr(step, "peak_mib_in_own_process", lambda variant, args: 1.0)
    file = tmp_path / "step.json"
    arguments = ["--tiny", "--batch", "2", "--rounds", "1", "--only", *rates, "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["step.py", *arguments])
    step.main()
    said = capsys.readouterr().out
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
    assert eight["to_one_object"][0] == 0.5
    assert "to objects-1" in said
    assert "to own iBOT" not in said
