"""A comparison has the scores that each evaluation gives alone, from one pass of each network over each
image.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

import odis
from odis.backbones.baseline import TimmBaseline
from odis.backbones.build import build_vit
from odis.backbones.saved import save_model
from odis.cli import main
from odis.config.query import QueryConfig, ReadConfig
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import OdisError, OdisWarning
from odis.evaluation.compare.features import BETA, NEIGHBOURS
from odis.evaluation.compare.reading import Asked, read_part
from odis.evaluation.knn import KnnSettings, evaluate_knn
from odis.evaluation.linear import LinearSettings, evaluate_linear
from odis.evaluation.settings import Grid
from odis.evaluation.subset import Subset
from odis.inference import Encoder
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex, write_index
from odis.objects.pixels import load_pixels
from odis.types import ImageObjects

GRID: dict[str, Any] = {"lrs": (0.01, 0.1), "weight_decays": (0.0, 1e-3), "steps": 40, "batch": 32}
KNN = {"k": 5, "size": 16, **GRID}


@pytest.fixture(scope="module")
def parts(squares: Callable[..., ObjectIndex], tmp_path_factory: pytest.TempPathFactory) -> list[ObjectIndex]:
    """Half of the objects have the class of another colour, so that no network is always right."""
    folder, names, found = tmp_path_factory.mktemp("compared"), ["red", "green", "blue"], []
    for k, (name, images) in enumerate((("train", 14), ("test", 8))):
        index = squares(folder / name, names if not k else names[::-1], images, seed=k)
        rng, rows = np.random.default_rng(k), []
        for row in index:
            objects = [
                replace(item, label=int(rng.integers(3))) if rng.random() < 0.5 else item
                for item in row.objects
            ]
            rows.append(replace(row, objects=tuple(objects)))
        path = folder / f"{name}.parquet"
        write_index(path, rows, root=index.root, provenance="annotated", classes=index.classes)
        found.append(ObjectIndex.open(path))
    return found


def network(kind: str, seed: int) -> Encoder:
    """A tiny network with one kind of object tokens, or a timm model without."""
    torch.manual_seed(seed)
    if kind == "plain":
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=1, num_heads=2, num_classes=0
        )
        return Encoder(TimmBaseline(model, 32), 32, (0.5,) * 3, (0.5,) * 3, source=f"{kind}{seed}")
    tokens = "read-only" if kind == "pooled" else kind
    readout = "mean-pool" if kind == "pooled" else "token"
    config = ModelConfig(
        "vit_tiny_patch16_224", None, tokens, patch_size=8, embed_dim=32, depth=1, num_heads=2,  # type: ignore[arg-type]
        object_readout=readout,  # type: ignore[arg-type]
    )  # fmt: skip
    whole = PretrainConfig(model=config, views=ViewsConfig(global_size=16))
    return Encoder.of(build_vit(config, 16, drop_path=0.0), whole, source=f"{kind}{seed}")


def compared(one: Encoder, two: Encoder, parts: list[ObjectIndex], **settings: Any) -> dict[str, Any]:
    return odis.compare(one, two, train=parts[0].path, test=parts[1].path, **(KNN | settings))


def score(results: dict[str, Any], measure: str, mode: str, which: str) -> dict[str, Any]:
    rows = [row for row in results["data"][0]["measures"] if (row["measure"], row["mode"]) == (measure, mode)]
    assert len(rows) == 1
    found: dict[str, Any] = rows[0][which]
    return found


@pytest.mark.parametrize("kinds", [("read-only", "single"), ("beside", "pooled")], ids=str)
def test_scores_are_those_of_each_evaluation_alone(kinds: tuple[str, str], parts: list[ObjectIndex]) -> None:
    modes = ("masked-attention", "crop", "mean-pool")
    networks = {"before": network(kinds[0], 0), "after": network(kinds[1], 1)}
    found = compared(*networks.values(), parts, mode=modes)
    for which, encoder in networks.items():
        knn = evaluate_knn(encoder, *parts, KnnSettings(query=QueryConfig(modes=modes, size=16), k=(5,)))
        for row in knn["rows"]:
            assert score(found, "object k-NN", row["mode"], which) == row["scores"]["k=5"], row["mode"]
        linear = evaluate_linear(
            encoder, *parts, LinearSettings(query=QueryConfig(size=16), grid=Grid(**GRID))
        )["rows"][0]["scores"]["top-1"]
        assert score(found, "object linear probe", modes[0], which) == linear
        images = LinearSettings(
            query=QueryConfig(("whole-image",), images=True, size=16), grid=Grid(**GRID), multi_label=True
        )
        expected = evaluate_linear(encoder, *parts, images)["rows"][0]["scores"]["mAP"]
        assert score(found, "image mAP", "whole-image", which)["value"] == expected["value"]
    for row in found["data"][0]["measures"]:
        gap = row["after"]["value"] - row["before"]["value"]
        assert row["difference"]["value"] == pytest.approx(gap, abs=2e-3)
        assert row["difference"]["low"] <= row["difference"]["value"] <= row["difference"]["high"]
    assert found["data"][0]["left_out"] == []
    assert found["data"][0]["test"]["objects"] == 16


def test_patches_are_labelled_as_an_explicit_memory_does(parts: list[ObjectIndex]) -> None:
    encoder, rows, columns = network("read-only", 0), 3, 6  # patches of 8 x 8 in a view of 24 x 48 pixels
    found = compared(encoder, network("read-only", 0), parts, memory=10_000, size=32)
    down, across = ((np.arange(8 * n) + 0.5) * m // (8 * n) for n, m in ((rows, 16), (columns, 32)))
    memory: list[Tensor] = []
    shares: list[Tensor] = []
    table = np.zeros((4, 4))
    for index in parts:
        for i in range(len(index)):
            image = torch.from_numpy(np.asarray(load_image(index.image_path(i))).copy()).permute(2, 0, 1)
            patches = torch.nn.functional.normalize(encoder.embed(image, size=32).patches, dim=1)
            labels = np.zeros((16, 32), np.int64)
            for item in index[i].objects:
                x0, y0, x1, y1 = map(int, item.box)
                assert item.label is not None
                labels[y0:y1, x0:x1] = 1 + parts[0].classes.index(index.classes[item.label])
            labels = labels[down.astype(int)][:, across.astype(int)]
            if index is parts[0]:
                squares = (
                    labels.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
                )
                memory.append(patches)
                shares.append(torch.from_numpy((squares[..., None] == np.arange(4)).mean(1)))
                continue
            cosine, near = (patches @ torch.cat(memory).T).topk(NEIGHBOURS, dim=1)
            read = torch.einsum("pk,pkc->pc", (cosine / BETA).softmax(1).double(), torch.cat(shares)[near])
            maps = read.T.reshape(1, 4, rows, columns)
            pixels = torch.nn.functional.interpolate(maps, labels.shape, mode="bilinear")[0].argmax(0)
            np.add.at(table, (labels.ravel(), pixels.numpy().ravel()), 1)
    both = np.diag(table)
    union = table.sum(0) + table.sum(1) - both
    [row] = [row for row in found["data"][0]["measures"] if row["measure"] == "hummingbird mIoU"]
    expected = 100 * (both[union > 0] / union[union > 0]).mean()
    # A pixel between two classes may fall to either by rounding; there are 3,072 in all.
    assert row["before"]["value"] == pytest.approx(expected, abs=0.2)
    assert row["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize(("kind", "passes"), [("read-only", 1), ("pooled", 1), ("single", 3), ("plain", 1)])
def test_a_network_sees_an_image_once(
    kind: str, passes: int, parts: list[ObjectIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But with one object token a pass it sees it once more for each of two objects."""
    encoder, seen = network(kind, 0), []
    asked = Asked.of(encoder, ("masked-attention", "mean-pool"), encoder.image_size)
    monkeypatch.setattr(
        type(encoder.model), "forward", _counted(type(encoder.model).forward, seen), raising=True
    )
    decoded: list[str] = []
    monkeypatch.setattr(
        "odis.evaluation.compare.reading.load_pixels",
        lambda path, size, form: decoded.append(path) or load_pixels(path, size, form),
    )
    test = Subset.of(parts[1], None, 0)
    other = Asked.of(encoder, ("masked-attention",), encoder.image_size)
    found = list(read_part([asked, other], test, None, ReadConfig(batch_size=3), None, "test"))
    assert [row for row, _, _ in found] == list(range(8))
    assert sum(seen) == 2 * passes * 8
    assert len(decoded) == 8  # once for both networks
    assert found[0][1].whole[0] is found[0][1].whole[1]  # and resized once


