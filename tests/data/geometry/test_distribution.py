"""Views of both paths and of torchvision's own transforms have the same distribution, and the test would see
it if they had not.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from odis.config.training import (
    LoaderConfig,
    ObjectsConfig,
    PredictionConfig,
    PretrainConfig,
    TrainConfig,
    ViewsConfig,
)
from odis.data.loader import make_loader
from odis.objects.index import ObjectIndex

SIZE, COUNT = 32, 800
# The largest distance of two empirical distributions of COUNT draws that are one, in 999 of 1000 cases
# (Kolmogorov and Smirnov).
ALIKE = 1.95 * np.sqrt(2 / COUNT)

SETTINGS = {"jitter": 0.8, "grayscale": 0.2, "blur": 0.5, "solarize": 0.2, "flip": 0.5, "scale": (0.25, 1.0)}


def picture() -> np.ndarray:
    """Edges, noise and a gradient in colour, uint8 (75, 100, 3); left and right differ."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(
        (100, 75), Image.Resampling.NEAREST
    )
    noise = rng.normal(0, 25, (75, 100, 1))
    slope = np.linspace(-60, 60, 100)[None, :, None]
    return (np.asarray(coarse) * 0.6 + 50 + noise + slope).clip(0, 255).astype(np.uint8)


def ours(folder: Path, render: str, seed: int, **settings) -> torch.Tensor:
    """uint8 (COUNT, 3, SIZE, SIZE), made as training makes them."""
    chosen = SETTINGS | settings
    views = ViewsConfig(
        global_size=SIZE,
        local_size=SIZE,
        local_views=0,
        global_scale=chosen["scale"],
        flip=chosen["flip"],
        jitter=chosen["jitter"],
        grayscale=chosen["grayscale"],
        blur=(chosen["blur"],) * 3,
        solarize=(chosen["solarize"],) * 3,
        mean=(0, 0, 0),
        std=(1 / 255,) * 3,
    )
    config = PretrainConfig(
        objects=ObjectsConfig(use=False),
        views=views,
        prediction=PredictionConfig(probability=0),
        train=TrainConfig(batch_size=COUNT // 2, seed=seed, device="cpu"),
        loader=LoaderConfig(0, render=render, keep=["memory"]),
    )
    (batch,) = make_loader(ObjectIndex.open(folder), config, patch_size=8, start_step=0, steps=1)
    return batch.to("cpu").global_views.round().to(torch.uint8)


def torchvisions(seed: int) -> torch.Tensor:
    """The same from torchvision's transforms; its blur has one width, which is what ours is cut off at."""
    torch.manual_seed(seed)
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(
                SIZE, scale=SETTINGS["scale"], interpolation=InterpolationMode.BICUBIC, antialias=True
            ),
            v2.RandomHorizontalFlip(SETTINGS["flip"]),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], SETTINGS["jitter"]),
            v2.RandomGrayscale(SETTINGS["grayscale"]),
            v2.RandomApply([v2.GaussianBlur(2 * round(SIZE / 20) + 1, (0.1, 2.0))], SETTINGS["blur"]),
            v2.RandomSolarize(128, SETTINGS["solarize"]),
        ]
    )
    image = torch.from_numpy(picture()).permute(2, 0, 1)
    return torch.stack([transform(image) for _ in range(COUNT)])


def statistics(views: torch.Tensor) -> dict[str, np.ndarray]:
    """Numbers of each view, each of which an operation moves."""
    image = views.double() / 255
    grayscale = F.rgb_to_grayscale(image)
    detail = (image[..., 1:] - image[..., :-1]).abs().mean((1, 2, 3)) / image.std((1, 2, 3)).clamp(min=1e-3)
    found = {
        "mean": image.mean((1, 2, 3)),
        "deviation": image.std((1, 2, 3)),
        "contrast": grayscale.std((1, 2, 3)),
        "colour": (image.amax(1) - image.amin(1)).mean((1, 2)),
        "red and green": (image[:, 0] - image[:, 1]).mean((1, 2)),
        "green and blue": (image[:, 1] - image[:, 2]).mean((1, 2)),
        "detail": detail,
        "brightest": image.flatten(1).quantile(0.95, dim=1),
        "darkest": image.flatten(1).quantile(0.05, dim=1),
        "left and right": (
            grayscale[..., : SIZE // 2].mean((1, 2, 3)) - grayscale[..., SIZE // 2 :].mean((1, 2, 3))
        ),
        "one pixel": grayscale[:, 0, 20, 9],
    }
    return {name: values.numpy() for name, values in found.items()}


def furthest(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[float, str]:
    return max((float(ks_2samp(a[name], b[name]).statistic), name) for name in a)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("one")
    Image.fromarray(picture()).save(path / "a.png")
    return path


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    return statistics(torchvisions(0))


@pytest.mark.parametrize("render", ["cpu", "device"])
def test_views_are_distributed_as_torchvisions(folder, reference, render):
    found = statistics(ours(folder, render, seed=1 if render == "cpu" else 2))
    distance, name = furthest(found, reference)
    assert distance < ALIKE, name
    for name, values in reference.items():
        error = np.sqrt((values.var() + found[name].var()) / COUNT)
        assert abs(values.mean() - found[name].mean()) < 4 * error, name
        assert 0.85 < found[name].std() / values.std() < 1 / 0.85, name


@pytest.mark.parametrize(
    "change",
    [
        {"blur": 0.7},
        {"blur": 0.3},
        {"jitter": 0.4},
        {"grayscale": 0.35},
        {"solarize": 0.35},
        {"flip": 0.3},
        {"scale": (0.05, 1.0)},
    ],
    ids=str,
)
def test_a_setting_that_is_off_would_be_seen(folder, reference, change):
    assert furthest(statistics(ours(folder, "device", 3, **change)), reference)[0] > ALIKE
