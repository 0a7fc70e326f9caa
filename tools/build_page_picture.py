"""Take the picture of the page for its chapter: python tools/build_page_picture.py

Needs Chromium. The page is served as `make app` serves it, a bundled sample is opened, and Predict
is clicked."""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from browsers import chromium, voila  # noqa: E402

WIDTH, HEIGHT, COLOURS = 1280, 1240, 192


def take(address):
    """The page with two answers, as the bytes of a PNG."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(address, timeout=90_000)
        for number, name in enumerate(
            ("no_tumor-axial.png", "meningioma-coronal-dicom.dcm", "glioma-axial.png"), 1
        ):
            page.locator(".bt-sample select").select_option(name)
            page.locator(".bt-open-sample").click()
            page.locator(".bt-preview", has_text=name).wait_for()
            page.locator(".bt-predict").click()
            page.wait_for_function(
                "n => document.querySelectorAll('.bt-history .bt-card').length === n", arg=number
            )
        page.locator(".bt-pane-heat img").wait_for()
        page.wait_for_timeout(500)
        page.locator(".bt-headline h2").click()
        page.wait_for_timeout(500)
        return page.screenshot()


def main():
    with (
        tempfile.TemporaryDirectory() as folder,
        voila(ROOT / "nbs", Path(folder) / "voila.log") as address,
    ):
        picture = Image.open(io.BytesIO(take(address("app.ipynb")))).convert("RGB")
    target = ROOT / "nbs" / "images" / "page.png"
    picture.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        target, optimize=True
    )
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
