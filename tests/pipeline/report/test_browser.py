"""The page in a real browser, opened from disk: Debian's chromium by Playwright, accessibility by axe-core."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from ie_model.spec import Kind
from pipeline.results.gallery_file import read_gallery
from pipeline.stages.report import report
from tests.helpers.run_results import HOSTILE, make_results
from tests.helpers.tiny import KINDS

pytestmark = pytest.mark.slow

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found is not None, "these tests need a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    """A page per kind of data, its classes with hostile names."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        found[kind] = report(make_results(folder, kind, HOSTILE), folder, lambda line: None) / "index.html"
    return found


@dataclass
class Opened:
    """A page with all that it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def open_page(browser: Browser, path: Path, **context: Any) -> Opened:
    """Waits until everything is drawn. A request for anything but the file itself fails."""
    page = browser.new_context(**{"viewport": DESKTOP, **context}).new_page()
    opened = Opened(page)

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            opened.said.append(message.text)

    def refuse(route: Route) -> None:
        if route.request.url == path.as_uri():
            route.continue_()
        else:
            opened.asked.append(route.request.url)
            route.abort()

    page.on("console", hear)
    page.on("pageerror", lambda error: opened.said.append(str(error)))
    page.on("dialog", lambda dialog: opened.said.append(dialog.message))
    page.route(re.compile("^(?!data:)"), refuse)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached")
    return opened


def shown_point(page: Page) -> str:
    return page.locator("#detail-title").inner_text()


def place_of(page: Page, name: str, row: int) -> tuple[float, float]:
    """Scrolls to a map: where a point of it is on the screen."""
    page.locator(f"#map-{name}").scroll_into_view_if_needed()
    return where_on_screen(page, name, row)


def where_on_screen(page: Page, name: str, row: int) -> tuple[float, float]:
    x, y = page.evaluate(
        """([name, row]) => {
            const box = document.querySelectorAll(`#map-${name} path`)[row].getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2];
        }""",
        [name, row],
    )
    return x, y


def colour_at(page: Page, x: float, y: float) -> tuple[int, ...]:
    """The colour of a pixel of the screen, RGB."""
    with Image.open(io.BytesIO(page.screenshot())) as opened:
        found = opened.convert("RGB").getpixel((round(x), round(y)))
    assert isinstance(found, tuple)
    return found


def keys_of(page: Page) -> list[str]:
    found: list[str] = page.evaluate("JSON.parse(document.getElementById('data-json').textContent).keys")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_opens_from_disk_without_an_error_and_asks_for_nothing(
    browser: Browser, pages: dict[Kind, Path], kind: Kind
) -> None:
    opened = open_page(browser, pages[kind])
    assert opened.said == []
    assert opened.asked == []
    assert opened.page.locator(".chart svg:has(path)").count() == opened.page.locator(".chart").count() >= 6
    for grid in ("first", "swap", "traversal", "interpolation", "samples"):
        assert opened.page.locator(f"#grid-{grid} .cell").count() >= 9, grid


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_names_and_texts_are_inert_and_readable(browser: Browser, pages: dict[Kind, Path], kind: Kind) -> None:
    page = open_page(browser, pages[kind]).page
    page.locator("#map-r").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate("window.ran") is None
    assert page.locator("main img, main script").count() == 0
    for name in HOSTILE:
        assert page.get_by_text(name, exact=True).count() > 3
    if kind == "counts":
        assert re.fullmatch(r"word<\d>", page.locator("#detail .cell li").first.inner_text())


def test_the_policy_stops_a_script_that_a_name_might_bring(browser: Browser, pages: dict[Kind, Path]) -> None:
    opened = open_page(browser, pages["image"])
    opened.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=window.ran=1>')")
    opened.page.wait_for_timeout(200)
    assert opened.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in line for line in opened.said)


@pytest.mark.parametrize("name", ["r", "v"])
def test_pointing_at_a_point_shows_it_and_a_click_selects_it(
    browser: Browser, pages: dict[Kind, Path], name: str
) -> None:
    page = open_page(browser, pages["image"]).page
    key = keys_of(page)[9]
    x, y = place_of(page, name, 9)
    expect(page.locator("#tip")).to_be_hidden()
    red, green, blue = colour_at(page, x, y)
    assert max(red, green, blue) - min(red, green, blue) > 60, "a coloured mark is there"
    page.mouse.move(x, y)
    expect(page.locator("#tip canvas.cell")).to_be_visible()
    page.mouse.click(x, y)
    assert shown_point(page) == key
    detail = page.locator("#detail")
    expect(detail.get_by_text("reconstruction", exact=True)).to_be_visible()
    assert detail.locator(".strip").nth(0).locator("canvas").count() == 3, "a swap per class"
    assert [detail.locator(".strip").nth(n).locator("button").count() for n in (1, 2)] == [6, 6]
    page.mouse.move(2, 2)
    expect(page.locator("#tip")).to_be_hidden()


def test_the_picture_of_a_point_is_the_example_of_the_gallery(browser: Browser, pages: dict[Kind, Path]) -> None:
    page = open_page(browser, pages["image"]).page
    project = pages["image"].parent.parent.parent
    gallery = read_gallery(project / "results/evaluate/gallery.safetensors")
    page.select_option("#pick", "5")
    pixels = page.evaluate(
        """() => [...document.querySelectorAll("#detail canvas")].slice(0, 5).map((canvas) => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return [...data].filter((_, i) => i % 4 === 0);
        })"""
    )
    arrays = gallery.arrays
    expected = [arrays["x"][5], arrays["reconstruction"][5], *arrays["swap"][5]]
    for found, example in zip(pixels, expected, strict=True):
        np.testing.assert_array_equal(np.array(found).reshape(example.shape), example)


def test_points_are_reached_selected_and_followed_by_keyboard_alone(browser: Browser, pages: dict[Kind, Path]) -> None:
    page = open_page(browser, pages["image"]).page
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "map-r":
            break
    else:
        pytest.fail("the map is not reached by Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tip")).to_be_visible()
    seen = set()
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        seen.add(page.locator("#said").inner_text())
    assert len(seen) > 2, "arrows move, and each point is said"
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    selected = shown_point(page)
    assert selected == keys_of(page)[29]
    assert selected in page.locator("#said").inner_text()
    assert page.evaluate("document.activeElement.id") == "detail"
    page.locator("#detail button.example").first.focus()
    page.keyboard.press("Enter")
    assert shown_point(page) != selected
    assert page.evaluate("document.activeElement.id") == "detail"
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "map-r", "the reader is back where the point was selected"


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("row", [0, 15, 29])
def test_detail_of_a_point_is_on_the_screen_beside_it(
    browser: Browser, pages: dict[Kind, Path], viewport: dict[str, int], row: int
) -> None:
    page = open_page(browser, pages["image"], viewport=viewport).page
    for name in ("r", "v"):
        page.mouse.click(*place_of(page, name, row))
        assert shown_point(page) == keys_of(page)[row]
        x, y = where_on_screen(page, name, row)
        box = page.locator("#detail").bounding_box()
        assert box is not None
        assert box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"]
        assert box["y"] >= 0 and box["y"] + box["height"] <= viewport["height"] + 1
        across = max(box["x"] - x, x - box["x"] - box["width"], 0)
        along = max(box["y"] - y, y - box["y"] - box["height"], 0)
        assert 8 < max(across, along) < 40, "near the point, and not over it"
        page.get_by_role("button", name="Close").click()
        expect(page.locator("#detail")).to_be_hidden()


def test_a_map_is_zoomed_around_the_selected_point_by_button_and_by_key(
    browser: Browser, pages: dict[Kind, Path]
) -> None:
    page = open_page(browser, pages["image"]).page

    def gap() -> float:
        (ax, ay), (bx, by) = (place_of(page, "r", row) for row in (0, 1))
        return float(np.hypot(ax - bx, ay - by))

    whole = gap()
    page.get_by_label("Zoom in on r", exact=True).click()
    assert gap() == pytest.approx(2 * whole, rel=0.02)
    page.locator("#map-r").focus()
    page.keyboard.press("+")
    assert gap() == pytest.approx(4 * whole, rel=0.02)
    page.keyboard.press("0")
    assert gap() == pytest.approx(whole, rel=0.02)
    for _ in range(3):
        page.keyboard.press("+")
    page.keyboard.press("End")
    box = page.locator("#map-r").bounding_box()
    assert box is not None
    x, y = place_of(page, "r", 29)
    assert box["x"] < x < box["x"] + box["width"], "the point that the keyboard goes to is brought into view"
    assert box["y"] < y < box["y"] + box["height"]


def test_the_controls_change_what_is_drawn(browser: Browser, pages: dict[Kind, Path]) -> None:
    page = open_page(browser, pages["image"]).page

    def picture(where: str) -> str:
        pictures = "(where) => [...document.querySelectorAll(where)].map((c) => c.toDataURL()).join()"
        found: str = page.evaluate(pictures, where)
        return found

    before = picture("#grid-interpolation canvas")
    page.select_option("#along", "r")
    assert picture("#grid-interpolation canvas") != before
    before = picture("#grid-traversal canvas")
    page.select_option("#unit", "1")
    assert picture("#grid-traversal canvas") != before
    screen = page.locator("#map-r").screenshot()
    page.get_by_label("PCA").click()
    page.wait_for_timeout(500)
    assert page.locator("#map-r").screenshot() != screen
    page.select_option("#pick", "3")
    assert shown_point(page) == keys_of(page)[3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_in_either_scheme(
    browser: Browser, pages: dict[Kind, Path], scheme: str, viewport: dict[str, int]
) -> None:
    page = open_page(browser, pages["image"], color_scheme=scheme, viewport=viewport).page
    for summary in page.locator("summary").all():
        summary.click()
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, pages: dict[Kind, Path], kind: Kind) -> None:
    page = open_page(browser, pages[kind], viewport=PHONE, has_touch=True).page
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_another_colour_scheme_draws_the_charts_anew(browser: Browser, pages: dict[Kind, Path]) -> None:
    page = open_page(browser, pages["image"], color_scheme="light").page

    def darkness() -> float:
        with Image.open(io.BytesIO(page.locator("#chart-labels").screenshot())) as opened:
            return float(np.asarray(opened.convert("L")).mean())

    light = darkness()
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(500)
    assert light > 200
    assert darkness() < 60


def test_a_reader_who_wants_less_motion_gets_none(browser: Browser, pages: dict[Kind, Path]) -> None:
    moving = """() => [
        getComputedStyle(document.documentElement).scrollBehavior,
        getComputedStyle(document.querySelector("nav a")).transitionDuration,
    ]"""
    still = open_page(browser, pages["image"], reduced_motion="reduce").page.evaluate(moving)
    assert still == ["auto", "0s"]
    assert open_page(browser, pages["image"], reduced_motion="no-preference").page.evaluate(moving)[0] == "smooth"
