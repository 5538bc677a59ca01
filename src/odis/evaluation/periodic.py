"""The k-NN that training runs now and then on the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from odis.config.query import QueryConfig, ReadConfig
from odis.config.training import PretrainConfig
from odis.errors import DataError
from odis.evaluation.knn import KnnSettings, evaluate_knn
from odis.evaluation.measurable import labels_of, require_measurable
from odis.evaluation.subset import Subset, in_train_classes
from odis.inference import Encoder
from odis.method.vit import ObjectViT
from odis.objects.index import WHOLE_IMAGE, ObjectIndex
from odis.types import Object

# Enough to see where a run is heading, in seconds rather than minutes.
_K = 20
_TRAIN_IMAGES, _TEST_IMAGES = 5000, 1000


def periodic_knn(config: PretrainConfig) -> Callable[[ObjectViT, PretrainConfig], dict[str, float]]:
    """A function of the teacher's backbone that returns named k-NN accuracies in percent.

    Objects of `config.val` are classified by those of `config.data`; if the latter has no labels, every
    second image of `config.val` classifies the others.

    Raises:
        DataError: if an index cannot be read, or `config.val` has no labels.
    """
    assert config.val is not None
    train = Subset.of(ObjectIndex.open(config.data, root=config.root), _TRAIN_IMAGES, config.train.seed)
    test = Subset.of(ObjectIndex.open(config.val, root=config.root), _TEST_IMAGES, config.train.seed)
    if not train.labelled(1) and test.labelled(1):
        train, test = (Subset(test.index, test.rows[start::2]) for start in (0, 1))
        if not train.labelled(1) or not test.labelled(1):
            raise DataError(
                f"{config.val}: too few labelled objects for the k-NN during training, since {config.data} "
                f"has none"
            )
    try:
        require_measurable(labels_of(train), labels_of(test))
    except DataError as error:
        raise DataError(f"val: the k-NN during training would measure nothing: {error}") from error
    k = train.labelled(_K)
    used = {item.label for i in test.rows for item in _objects(test, i) if item.label is not None}
    in_train_classes(test.index, train.index, torch.tensor(sorted(used)))  # now, not at the first measurement
    whole = test.index.provenance == WHOLE_IMAGE
    settings = KnnSettings(
        query=QueryConfig(("whole-image",) if whole else ("masked-attention", "crop")),
        read=ReadConfig(workers=config.loader.workers, strict=config.strict),
        k=(k,),
    )

    def evaluate(model: ObjectViT, config: PretrainConfig) -> dict[str, float]:
        encoder = Encoder.of(model, config, precision=config.train.precision)
        rows = evaluate_knn(encoder, train, test, settings)["rows"]
        return {f"knn/{row['mode']}@{k}": row["scores"][f"k={k}"]["value"] for row in rows}

    return evaluate


def _objects(subset: Subset, row: int) -> Sequence[Object]:
    try:
        return subset.index[row].objects
    except DataError:  # a header that cannot be read: the file is named when features are made
        return ()
