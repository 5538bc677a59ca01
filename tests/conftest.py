"""Real images for tests; a test that asks for them is skipped where they are missing."""

import os
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says nothing of the code on a machine that does other work as well.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# A shell that runs the tests in the background has interrupts ignored, and all that is started inherits it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(os.environ.get("ODIS_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def _unzip(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = DATA / f"{name}.zip"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not here (set ODIS_TEST_DATA to the folder that holds it)")
    folder = tmp_path_factory.mktemp("data")
    with zipfile.ZipFile(archive) as z:
        z.extractall(folder)
    return folder / name


def _near(found: Any, usual: Any, exact: Any, *, terms: int, dtype: Any = None, what: str = "") -> None:
    import torch

    exact = exact.detach()
    error, scale = (float((value.detach().double() - exact).abs().max()) for value in (found, usual))
    # Rounding a sum of many terms is a random walk of float32 steps; in a shorter type the last step is more.
    step = max(terms**0.5 * torch.finfo(torch.float32).eps, torch.finfo(dtype or found.dtype).eps)
    bound = 3 * scale + step * float(exact.abs().max())
    assert error <= bound, f"{what}: off by {error:.2g}, torch's own by {scale:.2g}; allowed is {bound:.2g}"


@pytest.fixture(scope="session")
def near() -> Any:
    """`near(found, usual, exact, terms=K)` holds a result to float64: a bound that is right on any CPU.

    `found` is what the code under test makes, `usual` what a peer makes in the same precision, `exact` the
    same in float64. The error may be three times the peer's, plus what rounding does to a sum of K terms.
    `dtype` is the type of the arithmetic, where the result has a longer one.
    """
    return _near


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """The module `ray`, connected to a local cluster of three CPUs, which takes seconds to start."""
    ray = pytest.importorskip("ray")
    before = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    signal.signal(signal.SIGTERM, before)  # Ray puts its own there, which other tests would meet
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_imagenet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 classes of Tiny-ImageNet in its published layout."""
    return _unzip("tiny-imagenet-100", tmp_path_factory)


@pytest.fixture(scope="session")
def coco_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """51 images of COCO 2017 in its published layout."""
    return _unzip("coco-mini", tmp_path_factory)
