"""The thread of the networks: one thing at a time, the newest question of a page, jobs give way."""

import threading
from concurrent.futures import Future

import pytest

from odis.explorer import worker as module
from odis.explorer.refusal import RefusedError
from odis.explorer.worker import NetworkWorker, SupersededError


class Busy:
    """Keeps the worker at work until it is let go."""

    def __init__(self, worker: NetworkWorker) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.done: Future[None] = worker.ask("busy", self._work)
        assert self.begun.wait(10)

    def _work(self) -> None:
        self.begun.set()
        assert self.go.wait(10)


def test_a_newer_question_takes_the_place_of_one_that_waits_and_of_none_that_runs() -> None:
    ran: list[int] = []
    with NetworkWorker() as worker:
        busy = Busy(worker)
        first, other = worker.ask("a", lambda: ran.append(1)), worker.ask("b", lambda: ran.append(2))
        newer = worker.ask("a", lambda: ran.append(3))
        with pytest.raises(SupersededError):
            first.result(10)
        running = worker.ask("busy", lambda: ran.append(4))
        busy.go.set()
        assert [f.result(10) for f in (busy.done, other, newer, running)] == [None] * 4
    assert ran == [2, 3, 4]
    assert SupersededError().status == 409


def test_one_thing_runs_at_a_time_and_in_the_order_of_questions() -> None:
    running, most, order = 0, 0, []
    lock = threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        order.append(number)
        with lock:
            running -= 1
        return number

    with NetworkWorker() as worker:
        busy = Busy(worker)
        asked = [worker.ask(k, lambda k=k: work(k)) for k in range(20)]
        busy.go.set()
        assert [future.result(10) for future in asked] == list(range(20)) == order
    assert most == 1


def test_too_many_questions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 2)
    with NetworkWorker() as worker:
        busy = Busy(worker)
        waiting = [worker.ask(k, int) for k in range(2)]
        with pytest.raises(RefusedError, match="2 questions wait already"):
            worker.ask("more", int)
        newer = worker.ask(1, int)  # in the place of another
        busy.go.set()
        assert (waiting[0].result(10), newer.result(10)) == (0, 0)


def test_a_job_gives_way_to_questions_where_it_pauses_and_ends_when_the_worker_closes() -> None:
    order: list[str] = []
    begun, asked, stopped = threading.Event(), threading.Event(), threading.Event()

    def job(pause: module.Pause) -> None:
        begun.set()
        assert asked.wait(10)
        try:
            while True:
                order.append("job")
                pause()
        finally:
            stopped.set()

    with NetworkWorker() as worker:
        worker.add_job(job)
        assert begun.wait(10)
        question = worker.ask("a", lambda: order.append("question"))
        asked.set()
        question.result(10)
    assert stopped.is_set()
    assert order[:2] == ["job", "question"]


def test_an_error_is_the_answer_and_the_worker_goes_on(recwarn: pytest.WarningsRecorder) -> None:
    def wrong() -> None:
        raise ValueError("no")

    def wrong_job(pause: module.Pause) -> None:
        raise ValueError("the job's own")

    with NetworkWorker() as worker:
        with pytest.raises(ValueError, match="no"):
            worker.ask("a", wrong).result(10)
        ended = threading.Event()
        worker.add_job(wrong_job)
        worker.add_job(lambda pause: ended.set())
        assert ended.wait(10)
        assert worker.ask("b", lambda: 3).result(10) == 3
    assert any("the job's own" in str(one.message) for one in recwarn)


def test_a_closed_worker_answers_nothing_more() -> None:
    with NetworkWorker() as worker:
        busy = Busy(worker)
        waiting = worker.ask("a", int)
        threading.Timer(0.05, busy.go.set).start()
    with pytest.raises(RefusedError, match="closing"):
        waiting.result(10)
    with pytest.raises(RefusedError, match="closing"):
        worker.ask("a", int)
