"""Query and read settings: what they refuse."""

import pytest

from odis.config.query import MODES, QueryConfig, ReadConfig
from odis.errors import OdisError


def test_the_mode_is_the_only_one():
    assert QueryConfig().mode == "masked-attention"
    assert QueryConfig(modes=["crop"]).mode == "crop"
    for modes in ([], ["crop", "blackout"]):
        with pytest.raises(OdisError, match="must be one of masked-attention, crop"):
            _ = QueryConfig(modes=modes).mode


def test_only_keeps_all_but_a_context_that_does_not_go_with_the_mode():
    both = QueryConfig(modes=MODES, size=64, context=2.0)
    assert both.only("masked-attention") == QueryConfig(("masked-attention",), size=64, context=2.0)
    assert both.only("crop") == QueryConfig(("crop",), size=64)


def test_the_unit_is_what_a_feature_stands_for():
    assert (QueryConfig().unit, QueryConfig(images=True).unit) == ("objects", "images")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (QueryConfig(modes=()), "mode must be some of masked-attention, crop"),
        (QueryConfig(modes=("crops",)), "mode 'crops' is none of masked-attention"),
        (QueryConfig(modes=("crop",), context=2.0), "context 2 goes with mode masked-attention"),
        (QueryConfig(images=True, context=2.0), "context 2 is a window around an object"),
        (QueryConfig(context=0.5), "context 0.5 must be 1 or more"),
        (QueryConfig(context=float("inf")), "context inf must be 1 or more"),
        (QueryConfig(context=float("nan")), "context nan must be 1 or more"),
        (ReadConfig(batch_size=0), "batch-size 0 must be 1 or more"),
        (ReadConfig(workers=-1), "workers -1 must be 0 or more"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings: QueryConfig | ReadConfig, message: str):
    with pytest.raises(OdisError, match=message) as refusal:
        settings.check()
    assert "\n" not in str(refusal.value)


def test_what_can_be_passes():
    QueryConfig(modes=MODES, size=64, context=1.0).check()
    QueryConfig(modes=("whole-image",), images=True).check()
    ReadConfig(batch_size=1, workers=0).check()
