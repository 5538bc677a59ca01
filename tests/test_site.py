"""The documentation as a site: it builds without a warning, every page is reachable, and nothing in it is
fetched from elsewhere.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import odis
from odis.config.recipes import recipe_names

pytest.importorskip("sphinx")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", out / "trees", "-b", "html"]
    done = subprocess.run([*command, ROOT / "docs", out / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "html"


def pages(site: Path) -> dict[str, str]:
    """Every page that was made of a Markdown file, by its path."""
    sources = (ROOT / "docs").rglob("*.md")
    names = [path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in sources]
    return {name: (site / name).read_text() for name in names}


def test_every_page_is_reached_from_the_first(site: Path):
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.is_file():
            reached.add(page)
            links = re.findall(r'<a [^>]*href="([^":#]+\.html)', page.read_text())
            waiting += [(page.parent / link).resolve() for link in links]
    assert {site / name for name in pages(site)} <= reached


def test_nothing_is_fetched_from_elsewhere(site: Path):
    loads = re.compile(
        r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["'](?:https?:)?//[^"']*"""
        r"""|<link\b(?![^>]*rel=["']canonical)[^>]*\bhref=["'](?:https?:)?//[^"']*"""
        r"""|url\(\s*["']?(?:https?:)?//[^)]*|@import\s+["'](?:https?:)?//"""
    )
    assert loads.search('<script src="https://cdn.example/x.js"></script>')
    assert loads.search("a { background: url(//cdn.example/x.png) }")
    files = [p for p in site.rglob("*") if p.suffix in {".html", ".css"}]
    assert len(files) > 20
    for path in files:
        assert not (found := loads.search(path.read_text())), f"{path.relative_to(site)}: {found[0]}"


def test_the_reference_has_all_that_is_public(site: Path):
    made = pages(site)
    for name in odis.__all__:
        if name != "__version__":
            home = getattr(odis, name)
            anchors = f'id="odis.{name}"', f'id="{home.__module__}.{name}"'
            assert any(anchor in made["reference/api.html"] for anchor in anchors), name
    for recipe in recipe_names():
        assert f'<section id="{recipe}">' in made["reference/recipes.html"]
    assert "generated:" not in made["reference/settings.html"] + made["reference/recipes.html"]
    assert 'id="confval-views.global_size"' in made["reference/settings.html"]
