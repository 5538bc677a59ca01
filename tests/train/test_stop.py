"""A signal ends a wait at once and a step never; several ranks stop together."""

import os
import signal
import time

import pytest
import torch

from odis import cli
from odis.errors import Preempted
from odis.machine.ranks import Ranks
from odis.train.stop import Interrupted, stop_signals

ONE, TWO = Ranks(0, 1, torch.device("cpu")), Ranks(0, 2, torch.device("cpu"))


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_and_wait() -> None:
    interrupt()
    time.sleep(30)


def test_between_waits_a_signal_only_asks() -> None:
    with stop_signals(ONE) as stop:
        assert not stop.is_set()
        interrupt()
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt) as second:
            interrupt()
        assert not isinstance(second.value, Interrupted), "the state may be half changed"


def test_a_wait_is_interrupted_at_once() -> None:
    with stop_signals(ONE) as stop:
        began = time.monotonic()
        with pytest.raises(Interrupted), stop.at_once():
            interrupt_and_wait()
        assert time.monotonic() - began < 10
        assert stop.asked


def test_a_wait_that_begins_after_the_signal_does_not_begin() -> None:
    with stop_signals(ONE) as stop:
        interrupt()
        with pytest.raises(Interrupted), stop.at_once():
            raise AssertionError("this was begun")


def test_ranks_are_not_interrupted_one_by_one() -> None:
    with stop_signals(TWO) as stop:
        with stop.at_once():
            interrupt()
        assert stop.asked


def test_what_one_rank_does_alone_is_interrupted() -> None:
    with stop_signals(TWO) as stop, pytest.raises(Interrupted), stop.at_once(alone=True):
        interrupt_and_wait()
    assert stop.asked


def test_a_preemption_is_told_from_an_interrupt_and_comes_once_however_often_it_is_sent() -> None:
    with stop_signals(ONE) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.is_set()
        assert isinstance(stop.interruption(), Preempted)
    with stop_signals(ONE) as stop:
        interrupt()
        assert type(stop.interruption()) is KeyboardInterrupt


@pytest.mark.parametrize(("under_torchrun", "code"), [(True, 0), (False, 130)])
def test_torchrun_does_not_start_again_what_was_preempted(
    under_torchrun: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def preempted(arguments: list[str]) -> None:
        raise Preempted

    monkeypatch.setattr(cli, "run", preempted)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if under_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    with pytest.raises(SystemExit) as end:
        cli.main(["pretrain"])
    assert end.value.code == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals(ONE):
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before
