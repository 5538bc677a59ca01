"""A killed worker, each of the ways in which torch tells of it; and the errors that are something else."""

import multiprocessing
import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from odis.data import workers
from odis.data.workers import watched, worker_error
from odis.errors import OdisError, WorkerError


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