def _counted(forward: Callable[..., Any], seen: list[int]) -> Callable[..., Any]:
    def counted(self: Any, images: Tensor, *more: Any, **options: Any) -> Any:
        seen.append(len(images))
        return forward(self, images, *more, **options)

    return counted


def test_what_a_network_lacks_is_left_out_with_the_reason(parts: list[ObjectIndex]) -> None:
    found = compared(network("plain", 0), network("read-only", 1), parts, size=32)
    assert [row["mode"] for row in found["data"][0]["measures"][:2]] == ["mean-pool", "mean-pool"]
    assert found["data"][0]["left_out"] == [
        {
            "measure": "objects by masked-attention",
            "why": "plain0 has no such mode; it has crop, blackout, mean-pool, whole-image",
        }
    ]
    with pytest.raises(OdisError, match="none of its objects has a label"):
        compared(
            network("plain", 0), network("plain", 1), [unlabelled(parts[0]), unlabelled(parts[1])], size=32
        )


def unlabelled(index: ObjectIndex) -> ObjectIndex:
    path = Path(index.path).with_name("unlabelled.parquet")
    rows = (ImageObjects(row.image, row.width, row.height) for row in index)
    write_index(path, rows, root=index.root, provenance="annotated", classes=[])
    return ObjectIndex.open(path)


