"""k-NN of objects end to end on small indexes: accuracy against a hand count, classes, refusals, command."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from odis.backbones.saved import save_model
from odis.cli import run
from odis.config.query import QueryConfig, ReadConfig
from odis.config.training import ModelConfig
from odis.errors import DataError, OdisError
from odis.evaluation.knn import KnnSettings, evaluate_knn
from odis.evaluation.results import results_table
from odis.inference import Encoder, embed_index
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object


@pytest.fixture(scope="module")
def indexes(
    squares: Callable[..., ObjectIndex], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ObjectIndex, ObjectIndex]:
    folder = tmp_path_factory.mktemp("squares")
    names = ["red", "green", "blue"]
    return squares(folder / "train", names, 12), squares(folder / "test", names[::-1], 6, seed=1)


def test_accuracy_is_the_share_of_objects_whose_neighbours_agree(
    encoder: Callable[..., Encoder],
    indexes: tuple[ObjectIndex, ObjectIndex],
) -> None:
    train, test = indexes
    results = evaluate_knn(
        encoder(),
        train,
        test,
        KnnSettings(
            query=QueryConfig(modes=["crop", "masked-attention"]), read=ReadConfig(batch_size=5), k=[1, 5]
        ),
    )
    assert [row["mode"] for row in results["rows"]] == ["crop", "masked-attention"]
    for row in results["rows"]:
        mode, scores = row["mode"], row["scores"]
        a, b = (embed_index(encoder(), index, mode) for index in (train, test))
        cosine = torch.nn.functional.cosine_similarity(b.features[:, None], a.features[None], dim=-1)
        nearest = a.labels[cosine.argmax(1)]
        right = sum(train.classes[n] == test.classes[t] for n, t in zip(nearest.tolist(), b.labels.tolist()))
        assert scores["k=1"]["value"] == pytest.approx(100 * right / 12, abs=1e-3), mode
        assert scores["k=1"]["low"] <= scores["k=1"]["value"] <= scores["k=1"]["high"]
    # Colour is all there is to see, and even an untrained network sees it: labels of the two indexes, listed
    # in other orders, are matched.
    assert results["rows"][0]["scores"]["k=5"] == {"value": 100.0, "low": 100.0, "high": 100.0}


def test_a_readout_is_asked_of_every_model_that_has_it(
    encoder: Callable[..., Encoder], indexes: tuple[ObjectIndex, ObjectIndex]
) -> None:
    """The fixture's tokens are read-only; one model is made to have none but `[CLS]`."""
    single = encoder("single")
    single.model.object_tokens = "single"
    settings = KnnSettings(query=QueryConfig(("masked-attention",), readout="both"), k=[1])
    results = evaluate_knn([encoder("two"), single], *indexes, settings)
    (row,) = results["rows"]
    assert (row["model"], row["readout"]) == ("two", "[CLS] and token")
    assert [(item["model"], item["why"]) for item in results["left_out"]] == [
        ("single", "has no [CLS] beside what the mode reads, so no readout both")
    ]
    a, b = (embed_index(encoder(), index, readout="both") for index in indexes)
    parts = [embed_index(encoder(), indexes[0], readout=name).features for name in ("cls", "obj")]
    torch.testing.assert_close(a.features, torch.cat(parts, dim=1), rtol=0, atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(b.features[:, None], a.features[None], dim=-1)
    names = [index.classes for index in indexes]
    right = [
        names[0][n] == names[1][t] for n, t in zip(a.labels[cosine.argmax(1)].tolist(), b.labels.tolist())
    ]
    assert row["scores"]["k=1"]["value"] == pytest.approx(100 * sum(right) / len(right), abs=1e-3)
    with pytest.raises(OdisError, match=r"readout both: single has no \[CLS\] beside what mode masked"):
        evaluate_knn(single, *indexes, settings)


def test_results_say_what_was_compared(
    encoder: Callable[..., Encoder], indexes: tuple[ObjectIndex, ObjectIndex]
) -> None:
    train, test = indexes
    settings = KnnSettings(
        query=QueryConfig(modes=["whole-image", "masked-attention"], context=1.5, mask_coverage=1.0),
        k=[3],
        max_train=5,
    )
    results = evaluate_knn([encoder("one"), encoder("two")], train, test, settings)
    assert results["train"] == {
        "index": train.path,
        "provenance": "annotated",
        "images": 5,
        "objects": 10,
        "unlabelled": 0,
        "several_labels": 0,
        "skipped": 0,
        "classes": 3,
    }
    assert results["test"]["objects"] == 12
    assert results["settings"] == {
        "modes": ["whole-image", "masked-attention"], "images": False, "k": [3], "temperature": 0.07,
        "size": None, "context": 1.5, "readout": "obj",
        "mask_coverage": 1.0, "mask_margin": None, "max_train": 5, "max_test": None, "seed": 0,
    }  # fmt: skip
    one, _, two, _ = results["rows"]
    assert (one["model"], one["provenance"], one["size"], one["mode"]) == (
        "one",
        "annotated",
        16,
        "whole-image",
    )
    assert [row["model"] for row in results["rows"]] == ["one", "one", "two", "two"]
    assert one["scores"] == two["scores"]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(results_table(results))
    text = console.export_text()
    best, low = (one["scores"]["k=3"][name] for name in ("value", "low"))
    for word in (
        "one",
        "two",
        "annotated",
        "masked-attention",
        "window 1.5 x box, mask coverage 1",
        f"{best:.2f}",
        f"{low:.1f} - ",
        "k=3",
    ):
        assert word in text, word


def test_unlabelled_and_unreadable_objects_take_no_part(
    encoder: Callable[..., Encoder],
    squares: Callable[..., ObjectIndex],
    tmp_path: Path,
    indexes: tuple[ObjectIndex, ObjectIndex],
) -> None:
    index = squares(tmp_path / "test", ["red", "blue"], 3)
    rows = [
        index[0],
        ImageObjects("1.png", 32, 16, (Object((0, 0, 9, 9)), Object((5, 0, 2, 9), label=1))),
        index[2],
    ]
    write_index(index.path, rows, root=index.root, provenance="annotated", classes=["red", "blue"])
    (tmp_path / "test" / "2.png").write_bytes(b"not an image")
    results = evaluate_knn(
        encoder(),
        indexes[0],
        ObjectIndex.open(index.path),
        KnnSettings(query=QueryConfig(modes=["crop", "whole-image"]), k=[1]),
    )
    assert {name: results["test"][name] for name in ("images", "objects", "unlabelled", "skipped")} == {
        "images": 2, "objects": 2, "unlabelled": 1, "skipped": 2,
    }  # fmt: skip
    assert [item["what"].removeprefix(f"{tmp_path}/test/") for item in results["skipped"]] == [
        "1.png, object 1",
        "2.png",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (KnnSettings(k=[10, 25]), "k 25 must be from 1 to the 24 train objects"),
        (KnnSettings(k=[0]), "k 0 must be 1 or more"),
        (KnnSettings(k=[]), "k 0 must be 1 or more"),
        (KnnSettings(query=QueryConfig(modes=[])), "mode must be some of"),
        (KnnSettings(query=QueryConfig(modes=["crops"])), "mode 'crops' is none of"),
        (
            KnnSettings(query=QueryConfig(modes=["crop"], context=2.0)),
            "context 2 goes with mode masked-attention, which is not among crop",
        ),
        (KnnSettings(max_test=0), "max-test 0 must be 1 or more"),
        (KnnSettings(query=QueryConfig(size=20)), "size 20 must be a multiple of the patch size 8"),
        (KnnSettings(temperature=0), "temperature 0 must be above 0"),
        (KnnSettings(read=ReadConfig(workers=-1)), "workers -1 must be 0 or more"),
    ],
)
def test_settings_that_do_not_fit(
    encoder: Callable[..., Encoder],
    indexes: tuple[ObjectIndex, ObjectIndex],
    settings: KnnSettings,
    message: str,
) -> None:
    with pytest.raises(OdisError, match=message):
        evaluate_knn(encoder(), *indexes, settings)


