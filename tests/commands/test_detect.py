"""`odis objects detect`, from the command line to the index."""

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_model

from odis.cli import find_command, parse_options, run
from odis.errors import ConfigError, DataError, OdisError
from odis.finding.detect.keep import Limits
from odis.finding.detect.load import DetectSettings, build_detector
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

NAME = "ssdlite320_mobilenet_v3_large"
FEW = ["--min-score", "0.05", "--nms", "0.4", "--max-objects", "5", "--threads", "1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`torchvision:NAME@FILE` of a random detector of three classes."""
    torch.manual_seed(0)
    state = get_model(NAME, weights=None, weights_backbone=None, num_classes=4).state_dict()
    for key, value in state.items():  # so that scores and boxes differ from place to place
        if value.ndim == 4:
            torch.nn.init.kaiming_normal_(value)
            value.mul_(0.3 if "classification_head" in key else 0.1 if "regression_head" in key else 1.0)
    path = tmp_path_factory.mktemp("weights") / "lite.pth"
    torch.save(state, path)
    return f"torchvision:{NAME}@{path}"


def run_detect(arguments: list[str]) -> None:
    """The command, whose errors are raised as they are."""
    run(["objects", "detect", *arguments])


def draw_images(folder: Path, count: int) -> None:
    """Pictures of several sizes in two folders."""
    draw = np.random.default_rng(0)
    for k in range(count):
        (folder / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        picture = draw.integers(0, 256, (90 + 10 * (k % 3), 120, 3), dtype=np.uint8)
        picture[20:60, 30 + k : 80] = draw.integers(0, 256, 3)
        Image.fromarray(picture).save(folder / "ab"[k % 2] / f"{k:02d}.jpg", quality=95)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images, the fourth cut off in the middle."""
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder, 7)
    cut = folder / "b" / "03.jpg"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return folder


def test_a_folder_becomes_an_index(
    folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\ncow\n")
    out = tmp_path / "found.parquet"
    arguments = [
        str(folder),
        "--with",
        weights,
        "--out",
        str(out),
        "--classes",
        str(names),
        "--batch-size",
        "3",
        *FEW,
    ]
    run_detect(arguments)
    said = capsys.readouterr()
    index = ObjectIndex.open(out, strict=True)
    assert index.classes == ["cat", "dog", "cow"]
    assert sorted(row.image for row in index) == sorted(
        f"{'ab'[k % 2]}/{k:02d}.jpg" for k in range(7) if k != 3
    )
    assert f"skipped {folder / 'b' / '03.jpg'}: cannot be decoded" in said.err
    assert "6" in said.out

    settings = DetectSettings(
        weights, class_names=("cat", "dog", "cow"), limits=Limits(0.05, 0.4, max_objects=5)
    )
    detector = build_detector(settings)
    assert index.provenance == detector.provenance
    assert index.provenance.startswith(f"detected:{NAME}@")
    for row in index:
        (expected,) = detector([np.asarray(load_image(folder / row.image))])
        assert 0 < len(row.objects) == len(expected) <= 5
        np.testing.assert_allclose([o.box for o in row.objects], [o.box for o in expected], atol=1e-2)
        assert [o.label for o in row.objects] == [o.label for o in expected]

    before = out.read_bytes()
    run_detect(arguments)
    assert "is there already" in capsys.readouterr().err
    assert out.read_bytes() == before
    with pytest.raises(DataError, match="was not made with these settings"):
        run_detect([*arguments, "--min-score", "0.2"])


def test_each_limit_changes_what_is_found(weights: str, tmp_path: Path):
    draw_images(tmp_path / "images", 2)
    number = itertools.count()

    def count(*options: str) -> int:
        out = tmp_path / f"{next(number)}.parquet"
        everything = ["--min-score", "0.05", "--min-size", "0", "--max-objects", "1000"]
        run_detect([str(tmp_path / "images"), "--with", weights, "--out", str(out), *everything, *options])
        return sum(len(row.objects) for row in ObjectIndex.open(out))

    every, one_a_class = count("--nms", "1"), count("--nms", "0.3")
    assert one_a_class < every
    assert count("--nms", "0.3", "--across-classes") < one_a_class
    assert count("--nms", "1", "--min-score", "0.5") < every
    assert count("--nms", "1", "--min-size", "40") < every
    assert count("--nms", "1", "--max-objects", "3") == 3 * 2


def test_the_images_of_an_index_are_looked_at_and_its_objects_not(folder: Path, weights: str, tmp_path: Path):
    first, second = tmp_path / "first.parquet", tmp_path / "second"
    run_detect([str(folder), "--with", weights, "--out", str(first), *FEW])
    run_detect([str(first), "--with", weights, "--out", str(second), "--part-size", "2", *FEW])
    assert len(list(second.glob("*.parquet"))) == 3
    assert list(ObjectIndex.open(second)) == list(ObjectIndex.open(first))


def test_a_killed_run_goes_on(weights: str, tmp_path: Path):
    images = tmp_path / "images"
    draw_images(images, 20)
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    arguments = [str(images), "--with", weights, "--batch-size", "2", "--part-size", "2", *FEW]
    run_detect([*arguments, "--out", str(whole)])

    process = subprocess.Popen(
        [sys.executable, "-m", "odis", "objects", "detect", *arguments, "--out", str(out)],
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    parts = out.with_name(f".{out.name}.parts")
    while len(list(parts.glob("*.parquet"))) < 2:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert 2 <= len(made) < 10
    assert not out.exists()

    seen: list[int] = []

    def counted(settings):
        detector = build_detector(settings)

        class Counting:
            provenance, classes = detector.provenance, detector.classes

            def __call__(self, pictures):
                seen.append(len(pictures))
                return detector(pictures)

        return Counting()

    import odis.finding.detect.load as load

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "build_detector", counted)
        run_detect([*arguments, "--out", str(out)])
    assert sum(seen) == 20 - 2 * len(made)  # only what was missing
    found, expected = list(ObjectIndex.open(out)), list(ObjectIndex.open(whole))
    assert len({row.image for row in found}) == len(found) == 20
    assert found == expected
    assert not parts.exists()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            {"--with": "torchvision:fasterrcnn_resnet50"},
            ConfigError,
            r"^with: torchvision has no detector .*did you mean fasterrcnn_resnet50",
        ),
        ({"--with": f"torchvision:{NAME}@nowhere.pth"}, DataError, "^nowhere.pth: no such file of weights"),
        ({"--with": "yolo"}, ConfigError, "^with: is 'yolo', must be torchvision:NAME or transformers:NAME"),
        ({"--with": None}, OdisError, "--with is required"),
        ({"--out": None}, OdisError, "--out is required"),
        ({"--nms": "3"}, ConfigError, "^nms: is 3"),
        ({"--batch-size": "0"}, ConfigError, "^batch-size: is 0"),
        ({"--workers": "2"}, ConfigError, "^workers: is 2"),
        ({"--engine": "spark"}, ConfigError, "^--engine: is 'spark', must be one of 'local', 'ray'$"),
        ({"--gpus": "-1"}, ConfigError, "^gpus: is -1"),
        ({"--promt": "cat"}, ConfigError, r"^--promt: no such option \(did you mean --prompt"),
        ({"--precision": "half"}, OdisError, "precision: is 'half', must be one of"),
        ({"--device": "gpu"}, OdisError, "device: is 'gpu', must be"),
        ({"--classes": "nowhere.txt"}, DataError, "nowhere.txt: cannot be read as text"),
        ({"--with": "boxes"}, OdisError, "--masks is required"),
        ({"--with": "boxes", "--masks": "sam"}, ConfigError, "^masks: is 'sam'"),
        (
            {"--with": "boxes", "--masks": "transformers:x", "--prompt": "cat"},
            ConfigError,
            "^prompt: goes with a detector",
        ),
        (
            {"--with": "boxes", "--masks": "transformers:x", "--engine": "ray"},
            ConfigError,
            "^engine: is 'ray'",
        ),
        (
            {"--with": "boxes", "--masks": "transformers:x"},
            DataError,
            "is a folder of images and has no boxes",
        ),
    ],
)
def test_mistakes_are_answered_in_one_line(
    folder: Path, weights: str, tmp_path: Path, change: dict, error, says: str
):
    options = {"--with": weights, "--out": str(tmp_path / "o.parquet")} | change
    arguments = [word for name, value in options.items() if value is not None for word in (name, value)]
    with pytest.raises(error, match=says) as raised:
        run_detect([str(folder), *arguments])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "o.parquet").exists()


def test_a_mask_network_that_is_not_there_leaves_nothing(folder: Path, tmp_path: Path):
    index, out = tmp_path / "boxes.parquet", tmp_path / "out" / "masked.parquet"
    rows = [ImageObjects("a/00.jpg", 120, 90, (Object((10.0, 10.0, 60.0, 60.0)),))]
    write_index(index, rows, root=folder, provenance="annotated", classes=[])
    with pytest.raises(OdisError):
        run_detect(
            [
                str(index),
                "--with",
                "boxes",
                "--masks",
                f"transformers:{tmp_path / 'nowhere'}",
                "--out",
                str(out),
            ]
        )
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def test_a_folder_without_images_and_one_where_none_can_be_read(weights: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image and no object index"):
        run_detect([str(tmp_path / "empty"), "--with", weights, "--out", str(tmp_path / "o.parquet")])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"no image that can be used; the first: .*a.jpg"):
        run_detect([str(tmp_path / "bad"), "--with", weights, "--out", str(tmp_path / "o.parquet")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "empty"]


def test_the_commands_of_the_documentation_parse():
    text = (Path(__file__).resolve().parents[2] / "docs" / "detection.md").read_text()
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    commands = [words[words.index("odis") + 1 :] for words in map(shlex.split, lines) if "detect" in words]
    assert len(commands) > 5
    for arguments in commands:
        options = parse_options(*find_command(arguments))
        assert options["with"]
        assert options.out
    options = {word for words in commands for word in words if word.startswith("--")}
    named = set(re.findall(r"`(--[a-z-]+)", text))
    assert options <= named | {"--with", "--out"}
