"""What `--as-published` changes, difference by difference, and that each one has a test."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from odis.evaluation.protocols import PROTOCOLS
from odis.evaluation.protocols.classification import classify, linear_training
from odis.evaluation.protocols.classification.knn_imagenet import KnnImagenetSettings
from odis.evaluation.protocols.classification.linear_imagenet import evaluate_linear_imagenet
from odis.evaluation.protocols.classification.linear_settings import LinearImagenetSettings
from odis.evaluation.protocols.depth import depth_training
from odis.evaluation.protocols.depth.nyu_depth_linear import NyuDepthSettings
from odis.evaluation.protocols.images import patches
from odis.evaluation.protocols.layouts.classified import ClassifiedImages, open_classified
from odis.evaluation.protocols.layouts.davis import Video
from odis.evaluation.protocols.layouts.nyu import DepthImages
from odis.evaluation.protocols.localization import found_masks, maskcut
from odis.evaluation.protocols.protocol import IMAGENET_MEAN, IMAGENET_STD, statistics_of
from odis.evaluation.protocols.retrieval import landmark_protocol
from odis.evaluation.protocols.segmentation import ade20k_linear
from odis.evaluation.protocols.segmentation.ade20k_linear import Ade20kSettings
from odis.evaluation.protocols.video import davis
from odis.evaluation.runner import EvaluationRun
from odis.inference import Encoder

HERE = Path(__file__).parent

STATISTICS, EXIF = "the model's own pixel statistics", "turned as their EXIF says"
MEAN_IOU, ADE = "the mean is over classes that are labelled", "ADE20K has 150 classes"

_SLOW = "test_it_is_the_slow_version"
_HUMMINGBIRD, _SEG, _OVER = (
    "segmentation/test_hummingbird.py",
    "segmentation/test_linear_seg.py",
    "segmentation/test_overcluster.py",
)
_ADE, _NYU = "segmentation/test_ade20k_linear.py", "depth/test_nyu_depth_linear.py"
_CORLOC, _MASKCUT = "localization/test_corloc.py", "localization/test_maskcut.py"
_HERE, _OF_ADE = "test_as_published.py", "test_ade20k_as_published_has_a_class_0_that_is_never_right"

TESTED: dict[str, dict[str, tuple[str, str]]] = {
    "knn-imagenet": {
        STATISTICS: (
            "classification/test_knn_imagenet.py",
            "test_it_is_the_slow_k_nn_over_the_references_view",
        ),
        EXIF: (_HERE, "test_a_photograph_is_not_turned"),
    },
    "linear-imagenet": {
        "top-1 is of the last epoch": (
            "classification/test_linear_imagenet.py",
            "test_as_published_holds_nothing_out",
        ),
        STATISTICS: (_HERE, "test_linear_imagenet_shows_imagenets_statistics"),
        EXIF: (_HERE, "test_a_photograph_is_not_turned"),
    },
    "hummingbird": {
        STATISTICS: (_HUMMINGBIRD, _SLOW),
        "ignored pixels have no class": (_HUMMINGBIRD, _SLOW),
        ADE: (_HUMMINGBIRD, _OF_ADE),
        MEAN_IOU: (_HUMMINGBIRD, _SLOW),
        "both temperatures": (_HUMMINGBIRD, _SLOW),
    },
    "linear-seg": {
        "the last epoch counts": (_SEG, _SLOW),
        STATISTICS: (_SEG, _SLOW),
        "every test image is scored": (_SEG, _SLOW),
        MEAN_IOU: (_SEG, _SLOW),
        ADE: (_HUMMINGBIRD, _OF_ADE),
    },
    "overcluster": {
        STATISTICS: (_OVER, "test_it_is_the_version_by_scikit_learn_and_loops"),
        "every image takes part": (_OVER, "test_as_published_stops_after_whole_batches_of_60"),
        MEAN_IOU: (_OVER, "test_it_is_the_version_by_scikit_learn_and_loops"),
        ADE: (_HUMMINGBIRD, _OF_ADE),
    },
    "corloc": {
        STATISTICS: (_CORLOC, "test_as_published_seeds_are_the_slow_lost"),
        "shown at the area of the model's own square": (_CORLOC, "test_as_published_seeds_are_the_slow_lost"),
        "a guided filter": (_CORLOC, "test_as_published_seeds_are_the_slow_lost"),
        "up to 3 objects": (_CORLOC, "test_as_published_seeds_are_the_slow_lost"),
    },
    "maskcut": {
        STATISTICS: (_HERE, "test_maskcut_and_ade20k_show_imagenets_statistics"),
        "shown at the area of the model's own square": (
            _MASKCUT,
            "test_features_that_hold_the_objects_find_them",
        ),
        "masks are kept by": (_MASKCUT, "test_masks_are_dropped_as_stated"),
    },
    "davis": {
        STATISTICS: ("video/test_davis.py", "test_the_published_statistics_and_the_cache"),
        EXIF: (_HERE, "test_a_photograph_is_not_turned"),
    },
    "ade20k-linear": {
        "the last iteration counts": (_ADE, "test_an_interrupted_training_ends_as_an_uninterrupted_one"),
        STATISTICS: (_HERE, "test_maskcut_and_ade20k_show_imagenets_statistics"),
        "the loss is the mean over labelled": (
            _ADE,
            "test_the_loss_and_its_gradient_are_those_of_the_formula",
        ),
        "the precision": (_HERE, "test_maskcut_and_ade20k_show_imagenets_statistics"),
    },
    "nyu-depth-linear": {
        STATISTICS: (_NYU, "test_published_statistics_and_precision"),
        "beta1 is .85": (_NYU, "test_the_schedule_is_a_line_times_a_cosine_and_beta_follows"),
        "the precision": (_NYU, "test_published_statistics_and_precision"),
        EXIF: (_HERE, "test_a_photograph_is_not_turned"),
    },
    **{
        name: {
            STATISTICS: ("retrieval/test_landmark_protocol.py", "test_rows_are_the_protocol_written_out"),
            EXIF: (_HERE, "test_a_photograph_is_not_turned"),
        }
        for name in ("roxford", "rparis")
    },
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_difference_that_is_followed_has_a_test(name: str):
    followed = [one.ours for one in PROTOCOLS[name].about.differences if one.followed]
    known = TESTED[name]
    for ours in followed:
        assert sum(part in ours for part in known) == 1, ours
    assert len(known) == len(followed)
    for file, test in known.values():
        functions = {
            n.name for n in ast.parse((HERE / file).read_text()).body if isinstance(n, ast.FunctionDef)
        }
        assert test in functions


def other(encoder: Encoder) -> Encoder:
    """With statistics of its own."""
    return replace(encoder, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


class Photos:
    """A photograph that lies upside down, by its EXIF, and the same without it."""

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        photo, tags = Image.fromarray(pixels).resize(size), Image.Exif()
        tags[0x0112] = 3
        self.turned, self.plain = str(folder / "turned.png"), str(folder / "plain.png")
        photo.save(self.turned, exif=tags)
        photo.save(self.plain)


def _of_knn(path: str, published: bool, encoder: Encoder, tmp_path: Path) -> np.ndarray:
    settings = KnnImagenetSettings(crop=16, as_published=published)
    images = ClassifiedImages("x", "class folders", ["a"], [path], np.array([0]))
    run = EvaluationRun("knn-imagenet", encoder, settings)
    item: Any = classify.PartReader(run, encoder, images, "test", settings)._asked(images)[0]
    return item.pixels


def _of_linear(path: str, published: bool, encoder: Encoder, tmp_path: Path) -> np.ndarray:
    settings = LinearImagenetSettings(crop=16, as_published=published)
    images = ClassifiedImages("x", "class folders", ["a"], [path], np.array([0]))
    item: Any = linear_training.TrainViews(images, np.array([0]), 0, settings)[0]
    return item[0]


def _of_nyu(path: str, published: bool, encoder: Encoder, tmp_path: Path) -> np.ndarray:
    depth = tmp_path / "depth.png"
    Image.fromarray(np.full((480, 640), 2000, np.uint16)).save(depth)
    images = DepthImages("x", [(path, str(depth))])
    settings = NyuDepthSettings(batch=1, as_published=published)
    item: Any = depth_training.train_views(images, settings, range(1))[0]
    return item[1]


def _of_davis(path: str, published: bool, encoder: Encoder, tmp_path: Path) -> np.ndarray:
    labels, shown = np.zeros((32, 64), np.uint8), list[np.ndarray]()
    labels[:9] = 1
    Image.fromarray(labels).save(tmp_path / "map.png")
    video = Video("v", (path, path), (str(tmp_path / "map.png"),) * 2)

    def tokens(model, pixels):
        shown.append(pixels[0])
        return torch.ones(1, pixels.shape[2] // 8 * (pixels.shape[3] // 8), 4), (0, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "patch_tokens", tokens)
        list(davis._propagated(encoder, davis.DavisSettings(short=16, as_published=published))(video))
    return shown[0]


def _of_landmarks(path: str, published: bool, encoder: Encoder, tmp_path: Path) -> np.ndarray:
    settings, shown = (
        landmark_protocol.LandmarkSettings(longest=32, as_published=published),
        list[np.ndarray](),
    )
    run = EvaluationRun("roxford", encoder, settings)

    def features(model, pixels, readout):
        shown.append(pixels[0])
        return torch.zeros(len(pixels), 3, 4)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landmark_protocol, "scaled_features", features)
        landmark_protocol.embed(run, encoder, [path], [None], "gallery", settings)
    return shown[0]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((40, 30), _of_knn),
        ((40, 30), _of_linear),
        ((640, 480), _of_nyu),
        ((64, 32), _of_davis),
        ((40, 30), _of_landmarks),
    ],
)
def test_a_photograph_is_not_turned(encoder, tmp_path: Path, size: tuple[int, int], shown):
    photos, model = Photos(tmp_path, size), encoder()
    plain = shown(photos.plain, False, model, tmp_path)
    assert np.array_equal(shown(photos.turned, True, model, tmp_path), plain)
    assert not np.array_equal(shown(photos.turned, False, model, tmp_path), plain)


def test_linear_imagenet_shows_imagenets_statistics(encoder, tmp_path: Path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (20, 20), (99 * (name == "a"), i, 0)).save(tmp_path / name / f"{i}.png")
    asked, real = set(), linear_training.features_of

    def features(model, pixels, kinds):
        asked.add((model.mean, model.std))
        return real(model, pixels, kinds)

    monkeypatch.setattr(linear_training, "features_of", features)
    images = open_classified(tmp_path)
    settings = LinearImagenetSettings(
        reference="dino", features=("1",), crop=16, epochs=1, batch=6, as_published=True
    )
    with pytest.warns(match="6 images are in the test and the train part"):
        evaluate_linear_imagenet(other(encoder()), images, images, settings)
    assert asked == {(IMAGENET_MEAN, IMAGENET_STD)}


def test_maskcut_and_ade20k_show_imagenets_statistics(encoder, layouts, tmp_path: Path, monkeypatch):
    model, asked = other(encoder()), list[Encoder]()
    assert statistics_of(model, Ade20kSettings()).mean == model.mean
    shown = ade20k_linear._shown_to(replace(model, precision="bf16"), Ade20kSettings(as_published=True))
    assert (shown.mean, shown.std, shown.precision) == (IMAGENET_MEAN, IMAGENET_STD, "fp32")
    shown = ade20k_linear._shown_to(replace(model, precision="bf16"), Ade20kSettings())
    assert (shown.mean, shown.precision) == (model.mean, "bf16")

    def published(model, image, config):
        asked.append(model)
        return []

    monkeypatch.setattr(found_masks, "_published", published)
    root = layouts.coco(tmp_path / "coco", "val2017", ["000000000001.jpg"])
    images = maskcut.FoundData(str(root)).open(keep_empty=True)
    maskcut.evaluate_maskcut(model, images, maskcut.MaskcutSettings(as_published=True))
    assert [(one.mean, one.std) for one in asked] == [(IMAGENET_MEAN, IMAGENET_STD)]
