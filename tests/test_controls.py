"""The controls in Chromium: what the keyboard, a screen reader and a fast hand find."""

import os
import signal

import pytest

pytest.importorskip("ipywidgets", reason="widgets come with the extra `workbook`")
pytest.importorskip("anywidget", reason="widgets come with the extra `workbook`")

from browsers import notebook, voila  # noqa: E402

CONTROLS = """
import os
import ipywidgets as w
from brain_tumor.io.pages import png_bytes
from brain_tumor.app.layout import MaskEditor, with_class
from brain_tumor.app.views import APP_STYLE
from brain_tumor.app.widgets import Downloads, Labels
import numpy as np

told, strokes = with_class(w.HTML(), "told"), []
def stroke(points):
    strokes.append(points)
    bench.undo.disabled = False
    told.value = f"{len(strokes)} strokes, the last of {len(points)} points"
def undo():
    strokes.pop()
    bench.undo.disabled = not strokes
def give(kind):
    if kind == "broken":
        raise ValueError("no luck")
    return None if kind == "nothing" else (f"{kind}.txt", "text/plain", kind.encode())
bench = MaskEditor(stroke, undo, print)
bench.undo.disabled, bench.canvas.picture = True, png_bytes(np.zeros((64, 64), np.uint8))
names = ("one", "two", "three", "four", "nothing", "broken")
files = Downloads(give, [(name, name) for name in names])
pick = with_class(w.Dropdown(options=["a", "b"]), "pick")
pid = with_class(w.HTML(str(os.getpid())), "pid")
style = w.HTML(f"<style>{APP_STYLE}</style>")
with_class(w.VBox([style, Labels(), pick, files, bench, told, pid]), "bt-app")
"""


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    notebook(folder / "controls.ipynb", CONTROLS)
    with voila(folder, folder / "voila.log") as address:
        yield address("controls.ipynb")


@pytest.fixture()
def page(visit, address):
    page = visit(address)
    page.locator(".bt-canvas canvas").wait_for()
    page.locator(".bt-tool button[aria-pressed]").first.wait_for()
    return page


def test_each_click_gets_its_file_or_a_reason(page):
    got = []
    page.on("download", lambda one: got.append(one.suggested_filename))
    page.evaluate(
        "[...document.querySelectorAll('.bt-downloads button')].slice(0, "
        "4).forEach((button) => button.click())"
    )
    for _ in range(100):
        if len(got) == 4:
            break
        page.wait_for_timeout(100)
    assert sorted(got) == ["four.txt", "one.txt", "three.txt", "two.txt"]
    page.locator(".bt-downloads button", has_text="nothing").click()
    page.locator(".bt-why[role=status]", has_text="nothing to save").wait_for()
    page.locator(".bt-downloads button", has_text="broken").click()
    page.locator(".bt-why", has_text="no luck").wait_for()
    with page.expect_download() as coming:
        page.locator(".bt-downloads button", has_text="two").click()
    assert coming.value.suggested_filename == "two.txt" and len(got) == 5
    assert page.locator(".bt-why").inner_text() == ""


def test_a_switch_says_its_state(page):
    pressed = (
        "return [...document.querySelectorAll('.bt-tool button')].map((one) => "
        "one.getAttribute('aria-pressed'))"
    )
    assert page.evaluate(f"() => {{ {pressed} }}") == ["true", "false"]
    page.locator(".bt-tool button", has_text="Eraser").click()
    page.locator(".bt-tool button[aria-pressed=true]", has_text="Eraser").wait_for()
    assert page.evaluate(f"() => {{ {pressed} }}") == ["false", "true"]
    assert page.locator(".bt-size .widget-readout").get_attribute("role") == "textbox"


def test_a_stroke_ends_with_the_focus_and_undo_hands_it_on(page):
    canvas = page.locator(".bt-canvas canvas")
    assert canvas.get_attribute("role") == "application"
    canvas.focus()
    page.keyboard.down(" ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.locator(".told", has_text="1 strokes, the last of 2 points").wait_for()
    page.keyboard.up(" ")
    canvas.focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    page.locator(".told", has_text="2 strokes, the last of 1 points").wait_for()
    undo = page.locator(".bt-undo")
    undo.press("Enter")
    assert undo.is_enabled() and undo.evaluate("e => e === document.activeElement")
    undo.press("Enter")
    page.wait_for_function("document.activeElement.tagName === 'CANVAS'")
    assert undo.is_disabled()


def test_the_focus_is_seen_on_every_kind_of_control(page):
    page.locator("body").click(position={"x": 1, "y": 1})
    rings = {}
    for _ in range(25):
        page.keyboard.press("Tab")
        kind, ring = page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e); return "
            "[e.getAttribute('role') || e.tagName, s.outlineStyle + s.outlineWidth + "
            "s.outlineColor]; })()"
        )
        rings[kind] = ring
    rings.pop("BODY", None)
    assert {"SELECT", "BUTTON", "application", "slider", "textbox"} <= set(rings)
    assert {kind: ring for kind, ring in rings.items() if ring != "solid3pxrgb(179, 92, 0)"} == {}


def test_a_page_without_its_python_says_so(page):
    assert page.locator(".bt-gone").count() == 0
    os.kill(int(page.locator(".pid").inner_text()), getattr(signal, "SIGKILL", signal.SIGTERM))
    page.locator(".bt-gone[role=alert]", has_text="Reload the page").wait_for()
    page.wait_for_timeout(1000)  # the server starts another kernel meanwhile
    assert page.locator(".bt-gone").count() == 1
