"""Linear probe end to end on small indexes: single- and multi-label, what is chosen on what, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from odis.cli import main, run
from odis.config.query import QueryConfig
from odis.errors import DataError, OdisError
from odis.evaluation import probe, scores
from odis.evaluation.linear import LinearSettings, evaluate_linear
from odis.evaluation.scores import Score
from odis.evaluation.settings import Grid
from odis.evaluation.subset import Subset
from odis.evaluation.transfer import DataSet, TransferSettings, evaluate_transfer
from odis.inference import Encoder, embed_index
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

GRID = Grid(lrs=(0.01, 0.1), weight_decays=(0.0, 1e-3), steps=60, batch=32)


@pytest.fixture(scope="module")
def indexes(
    squares: Callable[..., ObjectIndex], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ObjectIndex, ObjectIndex]:
    folder, names = tmp_path_factory.mktemp("squares"), ["red", "green", "blue"]
    return squares(folder / "train", names, 30), squares(folder / "test", names[::-1], 12, seed=1)


def test_colours_are_learned_and_classes_matched_by_name(
    encoder: Callable[..., Encoder], indexes: tuple[ObjectIndex, ObjectIndex]
) -> None:
    results = evaluate_linear(
        [encoder("one"), encoder("two")],
        *indexes,
        LinearSettings(query=QueryConfig(modes=["crop", "masked-attention"]), grid=GRID),
    )
    assert [(row["model"], row["mode"]) for row in results["rows"]] == [
        ("one", "crop"), ("one", "masked-attention"), ("two", "crop"), ("two", "masked-attention"),
    ]  # fmt: skip
    first = results["rows"][0]
    assert first["scores"]["top-1"]["value"] == 100.0
    assert first["chosen"]["lr"] in GRID.lrs
    assert first["chosen"]["weight_decay"] in GRID.weight_decays
    assert 0 <= first["chosen"]["held_out"] <= 100
    assert first["scores"] == results["rows"][2]["scores"], "the same model, the same answer"
    assert (results["train"]["objects"], results["test"]["objects"], results["evaluation"]) == (
        60,
        24,
        "linear",
    )


def test_what_is_chosen_never_sees_the_test_part(
    encoder: Callable[..., Encoder], indexes: tuple[ObjectIndex, ObjectIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def noted(
        features: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        given.update(features=features, targets=targets, groups=groups, **more)
        return choose(features, targets, groups, *rest, **more)

    choose = probe.choose_and_train
    monkeypatch.setattr(probe, "choose_and_train", noted)
    evaluate_linear(
        encoder(), *indexes, LinearSettings(query=QueryConfig(modes=["crop"]), grid=GRID, held_out=0.3)
    )
    train = embed_index(encoder(), indexes[0], "crop")
    assert torch.equal(given["features"], train.features)
    assert torch.equal(given["targets"], train.labels)
    assert torch.equal(given["groups"], train.rows)
    assert given["share"] == 0.3


def test_images_with_several_labels_are_scored_by_mean_average_precision(
    encoder: Callable[..., Encoder], indexes: tuple[ObjectIndex, ObjectIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    score = scores.mean_average_precision_score
    monkeypatch.setattr(
        scores,
        "mean_average_precision_score",
        lambda z, y, rows, seed: (seen.append((z, y)), score(z, y, rows, seed=seed))[1],
    )
    results = evaluate_linear(
        encoder(), *indexes, LinearSettings(query=QueryConfig(modes=["whole-image"], images=True), grid=GRID)
    )
    ((logits, targets),) = seen
    sets = [{indexes[1].classes[o.label] for o in row.objects} for row in indexes[1]]
    assert [{indexes[0].classes[c] for c in row.nonzero()[:, 0].tolist()} for row in targets] == sets
    expected = np.mean(
        [average_precision_score(targets[:, c].numpy(), logits[:, c].numpy()) for c in range(3)]
    )
    assert results["rows"][0]["scores"]["mAP"]["value"] == pytest.approx(100 * expected, abs=1e-3)
    assert expected > 0.8, "which colours an image shows is easy to see"
    assert results["test"]["objects"] == 12
    single = evaluate_linear(
        encoder(),
        *indexes,
        LinearSettings(query=QueryConfig(modes=["whole-image"], images=True), grid=GRID, multi_label=False),
    )
    assert list(single["rows"][0]["scores"]) == ["top-1"]
    one = sum(len(names) == 1 for names in sets)
    assert (single["test"]["objects"], single["test"]["several_labels"]) == (one, 12 - one)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LinearSettings(held_out=0), "held-out 0 must be a share above 0 and below 1"),
        (LinearSettings(grid=Grid(steps=0)), "steps 0 must be 1 or more"),
        (LinearSettings(multi_label=True), "multi-label goes with images"),
        (LinearSettings(query=QueryConfig(modes=["crops"])), "mode 'crops' is none of"),
        (
            LinearSettings(query=QueryConfig(images=True, context=2.0)),
            "context 2 is a window around an object, but images are queried",
        ),
    ],
)
def test_settings_that_do_not_fit(
    encoder: Callable[..., Encoder],
    indexes: tuple[ObjectIndex, ObjectIndex],
    settings: LinearSettings,
    message: str,
) -> None:
    with pytest.raises(OdisError, match=message):
        evaluate_linear(encoder(), *indexes, settings)


def test_data_that_does_not_fit(
    encoder: Callable[..., Encoder], indexes: tuple[ObjectIndex, ObjectIndex], tmp_path: Path
) -> None:
    train, test = indexes
    unlabelled = [
        ImageObjects(r.image, r.width, r.height, tuple(Object(o.box) for o in r.objects)) for r in test
    ]
    write_index(tmp_path / "unlabelled.parquet", unlabelled, root=test.root, provenance="x", classes=["red"])
    write_index(
        tmp_path / "foreign.parquet",
        list(test),
        root=test.root,
        provenance="x",
        classes=["red", "green", "cat"],
    )
    for name, message in (
        ("unlabelled", "none of its objects has a label"),
        ("foreign", "objects of classes that .* does not list: cat"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate_linear(
                encoder(), train, ObjectIndex.open(tmp_path / f"{name}.parquet"), LinearSettings(grid=GRID)
            )
    part = Subset(train, range(len(train)))
    for data_sets in (
        [],
        [DataSet("a", part, part), DataSet("a", part, part)],
        [DataSet("mean", part, part)],
    ):
        with pytest.raises(OdisError, match="must be one or more, each with a name of its own"):
            evaluate_transfer(encoder(), data_sets, TransferSettings())
    one = Subset(train, [i for i in range(len(train)) if {o.label for o in train[i].objects} == {0}])
    with pytest.raises(OdisError, match=r"all its labelled objects are of one class \(red\)"):
        evaluate_transfer(encoder(), [DataSet("one", one, one)], TransferSettings())
    with pytest.raises(OdisError, match="costs"):
        evaluate_transfer(encoder(), [DataSet("a", part, part)], TransferSettings(costs=()))


def test_the_commands(
    encoder: Callable[..., Encoder],
    indexes: tuple[ObjectIndex, ObjectIndex],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    paths = ["--train", indexes[0].path, "--test", indexes[1].path]
    how = ["--model", "a", "--model", "b", "--mode", "crop", "--workers", "0"]
    main(
        [
            "evaluate",
            "linear",
            *how,
            *paths,
            "--steps",
            "20",
            "--lrs",
            "0.1",
            "--out",
            str(tmp_path / "linear.json"),
        ]
    )
    shown = capsys.readouterr().out
    assert "linear probe: 24 objects (annotated, 3 classes), trained on 60 objects" in " ".join(shown.split())
    assert shown.count("100.00") == 2
    assert json.loads((tmp_path / "linear.json").read_text())["complete"] is True
    half_done = [
        "linear",
        *how,
        *paths,
        "--steps",
        "20",
        "--lrs",
        "0.1",
        "--out",
        str(tmp_path / "half.json"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(
            "odis.evaluation.scores.accuracy_score", Mock(side_effect=[Score(50, 40, 60), KeyboardInterrupt])
        )
        with pytest.raises(KeyboardInterrupt):
            run(["evaluate", *half_done])
    half = json.loads((tmp_path / "half.json").read_text())
    assert ([row["model"] for row in half["rows"]], half["complete"]) == (["a"], False), (
        "what was done is kept, and says so"
    )
    main(
        [
            "evaluate",
            "transfer",
            *how,
            *paths,
            *paths,
            "--name",
            "x",
            "--name",
            "y",
            "--costs",
            "1",
            "--out",
            str(tmp_path / "t.json"),
        ]
    )
    assert "mean" in capsys.readouterr().out
    for arguments, message in (
        (["transfer", *how, *paths, "--test", "z"], "--train was given 1 time and --test 2 times"),
        (["transfer", *how, *paths, *paths], "must be one or more, each with a name of its own"),
        (["linear", *how, *paths, "--lrs", "fast"], "lrs 'fast' must be numbers, such as 0.01,0.1"),
        (["linear", *how, *paths, "--out", str(tmp_path)], "cannot be written (is a folder)"),
        (["linaer", *how], "linaer: no such evaluation (did you mean linear?)"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", *arguments])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
