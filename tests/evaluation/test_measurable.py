"""The one rule of all evaluations: where no features could be told from others, there is no score.

The oracle of `require_measurable` is the rule spelled out on whole sets. Every evaluation is then run through
the command line on data of each kind.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from odis.backbones.build import build_vit
from odis.cli import main
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import DataError, OdisWarning
from odis.evaluation import EVALUATIONS
from odis.evaluation.measurable import (
    FoundLabels,
    labels_of,
    require_classes,
    require_measurable,
    require_varied,
    without_example,
)
from odis.evaluation.subset import Subset
from odis.inference import Encoder
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

NAMES = ["sky", "cat", "dog", "cow"]


def refusal(train: FoundLabels, test: FoundLabels) -> str:
    """The message, or nothing."""
    try:
        require_measurable(train, test)
    except DataError as error:
        return str(error)
    return ""


LABELS = st.lists(st.integers(0, 3), max_size=6)


@given(LABELS, LABELS, st.permutations(NAMES), st.sampled_from([None, 0]))
def test_the_rule_on_whole_sets(
    train: list[int], test: list[int], names: list[str], background: int | None
) -> None:
    ground = {None: None, 0: "sky"}[background]
    known = {NAMES[label] for label in train}
    asked = {names[label] for label in test}
    said = refusal(
        FoundLabels("a", NAMES, train, background=background),
        FoundLabels("b", names, test, background=None if ground is None else names.index(ground)),
    )
    if not known:
        assert said.startswith("a: none of its objects has a label")
    elif known == {ground}:
        assert said.startswith("a: its objects are nothing but background")
    elif len(known) == 1:
        assert said.startswith(f"a: all its labelled objects are of one class ({known.pop()})")
    elif not asked:
        assert said.startswith("b: none of its objects has a label")
    elif asked == {ground}:
        assert said.startswith("b: its objects are nothing but background")
    elif not (known & asked) - {ground}:
        assert said.startswith("b: no class in common with a, so no answer could be right")
    else:
        assert not said


def test_only_as_many_labels_are_read_as_it_takes() -> None:
    read: list[str] = []

    def endless(name: str, *first: int):
        for label in first:
            read.append(name)
            yield label
        while True:
            read.append(name)
            yield 0

    require_measurable(FoundLabels("a", NAMES, endless("a", 0, 0, 1)), FoundLabels("b", NAMES, endless("b")))
    assert read.count("a") == 3
    assert read.count("b") == 1
    require_classes(FoundLabels("a", NAMES, endless("a", 2)))


def test_labels_that_are_none_are_passed_over() -> None:
    assert refusal(FoundLabels("a", NAMES, [9, -1, 1, 2]), FoundLabels("b", NAMES, [1])) == ""
    assert refusal(FoundLabels("a", NAMES, [9, -1]), FoundLabels("b", NAMES, [1])).startswith("a: none")


def test_classes_of_one_name_in_one_list_are_two_classes() -> None:
    assert refusal(FoundLabels("a", ["fish", "fish"], [0, 1]), FoundLabels("b", ["fish", "fish"], [1])) == ""


def test_the_message_names_what_is_there() -> None:
    names = [f"c{i}" for i in range(9)]
    said = refusal(FoundLabels("a", names, [0, 1]), FoundLabels("b", names, range(2, 9)))
    assert said.endswith("its objects are of c2, c3, c4, c5, c6 and 2 more, the others of c0, c1")
    foreign = refusal(FoundLabels("a", ["x", "y"], [0, 1]), FoundLabels("b", names, range(2, 9)))
    assert foreign == "b: has objects of classes that a does not list: c2, c3, c4 and 4 more"


def test_images_take_part_that_have_one_label_or_any(tmp_path: Path) -> None:
    rows = [
        ImageObjects(f"{i}.png", 9, 9, tuple(Object((0, 0, 9, 9), label=label) for label in labels))
        for i, labels in enumerate([(0, 0), (0, 1), (None, 2), ()])
    ]
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="x", classes=NAMES)
    part = Subset(ObjectIndex.open(tmp_path / "i.parquet"), range(4))
    assert list(labels_of(part).found) == [0, 0, 0, 1, 2]
    assert set(labels_of(part, images=True).found) == {0, 2}
    assert set(labels_of(part, images=True, multi_label=True).found) == {0, 1, 2}
    assert labels_of(part, images=True).having == "has exactly one label"


def test_rows_that_all_have_the_same_labels_are_refused() -> None:
    both = torch.tensor([[True, True, False]] * 3)
    with pytest.raises(DataError, match="a: all its images have the same labels"):
        require_varied(FoundLabels("a", NAMES, [], "images"), both)
    both[1, 0] = False
    require_varied(FoundLabels("a", NAMES, [], "images"), both)


def test_what_cannot_be_right_is_counted() -> None:
    train, test = torch.tensor([0, 1, 1]), torch.tensor([0, 3, 2, 3])
    assert without_example(train, test, NAMES, "objects") == [
        "3 of 4 test objects are of classes without a train example, and count as wrong: cow, dog"
    ]
    assert without_example(train, torch.tensor([0, 1]), NAMES, "objects") == []


# --- every evaluation, through the command line
# ------------------------------------------------------------------------------------------------------------

FAST = {
    "knn": ["--k", "1"],
    "linear": ["--steps", "5", "--lrs", "0.1"],
    "transfer": ["--costs", "1"],
    "retrieval": [],
    "dense-knn": ["--k", "1"],
    "segment": ["--steps", "5", "--lrs", "0.1"],
}
DENSE = ("dense-knn", "segment")
CLASSES = ["cat", "dog", "cow", "pig"]


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every source is the same tiny untrained model."""
    config = ModelConfig(
        "vit_tiny_patch16_224", None, "read-only", patch_size=8, embed_dim=32, depth=1, num_heads=2
    )
    torch.manual_seed(0)
    encoder = Encoder.of(
        build_vit(config, 16, drop_path=0.0),
        PretrainConfig(model=config, views=ViewsConfig(global_size=16)),
        source="tiny",
    )
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder)


