"""The viewer in a real Chromium: what people do with it, on the pages of real runs of the real tiny model.

Every test fails when a page logs an error, asks anything of another machine, or breaks its own Content-Security-Policy.
`HARNESS_SCREENSHOTS=docs/images python -m pytest tests/test_viewer_browser.py -k screenshots` writes the pictures of the
documentation; with HARNESS_SCREENSHOTS_RUNS=demo/runs those of the demo's runs.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright

from leaderboard.site import app, export
from leaderboard.site.library import Library
from leaderboard.site.pictures import Pictures
from tests.run_folders import make_run
from tests.servers import free_port
from tests.viewed import EXACT, SHOWN, Viewed, run_id

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO BROWSER TESTS: there is no chromium on this machine (apt install chromium)"
)
#: What axe calls serious enough to shut people out.
SERIOUS = ("serious", "critical")


class Served:
    """The viewer on a port of its own, until `stop`."""

    def __init__(self, runs: Path, checkpoints: Path) -> None:
        self.port = free_port()
        self.library = Library([runs], [checkpoints])
        made = app.create(self.library, Pictures())
        self.server = uvicorn.Server(uvicorn.Config(made, port=self.port, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            self.thread.join(0.02)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture(scope="module")
def served(viewed: Viewed) -> Iterator[Served]:
    made = Served(viewed.runs, viewed.checkpoint.parent)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Window:
    """A tab that remembers what went wrong in it."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.page.on("dialog", lambda d: (self.wrong.append(f"a dialog: {d.message}"), d.dismiss()))
        self.page.on("requestfailed", self._failed)
        self.page.on("request", lambda r: self.wrong.append(f"outside: {r.url}") if not self._inside(r.url) else None)

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left while it was loading
            self.wrong.append(f"failed: {request.url} {request.failure}")

    @staticmethod
    def _inside(url: str) -> bool:
        return url.startswith(("http://127.0.0.1:", "file:///", "data:image/jpeg;base64,"))

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []


@pytest.fixture
def window(browser: Any) -> Iterator[Window]:
    made = Window(browser)
    yield made
    made.close()


def texts(page: Any, selector: str) -> list[str]:
    found: list[str] = page.locator(selector).all_inner_texts()
    return found


def test_columns_sort_and_say_so(window: Window, served: Served) -> None:
    page = window.page
    page.goto(served.base)
    table = page.locator("table.forest").first
    scores = [float(x) for x in texts(page, "table.forest >> nth=0 >> td.score")]
    assert scores == sorted(scores, reverse=True)
    header = table.locator("th", has_text="Score %")
    for order in ("descending", "ascending"):
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == order
        shown = [float(x) for x in texts(page, "table.forest >> nth=0 >> td.score")]
        assert shown == sorted(scores, reverse=order == "descending")
    header.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending", "the keyboard sorts too"
    names = table.locator("th", has_text="Model")
    names.get_by_role("button").click()
    models = texts(page, "table.forest >> nth=0 >> tbody th a")
    assert models == sorted(models)
    assert header.get_attribute("aria-sort") == "none"


def test_slices_are_one_click_away(window: Window, served: Served) -> None:
    window.page.goto(served.base)
    window.page.get_by_role("link", name="content type", exact=True).click()
    assert "Organ" in window.page.locator("table.heat").first.inner_text()
    assert window.page.get_by_role("link", name="content type", exact=True).get_attribute("aria-current") == "true"


def test_two_models_are_chosen_and_compared(window: Window, served: Served) -> None:
    page = window.page
    page.goto(served.base)
    form = page.locator(f"form[data-compare='{EXACT}']", has_text="tiny-sft").first
    button = form.get_by_role("button", name="Compare")
    assert button.is_disabled()
    for box in reversed(form.get_by_role("checkbox").all()):  # in whatever order: the better one stands first
        box.check()
    chosen = form.locator("tbody th a").all_inner_texts()
    button.click()
    page.wait_for_url("**/compare-*")
    assert page.get_by_role("heading", level=1).inner_text() == " against ".join(chosen)
    assert "95 % interval" in page.locator(".lead").inner_text()
    row = page.locator("table.flips a").first
    asked = row.inner_text()
    row.click()
    assert page.locator(".question").inner_text() == asked
    assert page.locator("select[name=flips]").input_value(), "the keys go on through the flipped rows"
    verdicts = texts(page, "article.answer .who .mark")
    assert sorted(verdicts[:2]) == ["✓ right", "✗ wrong"]


