"""Bad files, bad objects and bad settings, through the command line: named, counted, skipped; with --strict
an error that names it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from odis.cli import main
from odis.objects import rle
from odis.objects.table import SCHEMA
from odis.train import loop

W, H = 40, 32
TINY = [
    "--recipe=debug",
    "--views.global_size=16",
    "--views.local_size=8",
    "--views.local_views=1",
    "--model.depth=1",
    "--model.embed_dim=24",
    "--model.num_heads=2",
    "--head.prototypes=24",
    "--train.device=cpu",
    "--train.batch_size=4",
    "--loader.workers=0",
    "--train.steps=12",
]


def picture(mode: str = "RGB", size: tuple[int, int] = (W, H), seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16))
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)


UNUSUAL = [
    "one-pixel.png",
    "grey.png",
    "cmyk.jpg",
    "sixteen-bit.png",
    "rgba.png",
    "palette.gif",
    "grey-alpha.png",
]
"""Odd images that can be used."""

BROKEN = {
    "truncated.jpg": "cannot be decoded",
    "zero.jpg": "is empty (0 bytes)",
    "text.jpg": "is not an image that can be read",
}


def write_pictures(folder: Path) -> None:
    """Two usual images, the unusual and the broken ones."""
    folder.mkdir(parents=True)
    for i in range(2):
        picture(seed=i).save(folder / f"usual-{i}.jpg")
    picture(size=(1, 1)).save(folder / "one-pixel.png")
    modes = {
        "grey.png": "L",
        "cmyk.jpg": "CMYK",
        "sixteen-bit.png": "I;16",
        "rgba.png": "RGBA",
        "palette.gif": "P",
        "grey-alpha.png": "LA",
    }
    for name, mode in modes.items():
        picture(mode).save(folder / name)
        with Image.open(folder / name) as written:
            assert written.mode == mode, "the file is what it is meant to be"
    picture(seed=5, size=(200, 160)).save(folder / "truncated.jpg")
    whole = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("no picture")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the images that training steps were made of."""
    names: set[str] = set()
    train_step = loop.train_step

    def noted(run: loop.TrainState, micro_batches: list, **more: Any) -> None:
        names.update(Path(path).name for batch in micro_batches for path in batch.paths)
        train_step(run, micro_batches, **more)

    monkeypatch.setattr(loop, "train_step", noted)
    return names


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> list[str]:
    """The lines on stderr of a command that exits with code 2; the last is the reason."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_named_and_counted(out: Path, said: str, expected: dict[str, str]) -> None:
    """Each of `expected` (what to a part of why) is in skipped.jsonl and on the console once, and no other;
    counts agree.
    """
    found = {record["what"]: record["why"] for record in lines(out / "skipped.jsonl")}
    assert found.keys() == expected.keys()
    assert len(lines(out / "skipped.jsonl")) == len(expected)
    for what, why in expected.items():
        assert why in found[what], (what, found[what])
        assert said.count(f"warning: skipped {what}: {found[what]}\n") == 1
    assert said.count("warning: skipped ") == len(expected)
    assert said.endswith(f"; {len(expected)} files or objects skipped, named in skipped.jsonl\n")
    metrics = lines(out / "metrics.jsonl")
    assert metrics[-1]["skipped"] == len(expected)
    assert [line["skipped"] for line in metrics] == sorted(line["skipped"] for line in metrics)
    assert all(line["loss"] is not None for line in metrics)


@pytest.mark.parametrize("workers", [0, 2])
def test_folder_trains_and_each_broken_file_is_named_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, used: set[str], workers: int
) -> None:
    out = tmp_path / "run"
    main(["pretrain", "--data", str(folder), "--out", str(out), *TINY, f"--loader.workers={workers}"])
    assert_named_and_counted(
        out, capsys.readouterr().err, {str(folder / name): why for name, why in BROKEN.items()}
    )
    assert used == {*UNUSUAL, "usual-0.jpg", "usual-1.jpg"}, "all others were trained on"
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize("name", BROKEN)
def test_strict_training_on_a_folder_names_the_broken_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    for other in BROKEN:
        if other != name:
            (folder / other).unlink()
    out = tmp_path / "run"
    said = refused(capsys, "pretrain", "--data", str(folder), "--out", str(out), *TINY, "--strict")
    assert said[-1].startswith(f"odis pretrain: {folder / name}: {BROKEN[name]}")
    early = name != "truncated.jpg"  # its header is whole: it is found when it is decoded
    assert len(said) == (1 if early else 2)
    assert out.exists() != early


def test_strict_training_on_what_is_merely_unusual_trains(
    folder: Path, tmp_path: Path, used: set[str]
) -> None:
    for name in BROKEN:
        (folder / name).unlink()
    main(["pretrain", "--data", str(folder), "--out", str(tmp_path / "run"), *TINY, "--strict"])
    assert used == {*UNUSUAL, "usual-0.jpg", "usual-1.jpg"}
    assert not (tmp_path / "run" / "skipped.jsonl").exists()


# --- an index that another program wrote
# --------------------------------------------------------------------------------------------------


def a_mask(width: int = W, height: int = H) -> bytes:
    mask = np.zeros((height, width), dtype=bool)
    mask[5:20, 8:30] = True
    return rle.encode(mask)


GOOD = {"box": (4.0, 4.0, 30.0, 28.0)}
BAD_OBJECTS = {
    "an empty box": ({"box": (5.0, 5.0, 5.0, 20.0)}, "is empty"),
    "an inverted box": ({"box": (30.0, 5.0, 10.0, 20.0)}, "is inverted"),
    "a box outside": ({"box": (50.0, 5.0, 70.0, 20.0)}, "is outside the image of 40 x 32 pixels"),
    "a box that is not finite": ({"box": (1.0, float("nan"), 9.0, 9.0)}, "is not finite"),
    "a mask of the wrong size": (
        GOOD | {"mask": a_mask(H, W + 1)},
        "mask has 1312 pixels, but the image has 40 x 32 = 1280",
    ),
    "a mask that is none": (GOOD | {"mask": b"\x00\xff"}, "mask is not COCO compressed RLE counts"),
    "a mask without a pixel": (
        GOOD | {"mask": rle.encode(np.zeros((H, W), dtype=bool))},
        "has an empty mask",
    ),
}


def write_table(
    path: Path, root: Path, rows: list[dict[str, Any]], metadata: dict[str, str] | None = None
) -> Path:
    """An index written without odis: rows of image, width, height and objects (box, mask, label)."""

    def column(name: str) -> list:
        return [[item.get(name) for item in row["objects"]] for row in rows]

    columns = [[row[name] for row in rows] for name in ("image", "width", "height")]
    columns += [column("box"), column("mask"), column("label"), [None] * len(rows)]
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, SCHEMA)]
    metadata = (
        {"root": str(root), "provenance": "annotated", "classes": '["cat", "dog"]'}
        if metadata is None
        else metadata
    )
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata(metadata)), path)
    return path


def a_row(image: str, *objects: dict[str, Any], width: int = W, height: int = H) -> dict[str, Any]:
    return {"image": image, "width": width, "height": height, "objects": list(objects)}


def bad_index(folder: Path, path: Path) -> tuple[Path, dict[str, str]]:
    """An index with every kind of bad object and image, and what of it must be skipped."""
    rows = [
        a_row("usual-0.jpg", GOOD | {"label": 0}, GOOD | {"label": 7}, GOOD | {"mask": a_mask(), "label": 1}),
        a_row("cmyk.jpg"),
    ]
    expected = {}
    for k, (item, why) in enumerate(BAD_OBJECTS.values()):
        picture(seed=10 + k).save(folder / f"object-{k}.png")
        rows.append(a_row(f"object-{k}.png", GOOD | {"label": 1}, item, *([GOOD] if k % 2 else [])))
        expected[f"{folder / f'object-{k}.png'}, object 1"] = why
    rows += [
        a_row("grey.png", BAD_OBJECTS["an empty box"][0], BAD_OBJECTS["a box outside"][0])
    ]  # none is left: the image is the object
    expected |= {
        f"{folder / 'grey.png'}, object 0": "is empty",
        f"{folder / 'grey.png'}, object 1": "is outside",
    }
    rows += [a_row("truncated.jpg", GOOD, width=200, height=160), a_row("zero.jpg", GOOD), a_row("text.jpg")]
    expected |= {str(folder / name): why for name, why in BROKEN.items()}
    rows += [a_row("nowhere.jpg", GOOD), a_row("usual-1.jpg", GOOD, width=W + 1)]
    expected |= {str(folder / "nowhere.jpg"): "no such file"}
    expected |= {str(folder / "usual-1.jpg"): "is 40 x 32 pixels, but its objects are for 41 x 32"}
    return write_table(path, folder, rows), expected


@pytest.mark.parametrize("workers", [0, 2])
def test_index_trains_and_each_bad_file_and_object_is_named_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, used: set[str], workers: int
) -> None:
    index, expected = bad_index(folder, tmp_path / "index.parquet")
    out = tmp_path / "run"
    more = [
        "--model.object_tokens=read-only",
        "--objects.per_image=3",
        f"--loader.workers={workers}",
        "--train.steps=16",
    ]
    main(["pretrain", "--data", str(index), "--out", str(out), *TINY, *more])
    assert_named_and_counted(out, capsys.readouterr().err, expected)
    assert used == {
        "usual-0.jpg",
        "cmyk.jpg",
        "grey.png",
        *[f"object-{k}.png" for k in range(len(BAD_OBJECTS))],
    }

    results = tmp_path / "results.json"
    main(
        [
            "evaluate",
            "knn",
            "--model",
            str(out),
            "--train",
            str(index),
            "--test",
            str(index),
            "--k=1",
            "--workers=0",
            f"--out={results}",
        ]
    )
    named = {item["what"]: item["why"] for item in json.loads(results.read_text())["skipped"]}
    without_label = f"{folder / 'usual-0.jpg'}, object 1"  # which training does not ask for, and k-NN does
    assert named.keys() == expected.keys() | {without_label}
    assert named[without_label] == "has label 7, but there are 2 classes: used without label"
    main(["inspect", str(index), "--out", str(tmp_path / "picture.png"), "--images=100", *TINY])
    inspected = {
        line.removeprefix("skipped ").rsplit(": ", 1)[0]
        for line in capsys.readouterr().err.splitlines()
        if "skipped" in line
    }
    assert inspected >= {what for what in expected if ", object" not in what}


@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_strict_training_on_an_index_names_the_bad_object(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, case: str
) -> None:
    item, why = BAD_OBJECTS[case]
    index = write_table(
        tmp_path / "index.parquet", folder, [a_row("usual-0.jpg", GOOD), a_row("rgba.png", GOOD, item)]
    )
    out = tmp_path / "run"
    (line,) = refused(capsys, "pretrain", "--data", str(index), "--out", str(out), *TINY, "--strict")
    assert line.startswith(f"odis pretrain: {folder / 'rgba.png'}, object 1: ")
    assert why in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("image", "size", "why"),
    [
        ("zero.jpg", (W, H), "is empty (0 bytes)"),
        ("text.jpg", (W, H), "is not an image"),
        ("nowhere.jpg", (W, H), "no such file"),
        ("usual-1.jpg", (H, W), "is 40 x 32 pixels, but annotated as 32 x 40"),
    ],
)
def test_strict_training_on_an_index_names_the_bad_image(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, image: str, size: tuple[int, int], why: str
) -> None:
    rows = [a_row("usual-0.jpg", GOOD), a_row(image, GOOD, width=size[0], height=size[1])]
    index = write_table(tmp_path / "index.parquet", folder, rows)
    (line,) = refused(
        capsys, "pretrain", "--data", str(index), "--out", str(tmp_path / "run"), *TINY, "--strict"
    )
    assert line.startswith(f"odis pretrain: {folder / image}: ")
    assert why in line


@pytest.mark.parametrize(
    ("metadata", "rows", "why"),
    [
        ({}, [a_row("usual-0.jpg")], "its schema metadata has no root"),
        (
            {"root": "gone", "provenance": "annotated", "classes": "[]"},
            [a_row("usual-0.jpg")],
            "which is no folder",
        ),
        (
            {"root": ".", "provenance": "annotated", "classes": "cat"},
            [a_row("usual-0.jpg")],
            "not a JSON list",
        ),
        (None, [], "holds no images"),
    ],
)
def test_index_that_is_none_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, metadata: dict | None, rows: list, why: str
) -> None:
    index = write_table(tmp_path / "index.parquet", folder, rows, metadata)
    (line,) = refused(capsys, "pretrain", "--data", str(index), "--out", str(tmp_path / "run"), *TINY)
    assert str(index) in line
    assert why in line
    assert not (tmp_path / "run").exists()


def test_a_folder_of_copies_that_cannot_be_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("x")
    index = write_table(tmp_path / "index.parquet", folder, [a_row("usual-0.jpg", GOOD)])
    where = ("--data", str(index), "--out", str(tmp_path / "run"))
    (line,) = refused(capsys, "pretrain", *where, *TINY, f"--loader.keep=[disk:{tmp_path / 'file'}]")
    assert line.startswith(f"odis pretrain: loader.keep: {tmp_path / 'file'} must be a folder")
    assert not (tmp_path / "run").exists()


# --- settings
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (
            ["--views.global_sizze=32"],
            "--views.global_sizze: no such option (did you mean --views.global_size?)",
        ),
        (["--train.batch_size=many"], "train.batch_size: must be int"),
        (["--train.precision=fp8"], "train.precision: must be one of"),
        (["--objects.per_image=2"], "objects.per_image: is 2, but model.object_tokens single"),
        (
            ["--model.object_readout=mean-pool", "--views.object_masks=false"],
            "model.object_readout: is mean-pool",
        ),
        (
            ["--model.object_readout=mean-pool", "--model.object_tokens=read-only"],
            "model.object_readout: is mean-pool",
        ),
        (
            ["--objects.use=false", "--objects.per_image=2", "--model.object_tokens=read-only"],
            "objects.per_image: is 2, but objects.use",
        ),
        (["--train.accumulate=3"], "train.batch_size: is 4, must be a multiple of 3"),
        (["--prediction.ratio=0.1"], "prediction.spread: is 0.2"),
        (["--prediction.probability=0"], "loss.patch_weight: is 1.0, but prediction.probability"),
        (["--train.knn_every=5"], "train.knn_every: is 5, but val names no held-out index"),
        (["--views.global_views=1"], "views.global_views: is 1"),
        (["--loss.object_weight=0", "--loss.patch_weight=0"], "loss: weights are [0.0, 0.0, 0.0]"),
    ],
    ids=lambda s: " ".join(s) if isinstance(s, list) else "",
)
def test_unknown_and_contradictory_settings_are_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture, settings: list[str], names: str
) -> None:
    nowhere = str(
        tmp_path / "nowhere"
    )  # neither index exists: had one been opened, that would be the complaint
    (line,) = refused(capsys, "pretrain", "--data", nowhere, "--out", str(tmp_path / "run"), *TINY, *settings)
    assert line.startswith(f"odis pretrain: {names}")
    assert list(tmp_path.iterdir()) == []
    if "knn_every" not in settings[0]:
        (again,) = refused(
            capsys,
            "pretrain",
            "--data",
            nowhere,
            "--val",
            nowhere,
            "--out",
            str(tmp_path / "run"),
            *TINY,
            *settings,
        )
        assert again == line


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (["--views.global_size=20"], "model.patch_size: is 8"),
        (["--views.local_size=12"], "views.local_size: is 12, must be a multiple of the patch size 8"),
        (["--model.num_heads=5"], "model.name: vit_tiny_patch16_224 with"),
        (
            ["--model.name=vit_tiny_patch61_224"],
            "model.name: timm has no model vit_tiny_patch61_224; did you mean vit_tiny_patch16_224",
        ),
        (["--model.name=resnet18"], "model.name: resnet18 is not a timm VisionTransformer"),
        (["--model.weights=nowhere.pth"], "model.weights: nowhere.pth is not a file"),
        (["--train.device=gpu"], "train.device: is 'gpu', must be auto, cpu, cuda, cuda:N or mps"),
        (["--val=nowhere"], "nowhere: no such file or folder"),
    ],
    ids=lambda s: " ".join(s) if isinstance(s, list) else "",
)
def test_settings_that_do_not_fit_model_or_machine_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, settings: list[str], names: str
) -> None:
    (line,) = refused(
        capsys, "pretrain", "--data", str(folder), "--out", str(tmp_path / "run"), *TINY, *settings
    )
    assert line.startswith(f"odis pretrain: {names}")
    assert not (tmp_path / "run").exists()


def test_recipe_with_an_unknown_setting_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "mine.yaml").write_text("views:\n  global_sise: 96\n")
    recipe = f"--recipe={tmp_path / 'mine.yaml'}"
    (line,) = refused(capsys, "pretrain", "--data", str(folder), "--out", str(tmp_path / "run"), recipe)
    assert "views.global_sise: no such setting (did you mean views.global_size?)" in line
    assert not (tmp_path / "run").exists()
