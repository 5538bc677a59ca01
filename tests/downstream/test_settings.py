"""Settings that cannot be are refused in one line, and what a resume may change is not in the record."""

from dataclasses import replace

import numpy as np
import pytest

from odis.config.query import ReadConfig
from odis.downstream.settings import (
    FREE,
    TASKS,
    ClassificationSettings,
    DetectionSettings,
    FinetuneSettings,
    SemanticSettings,
)
from odis.errors import OdisError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (FinetuneSettings(size=0), "size 0 must be 1 or more"),
        (FinetuneSettings(batch=0), "batch 0 must be 1 or more"),
        (FinetuneSettings(checkpoint_every=0), "checkpoint-every 0 must be 1 or more"),
        (FinetuneSettings(warm_up=-1), "warm-up -1 must be 0 or more"),
        (FinetuneSettings(weight_decay=-0.1), "weight-decay -0.1 must be 0 or above"),
        (FinetuneSettings(lr=float("inf")), "lr inf must be above 0"),
        (FinetuneSettings(layer_decay=0.0), "layer-decay 0 must be above 0, 1 at most"),
        (FinetuneSettings(drop_path=1.0), "drop-path 1 must be from 0 to below 1"),
        (FinetuneSettings(max_train=0), "max-train 0 must be 1 or more"),
        (FinetuneSettings(resamples=1), "resamples 1 must be 2 or more"),
        (FinetuneSettings(seeds=()), r"seeds \[\] must be one or more numbers"),
        (FinetuneSettings(seeds=(1, 1)), r"seeds \[1, 1\] must be"),
        (FinetuneSettings(read=ReadConfig(precision="fp16")), "precision fp16: fine-tuning takes fp32"),
        (FinetuneSettings(frozen=True, head_steps=2), "with frozen it never does"),
        (DetectionSettings(scale=(2.0, 1.0)), "the smaller one first"),
        (DetectionSettings(scales=(3.0,)), "must be some of 4, 2, 1, 0.5, in this order"),
        (DetectionSettings(scales=(1.0, 2.0)), "in this order"),
        (DetectionSettings(scales=(1.0, 1.0)), "in this order"),
        (DetectionSettings(anchor=0.0), "anchor 0 must be above 0"),
        (DetectionSettings(regions=0), "regions 0 must be 1 or more"),
        (SemanticSettings(head="mlp"), "head 'mlp' must be linear or multi-scale"),
        (SemanticSettings(dropout=1.0), "dropout 1 must be from 0 to below 1"),
        (ClassificationSettings(batch=3), "batch 3 must be even"),
        (ClassificationSettings(mixup=-1.0), "mixup -1 must be 0 or above"),
        (ClassificationSettings(crop=0.0), "crop 0 must be above 0, 1 at most"),
        (ClassificationSettings(smoothing=1.0), "smoothing 1 must be from 0 to below 1"),
    ],
)
def test_what_cannot_be_is_refused(settings: FinetuneSettings, message: str):
    with pytest.raises(OdisError, match=message) as error:
        settings.check()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", TASKS)
def test_the_defaults_can_be_trained_and_the_record_has_all_that_changes_a_result(name: str):
    settings = TASKS[name].settings
    settings.check()
    replace(settings, batch=2, steps=1).check()
    record = settings.as_dict()
    assert record.keys() | {*FREE, "seeds"} == set(settings.__dataclass_fields__)
    assert not record.keys() & {*FREE, "seeds"}


def test_numbers_of_numpy_are_numbers_in_the_record():
    settings = DetectionSettings(lr=np.float64(0.5), steps=np.int64(3), scale=(np.float32(0.5), 2.0))
    record = settings.as_dict()
    assert [type(record[name]) for name in ("lr", "steps", "scale")] == [float, int, list]
