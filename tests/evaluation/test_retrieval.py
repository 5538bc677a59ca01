"""Rankings against explicit loops and scikit-learn; objects of the query's image; a gallery of its own;
landmarks end to end.
"""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import Tensor

from odis.backbones.build import build_vit
from odis.cli import main
from odis.config.query import QueryConfig
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import DataError, OdisError
from odis.evaluation import ranking
from odis.evaluation.ground_truth import load_ground_truth
from odis.evaluation.landmark_scores import landmark_scores
from odis.evaluation.landmarks import evaluate_landmarks
from odis.evaluation.ranking import rank
from odis.evaluation.retrieval import RetrievalSettings, evaluate_retrieval
from odis.evaluation.settings import EvaluationSettings
from odis.inference import Encoder, embed_index
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

MODEL = ModelConfig(
    "vit_tiny_patch16_224", None, "read-only", patch_size=8, embed_dim=32, depth=1, num_heads=2
)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder.of(
        build_vit(MODEL, 16, drop_path=0.0),
        PretrainConfig(model=MODEL, views=ViewsConfig(global_size=16)),
        source="tiny",
    )


def slow(
    queries: Tensor,
    gallery: Tensor,
    query_sets: list[set],
    gallery_sets: list[set],
    left_out: list[set],
    k: int,
) -> tuple[list, list]:
    """One query and one rank at a time, in double precision."""
    precisions, recalls = [], []
    for q, wanted, out in zip(queries.double(), query_sets, left_out):
        cosine = [float(torch.cosine_similarity(q, g, dim=0)) for g in gallery.double()]
        order = sorted((i for i in range(len(gallery)) if i not in out), key=lambda i: (-cosine[i], i))
        hits = [bool(wanted & gallery_sets[i]) for i in order]
        if not any(hits):
            precisions.append(float("nan"))
            recalls.append(float("nan"))
            continue
        precisions.append(sum(sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits) if hit) / sum(hits))
        recalls.append(float(any(hits[:k])))
    return precisions, recalls


def sets_of(targets: Tensor) -> list[set]:
    return [set(row.nonzero()[:, 0].tolist()) for row in targets]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 4), st.integers(0, 10**6), st.booleans())
