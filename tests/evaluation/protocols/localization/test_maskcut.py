"""`maskcut`: its rules for masks, objects that the features hold, the truth itself, and chance."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.cli import main
from odis.errors import OdisError
from odis.evaluation.protocols.layouts.boxed import open_boxed
from odis.evaluation.protocols.localization import discovery, found_masks
from odis.evaluation.protocols.localization.maskcut import MaskcutSettings, evaluate_maskcut
from odis.objects import rle
from odis.objects.index import write_index
from odis.types import ImageObjects, Object

SETTINGS = MaskcutSettings(size=24)


def square(size: int, y0: int, x0: int, side: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[y0 : y0 + side, x0 : x0 + side] = True
    return mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng, rows = tmp_path_factory.mktemp("maskcut"), np.random.default_rng(0), []
    for i in range(6):
        pixels = rng.integers(0, 120, (48, 48, 3), dtype=np.uint8)
        masks = [square(48, *map(int, rng.integers(0, 20, 2)), 12), square(48, 30, 30, 12)][: i % 3]
        for mask in masks:
            pixels[mask] += 130
        Image.fromarray(pixels).save(root / f"{i}.png")
        objects = tuple(Object(found_masks.box_of(mask), rle.encode(mask), label=0) for mask in masks)
        rows.append(ImageObjects(f"{i}.png", 48, 48, objects))
    write_index(root / "index.parquet", rows, root=root, provenance="annotated", classes=["x"])
    return root


def test_masks_are_dropped_as_stated():
    whole = square(100, 10, 10, 40)
    assert found_masks.keeps(whole, whole, [])
    assert not found_masks.keeps(whole, square(100, 10, 10, 28), [])  # 784 of 1600 pixels: below a half
    assert found_masks.keeps(whole, square(100, 10, 10, 29), [])  # 841 of 1600
    assert not found_masks.keeps(square(100, 0, 0, 10), square(100, 0, 0, 10), [])  # 1 % is too little
    assert found_masks.keeps(square(100, 0, 0, 11), square(100, 0, 0, 11), [])
    assert not found_masks.keeps(whole, whole, [square(100, 10, 10, 29)])
    assert found_masks.keeps(whole, whole, [square(100, 10, 10, 28)])
    assert found_masks.mask_iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0


@pytest.mark.parametrize("published", [False, True])
def test_features_that_hold_the_objects_find_them(encoder, monkeypatch, tmp_path, published: bool):
    """Two squares of patches with features of their own: both masks are found, in one pass."""
    size, image = (192, 24) if published else (96, 12)
    monkeypatch.setattr(found_masks, "_SQUARE", 192)
    masks = [square(48, 4 * 2, 4 * 2, 12), square(48, 28, 24, 16)]
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    row = ImageObjects("a.png", 48, 48, tuple(Object(found_masks.box_of(m), rle.encode(m)) for m in masks))
    write_index(tmp_path / "i.parquet", [row] * 1, root=tmp_path, provenance="annotated", classes=[])

    def features(model, pixels, facet):
        grid = pixels.shape[-2] // 8, pixels.shape[-1] // 8
        assert grid == (image, image)
        one = torch.zeros(48, 48, 3)
        one[..., 0] = 1
        for k, mask in enumerate(masks, start=1):
            one[torch.from_numpy(mask)] = torch.eye(3)[k]
        of_grid = one[:: 48 // 12, :: 48 // 12][:, :]  # 12 x 12 parts, each of one kind
        places = (torch.arange(image) * 12 // image).tolist()
        return of_grid[places][:, places].reshape(1, -1, 3), grid

    for module in (discovery, __import__("odis.finding.discover.discoverer", fromlist=["x"])):
        monkeypatch.setattr(module, "patch_features", features)
    settings = MaskcutSettings(as_published=published, size=None if published else size)
    images = open_boxed(tmp_path / "i.parquet")
    found = evaluate_maskcut(encoder(), images, settings)["rows"][0]
    assert found["objects"] >= 2
    if published:  # patches that tile the objects
        assert found["scores"]["AP50 mask"]["value"] == pytest.approx(100)
        assert found["scores"]["AR100 mask"]["value"] > 60
    assert found["size"] == size


def test_the_truth_scores_100_and_the_last_row_is_chance(folder: Path, tmp_path):
    images = open_boxed(folder / "index.parquet", keep_empty=True)
    found = evaluate_maskcut([], images, SETTINGS, predicted=[str(folder / "index.parquet")])
    first, chance = found["rows"]
    assert {name: round(score["value"]) for name, score in first["scores"].items()} == dict.fromkeys(
        ["AP50 box", "AP box", "AR100 box", "AP50 mask", "AP mask", "AR100 mask"], 100
    )
    assert chance["model"] == "chance"
    others = found_masks.of_other_images(images, SETTINGS.seed)
    assert [one.image for one in others] == [one.image for one in images.rows]
    assert chance["scores"]["AP50 box"]["value"] < 100
    assert "AP50 mask" not in chance["scores"]
    assert found["test"]["without_objects"] == 2
    assert found["test"]["images"] == 6


def test_noise_gives_the_chance_beside_it(encoder, monkeypatch, tmp_path):
    """Objects drawn as those of the set are, whatever the picture shows, score as the chance row does; masks
    cut from features of noise do not score more.
    """
    rng, rows = np.random.default_rng(2), []

    def drawn() -> Object:
        x0, y0 = rng.integers(0, 12, 2)
        mask = np.zeros((24, 32), bool)
        mask[y0 : y0 + rng.integers(8, 13), x0 : x0 + rng.integers(10, 21)] = True
        return Object(found_masks.box_of(mask), rle.encode(mask))

    Image.new("RGB", (32, 24)).save(tmp_path / "0.png")
    content = (tmp_path / "0.png").read_bytes()
    for i in range(120):
        (tmp_path / f"{i}.png").write_bytes(content)
        rows.append(ImageObjects(f"{i}.png", 32, 24, tuple(drawn() for _ in range(2))))
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=[])
    images, model = open_boxed(tmp_path / "i.parquet"), encoder()

    class Finder:
        finder = type("F", (), {"size": 24})()

        def __call__(self, pictures):
            return [[[replace(drawn(), score=float(rng.random())) for _ in range(2)] for _ in pictures]]

    def scores() -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        found, chance = (row["scores"] for row in evaluate_maskcut(model, images, SETTINGS)["rows"])
        wide = {name: score["high"] - score["low"] for name, score in chance.items()}
        first, second = ({n: s["value"] for n, s in of.items()} for of in (found, chance))
        return first, second, wide

    def noise(network, pixels, facet):
        grid = pixels.shape[-2] // 8, pixels.shape[-1] // 8
        return torch.from_numpy(rng.normal(size=(len(pixels), grid[0] * grid[1], 4))).float(), grid

    monkeypatch.setattr("odis.finding.discover.discoverer.patch_features", noise)
    found, chance, wide = scores()
    assert found["AP50 box"] < chance["AP50 box"] + wide["AP50 box"]
    monkeypatch.setattr(found_masks, "OurDiscovery", lambda *_: Finder())
    found, chance, wide = scores()
    for name in ("AP50 box", "AR100 box"):
        assert chance[name] > 5
        # Two independent draws: the interval is four deviations of one.
        assert found[name] == pytest.approx(chance[name], abs=1.5 * wide[name])


def test_annotated_boxes_move_with_the_sides_of_the_image():
    from odis.evaluation.protocols.layouts.boxed import BoxedImages

    rows = [
        ImageObjects("a", 10, 20, (Object((1, 2, 3, 4)),)),
        ImageObjects("b", 100, 40, (Object((10, 10, 50, 30)),)),
    ]
    found = found_masks.of_other_images(BoxedImages("x", "y", 0, ["a", "b"], rows), 0)
    assert found[0].objects[0].box == (1.0, 5.0, 5.0, 15.0)
    assert found[1].objects[0].box == (10.0, 4.0, 30.0, 8.0)


def test_cocos_crowds_are_ignored_and_boxes_without_masks_are_scored_as_boxes(tmp_path, layouts):
    root = layouts.coco(tmp_path / "coco", "val2017", [f"{i:012}.jpg" for i in range(3)], crowd=True)
    images = open_boxed(root, keep_empty=True)
    rows = [ImageObjects(r.image, r.width, r.height, r.objects) for r in images.rows]
    # beside the true box one that the crowd, all of the image, holds: it costs nothing
    with_more = [
        replace(r, objects=(replace(r.objects[0], score=0.5), Object((1.0, 20.0, 50.0, 39.0), score=0.9)))
        for r in rows
    ]
    write_index(tmp_path / "p.parquet", with_more, root=root, provenance="detected:x", classes=["x"])
    found = evaluate_maskcut([], images, SETTINGS, predicted=[str(tmp_path / "p.parquet")])
    assert found["rows"][0]["scores"]["AP box"]["value"] == pytest.approx(100)
    assert "AP mask" not in found["rows"][0]["scores"]
    assert any("no mask; only boxes" in note for note in found["notes"])
    assert found["test"]["crowds"] == 3


def test_it_runs_from_the_command_line_on_vocs_layout(encoder, layouts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    box = layouts.OBJECT.format(name="dog", t=0, d=1, box=(1, 1, 30, 20))
    layouts.voc(tmp_path / "VOC2012", {"2008_000002": [box], "2008_000003": [], "2008_000007": [box, box]})
    out = tmp_path / "m.json"
    for options in (["--size", "24", "--cache", str(tmp_path / "kept")], ["--as-published"]):
        arguments = ["--model", "a", "--test", str(tmp_path), "--workers", "0", "--out", str(out)]
        if "--as-published" in options:
            monkeypatch.setattr(found_masks, "_SQUARE", 48)
        main(["evaluate", "protocol", "maskcut", *arguments, *options])
        written = json.loads(out.read_text())
        assert set(written["rows"][0]["scores"]) == {"AP50 box", "AP box", "AR100 box"}
        assert written["test"]["images"] == 3
    assert list((tmp_path / "kept").rglob("*.safetensors"))
    told = capsys.readouterr()
    assert "CutLER" in told.out
    assert "projected: " in told.err


def test_what_cannot_be_measured_is_one_line(folder: Path):
    images = open_boxed(folder / "index.parquet", keep_empty=True)
    with pytest.raises(OdisError, match="nothing to score"):
        evaluate_maskcut([], images, SETTINGS)
    with pytest.raises(OdisError, match="none of the 1 image has an object"):
        evaluate_maskcut([], images.select([0]), SETTINGS, predicted=["x"])
    for change, line in (
        ({"max_objects": 0}, "max-objects 0"),
        ({"size": 0}, "size 0"),
        ({"size": 48, "as_published": True}, "squashed to 480"),
        ({"tau": 1.0}, "tau 1"),
        ({"max_train": 1}, "max-train: this protocol has no such"),
    ):
        with pytest.raises(OdisError, match=line):
            MaskcutSettings(**change).check()
    assert MaskcutSettings(as_published=True).threshold == 0.15


def test_objects_that_were_kept_are_the_same(encoder, folder: Path, tmp_path):
    images, model = open_boxed(folder / "index.parquet", keep_empty=True), encoder()
    kept = replace(SETTINGS, cache=str(tmp_path))
    rows = [evaluate_maskcut(model, images, s)["rows"][0] for s in (SETTINGS, kept, kept)]
    assert rows[0]["scores"] == rows[1]["scores"] == rows[2]["scores"]
    assert rows[0]["objects"] == rows[2]["objects"]
