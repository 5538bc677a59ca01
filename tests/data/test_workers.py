"""A killed worker, each of the ways in which torch tells of it; workers that do not answer, or cannot start;
Ctrl-C; and the errors that are something else.
"""

import multiprocessing
import os
import signal
import threading
import time
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from odis.data import handover, workers
from odis.data.workers import WorkerLoader, watched, worker_error
from odis.errors import OdisError, OdisWarning, WorkerError
from odis.machine.shared_memory import SharedMemory


class Rows(Dataset):
    """40 tensors; row 7 is `at_seven()`."""

    def __init__(self, at_seven):
        self.at_seven = at_seven

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return self.at_seven() if i == 7 else torch.full((3,), i)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def lose_a_file():
    raise FileNotFoundError(2, "gone", "a.jpg")


def read(at_seven, count):
    loader = DataLoader(Rows(at_seven), batch_size=None, num_workers=count)
    return [int(row[0]) for row in watched(iter(loader), count)]


def test_all_batches_pass_in_order():
    assert read(lambda: torch.full((3,), 7), 2) == list(range(40))


def test_a_killed_worker_is_told_of_in_one_line():
    with pytest.raises(WorkerError, match=r"DataLoader worker .*memory.*fewer workers") as told:
        read(die, 2)
    assert "\n" not in str(told.value)
    assert not multiprocessing.active_children()  # the other one ended too
    assert isinstance(told.value, OdisError)


@pytest.mark.parametrize(
    "error", [EOFError(), ConnectionRefusedError(111, "refused"), ConnectionResetError(), FileNotFoundError()]
)
def test_a_socket_at_which_nobody_answers_is_a_killed_worker(error):
    def batches():
        yield 1
        raise error

    seen = watched(batches(), workers=2)
    assert next(seen) == 1
    with pytest.raises(WorkerError, match=f"DataLoader worker.*{type(error).__name__}"):
        next(seen)
    with pytest.raises(type(error)):  # without workers there is no socket
        list(watched(batches(), workers=0))


@pytest.mark.parametrize("count", [0, 1])
def test_what_the_dataset_raises_stays_what_it_is(count):
    with pytest.raises(FileNotFoundError, match="gone"):
        read(lose_a_file, count)


def test_other_runtime_errors_stay_what_they_are():
    assert worker_error(RuntimeError("CUDA out of memory")) is None

    def batches():
        yield 1
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="CUDA out of memory") as told:
        list(watched(batches(), workers=2))
    assert not isinstance(told.value, WorkerError)


def test_torchs_signal_handler_is_understood():
    death = worker_error(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "))
    assert str(death).startswith("DataLoader worker (pid 12) is killed by signal: Killed. Mostly")


def test_a_death_told_of_twice_is_one_error(monkeypatch):
    """torch's handler of SIGCHLD may run after `next` has told of the death."""
    says = "DataLoader worker (pid 12) is killed by signal: Killed. "

    def batches():
        yield 1
        raise RuntimeError(says)

    set_aside, entered = workers._unaware_of_children, []

    def interrupted():
        entered.append(len(entered))
        if len(entered) == 1:
            raise RuntimeError(says)
        return set_aside()

    monkeypatch.setattr(workers, "_unaware_of_children", interrupted)
    with pytest.raises(WorkerError, match="pid 12"):
        list(watched(batches(), workers=2))
    assert entered == [0, 1]


# --- workers that do not answer, or not yet
# ------------------------------------------------------------------------------------------------------------


def loader(at_seven, count=2, **more) -> WorkerLoader:
    return WorkerLoader(Rows(at_seven), workers=count, batch_size=None, **more)


def values(batches) -> list[int]:
    return [int(row[0]) for row in batches]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(workers, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(workers, "ASLEEP", 1.0)


def no_workers_left() -> bool:
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not multiprocessing.active_children()


def sleep():
    time.sleep(300)


def compute():
    end = time.process_time() + 1.5
    while time.process_time() < end:
        pass
    return torch.full((3,), 7)


def spin():
    while True:
        pass


@pytest.mark.usefixtures("impatient")
def test_workers_that_sleep_are_given_up_with_a_diagnosis():
    began = time.monotonic()
    with pytest.raises(WorkerError) as told:
        values(loader(sleep, option="--loader.workers"))
    line = str(told.value)
    assert line.startswith("none of 2 data workers has answered for ")
    assert "all are asleep; /dev/shm has " in line
    assert line.endswith("--loader.workers 0 reads in this process and shows what stops them")
    assert time.monotonic() - began < 60
    assert no_workers_left()


@pytest.mark.usefixtures("impatient")
def test_workers_that_compute_are_waited_for():
    assert values(loader(compute)) == list(range(40))


@pytest.mark.usefixtures("impatient")
def test_nobody_is_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(workers, "BUSY", 2.0)
    with pytest.raises(WorkerError, match="they compute, but no batch comes"):
        values(loader(spin))
    assert no_workers_left()


@pytest.mark.parametrize(
    ("states", "says"),
    [
        ({"S"}, "all are asleep"),
        ({"S", "T"}, "some are stopped"),
        ({"S", "D"}, "some wait for a disk or a network folder"),
        ({"R", "S"}, "they compute"),
        ({None}, "they compute"),
    ],
    ids=["asleep", "stopped", "disk", "running", "unknown"],  # a set has no order to name a test by
)
def test_the_diagnosis_follows_the_states(states, says):
    assert f"for 120 s: {says}" in workers._no_answer(3, 120.4, states, "--workers")


@pytest.mark.usefixtures("impatient")
def test_a_wait_for_a_disk_is_no_sleep(monkeypatch):
    """Reading takes no processor time, but the system says what such a process waits for."""
    monkeypatch.setattr(workers, "state_of", lambda pid: "D")
    monkeypatch.setattr(workers, "BUSY", 2.5)
    began = time.monotonic()
    with pytest.raises(WorkerError, match="disk"):
        values(loader(sleep))
    assert time.monotonic() - began > 2.5


# --- Ctrl-C
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_seven", [sleep, spin])
def test_ctrl_c_ends_a_wait_and_its_workers_at_once(at_seven):
    batches = iter(loader(at_seven))
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        values(batches)
    assert time.monotonic() - began < 10
    assert no_workers_left()


def test_workers_leave_ctrl_c_to_this_process():
    batches = iter(loader(lambda: torch.full((3,), 7)))
    next(batches)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    assert values(batches) == list(range(1, 40))


def test_a_loader_that_is_left_early_ends_its_workers_at_once():
    batches = iter(loader(sleep))
    next(batches)
    began = time.monotonic()
    del batches
    assert no_workers_left()
    assert time.monotonic() - began < 5


def test_ctrl_c_while_workers_are_ended_is_not_lost():
    """A loader that is dropped ends its workers where an exception would be printed and ignored."""
    held = [iter(loader(sleep))]
    for _ in range(5):  # the row that sleeps is asked for ahead
        next(held[0])
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))  # ending them takes half a second
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        drop_and_wait(held)
    assert no_workers_left()


