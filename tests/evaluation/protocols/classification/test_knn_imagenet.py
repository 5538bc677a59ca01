"""`knn-imagenet` against a slow k-NN over views that torchvision makes; boxes against crops of the boxes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv

from odis.backbones.build import build_vit
from odis.cli import main
from odis.config.query import QueryConfig, ReadConfig
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.classification.classify import PartReader
from odis.evaluation.protocols.classification.knn_imagenet import (
    PROTOCOL,
    KnnImagenetSettings,
    evaluate_knn_imagenet,
)
from odis.evaluation.protocols.layouts.classified import open_classified
from odis.evaluation.protocols.protocol import IMAGENET_MEAN, IMAGENET_STD
from odis.evaluation.runner import EvaluationRun
from odis.inference import Encoder
from odis.objects.index import write_index
from odis.types import ImageObjects, Object

CROP = 16
SETTINGS = KnnImagenetSettings(k=(1, 3), crop=CROP)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Noise with a hint of the class, in odd sizes."""
    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 7)):
        for c, name in enumerate(("n01440764", "n02123045")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                shape = (*rng.integers(20, 50, 2), 3)
                pixels = rng.integers(0, 230, shape, dtype=np.uint8)
                pixels[..., 0] += np.uint8(12 * c)
                Image.fromarray(pixels).save(root / part / name / f"{i:02}.png")
    return root / "train", root / "val"


def slow(encoder: Encoder, folders: tuple[Path, Path], k: int, temperature: float, published: bool) -> float:
    """Top-1 in percent by the formula, one image after the other."""
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if published else (encoder.mean, encoder.std)
    view = tv.Compose(
        [
            tv.Resize(round(CROP * 256 / 224), interpolation=tv.InterpolationMode.BICUBIC),
            tv.CenterCrop(CROP),
            tv.ToTensor(),
            tv.Normalize(mean, std),
        ]
    )

    def features(root: Path) -> tuple[np.ndarray, list[str]]:
        paths = sorted(root.rglob("*.png"))
        with torch.no_grad():
            rows = [encoder.model.eval()(view(Image.open(p))[None]).image[0].double() for p in paths]
        made = torch.stack(rows).numpy()
        return made / np.linalg.norm(made, axis=1, keepdims=True), [p.parent.name for p in paths]

    (train, names), (test, truth) = map(features, folders)
    right = 0
    for feature, name in zip(test, truth, strict=True):
        cosine = train @ feature
        votes: dict[str, float] = {}
        for i in np.argsort(-cosine)[:k]:
            votes[names[i]] = votes.get(names[i], 0.0) + float(np.exp(cosine[i] / temperature))
        right += max(votes, key=votes.__getitem__) == name
    return 100 * right / len(truth)


@pytest.mark.parametrize("published", [False, True])
def test_it_is_the_slow_k_nn_over_the_references_view(encoder, folders, published: bool):
    train, test = map(open_classified, folders)
    model = replace(encoder(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    settings = replace(SETTINGS, as_published=published, temperature=0.5)
    found = evaluate_knn_imagenet(model, train, test, settings)
    for k in settings.k:
        expected = slow(model, folders, k, 0.5, published)
        assert found["rows"][0]["scores"][f"k={k}"]["value"] == pytest.approx(expected, abs=1e-3)
    assert found["protocol"]["as_published"] is published
    assert found["rows"][0]["size"] == CROP
    assert found["test"]["images"] == 14


def test_noise_gives_chance_and_features_that_hold_the_label_the_ceiling(encoder, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("val", 100)):
        for name in ("a", "b", "c", "d"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (1, 1)).save(tmp_path / part / name / f"{i}.png")
    train, test = open_classified(tmp_path / "train"), open_classified(tmp_path / "val")
    model = encoder()
    for of, low, high in ((False, 19, 31), (True, 100, 100)):
        labels = iter([test.labels, train.labels])
        chunks: list[np.ndarray] = []

        def tokens(self, pixels, masks=None, of=of, labels=labels, chunks=chunks):
            if not len(chunks) or not len(chunks[0]):
                chunks[:] = [next(labels)]
            here, chunks[0] = chunks[0][: len(pixels)], chunks[0][len(pixels) :]
            made = np.eye(4)[here] if of else rng.normal(size=(len(pixels), 8))
            return type("Tokens", (), {"image": torch.from_numpy(made)})()

        monkeypatch.setattr(Encoder, "tokens", tokens)
        found = evaluate_knn_imagenet(model, train, test, replace(SETTINGS, k=(20,)))
        # 1 in 4 classes; 400 images have a deviation of 2.2
        assert low <= found["rows"][0]["scores"]["k=20"]["value"] <= high


@pytest.mark.parametrize("kind", ["read-only", "beside"])
def test_the_object_is_read_where_the_crop_shows_it(encoder, model_config, tmp_path, kind):
    """`obj` of a box is `masked-attention` on the cropped image with the box moved by hand; `[CLS]` in `both`
    is of the whole image.
    """
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (36, 36, 3), dtype=np.uint8)  # 36 -> 18, crop 16: from 1 to 17
    Image.fromarray(array).save(tmp_path / "a.png")
    boxes = [(2.0, 2.0, 18.0, 18.0), (18.0, 18.0, 34.0, 34.0)]
    gone = (0.0, 0.0, 1.5, 36.0)  # left of the crop
    rows = [ImageObjects("a.png", 36, 36, tuple(Object(b, label=0) for b in [*boxes, gone]))]
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=["x"])
    images, model = open_classified(tmp_path / "i.parquet"), encoder()
    if kind == "beside":
        torch.manual_seed(0)
        vit = build_vit(replace(model_config, object_tokens=kind, depth=2), 16, drop_path=0.0)
        model = replace(model, model=vit.eval())
    settings = replace(SETTINGS, readout=("cls", "obj", "both"))
    run = EvaluationRun("knn-imagenet", model, settings)
    (batch,) = PartReader(run, model, images, "test", settings).features()
    cropped = tv.Compose([tv.Resize(18, interpolation=tv.InterpolationMode.BICUBIC), tv.CenterCrop(16)])(
        Image.fromarray(array)
    )
    moved = [Object((0.0, 0.0, 8.0, 8.0)), Object((8.0, 8.0, 16.0, 16.0))]
    unit = torch.nn.functional.normalize
    cls = model.embed(cropped, mode="whole-image", size=CROP, readout="cls").image
    obj = model.embed(cropped, moved, size=CROP).objects.mean(0)
    for name, expected in {"cls": cls, "obj": obj, "both": torch.cat([cls, obj])}.items():
        torch.testing.assert_close(batch.readouts[name][0], unit(expected, dim=0), atol=1e-5, rtol=0)
    assert run.sides["test"]["objects_outside_the_crop"] == 1
    assert run.sides["test"]["images_without_an_object"] == 0


def test_an_image_whose_boxes_are_cropped_away_is_read_by_cls(encoder, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    rows = [ImageObjects("a.png", 36, 36, (Object((0.0, 0.0, 1.5, 36.0), label=0),))]
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=["x"])
    images, model = open_classified(tmp_path / "i.parquet"), encoder()
    settings = replace(SETTINGS, readout=("cls", "obj"))
    run = EvaluationRun("knn-imagenet", model, settings)
    (batch,) = PartReader(run, model, images, "test", settings).features()
    assert torch.equal(batch.readouts["cls"], batch.readouts["obj"])
    assert run.sides["test"]["images_without_an_object"] == 1


def test_what_cannot_be_measured_is_one_line(encoder, folders, tmp_path):
    train, test = map(open_classified, folders)
    model = encoder()
    with pytest.raises(OdisError, match="k 99 must be from 1 to the 24 train images"):
        evaluate_knn_imagenet(model, train, test, replace(SETTINGS, k=(99,)))
    with pytest.raises(OdisError, match="no object index"):
        evaluate_knn_imagenet(model, train, test, replace(SETTINGS, readout=("obj",)))
    with pytest.raises(OdisError, match="size 17"):
        evaluate_knn_imagenet(model, train, test, replace(SETTINGS, crop=17))
    with pytest.raises(OdisError, match="readout 'mean' must be some of obj, cls, both"):
        replace(SETTINGS, readout=("mean",)).check()
    one = train.select(range(12))
    with pytest.raises(DataError, match="all its labelled images are of one class"):
        evaluate_knn_imagenet(model, one, one, SETTINGS)
    other = replace_classes(test, ["n01440764", "n99999999"])
    with pytest.raises(DataError, match="n99999999"):
        evaluate_knn_imagenet(model, train, other, SETTINGS)


def replace_classes(images, classes):
    changed = images.select(range(len(images)))
    changed.classes = classes
    return changed


def test_a_broken_image_is_skipped_and_named_and_an_overlap_is_said(encoder, folders, tmp_path):
    train, _ = map(open_classified, folders)
    (tmp_path / "n01440764").mkdir()
    broken = tmp_path / "n01440764" / "broken.png"
    broken.write_bytes(b"no image")
    changed = train.select(range(len(train)))
    changed.paths = [*train.paths[:-1], str(broken)]
    found = evaluate_knn_imagenet(encoder(), changed, train, SETTINGS)
    assert [item["what"] for item in found["skipped"]] == [str(broken)]
    assert found["train"]["images"] == 23
    assert any("23 images are in the test and the train part" in note for note in found["notes"])


def test_an_interrupted_call_goes_on_and_embeds_nothing_twice(encoder, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("odis.evaluation.protocols.classification.classify._CHUNK", 5)
    train, test = map(open_classified, folders)
    model, plain = encoder(), replace(SETTINGS, read=ReadConfig(batch_size=5))
    settings = replace(plain, cache=str(tmp_path))
    expected = evaluate_knn_imagenet(model, train, test, plain)["rows"][0]["scores"]
    original, shown = Encoder.tokens, [0]

    def stops(self, pixels, masks=None):
        shown[0] += 1
        if shown[0] == 5:
            raise KeyboardInterrupt
        return original(self, pixels, masks)

    monkeypatch.setattr(Encoder, "tokens", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate_knn_imagenet(model, train, test, settings)
    found = evaluate_knn_imagenet(model, train, test, settings)
    assert found["rows"][0]["scores"] == expected
    assert "cache" not in found["settings"]
    parts = -(-len(test) // 5) + -(-len(train) // 5)
    assert shown[0] == parts + 1  # that in which it was cut off
    evaluate_knn_imagenet(model, train, test, replace(settings, crop=settings.crop + 8))
    assert shown[0] == 2 * parts + 1


def test_it_runs_from_the_command_line(encoder, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    out = tmp_path / "k.json"
    train, test = map(str, folders)
    arguments = ["--model", "a", "--model", "b", "--train", train, "--test", test, "--k", "1,3"]
    options = ["--crop", str(CROP), "--workers", "0", "--out", str(out), "--max-test", "5"]
    main(["evaluate", "protocol", PROTOCOL.name, *arguments, *options])
    told = capsys.readouterr()
    shown = " ".join(told.out.split())
    assert "projected: " in told.err
    assert "DINO ViT-S/16" in shown
    assert "74.5" in shown
    written = json.loads(out.read_text())
    assert [row["model"] for row in written["rows"]] == ["a", "b"]
    assert written["complete"] is True
    assert any("max-test 5" in note for note in written["notes"])
    assert written["settings"]["crop"] == CROP


def test_the_query_is_the_protocols_own():
    assert KnnImagenetSettings().query == QueryConfig(("whole-image",))
