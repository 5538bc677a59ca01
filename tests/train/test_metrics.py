import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

from odis.train.metrics import JsonLines, Meters, collapse_meters, collapse_warning, entropy


def test_entropy_is_torchs() -> None:
    p = torch.rand(7, 11).softmax(-1)
    torch.testing.assert_close(entropy(p), torch.distributions.Categorical(p).entropy())
    assert entropy(torch.eye(3)).abs().max() < 1e-6


def test_meters_tell_health_from_both_collapses() -> None:
    torch.manual_seed(0)
    k = 64
    healthy = collapse_meters(F.one_hot(torch.arange(k), k).float(), torch.randn(k, 16))
    one = collapse_meters(F.one_hot(torch.zeros(k, dtype=torch.long), k).float(), torch.ones(k, 16))
    uniform = collapse_meters(torch.full((k, k), 1 / k), torch.ones(k, 16) + 1e-4 * torch.randn(k, 16))
    read = [{n: float(v) for n, v in m.items()} for m in (healthy, one, uniform)]
    assert math.isclose(read[0]["mean_entropy"], math.log(k), rel_tol=1e-5)
    assert read[0]["feature_spread"] > 0.9
    assert collapse_warning(read[0], k) is None
    assert "one prototype" in str(collapse_warning(read[1], k))
    assert read[1]["feature_spread"] < 1e-3
    assert "uniform" in str(collapse_warning(read[2], k))
    nothing = collapse_meters(torch.zeros(0, k), torch.zeros(0, 16))
    assert all(math.isnan(v) for v in nothing.values())
    assert collapse_warning({n: float(v) for n, v in nothing.items()}, k) is None
    assert collapse_warning({}, k) is None


def test_meters_average_and_start_again() -> None:
    meters = Meters()
    for value in (1.0, 2.0, 6.0):
        meters.add({"a": torch.tensor(value)})
    meters.add({"b": torch.tensor(5.0)})
    assert meters.means() == {"a": 3.0, "b": 5.0}
    assert meters.means() == {}


def test_json_lines_drop_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    lines = JsonLines(path, from_step=2)
    lines.write({"step": 3, "loss": 0.5, "spread": math.nan})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "loss": 0.5, "spread": None},
    ]
