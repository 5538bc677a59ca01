"""Retrieval end to end: scores are means over queries, classes are matched, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.backbones.build import build_vit
from odis.cli import main
from odis.config.query import READOUTS, QueryConfig, Readout
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import DataError, OdisError
from odis.evaluation.ranking import rank
from odis.evaluation.retrieval import RetrievalSettings, evaluate_retrieval
from odis.inference import Encoder, embed_index
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

MODEL = ModelConfig(
    "vit_tiny_patch16_224", None, "read-only", patch_size=8, embed_dim=32, depth=1, num_heads=2
)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder.of(
        build_vit(MODEL, 16, drop_path=0.0),
        PretrainConfig(model=MODEL, views=ViewsConfig(global_size=16)),
        source="tiny",
    )


def test_a_gallery_that_holds_the_query_images_does_not_find_them(index: ObjectIndex) -> None:
    for same_image in (False, True):
        settings_ = RetrievalSettings(query=QueryConfig(modes=["crop"]), k=(1, 3), same_image=same_image)
        among_others = evaluate_retrieval(encoder(), index, None, settings_)["rows"][0]["scores"]
        in_gallery = evaluate_retrieval(encoder(), index, ObjectIndex.open(index.path), settings_)["rows"][0][
            "scores"
        ]
        assert in_gallery == among_others


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ObjectIndex:
    """Six images of two coloured squares: red, green, blue."""
    folder, rows = tmp_path_factory.mktemp("squares"), []
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels, labels = np.zeros((16, 32, 3), dtype=np.uint8), rng.permutation(3)[:2]
        for n, label in enumerate(labels):
            pixels[:, 16 * n : 16 * n + 16, label] = rng.integers(150, 256, (16, 16))
        Image.fromarray(pixels).save(folder / f"{i}.png")
        objects = tuple(
            Object((16.0 * n, 0.0, 16.0 * n + 16, 16.0), label=int(label)) for n, label in enumerate(labels)
        )
        rows.append(ImageObjects(f"{i}.png", 32, 16, objects))
    write_index(
        folder / "index.parquet", rows, root=folder, provenance="annotated", classes=["red", "green", "blue"]
    )
    return ObjectIndex.open(folder / "index.parquet")


@pytest.mark.parametrize("readout", READOUTS)
def test_scores_are_the_means_over_queries(index: ObjectIndex, readout: Readout) -> None:
    query = QueryConfig(modes=["crop"], readout=readout)
    results = evaluate_retrieval(encoder(), index, None, RetrievalSettings(query=query, k=(1, 3)))
    found = embed_index(encoder(), index, "crop", readout=readout)
    targets = torch.nn.functional.one_hot(found.labels, 3).bool()
    expected = rank(
        found.features, found.features, targets, targets, images=(found.rows, found.rows), k=(1, 3)
    )
    (row,) = results["rows"]
    assert row["scores"]["mAP"]["value"] == pytest.approx(100 * expected[0].mean().item(), abs=1e-3)
    assert row["scores"]["R@3"]["value"] == pytest.approx(100 * expected[1][:, 1].mean().item(), abs=1e-3)
    assert (row["queries"], results["test"]["objects"], results["evaluation"]) == (12, 12, "retrieval")
    assert row["scores"]["R@1"]["value"] == 100, "colour is all there is"
    assert row["readout"] == {"obj": "token", "cls": "[CLS]", "both": "[CLS] and token"}[readout]


def test_classes_of_a_gallery_are_matched_by_name(index: ObjectIndex, tmp_path: Path) -> None:
    names = ["blue", "red", "green"]  # the same classes in another order
    turned = [
        ImageObjects(
            r.image, r.width, r.height, tuple(Object(o.box, label=(o.label + 1) % 3) for o in r.objects)
        )
        for r in index
    ]
    write_index(tmp_path / "turned.parquet", turned, root=index.root, provenance="annotated", classes=names)
    gallery = ObjectIndex.open(tmp_path / "turned.parquet")
    results = evaluate_retrieval(
        encoder(), index, gallery, RetrievalSettings(query=QueryConfig(modes=["crop"]), k=(1,))
    )
    assert results["rows"][0]["scores"]["R@1"]["value"] == 100
    assert results["gallery"]["objects"] == 12
    write_index(
        tmp_path / "foreign.parquet",
        list(index),
        root=index.root,
        provenance="annotated",
        classes=["red", "green", "cat"],
    )
    with pytest.raises(
        DataError, match=r"has objects of classes that .*foreign\.parquet does not list: blue"
    ):
        evaluate_retrieval(
            encoder(), index, ObjectIndex.open(tmp_path / "foreign.parquet"), RetrievalSettings(k=(1,))
        )


def test_images_are_relevant_that_share_a_class(index: ObjectIndex, tmp_path: Path) -> None:
    sets = [{0}, {0}, {1}, {1}, {0, 1}, {2}]
    rows = [
        ImageObjects(r.image, r.width, r.height, tuple(Object(r.objects[0].box, label=label) for label in of))
        for r, of in zip(index, sets, strict=True)
    ]
    path = tmp_path / "several.parquet"
    write_index(path, rows, root=index.root, provenance="annotated", classes=index.classes)
    results = evaluate_retrieval(
        encoder(),
        ObjectIndex.open(path),
        None,
        RetrievalSettings(query=QueryConfig(modes=["whole-image"], images=True), k=(5,)),
    )
    assert results["rows"][0]["queries"] == 5
    assert results["test"]["objects"] == 6


def test_the_command_and_its_refusals(
    index: ObjectIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OdisError, match="k 0 must be 1 or more"):
        evaluate_retrieval(encoder(), index, None, RetrievalSettings(k=(0,)))
    for arguments, message in (
        ([], "give --test, or --landmarks; one of the two"),
        (["--test", "a", "--landmarks", "b"], "one of the two"),
        (["--landmarks", "b", "--images"], "--landmarks says what is queried and searched"),
        (["--test", index.path, "--jpg", "x"], "--jpg goes with --landmarks"),
        (["--test", index.path, "--k", "one"], "k 'one' must be whole numbers"),
        (["--test", index.path], "x: no such run folder or model file"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", "retrieval", "--model", "x", *arguments, "--out", str(tmp_path / "r.json")])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()
