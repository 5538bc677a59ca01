"""Names of devices and precisions: what each means here, and what is refused."""

import platform
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from odis.errors import ConfigError
from odis.machine import devices
from odis.machine.devices import (
    CLEARLY_FASTER,
    bf16_speedup,
    describe_device,
    resolve_device,
    resolve_precision,
)

CPU, GPU, APPLE = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine with two GPUs, by all that torch says; the devices that were made current."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_is_the_gpu_of_this_rank(two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("auto") == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("auto") == torch.device("cuda:1")
    assert two_gpus == [torch.device("cuda:0"), torch.device("cuda:1")]


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_a_gpu_is_the_cpu_also_of_a_later_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("auto") == CPU


def test_auto_never_takes_mps_which_is_had_by_name(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == CPU
    assert resolve_device("mps") == APPLE


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpu", r"train\.device: is 'gpu', must be auto, cpu, cuda, cuda:N or mps"),
        ("xpu", r"train\.device: is 'xpu', must be auto, cpu, cuda, cuda:N or mps"),
        ("", r"train\.device: is '', must be auto"),
        ("cuda", r"train\.device: is 'cuda', but 0 GPUs are here; auto takes what there is"),
        ("cuda:4", r"train\.device: is 'cuda:4', but 0 GPUs are here"),
        ("mps", r"train\.device: is 'mps', but this machine has none"),
    ],
)
def test_other_devices_are_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}"):
        resolve_device(name, "train.device")


def test_a_gpu_beyond_those_that_are_here(two_gpus: list[torch.device]) -> None:
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("cuda") == GPU
    with pytest.raises(ConfigError, match=r"^device: is 'cuda:2', but 2 GPUs are here"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_named_precision_is_taken_on_any_device(name: str, dtype: torch.dtype) -> None:
    for device in (CPU, GPU, APPLE):
        found = resolve_precision(name, device, measure=True)
        assert (found.name, found.dtype, found.why) == (name, dtype, "")


def test_another_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^precision: is 'half', must be one of auto, fp32, bf16, fp16$"):
        resolve_precision("half", CPU)


@pytest.mark.parametrize("able", [True, False])
def test_auto_on_a_gpu_is_bf16_if_it_computes_in_it(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    def supported(*, including_emulation: bool) -> bool:
        return able or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    for measure in (True, False):
        found = resolve_precision("auto", GPU, measure=measure)
        assert found.name == ("bf16" if able else "fp32")
        assert "GPU" in found.why


@pytest.mark.parametrize(
    ("ratio", "name"),
    [(2.0, "bf16"), (CLEARLY_FASTER, "bf16"), (CLEARLY_FASTER - 0.01, "fp32"), (1.0, "fp32"), (0.55, "fp32")],
)
def test_auto_on_a_cpu_takes_bf16_only_where_its_products_are_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, ratio: float, name: str
) -> None:
    monkeypatch.setattr(devices, "bf16_speedup", lambda threads: ratio)
    found = resolve_precision("auto", CPU, measure=True)
    assert found.name == name
    assert f"{ratio:.1f} times as fast" in found.why
    assert resolve_precision("auto", CPU).name == "fp32"
    assert resolve_precision("auto", APPLE, measure=True).name == "fp32"


@pytest.fixture
def measured_anew() -> None:
    bf16_speedup.cache_clear()


@pytest.mark.usefixtures("measured_anew")
@pytest.mark.parametrize("slow", [torch.float32, torch.bfloat16])
def test_the_faster_type_is_found(monkeypatch: pytest.MonkeyPatch, slow: torch.dtype) -> None:
    """Products of one type are held up by 100 times what both need, whichever this CPU is faster in."""
    own = F.linear
    calls = []

    def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        calls.append(x.dtype)
        result = own(x, weight)
        if x.dtype == slow:
            time.sleep(0.2)
        return result

    monkeypatch.setattr(F, "linear", linear)
    ratio = bf16_speedup(torch.get_num_threads())
    assert ratio > CLEARLY_FASTER if slow == torch.float32 else ratio < 1
    assert set(calls) == {torch.float32, torch.bfloat16}
    before = len(calls)
    assert bf16_speedup(torch.get_num_threads()) == ratio
    assert len(calls) == before


@pytest.mark.usefixtures("measured_anew")
def test_it_is_measured_in_a_moment() -> None:
    """A step of training takes longer; ten seconds are for a machine that is busy."""
    start = time.perf_counter()
    bf16_speedup(torch.get_num_threads())
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC  9R14\nmodel name\t: x\n", "AMD EPYC 9R14"),
        ("processor\t: 0\nBogoMIPS\t: 50\n", None),  # ARM tells no name
        ("model name\t: \n", None),
    ],
)
def test_a_cpu_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch, info: str, name: str | None) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, **_: info)
    devices._processor.cache_clear()
    said = describe_device(torch.device("cpu"))
    devices._processor.cache_clear()
    kind = name or f"{platform.processor() or platform.machine()} CPU"
    threads = torch.get_num_threads()
    assert said == f"{kind}, {threads} thread{'' if threads == 1 else 's'}"
