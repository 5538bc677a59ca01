"""Query and read settings: what they refuse, and that nothing declares them again."""

import ast
import dataclasses
from pathlib import Path

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


def test_only_keeps_how_wide_masks_are_with_modes_that_have_some():
    wide = QueryConfig(modes=MODES, mask_coverage=1.0, mask_margin=2)
    for mode in MODES:
        kept = (1.0, 2) if mode in ("masked-attention", "mean-pool") else (None, None)
        only = wide.only(mode)
        assert (only.mask_coverage, only.mask_margin) == kept
        only.check()


def test_widths_of_masks_are_those_that_are_set_and_else_the_models():
    assert QueryConfig().widths(0.3, 1) == (0.3, 1)
    assert QueryConfig(mask_coverage=0.0).widths(0.3, 1) == (0.0, 1)
    assert QueryConfig(mask_coverage=1.0, mask_margin=0).widths(0.3, 1) == (1.0, 0)


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
        (QueryConfig(readout="mean"), "readout 'mean' is none of obj, cls, both"),
        (QueryConfig(context=float("inf")), "context inf must be 1 or more"),
        (QueryConfig(context=float("nan")), "context nan must be 1 or more"),
        (QueryConfig(mask_coverage=1.5), "mask-coverage 1.5 must be between 0 and 1"),
        (QueryConfig(mask_coverage=float("nan")), "mask-coverage nan must be between 0 and 1"),
        (QueryConfig(mask_margin=-1), "mask-margin -1 must be 0 or more"),
        (
            QueryConfig(modes=("crop", "blackout"), mask_margin=1),
            "mask-margin 1 goes with modes masked-attention and mean-pool, which are not among crop, bl",
        ),
        (QueryConfig(modes=("crop",), mask_coverage=0.0), "mask-coverage 0 goes with modes masked-attention"),
        (QueryConfig(images=True, mask_coverage=1.0), "mask-coverage 1 is of the patches of an object"),
        (ReadConfig(batch_size=0), "batch-size 0 must be 1 or more"),
        (ReadConfig(workers=-1), "workers -1 must be 0 or more"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings: QueryConfig | ReadConfig, message: str):
    with pytest.raises(OdisError, match=message) as refusal:
        settings.check()
    assert "\n" not in str(refusal.value)


def test_what_can_be_passes():
    QueryConfig(modes=MODES, size=64, context=1.0, mask_coverage=0.0, mask_margin=0).check()
    QueryConfig(modes=("whole-image",), images=True).check()
    ReadConfig(batch_size=1, workers=0).check()


SOURCES = Path(__file__).resolve().parents[2] / "src" / "odis"
DECLARED = [one for config in (QueryConfig, ReadConfig) for one in dataclasses.fields(config)]
OPTIONS = {f"--{one.metadata.get('option', one.name)}".replace("_", "-") for one in DECLARED}
FIELDS = {one.name for one in DECLARED} | {"mode"}

# Options of the same name that mean something else.
OTHER_OPTIONS = {
    "commands/report.py": {"--images"},  # how many are shown
    "commands/inspect.py": {"--images"},
    "commands/index/sample.py": {"--images"},
    "commands/scenes.py": {"--size", "--context"},  # of the scenes that are drawn
    "commands/objects/engine.py": {"--workers"},  # of Ray
    "commands/index/read.py": {"--strict", "--images"},  # no network reads these files; where images are
    "config/options.py": {"--strict"},  # of a training run
}
# Fields of the same name that are no settings: what a model is, what a file says, how large a picture is.
OTHER_FIELDS = {
    "QueryBuilder": {"mode", "size", "context", "readout"},  # resolved for one model
    "Encoder": {"precision", "mask_coverage", "mask_margin"},
    "IndexFeatures": {"images"},
    "Landmarks": {"images"},
    "ResultRow": {"mode", "size", "precision"},
    "CloseUp": {"size"},
    "KnnImagenetSettings": {"readout"},  # several
    "LandmarkSettings": {"readout"},  # cls, or with the mean of patches
    "MapFolders": {"images"},
    "SegmentedImages": {"images"},
    "Asked": {"modes", "size"},  # resolved for one model
    "PartFeatures": {"images"},
    "PixelLabels": {"images"},
    "StoredMeasure": {"mode"},
    # Of protocols, which set the query themselves; each has a size of its own.
    "Ade20kSettings": {"size"},
    "FoundSettings": {"size"},
    "HummingbirdSettings": {"size"},
    "SegmentedSettings": {"size"},
    "SegmentedRows": {"images"},
    "Propagation": {"context"},  # frames
}


def test_no_option_of_these_settings_is_declared_anywhere_else():
    found = {}
    for path in SOURCES.rglob("*.py"):
        names = {
            str(argument.value)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "add_argument"
            for argument in node.args
            if isinstance(argument, ast.Constant)
        }
        if again := names & OPTIONS:
            found[path.relative_to(SOURCES).as_posix()] = again
    assert found == OTHER_OPTIONS


def test_no_dataclass_of_inference_evaluation_or_report_declares_these_fields_again():
    found = {}
    for package in ("inference", "evaluation", "report", "commands"):
        for path in (SOURCES / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.ClassDef):
                    continue
                if not any("dataclass" in ast.unparse(one) for one in node.decorator_list):
                    continue
                names = {ast.unparse(item.target) for item in node.body if isinstance(item, ast.AnnAssign)}
                if again := names & FIELDS:
                    found[node.name] = again
    assert found == OTHER_FIELDS
