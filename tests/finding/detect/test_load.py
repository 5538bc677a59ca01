"""From settings to a finder: what is refused, what is called what, and whose masks and boxes they are."""

import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from odis.errors import ConfigError, DataError, OdisError
from odis.finding.detect.candidates import Candidates
from odis.finding.detect.keep import Limits
from odis.finding.detect.load import Detector, DetectSettings, build_detector, read_class_names
from odis.objects import rle
from odis.types import Object

LITE = "torchvision:ssdlite320_mobilenet_v3_large"


class Scripted:
    """A detector that says of every image what it was told."""

    name, revision, classes = "scripted", "1", ("cat", "dog")

    def __init__(self, **found) -> None:
        self.found = found

    def __call__(self, images):
        return [Candidates(**self.found) for _ in images]


def mask_of(i: int) -> bytes:
    inside = np.zeros((20, 30), bool)
    inside[: i + 1] = True
    return rle.encode(inside)


class FlatMasks:
    """Masks every box by its upper half."""

    name, revision = "flat", "2"

    def __call__(self, image, boxes):
        self.asked = boxes
        return [mask_of(10 + k) for k in range(len(boxes))]


FOUND = {
    "boxes": torch.tensor([[-5.0, 1, 9, 10], [1, 1, 2, 2], [10, 2, 40, 18]]),
    "scores": torch.tensor([0.5, 0.9, 0.75]),
    "labels": torch.tensor([1, 0, 0]),
}
IMAGE = np.zeros((20, 30, 3), np.uint8)


def test_objects_have_what_the_network_said_of_those_that_are_kept():
    (objects,) = Detector(Scripted(**FOUND, mask=mask_of), Limits())([IMAGE])
    assert objects == [
        Object((10, 2, 30, 18), mask_of(2), 0, 0.75),
        Object((0, 1, 9, 10), mask_of(0), 1, 0.5),
    ]
    (objects,) = Detector(Scripted(**FOUND | {"labels": None}), Limits(min_score=0.6))([IMAGE])
    assert objects == [Object((10, 2, 30, 18), None, None, 0.75)]


def test_masks_of_another_network_replace_those_of_the_detector():
    masks = FlatMasks()
    detector = Detector(Scripted(**FOUND, mask=mask_of), Limits(), masks)
    (objects,) = detector([IMAGE])
    assert [o.mask for o in objects] == [mask_of(10), mask_of(11)]
    assert masks.asked == [(10, 2, 30, 18), (0, 1, 9, 10)]
    assert detector.provenance == "detected:scripted@1+masks:flat@2"
    assert Detector(Scripted(**FOUND), Limits()).provenance == "detected:scripted@1"
    assert detector.classes == ["cat", "dog"]


def test_a_detector_of_boxes_with_masks_of_sam(owl_v2: Path, sam: Path, pictures: list[np.ndarray]):
    limits = Limits(min_score=0.0, min_size=2)
    plain, masked = (
        build_detector(DetectSettings(f"transformers:{owl_v2}", prompt="cat", masks=masks, limits=limits))
        for masks in (None, f"transformers:{sam}")
    )
    made = 0
    for picture, boxes, both in zip(pictures, plain(pictures), masked(pictures), strict=True):
        assert [o.box for o in both] == [o.box for o in boxes]
        for item in both:
            if item.mask is not None:
                rle.check(item.mask, picture.shape[1], picture.shape[0])
                made += 1
    assert made > 0
    assert masked.provenance.startswith(f"{plain.provenance}+masks:{sam.name}@")


def test_settings_are_picklable_and_say_what_the_result_depends_on():
    settings = DetectSettings(
        "transformers:x", prompt="cat", limits=Limits(min_score=0.4), device="cuda", threads=3
    )
    build = pickle.loads(pickle.dumps(partial(build_detector, settings)))
    assert build.args[0] == settings
    said = settings.of_result()
    assert json.loads(json.dumps(said)) == said
    assert said["limits"]["min_score"] == 0.4
    assert not {"device", "threads"} & said.keys()
    assert said != DetectSettings("transformers:x", prompt="dog", limits=Limits(min_score=0.4)).of_result()
    assert said["weights"] == {"detector": None}


def test_the_result_depends_on_what_local_weights_hold(owl_v2: Path, tmp_path: Path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"1")
    settings = DetectSettings(f"{LITE}@{file}", masks=f"transformers:{owl_v2}")
    before = settings.of_result()["weights"]
    assert settings.of_result()["weights"] == before
    file.write_bytes(b"2")
    after = settings.of_result()["weights"]
    assert after["detector"] != before["detector"]
    assert (
        after["masks"]
        == before["masks"]
        == build_detector(DetectSettings(f"transformers:{owl_v2}")).provenance.split("@")[1]
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            DetectSettings("fasterrcnn_resnet50_fpn"),
            r"with: is 'fasterrcnn_resnet50_fpn', must be torchvision:NAME or transformers:NAME",
        ),
        (DetectSettings("torchvision:"), "with: is 'torchvision:'"),
        (
            DetectSettings("torchvision:fasterrcnn_resnet50"),
            r"did you mean fasterrcnn_resnet50_fpn.*\); it has .*ssd300_vgg16",
        ),
        (DetectSettings(f"{LITE}@"), "names no file"),
        (DetectSettings(LITE, prompt="cat"), "prompt: torchvision's detectors know their classes"),
        (DetectSettings(LITE, class_names=("cat",)), "classes: published weights have their own"),
        (
            DetectSettings("transformers:x", class_names=("cat",)),
            "classes: goes with --with torchvision:NAME@FILE",
        ),
        (DetectSettings("transformers:x", prompt=" "), "prompt: holds no phrase"),
        (
            DetectSettings("transformers:x", masks="torchvision:sam"),
            "masks: is 'torchvision:sam', must be transformers:NAME",
        ),
        (DetectSettings("transformers:x", limits=Limits(nms=2)), "nms: is 2"),
        (DetectSettings("transformers:x", threads=-1), "threads: is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_loaded(settings: DetectSettings, says: str):
    with pytest.raises(ConfigError, match=says) as raised:
        settings.check()
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match=says):
        build_detector(settings)


def test_other_refusals():
    with pytest.raises(DataError, match=r"nowhere.pth: no such file of weights"):
        DetectSettings(f"{LITE}@nowhere.pth").check()
    with pytest.raises(OdisError, match="precision: is 'half'"):
        DetectSettings(LITE, precision="half").check()
    DetectSettings(LITE).check()
    DetectSettings("transformers:somebody/something@main", prompt="a cat", masks="transformers:sam").check()


def test_threads_are_set(owl_v2: Path):
    before = torch.get_num_threads()
    try:
        build_detector(DetectSettings(f"transformers:{owl_v2}", threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_names_of_classes(tmp_path: Path):
    path = tmp_path / "names.txt"
    path.write_text("cat\n\n  Haus und Hof \r\n", encoding="utf-8")
    assert read_class_names(str(path)) == ("cat", "Haus und Hof")
    for text, says in (
        (b"\n", "holds no name"),
        (b"cat\ncat\n", "'cat' twice"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ):
        path.write_bytes(text)
        with pytest.raises(DataError, match=says):
            read_class_names(str(path))
    with pytest.raises(DataError, match="cannot be read as text"):
        read_class_names(str(tmp_path / "nowhere"))
