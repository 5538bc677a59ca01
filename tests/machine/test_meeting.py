"""Ranks of one start get one word, whatever ranks of earlier starts left in the store."""

import threading
import time

import pytest
import torch.distributed as dist

from odis.errors import OdisError
from odis.machine.meeting import meet


def start(store: dist.Store, delays: dict[int, float]) -> list[str]:
    """The words of the ranks of a start, each of which begins after its delay."""
    words: dict[int, str] = {}

    def run(rank: int) -> None:
        time.sleep(delays[rank])
        words[rank] = meet(store, rank, len(delays), limit=30)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in delays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [words[rank] for rank in delays]


@pytest.mark.parametrize("delays", [{0: 0.0, 1: 0.2, 2: 0.0}, {0: 0.2, 1: 0.0, 2: 0.0}])
def test_each_start_has_a_word_of_its_own(delays: dict[int, float]) -> None:
    """A rank that is there before the first one finds the word of the start before."""
    store = dist.HashStore()
    words = [start(store, delays) for _ in range(3)]
    assert all(len(set(one)) == 1 for one in words)
    assert len({one[0] for one in words}) == 3


def test_a_start_that_was_killed_before_all_had_met_is_forgotten() -> None:
    store = dist.HashStore()
    with pytest.raises(OdisError, match=r"not all ranks came within 0\.1 s"):
        meet(store, 0, 2, limit=0.1)
    dead = store.get("odis/start").decode()
    with pytest.raises(OdisError, match="not all ranks"):
        meet(store, 1, 2, limit=0.1)  # it has answered, and dies too
    words = start(store, {0: 0.2, 1: 0.0})
    assert words[0] == words[1] != dead
