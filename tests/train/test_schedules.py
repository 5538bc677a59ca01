"""Schedules against DINO's published arrays (`cosine_scheduler` of its utils, written out here)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odis.config.training import PretrainConfig
from odis.train.schedules import Schedules, cosine


def dino_cosine(base: float, final: float, total: int, warmup: int) -> np.ndarray:
    rise = np.linspace(0, base, warmup) if warmup else np.array([])
    steps = np.arange(total - warmup)
    return np.concatenate([rise, final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps / len(steps)))])


@given(base=st.floats(1e-6, 1), final=st.floats(0, 1), total=st.integers(2, 200), share=st.floats(0, 0.9))
def test_cosine_is_dinos(base: float, final: float, total: int, share: float) -> None:
    warmup = int(share * total)
    ours = [cosine(s, total, base, final, warmup) for s in range(total)]
    assert np.allclose(ours, dino_cosine(base, final, total, warmup), rtol=1e-9, atol=1e-12)


def schedules(images: int = 1000, **train: object) -> Schedules:
    config = PretrainConfig(data="x")
    for key, value in train.items():
        section, name = key.split("__")
        setattr(getattr(config, section), name, value)
    return Schedules(config, images)


def test_lengths_and_lr_follow_the_batch() -> None:
    s = schedules(1000, train__epochs=12.0, train__batch_size=64, optim__base_lr=4e-4)
    assert s.total_steps == round(12 * 1000 / 64)
    assert s.lr == pytest.approx(1e-4)
    assert schedules(5, train__steps=7, train__batch_size=64).total_steps == 7
    assert schedules(5, train__epochs=0.01, train__batch_size=64).total_steps == 1


def test_teacher_temperature_rises_linearly_then_stays() -> None:
    s = schedules(640, train__epochs=100.0, train__batch_size=64)  # 10 steps an epoch, 300 steps of warm-up
    temps = [s.at(step).teacher_temp for step in range(s.total_steps)]
    assert temps[0] == 0.04
    assert temps[150] == pytest.approx(0.055)
    assert temps[300:] == pytest.approx([0.07] * 700)


def test_momentum_and_decay_end_where_they_should_and_the_last_layer_thaws() -> None:
    s = schedules(640, train__epochs=10.0, train__batch_size=64, optim__freeze_last_layer_epochs=2.0)
    first, last = s.at(0), s.at(s.total_steps - 1)
    assert first.momentum_teacher == pytest.approx(0.996)
    assert first.weight_decay == pytest.approx(0.04)
    assert last.momentum_teacher == pytest.approx(1, abs=1e-5)
    assert last.weight_decay == pytest.approx(0.4, abs=1e-3)
    assert [s.at(i).last_layer_frozen for i in (0, 19, 20, 99)] == [True, True, False, False]


def test_a_warm_up_longer_than_the_run_still_reaches_the_peak() -> None:
    s = schedules(640, train__steps=10, train__batch_size=64, optim__warmup_epochs=50.0)
    assert max(s.at(i).lr for i in range(10)) == pytest.approx(s.lr)


def test_a_freeze_longer_than_the_run_ends_half_way_unless_it_is_for_always() -> None:
    short = {"train__steps": 10, "train__batch_size": 64}
    s = schedules(640, **short, optim__freeze_last_layer_epochs=900.0)
    assert [s.at(i).last_layer_frozen for i in range(10)] == [True] * 5 + [False] * 5
    s = schedules(640, **short, optim__freeze_last_layer_epochs="always")
    assert all(s.at(i).last_layer_frozen for i in range(10))


@given(
    images=st.integers(1, 500), batch=st.integers(1, 64), steps=st.integers(2, 100), epochs=st.floats(0, 20)
)
def test_prototypes_that_may_train_do(images: int, batch: int, steps: int, epochs: float) -> None:
    s = schedules(images, train__steps=steps, train__batch_size=batch, optim__freeze_last_layer_epochs=epochs)
    frozen = [s.at(i).last_layer_frozen for i in range(steps)]
    assert frozen == sorted(frozen, reverse=True), "frozen at first, then no longer"
    assert sum(frozen) == min(round(epochs * images / batch), steps // 2)