def test_ranking_of_another_gallery_is_the_explicit_loop(
    m: int, n: int, k: int, seed: int, several: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)
    queries, gallery = torch.randn(m, 4, generator=rng), torch.randn(n, 4, generator=rng)
    targets = [torch.rand(size, 3, generator=rng) < (0.5 if several else 0.25) for size in (m, n)]
    precision, recall = rank(queries, gallery, *targets, k=(k,))
    expected = slow(queries, gallery, sets_of(targets[0]), sets_of(targets[1]), [set()] * m, k)
    np.testing.assert_allclose(precision.numpy(), expected[0])
    np.testing.assert_allclose(recall[:, 0].numpy(), expected[1])
    for i in range(m):
        relevant = (targets[1] & targets[0][i]).any(1)
        if relevant.any():
            cosine = torch.cosine_similarity(queries[i][None], gallery)
            assert precision[i].item() == pytest.approx(
                average_precision_score(relevant.numpy(), cosine.numpy())
            )


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("same_image", [False, True])
def test_neither_the_query_nor_its_image_is_searched(
    same_image: bool, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(0)
    features, image = torch.randn(20, 4, generator=rng), torch.randint(7, (20,), generator=rng)
    numbers, labels = torch.arange(20), torch.randint(3, (20,), generator=rng)
    targets = torch.nn.functional.one_hot(labels, 3).bool()
    out = [{j for j in range(20) if j == i or (not same_image and image[j] == image[i])} for i in range(20)]
    expected = slow(features, features, sets_of(targets), sets_of(targets), out, 2)
    given = (targets, targets) if several else (labels, labels)
    for tile in (1, 50, 1 << 23):
        monkeypatch.setattr(ranking, "_TILE", tile)
        found = rank(
            features,
            features,
            *given,
            images=(image, image),
            numbers=(numbers, numbers),
            same_image=same_image,
            k=(2,),
        )
        np.testing.assert_allclose(found[0].numpy(), expected[0])
        np.testing.assert_allclose(found[1][:, 0].numpy(), expected[1])


def test_a_gallery_that_holds_the_query_images_does_not_find_them(index: ObjectIndex) -> None:
    for same_image in (False, True):
        settings_ = RetrievalSettings(query=QueryConfig(modes=["crop"]), k=(1, 3), same_image=same_image)
        among_others = evaluate_retrieval(encoder(), index, None, settings_)["rows"][0]["scores"]
        in_gallery = evaluate_retrieval(encoder(), index, ObjectIndex.open(index.path), settings_)["rows"][0][
            "scores"
        ]
        assert in_gallery == among_others


def test_of_equally_similar_ones_the_earlier_is_nearer() -> None:
    gallery = torch.ones(3, 2)
    targets = torch.tensor([[True, False], [False, True], [True, False]])
    precision, recall = rank(torch.ones(2, 2), gallery, targets[:2], targets, k=(1,))
    assert precision.tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 2])
    assert recall[:, 0].tolist() == [1, 0]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ObjectIndex:
    """Six images of two coloured squares: red, green, blue."""
    folder, rows = tmp_path_factory.mktemp("squares"), []
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels, labels = np.zeros((16, 32, 3), dtype=np.uint8), rng.permutation(3)[:2]
        for n, label in enumerate(labels):
            pixels[:, 16 * n : 16 * n + 16, label] = rng.integers(150, 256, (16, 16))
        Image.fromarray(pixels).save(folder / f"{i}.png")
        objects = tuple(
            Object((16.0 * n, 0.0, 16.0 * n + 16, 16.0), label=int(label)) for n, label in enumerate(labels)
        )
        rows.append(ImageObjects(f"{i}.png", 32, 16, objects))
    write_index(
        folder / "index.parquet", rows, root=folder, provenance="annotated", classes=["red", "green", "blue"]
    )
    return ObjectIndex.open(folder / "index.parquet")


def test_scores_are_the_means_over_queries(index: ObjectIndex) -> None:
    results = evaluate_retrieval(
        encoder(), index, None, RetrievalSettings(query=QueryConfig(modes=["crop"]), k=(1, 3))
    )
    found = embed_index(encoder(), index, "crop")
    targets = torch.nn.functional.one_hot(found.labels, 3).bool()
    expected = rank(
        found.features, found.features, targets, targets, images=(found.rows, found.rows), k=(1, 3)
    )
    (row,) = results["rows"]
    assert row["scores"]["mAP"]["value"] == pytest.approx(100 * expected[0].mean().item(), abs=1e-3)
    assert row["scores"]["R@3"]["value"] == pytest.approx(100 * expected[1][:, 1].mean().item(), abs=1e-3)
    assert (row["queries"], results["test"]["objects"], results["evaluation"]) == (12, 12, "retrieval")
    assert row["scores"]["R@1"]["value"] == 100, "colour is all there is"


def test_classes_of_a_gallery_are_matched_by_name(index: ObjectIndex, tmp_path: Path) -> None:
    names = ["blue", "red", "green"]  # the same classes in another order
    turned = [
        ImageObjects(
            r.image, r.width, r.height, tuple(Object(o.box, label=(o.label + 1) % 3) for o in r.objects)
        )
        for r in index
    ]
    write_index(tmp_path / "turned.parquet", turned, root=index.root, provenance="annotated", classes=names)
    gallery = ObjectIndex.open(tmp_path / "turned.parquet")
    results = evaluate_retrieval(
        encoder(), index, gallery, RetrievalSettings(query=QueryConfig(modes=["crop"]), k=(1,))
    )
    assert results["rows"][0]["scores"]["R@1"]["value"] == 100
    assert results["gallery"]["objects"] == 12
    write_index(
        tmp_path / "foreign.parquet",
        list(index),
        root=index.root,
        provenance="annotated",
        classes=["red", "green", "cat"],
    )
    with pytest.raises(
        DataError, match=r"has objects of classes that .*foreign\.parquet does not list: blue"
    ):
        evaluate_retrieval(
            encoder(), index, ObjectIndex.open(tmp_path / "foreign.parquet"), RetrievalSettings(k=(1,))
        )


