"""The page in a real Chromium: drawn boxes, keys, the address, a phone; no screenshot is compared."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not here: pip install playwright"
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Playwright's own Chromium, or the one of this machine."""
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        found = own if os.path.exists(own) else next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None:
            pytest.skip("no Chromium is here: playwright install chromium")
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(explorer: Any, client: Any, serving: Any) -> Iterator[str]:
    client.embedded()
    with serving(explorer) as (access, _):
        yield access.address


class Shown:
    """A page of the explorer, and what it said on the console."""

    def __init__(self, page: Any, address: str, fragment: str = "") -> None:
        self.page, self.said = page, []
        page.set_default_timeout(90_000)  # of a busy machine
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: self.said.append("a dialog") or dialog.dismiss())
        page.goto(f"{address}{fragment and '#'}{fragment}")
        self.answered(0)

    def answered(self, after: int) -> int:
        """Wait for a newer answer; its number."""
        self.page.wait_for_function(
            "after => Number(document.querySelector('#columns').dataset.ready) > after &&"
            "!document.querySelector('#columns').hasAttribute('aria-busy')", arg=after,
        )  # fmt: skip
        return int(self.page.locator("#columns").get_attribute("data-ready"))

    def number(self) -> int:
        return int(self.page.locator("#columns").get_attribute("data-ready"))

    def does(self, act: Any) -> None:
        """Something that asks, and its answer."""
        before = self.number()
        act()
        self.answered(before)

    def box(self) -> list[float]:
        return [float(field.input_value()) for field in self.page.locator("#fields input").all()]

    def nearest(self, network: int = 0) -> list[tuple[str, str]]:
        buttons = self.page.locator(f"article[data-network='{network}'] .near button").all()
        return [(b.get_attribute("data-row"), b.get_attribute("data-number")) for b in buttons]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the picture, 48 x 40 pixels, is on the page."""
        frame = self.page.locator("#stage canvas").bounding_box()
        return frame["x"] + x / 48 * frame["width"], frame["y"] + y / 40 * frame["height"]

    def drag(self, *points: tuple[float, float]) -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*points[0]))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.at(*point), steps=2)
        mouse.up()

    def state(self) -> dict[str, str]:
        return dict(part.split("=", 1) for part in self.page.url.partition("#")[2].split("&"))


@pytest.fixture
def shown(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page; nothing may be said on the console by the end."""
    opened: list[Shown] = []
    contexts = []

    def show(fragment: str = "", **context: Any) -> Shown:
        contexts.append(browser.new_context(**({"viewport": {"width": 1200, "height": 700}} | context)))
        opened.append(Shown(contexts[-1].new_page(), address, fragment))
        return opened[-1]

    yield show
    for context in contexts:
        context.close()
    said = [line for one in opened for line in one.said]
    assert [line for line in said if not line.startswith("Canvas2D")] == [], "but of what tests read back"


@pytest.mark.parametrize("ratio", [1, 2])
def test_a_box_is_drawn_moved_and_resized_and_the_neighbours_change(shown: Any, ratio: int) -> None:
    page = shown("image=1&networks=0", device_scale_factor=ratio)
    before = page.nearest()
    assert len(before) == 12
    page.does(lambda: page.drag((24, 2), (44, 34)))
    assert page.box() == pytest.approx([24, 2, 44, 34], abs=0.15), "to a seventh of a pixel"
    assert page.nearest() != before
    assert page.state()["box"].count(",") == 3
    page.does(lambda: page.drag((30, 10), (20, 13)))
    assert page.box() == pytest.approx([14, 5, 34, 37], abs=0.3)
    page.does(lambda: page.drag((34, 37), (24, 25)))
    assert page.box() == pytest.approx([14, 5, 24, 25], abs=0.5)
    page.does(lambda: page.page.mouse.click(*page.at(34, 22)))  # the disc
    assert page.state()["object"] == "1"
    assert page.box() == [26, 14, 43, 31]
    corner = page.page.evaluate(
        """() => { const c = document.querySelector('#stage canvas');
          const s = c.width / 48, d = c.getContext('2d');
          const at = (x, y) => [...d.getImageData(x * s, y * s, 1, 1).data.slice(0, 3)];
          return [at(26.04, 21.5), at(20, 36)]; }"""
    )
    assert corner[0] == pytest.approx([0, 200, 255], abs=12), "the outline is at the object's edge"
    assert max(corner[1]) < 60, "what is outside is darkened"


def test_everything_by_keys(shown: Any) -> None:
    page = shown("image=1&object=0&networks=0")
    keys = page.page.keyboard
    page.page.locator("#stage").focus()
    page.does(lambda: keys.press("n"))
    assert page.state()["object"] == "1"
    page.does(lambda: keys.press("ArrowLeft"))
    assert page.box() == [25, 14, 42, 31]
    page.does(lambda: keys.press("Shift+ArrowDown"))
    page.does(lambda: keys.press("-"))
    assert page.box() == [26, 15, 41, 31]
    page.does(lambda: keys.press("w"))
    assert page.state()["whole"] == "1"
    page.page.get_by_role("radio", name="Object or box").focus()
    keys.press("ArrowRight")  # paint
    page.page.locator("#stage").focus()
    page.does(lambda: keys.press("Space"))
    page.does(lambda: keys.press("ArrowRight"))
    assert page.state()["mask"].startswith("48x40.")
    page.page.locator("#thumbs button[data-row='0']").focus()
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    page.does(lambda: keys.press("Enter"))
    assert page.state()["image"] == "2"
    page.page.locator("#class").focus()
    keys.press("ArrowDown")
    assert page.state()["class"] == "0"
    page.page.locator(".near button").first.focus()
    row, number = page.nearest()[0]
    page.does(lambda: keys.press("Enter"))
    assert (page.state()["image"], page.state()["object"]) == (row, number)


