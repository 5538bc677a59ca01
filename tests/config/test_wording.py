"""What is wrong with an option, in one line: suggestions that help, and words without the parser's own."""

import ast
import itertools
import re
from pathlib import Path

import pytest

from odis.config.options import add_config, new_parser, parse
from odis.config.wording import counted, did_you_mean, suggestions, there_are
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


# --- numbers and their nouns
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "noun", "plural", "said"),
    [
        (0, "image", None, "0 images"),
        (1, "image", None, "1 image"),
        (2000, "image", None, "2,000 images"),
        (2, "class", None, "2 classes"),
        (3, "box", None, "3 boxes"),
        (4, "train patch", None, "4 train patches"),
        (5, "query", None, "5 queries"),
        (6, "key", None, "6 keys"),
        (1, "step in a row was", "steps in a row were", "1 step in a row was"),
        (7, "step in a row was", "steps in a row were", "7 steps in a row were"),
    ],
)
def test_a_number_and_its_noun(number: int, noun: str, plural: str | None, said: str) -> None:
    assert counted(number, noun, plural) == said


def test_there_is_one_and_there_are_several() -> None:
    assert there_are(1, "class") == "there is 1 class"
    assert there_are(2, "class") == "there are 2 classes"


SOURCES = sorted((Path(__file__).resolve().parents[2] / "src").rglob("*.py"))
NOUNS = (
    r"annotations|blocks|boxes|bytes|categories|cells|characters|classes|colours|columns|"
    r"crops|entries|epochs|errors|examples|fields|files|folders|frames|groups|heads|"
    r"images|iterations|keypoints|keys|labels|layers|lines|lists|masks|models|neighbours|"
    r"networks|numbers|objects|parts|patches|phrases|points|queries|ranks|reasons|"
    r"registers|results|rows|runs|samples|scenes|shards|settings|steps|tensors|threads|times|"
    r"tokens|values|views|words|workers"
)
HARD_CODED = re.compile(rf"^ (?:or |and )?((?:[a-z-]+ ){{0,2}}?)({NOUNS})\b")
NOT_BEFORE_A_NOUN = {
    *("all", "and", "are", "as", "attends", "be", "embeds", "feeds", "features", "has", "hold", "holds"),
    *("in", "is", "its", "leaves", "must", "names", "no", "of", "over", "reads", "states", "take", "takes"),
    *("the", "to", "with"),
}
TEXT = {  # what stands before the noun is a word
    "{shape} tokens", "{render} renders views", "{reader.side} images", "{file_list} lists",
    "{split} or annotations", "{layout.kind} object tokens", "{size} objects", "{image.format} files",
    "{ending} files", "{suffix} files", "{'' if wnid else ', a class'} and four numbers",
}  # fmt: skip


def hard_coded(code: str) -> list[str]:
    """Values in f-strings of a module that are followed by a noun in the plural."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += re.findall(rf"(?:\{{\}}|%d|%s) (?:{NOUNS})\b", node.value)
        if not isinstance(node, ast.JoinedStr):
            continue
        before: ast.expr | None = None
        for value, behind in itertools.pairwise(node.values):
            sides = isinstance(before, ast.Constant) and str(before.value).endswith(" x ")  # 4 x 4 patches
            before = value
            if not isinstance(value, ast.FormattedValue) or not isinstance(behind, ast.Constant) or sides:
                continue
            match = HARD_CODED.match(str(behind.value))
            if match is None or NOT_BEFORE_A_NOUN & set(match[1].split()):
                continue
            shown = ast.unparse(value.value)
            decimals = value.format_spec is not None and ast.unparse(value.format_spec) not in ("f''", "f','")
            limit = re.fullmatch(r"(\w+\.)?_?[A-Z][A-Z_0-9]*", shown)
            if value.conversion == -1 and not decimals and not limit:
                found.append(f"{{{shown}}}{match[0]}")
    return found


def test_no_plural_is_hard_coded_after_a_number() -> None:
    assert hard_coded('f"{len(x)} images"') == ["{len(x)} images"]
    assert hard_coded('f"{n:,} more test images"') == ["{n} more test images"]
    assert hard_coded('"{} blocks".format(3)') == ["{} blocks"]
    assert (
        hard_coded("f\"{counted(n, 'image')}, {MOST} images, {a} x {b} patches, {n:.2f} objects a view\"")
        == []
    )
    found = {path: set(hard_coded(path.read_text())) for path in SOURCES}
    assert {str(path): left for path, every in found.items() if (left := every - TEXT)} == {}
    assert set().union(*found.values()) == TEXT


def test_nor_on_the_page_of_the_explorer() -> None:
    pages = sorted((Path(__file__).resolve().parents[2] / "src/odis/explorer/page").glob("*.js"))
    assert len(pages) > 5
    for page in pages:
        assert re.findall(rf"\$\{{(?!counted)[^}}]*\}} (?:{NOUNS})\b", page.read_text()) == [], page.name
