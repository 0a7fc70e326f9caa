"""How long the page takes to open beside an empty notebook, and whether its memory stays steady
(`make bench`).

    python bench/app.py            some minutes; the record is runs/bench/app.json
    python bench/app.py --quick    a first look; the record is out/bench/app.json

Opening is measured in turns under one Voila, in one browser: from the request until the button
Predict, or the one line, is seen. Memory and the time of a prediction are those of the process
behind the page, which makes them without a browser."""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path[:0] = [
    str(Path(__file__).resolve().parent.parent),
    str(Path(__file__).resolve().parent.parent / "tests"),
]
from bench.run import CACHE, ROOT, compare, judge, python, summary, surroundings  # noqa: E402

EVERY = 20  # predictions between two looks at the memory


def opening(rounds: int) -> dict[str, list[float]] | None:
    """Seconds until each page stands, in turns; None without a browser."""
    from browsers import chromium, notebook, voila

    if not chromium():
        return None
    from playwright.sync_api import sync_playwright

    seconds, stands = (
        {"page": [], "empty": []},
        {"page": ".bt-predict", "empty": "text=nothing here"},
    )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        notebook(Path(folder) / "page.ipynb", "from brain_tumor.app.app import App", "App()")
        notebook(Path(folder) / "empty.ipynb", "print('nothing here')")
        browser = play.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        with voila(folder, Path(folder) / "voila.log") as address:
            for number in range(rounds + 1):
                for name in seconds:
                    took = until_it_stands(browser, address(f"{name}.ipynb"), stands[name])
                    seconds[name] += [took] * (number > 0)  # the first round fills caches
        browser.close()
    return seconds


def until_it_stands(browser, address: str, last: str) -> float:
    """Seconds from the request until the last thing on the page is seen."""
    page = browser.new_page()
    start = time.perf_counter()
    page.goto(address, timeout=120_000)
    page.locator(last).wait_for(timeout=120_000)
    seconds = time.perf_counter() - start
    page.goto("about:blank")  # a page that is left ends its kernel
    page.close()
    time.sleep(1)
    return seconds


def resident() -> int:
    """Bytes of memory this process holds, where the system tells (Linux)."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def predictions(count: int) -> dict:
    """Predict so many different slices with one page.

    Seconds of each, and the memory on the way.
    """
    import cv2
    import numpy as np

    from brain_tumor.app.app import App

    app, seconds, memory = App(), [], []
    drawn = [
        cv2.imread(str(path), 0) for name, path in app.samples.items() if name.endswith(".png")
    ]
    for number in range(count):
        picture = np.roll(drawn[number % len(drawn)], (number // len(drawn)) - 12, axis=1)
        app.files.receive(write(app, number, picture), f"{number}.png")
        app.reader.submit(int).result()
        start = time.perf_counter()
        app.predict().result()
        seconds.append(time.perf_counter() - start)
        if (number + 1) % EVERY == 0:
            memory.append(resident())
    assert len(app.past) == count, app.intake.message.value
    return {"seconds": seconds, "memory": memory}


def write(app, number: int, picture) -> Path:
    """A picture where the page puts what is dropped on it."""
    import cv2

    path = app.session.place(f"{number}.png")
    cv2.imwrite(str(path), picture)
    return path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--predict", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.predict:
        return print(json.dumps(predictions(args.predict)))
    count, rounds = (40, 2) if args.quick else (200, 12)
    about, opened = surroundings(), opening(rounds)
    made = json.loads(python(Path(__file__).resolve(), "--predict", count)[1].splitlines()[-1])
    memory, later = [value / 1e6 for value in made["memory"]], made["seconds"][1:]
    table = (
        [
            judge(
                "the page opens, against an empty notebook",
                compare(opened["page"], opened["empty"]),
                most=2,
            )
        ]
        if opened
        else []
    )
    table.append(
        judge(
            "a later prediction (the median), against the first",
            {"ratio": median(later) / made["seconds"][0]},
            most=1,
        )
    )
    half = memory[len(memory) // 2 - 1]
    table.append(
        judge(
            f"memory after {count} predictions, against half of them",
            {"ratio": memory[-1] / half},
            most=1.05,
        )
    )
    memory_mb = {str(EVERY * (i + 1)): round(value, 1) for i, value in enumerate(memory)}
    seconds = {"first prediction": made["seconds"][0], "later predictions": summary(later)}
    if opened:
        seconds |= {name: summary(values) for name, values in opened.items()}
    record = {
        "what": "the page",
        "surroundings": about,
        "table": table,
        "predictions": count,
        "memory_mb": memory_mb,
        "seconds": seconds,
    }
    path = (CACHE if args.quick else ROOT / "runs" / "bench") / "app.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for line in table:
        print(
            f"{line['what']}: {line['ratio']:.2f}, at most {line['at_most']}: "
            f"{'met' if line['met'] else 'MISSED'}"
        )
    print("memory in MB:", record["memory_mb"])


if __name__ == "__main__":
    main()
