"""torchvision's detectors against torchvision itself: what its own models answer is what ours find."""

import hashlib
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import detection, get_model, get_model_weights
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from odis.errors import ConfigError, DataError, OdisError
from odis.finding.detect import torchvision_models
from odis.finding.detect.candidates import Candidates
from odis.finding.detect.keep import Limits
from odis.finding.detect.load import Detector
from odis.finding.detect.torchvision_models import (
    TorchvisionDetector,
    _blank,
    _build,
    _count_classes,
    file_hash,
    model_names,
)
from odis.objects import rle

LITE, FAST = "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"
LIMITS = Limits(min_score=0.02, nms=0.4, min_size=4, max_objects=40)
CPU = torch.device("cpu")
# Of the layers that give scores and boxes, so that neither are all the same nor all at their ends.
SCALES = {
    "cls_score": 0.005,
    "bbox_pred": 0.1,
    "rpn.": 0.1,
    "classification_head": 0.3,
    "regression_head": 0.1,
}


def random_state(name: str, classes: int) -> dict[str, torch.Tensor]:
    """Weights whose answers differ from place to place: those of new models say the same everywhere."""
    torch.manual_seed(0)
    state = get_model(name, weights=None, weights_backbone=None, num_classes=classes).state_dict()
    for key, value in state.items():
        if "running_var" in key:
            value.uniform_(0.5, 1.5)
        elif name in (LITE, FAST) and key.endswith("weight") and value.ndim > 1:
            torch.nn.init.kaiming_normal_(value)
            value.mul_(next((scale for part, scale in SCALES.items() if part in key), 1.0))
        elif "cls_score.weight" in key:
            value.mul_(10)
    return state


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of SSDlite for four classes and background."""
    path = tmp_path_factory.mktemp("weights") / "lite.pth"
    torch.save({"model": random_state(LITE, 5), "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of Faster R-CNN for two classes and background."""
    path = tmp_path_factory.mktemp("weights") / "fast.safetensors"
    save_file(random_state(FAST, 3), path)
    return path


def ours(
    name: str, file: Path | None, names: list[str] | None = None, limits: Limits = LIMITS
) -> TorchvisionDetector:
    return TorchvisionDetector(name, None if file is None else str(file), names, limits, CPU, torch.float32)


def in_double(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its arithmetic in double precision.

    Kernels round differently for one picture and for several, and differently on each CPU. In double that is
    far below the float32 in which answers are given, so that these are the same.
    """
    model.double().register_forward_pre_hook(lambda _, args: ([picture.double() for picture in args[0]],))
    return model


def assert_same(found: Candidates, expected: dict[str, torch.Tensor]) -> None:
    """Boxes and scores agree to the rounding of the last step to float32."""
    torch.testing.assert_close(found.boxes, expected["boxes"].float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.scores, expected["scores"].float(), rtol=1e-6, atol=0)


def alone(model: torch.nn.Module, picture: np.ndarray) -> dict[str, torch.Tensor]:
    """torchvision's own answer for one picture."""
    with torch.no_grad():
        return model.eval()([torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32) / 255)])[0]


def test_ssdlite_finds_what_torchvision_finds(lite: Path, pictures: list[np.ndarray]):
    detector = ours(LITE, lite)
    torchvision_own = get_model(
        LITE,
        weights=None,
        weights_backbone=None,
        num_classes=5,
        score_thresh=LIMITS.min_score,
        nms_thresh=LIMITS.nms,
    )
    torchvision_own.load_state_dict(torch.load(lite)["model"])
    in_double(detector._model), in_double(torchvision_own)
    assert detector.classes == ["class 1", "class 2", "class 3", "class 4"]
    for picture, found in zip(pictures, detector(pictures), strict=True):
        expected = alone(torchvision_own, picture)
        assert expected["scores"].min() < 0.8 * expected["scores"].max()
        assert_same(found, expected)
        assert (found.labels + 1).tolist() == expected["labels"].tolist()  # 0 is the background there


def test_faster_rcnn_finds_what_torchvision_finds_alone_and_in_a_batch(
    fast: Path, pictures: list[np.ndarray]
):
    detector = ours(FAST, fast, ["cat", "dog"])
    settings = {"box_score_thresh": LIMITS.min_score, "box_nms_thresh": LIMITS.nms}
    torchvision_own = get_model(FAST, weights=None, weights_backbone=None, num_classes=3, **settings)
    torchvision_own.load_state_dict(random_state(FAST, 3))
    in_double(detector._model), in_double(torchvision_own)
    assert detector.classes == ["cat", "dog"]
    for picture, found in zip(pictures, detector(pictures), strict=True):
        expected = alone(torchvision_own, picture)
        assert expected["scores"].min() < 0.8 * expected["scores"].max()
        assert_same(found, expected)
        assert (found.labels + 1).tolist() == expected["labels"].tolist()


