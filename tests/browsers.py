"""Servers and a browser for the tests of the page:

Voila and JupyterLab as `make app` and `make lab` start them.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium():
    """Where a Chromium is; None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def settings():
    """The environment that the Makefile gives to `app` and `lab`, read from it."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    pairs = [
        line.split("export ")[1].split(" := ")
        for line in lines
        if line.startswith("app explore lab: export ")
    ]
    assert {name for name, _ in pairs} == {"JUPYTER_PATH", "JUPYTER_CONFIG_PATH"}
    return {name: value.replace("$(CURDIR)", str(ROOT)) for name, value in pairs}


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


@contextmanager
def serving(words, alive, log):
    """A server for as long as the block runs; ready when `alive` answers, with whatever status."""
    environment = {**os.environ, **settings(), "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with open(log, "w", encoding="utf-8") as out:
        server = subprocess.Popen(
            [str(word) for word in words], env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + 90
        while not answers(alive):
            assert server.poll() is None and time.monotonic() < end, Path(log).read_text(
                encoding="utf-8"
            )[-3000:]
            time.sleep(0.1)
        yield server
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def answers(address):
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def voila(notebooks, log):
    """Voila over a folder of notebooks; gives the address of a notebook's page."""
    port = free_port()
    words = [BIN / "voila", notebooks, "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    with serving(words, f"http://127.0.0.1:{port}/voila/static/", log):
        yield lambda name: f"http://127.0.0.1:{port}/voila/render/{name}"


@contextmanager
def lab(notebooks, log):
    """JupyterLab over a folder of notebooks; gives the address of one notebook alone."""
    port, token = free_port(), "for-the-tests"
    words = [
        BIN / "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={notebooks}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with serving(words, f"http://127.0.0.1:{port}/api/status?token={token}", log):
        yield lambda name: f"http://127.0.0.1:{port}/doc/tree/{name}?token={token}&reset"


def notebook(path, *sources):
    """A notebook with these cells."""
    cells = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": text,
        }
        for i, text in enumerate(sources)
    ]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    path.write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}),
        encoding="utf-8",
    )
    return path


def run_all(page):
    """In JupyterLab:

    Run all cells. An idle kernel may not be listening yet, so the click is repeated until it is
    heard.
    """
    from playwright.sync_api import TimeoutError

    page.locator(".jp-Notebook").wait_for(timeout=90_000)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=90_000)
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(
        timeout=90_000
    )  # the indicator says idle before there is a kernel
    for _ in range(20):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        try:
            return page.wait_for_function(HEARD, timeout=3000)
        except TimeoutError:
            pass
    raise AssertionError("the cells were not run")


HEARD = (
    r"[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(e => "
    r"!/^\[\s*\]/.test(e.textContent))"
)

INK = """image => {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth || image.width;
  canvas.height = image.naturalHeight || image.height;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
  let green = 0, white = 0;
  for (let i = 0; i < data.length; i += 4) {
    const [r, g, b] = [data[i], data[i + 1], data[i + 2]];
    seen.add(r * 65536 + g * 256 + b);
    green += g > r + 40 && g > b + 40; white += r > 250 && g > 250 && b > 250;
  }
  return {width: canvas.width, height: canvas.height, colours: seen.size, green, white};
}"""


def ink(locator):
    """What an image or a canvas really shows:

    Its size, how many colours, how many green and how many white pixels.
    """
    locator.wait_for()
    locator.evaluate("e => e.decode ? e.decode() : null")
    return locator.evaluate(INK)