def test_the_address_holds_what_is_shown_and_the_back_button_goes_back(shown: Any) -> None:
    page = shown("image=3&object=1&networks=1")
    first, nearest = page.page.url, page.nearest(1)
    assert "token" not in first
    page.does(lambda: page.page.locator("#thumbs button[data-row='5']").click())
    page.does(lambda: page.drag((2, 2), (30, 20)))
    page.does(lambda: page.page.get_by_role("radio", name="Ways to ask").click())
    drawn = page.page.url
    assert re.search(r"#image=5&box=[\d.,]+&view=ways", drawn)
    page.does(lambda: page.page.go_back())
    page.does(lambda: page.page.go_back())
    page.does(lambda: page.page.go_back())
    assert page.page.url == first
    assert page.nearest(1) == nearest
    page.page.goto("about:blank")
    page.page.goto(drawn)
    page.answered(0)
    assert page.page.url == drawn
    assert page.page.locator(".way").count() == 4
    assert page.page.locator(".way canvas").count() == 4


def test_two_networks_layers_and_heads(shown: Any) -> None:
    page = shown("image=1&object=1")
    assert page.page.locator("article").count() == 2
    values = """() => [...document.querySelectorAll('canvas.look')].map((c) => {
      const d = c.getContext('2d'), s = c.width / 48;
      const at = (x, y) => [...d.getImageData(x * s, y * s, 1, 1).data];
      return [at(36, 24), at(4, 36)]; })"""
    mean = page.page.evaluate(values)
    for inside, outside in mean:
        assert inside[0] != inside[2], "attention has colours"
        assert outside[0] == outside[1] == outside[2], "[OBJ] sees its own patches only"
    colours = page.page.evaluate(
        """() => [...document.querySelectorAll('canvas.patches')].map((c) => {
          const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, seen = {};
          for (let k = 0; k < d.length; k += 4) {
            const shade = `${d[k]} ${d[k + 1]} ${d[k + 2]}`;
            seen[shade] = (seen[shade] || 0) + 4 / d.length;
          }
          return Object.values(seen).sort((a, b) => b - a).slice(0, 30).reduce((a, b) => a + b); })"""
    )
    assert len(colours) == 2
    assert min(colours) > 0.9, "but for the outline, a colour a patch of 8 pixels: nothing is smoothed"
    page.page.select_option("#layer", "1")
    assert page.state()["layer"] == "1"
    assert page.page.evaluate(values) != mean
    page.page.select_option("#head", "every")
    page.page.select_option("#layer", "every")
    assert page.page.locator("canvas.look").count() == 2 * 3 * 2
    page.does(lambda: page.page.locator("#networks button").nth(0).click())
    assert page.state()["networks"] == "1"
    assert page.page.locator("article").count() == 1


def test_names_are_text_wherever_they_are_shown(shown: Any, client: Any) -> None:
    page = shown("image=0&object=0&class=0&networks=0")
    page.page.wait_for_selector("#thumbs button[data-row='0'] img[alt*='onerror']")
    assert page.page.title() == "scenes.parquet · odis explore"
    assert client.CLASSES[0] in page.page.locator("#class").inner_text()
    assert page.page.locator("#objects button").first.inner_text() == client.CLASSES[0]
    assert page.page.locator("body script, img[onerror]").count() == 0


def test_a_picture_of_ones_own_and_one_that_is_none(shown: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(tmp_path / "mine.png")
    (tmp_path / "evil.png").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    page = shown("image=1&networks=0")
    page.does(lambda: page.page.set_input_files("#file", tmp_path / "mine.png"))
    assert re.fullmatch("[0-9a-f]{16}", page.state()["upload"])
    page.does(lambda: page.drag((5, 5), (20, 20)))
    assert len(page.nearest()) == 12
    page.page.set_input_files("#file", tmp_path / "evil.png")
    page.page.wait_for_selector("#said.note:has-text('not a picture')")
    assert page.said.pop().startswith("Failed to load resource"), "Chromium says so itself"
    page.page.goto(page.page.url.split("#")[0] + "#upload=0123456789abcdef")
    page.page.wait_for_selector("#said.note:has-text('not here any more')")
    assert page.said.pop().startswith("Failed to load resource")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_cut_off(shown: Any, scheme: str) -> None:
    page = shown("image=1", viewport={"width": 390, "height": 800}, color_scheme=scheme, has_touch=True)
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390
    paper = page.page.evaluate("getComputedStyle(document.querySelector('#question')).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    for name in ("#thumbs button", "#stage canvas", "#fields input", "article canvas", ".near button"):
        frame = page.page.locator(name).first.bounding_box()
        assert frame["width"] > 24
        assert frame["x"] >= 0
        assert frame["x"] + frame["width"] <= 390
    page.does(lambda: page.page.touchscreen.tap(*page.at(11, 12)))
    assert page.state()["object"] in ("0", "1")
    page.page.get_by_role("radio", name="Ways to ask").click()
    page.page.wait_for_selector(".way >> nth=7")
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390
    unnamed = page.page.locator(
        "img:not([alt]), canvas[role=img]:not([aria-label]), button:not([role]):empty"
    )
    assert unnamed.count() == 0