def test_the_backbone_runs_in_the_type_asked_for(lite: Path, pictures: list[np.ndarray]):
    plain = ours(LITE, lite)
    reduced = TorchvisionDetector(LITE, str(lite), None, LIMITS, CPU, torch.bfloat16)
    (first,), (second,) = plain(pictures[:1]), reduced(pictures[:1])
    assert second.boxes.dtype == second.scores.dtype == torch.float32
    assert not torch.equal(first.scores[:20], second.scores[:20])
    torch.testing.assert_close(first.scores[:20], second.scores[:20], atol=0.1, rtol=0.1)


def test_published_weights_are_read_from_the_cache_of_torch(
    tmp_path: Path, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    """Against torchvision's builder, which freezes batch norm and takes away its epsilon."""
    name = "fasterrcnn_resnet50_fpn"
    state = {
        key: value for key, value in random_state(name, 91).items() if not key.endswith("num_batches_tracked")
    }
    for key, value in state.items():
        if "running_var" in key:
            value.mul_(1e-4)  # as small as the epsilon
            state[key.replace("running_var", "weight")].mul_(1e-2)  # but no larger outputs
    weights = get_model_weights(name).DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub" / "checkpoints" / Path(weights.url).name)
    limits = Limits(min_score=0.005, nms=0.5)
    detector = ours(name, None, limits=limits)
    detector._model.transform.min_size = (64,)  # quick
    torchvision_own = get_model(name, weights=weights, min_size=64, box_score_thresh=limits.min_score)
    in_double(detector._model), in_double(torchvision_own)
    expected = alone(torchvision_own, pictures[0])
    (found,) = detector(pictures[:1])
    named = [
        i for i, label in enumerate(expected["labels"].tolist()) if weights.meta["categories"][label] != "N/A"
    ]
    assert len(named) > 10
    assert_same(found, {key: value[named] for key, value in expected.items()})
    assert [detector.classes[k] for k in found.labels.tolist()] == [
        weights.meta["categories"][k] for k in expected["labels"][named].tolist()
    ]
    assert (detector.name, detector.revision, len(detector.classes)) == (name, "COCO_V1", 80)
    assert {"person", "toothbrush"} < set(detector.classes)
    assert not {"N/A", "__background__"} & set(detector.classes)
    assert Detector(detector, limits).provenance == "detected:fasterrcnn_resnet50_fpn@COCO_V1"


def test_without_the_published_weights_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_network(*_, **__):
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(OdisError) as raised:
        ours(LITE, None)
    line = str(raised.value)
    for word in (
        "name resolution",
        str(tmp_path / "hub" / "checkpoints"),
        "ssdlite320_mobilenet_v3_large_coco-a79551df.pth",
        f"{LITE}@FILE",
    ):
        assert word in line
    assert "\n" not in line


def tiny_mask_rcnn(classes: int) -> detection.MaskRCNN:
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 7, 8, 3), torch.nn.ReLU())
    backbone.out_channels = 8
    torch.manual_seed(0)
    return detection.MaskRCNN(
        backbone,
        min_size=64,
        max_size=128,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 4, 2),
        mask_roi_pool=MultiScaleRoIAlign(["0"], 4, 2),
        box_head=detection.faster_rcnn.TwoMLPHead(8 * 16, 32),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(32, classes),
        mask_head=detection.mask_rcnn.MaskRCNNHeads(8, (8,), 1),
        mask_predictor=detection.mask_rcnn.MaskRCNNPredictor(8, 8, classes),
    )


def test_masks_are_those_of_torchvision_above_a_half(
    tmp_path: Path, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torchvision_models, "_blank", lambda name, classes: tiny_mask_rcnn(classes))
    torch.manual_seed(1)
    torchvision_own = tiny_mask_rcnn(3)
    with torch.no_grad():
        for value in torchvision_own.roi_heads.mask_predictor.parameters():
            value.mul_(30)
    torchvision_own.roi_heads.score_thresh, torchvision_own.roi_heads.nms_thresh = 0.02, 0.4
    torch.save(torchvision_own.state_dict(), tmp_path / "masks.pth")
    detector = Detector(ours("maskrcnn_resnet50_fpn", tmp_path / "masks.pth"), LIMITS)
    seen = 0
    for picture, objects in zip(pictures, detector(pictures), strict=True):
        expected = alone(torchvision_own, picture)
        for item in objects:
            k = int((expected["boxes"] - torch.tensor(item.box)).abs().sum(dim=1).argmin())
            inside = (expected["masks"][k, 0] > 0.5).numpy()
            height, width = picture.shape[:2]
            got = np.zeros_like(inside) if item.mask is None else rle.decode(item.mask, width, height) > 0
            assert (got != inside).sum() <= 2  # a pixel at the threshold may round the other way
            seen += bool(inside.any())
    assert seen > 10


