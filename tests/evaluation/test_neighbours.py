"""k-NN predictions against an explicit loop and scikit-learn; tiles, ties, refusals."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from odis.errors import OdisError
from odis.evaluation import neighbours
from odis.evaluation.neighbours import NearestNeighbours, vote


def clusters(
    n: int, classes: int, dim: int, seed: int, spread: float = 1.5
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (n,), generator=rng)
    return centres[labels] + spread * torch.randn(n, dim, generator=rng), labels


def predict(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, k: list[int], temperature: float = 0.07
) -> dict[int, torch.Tensor]:
    """Neighbours in one pass over the train features, then their votes."""
    nearest = NearestNeighbours(test, max(k))
    nearest.add(train)
    similarity, rows = nearest.read()
    return vote(similarity, labels[rows], k, temperature=temperature, classes=int(labels.max()) + 1)


def slow(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, k: int, temperature: float
) -> list[int]:
    """The formula, one test feature and one vote at a time, in double precision."""
    predictions = []
    for query in test.double():
        cosine = [
            float(query @ t) / (math.sqrt(float(query @ query)) * math.sqrt(float(t @ t)))
            for t in train.double()
        ]
        nearest = sorted(range(len(train)), key=lambda i: (-cosine[i], i))[:k]
        votes: dict[int, float] = {}
        for i in nearest:
            votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + math.exp(cosine[i] / temperature)
        predictions.append(min(votes, key=lambda c: (-votes[c], c)))
    return predictions


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_the_explicit_formula_at_every_k(temperature: float) -> None:
    train, labels = clusters(60, 5, 8, seed=0)
    test, _ = clusters(25, 5, 8, seed=1)
    found = predict(train, labels, test, [1, 3, 10, 60], temperature=temperature)
    for k in (1, 3, 10, 60):
        assert found[k].tolist() == slow(train, labels, test, k, temperature), k


@pytest.mark.parametrize("k", [1, 7, 20])
def test_equals_scikit_learn(k: int) -> None:
    train, labels = clusters(400, 6, 16, seed=2)
    test, _ = clusters(150, 6, 16, seed=3)
    peer = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    peer.fit(train.numpy(), labels.numpy())
    assert predict(train, labels, test, [k])[k].tolist() == peer.predict(test.numpy()).tolist()


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = clusters(157, 4, 8, seed=4)
    test, _ = clusters(53, 4, 8, seed=5)
    whole = predict(train, labels, test, [2, 30])
    monkeypatch.setattr(neighbours, "_TEST_CHUNK", 7)
    monkeypatch.setattr(neighbours, "_TRAIN_CHUNK", 11)  # fewer than k neighbours in a tile
    tiled = predict(train, labels, test, [2, 30])
    assert all(torch.equal(whole[k], tiled[k]) for k in (2, 30))


@pytest.mark.parametrize("train_chunk", [64, 128, 100])
@pytest.mark.parametrize("levels", [3, 40, 10**6])
def test_a_long_stream_with_ties_is_the_explicit_sort(
    monkeypatch: pytest.MonkeyPatch, train_chunk: int, levels: int
) -> None:
    """Blocks without a newcomer are passed over, tiles of an odd size are not cut, and coarse features tie
    everywhere.
    """
    monkeypatch.setattr(neighbours, "_TEST_CHUNK", 5)
    monkeypatch.setattr(neighbours, "_TRAIN_CHUNK", train_chunk)
    rng = torch.Generator().manual_seed(levels)
    train, test = (torch.randint(-levels, levels + 1, (n, 3), generator=rng).float() for n in (1500, 13))
    found = NearestNeighbours(test, 9)
    for part in train.split(333):
        found.add(part.double() if part[0, 0] > 0 else part)
    similarity, rows = found.read()
    unit = torch.nn.functional.normalize(train)
    cosine = torch.cat([torch.nn.functional.normalize(test) @ part.T for part in unit.split(333)], dim=1)
    for i in range(13):
        # To the bit the same products are compared, so that equal ones are equal here too.
        expected = sorted(range(1500), key=lambda j: (-float(cosine[i, j]), j))[:9]
        np.testing.assert_allclose(similarity[i].numpy(), cosine[i, expected].numpy(), atol=1e-6)
        # Of those whose similarity is the same to the bit, as the search itself computed it, the earlier come
        # first.
        pairs = list(zip((-similarity[i]).tolist(), rows[i].tolist()))
        assert pairs == sorted(pairs)
        if levels == 10**6:
            assert rows[i].tolist() == expected


def test_ties_at_the_border_take_the_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_TRAIN_CHUNK", 128)
    far, near = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    train = torch.cat([near if i in (40, 90, 91, 200, 300, 301) else far for i in range(384)])
    found = NearestNeighbours(near, 8)
    found.add(train)
    assert found.read()[1].tolist() == [[40, 90, 91, 200, 300, 301, 0, 1]]


def test_of_equally_near_features_the_lower_row_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_TRAIN_CHUNK", 4)
    train = torch.eye(2)[torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 1])]
    labels = torch.tensor([0, 3, 2, 2, 2, 2, 2, 2, 1])
    query = torch.tensor([[0.0, 2.0]])
    assert predict(train, labels, query, [1])[1].tolist() == [3]
    # Rows 1 and 2: one vote each for 3 and 2, and the lower class wins.
    assert predict(train, labels, query, [2])[2].tolist() == [2]


def test_keys_sort_as_similarities_and_read_back() -> None:
    similarity = torch.randn(5, 300)
    similarity[0, :3] = torch.tensor([0.0, -0.0, 1e-42])
    keys = neighbours._keys(similarity, 1000)
    values, rows = neighbours._read_keys(keys)
    assert torch.equal(values, similarity)
    assert rows[0].tolist() == list(range(1000, 1300))
    assert torch.equal(keys[1:].argsort(dim=1), similarity[1:].argsort(dim=1))
    assert keys[0, 2] > keys[0, 0] > keys[0, 1]  # the two zeros are equal: the lower row first


def test_small_temperatures_do_not_overflow() -> None:
    train, labels = clusters(30, 3, 4, seed=6)
    nearest = predict(train, labels, train, [1])[1]
    assert (
        predict(train, labels, train, [30], temperature=1e-4)[30].tolist()
        == nearest.tolist()
        == labels.tolist()
    )


def test_a_zero_feature_and_no_test_features_are_answered() -> None:
    train, labels = clusters(10, 3, 4, seed=7)
    assert len(predict(train, labels, torch.zeros(1, 4), [3])[3]) == 1
    assert predict(train, labels, torch.empty(0, 4), [3])[3].shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": [11]}, "k 11 must be from 1 to the 10 train objects"),
        ({"k": [0]}, "k 0 must"),
        ({"temperature": 0.0}, "temperature 0.0 must be above 0"),
        ({"test": torch.tensor([[1.0, math.nan]])}, "test features hold values that are not finite"),
    ],
)
def test_refusals(change: dict, message: str) -> None:
    given = {
        "train": torch.ones(10, 2),
        "labels": torch.zeros(10, dtype=torch.int64),
        "test": torch.ones(1, 2),
        "k": [1],
    }
    with pytest.raises(OdisError, match=message):
        predict(**(given | change))
