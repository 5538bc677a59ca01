"""Freed memory goes back to the system."""

import subprocess
import sys

import pytest

HELD = """
import sys
import torch
from odis.machine.allocator import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) / 1024

if sys.argv[1] == "kept":
    assert keep_freed_memory()
else:
    assert return_freed_memory()
warm = torch.ones(8 * 2**20)  # glibc takes the size of this for its threshold when it is freed
del warm
before = resident()
blocks = [torch.ones(2**18) for _ in range(200)]  # 1 MiB each
del blocks[::2]
blocks = blocks[:1]  # the one that stays lies below all that were freed
last = torch.ones(16)
print(resident() - before)
"""


REUSED = """
import resource
import torch
from odis.machine.allocator import keep_freed_memory

def new_pages(large):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(large)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_freed_memory()
print(new_pages(2**24), new_pages(2**24 - 2**12))  # a little less: what is freed need not be aligned
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_blocks_are_given_back():
    held = float(
        subprocess.run(
            [sys.executable, "-c", HELD, "returned"], capture_output=True, text=True, check=True
        ).stdout
    )
    assert held < 20  # of the 200 MiB that were taken


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_memory_that_is_kept_is_there_for_what_comes_next():
    held = float(
        subprocess.run(
            [sys.executable, "-c", HELD, "kept"], capture_output=True, text=True, check=True
        ).stdout
    )
    assert held > 150
    done = subprocess.run([sys.executable, "-c", REUSED], capture_output=True, text=True, check=True)
    first, again = map(int, done.stdout.split())
    assert first > 10_000  # 64 MiB in pages of 4 KiB
    assert again < first / 20


def test_elsewhere_nothing_is_changed(monkeypatch):
    from odis.machine import allocator as memory

    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.return_freed_memory() is False
    assert memory.keep_freed_memory() is False


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_run_that_saves_memory_returns_it_and_any_other_keeps_it(checkpointing, monkeypatch):
    import torch

    from odis.config.options import load_recipe
    from odis.machine.ranks import Ranks
    from odis.train import start

    asked = []
    monkeypatch.setattr(start, "return_freed_memory", lambda: asked.append("return"))
    monkeypatch.setattr(start, "keep_freed_memory", lambda: asked.append("keep"))
    config = load_recipe("debug", data="x", model__grad_checkpointing=checkpointing)
    start.build_run(config, Ranks(0, 1, torch.device("cpu")), images=8)
    assert asked == ["return" if checkpointing else "keep"]