@pytest.mark.parametrize(
    "name", [LITE, FAST, "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn", "ssd300_vgg16"]
)
def test_the_number_of_classes_is_read_from_the_weights(name: str):
    for count in (3, 91):
        with torch.device("meta"):
            state = _blank(name, count).state_dict()
        assert _count_classes(name, state, None) == count


def test_weights_with_frozen_norm_have_no_epsilon_and_trained_ones_keep_it():
    name = "retinanet_resnet50_fpn"
    with torch.device("meta"):
        state = _blank(name, 2).state_dict()
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in state.items()}
    eps = {m.eps for m in _build(name, 2, state, None).modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert eps == {1e-5}
    frozen = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    eps = {m.eps for m in _build(name, 2, frozen, None).modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert eps == {0.0}


def test_a_sigmoid_a_class_has_no_background(monkeypatch: pytest.MonkeyPatch):
    places, names = torchvision_models._places("fcos_resnet50_fpn", 3, None, None)
    assert (places.tolist(), names) == ([0, 1, 2], ["class 0", "class 1", "class 2"])
    places, names = torchvision_models._places("fcos_resnet50_fpn", 3, None, ["cat", "dog"])
    assert (places.tolist(), names) == ([-1, 0, 1], ["cat", "dog"])
    places, names = torchvision_models._places("fcos_resnet50_fpn", 3, None, ["cat", "dog", "cow"])
    assert (places.tolist(), names) == ([0, 1, 2], ["cat", "dog", "cow"])


def test_the_revision_tells_files_apart(lite: Path, tmp_path: Path):
    copy, other = tmp_path / "copy.pth", tmp_path / "other.pth"
    copy.write_bytes(lite.read_bytes())
    other.write_bytes(lite.read_bytes()[:-1])
    first = ours(LITE, lite).revision
    assert first == file_hash(copy) != file_hash(other)
    assert first == hashlib.sha256(lite.read_bytes()).hexdigest()[:12]
    assert file_hash(copy, other) == hashlib.sha256(copy.read_bytes() + other.read_bytes()).hexdigest()[:12]


def write_pickle(path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump({"w": partial(print, "never")}, file)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "cannot be read as a state dict"),
        (lambda path: path.write_bytes(b""), "cannot be read as a state dict"),
        (write_pickle, "cannot be read as a state dict"),
        (lambda path: torch.save([1, 2], path), "holds no state dict"),
        (lambda path: torch.save(random_state(FAST, 3), path), "is no state dict of torchvision's ssdlite"),
        (lambda path: path.unlink(), "no such file of weights"),
    ],
)
def test_a_file_that_is_not_of_the_model_is_named(lite: Path, tmp_path: Path, spoil, says: str):
    path = tmp_path / "weights.pth"
    path.write_bytes(lite.read_bytes())
    spoil(path)
    with pytest.raises(DataError, match=says) as raised:
        ours(LITE, path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change", ["drop", "add", "reshape"])
def test_weights_that_fit_in_part_are_refused(change: str, tmp_path: Path):
    state = random_state(LITE, 3)
    key = next(k for k in state if k.startswith("backbone") and k.endswith("weight"))
    if change == "drop":
        del state[key]
    elif change == "add":
        state["teacher.weight"] = torch.zeros(1)
    else:
        state[key] = torch.zeros(1, 1)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError, match="teacher.weight" if change == "add" else key):
        ours(LITE, tmp_path / "w.pt")


def test_names_must_be_as_many_as_the_classes(lite: Path):
    with pytest.raises(
        ConfigError, match="2 names, but the weights of ssdlite320_mobilenet_v3_large tell 4 classes apart"
    ):
        ours(LITE, lite, ["cat", "dog"])


def test_an_unknown_model_is_refused():
    assert LITE in model_names()
    with pytest.raises(ConfigError, match="no detector 'yolo'"):
        ours("yolo", None)
