"""What all tests share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def root():
    """The project's own folder."""
    return ROOT


def data_folder(sets):
    """The folder that holds the named data sets; the test is skipped where one is missing."""
    places = [os.environ.get("BRAIN_TUMOR_DATA"), ROOT.parent / "shared" / "data"]
    for place in map(Path, filter(None, places)):
        if all((place / name / "manifest.csv").is_file() for name in sets):
            return place
    pytest.skip("needs the public data sets: set BRAIN_TUMOR_DATA to their folder")


@pytest.fixture(scope="session")
def shared_data():
    """A folder with the three public data sets of the fixed split, and perhaps further sets."""
    return data_folder({"figshare", "kaggle", "healthy"})


@pytest.fixture(scope="session")
def all_sources():
    """A folder with all data sets of `read_sources`."""
    from brain_tumor.data.datasets import LATER_SETS

    return data_folder({"figshare", "kaggle", "healthy"} | LATER_SETS)


@pytest.fixture(scope="session")
def tracked():
    """All files under version control, as paths.

    Without git, all files that are not made from others.
    """
    try:
        out = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout.decode()
        found = [ROOT / name for name in out.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        made = {
            ".git",
            ".venv",
            "_docs",
            "_docs_src",
            "_proc",
            "build",
            "dist",
            "out",
            "data",
            "__pycache__",
            ".pytest_cache",
            ".ipynb_checkpoints",
        }
        found = [
            path
            for path in ROOT.rglob("*")
            if not made & set(path.relative_to(ROOT).parts)
            and not any(part.endswith(".egg-info") for part in path.parts)
        ]
    return sorted(path for path in found if path.is_file())


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests that ask for it are skipped where there is none."""
    pytest.importorskip("playwright", reason="needs playwright: pip install -e .[workbook,dev]")
    from browsers import chromium

    path = chromium()
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium, or set CHROMIUM to its path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture()
def visit(browser):
    """Opens pages that may ask nobody but the server they come from, and end without an error in
    them."""
    pages, outside, errors = [], [], []

    def visit(address, width=1280, height=720):
        page = browser.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
        home = "/".join(address.split("/")[:3])
        page.on(
            "request",
            lambda request: (
                outside.append(request.url)
                if not request.url.startswith((home, "data:", "blob:", home.replace("http", "ws")))
                else None
            ),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(30_000)  # for whatever a slow machine takes long for
        pages.append(page)
        page.goto(address, timeout=90_000)
        return page

    yield visit
    for page in pages:
        page.goto("about:blank")  # a page that is left ends its kernel
        page.close()
    assert outside == [] and errors == []