def test_one_class_leaves_patches_and_no_class_of_objects(
    squares: Callable[..., ObjectIndex], tmp_path: Path
) -> None:
    parts = [squares(tmp_path / name, ["red"], 20, seed=k) for k, name in enumerate(("train", "test"))]
    with pytest.raises(OdisError, match=r"nothing can be measured: objects: .*one class"):
        compared(network("read-only", 0), network("single", 0), parts)


def test_label_maps_of_the_same_images_label_the_patches(parts: list[ObjectIndex], tmp_path: Path) -> None:
    """Maps that say what the boxes say give the score of the boxes."""
    root = tmp_path / "VOC"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "class_names.txt").write_text("background\nred\ngreen\nblue\n")
    indexes = []
    for name, index in zip(("train", "val"), parts):
        rows, names = [], []
        for i in range(len(index)):
            stem = f"{name}{i}"
            Image.open(index.image_path(i)).save(root / "JPEGImages" / f"{stem}.jpg", quality=100)
            labels = np.zeros((16, 32), np.uint8)
            for item in index[i].objects:
                x0, y0, x1, y1 = map(int, item.box)
                assert item.label is not None
                labels[y0:y1, x0:x1] = 1 + parts[0].classes.index(index.classes[item.label])
            Image.fromarray(labels).save(root / "SegmentationClass" / f"{stem}.png")
            rows.append(ImageObjects(f"{stem}.jpg", 32, 16, index[i].objects))
            names.append(stem)
        (root / "ImageSets/Segmentation" / f"{name}.txt").write_text("\n".join(names))
        path = tmp_path / f"{name}.parquet"
        write_index(path, rows, root=root / "JPEGImages", provenance="annotated", classes=index.classes)
        indexes.append(ObjectIndex.open(path))
    pair = network("read-only", 0), network("read-only", 1)
    by_boxes, by_maps = (compared(*pair, indexes, **more) for more in ({}, {"maps": str(root)}))
    dense = [
        [row["after"] for row in found["data"][0]["measures"] if row["measure"] == "hummingbird mIoU"]
        for found in (by_boxes, by_maps)
    ]
    assert dense[0] == dense[1] != []
    with pytest.raises(OdisError, match="has no map of an image of"):
        compared(*pair, parts, maps=str(root))


def test_test_images_that_were_trained_on_are_said(parts: list[ObjectIndex]) -> None:
    one = network("read-only", 0)
    with pytest.warns(OdisWarning, match="8 of 8 test images of .* are train images"):
        found = compared(one, one, [parts[1], parts[1]])
    assert "are train images: their scores say nothing of new images" in found["notes"][0]


def test_known_data_says_what_was_forgotten(parts: list[ObjectIndex]) -> None:
    pair = network("read-only", 0), network("single", 1)
    known = {"known_train": [parts[0].path], "known_test": [parts[1].path]}
    found = compared(*pair, parts, **known)
    assert [one["known"] for one in found["data"]] == [False, True]
    assert found["data"][0]["measures"] == found["data"][1]["measures"]
    assert found["verdict"].count("object k-NN") == 2
    with pytest.raises(OdisError, match="--known-train is given 1 time and --known-test 0"):
        compared(*pair, parts, known_train=[parts[0].path])


def test_the_command_writes_a_file_that_the_function_returns(
    parts: list[ObjectIndex], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for k, kind in enumerate(("read-only", "single")):
        encoder = network(kind, k)
        card = {
            "model": {
                "name": "vit_tiny_patch16_224", "object_tokens": kind, "patch_size": 8, "embed_dim": 32,
                "depth": 1, "num_heads": 2, "object_readout": "token",
            },
            "image_size": 16, "mean": list(encoder.mean), "std": list(encoder.std), "mask_coverage": 0.5,
            "mask_margin": 0, "provenance": "annotated",
        }  # fmt: skip
        paths.append(tmp_path / f"{kind}.safetensors")
        save_model(paths[-1], encoder.model, card)  # type: ignore[arg-type]
    out, options = tmp_path / "compare.json", ["--k=5", "--steps=40", "--size=16"]
    options += ["--lrs=0.01,0.1", "--weight-decays=0,0.001", "--batch=32", "--workers=0", f"--out={out}"]
    main(["compare", *map(str, paths), "--train", parts[0].path, "--test", parts[1].path, *options])
    said = capsys.readouterr().out
    results = json.loads(out.read_text())
    assert "".join(results["verdict"].split()) in "".join(said.split())
    assert "object k-NN" in said
    again = odis.compare(*paths, train=parts[0].path, test=parts[1].path, **KNN)
    assert again["data"] == results["data"]
    for arguments, message in (
        (["compare", "a", "b"], "--train is required"),
        (
            ["compare", str(paths[0]), str(paths[1]), "--train", "x", "--test", "y", "--mode", "blackout"],
            "blackout",
        ),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err
    with pytest.raises(OdisError, match=re.escape("kk: compare has no such setting")):
        odis.compare(*paths, train="a", test="b", kk=3)
    with pytest.raises(OdisError, match="before: is 3, must be a path"):
        odis.compare(3, paths[0], train="a", test="b")  # type: ignore[arg-type]
