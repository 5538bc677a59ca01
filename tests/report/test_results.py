"""Results files: what is read, what is refused, what stands in one table; the table's numbers are the
file's.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from odis.report.results import find_results, settings_in_words
from odis.report.tables import tables

KNN: dict[str, Any] = {
    "evaluation": "knn",
    "odis_version": "0.1.0",
    "settings": {"modes": ["masked-attention", "crop"], "k": [10, 20], "temperature": 0.07, "size": None},
    "train": {
        "index": "a/train.parquet",
        "provenance": "annotated",
        "images": 1000,
        "objects": 4012,
        "classes": 10,
    },
    "test": {
        "index": "a/val.parquet",
        "provenance": "detected:yolo",
        "images": 400,
        "objects": 1612,
        "classes": 10,
    },
    "rows": [
        {
            "model": "runs/a",
            "provenance": "annotated",
            "recipe": "demo",
            "step": 938,
            "size": 36,
            "precision": "fp32",
            "mode": "masked-attention",
            "seconds": 1.5,
            "scores": {
                "k=10": {"value": 57.1234, "low": 55.04, "high": 59.26},
                "k=20": {"value": 50.0, "low": 48.0, "high": 52.0},
            },
        },
        {
            "model": "timm:vit",
            "provenance": "timm's weights",
            "recipe": None,
            "step": None,
            "size": 224,
            "precision": "bf16",
            "mode": "crop",
            "seconds": 2,
            "scores": {
                "k=10": {"value": 31.5, "low": None, "high": None},
                "k=20": {"value": 66.6, "low": 60.0, "high": 70.0},
            },
        },
    ],
    "skipped": [{"what": "x", "why": "y"}],
}


def changed(**more: Any) -> dict[str, Any]:
    return deepcopy(KNN) | more


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_table_shows_the_numbers_of_the_file_their_intervals_and_their_sources(
    tmp_path: Path, parsed: Any
) -> None:
    file = write(tmp_path / "knn.json", KNN)
    page = parsed(tables(*find_results([tmp_path], [])))
    (table,) = page.all("table")
    assert [th.text for th in table.all("thead")[0].all("th")] == ["model", "mode", "k=10", "k=20"]
    rows = table.all("tbody")[0].all("tr")
    for row, given in zip(rows, KNN["rows"], strict=True):
        assert [float(d.attributes["value"]) for d in row.all("data")] == [
            score["value"] for score in given["scores"].values()
        ]
        assert given["model"] in row.text
        assert f"trained on: {given['provenance']}" in row.text
        assert row.all("td")[0].text == f"{given['mode']} {given['size']} px, {given['precision']}"
        assert str(file) in row.text
    assert rows[0].all("td")[1].text == "57.1 best 55.0 to 59.3"
    assert rows[1].all("td")[1].text == "31.5 no interval"
    assert [["best" in td.attributes["class"] for td in row.all("td", class_="number")] for row in rows] == [
        [True, False],
        [False, True],
    ]
    assert "recipe demo, step 938" in rows[0].text
    caption = page.all("p", class_="quiet")[0].text
    assert "Train: a/train.parquet (annotated), 1,000 images, 4,012 objects, 10 classes." in caption
    assert "Test: a/val.parquet (detected:yolo), 400 images" in caption
    assert "Settings: modes masked-attention, crop; k 10, 20; temperature 0.07." in caption
    assert "1 file or object could not be used" in caption
    assert page.all("h3")[0].text == "k-NN"


def test_rows_stand_in_one_table_only_if_they_can_be_compared(tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "knn.json", KNN)
    same = changed(
        rows=[KNN["rows"][0] | {"model": "runs/b"}],
        train=KNN["train"] | {"index": "a/./train.parquet", "skipped": 9},
    )
    write(tmp_path / "b" / "knn.json", same)
    others = [
        changed(evaluation="retrieval"),
        changed(settings=KNN["settings"] | {"temperature": 0.1}),
        changed(test=KNN["test"] | {"index": "b/val.parquet"}),
        changed(test=KNN["test"] | {"objects": 1000}),
        changed(train=KNN["train"] | {"provenance": "discovered:x"}),
        changed(train=None),
    ]
    named = [write(tmp_path / f"{i}.json", other) for i, other in enumerate(others)]
    found, skipped = find_results([tmp_path / "a", tmp_path / "b"], [*named, first])
    assert skipped == []
    assert [[row.model for row in one.rows] for one in found] == [["runs/a", "timm:vit", "runs/b"]] + [
        ["runs/a", "timm:vit"]
    ] * 6
    assert found[0].best("k=10") == 57.1234
    assert found[0].skipped == 2
    assert list(found[-1].sides) == ["test"]


def test_other_evaluations_name_what_took_part(tmp_path: Path, parsed: Any) -> None:
    sides = {"gallery": KNN["train"], "test": KNN["test"]}
    left_out = [{"model": "timm:a", "mode": "masked-attention", "why": "has no object token"}]
    write(
        tmp_path / "a.json", {"evaluation": "retrieval", "rows": KNN["rows"], "left_out": left_out, **sides}
    )
    sets = [
        {"name": "cars", "train": KNN["train"], "test": KNN["test"]},
        {"name": "birds", "test": KNN["test"] | {"index": "b"}},
    ]
    write(tmp_path / "b.json", {"evaluation": "transfer", "rows": KNN["rows"], "data_sets": sets})
    retrieval, transfer = (
        p.text for p in parsed(tables(*find_results([tmp_path], []))).all("p", class_="quiet")
    )
    assert "Gallery: a/train.parquet (annotated), 1,000 images" in retrieval
    assert "Test: a/val.parquet (detected:yolo)" in retrieval
    assert "Left out: timm:a, masked-attention: has no object token." in retrieval
    for said in (
        "Cars, train: a/train.parquet (annotated)",
        "Cars, test: a/val.parquet",
        "Birds, test: b (detected:yolo)",
    ):
        assert said in transfer


def test_best_needs_another_to_be_better_than(tmp_path: Path, parsed: Any) -> None:
    one = changed(rows=KNN["rows"][:1])
    write(tmp_path / "a.json", one)
    (alone,), _ = find_results([tmp_path], [])
    assert alone.best("k=10") is None
    tie = changed(rows=[KNN["rows"][0], KNN["rows"][0]])
    write(tmp_path / "a.json", tie)
    page = parsed(tables(*find_results([tmp_path], [])))
    assert len(page.all("td", class_="best")) == 4


MALFORMED = {
    "no JSON": ('{"evaluation": "knn", ', "is not JSON, or not whole"),
    "no UTF-8": ("evaluation \udcff", "is not JSON, or not whole"),
    "rows missing": ({"evaluation": "knn", "models": []}, "has no rows"),
    "rows no list": (changed(rows={}), "has no rows"),
    "row no object": (changed(rows=[3]), "row 0 names no model"),
    "row without model": (changed(rows=[{"scores": {}}]), "row 0 names no model"),
    "row without scores": (changed(rows=[KNN["rows"][0], {"model": "a"}]), "row 1 has no scores"),
    "score a number": (
        changed(rows=[{"model": "a", "scores": {"k": 3.0}}]),
        "score 'k' of row 0 has no value",
    ),
    "value a word": (
        changed(rows=[{"model": "a", "scores": {"k": {"value": "3"}}}]),
        "has a value that is no number",
    ),
    "low a truth": (
        changed(rows=[{"model": "a", "scores": {"k": {"value": 3, "low": True}}}]),
        "has a low that is no number",
    ),
    "evaluation a number": (changed(evaluation=3), "names no evaluation"),
    "settings a list": (changed(settings=[1]), "its settings are no object"),
    "test a word": (changed(test="val"), "its test is no object"),
    "skipped a number": (changed(skipped=3), "its skipped is no list of objects"),
    "a data set a word": (changed(data_sets=["a"]), "its data_sets is no list of objects"),
    "too deep": ('{"evaluation": ' + "[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_named_and_left_out(name: str, tmp_path: Path, parsed: Any) -> None:
    content, why = MALFORMED[name]
    bad, good = tmp_path / "bad <b>.json", write(tmp_path / "good.json", KNN)
    if isinstance(content, str):
        bad.write_bytes(content.encode(errors="surrogateescape"))
    else:
        write(bad, content)
    found, skipped = find_results([tmp_path], [])
    assert [row.file for row in found[0].rows] == [str(good)] * 2
    assert [item.what for item in skipped] == [str(bad)]
    assert why in skipped[0].why
    note = parsed(tables(found, skipped)).all("p", class_="note")[0].text
    assert note == f"Left out: {bad}: {skipped[0].why}."


def test_other_json_of_a_run_is_passed_over_unless_it_is_named(tmp_path: Path) -> None:
    other = write(tmp_path / "other.json", {"a": 1})
    write(tmp_path / "list.json", "[1, 2]")
    write(tmp_path / ".knn.json.12.partial.json", "{")
    assert find_results([tmp_path], []) == ([], [])
    assert [(item.what, item.why) for item in find_results([tmp_path], [other])[1]] == [
        (str(other), "is not a results file: it names no evaluation")
    ]


def test_values_that_are_missing_or_not_finite_are_a_dash(tmp_path: Path, parsed: Any) -> None:
    large = "1" + "0" * 400
    scores = {
        "a": "null",
        "b": "NaN",
        "c": large,
        "d": 'null, "low": 1',
        "e": '2, "low": -Infinity, "high": 3',
    }
    written = ", ".join(f'"{name}": {{"value": {value}}}' for name, value in scores.items())
    rows = f'[{{"model": "m", "scores": {{{written}}}}}, {{"model": "n", "scores": {{}}}}]'
    write(tmp_path / "a.json", f'{{"evaluation": "x<y", "rows": {rows}}}')
    page = parsed(tables(*find_results([tmp_path], [])))
    shown = [[td.text for td in row.all("td")] for row in page.all("tbody")[0].all("tr")]
    assert shown == [["-", "-", "-", "-", "-", "2.0 no interval"], ["-"] * 6]
    assert page.all("h3")[0].text == "x<y"


def test_no_results_says_how_to_make_some() -> None:
    assert "odis evaluate knn" in tables([], [])


def test_settings_in_words() -> None:
    assert settings_in_words(
        {
            "k": [10, 20],
            "modes": ["crop"],
            "context": 1.6,
            "max": None,
            "images": False,
            "flip": True,
            "x": {"a": 1},
        }
    ) == ("k 10, 20; modes crop; context 1.6; flip; x {'a': 1}")


def test_an_error_in_metres_is_best_where_it_is_lowest_and_a_bound_never_is(tmp_path: Path):
    def row(model: str, value: float, **more: Any) -> dict[str, Any]:
        return {"model": model, "scores": {"RMSE": {"value": value, "low": value, "high": value}}, **more}

    rows = [row("a", 0.4461), row("b", 0.3944), row("ceiling", 0.0144, bound=True, provenance="depth maps")]
    for unit, best in (("metres", 0.3944), ("percent", 0.4461)):
        content = {"evaluation": "nyu-depth-linear", "rows": rows, "unit": unit}
        (tmp_path / f"{unit}.json").write_text(json.dumps(content))
        (group,), _ = find_results([], [tmp_path / f"{unit}.json"])
        assert group.best("RMSE") == best
        text = str(tables([group], []))
        assert (">0.394<" in text) == ("lower is better" in text) == (unit == "metres")
        assert text.count("</strong> best") == 1
        assert "from: depth maps" in text


def test_a_protocol_shows_its_notes_its_source_and_the_published_figures(tmp_path: Path, parsed: Any) -> None:
    origin = {
        "source": "Somebody (2023), some.py",
        "chosen": "the best k on val",
        "as_published": False,
        "differs": ["x"],
        "published": [
            {"network": "Net <S>/16", "k=20": 74.5, "source": "its README"},
            {"network": "Net B", "best k": 77.0, "source": "its paper"},
            {"figure": 3},
        ],
    }
    one = changed(evaluation="knn-imagenet", protocol=origin, notes=["k=20 is best"])
    other = changed(evaluation="knn-imagenet", protocol=origin, notes=["k=20 is best", "a part was drawn"])
    for name, content in (("a", one), ("b", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    groups, skipped = find_results([tmp_path], [])
    assert not skipped
    (group,) = groups
    assert group.notes == ["k=20 is best", "a part was drawn"]
    page = str(tables(groups, []))
    for text in (
        "k=20 is best.",
        "a part was drawn.",
        "After Somebody (2023), some.py; with our defaults",
        "Figures chosen: the best k on val.",
        "Net &lt;S&gt;/16",
        "74.5",
        "its paper",
    ):
        assert page.count(text) == 1, text
    (tmp_path / "a.json").write_text(json.dumps(one | {"protocol": {"published": [3]}}))
    (tmp_path / "b.json").unlink()
    groups, skipped = find_results([tmp_path], [])
    assert "its published is no list of objects" in skipped[0].why
