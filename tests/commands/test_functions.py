"""The commands as functions do what the commands do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import odis
from odis.cli import run
from odis.config.options import load_recipe
from odis.errors import ConfigError, DataError, OdisError
from odis.objects.index import ObjectIndex
from odis.types import Skipped

TINY: dict[str, Any] = {
    "views__global_size": 32,
    "views__local_size": 16,
    "model__depth": 1,
    "model__embed_dim": 32,
    "model__num_heads": 2,
    "head__prototypes": 24,
    "train__device": "cpu",
    "train__steps": 2,
    "train__batch_size": 4,
    "loader__workers": 0,
}
OPTIONS = [f"--{name.replace('__', '.')}={value}" for name, value in TINY.items()]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of four images, and a file that is none."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(8):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "ab"[i % 2] / f"{i}.png")
    (root / "a" / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def index(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "photos.parquet"
    odis.index("folder", photos, out)
    return out


@pytest.fixture(scope="module")
def trained(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert odis.pretrain("debug", out, data=str(index), **TINY) == out
    return out


def test_annotations_are_read_into_an_index(photos: Path, tmp_path: Path) -> None:
    skipped: list[Skipped] = []
    found = odis.index("folder", photos, tmp_path / "i.parquet", report=skipped.append)
    run(["index", "folder", str(photos), "--out", str(tmp_path / "j.parquet")])
    assert list(found) == list(ObjectIndex.open(tmp_path / "j.parquet"))
    assert (len(found), found.classes) == (8, ["a", "b"])
    assert [item.what for item in skipped] == [str(photos / "a" / "broken.png")]
    with pytest.raises(DataError, match=r"broken\.png: is not an image"):
        odis.index("folder", photos, tmp_path / "k.parquet", strict=True)


def test_a_run_is_that_of_the_command_from_a_recipe_or_a_config(
    trained: Path, index: Path, tmp_path: Path
) -> None:
    run(["pretrain", "--recipe=debug", f"--data={index}", f"--out={tmp_path / 'command'}", *OPTIONS])
    config = load_recipe("debug", data=str(index), **TINY)
    odis.pretrain(config, tmp_path / "config")
    weights = (trained / "model.safetensors").read_bytes()
    assert (tmp_path / "command" / "model.safetensors").read_bytes() == weights
    assert len((tmp_path / "config" / "model.safetensors").read_bytes()) > 0
    same = ("views.global_size", "train.steps")
    for name in ("command", "config"):
        text = (tmp_path / name / "config.yaml").read_text()
        assert all(f"{key.split('.')[1]}: " in text for key in same)
    one, other = (odis.load(out, device="cpu") for out in (trained, tmp_path / "config"))
    for (key, ours), theirs in zip(one.model.state_dict().items(), other.model.state_dict().values()):
        assert (ours == theirs).all(), key
    with pytest.raises(ConfigError, match="train__steps: goes with a recipe"):
        odis.pretrain(config, tmp_path / "no", train__steps=3)
    with pytest.raises(ConfigError, match=r"--train\.stepz: no such option"):
        odis.pretrain(None, tmp_path / "no", data=str(index), train__stepz=3)
    with pytest.raises(ConfigError, match="data: is empty"):
        odis.pretrain(None, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_an_evaluation_is_that_of_the_command(trained: Path, index: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    results = odis.evaluate(
        "knn", trained, train=index, test=index, mode="crop", k=[1, 2], device="cpu",
        out=tmp_path / "knn.json", progress=lambda *what: seen.append(what),
    )  # fmt: skip
    written = json.loads((tmp_path / "knn.json").read_text())
    assert written == json.loads(json.dumps(results | {"complete": True}))
    run([
        "evaluate", "knn", f"--model={trained}", f"--train={index}", f"--test={index}",
        "--mode=crop", "--k=1,2",
        "--device=cpu", f"--out={tmp_path / 'command.json'}",
    ])  # fmt: skip
    by_command = json.loads((tmp_path / "command.json").read_text())
    for row in (*by_command["rows"], *written["rows"]):
        assert row.pop("seconds") >= 0
    assert by_command == written
    assert results["rows"][0]["scores"]["k=1"]["value"] == 100  # asked about what it knows
    assert seen
    assert all(done <= total for _, done, total in seen)


def test_models_may_be_loaded_before(trained: Path, index: Path) -> None:
    model = odis.load(trained, device="cpu")
    one = odis.evaluate("knn", model, train=str(index), test=str(index), k=1)
    two = odis.evaluate("knn", [model, str(trained)], train=str(index), test=str(index), k=1, device="cpu")
    assert [row["scores"] for row in two["rows"]] == [row["scores"] for row in one["rows"]] * 2


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("knnn", {}, r"knnn: no such evaluation \(did you mean knn\?\); there are knn, linear, "),
        ("knn", {"modes": "crop"}, r"modes: knn has no such setting \(did you mean mode\?\); it has train, "),
        ("knn", {"mode": "crops"}, "mode 'crops' is none of"),
        ("knn", {}, "--train is required"),
    ],
)  # fmt: skip
def test_what_an_evaluation_does_not_know_is_one_line(
    trained: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(OdisError, match=f"^{message}"):
        odis.evaluate(name, trained, **settings)


def test_the_package_offers_functions_and_no_module_has_the_name_of_one() -> None:
    for name in odis.__all__:
        assert getattr(odis, name) is not None
        for path in (Path(odis.__file__).parent / name, Path(odis.__file__).with_name(f"{name}.py")):
            assert not path.exists(), f"{path} hides odis.{name}"
    names = "Object, __version__, compare, embed, evaluate, export, finetune, index, load, pretrain"
    with pytest.raises(AttributeError, match=f"it has {names}"):
        odis.train_everything  # noqa: B018


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: odis.evaluate("knn", "x", train="d", test="d", k="ten"),
            "k: is 'ten', must be one or",
        ),
        (
            lambda: odis.evaluate("knn", "x", train="d", test="d", k=[1.5]),
            "k: is [1.5], must be one or",
        ),
        (lambda: odis.evaluate("knn", "x", temperature="hot"), "temperature: is 'hot', must be a number"),
        (lambda: odis.evaluate("knn", "x", batch_size="8"), "batch_size: is '8', must be a whole number"),
        (lambda: odis.evaluate("knn", "x", images="yes"), "images: is 'yes', must be True or False"),
        (
            lambda: odis.evaluate("knn", "x", max_train=2.5),
            "max_train: is 2.5, must be a whole",
        ),
        (lambda: odis.evaluate("knn", "x", train=5), "train: is 5, must be text"),
        (lambda: odis.evaluate("knn", 5, train="d", test="d"), "models: is 5, must be a path, timm:NAME"),
        (lambda: odis.evaluate(5, "x"), "5: no such evaluation"),
        (lambda: odis.load(None), "a model is NoneType, must be a path, or timm:NAME"),
        (lambda: odis.pretrain(5, "out", data="d"), "config: is 5, must be a recipe's name or path"),
        (lambda: odis.pretrain("debug", None, data="d"), "out: is None, must be a path"),
        (lambda: odis.index("coco", None, "x.parquet"), "root: is None, must be a path"),
        (lambda: odis.index("folder", "d", 5), "out: is 5, must be a path"),
    ],
)
def test_a_value_of_another_type_is_one_line_that_names_it(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(OdisError) as refusal:
        call()
    assert str(refusal.value).startswith(says)


def test_features_are_those_of_the_command(trained: Path, photos: Path, index: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    named: list[Skipped] = []
    out = odis.embed(
        trained, index, tmp_path / "features", mode="crop", part_images=3, device="cpu",
        report=named.append, progress=lambda *done: seen.append(done),
    )  # fmt: skip
    assert out == tmp_path / "features"
    run([
        "embed", str(index), f"--model={trained}", "--mode=crop", "--part-images=3", "--device=cpu",
        "--workers=0", f"--out={tmp_path / 'command'}",
    ])  # fmt: skip
    parts = sorted(p.name for p in out.glob("*.parquet"))
    assert len(parts) == 3
    for name in parts:
        assert (out / name).read_bytes() == (tmp_path / "command" / name).read_bytes()
    assert seen[-1] == (8, 8)
    assert named == []
    with pytest.raises(OdisError, match=r"modes: embed has no such setting \(did you mean mode\?\)"):
        odis.embed(trained, index, out, modes="crop")
    with pytest.raises(OdisError, match="out: is None, must be a path"):
        odis.embed(trained, index, None)
    with pytest.raises(OdisError, match="size: is 'large', must be a whole number or None"):
        odis.embed(trained, index, out, size="large")
