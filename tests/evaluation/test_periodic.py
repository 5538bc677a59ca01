"""The k-NN of a training run: which indexes it takes, what it returns."""

from collections.abc import Callable
from pathlib import Path

import pytest

from odis.config.training import LoaderConfig, ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import DataError
from odis.evaluation.periodic import periodic_knn
from odis.inference import Encoder
from odis.objects.index import ObjectIndex


@pytest.fixture(scope="module")
def indexes(
    squares: Callable[..., ObjectIndex], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ObjectIndex, ObjectIndex]:
    folder = tmp_path_factory.mktemp("squares")
    names = ["red", "green", "blue"]
    return squares(folder / "train", names, 12), squares(folder / "test", names[::-1], 6, seed=1)


def test_periodic_knn_needs_labels_of_the_held_out_index_only(
    encoder: Callable[..., Encoder],
    squares: Callable[..., ObjectIndex],
    model_config: ModelConfig,
    tmp_path: Path,
    indexes: tuple[ObjectIndex, ObjectIndex],
) -> None:
    train, test = indexes
    unlabelled = squares(tmp_path / "unlabelled", ["red"], 2, labelled=False)
    for data, objects in ((train, 20), (unlabelled, 6)):  # 24 train objects, or every second image of six
        config = PretrainConfig(
            data=data.path,
            val=test.path,
            model=model_config,
            views=ViewsConfig(global_size=16),
            loader=LoaderConfig(workers=0),
        )
        config.train.precision = "fp32"
        scores = periodic_knn(config)(encoder().model, config)
        assert list(scores) == [f"knn/masked-attention@{objects}", f"knn/crop@{objects}"]
        assert all(0 <= value <= 100 for value in scores.values())
    with pytest.raises(DataError, match="needs a labelled index"):
        periodic_knn(PretrainConfig(data=train.path, val=unlabelled.path))
