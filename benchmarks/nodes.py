"""Two nodes with one network between them, on one machine: each is a network namespace of its own, with
`torchrun` in it.

    sudo python benchmarks/nodes.py [--steps 400] [--out FOLDER] [--json FILE]

It needs root and iproute2. Three runs of two ranks, on images that are made here:

1. both ranks on one node, undisturbed;
2. a rank on each node, undisturbed;
3. a rank on each node, of which the second loses its network once it trains. When both have
   ended it is back, and the same commands go on.

All three must end with the same weights and the same lines of losses, bit for bit. Printed is how long each
node takes to end after the cut, and what it says.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soak.cases import make_world, run_content

NODES = ("odis-node0", "odis-node1")
CABLES = ("odis-veth0", "odis-veth1")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
LAST = 120  # seconds after which a node that has not ended counts as hanging

_STEP = re.compile(r"^step \d+/\d+  loss", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400, help="steps of a run (default: 400)")
    parser.add_argument("--out", type=Path, help="where runs and logs go (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    if os.geteuid():
        parser.error("network namespaces need root")
    out = (args.out or Path(tempfile.mkdtemp(prefix="odis-nodes-"))).absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "x.parquet").exists():
        make_world(out)
    with network():
        found = compare(out, args.steps)
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    if not found["two nodes equal one"] or not found["resumed equals undisturbed"]:
        sys.exit("the runs differ")


@contextmanager
def network() -> Iterator[None]:
    """Two namespaces, a cable between them."""
    try:
        for node in NODES:
            _ip("netns", "add", node)
            _ip("-n", node, "link", "set", "lo", "up")
        ends = ("netns", NODES[0], "type", "veth", "peer", "name", CABLES[1], "netns", NODES[1])
        _ip("link", "add", CABLES[0], *ends)
        for node, cable, address in zip(NODES, CABLES, ADDRESSES):
            _ip("-n", node, "address", "add", f"{address}/24", "dev", cable)
            _ip("-n", node, "link", "set", cable, "up")
        yield
    finally:
        for node in NODES:
            subprocess.run(["ip", "netns", "delete", node], stderr=subprocess.DEVNULL, check=False)


def compare(out: Path, steps: int) -> dict[str, Any]:
    """The three runs, and what they say of each other."""
    one = out / "one-node"
    _end(start(out, one, steps, nodes=1))
    two = out / "two-nodes"
    _end(start(out, two, steps, nodes=2))
    cut = out / "cut"
    first, second = start(out, cut, steps, nodes=2)
    while not _STEP.search(_log(cut, 0)):
        if first.poll() is not None:
            sys.exit(f"ended before its first step:\n{_log(cut, 0)[-2000:]}")
        time.sleep(0.05)
    time.sleep(1)
    _ip("-n", NODES[1], "link", "set", CABLES[1], "down")
    gone = time.monotonic()
    codes, seconds = [], []
    for node in (first, second):
        try:
            codes.append(node.wait(LAST - (time.monotonic() - gone)))
        except subprocess.TimeoutExpired:
            codes.append(None)
            os.killpg(node.pid, signal.SIGKILL)
        seconds.append(round(time.monotonic() - gone, 1))
    said = [_errors(_log(cut, node)) for node in range(2)]
    reached = len((cut / "run" / "metrics.jsonl").read_text().splitlines())
    _ip("-n", NODES[1], "link", "set", CABLES[1], "up")
    _end(start(out, cut, steps, nodes=2))
    whole = run_content(one)
    return {
        "two nodes equal one": run_content(two) == whole,
        "exit codes of the nodes after the cut": codes,
        "seconds from the cut to the end of both": seconds,
        "what they said": said,
        "lines of metrics before the cut": reached,
        "lines of metrics": len(whole["lines"]),
        "resumed equals undisturbed": run_content(cut) == whole,
    }


def start(world: Path, out: Path, steps: int, *, nodes: int) -> list[subprocess.Popen[bytes]]:
    """torchrun on each node, with two ranks in all."""
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "train.steps": steps, "train.batch_size": 4, "train.threads": 1, "train.checkpoint_every": 20,
        "train.log_every": 1, "train.device": "cpu", "train.keep": 2, "loader.workers": 0,
        "views.global_size": 32, "views.local_size": 16, "model.embed_dim": 32, "model.num_heads": 2,
        "model.depth": 1, "head.prototypes": 24,
    }  # fmt: skip
    job = ["pretrain", "--recipe", "debug", "--data", str(world / "x.parquet"), "--out", str(out / "run")]
    job += [f"--{name}={value}" for name, value in settings.items()]
    started = []
    for node in range(nodes):
        words = [
            "ip", "netns", "exec", NODES[node], sys.executable, "-m", "torch.distributed.run",
            f"--nnodes={nodes}", f"--nproc-per-node={2 // nodes}", f"--node-rank={node}",
            f"--local-addr={ADDRESSES[node]}", f"--master-addr={ADDRESSES[0]}", "--master-port=29500",
            "-m", "odis", *job,
        ]  # fmt: skip
        environment = os.environ | {"GLOO_SOCKET_IFNAME": CABLES[node], "OMP_NUM_THREADS": "1"}
        with (out.parent / f"{out.name}-{node}.log").open("wb") as log:
            started.append(
                subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
            )
    return started


def _log(out: Path, node: int) -> str:
    return (out.parent / f"{out.name}-{node}.log").read_text(errors="replace")


def _errors(log: str) -> list[str]:
    """What odis said, of all that torchrun printed."""
    return [line for line in log.splitlines() if line.startswith("error:")]


def _end(nodes: list[subprocess.Popen[bytes]]) -> None:
    codes = [node.wait() for node in nodes]
    if any(codes):
        sys.exit(f"a run that nothing disturbed ended with {codes}")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


if __name__ == "__main__":
    main()