def test_indexes_that_do_not_fit(
    encoder: Callable[..., Encoder],
    squares: Callable[..., ObjectIndex],
    tmp_path: Path,
    indexes: tuple[ObjectIndex, ObjectIndex],
) -> None:
    settings = KnnSettings(k=[1])
    unlabelled = squares(tmp_path / "unlabelled", ["red"], 1, labelled=False)
    foreign = squares(tmp_path / "foreign", ["red", "green"], 2)
    write_index(
        foreign.path, list(foreign), root=foreign.root, provenance="annotated", classes=["red", "cat"]
    )
    foreign = ObjectIndex.open(foreign.path)
    (tmp_path / "none").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "none" / "a.png")
    write_index(
        tmp_path / "none.parquet",
        [ImageObjects("a.png", 9, 9)],
        root=tmp_path / "none",
        provenance="annotated",
        classes=["red"],
    )
    none = ObjectIndex.open(tmp_path / "none.parquet")
    gone = squares(tmp_path / "gone", ["red"], 1)
    (tmp_path / "gone" / "0.png").unlink()
    for train, test, message in (
        (
            unlabelled,
            indexes[1],
            "unlabelled/index.parquet: none of its objects has a label; this evaluation needs a labelled",
        ),
        (indexes[0], unlabelled, "none of its objects has a label"),
        (
            indexes[0],
            foreign,
            "foreign/index.parquet: has objects of classes that .*train/index.parquet does not list: cat",
        ),
        (indexes[0], none, "none.parquet: none of its objects has a label"),
        (gone, indexes[1], r"gone/index.parquet: all its labelled objects are of one class \(red\)"),
        (indexes[0], gone, "gone/index.parquet: none of its images with labelled objects could be used"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate_knn(encoder(), train, test, settings)
    twice = squares(tmp_path / "twice", ["red", "blue", "red"], 2)
    assert evaluate_knn(encoder(), twice, twice, settings)["rows"][0]["scores"]["k=1"]["value"] == 100.0
    with pytest.raises(DataError, match="two of its classes are named 'red'"):
        evaluate_knn(encoder(), twice, indexes[1], settings)


def test_the_command_prints_a_table_and_writes_results(
    encoder: Callable[..., Encoder],
    model_config: ModelConfig,
    tmp_path: Path,
    indexes: tuple[ObjectIndex, ObjectIndex],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fields = {
        name: getattr(model_config, name)
        for name in (
            "name",
            "patch_size",
            "embed_dim",
            "depth",
            "num_heads",
            "object_tokens",
            "object_readout",
        )
    }
    card = {
        "model": fields,
        "image_size": 16,
        "patch_size": 8,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "mask_coverage": 0.5,
        "mask_margin": 0,
    }
    card |= {"provenance": "whole-image", "step": 3, "recipe": "debug"}
    runs = [tmp_path / "a", tmp_path / "b"]
    for folder in runs:
        folder.mkdir()
        save_model(folder / "model.safetensors", encoder().model, card)
    arguments = [
        "--train",
        indexes[0].path,
        "--test",
        indexes[1].path,
        "--mode",
        "crop, whole-image",
        "--k",
        "1,5",
        "--device",
        "cpu",
    ]
    arguments += ["--workers", "0", "--out", str(tmp_path / "out" / "results.json")]
    run(["evaluate", "knn", "--model", str(runs[0]), "--model", str(runs[1]), *arguments])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(r["model"], r["mode"]) for r in results["rows"]] == [
        (str(run), mode) for run in runs for mode in ("crop", "whole-image")
    ]
    first = results["rows"][0]
    assert (first["recipe"], first["step"], first["provenance"]) == ("debug", 3, "whole-image")
    assert set(first["scores"]) == {"k=1", "k=5"}
    shown = capsys.readouterr().out
    assert "whole-image" in shown
    assert "100.00" in shown
    for wrong, message in (
        (["--k", "ten"], "k 'ten' must be whole numbers"),
        (["--train", ""], "--train is required"),
    ):
        with pytest.raises(OdisError, match=message):
            run(["evaluate", "knn", "--model", str(runs[0]), *arguments, *wrong])
    with pytest.raises(OdisError, match="--modle"):
        run(["evaluate", "knn", "--modle", "x"])


def test_images_take_part_that_have_exactly_one_label(
    encoder: Callable[..., Encoder], indexes: tuple[ObjectIndex, ObjectIndex]
) -> None:
    train, test = indexes
    results = evaluate_knn(
        encoder(), train, test, KnnSettings(query=QueryConfig(modes=["whole-image"], images=True), k=[1])
    )
    sets = [[{index.classes[o.label] for o in row.objects} for row in index] for index in (train, test)]
    assert [results[side]["objects"] for side in ("train", "test")] == [
        sum(len(s) == 1 for s in of_side) for of_side in sets
    ]
    assert results["test"]["several_labels"] == sum(len(s) > 1 for s in sets[1])
    found = [embed_index(encoder(), index, "whole-image", images=True) for index in (train, test)]
    pure = [[i for i, s in enumerate(of_side) if len(s) == 1] for of_side in sets]
    right = 0
    for i in pure[1]:
        cosine = torch.nn.functional.cosine_similarity(found[1].features[i][None], found[0].features[pure[0]])
        right += sets[1][i] == sets[0][pure[0][int(cosine.argmax())]]
    assert results["rows"][0]["scores"]["k=1"]["value"] == pytest.approx(100 * right / len(pure[1]), abs=1e-3)


def test_shared_images_and_a_mode_that_one_model_lacks_are_said(
    encoder: Callable[..., Encoder], indexes: tuple[ObjectIndex, ObjectIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = indexes
    without = encoder("without")
    monkeypatch.setattr(
        Encoder,
        "modes",
        property(lambda self: ("crop",) if self.source == "without" else ("masked-attention", "crop")),
    )
    rows: list[int] = []
    settings = KnnSettings(query=QueryConfig(modes=["masked-attention"]), k=[1, 1, 3], max_test=4)
    results = evaluate_knn(
        [without, encoder("with")],
        train,
        train,
        settings,
        on_row=lambda so_far: rows.append(len(so_far["rows"])),
    )
    assert [row["model"] for row in results["rows"]] == ["with"]
    assert [item["model"] for item in results["left_out"]] == ["without"]
    assert results["notes"] == [
        "4 images are in the test and the train part: their scores say nothing of new images"
    ]
    assert rows == [1]
    assert list(results["rows"][0]["scores"]) == ["k=1", "k=3"]
    assert evaluate_knn(encoder(), train, test, KnnSettings(k=[1]))["notes"] == []
    with pytest.raises(OdisError, match="mode masked-attention: without has no object token"):
        evaluate_knn(without, train, test, settings)
