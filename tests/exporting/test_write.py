"""`odis export` from end to end: what lies in each folder, used where odis cannot be imported; the card."""

import json
import os
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

import odis
from odis.backbones.features import as_one_object
from odis.cli import main, run
from odis.config.training import ModelConfig, PretrainConfig, as_dict
from odis.errors import DataError, OdisError
from odis.exporting.network import Exported
from odis.exporting.onnx_knn import check_labels, knn_loss
from odis.objects.index import write_index
from odis.types import ImageObjects, Object

pytestmark = pytest.mark.slow  # tracing a graph takes seconds

MODEL = {"name": "vit_tiny_patch16_224", "object_tokens": "beside", "depth": 1}
START = {"source": "somewhere/secret/w.pth", "tag": "vit_tiny_patch16_224.tag", "license": "cc-by-nc-4.0"}
README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def place(model_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, an index of squares and stripes, results of the run and of another model, a photograph."""
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    (place / "images").mkdir()
    rows = []
    for number in range(12):
        pixels = rng.integers(100, 156, (70, 84, 3), dtype=np.uint8)
        pixels[5:35, 5:35] = 255
        pixels[40:65, 40:80:4] = 0
        Image.fromarray(pixels).save(place / "images" / f"{number}.png")
        objects = (Object((5, 5, 35, 35), label=0), Object((40, 40, 80, 65), label=1))
        rows.append(ImageObjects(f"{number}.png", 84, 70, objects))
    Image.fromarray(rng.integers(0, 256, (113, 151, 3), dtype=np.uint8)).save(place / "photo.jpg")
    write_index(
        place / "data.parquet",
        rows,
        root=place / "images",
        provenance="annotated",
        classes=["square", "stripes"],
    )
    folder = place / "runs" / "coco"
    folder.mkdir(parents=True)
    os.link(model_file(start=START, **MODEL), folder / "model.safetensors")
    config = PretrainConfig(
        data=str(place / "data.parquet"), model=ModelConfig(weights=str(place / "secret/w.pth"), **MODEL)
    )
    record = {"config": as_dict(config), "resolved": {"images": 12}, "versions": {}, "git": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    for name, model in (("knn", folder), ("other", model_file(**MODEL))):
        odis.evaluate(
            "knn", str(model), train=str(place / "data.parquet"), test=str(place / "data.parquet"), k=[1, 3],
            device="cpu", out=folder / f"{name}.json",
        )  # fmt: skip
    return place


@pytest.fixture(scope="module")
def hub(place: Path) -> tuple[Path, list[str]]:
    """The hub folder of the run, and what was said while it was made."""
    said: list[str] = []
    out = odis.export(
        place / "runs" / "coco", "hub-folder", place / "coco-hub", variants=["fp16", "int8"],
        data=str(place / "data.parquet"), license="cc-by-4.0", report=said.append,
    )  # fmt: skip
    return out, said


@pytest.fixture(scope="module")
def folders(place: Path, hub: tuple[Path, list[str]]) -> Path:
    """The folders of the README, beside the run."""
    for target, name in (
        ("timm", "coco-timm"),
        ("transformers", "coco-transformers"),
        ("torch-export", "coco-torch"),
    ):
        run(["export", str(place / "runs/coco"), "--to", target, "--out", str(place / name)])
    (place / "coco-onnx").symlink_to(hub[0] / "onnx")
    return place


SIZES = [(4, 4, 1), (2, 8, 7)]  # pictures whose grids have 16 patches are not resized by `embed`

ASK = """
import json, os, runpy, sys
import numpy, onnxruntime, timm, torch, transformers

def ask(hub, pixels, masks):
    found = {}
    config = json.load(open(f"{hub}/config.json"))
    by_path = dict(model_name=config["architecture"], checkpoint_path=f"{hub}/model.safetensors")
    local = dict(model_name=f"local-dir:{hub}", pretrained=True)
    sources = {"local": local, "path": by_path | config["model_args"]}
    for name, source in sources.items():
        model = timm.create_model(**source, num_classes=0).eval()
        found[f"timm-{name}"] = model.forward_features(torch.from_numpy(pixels))
        found[f"timm-{name}-image"] = model(torch.from_numpy(pixels))
    model = transformers.AutoModel.from_pretrained(f"{hub}/transformers").eval()
    out = model(pixel_values=torch.from_numpy(pixels))
    found["native"], found["native-image"] = out.last_hidden_state, out.pooler_output
    inputs = {"pixel_values": pixels, "object_masks": masks}
    for name in ("model", "model-fp16", "model-int8"):
        session = onnxruntime.InferenceSession(f"{hub}/onnx/{name}.onnx", providers=["CPUExecutionProvider"])
        for part in ("objects", "image", "patches"):
            found[f"{name}-{part}"] = torch.from_numpy(session.run([part], inputs)[0])
    return {name: value.numpy() for name, value in found.items()}

with torch.no_grad():
    for number in range(2):
        given = numpy.load(f"given-{number}.npz")
        numpy.savez(f"found-{number}.npz", **ask("coco-hub", given["pixels"], given["masks"]))
for name in ("coco-timm", "coco-transformers/native", "coco-onnx", "coco-torch"):
    sys.argv = ["usage.py", "photo.jpg"]
    runpy.run_path(f"{name}/usage.py")
pixels, masks = numpy.zeros((2, 3, 64, 64), numpy.float32), numpy.ones((2, 3, 4, 4), bool)
"""


@pytest.fixture(scope="module")
def shown(folders: Path, without_odis: Callable[..., str]) -> list[str]:
    """What one process without odis printed that opened everything: imports take seconds. What it found lies
    in `found-*.npz`, for what is in `given-*.npz`.
    """
    encoder = odis.load(folders / "runs" / "coco", device="cpu", precision="fp32")
    rng = np.random.default_rng(1)
    for number, (rows, columns, objects) in enumerate(SIZES):
        pictures = rng.integers(0, 256, (3, rows * 16, columns * 16, 3), dtype=np.uint8)
        masks = rng.random((3, objects, rows, columns)) < 0.5
        pixels = (pictures / 255 - encoder.mean) / encoder.std
        pixels = pixels.transpose(0, 3, 1, 2).astype(np.float32)
        np.savez(folders / f"given-{number}.npz", pictures=pictures, pixels=pixels, masks=masks)
    text = README.read_text().split("\n## Use it elsewhere\n", 1)[1].split("\n## ", 1)[0]
    snippets = python_blocks(text)
    assert len(snippets) == 4
    show = "print(type(model).__name__, *(tuple(x.shape) for x in (objects, image, patches)))\n"
    *of_card, with_odis = python_blocks((folders / "coco-hub" / "README.md").read_text())
    assert "import odis" in with_odis
    code = [ASK, *snippets, show, *map(local, of_card), show]
    return without_odis("\n".join(code), cwd=folders).splitlines()


def python_blocks(text: str) -> list[str]:
    """The Python of a page."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def local(snippet: str) -> str:
    """A snippet of the card as if the folder lay on the hub."""
    snippet = re.sub(r'hf_hub_download\("OWNER/NAME", "(.*?)"\)', r'"coco-hub/\1"', snippet)
    return snippet.replace("hf-hub:OWNER/NAME", "local-dir:coco-hub").replace("OWNER/NAME", "coco-hub")


@pytest.mark.parametrize("number", range(len(SIZES)))
def test_all_of_it_is_odis_where_odis_cannot_be_imported(number: int, place: Path, shown: list[str]):
    """The oracle is `odis.load(...).embed`."""
    encoder = odis.load(place / "runs" / "coco", device="cpu", precision="fp32")
    given = np.load(place / f"given-{number}.npz")
    found = {k: torch.from_numpy(v) for k, v in np.load(place / f"found-{number}.npz").items()}
    wide = given["masks"].repeat(16, axis=2).repeat(16, axis=3)
    asked = encoder.embed(list(given["pictures"]), masks=list(wide))
    expected = {
        "objects": torch.stack([one.objects for one in asked]),
        "image": torch.stack([one.image for one in asked]),
        "patches": torch.stack([one.patches for one in asked]),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[f"model-{name}"], value, rtol=0, atol=1e-4)
        for variant, least in (("fp16", 0.999), ("int8", 0.95)):
            cosine = torch.cosine_similarity(found[f"model-{variant}-{name}"], value, dim=-1)
            assert cosine.min() > least, (variant, name)
    with torch.no_grad():
        token = as_one_object(encoder.model, torch.from_numpy(given["pixels"])).image
    for name in ("timm-local", "timm-path", "native"):
        assert found[name].shape[1] == 2 + 16
        torch.testing.assert_close(found[name][:, 1], expected["image"], rtol=0, atol=1e-4)  # `[OBJ]`
        torch.testing.assert_close(found[name][:, 2:], expected["patches"], rtol=0, atol=1e-4)
        torch.testing.assert_close(found[f"{name}-image"], token, rtol=0, atol=1e-4)


def test_the_snippets_of_readme_and_card_and_every_usage_file_run_without_odis(shown: list[str]):
    graph = "(1, 1, 32) (1, 32) (1, 16, 32)"
    assert shown == [
        "(1, 32) (1, 16, 32)", "(1, 32) (1, 16, 32)", graph, graph,
        "Dinov2WithRegistersModel (2, 3, 32) (2, 32) (2, 16, 32)",
        f"Dinov2WithRegistersModel {graph}",
    ]  # fmt: skip


def test_odis_opens_its_own_file_of_the_hub_folder(
    place: Path, hub: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
):
    files = (place / "runs" / "coco", hub[0] / "odis" / "model.safetensors")
    one, other = (odis.load(path, device="cpu") for path in files)
    assert one.card | {"start_weights": None} == other.card | {"start_weights": None}
    assert other.card["start_weights"] == START | {"source": "w.pth"}
    snippet = python_blocks((hub[0] / "README.md").read_text())[-1]
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
    exec(local(snippet).replace("200, 220", "100, 100"), names)  # the photograph is smaller
    assert names["features"].objects.equal(one.embed("photo.jpg", boxes=[[10, 20, 100, 100]]).objects)


def test_odis_own_class_and_its_usage_file(folders: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("sys.argv", ["usage.py", str(folders / "photo.jpg")])
    runpy.run_path(str(folders / "coco-transformers" / "odis" / "usage.py"))
    assert capsys.readouterr().out.splitlines()[-1] == "(1, 2, 32) (1, 32) (1, 16, 32)"


def test_what_was_measured_is_said_and_written(place: Path, hub: tuple[Path, list[str]]):
    out, said = hub
    about = json.loads((out / "export.json").read_text())
    assert about["target"] == "hub-folder"
    assert about["source"] == "coco"
    assert set(about["parity"]) == {
        "timm", "transformers' Dinov2WithRegistersModel", "ONNX", "ONNX fp16", "ONNX int8",
    }  # fmt: skip
    for found in about["parity"].values():
        assert len({(one["height"], one["width"]) for one in found}) >= 3
    text = "\n".join(said)
    assert "ONNX int8: differs from odis by at most" in text
    assert "the image feature of timm is [CLS]; that of odis and of ONNX is [OBJ]" in text
    assert list(about["knn"]["accuracy"]) == ["fp32", "fp16", "int8"]
    assert (about["knn"]["gallery"], about["knn"]["test"], about["knn"]["neighbours"]) == (12, 12, 12)
    assert "k-NN, int8: " in text
    assert "nothing was sent" in said[-1]
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for path in (str(place), "somewhere"):
        assert path.encode() not in everything, "a published folder names no file of this machine"


def test_the_card_says_what_the_run_holds_and_no_more(place: Path, hub: tuple[Path, list[str]]):
    card = (hub[0] / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "cc-by-4.0"
    assert {"transformers", "timm", "onnx"} <= set(front["tags"])
    for line in (
        "# coco-hub", "recipe `odis-small`, 7 steps.", "- objects: annotated",
        "- trained on `data.parquet`, 12 images", "Weights: cc-by-4.0.",
        "- started from the weights `vit_tiny_patch16_224.tag`, from the file `w.pth`",
        "Training started from `vit_tiny_patch16_224.tag`, whose licence is: cc-by-nc-4.0.",
        "- architecture: `vit_tiny_patch16_224`, patches of 16 pixels, width 32, 1 block,",
    ):  # fmt: skip
        assert line in card, line
    scores = json.loads((place / "runs/coco/knn.json").read_text())["rows"][0]["scores"]
    rows = re.findall(r"^\| (.*) \|$", card.split("## Scores")[1].split("\n## ")[0], re.MULTILINE)
    assert rows[2:] == [
        f"masked-attention | 64 | {name} | {one['value']:.2f} | {one['low']:.1f} - {one['high']:.1f}"
        for name, one in scores.items()
    ]
    assert "1 result in the files is of other models or steps: left out" in "\n".join(hub[1])
    assert "12 images are in the test and the train part: their scores say nothing of new images" in card
    settings = yaml.safe_load(re.search(r"## Settings\n\n```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert settings["model"]["object_tokens"] == "beside"
    assert not {"data", "val", "root"} & set(settings)


def test_a_card_of_a_file_alone_claims_nothing(
    hub: tuple[Path, list[str]], model_file: Callable[..., Path], exported_of: Callable[..., Exported]
):
    from odis.exporting.card import model_card, read_record

    file = model_file(**MODEL)
    exported = exported_of(**MODEL)
    record = read_record(file, exported.card, [])
    card = model_card("x", exported, record, [], [], None, "boxes", "")
    assert "license:" not in card
    assert "No licence was stated for these weights" in card
    assert "None were measured when this card was written." in card
    assert "the data set is not recorded" in card
    assert "- started from random weights" in card
    assert "transformers" not in yaml.safe_load(card.split("---\n")[1])["tags"]


def test_results_of_another_step_are_no_scores_of_this_model(place: Path, tmp_path: Path):
    results = json.loads((place / "runs/coco/knn.json").read_text())
    results["rows"][0]["step"] = 8
    (tmp_path / "later.json").write_text(json.dumps(results))
    (tmp_path / "cut.json").write_text(json.dumps(results)[:50])
    for name, why in (("later", "has no scores of .*coco at step 7"), ("cut", "is not JSON, or not whole")):
        with pytest.raises(DataError, match=f"{name}.json: {why}"):
            odis.export(
                place / "runs/coco", "hub-folder", tmp_path / "out", results=[str(tmp_path / f"{name}.json")]
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "inside", "kept"),
    [
        ("coco", True, True),
        ("runs/coco", True, True),
        ("./runs/coco/model.safetensors", True, True),
        ("oco", True, False),
        ("other/coco", True, False),
        ("runs/coco", False, False),
        ("/elsewhere/runs/coco", True, False),
    ],
)
def test_a_relative_path_is_the_run_in_which_the_results_lie(
    model: str, inside: bool, kept: bool, place: Path, tmp_path: Path
):
    from odis.exporting.card import read_record

    folder = tmp_path / "runs" / "coco"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.yaml"):
        os.link(place / "runs/coco" / name, folder / name)
    results = json.loads((place / "runs/coco/knn.json").read_text())
    for row in results["rows"]:
        row["model"] = model
    file = (folder if inside else tmp_path) / "knn.json"
    file.write_text(json.dumps(results))
    named, card = [] if inside else [str(file)], {"step": 7, "recipe": "odis-small"}
    if not inside:
        with pytest.raises(DataError, match=re.escape(f"{file}: has no scores of {folder} at step 7")):
            read_record(folder, card, named)
        return
    record = read_record(folder, card, named)
    assert sum(len(group.rows) for group, _ in record.groups) == (len(results["rows"]) if kept else 0)
    assert record.left_out == (0 if kept else len(results["rows"]))


def test_k_nn_of_files_is_that_of_the_features(
    place: Path, hub: tuple[Path, list[str]], exported_of: Callable[..., Exported]
):
    """The fp32 file, against a plain loop over odis' own features."""
    exported = exported_of(**MODEL)
    index = check_labels(str(place / "data.parquet"))
    found = knn_loss(index, exported, {"fp32": hub[0] / "onnx" / "model.onnx"}, "masks")
    features, labels, images = [], [], []
    for number in range(12):
        row = index[number]
        one = exported.encoder.embed(index.image_path(number), [list(row.objects)][0])
        features += list(one.objects)
        labels += [item.label for item in row.objects]
        images += [number] * len(row.objects)
    x = torch.nn.functional.normalize(torch.stack(features), dim=1)
    label, test = torch.tensor(labels), torch.tensor(images) % 2 == 1
    similarity = x[test] @ x[~test].T
    votes = torch.stack([(similarity / 0.07).exp()[:, label[~test] == c].sum(1) for c in (0, 1)], dim=1)
    accuracy = float((votes.argmax(1) == label[test]).double().mean()) * 100
    assert found.accuracy["fp32"][0] == pytest.approx(accuracy)
    assert found.skipped == 0


def test_an_index_without_labels_is_refused_before_anything_is_made(place: Path, tmp_path: Path):
    rows = [ImageObjects("0.png", 84, 70, (Object((5, 5, 35, 35)),))]
    write_index(tmp_path / "plain.parquet", rows, root=place / "images", provenance="annotated", classes=[])
    with pytest.raises(OdisError, match="has no labelled objects, which the k-NN needs"):
        odis.export(
            place / "runs/coco",
            "onnx",
            tmp_path / "out",
            data=str(tmp_path / "plain.parquet"),
            variants=["int8"],
        )
    assert sorted(os.listdir(tmp_path)) == ["plain.parquet"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "tflite"}, "to 'tflite' must be one of timm, transformers, onnx, torch-export, hub-folder"),
        ({"variants": ["fp16"]}, "variants: goes with --to onnx or hub-folder"),
        ({"native": "vit"}, "native: goes with --to transformers or hub-folder"),
        ({"objects": "boxes"}, "objects: goes with --to onnx or torch-export or hub-folder"),
        ({"results": ["x.json"]}, "results: goes with --to hub-folder"),
        ({"to": "onnx", "data": "d"}, "data: measures what variants lose; give --variants fp16,int8 too"),
        ({"to": "onnx", "variants": "int4"}, "variants 'int4' is none of fp16, int8"),
        ({"to": "onnx", "objects": "points"}, "objects 'points' must be one of masks, boxes"),
        ({"to": "transformers", "native": "swin"}, "native 'swin' must be one of vit, dinov2, dinov2_with"),
        (
            {"to": "hub-folder", "license": "my own: licence"},
            "license 'my own: licence': must be an identifier",
        ),
        ({"size": 50}, "size 50 must be a multiple of the patch size 16"),
        ({"size": 16}, "size 16 must be a multiple of the patch size 16, and two patches or more"),
        ({"colour": 1}, "colour: an export has no such setting; it has size, native, objects"),
        ({"size": "large"}, "size: is 'large', must be a whole number or None"),
        ({"model": 5}, "model: is 5, must be a path or an encoder"),
        ({"out": 5}, "out: is 5, must be a path"),
        ({"model": "timm:vit_tiny_patch16_224"}, "timm:vit_tiny_patch16_224: is no model that odis wrote"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    settings: dict, message: str, place: Path, tmp_path: Path
):
    arguments = {"model": str(place / "runs/coco"), "to": "timm", "out": tmp_path / "out"} | settings
    with pytest.raises(OdisError, match=re.escape(message)) as refusal:
        odis.export(**arguments)
    assert "\n" not in str(refusal.value)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_holds_something_is_refused(place: Path, tmp_path: Path, capsys):
    (tmp_path / "x").write_text("x")
    with pytest.raises(SystemExit):
        main(["export", str(place / "runs/coco"), "--to", "timm", "--out", str(tmp_path)])
    assert capsys.readouterr().err.strip() == (
        f"odis export: {tmp_path}: is not empty; give a new or empty folder"
    )
    with pytest.raises(SystemExit):
        main(["export", str(place / "runs/coco"), "--out", str(tmp_path / "y")])
    assert capsys.readouterr().err.strip() == "odis export: --to is required; --help lists the options"


def test_an_extra_that_is_missing_is_one_line(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(
        OdisError, match=r"--to onnx: onnxscript is not installed; pip install 'odis\[export\]'"
    ):
        odis.export(place / "runs/coco", "onnx", tmp_path / "out")
    assert os.listdir(tmp_path) == []
