"""Every evaluation and `odis embed` on bad models and bad data, through the command line: one line, exit code
2, nothing written.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import odis
from odis.backbones.build import build_vit
from odis.backbones.saved import save_model
from odis.cli import main
from odis.config.options import load_recipe
from odis.config.training import ModelConfig
from odis.method.vit import ObjectViT
from odis.objects import rle
from odis.objects.index import write_index
from odis.train.saved_state import model_card
from odis.types import ImageObjects, Object

EVALUATIONS = ["knn", "linear", "transfer", "retrieval", "dense-knn", "segment"]
FAST = {
    "knn": ["--k", "1"],
    "linear": ["--steps", "5", "--lrs", "0.1"],
    "transfer": ["--costs", "1"],
    "retrieval": [],
    "dense-knn": ["--k", "1"],
    "segment": ["--steps", "5", "--lrs", "0.1"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model trained, as it says, at 64 px."""
    sizes = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    config = load_recipe(
        "debug", data="x", views__global_size=64, **{f"model__{name}": value for name, value in sizes.items()}
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    vit = build_vit(
        ModelConfig(config.model.name, None, config.model.object_tokens, **sizes), 64, drop_path=0.0
    )
    run = SimpleNamespace(config=config, patch_size=8, provenance="x", step=1, recipe="debug")
    save_model(path, vit, model_card(run))
    return path


def written(folder: Path, name: str, objects: list[tuple[Object, ...]], classes: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    rows = []
    for i, items in enumerate(objects):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append(ImageObjects(f"{i}.png", 40, 24, items))
    write_index(folder / f"{name}.parquet", rows, root=folder, provenance="annotated", classes=classes)
    return folder / f"{name}.parquet"


def item(label: int | None, box: tuple[float, float, float, float] = (2, 2, 20, 20)) -> Object:
    mask = np.zeros((24, 40), dtype=np.uint8)
    mask[2:20, 2:20] = 1
    return Object(box, rle.encode(mask), label)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return written(
        tmp_path / "data",
        "good",
        [(item(i % 2), item((i + 1) % 2, (20, 4, 38, 22))) for i in range(6)],
        ["cat", "dog"],
    )


def command(evaluation: str, model: Path | str, train: Path, test: Path, out: Path) -> list[str]:
    sides = ["--gallery" if evaluation == "retrieval" else "--train", str(train), "--test", str(test)]
    return [
        "evaluate",
        evaluation,
        "--model",
        str(model),
        *sides,
        "--workers=0",
        "--device=cpu",
        "--out",
        str(out),
        *FAST[evaluation],
    ]


def refused(capsys: pytest.CaptureFixture, arguments: list[str], out: Path) -> str:
    """The one line of a command that is refused; nothing is at `out`."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert not out.exists()
    return line


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_good_data_is_evaluated(
    model: Path, good: Path, tmp_path: Path, evaluation: str, capsys: pytest.CaptureFixture
) -> None:
    main(command(evaluation, model, good, good, tmp_path / "out.json"))
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'out.json'}\n")


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_models_that_are_none(
    model: Path, good: Path, tmp_path: Path, evaluation: str, capsys: pytest.CaptureFixture
) -> None:
    whole, out = model.read_bytes(), tmp_path / "out.json"
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("no model")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:200])
    for name, message in (
        ("cut.safetensors", "not a model that odis wrote, or not "
            "whole"), ("text.safetensors", "not a model that odis wrote"),
        ("other.pt", "not a checkpoint that odis "
            "wrote"), ("cut.pt", "not a whole checkpoint"), ("none", "no such run folder"),
    ):  # fmt: skip
        line = refused(capsys, command(evaluation, tmp_path / name, good, good, out), out)
        assert line.startswith(f"odis evaluate: {tmp_path / name}: {message}")


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_data_that_cannot_be_used(
    model: Path, good: Path, tmp_path: Path, evaluation: str, capsys: pytest.CaptureFixture
) -> None:
    out, classes = tmp_path / "out.json", ["cat", "dog"]
    empty = written(tmp_path / "empty", "empty", [], classes)
    unlabelled = written(tmp_path / "unlabelled", "unlabelled", [(item(None),)] * 2, classes)
    foreign = written(
        tmp_path / "foreign", "foreign", [(item(0), item(1, (20, 4, 38, 22)))] * 2, ["cat", "bird"]
    )
    outside = written(
        tmp_path / "outside",
        "outside",
        [(item(0, (50, 2, 60, 20)),), (item(1, (float("nan"), 2, 9, 9)),)],
        classes,
    )
    (tmp_path / "text.parquet").write_text("no index")
    for path, message in (
        (empty, "none of its|has no images"),
        (unlabelled, "none of its"),
        (foreign, "bird"),
        (outside, "none of its|nothing but background"),
        (tmp_path / "text.parquet", "is not a Parquet file"),
        (tmp_path / "none.parquet", "no such file"),
    ):
        line = refused(capsys, command(evaluation, model, good, path, out), out)
        assert any(part in line for part in message.split("|")), (path, line)
        assert path.name in line


def test_strict_names_the_object_and_else_it_is_counted(
    model: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out.json"
    mixed = written(tmp_path / "mixed", "mixed", [(item(0), item(1, (50, 2, 60, 20)))] * 2, ["cat", "dog"])
    arguments = command("knn", model, good, mixed, out)
    line = refused(capsys, [*arguments, "--strict"], out)
    assert line.endswith("0.png, object 1: box (50, 2, 60, 20) is outside the image of 40 x 24 pixels")
    main(arguments)
    assert "0.png, object 1: box (50, 2, 60, 20) is outside" in capsys.readouterr().err


def test_embed_writes_nothing_for_what_it_refuses(
    model: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "features"
    empty = written(tmp_path / "empty", "empty", [], ["cat"])
    (tmp_path / "cut.safetensors").write_bytes(model.read_bytes()[:900])
    for data, source, message in (
        (empty, model, "empty.parquet: has no images"),
        (good, tmp_path / "cut.safetensors", "not a model that odis wrote"),
        (tmp_path / "none", model, "no such file or folder"),
    ):
        assert message in refused(
            capsys, ["embed", str(data), "--model", str(source), "--out", str(out)], out
        )
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "data"):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit):
            main(["embed", str(good), "--model", str(model), "--out", str(path)])
        assert f"{path}: exists and is no folder of features" in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("evaluation", ["knn", "segment"])
def test_a_model_trained_at_64_evaluates_at_other_sizes(
    model: Path, good: Path, tmp_path: Path, evaluation: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, ...]] = set()
    forward = ObjectViT.forward
    monkeypatch.setattr(
        ObjectViT,
        "forward",
        lambda self, x, *masks: (seen.add(tuple(x.shape[2:])), forward(self, x, *masks))[1],
    )
    main([*command(evaluation, model, good, good, tmp_path / "out.json"), "--size", str(size)])
    # 40 x 24 pixels, whole patches of 8, as many as in size x size: positions are interpolated to this grid.
    assert seen == {{64: (48, 80), 96: (72, 120), 128: (96, 168)}[size]}
    assert json.loads((tmp_path / "out.json").read_text())["rows"][0]["size"] == size


@pytest.mark.parametrize("size", [64, 96, 128])
def test_at_another_size_patches_are_those_of_timm_at_that_size(model: Path, size: int) -> None:
    loaded = odis.load(model, device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=64,
        patch_size=8,
        embed_dim=32,
        depth=1,
        num_heads=2,
        num_classes=0,
        dynamic_img_size=True,
    ).eval()
    vit.load_state_dict(
        {k: v for k, v in loaded.model.state_dict().items() if k not in ("mask_token", "object_token")}
    )
    mean, std = (torch.tensor(of)[:, None, None] for of in (loaded.mean, loaded.std))
    x = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std
    with torch.no_grad():
        expected = vit.forward_features(x[None])[0]
    found = loaded.embed(pixels, size=size)
    torch.testing.assert_close(found.patches, expected[1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        found.image, expected[0], atol=1e-4, rtol=1e-4
    )  # its object token starts as its `[CLS]`


def test_an_image_of_any_shape_is_resized_to_whole_patches(model: Path) -> None:
    loaded = odis.load(model, device="cpu")
    for width, height, grid in (
        (64, 64, (8, 8)),
        (97, 31, (5, 14)),
        (7, 300, (52, 1)),
        (1, 1, (8, 8)),
        (640, 424, (7, 10)),
    ):
        found = loaded.embed(np.full((height, width, 3), 90, dtype=np.uint8), boxes=[[0, 0, width, height]])
        assert found.grid == grid
        assert found.patches.shape == (grid[0] * grid[1], 32)
        assert found.objects.isfinite().all()
