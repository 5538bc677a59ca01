"""Transfer on small data sets, against scikit-learn."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from odis.config.query import QueryConfig
from odis.evaluation.subset import Subset
from odis.evaluation.transfer import DataSet, TransferSettings, evaluate_transfer
from odis.inference import Encoder, embed_index
from odis.objects.index import ObjectIndex


@pytest.fixture(scope="module")
def indexes(
    squares: Callable[..., ObjectIndex], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ObjectIndex, ObjectIndex]:
    folder, names = tmp_path_factory.mktemp("squares"), ["red", "green", "blue"]
    return squares(folder / "train", names, 30), squares(folder / "test", names[::-1], 12, seed=1)


def test_transfer_is_scikit_learns_logistic_regression(
    encoder: Callable[..., Encoder],
    squares: Callable[..., ObjectIndex],
    indexes: tuple[ObjectIndex, ObjectIndex],
    tmp_path: Path,
) -> None:
    noisy = (
        squares(tmp_path / "a", ["red", "green"], 30, seed=2, noise=150),
        squares(tmp_path / "b", ["red", "green"], 20, seed=3, noise=150),
    )
    parts = [tuple(Subset(index, range(len(index))) for index in pair) for pair in (indexes, noisy)]
    data_sets = [DataSet(name, *pair) for name, pair in zip(("clean", "noisy"), parts)]
    results = evaluate_transfer(
        encoder(), data_sets, TransferSettings(query=QueryConfig(modes=["crop"]), costs=(0.01, 1.0))
    )
    (row,) = results["rows"]
    assert list(row["scores"]) == ["clean", "noisy", "mean"]
    assert row["scores"]["clean"]["value"] == 100.0
    train, test = (embed_index(encoder(), index, "crop") for index in noisy)
    scaler = StandardScaler().fit(train.features.numpy())
    model = LogisticRegression(C=row["chosen"]["noisy"], max_iter=1000).fit(
        scaler.transform(train.features.numpy()), train.labels.numpy()
    )
    expected = 100 * model.score(scaler.transform(test.features.numpy()), test.labels.numpy())
    assert row["scores"]["noisy"]["value"] == pytest.approx(expected, abs=1e-3)
    assert row["scores"]["mean"] == {
        "value": pytest.approx((100 + expected) / 2, abs=1e-3),
        "low": None,
        "high": None,
    }
    assert [d["name"] for d in results["data_sets"]] == ["clean", "noisy"]
    assert results["data_sets"][1]["test"]["objects"] == 40
