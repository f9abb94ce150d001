"""Human evaluation in a real Chromium: two raters judge by the keyboard, over a server that is killed, and on a tablet.

`HARNESS_SCREENSHOTS=docs/images python -m pytest tests/test_annotate_browser.py` also writes the pictures of the documentation.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from judges.human.study import StudyFolder, by_place
from tests.servers import free_port
from tests.test_viewer_browser import CHROMIUM, SERIOUS, Window, browser, pixel  # noqa: F401  (browser is a fixture)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO BROWSER TESTS: there is no chromium on this machine (apt install chromium)"
)
WORKTREE = Path(__file__).parents[1]
#: (size, place) -> the picture of docs/human-evaluation.md.
PICTURES = {("wide", "3"): "annotate", ("tablet", ""): "annotate-guide", ("upright", "3"): "annotate-tablet"}
SHOTS = os.environ.get("HARNESS_SCREENSHOTS")


class Served:
    """`harness annotate` in a process of its own, for two raters, until `stop`."""

    def __init__(self, runs: list[Path], port: int, rows: int = 15) -> None:
        words = ["annotate", *map(str, runs), "--raters", "alice,bob", "--rows", str(rows), "--overlap", "100%", "--no-open"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness", *words, "--port", str(port)],
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(WORKTREE)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().split() for _ in range(3)]
        self.address = {words[0].rstrip(":"): words[1] for words in lines[:2]}

    def stop(self, how: signal.Signals = signal.SIGINT) -> str:
        self.process.send_signal(how)
        return self.process.communicate(timeout=20)[0]


@pytest.fixture
def runs(viewed, tmp_path):
    """Copies of the runs of two models on SLAKE, in a folder of their own."""
    import shutil

    places = []
    for path in viewed.slake.values():
        place = tmp_path / "runs" / path.parent.name / path.name
        shutil.copytree(path, place)
        places.append(place)
    return places


def judge_all(page, words, most=99):
    """Press these keys in turn, and Enter, until all is judged; how many questions that were."""
    for n in range(most):
        if not page.locator(".desk").count():
            return n
        here = page.url
        fields = page.locator("fieldset[data-choose]").count()
        for k in range(fields):
            page.keyboard.press(words[(n + k) % len(words)])
        expect(page.locator(".state")).to_have_text("saved")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url, here=here: url != here)
    return most


def labels(runs, rater):
    (folder,) = (runs[0].parent.parent / ".annotations").iterdir()
    study = StudyFolder(folder)
    return {p: (x.final, x.reasoning) for p, x in by_place(study.lines(rater)).items()}


def test_two_raters_judge_by_keyboard_over_a_kill(browser, runs):  # noqa: F811
    port = free_port()
    served = Served(runs, port)
    alice, bob = Window(browser), Window(browser)
    for window, name in ((alice, "alice"), (bob, "bob")):
        window.page.goto(served.address[name])
        assert "token" not in window.page.url
        window.page.get_by_role("link", name="Start with question 1").click()
    assert judge_all(alice.page, "10", most=12) == 12
    assert judge_all(bob.page, "1c", most=3) == 3
    before = labels(runs, "alice")
    served.stop(signal.SIGKILL)
    alice.page.keyboard.press("1")
    expect(alice.page.locator(".state")).to_have_text("not saved: no connection; trying again")
    served = Served(runs, port)
    expect(alice.page.locator(".state")).to_have_text("saved", timeout=10_000)
    assert labels(runs, "alice").items() >= before.items()
    judge_all(alice.page, "10")
    judge_all(bob.page, "1c")
    for window in (alice, bob):
        assert "All" in window.page.locator(".go").inner_text()
        done = int(window.page.locator("[data-done]").inner_text())
        assert done == window.page.locator("progress").evaluate("p => p.max") >= 15
        # what the kill cut off, before an answer or within one
        cut_off = ("ERR_CONNECTION", "ERR_CONTENT_LENGTH_MISMATCH", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE")
        window.wrong = [w for w in window.wrong if not any(reason in w for reason in cut_off)]
        window.close()
    said = served.stop()
    assert f"alice: {done} of {done} judged" in said
    assert {final for final, _ in labels(runs, "alice").values()} == {0, 1}
    assert {final for final, _ in labels(runs, "bob").values()} == {1, "cannot"}


def test_keys_undo_and_comments(browser, runs):  # noqa: F811
    served = Served(runs, free_port())
    window = Window(browser)
    page = window.page
    page.goto(served.address["alice"])
    page.goto(served.address["alice"].partition("?")[0] + "1")
    page.keyboard.press("1")
    expect(page.locator(".state")).to_have_text("saved")
    pressed = page.locator("button[aria-pressed=true]")
    expect(pressed).to_have_count(1)
    first = pressed.inner_text()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("0")
    expect(page.locator("button[aria-pressed=true][data-value='0']")).to_have_count(1)
    expect(page.locator(".state")).to_have_text("saved")
    with page.expect_navigation():
        page.keyboard.press("u")
    assert page.locator("button[aria-pressed=true]").inner_text() == first
    page.keyboard.press("m")
    page.keyboard.type("10 the side is 0 unclear")
    page.keyboard.press("Escape")
    expect(page.locator(".state")).to_have_text("saved")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/2")
    page.keyboard.press("u")
    page.wait_for_url("**/1")
    page.reload()
    assert page.locator("textarea").input_value() == "", "undo takes the comment back too"
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    assert page.url.endswith("/1")
    window.close()
    served.stop()


def test_the_image_keeps_its_window_for_the_next_question_about_it(browser, runs):  # noqa: F811
    served = Served(runs, free_port(), rows=60)
    window = Window(browser)
    page = window.page
    page.goto(served.address["alice"])
    base = served.address["alice"].partition("?")[0]
    names = {}
    for place in range(1, 30):
        page.goto(f"{base}{place}")
        name = page.locator(".film").get_attribute("data-kept")
        if names.get(name) == place - 1:
            break
        names[name] = place
    page.goto(f"{base}{place - 1}")
    page.wait_for_load_state("networkidle")
    before = pixel(page, 0.4, 0.5)
    box = page.locator(".film").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.wheel(0, -300)  # without a click first
    page.wait_for_function("document.querySelector('output[name=zoom]').textContent === '2.0×'")
    page.keyboard.press("i")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/{place}")
    assert page.locator("output[name=zoom]").inner_text() == "2.0×"
    page.keyboard.press("r")
    assert page.locator("output[name=zoom]").inner_text() == "1.0×"
    assert pixel(page, 0.4, 0.5) == before
    window.close()
    served.stop()


def test_nobody_is_shut_out_on_a_tablet_or_telephone(browser, runs):  # noqa: F811
    from axe_playwright_python.sync_playwright import Axe

    served = Served(runs, free_port())
    base = served.address["alice"].partition("?")[0]
    sizes = {
        "wide": (1280, 860, "light"),
        "tablet": (1024, 768, "light"),
        "upright": (768, 1024, "dark"),
        "narrow": (360, 740, "dark"),
    }
    for name, (width, height, scheme) in sizes.items():
        touch = name != "wide"
        window = Window(
            browser, color_scheme=scheme, viewport={"width": width, "height": height}, bypass_csp=True, has_touch=touch
        )
        page = window.page
        page.goto(served.address["alice"])
        for where in ("", "3"):
            page.goto(base + where)
            page.wait_for_load_state("networkidle")
            found = Axe().run(page).response["violations"]
            serious = [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found if v["impact"] in SERIOUS]
            assert serious == [], f"{name}, {where}"
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width
            if SHOTS and (picture := PICTURES.get((name, where))):
                page.screenshot(path=f"{SHOTS}/{picture}.png")
        for button in page.locator(".choices button").all():
            assert button.bounding_box()["height"] >= 44, "as high as a finger"
        if touch:
            page.locator(".choices button[data-value='1']").last.tap()
            expect(page.locator(".state")).to_have_text("saved")
        window.close()
    served.stop()
