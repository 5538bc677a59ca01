"""The time that a protocol will take: what is measured, how it is summed up, and that it changes no score."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from odis.config.query import ReadConfig
from odis.evaluation.protocols import projection
from odis.evaluation.protocols.layouts.segmentation import open_segmented
from odis.evaluation.protocols.projection import (
    Work,
    in_words,
    project,
    seconds_each,
    seconds_searched,
    seconds_shown,
)
from odis.evaluation.protocols.segmentation.linear_seg import LinearSegSettings, evaluate_linear_seg
from odis.evaluation.runner import EvaluationRun
from odis.types import Skipped

CPU = torch.device("cpu")


class Clock:
    """Time that passes only where work is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.asked = 0.0, list[int]()
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def work(self, each: float):
        def of(n: int) -> None:
            self.asked.append(n)
            self.now += each * n

        return of


class Progress:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.calls = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        assert self.said, "the projection comes first"
        self.calls += 1

    def say(self, text: str) -> None:
        self.said.append(text)


def test_more_and_more_units_are_measured_until_it_is_enough(monkeypatch):
    clock = Clock(monkeypatch)
    assert seconds_each(clock.work(0.1), 100, CPU) == pytest.approx(0.1)
    assert clock.asked == [1, 1, 2, 4, 8]  # the first warms up; of the others a second is enough
    clock.asked.clear()
    assert seconds_each(clock.work(1e-4), 5, CPU) == pytest.approx(1e-4)
    assert clock.asked == [1, 1, 2, 4, 5]  # never more than a batch
    steady, slow = clock.work(0.1), iter([0.0, 0.9])

    def disturbed(n: int) -> None:
        clock.now += next(slow, 0.0)
        steady(n)

    assert seconds_each(disturbed, 100, CPU) == pytest.approx(1.0)  # one such unit is all that is seen
    slow = iter([0.0, 0.5])
    assert seconds_each(disturbed, 100, CPU) == pytest.approx(0.1)


@pytest.mark.parametrize(("workers", "expected"), [(0, 0.02 + 0.1), (4, 0.02 / 4 + 0.1)])
def test_an_image_is_read_and_shown(encoder, monkeypatch, workers: int, expected: float):
    clock = Clock(monkeypatch)

    class Images(Dataset):
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, i: int):
            clock.now += 0.02
            return Skipped("x", "y") if i == 0 else i

    def show(items) -> None:
        assert 0 not in items
        clock.now += 0.1 * len(items)

    read = ReadConfig(workers=workers, batch_size=8)
    assert seconds_shown(Images(), show, encoder(), read) == pytest.approx(expected)


def test_a_data_set_without_images_takes_no_time(encoder):
    class Empty(Dataset):
        def __len__(self) -> int:
            return 0

    assert seconds_shown(Empty(), lambda _: None, encoder(), ReadConfig()) == 0
    assert 0 < seconds_searched(8, 3, CPU) < 1e-3


def test_works_of_several_models_are_summed_up_in_one_line(encoder):
    progress, settings = Progress(), LinearSegSettings()
    run = EvaluationRun("linear-seg", [encoder("a"), encoder("b")], settings, progress)
    project(run, lambda one: [Work("images", 300, 1.0 if one.source == "a" else 2.0), Work("search", 0, 9.0)])
    assert progress.said == ["projected: 15 min (images 15 min)"]
    assert run.projected == {
        "seconds": 900.0,
        "works": {"images": {"units": 600, "seconds": 900.0}, "search": {"units": 0, "seconds": 0.0}},
    }
    assert run.results()["projected"]["seconds"] == 900
    silent = EvaluationRun("linear-seg", encoder(), settings)
    project(silent, lambda one: pytest.fail("nobody asked"))
    assert "projected" not in silent.results()


def test_times_are_said_in_words():
    told = [in_words(s) for s in (0.2, 59, 119, 121, 7000, 7300, 100_000, 300_000)]
    assert told == [
        "less than a second",
        "59 s",
        "119 s",
        "2 min",
        "117 min",
        "2.03 h",
        "27.8 h",
        "3.47 days",
    ]


def test_a_projection_changes_no_score_and_counts_what_is_left(encoder, segmented, monkeypatch, tmp_path):
    monkeypatch.setattr(projection, "ENOUGH", 0.01)
    root, model = segmented(), encoder()
    train, test = (open_segmented(root, "", part=part) for part in ("train", "val"))
    settings = LinearSegSettings(size=32, epochs=2, batch=2, lr=0.5, cache=str(tmp_path))
    silent = evaluate_linear_seg(model, train, test, replace(settings, cache=""))
    torch.manual_seed(5)
    before, progress = torch.random.get_rng_state(), Progress()
    found = evaluate_linear_seg(model, train, test, settings, progress)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found["rows"][0]["scores"] == silent["rows"][0]["scores"]
    assert progress.calls
    works = found["projected"]["works"]
    assert {name: one["units"] for name, one in works.items()} == {
        "test images": 4, "train views": 10, "the head": 10, "scores": 4 * (2 + 4)
    }  # fmt: skip
    assert all(np.isfinite(one["seconds"]) for one in works.values())
    again = evaluate_linear_seg(model, train, test, settings, Progress())
    left = {name: one["units"] for name, one in again["projected"]["works"].items()}
    assert left == {"test images": 0, "train views": 0, "the head": 0, "scores": 16}
