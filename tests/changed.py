"""Prints the tests of what changed: `make fast` runs them.

    python tests/changed.py [BASE]

BASE is a commit; by default where the branch left main, and on main the last commit. What is not committed
counts as changed. A source file has its tests under the same path in `tests/`; one that has none there has
those that import it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = "tests/test_house.py"
# What is no Python file of src/, by how its path begins.
OTHERS = {
    "src/odis/recipes/": ["tests/test_recipes.py"],
    "src/odis/report/page.css": ["tests/report/test_page.py"],
    "docs/": ["tests/test_docs.py"],
    "README.md": ["tests/test_docs.py"],
    "CONTRIBUTING.md": ["tests/test_docs.py"],
    "CHANGELOG.md": ["tests/test_package.py"],
    "CITATION.cff": ["tests/test_package.py"],
    "pyproject.toml": ["tests/test_package.py"],
    ".github/": ["tests/test_package.py"],
    "benchmarks/evidence/": ["tests/evidence/"],
    "benchmarks/": ["tests/test_benchmarks.py"],
    "tests/golden/": ["tests/train/test_golden.py"],
    "tests/changed.py": ["tests/test_changed.py"],
}


def git(root: Path, *arguments: str) -> list[str]:
    """The lines that git answers; none if it cannot."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed(root: Path, base: str | None = None) -> list[str]:
    """Paths of files that differ from the base, and of those that git does not know yet."""
    if base is None:
        head = git(root, "rev-parse", "HEAD")
        left = git(root, "merge-base", "HEAD", "main")
        base = left[0] if left and left != head else "HEAD~1"
    elif not git(root, "rev-parse", "--verify", "-q", f"{base}^{{commit}}"):
        raise SystemExit(f"changed.py: {base}: is no commit")
    new = git(root, "ls-files", "--others", "--exclude-standard")
    return sorted({*git(root, "diff", "--name-only", base, "--"), *new})


def imported(path: Path) -> set[str]:
    """Modules that a test file imports by name, `odis.a.b` for `from odis.a import b` too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def tests_of(root: Path, path: str) -> list[str]:
    """Test files (or folders of them) of one changed file; an empty list if it has none."""
    file = root / path
    if path.startswith("tests/") and file.name.startswith("test_"):
        return [path] if file.exists() else []
    if path.startswith("tests/") and file.name == "conftest.py" and file.parent.name != "tests":
        return [f"{file.parent.relative_to(root)}/"]
    if path.startswith("src/odis/") and file.suffix == ".py":
        inner = Path(path).relative_to("src/odis")
        folder = root / "tests" / inner.parent
        mirrors = {*folder.glob(f"test_{inner.stem}.py"), *folder.glob(f"test_{inner.stem}_*.py")}
        if not mirrors:
            parts = inner.with_suffix("").parts
            module = ".".join(["odis", *(parts[:-1] if parts[-1] == "__init__" else parts)])
            mirrors = {t for t in (root / "tests").rglob("test_*.py") if module in imported(t)}
        return sorted(str(t.relative_to(root)) for t in mirrors)
    return next((tests for start, tests in OTHERS.items() if path.startswith(start)), [])


def tests_of_all(root: Path, paths: Iterable[str]) -> list[str]:
    """Each test once, the rules of the house first."""
    found = {test: None for path in paths for test in tests_of(root, path)}
    return [ALWAYS, *(test for test in found if test != ALWAYS)]


if __name__ == "__main__":
    print(*tests_of_all(ROOT, changed(ROOT, *sys.argv[1:2])))
