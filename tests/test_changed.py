"""Which tests `make fast` runs."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("changed.py")


def load():
    spec = importlib.util.spec_from_file_location("odis_changed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


changed = load()


def write(root: Path, *paths: str, text: str = "") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(
        tmp_path,
        "src/odis/data/views.py",
        "src/odis/data/gone.py",
        "src/odis/cli.py",
        "src/odis/data/__init__.py",
    )
    write(tmp_path, "tests/data/test_views.py", "tests/data/test_views_masks.py", "tests/data/test_viewer.py")
    write(tmp_path, "tests/test_cli.py", "tests/test_house.py", "tests/data/conftest.py", "tests/conftest.py")
    write(tmp_path, "tests/other/test_one.py", text="from odis.data.lonely import f\n")
    write(tmp_path, "tests/other/test_two.py", text="from odis.data import lonely\n")
    write(tmp_path, "tests/other/test_three.py", text="import odis.data\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "tests"),
    [
        ("src/odis/data/views.py", ["tests/data/test_views.py", "tests/data/test_views_masks.py"]),
        ("src/odis/cli.py", ["tests/test_cli.py"]),
        ("src/odis/data/lonely.py", ["tests/other/test_one.py", "tests/other/test_two.py"]),
        ("src/odis/data/__init__.py", ["tests/other/test_three.py", "tests/other/test_two.py"]),
        ("src/odis/data/nobody.py", []),
        ("src/odis/recipes/debug.yaml", ["tests/test_recipes.py"]),
        ("tests/data/test_viewer.py", ["tests/data/test_viewer.py"]),
        ("tests/data/test_deleted.py", []),
        ("tests/data/conftest.py", ["tests/data/"]),
        ("tests/conftest.py", []),
        ("tests/golden/losses.json", ["tests/train/test_golden.py"]),
        ("benchmarks/step.py", ["tests/test_benchmarks.py"]),
        ("benchmarks/evidence/run.py", ["tests/evidence/"]),
        ("LICENSE", []),
    ],
)
def test_a_file_has_its_tests(tree: Path, path: str, tests: list[str]):
    assert changed.tests_of(tree, path) == tests


def test_every_rule_names_tests_that_exist():
    for tests in changed.OTHERS.values():
        for test in [*tests, changed.ALWAYS]:
            assert (SCRIPT.parents[1] / test).exists(), test


def test_each_test_is_named_once_and_the_house_first(tree: Path):
    paths = ["src/odis/data/views.py", "tests/data/test_views.py", "tests/test_house.py"]
    assert changed.tests_of_all(tree, paths) == [
        "tests/test_house.py",
        "tests/data/test_views.py",
        "tests/data/test_views_masks.py",
    ]


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def repository(tree: Path) -> Path:
    """Two commits on main, the second of them to cli.py; the script itself is not followed."""
    write(tree, "tests/changed.py", text=SCRIPT.read_text())
    write(tree, ".gitignore", text="/tests/changed.py\n")
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "first")
    write(tree, "src/odis/cli.py", text="a = 1\n")
    git(tree, "commit", "-qam", "second")
    return tree


def run(root: Path, *arguments: str) -> list[str]:
    command = [sys.executable, root / "tests" / "changed.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1:]


CLI, VIEWS = ["tests/test_cli.py"], ["tests/data/test_views.py", "tests/data/test_views_masks.py"]


def test_on_main_the_last_commit_and_what_is_not_committed(repository: Path):
    assert run(repository) == CLI
    write(repository, "src/odis/data/views.py", text="a = 1\n")
    assert run(repository) == CLI + VIEWS
    write(repository, "tests/data/test_new.py")
    assert run(repository) == [*CLI, *VIEWS, "tests/data/test_new.py"]


def test_on_a_branch_all_since_it_left_main(repository: Path):
    git(repository, "switch", "-qc", "topic")
    write(repository, "src/odis/data/views.py", text="a = 1\n")
    git(repository, "commit", "-qam", "views")
    write(repository, "README.md", text="new")
    git(repository, "add", "README.md")
    git(repository, "commit", "-qam", "readme")
    git(repository, "switch", "-q", "main")
    write(repository, "tests/data/test_viewer.py", text="a = 1\n")
    git(repository, "commit", "-qam", "of others")
    git(repository, "switch", "-q", "topic")
    assert run(repository) == ["tests/test_docs.py", *VIEWS]


def test_since_a_commit_that_is_named(repository: Path):
    assert run(repository, "HEAD") == []
    assert run(repository, "HEAD~1") == CLI
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(repository, "nowhere")
    assert error.value.stderr == "changed.py: nowhere: is no commit\n"