def drop_and_wait(held):
    held.clear()
    time.sleep(5)


class Writer(Dataset):
    """Its second row is at work in `written_whole` when the worker is ended."""

    def __init__(self, out):
        self.out = out

    def __len__(self):
        return 2

    def __getitem__(self, i):
        from odis.machine.files import written_whole

        if i:
            with written_whole(self.out, cache=True) as beside:
                beside.write_text("half")
                (self.out.parent / "begun").touch()
                time.sleep(300)
        return torch.zeros(1)


def test_a_worker_that_is_ended_leaves_no_half_written_file(tmp_path):
    batches = iter(WorkerLoader(Writer(tmp_path / "copy"), workers=2, batch_size=None))
    next(batches)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    del batches
    assert no_workers_left()
    assert [p.name for p in tmp_path.iterdir()] == ["begun"]


# --- shared memory that is too small
# ------------------------------------------------------------------------------------------------------------


def test_batches_that_do_not_fit_come_through_pipes_and_are_announced_once(monkeypatch):
    monkeypatch.setattr(handover, "shared_memory", lambda: SharedMemory(2**26, 5))
    with pytest.warns(OdisWarning) as said:
        assert values(loader(lambda: torch.full((3,), 7), option="--loader.workers")) == list(range(40))
    (warning,) = said
    assert str(warning.message).startswith("/dev/shm has 64 MiB, of which 0.0 MiB are free, but the batches")
    assert str(warning.message).endswith("through pipes, which is slower (--loader.workers 0 needs none)")


def test_batches_that_fit_are_not_spoken_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(values(loader(lambda: torch.full((3,), 7)))) == 40


def test_a_batch_that_cannot_be_handed_over_is_an_error_not_a_hang():
    """As when another program fills the shared memory between the look and the use of it."""
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"DataLoader worker .*(exited|gone)") as told:
        values(loader(lambda: threading.Lock()))
    assert "Rerunning with num_workers" not in str(told.value)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (28, r"cannot be started \(No space left on device\); their locks lie in shared memory: /dev/shm"),
        (12, r"cannot be started \(Cannot allocate memory\); --workers 0 reads in this process"),
    ],
)
def test_workers_that_cannot_be_started_are_one_line(monkeypatch, number, says):
    def fails(self):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(DataLoader, "__iter__", fails)
    with pytest.raises(WorkerError, match=says):
        iter(loader(die))
    with pytest.raises(OSError, match=os.strerror(number)):  # no worker is to blame
        iter(loader(die, count=0))


def test_a_death_with_full_shared_memory_is_blamed_on_it(monkeypatch):
    death = "DataLoader worker (pid 3) exited unexpectedly with exit code 1. Details are lost due to. Rerun"
    monkeypatch.setattr(workers, "shared_memory", lambda: SharedMemory(2**26, 2**20))
    assert str(worker_error(RuntimeError(death))) == (
        "DataLoader worker (pid 3) exited unexpectedly with exit code 1. Shared memory is full: /dev/shm has "
        "64 MiB, of which 1.0 MiB are free; docker run --shm-size 2g gives more, fewer workers need less"
    )
    monkeypatch.setattr(workers, "shared_memory", lambda: SharedMemory(2**34, 2**34))
    assert "Mostly the system ran out of memory" in str(worker_error(RuntimeError(death)))
    bus = "DataLoader worker (pid 3) is killed by signal: Bus error. It is possible that dataloader's workers"
    assert "Shared memory is full" in str(worker_error(RuntimeError(bus)))