def index(folder: Path, labels: Sequence[int | None], *, masks: bool = True, seed: int = 0) -> Path:
    """One image a label, with one object in its left half."""
    folder.mkdir()
    left = np.zeros((16, 24), np.uint8)
    left[:, :12] = 1
    rows, rng = [], np.random.default_rng(seed)
    for i, label in enumerate(labels):
        pixels = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        mask = rle.encode(left) if masks else None
        rows.append(ImageObjects(f"{i}.png", 24, 16, (Object((0, 0, 12, 16), mask, label),)))
    write_index(folder / "i.parquet", rows, root=folder, provenance="annotated", classes=CLASSES)
    return folder / "i.parquet"


def maps(folder: Path, values: Sequence[int], split: str) -> Path:
    """VOC's layout: one image a value, whose left half has it and whose right half is background."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    year = {"train": 2007, "val": 2008}[split]
    names = [f"{year}_{i:06}" for i in range(len(values))]
    (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg")
        labels = np.zeros((16, 24), np.uint8)
        labels[:, :12] = value
        Image.fromarray(labels).save(folder / "SegmentationClass" / f"{name}.png")
    return folder


def run(evaluation: str, train: Path, test: Path, out: Path, *more: str) -> None:
    side = "--gallery" if evaluation == "retrieval" else "--train"
    common = ["--model", "x", "--workers=0", "--device=cpu", "--out", str(out), *FAST[evaluation], *more]
    main(["evaluate", evaluation, side, str(train), "--test", str(test), *common])


def refused(capsys: pytest.CaptureFixture, evaluation: str, train: Path, test: Path, *more: str) -> str:
    out = train.parent / "out.json"
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(evaluation, train, test, out, *more)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert not out.exists()
    (line,) = said.err.splitlines()
    return line


def test_all_evaluations_are_tried() -> None:
    assert set(FAST) == set(EVALUATIONS)


GOOD = [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("evaluation", FAST)
def test_a_score_is_given_where_it_says_something(evaluation: str, tmp_path: Path) -> None:
    train, test = index(tmp_path / "a", GOOD), index(tmp_path / "b", [1, 0, 1], seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OdisWarning)
        run(evaluation, train, test, tmp_path / "out.json")
    assert (tmp_path / "out.json").exists()


@pytest.mark.parametrize("evaluation", FAST)
@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        ([0] * 6, [0] * 3, "a/i.parquet: all its labelled objects are of one class (cat)"),
        ([0] * 6, [0, 1], "a/i.parquet: all its labelled objects are of one class (cat)"),
        (GOOD, [2, 3], "b/i.parquet: no class in common with"),
        (GOOD, [None, None], "b/i.parquet: none of its objects has a label"),
        ([None] * 6, [0, 1], "a/i.parquet: none of its objects has a label"),
    ],
)
def test_where_it_would_say_nothing_it_stops(
    evaluation: str,
    train: list[int | None],
    test: list[int | None],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    paths = index(tmp_path / "a", train), index(tmp_path / "b", test, seed=1)
    if evaluation in DENSE and len(set(train)) == 1 and train[0] is not None:
        run(evaluation, *paths, tmp_path / "out.json")  # the background is the other class
        return
    assert says in refused(capsys, evaluation, *paths)


@pytest.mark.parametrize("evaluation", [e for e in FAST if e not in DENSE])
def test_images_of_one_class_are_refused_too(
    evaluation: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    paths = index(tmp_path / "a", [2] * 4), index(tmp_path / "b", [2, 2], seed=1)
    says = refused(capsys, evaluation, *paths, "--images", "--mode", "whole-image")
    assert "a/i.parquet: all its labelled images are of one class (cow)" in says


@pytest.mark.parametrize("evaluation", DENSE)
@pytest.mark.parametrize("side", ["train", "test"])
def test_boxes_without_masks_are_no_pixels(
    evaluation: str, side: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    boxes, masks = index(tmp_path / "a", GOOD, masks=False), index(tmp_path / "b", GOOD, seed=1)
    paths = (boxes, masks) if side == "train" else (masks, boxes)
    line = refused(capsys, evaluation, *paths)
    assert "a/i.parquet: its pixels are nothing but background: any features would score 100" in line
    assert line.endswith("its objects have no masks: --boxes gives the whole box its class")
    run(evaluation, *paths, tmp_path / "out.json", "--boxes")


@pytest.mark.parametrize("evaluation", DENSE)
@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        ([0] * 4, [5, 6], "its pixels are nothing but background"),
        ([5, 6] * 2, [0, 0], "its pixels are nothing but background"),
        ([5, 6] * 2, [7, 7], "no class in common"),
        ([255] * 4, [5, 6], "its pixels are nothing but background"),
    ],
)
def test_label_maps_that_say_nothing_are_refused(
    evaluation: str,
    train: list[int],
    test: list[int],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    maps(tmp_path / "voc", train, "train")
    root = maps(tmp_path / "voc", test, "val")
    assert says in refused(capsys, evaluation, root, root)
    maps(tmp_path / "voc", [5, 6] * 2, "train")
    maps(tmp_path / "voc", [6, 5, 7], "val")
    with pytest.warns(OdisWarning, match="classes without a train pixel, whose IoU is 0: car$"):
        run(evaluation, root, root, tmp_path / "out.json")


def test_queries_with_nothing_to_find_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one_each = index(tmp_path / "a", [0, 1, 2])
    out = ["evaluate", "retrieval", "--model=x", "--workers=0", f"--out={tmp_path / 'r.json'}"]
    with pytest.raises(SystemExit):
        main([*out, "--test", str(one_each)])
    assert "its queries have nothing of their class to find" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("evaluation", [e for e in FAST if e != "retrieval"])
@pytest.mark.parametrize("link", [False, True])
def test_images_of_both_parts_are_counted_before_anything_is_read(
    evaluation: str, link: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train = index(tmp_path / "a", GOOD)
    test = train
    if link:
        (tmp_path / "b").symlink_to(tmp_path / "a")
        (tmp_path / "c").mkdir()
        rows = list(ObjectIndex.open(train))[:4]
        test = tmp_path / "c" / "i.parquet"
        write_index(test, rows, root=tmp_path / "b", provenance="annotated", classes=CLASSES)
    shared = "4 images" if link else "6 images"
    with pytest.warns(OdisWarning, match=f"{shared} are in the test and the train part"):
        run(evaluation, train, test, tmp_path / "out.json")
    assert shared in " ".join(capsys.readouterr().out.split())