def test_images_are_relevant_that_share_a_class(index: ObjectIndex) -> None:
    results = evaluate_retrieval(
        encoder(),
        index,
        None,
        RetrievalSettings(query=QueryConfig(modes=["whole-image"], images=True), k=(5,)),
    )
    sets = [{o.label for o in row.objects} for row in index]
    with_any = sum(any(sets[i] & sets[j] for j in range(6) if j != i) for i in range(6))
    assert results["rows"][0]["queries"] == with_any
    assert results["test"]["objects"] == 6


def test_the_command_and_its_refusals(
    index: ObjectIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OdisError, match="k 0 must be 1 or more"):
        evaluate_retrieval(encoder(), index, None, RetrievalSettings(k=(0,)))
    for arguments, message in (
        ([], "give --test, or --landmarks; one of the two"),
        (["--test", "a", "--landmarks", "b"], "one of the two"),
        (["--landmarks", "b", "--images"], "--landmarks says what is queried and searched"),
        (["--test", index.path, "--jpg", "x"], "--jpg goes with --landmarks"),
        (["--test", index.path, "--k", "one"], "k 'one' must be whole numbers"),
        (["--test", index.path], "x: no such run folder or model file"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", "retrieval", "--model", "x", *arguments, "--out", str(tmp_path / "r.json")])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_landmarks_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "jpg").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("q", (40, 24)), ("a", (32, 32)), ("b", (24, 40)), ("c", (16, 16)), ("d", (32, 24))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(
            tmp_path / "jpg" / f"{name}.jpg"
        )
    truth = {
        "imlist": ["a", "b", "c", "d"], "qimlist": ["q", "a"],
        "gnd": [
            {"bbx": [4.0, 2.0, 30.0, 20.0], "easy": [0, 2], "hard": [1], "junk": [3]},
            {"bbx": [0.0, 0.0, 16.0, 16.0], "easy": [], "hard": [3], "junk": [0]},
        ],
    }  # fmt: skip
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    results = evaluate_landmarks(
        encoder(),
        tmp_path / "gnd.pkl",
        None,
        EvaluationSettings(query=QueryConfig(modes=["crop", "masked-attention"])),
    )
    images = [Image.open(tmp_path / "jpg" / f"{name}.jpg") for name in "abcd"]
    whole = torch.stack([f.objects[0] for f in encoder().embed(images, mode="whole-image")])
    queries = [Image.open(tmp_path / "jpg" / "q.jpg"), images[0]]
    for row in results["rows"]:
        found = encoder().embed(queries, boxes=[[g["bbx"]] for g in truth["gnd"]], mode=row["mode"])
        asked = torch.cat([f.objects for f in found])
        similarity = torch.nn.functional.normalize(asked) @ torch.nn.functional.normalize(whole).T
        expected = landmark_scores(similarity, load_ground_truth(tmp_path / "gnd.pkl"))
        for setup in ("easy", "medium", "hard"):
            assert row["scores"][f"{setup} mAP"]["value"] == pytest.approx(
                100 * np.nanmean(expected[setup]["ap"]), abs=1e-3
            )
        assert row["scores"]["hard mP@5"]["value"] == pytest.approx(
            100 * np.nanmean(expected["hard"]["p@5"]), abs=1e-3
        )
    assert results["gallery"]["images"] == 4
    json.dumps(results)
    (tmp_path / "jpg" / "c.jpg").write_bytes((tmp_path / "jpg" / "c.jpg").read_bytes()[:300])
    with pytest.raises(DataError, match=r"c\.jpg: .*"):
        evaluate_landmarks(
            encoder(), tmp_path / "gnd.pkl", None, EvaluationSettings(query=QueryConfig(modes=["crop"]))
        )
    (tmp_path / "jpg" / "c.jpg").unlink()
    with pytest.raises(DataError, match=r"c\.jpg"):
        evaluate_landmarks(
            encoder(),
            tmp_path / "gnd.pkl",
            tmp_path / "jpg",
            EvaluationSettings(query=QueryConfig(modes=["crop"])),
        )
