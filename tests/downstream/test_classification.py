"""Classification: what is read of an image, mixup as timm has it, crops, ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.data.mixup import Mixup

import odis
from odis.backbones.build import build_vit
from odis.downstream.classification import (
    ClassificationTask,
    Classifier,
    RightAnswers,
    crop_box,
    places_of,
)
from odis.downstream.settings import ClassificationSettings, IndexedData
from odis.downstream.starts import open_starts
from odis.downstream.task import batch_pixels
from odis.errors import DataError


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
def test_an_image_is_read_as_odis_reads_it(kind, tiny, tmp_path):
    path = tiny.save(tmp_path / "m.safetensors", replace(tiny.model, object_tokens=kind))
    encoder = odis.load(path, device="cpu")
    (start,) = open_starts([path])
    net = Classifier(start.build(0), 3, mean_pool=False).eval()
    net.head = torch.nn.Identity()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    expected = encoder.embed(torch.from_numpy(pixels), mode="whole-image").objects[0]
    torch.testing.assert_close(net(batch_pixels([pixels], start, torch.device("cpu")))[0], expected)


def test_a_model_of_mean_patches_is_read_by_their_mean(tiny):
    backbone = build_vit(replace(tiny.model, object_readout="mean-pool"), 32).eval()
    net = Classifier(backbone, 3, mean_pool=True).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(images), net.head(backbone(images).patches.mean(1)))


@pytest.fixture(scope="module")
def task(squares) -> ClassificationTask:
    classes = squares / "classes"
    settings = ClassificationSettings(size=32, smoothing=0.2)
    return ClassificationTask(IndexedData(str(classes / "train"), str(classes / "val")), settings)


def test_images_are_mixed_as_timm_mixes_them_once_the_backbone_learns(task, model):
    (start,) = open_starts([model])
    net = task.module(start.build(0), start, torch.float32).train()
    samples = [task.samples(8, 0, 0, 5)[i] for i in range(5)]
    cpu = torch.device("cpu")

    def loss() -> torch.Tensor:
        np.random.seed(3)  # noqa: NPY002  timm draws there
        return task.losses(net, samples, start, cpu)["loss_class"]

    images = batch_pixels([one.pixels for one in samples[:4]], start, cpu)
    labels = torch.tensor([one.label for one in samples[:4]])
    np.random.seed(3)  # noqa: NPY002
    mixed, targets = Mixup(0.8, 1.0, label_smoothing=0.2, num_classes=2)(images, labels)
    assert not bool(((targets > 0.11) & (targets < 0.89)).sum() == 0), "this seed mixes"
    expected = -(targets * F.log_softmax(net(mixed), dim=-1)).sum(dim=-1).mean()
    torch.testing.assert_close(loss(), expected)
    net.backbone.requires_grad_(False)
    every = torch.tensor([one.label for one in samples])
    plain = net(batch_pixels([one.pixels for one in samples], start, cpu))
    torch.testing.assert_close(loss(), F.cross_entropy(plain, every, label_smoothing=0.2))


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.05, 1.0), st.integers(0, 9))
def test_a_crop_lies_within_the_image_and_shows_enough_of_it(width, height, least, seed):
    x0, y0, x1, y1 = crop_box(width, height, least, np.random.default_rng(seed))
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert all(float(v).is_integer() for v in (x0, y0, x1, y1))
    if 3 / 4 <= width / height <= 4 / 3 and min(width, height) >= 20:
        # Sides are rounded to whole pixels; an image with an allowed aspect is never cut to less.
        assert (x1 - x0 + 0.5) * (y1 - y0 + 0.5) >= least * width * height


def test_crops_are_of_all_sizes_from_the_least():
    rng = np.random.default_rng(0)
    areas = [
        (x1 - x0) * (y1 - y0) / 40_000
        for x0, y0, x1, y1 in (crop_box(200, 200, 0.25, rng) for _ in range(400))
    ]
    assert 0.24 <= min(areas) < 0.3
    assert max(areas) > 0.8


def test_equal_scores_are_no_right_answer_for_all():
    scores = torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert places_of(scores, torch.tensor([2, 1, 2])).tolist() == [2, 0, 2]
    many = torch.randn(50, 9)
    labels = torch.randint(9, (50,))
    expected = [
        sorted(range(9), key=lambda c: (-row[c], c)).index(k) for row, k in zip(many.tolist(), labels)
    ]
    assert places_of(many, labels).tolist() == expected


def test_scores_count_the_first_and_the_first_five():
    found = RightAnswers(np.array([0, 3, 7, 0]), 9)
    assert found.scores(np.ones(4)) == {"top-1": 0.5, "top-5": 0.75}
    assert found.scores(np.array([3.0, 1.0, 0.0, 0.0])) == {"top-1": 0.75, "top-5": 1.0}
    assert "top-5" not in RightAnswers(np.array([0]), 5).scores(np.ones(1))


def test_classes_that_the_train_part_lacks_are_refused(squares, tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes((squares / "val" / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"has images of classes that .* has not: cat"):
        ClassificationTask(
            IndexedData(str(squares / "classes" / "train"), str(tmp_path)), ClassificationSettings(size=32)
        )