def test_filters_search_and_keys(window: Window, served: Served, viewed: Viewed) -> None:
    page = window.page
    page.goto(f"{served.base}run-{run_id(viewed.slake['tiny'])}.html")
    page.get_by_role("link", name="Look at the answers").click()
    expect(page.locator(".rows li")).to_have_count(50)
    page.get_by_label("Verdict").select_option("wrong")
    page.wait_for_url("**verdict=wrong**")
    assert set(texts(page, ".rows .sign")) == {"✗"}
    page.keyboard.press("/")
    page.keyboard.type("picture")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=picture**")
    assert page.get_by_label("Verdict").input_value() == "wrong", "filters add up"
    asked = texts(page, ".rows .asked")
    assert asked
    first = page.locator(".pane").get_attribute("aria-label")
    page.locator("h1").click()  # out of the field
    for key, row in (("j", 1), ("k", 0)):
        with page.expect_navigation():
            page.keyboard.press(key)
        assert page.locator(".rows a[aria-current]").inner_text() == page.locator(".rows a").nth(row).inner_text()
    assert page.locator(".pane").get_attribute("aria-label") == first
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()


def pixel(page: Any, x: float, y: float) -> tuple[int, ...]:
    """The colour at a share of the image's width and height, as it is seen."""
    import io

    from PIL import Image

    shot = Image.open(io.BytesIO(page.locator(".film").screenshot())).convert("RGB")
    found: tuple[int, ...] = shot.getpixel((int(x * shot.width), int(y * shot.height)))  # type: ignore[assignment]
    return found


def test_the_image_zooms_moves_and_has_window_and_level(window: Window, served: Served, viewed: Viewed) -> None:
    page = window.page
    page.goto(f"{served.base}samples-{run_id(viewed.slake['tiny'])}.html")
    page.wait_for_load_state("networkidle")
    image = page.locator(".film img")
    assert image.evaluate("i => i.complete && i.naturalWidth") == 224
    width = image.bounding_box()["width"]
    before = pixel(page, 0.4, 0.5)

    page.keyboard.press("+")
    assert image.bounding_box()["width"] == pytest.approx(1.25 * width, rel=0.01)
    page.locator(".film").focus()
    left = image.bounding_box()["x"]
    page.keyboard.press("ArrowRight")
    assert image.bounding_box()["x"] < left
    box = page.locator(".film").bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"document.querySelector('.film img').getBoundingClientRect().width > {2 * width}")
    page.keyboard.press("0")
    assert image.bounding_box()["width"] == pytest.approx(width, rel=0.01)
    assert pixel(page, 0.4, 0.5) == before

    page.keyboard.press("i")
    assert pixel(page, 0.4, 0.5) == pytest.approx([255 - v for v in before], abs=2)
    page.keyboard.press("i")
    # a window of 100 about 200: black below 150, white above 250, linear between
    for name, value in (("window", "100"), ("level", "200")):
        page.get_by_label(name.capitalize(), exact=True).evaluate(
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })); }", value
        )
    expected = [min(255, max(0, (v - 150) * 255 / 100)) for v in before]
    assert pixel(page, 0.4, 0.5) == pytest.approx(expected, abs=3)
    assert page.locator("output[name=window]").inner_text() == "100"
    page.get_by_role("button", name="Reset").click()
    assert pixel(page, 0.4, 0.5) == before


def test_hostile_text_is_text(window: Window, served: Served, viewed: Viewed) -> None:
    page = window.page
    name = run_id(viewed.hostile)
    for where in ("index.html", f"run-{name}.html", f"samples-{name}.html", "trainers.html"):
        page.goto(served.base + where)
        page.wait_for_load_state("networkidle")
        assert page.locator("img[src=x], [onerror], [onclick], body script").count() == 0
        assert not page.evaluate("() => /[\\u202a-\\u202e\\u2066-\\u2069]/.test(document.documentElement.outerHTML)")
    page.goto(f"{served.base}samples-{name}.html")
    assert page.locator(".question").inner_text() == f"Question {SHOWN}"
    assert page.locator("article .text").first.text_content() == f"<think>{SHOWN}</think>{SHOWN}"
    assert page.locator(".text").first.evaluate("e => getComputedStyle(e).unicodeBidi") == "isolate"


