"""What is wrong with an option, in one line: suggestions that help, and words without the parser's own."""

import pytest

from odis.config.options import add_config, new_parser, parse
from odis.config.wording import did_you_mean, suggestions
from odis.errors import ConfigError

PARSER = new_parser("pretrain", "")
add_config(PARSER)
OPTIONS = [option for action in PARSER._actions for option in action.option_strings]
KNOWN = [option for option in OPTIONS if not option.endswith("+")]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--lr", ["--optim.base_lr", "--optim.min_lr"]),
        ("--optim.lr", ["--optim.base_lr", "--optim.min_lr"]),
        ("--train.lr", ["--optim.base_lr", "--optim.min_lr"]),
        ("--lr_min", ["--optim.min_lr"]),
        ("--epochs", ["--train.epochs"]),
        ("--steps", ["--train.steps"]),
        ("--workers", ["--loader.workers"]),
        ("--train.workers", ["--loader.workers"]),
        ("--device", ["--train.device"]),
        ("--batch-size", ["--discover.batch_size", "--train.batch_size"]),
        ("--train.batchsize", ["--train.batch_size"]),
        ("--views.global_sizze", ["--views.global_size"]),
        ("--view.global_size", ["--views.global_size"]),
        ("--recepe", ["--recipe"]),
        ("--Data", ["--data"]),
        ("--momentum", ["--loss.center_momentum", "--optim.momentum_teacher"]),
        ("--prototypes", ["--head.prototypes"]),
        ("--xyzzy", []),
        ("--", []),
    ],
)
def test_what_is_meant(word: str, meant: list[str]) -> None:
    assert suggestions(word, KNOWN) == meant


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("--model", ["--help", "--out", "--with"], ""),
        ("--count", ["--out", "--classes"], ""),
        ("vews", ["views", "train"], " (did you mean views?)"),
        ("pretain", ["pretrain", "index"], " (did you mean pretrain?)"),
        ("cocoa", ["coco", "voc"], " (did you mean coco?)"),
    ],
)
def test_nothing_far_is_offered(word: str, known: list[str], meant: str) -> None:
    assert did_you_mean(word, known) == meant


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--train", "3"],
            "--train 3: is a group of settings, set one by one: --train.epochs, ",
        ),
        (["--views", "x.yaml"], "--views x.yaml: is a group of settings"),
        (["--strict=x"], "--strict: takes no value, got 'x'"),
        (["--lr", "1"], "--lr: no such option (did you mean --optim.base_lr or --optim.min_lr?); --help"),
        (["stray"], "unrecognized arguments: stray; options begin with --"),
    ],
)
def test_mistakes_in_one_line(arguments: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse(PARSER, arguments)
    line = str(refusal.value)
    assert line.startswith(says)
    assert "\n" not in line
    assert not any(word in line for word in ("Unable to load", "Parser key", "lambda", "<class"))
