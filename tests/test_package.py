"""What is published: the files of the wheel, what it needs, and what is said of the version and of Python."""

import ast
import re
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import odis

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
NOT_ALWAYS = {"mlflow": "mlflow-skinny"}  # which test environments need not have
NOT_PYTHON = {
    "py.typed",
    "report/page.css",
    *(f"explorer/page/{p.name}" for p in ROOT.glob("src/odis/explorer/page/*")),
    *(f"recipes/{p.name}" for p in ROOT.glob("src/odis/recipes/*")),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built here by hatchling, without pip."""
    (file,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))
    return zipfile.ZipFile(file)


def test_the_wheel_has_the_package_and_nothing_else(wheel: zipfile.ZipFile):
    about = f"odis-{odis.__version__}.dist-info/"
    names = {name for name in wheel.namelist() if not name.startswith(about)}
    python = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    assert names == python | {f"odis/{name}" for name in NOT_PYTHON}
    assert {name.removeprefix(about) for name in wheel.namelist()} - names >= {"METADATA", "licenses/LICENSE"}
    for name in names:
        assert wheel.read(name) == (ROOT / "src" / name).read_bytes()


def test_the_wheel_has_all_recipes_and_one_command(wheel: zipfile.ZipFile):
    recipes = [name for name in wheel.namelist() if re.fullmatch(r"odis/recipes/[a-z0-9-]+\.yaml", name)]
    assert len(recipes) == len(list((ROOT / "recipes").glob("*.yaml"))) >= 15
    commands = wheel.read(f"odis-{odis.__version__}.dist-info/entry_points.txt").decode()
    assert commands.split() == ["[console_scripts]", "odis", "=", "odis.cli:main"]


def imports(path: Path) -> dict[str, bool]:
    """Packages from elsewhere that a file imports, and whether always: at its top, not for types alone."""
    tree = ast.parse(path.read_text())
    found: dict[str, bool] = {}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        for name in names:
            package = name.split(".")[0]
            if package != "odis" and package not in sys.stdlib_module_names:
                found[package] = found.get(package, False) or node in tree.body
    return found


def makers(made_by: Mapping[str, list[str]], package: str) -> list[str]:
    """Distributions that a package is from; one that need not be installed is from that of its name."""
    return made_by.get(package) or [NOT_ALWAYS.get(package, package)]


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def test_what_is_imported_is_required():
    core = names_of(PROJECT["dependencies"])
    some = ("detect", "tensorboard", "wandb", "mlflow", "trackio", "ray", "export", "explore", "remote")
    some += ("tiff", "geo", "dicom", "heif", "slides")
    extras = names_of([r for name in some for r in PROJECT["optional-dependencies"][name]])
    # A command that is nothing without its extra looks for it before it imports these packages of odis.
    own = {"explorer": names_of(PROJECT["optional-dependencies"]["explore"])}
    made_by = packages_distributions()
    for path in sorted((ROOT / "src").rglob("*.py")):
        for package, always in imports(path).items():
            wanted = {canonicalize_name(name) for name in makers(made_by, package)}
            allowed = core | (own.get(path.parent.name, set()) if always else extras)
            assert wanted & allowed, f"{path}: {package} is no dependency"


def test_what_is_required_is_imported():
    made_by = packages_distributions()
    imported = {package for path in (ROOT / "src").rglob("*.py") for package in imports(path)}
    used = {canonicalize_name(name) for package in imported for name in makers(made_by, package)}
    # jsonargparse reads the help of settings from docstrings with it
    assert names_of(PROJECT["dependencies"]) - {"docstring-parser"} <= used


def test_one_version_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == odis.__version__
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == odis.__version__


def test_the_same_pythons_are_promised_and_tested():
    said = [c.split(" :: ")[-1] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
    assert said == yaml.safe_load(WORKFLOW.read_text())["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={said[0]}"


def test_workflows_may_read_only_and_use_actions_that_cannot_change():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert "permissions" not in job, name
        assert job["timeout-minutes"] <= 45
    uses = re.findall(r"uses: (.*)", WORKFLOW.read_text())
    assert uses
    for action in uses:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