def test_the_policy_stops_what_would_slip_through(browser: Any, served: Served) -> None:
    """Were a template to forget its escaping, the browser still runs nothing and asks nobody."""
    window = Window(browser)
    window.page.goto(served.base)
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        ran, colour = window.page.evaluate(_SLIPPED, f"http://127.0.0.1:{other.getsockname()[1]}/x.png")
        with pytest.raises(TimeoutError):
            other.accept()
    assert ran is None
    assert colour != "rgb(255, 0, 0)"
    assert sum("Content Security Policy" in w for w in window.wrong) >= 4
    window.context.close()


_SLIPPED = """(elsewhere) => {
    document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.ran = true'><p style='color: red' id=p>x</p>");
    const script = document.createElement("script"), image = document.createElement("img");
    script.textContent = "window.ran = true";
    image.src = elsewhere;
    document.body.append(script, image);
    const colour = () => getComputedStyle(document.querySelector("#p")).color;
    return new Promise(done => setTimeout(() => done([window.ran, colour()]), 300));
}"""


def test_light_and_dark_follow_the_system_until_one_is_chosen(browser: Any, served: Served) -> None:
    dark = Window(browser, color_scheme="dark")
    dark.page.goto(f"{served.base}trainer-tiny-sft.html")
    dark.page.wait_for_load_state("networkidle")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    plot = "() => document.querySelector('.plot img').currentSrc"
    assert dark.page.evaluate(ground) == "rgb(16, 20, 23)"
    assert dark.page.evaluate(plot).endswith(".dark.svg")
    dark.page.keyboard.press("t")
    assert dark.page.evaluate(ground) == "rgb(250, 249, 246)"
    dark.page.wait_for_function("() => !document.querySelector('.plot img').currentSrc.endsWith('.dark.svg')")
    dark.page.goto(served.base)
    assert dark.page.evaluate(ground) == "rgb(250, 249, 246)", "the choice is kept"
    dark.close()


PAGES = ("index.html", "slice-content_type.html", "table-", "run-", "samples-", "compare-", "compare.html", "trainers.html",
         "trainer-tiny-sft.html", "nothing.html")  # fmt: skip


def address(served: Served, name: str, viewed: Viewed) -> str:
    a, b = (run_id(p) for p in viewed.slake.values())
    table = next(t for t in served.library.shelf().tables if t.startswith("slake-test-exact"))
    made = {"table-": f"table-{table}.html", "run-": f"run-{a}.html", "samples-": f"samples-{a}.html"}
    made["compare-"] = f"compare-{a}~{b}~{EXACT}.html"
    return f"{served.base}{made.get(name, name)}"


@pytest.mark.parametrize("name", PAGES)
def test_nobody_is_shut_out(browser: Any, served: Served, viewed: Viewed, name: str) -> None:
    """axe finds nothing serious in light or dark, and no page is wider than a telephone (wide tables scroll in themselves)."""
    from axe_playwright_python.sync_playwright import Axe

    for scheme, width in (("light", 1280), ("dark", 360)):
        window = Window(browser, color_scheme=scheme, viewport={"width": width, "height": 740}, bypass_csp=True)
        window.page.goto(address(served, name, viewed))
        window.page.wait_for_load_state("networkidle")
        found = Axe().run(window.page).response["violations"]
        serious = [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found if v["impact"] in SERIOUS]
        assert serious == [], f"{name}, {scheme}"
        assert window.page.evaluate("() => document.documentElement.scrollWidth") <= width
        window.wrong = [w for w in window.wrong if name != "nothing.html" or "404" not in w]
        window.close()


