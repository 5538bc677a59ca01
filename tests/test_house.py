"""Rules of the house: imports point one way, files stay short, every setting is read, nothing heavy is
imported before it is needed.
"""

import ast
import dataclasses
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from odis.config.training import PretrainConfig

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ALL_PYTHON = sorted(p for folder in ("src", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))

# Parts of odis, lowest first. A part may import those of its own row and of the rows above it; nothing points
# back.
LAYERS = [
    {"errors", "types"},
    {"config", "machine"},
    {"kernels"},
    {"method"},
    {"backbones"},
    {"objects"},
    {"data"},
    {"inference"},
    {"finding"},
    {"train"},
    {"evaluation"},
    {"report", "benchmark", "pictures"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}


def module_name(path: Path) -> str:
    """`odis.data.geometry.crops` for src/odis/data/crops.py, `odis.data` for its __init__."""
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(module: str) -> str:
    """The part of odis a module belongs to: `data` for `odis.data.geometry.crops`; empty for `odis`
    itself.
    """
    return module.split(".")[1] if "." in module else ""


MODULES = {module_name(p) for p in SOURCES}


def imported(path: Path, *, of_types_too: bool = True) -> set[str]:
    """Modules of odis that a file imports, anywhere in it; without those under TYPE_CHECKING if asked."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    if not of_types_too:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.If)
                and isinstance(node.test, ast.Name)
                and node.test.id == "TYPE_CHECKING"
            ):
                skipped.update(ast.walk(node))
    names = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in MODULES else str(node.module))
    return {n for n in names if n == "odis" or n.startswith("odis.")}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_one_way(path: Path):
    here = part(module_name(path))
    if not here:
        assert imported(path) == set(), "`import odis` imports nothing"
        return
    assert here in LAYER, f"{here} has no place yet: give it one in LAYERS"
    above = {m for m in imported(path) if part(m) and LAYER[part(m)] > LAYER[here]}
    assert not above, f"{module_name(path)} must not import {above}"


def test_parts_import_each_other_in_no_circle():
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        here = part(module_name(path))
        graph.setdefault(here, set()).update(
            {part(m) for m in imported(path, of_types_too=False)} - {here, ""}
        )
    list(graphlib.TopologicalSorter(graph).static_order())


def test_modules_import_each_other_in_no_circle():
    graph = {module_name(p): imported(p, of_types_too=False) - {"odis", module_name(p)} for p in SOURCES}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", ALL_PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_long(path: Path):
    assert len(path.read_text().splitlines()) <= (470 if "src" in path.parts else 540)


def test_no_file_is_a_place_for_anything():
    for path in ALL_PYTHON:
        assert path.stem not in {"utils", "util", "common", "misc", "helpers"}, path


@pytest.mark.parametrize("path", [p for p in SOURCES if p.read_text().strip()], ids=module_name)
def test_every_module_and_public_function_says_what_it_is(path: Path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def reads(tree: ast.AST, section: str, field: str) -> bool:
    """Whether the code reads `<section>.field`, `<...>.config.field`, or names the field where it uses
    `getattr`.
    """
    uses_getattr = any(isinstance(n, ast.Name) and n.id == "getattr" for n in ast.walk(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == field and isinstance(node.ctx, ast.Load):
            owner = node.value
            name = (
                owner.attr
                if isinstance(owner, ast.Attribute)
                else owner.id
                if isinstance(owner, ast.Name)
                else ""
            )
            if name in {section, "config"}:
                return True
        if isinstance(node, ast.Constant) and node.value == field and uses_getattr:
            return True
    return False


SETTINGS = [
    (section.name, field.name)
    for section in dataclasses.fields(PretrainConfig)
    for field in (
        dataclasses.fields(section.default_factory)
        if dataclasses.is_dataclass(section.default_factory)
        else ()
    )
] + [("config", name) for name in ("data", "val", "strict")]


def test_every_setting_is_read():
    trees = [ast.parse(p.read_text()) for p in SOURCES if "config" not in p.parts]
    unread = [
        f"{section}.{field}"
        for section, field in SETTINGS
        if not any(reads(tree, section, field) for tree in trees)
    ]
    assert unread == []


def test_no_path_of_one_machine_is_written_down():
    somewhere = re.compile(
        r"(?<![\w.~])/(?:"
        + "|".join(["wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers", "t" + "mp"])
        + r")/"
    )
    files = [
        *ALL_PYTHON,
        *ROOT.glob("*.md"),
        *ROOT.glob("*.toml"),
        ROOT / "Makefile",
        *(ROOT / "src").rglob("*.yaml"),
    ]
    for path in files:
        found = [line for line in path.read_text().splitlines() if somewhere.search(line)]
        assert not found, f"{path}: {found[0].strip()}"


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after running `code`."""
    report = f"import sys\n{code}\nprint('MODULES', *{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


HEAVY = {"torch", "torchvision", "timm", "pyarrow", "matplotlib", "sklearn", "lightly", "transformers", "ray"}


@pytest.mark.parametrize(
    "code",
    [
        "import odis",
        "from odis.cli import main; main(['--help'])",
        "from odis.cli import main; main(['--version'])",
        "from odis.config.options import load_recipe; load_recipe('debug')",
        "from odis.cli import main\ntry: main(['pretrain', '--help'])\nexcept SystemExit: pass",
        "from odis.cli import main\ntry: main(['pretrain', '--nonsense'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str):
    loaded = modules_after(code)
    assert "odis" in loaded
    assert not loaded & HEAVY
