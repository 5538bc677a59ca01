"""Freed memory goes back to the system."""

import subprocess
import sys

import pytest

HELD = """
import sys
import torch
from odis.train.memory import return_freed_memory

def resident():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) / 1024

if sys.argv[1] == "returned":
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_blocks_are_given_back():
    held = float(subprocess.run([sys.executable, "-c", HELD, "returned"], capture_output=True, text=True, check=True).stdout)
    assert held < 20  # of the 200 MiB that were taken


def test_elsewhere_nothing_is_changed(monkeypatch):
    from odis.train import memory

    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.return_freed_memory() is False


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_run_that_saves_memory_asks_for_it(checkpointing, monkeypatch):
    import torch

    from odis.options import load_recipe
    from odis.train import start
    from odis.train.distributed import Ranks

    asked = []
    monkeypatch.setattr(start, "return_freed_memory", lambda: asked.append(True))
    config = load_recipe("debug", data="x", model__grad_checkpointing=checkpointing)
    start.build_run(config, Ranks(0, 1, torch.device("cpu")), images=8)
    assert bool(asked) is checkpointing