def test_a_long_name_makes_no_page_wider_than_a_telephone(browser: Any, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", f"{name}{'long' * 100}", "110110") for name in ("one", "two")]
    (tmp_path / "checkpoints").mkdir()
    own = Served(tmp_path / "runs", tmp_path / "checkpoints")
    window = Window(browser, viewport={"width": 360, "height": 740})
    ids = list(own.library.shelf().runs)
    tables = list(own.library.shelf().tables)
    assert len(ids) == len(runs) == 2
    for name in ("index", f"table-{tables[0]}", f"run-{ids[0]}", f"samples-{ids[0]}", "compare-{}~{}~exact@1".format(*ids)):
        window.page.goto(f"{own.base}{name}.html")
        window.page.wait_for_load_state("networkidle")
        assert window.page.evaluate("() => document.documentElement.scrollWidth") <= 360, name
    window.close()
    own.stop()


def test_names_stay_readable_beside_all_columns(browser: Any, tmp_path: Path) -> None:
    for name in ("qwen2-vl-2b-sft-lora-r16-alpha32-lr1e-4-step1200", "other"):
        make_run(tmp_path / "runs", name, "110110" * 9, reasoning="1" * 54, truncated=3)
    own = Served(tmp_path / "runs", tmp_path)
    for width in (740, 1000, 1121, 1280):
        window = Window(browser, viewport={"width": width, "height": 740})
        window.page.goto(own.base)
        assert window.page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert window.page.locator(".forest tbody .model").first.bounding_box()["width"] > 160
        window.close()
    own.stop()


def test_a_report_works_from_files(browser: Any, viewed: Viewed, tmp_path: Path) -> None:
    slake = tmp_path / "runs"
    for path in viewed.slake.values():
        shutil.copytree(path, slake / path.parent.name / path.name)
    export.write(Library([slake]), Pictures(), tmp_path / "out")
    window = Window(browser)
    page = window.page
    page.goto((tmp_path / "out" / "index.html").as_uri())
    page.locator("table.forest").first.get_by_role("button", name="Model").click()
    models = texts(page, "table.forest >> nth=0 >> tbody th a")
    assert models == sorted(models)
    page.get_by_role("link", name="tiny-sft").first.click()
    page.get_by_role("link", name="Look at the answers").click()
    expect(page.locator(".rows li:visible")).to_have_count(60)
    page.get_by_label("Verdict").select_option("wrong")
    wrong = page.locator(".rows li:visible").count()
    assert 0 < wrong < 60
    assert set(texts(page, ".rows li:visible .sign")) == {"✗"}
    assert f"{wrong} of 60 rows" in page.locator("[data-said]").inner_text()
    page.locator(".rows li:visible a").first.click()
    assert page.locator(".film img").evaluate("i => i.complete && i.naturalWidth") == 224
    with page.expect_navigation():
        page.keyboard.press("j")
    page.goto((tmp_path / "out" / "compare.html").as_uri())
    form = page.locator("form[data-compare]").first
    for box in form.get_by_role("checkbox").all()[:2]:
        box.check()
    form.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare-*~*")
    assert "against" in page.locator("h1").inner_text()
    page.goto((tmp_path / "out" / "summary.html").as_uri())
    assert page.locator("svg.draw").first.evaluate("e => getComputedStyle(e).display") == "block", "the hash allows its styles"
    assert page.locator("article.example img").first.evaluate("i => i.complete && i.naturalWidth") == 224
    window.close()


@pytest.mark.skipif("HARNESS_SCREENSHOTS" not in os.environ, reason="HARNESS_SCREENSHOTS names no folder to write pictures to")
def test_screenshots(browser: Any, viewed: Viewed, served: Served) -> None:
    """Those of the documentation."""
    out = Path(os.environ["HARNESS_SCREENSHOTS"])
    runs = Path(os.environ.get("HARNESS_SCREENSHOTS_RUNS", viewed.runs))
    shown = served if runs == viewed.runs else Served(runs, runs.parent)
    shelf = shown.library.shelf()
    table = next(t for t in shelf.tables.values() if t.first.task == "slake" and t.first.judge == "exact")
    best, last = (shelf.of(table.cells[i]).id for i in (0, -1))
    rows = f"samples-{best}.html?flips={last}&judge={table.judge}"
    trained = max(shelf.trainings, key=lambda i: "rarl" in i)
    for name, where, scheme, width, height in (
        ("leaderboard", "index.html", "light", 1280, 900),
        ("leaderboard-narrow", "index.html", "dark", 360, 740),
        ("samples", rows, "dark", 1280, 800),
        ("samples-narrow", rows, "light", 360, 740),
        ("compare", f"compare-{best}~{last}~{table.judge}.html", "light", 1280, 800),
        ("training", f"trainer-{trained}.html", "dark", 1280, 800),
    ):
        window = Window(browser, color_scheme=scheme, viewport={"width": width, "height": height})
        window.page.goto(shown.base + where)
        window.page.wait_for_load_state("networkidle")
        window.page.screenshot(path=out / f"{name}.png")
        assert (out / f"{name}.png").stat().st_size < 300_000
        window.close()
    if shown is not served:
        shown.stop()
