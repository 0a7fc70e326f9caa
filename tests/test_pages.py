"""Pages: escaping, self-contained files, lazy imports, streaming, and a browser's view."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from browsers import chromium
from errors import raises

from brain_tumor.io import pages
from brain_tumor.io.errors import ErrorCode

DOT = np.full((1, 1), 200, np.uint8)
HOSTILE = "<script>alert(1)</script>\"'&"


class Reader(HTMLParser):
    """Collects tags, links and text, and checks that tags are balanced."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.links, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        names = ("src", "href", "srcset", "data", "action", "poster")
        self.links += [value for name, value in attrs if name in names]
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.words.append(data)


def parse(text):
    reader = Reader()
    reader.feed(str(text))
    reader.close()
    assert reader.open == []
    return reader


def hostile_page(folder):
    tables = {"t": pd.DataFrame({HOSTILE: [HOSTILE]})}
    return pages.write_page(
        folder,
        "page.html",
        HOSTILE,
        [(HOSTILE, HOSTILE)],
        {HOSTILE: pages.html_text(HOSTILE), "plain": HOSTILE},
        tables,
    ).read_text(encoding="utf-8")


PARTS = {
    "text": lambda _: pages.html_text(HOSTILE),
    "list": lambda _: pages.html_list([HOSTILE]),
    "cells": lambda _: pages.html_cells([HOSTILE], [[HOSTILE]], [HOSTILE], HOSTILE),
    "notes": lambda _: pages.html_cells([HOSTILE], [[HOSTILE], [1]], [HOSTILE, HOSTILE + "2"]),
    "row heads": lambda _: pages.html_cells(["a"], [[HOSTILE]], row_heads=True),
    "pandas": lambda _: pages.table_html(
        pd.DataFrame({HOSTILE: [HOSTILE], "provenance": [HOSTILE]})
    ),
    "image": lambda _: pages.html_image(DOT, HOSTILE),
    "figure": lambda _: pages.html_figure(DOT, HOSTILE, HOSTILE),
    "beside": lambda _: pages.html_beside([HOSTILE]),
    "join": lambda _: pages.html_join([HOSTILE, pages.html_text(HOSTILE)]),
    "card": lambda _: pages.html_card(HOSTILE, [HOSTILE], [HOSTILE]),
    "fill": lambda _: pages.fill_html('<p title="{word}"><b>{word}</b></p>', word=HOSTILE),
    "pieces": lambda _: "".join(pages.page_pieces(HOSTILE, [(HOSTILE, HOSTILE), (None, HOSTILE)])),
    "page": hostile_page,
}


@pytest.mark.parametrize("make", PARTS.values(), ids=list(PARTS))
def test_plain_text_is_escaped_in_every_part(make, tmp_path):
    text = str(make(tmp_path))
    reader = parse(text)
    assert "<script" not in text and "script" not in [tag for tag, _ in reader.tags]
    values = [value or "" for _, attrs in reader.tags for value in attrs.values()]
    assert any(HOSTILE in part for part in ["".join(reader.words), *values]), "text is changed"
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)


def test_parts_are_not_escaped_twice():
    caption = pages.fill_html("<b>{a}</b>", a="x & y")
    row = pages.html_beside([pages.html_figure(DOT, "one"), pages.html_figure(DOT, "two", caption)])
    whole = "".join(pages.page_pieces("T", [("H", row)]))
    assert whole.count("<figure>") == 2 and "&lt;figure" not in whole
    assert "<b>x &amp; y</b>" in whole and "&amp;amp;" not in whole


def test_row_heads_empty_cells_and_the_intended_use():
    cells = pages.html_cells(["a", "b"], [["Surface", 2]], row_heads=True)
    assert parse(cells).tags.count(("th", {"scope": "row"})) == 1
    assert "medical device" in pages.html_card("x")
    assert "medical device" not in pages.html_card("x", use=False)
    text = pages.html_cells(["a"], [[0], [None], [False]])
    assert text.count("</td>") == 3 and ">0<" in text and "None" not in text and ">False<" in text


