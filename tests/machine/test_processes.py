"""What processes do, against what they were made to do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from odis.machine.processes import processor_seconds, state_of, without_ctrl_c

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")


@contextmanager
def running(code: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def soon(happens: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.02)
    return happens()


def test_a_process_that_computes_is_told_from_one_that_sleeps() -> None:
    with running("while True: pass") as busy, running("import time; time.sleep(60)") as idle:
        assert soon(lambda: state_of(idle) == "S")
        before = processor_seconds([idle]), processor_seconds([busy]), processor_seconds([busy, idle])
        assert soon(lambda: (processor_seconds([busy]) or 0) > (before[1] or 0) + 0.2)
        after = processor_seconds([idle]), processor_seconds([busy, idle])
        assert after[0] == before[0]
        assert (after[1] or 0) >= (before[2] or 0) + 0.2
        os.kill(busy, signal.SIGSTOP)
        assert soon(lambda: state_of(busy) == "T")


def test_a_name_with_spaces_and_brackets_is_read_over() -> None:
    with running("open('/proc/self/comm', 'w').write('a) R 9 ('); import time; time.sleep(60)") as pid:
        assert soon(lambda: state_of(pid) == "S")
        assert processor_seconds([pid]) is not None


def test_what_has_ended_is_unknown() -> None:
    with running("pass") as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert state_of(pid) == "Z"
    assert state_of(pid) is None
    assert processor_seconds([os.getpid(), pid]) is None
    assert processor_seconds([]) == 0


def test_a_process_that_was_started_without_ctrl_c_never_hears_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    with without_ctrl_c(), running("import time; time.sleep(60)") as pid:
        assert soon(lambda: state_of(pid) == "S")
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
        assert state_of(pid) == "S"
    assert signal.getsignal(signal.SIGINT) == before
