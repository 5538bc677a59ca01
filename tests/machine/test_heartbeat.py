"""Ranks that are silent are named within a stated time; those that say that they leave are not."""

import threading
import time

import pytest

from odis.machine.heartbeat import BEAT, LIMIT, Heartbeat, is_of_a_peer

FAST, SILENCE = 0.02, 0.3


class Box:
    """A store in this process, which may go away."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.gone = False
        self.open = threading.Event(), threading.Event()  # whether it answers a rank; else it waits
        for one in self.open:
            one.set()

    def set(self, key: str, value: str) -> None:
        self.open[int(key[-1])].wait(60)
        if self.gone:
            raise ConnectionError
        self.values[key] = value

    def multi_get(self, keys: list[str]) -> list[bytes]:
        if self.gone:
            raise ConnectionError
        return [self.values[key].encode() for key in keys]


class Pausable(threading.Event):
    """An event whose waits go on only while the process does, as it seems."""

    def __init__(self, running: threading.Event) -> None:
        super().__init__()
        self._running = running

    def wait(self, timeout: float | None = None) -> bool:
        found = super().wait(timeout)
        self._running.wait(60)
        return found


class Two:
    """Two ranks, and the lines with which they end."""

    def __init__(self) -> None:
        self.box, self.lines = Box(), list[str]()
        self.ranks = [
            Heartbeat(self.box, rank, 2, "x", end=self.lines.append, beat=FAST, limit=SILENCE)
            for rank in (0, 1)
        ]
        self.running = threading.Event(), threading.Event()  # whether the process of a rank runs
        for rank, one in zip(self.ranks, self.running):
            one.set()
            rank._stopped, rank._left = Pausable(one), Pausable(one)

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.lines and time.monotonic() < until:
            time.sleep(FAST)


def test_ranks_that_beat_and_ranks_that_leave_are_let_be() -> None:
    two = Two()
    for rank in two.ranks:
        rank.start()
    two.wait(2 * SILENCE)
    two.ranks[1].stop()
    two.wait(2 * SILENCE)
    two.ranks[0].stop()
    assert two.lines == []


def test_a_silent_rank_is_named_in_the_stated_time() -> None:
    two = Two()
    two.ranks[0].start()  # the other one never beats
    two.wait(60)
    (line,) = two.lines
    assert line.startswith("rank 1 of 2, on ")
    assert "was not heard of for 0.3 s" in line
    assert LIMIT <= 60
    assert BEAT < LIMIT / 10


def test_ranks_that_are_stopped_together_are_let_be() -> None:
    """As by `scontrol suspend`: the first to go on hears nothing new for a while."""
    two = Two()
    for rank in two.ranks:
        rank.start()
    two.wait(5 * FAST)
    for one in reversed(two.running):
        one.clear()
        two.wait(5 * FAST)
    two.wait(2 * SILENCE)
    two.running[0].set()
    two.wait(3 * FAST)
    two.running[1].set()
    two.wait(2 * SILENCE)
    assert two.lines == []
    for rank in two.ranks:
        rank.stop()


def test_a_store_that_is_away_for_a_while_makes_nobody_silent() -> None:
    two = Two()
    for rank in two.ranks:
        rank.start()
    two.wait(5 * FAST)
    two.running[1].clear()
    two.box.gone = True
    two.wait(0.75 * SILENCE)
    two.box.gone = False
    two.wait(0.5 * SILENCE)
    two.running[1].set()
    two.wait(2 * SILENCE)
    assert two.lines == []
    for rank in two.ranks:
        rank.stop()


def test_a_rank_of_an_earlier_start_says_nothing_to_this_one() -> None:
    two = Two()
    dead = Heartbeat(two.box, 1, 2, "earlier", beat=FAST, limit=SILENCE)
    dead.stop("ValueError: no")
    assert (two.ranks[0].missing() or "").endswith("is gone")


def test_a_store_that_is_gone_is_the_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node01")
    two = Two()
    two.ranks[1].start()
    two.box.gone = True
    two.wait(60)
    assert two.lines[0].startswith("the first node (node01) does not answer")
    assert (two.ranks[1].missing() or "").startswith("the first node (node01)")
    two.ranks[1].stop("said to nobody")


def test_a_store_that_never_answers_is_gone_too() -> None:
    """As one behind a cable that was pulled: the look at it does not return."""
    two = Two()
    two.ranks[1].start()
    two.wait(5 * FAST)
    two.box.open[1].clear()
    two.wait(60)
    (line,) = two.lines
    assert "does not answer" in line
    two.box.open[1].set()
    two.ranks[1].stop()


def test_after_a_failed_collective_it_is_told_who_is_missing() -> None:
    two = Two()
    two.ranks[0].start()
    assert (two.ranks[0].missing() or "").endswith("is gone")
    two.ranks[1].start()
    assert two.ranks[0].missing() is None
    two.ranks[1].stop("ValueError: no")
    assert (two.ranks[0].missing() or "").endswith("ended: ValueError: no")
    two.ranks[0].stop()


def test_errors_of_collectives_are_told_from_others() -> None:
    assert is_of_a_peer(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    assert not is_of_a_peer(RuntimeError("shapes do not match"))
    assert not is_of_a_peer(ConnectionError("Connection reset by peer"))