def test_a_page_is_complete_and_loads_nothing(tmp_path):
    rows, notes = [["1", None], ["2", "long " * 20]], ["measured", "as printed"]
    sections = [
        ("Numbers", pages.html_cells(["a", "b"], rows, notes, "A caption")),
        ("Figures", pages.html_figure(DOT, "A curve")),
        ("List", pages.html_list(["one", "two"])),
        (None, pages.html_card("scan.png: glioma", [pages.html_image(DOT, "scan")], ["a note"])),
    ]
    path = pages.write_sections(tmp_path / "p.html", "Title", iter(sections))
    text = path.read_text(encoding="utf-8")
    reader = parse(text)
    assert text.startswith("<!doctype html>") and text.endswith("</html>\n")
    assert "edical device" in text and "default-src 'none'" in text
    assert reader.links and all(x.startswith("data:image/png;base64,") for x in reader.links)
    assert not re.search(r"url\(|@import|https?:|=[\"']//", text)
    assert all(attrs.get("alt") for tag, attrs in reader.tags if tag == "img")
    assert re.findall("<h2>(.*?)</h2>", text) == ["Numbers", "Figures", "List"]
    assert "[1] measured" in text and "[2] as printed" in text and "None" not in text
    assert "color-scheme:light dark" in text and "@media print" in text and 'class="wide"' in text


def test_the_same_input_gives_the_same_bytes(tmp_path):
    table = pd.DataFrame({"a": [0.25], "provenance": ["recorded run"]})
    for name in ("one", "two"):
        parts = {"Table": pages.table_html(table)}
        pages.write_page(tmp_path / name, "p.html", "T", [("run", "note")], parts, {"t": table})
    for file in ("p.html", "t.csv"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_page_is_written_while_its_sections_come_and_not_at_all_if_one_fails(tmp_path):
    def sections():
        yield None, pages.html_text("one")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        pages.write_sections(tmp_path / "p.html", "T", sections())
    assert list(tmp_path.iterdir()) == []
    made = []
    endless = ((None, made.append(n) or pages.html_text(str(n))) for n in range(1000))
    for piece in pages.page_pieces("T", endless):
        if "<p>3</p>" in piece:
            break
    assert len(made) < 10


def test_a_missing_value_and_an_image_without_text_are_errors():
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        pages._templates().from_string("{{ nothing }}").render()
    for text in ("", " ", "..."):
        with raises(ErrorCode.ARGUMENT_INVALID):
            pages.html_figure(DOT, text)
    with pytest.raises(ValueError):
        pages.html_cells(["a"], [[1], [2], [3]], ["one", "two"])  # a note for each row, or none


def test_jinja_is_loaded_only_when_a_part_is_made():
    code = """
import sys
from brain_tumor import analyze
from brain_tumor.io import pages
heavy = {"jinja2", "markupsafe", "pandas", "matplotlib", "keras", "sklearn"} & set(sys.modules)
assert not heavy, heavy
pages.html_text("a")
assert "jinja2" in sys.modules and "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not chromium(), reason="Chromium is not installed")
def test_a_browser_shows_a_page_in_the_dark_on_a_phone_and_in_print(tmp_path):
    play = pytest.importorskip("playwright.sync_api")
    heads = [f"column {n}" for n in range(40)]
    sections = [
        ("Wide", pages.html_cells(heads, [[f"value {n}" for n in range(40)]])),
        ("Long", pages.html_cells(["a"], [["a sentence of many words " * 8]])),
        ("x" * 200, pages.html_figure(np.full((30, 900), 200, np.uint8), "A bar")),
    ]
    path = pages.write_sections(tmp_path / "p.html", "Title", sections)
    with play.sync_playwright() as p:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = p.chromium.launch(executable_path=chromium(), args=arguments)
        tab = browser.new_page(viewport={"width": 390, "height": 700})
        requests, messages = [], []
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: messages.append(message.text))
        tab.emulate_media(color_scheme="dark")
        tab.goto(path.as_uri())
        assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(255, 255, 255)"
        assert [u for u in requests if not u.startswith(("data:", path.as_uri()))] == []
        assert messages == []
        assert tab.evaluate(
            "(e => e.scrollWidth > e.clientWidth)(document.querySelector('.wide'))"
        ), "a wide table scrolls"
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page not"
        assert tab.evaluate("document.images[0].naturalWidth") == 900
        tab.emulate_media(color_scheme="light", media="print")
        overflow = "getComputedStyle(document.querySelector('.wide')).overflowX"
        assert tab.evaluate(overflow) == "visible", "the inline style must not win in print"
        browser.close()
