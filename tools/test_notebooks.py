"""Run the tests in the notebooks, and show which chapter is done and how many are left.

    python tools/test_notebooks.py                  all notebooks, two at a time
    python tools/test_notebooks.py 02_io guides     only these folders or notebooks below nbs/
    python tools/test_notebooks.py --workers 1      one after the other

Each notebook runs from top to bottom, as `nbdev_test` runs it (cells marked `#| eval: false`,
`notest` or `slow` are skipped). Long notebooks start first, so that no worker is left with one at
the end; what took how long is kept in .venv/notebook_seconds.json for the next time. Exit status 1
where a notebook failed."""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from queue import Empty, Queue
from threading import Lock

sys.path.insert(0, str(Path(__file__).resolve().parent))
from chapters import ROOT, chapters  # noqa: E402

NOTEBOOKS = Path(os.environ.get("NOTEBOOKS_FOLDER") or ROOT / "nbs")
SECONDS = ROOT / ".venv" / "notebook_seconds.json"
PER_PROCESS = 10  # notebooks; a fresh process then takes over, so that memory stays bounded


def choose(names):
    """The notebooks to test, as paths below nbs/; all of the site where no name is given."""
    known = [*chapters(), "app.ipynb"]
    if not names:
        return known
    wanted = [name.removeprefix("nbs/").rstrip("/") for name in names]
    found = [
        name
        for name in known
        if any(
            name == one or name.startswith(f"{one}/") or name == f"{one}.ipynb" for one in wanted
        )
    ]
    if not found:
        sys.exit(
            f"{' '.join(names)}: no notebook of that name below nbs/; the sidebar of "
            "_quarto.yml lists all"
        )
    return found


def run_one(name):
    """(whether its tests passed, seconds) of one notebook."""
    from nbdev.config import get_config
    from nbdev.test import test_nb

    started = time.time()
    flags = get_config(path=ROOT).tst_flags.split()
    passed, _ = test_nb(NOTEBOOKS / name, skip_flags=flags, basepath=ROOT)
    return passed, time.time() - started


def recorded_seconds():
    """Seconds by notebook, from the last run on this machine."""
    try:
        return json.loads(SECONDS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def test_in_turn(waiting, finished):
    """Test notebooks from the queue `waiting`, in a process that is replaced now and then."""
    from test_notebooks import run_one as work  # a notebook takes the place of __main__

    while not waiting.empty():
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            for _ in range(PER_PROCESS):
                try:
                    name = waiting.get_nowait()
                except Empty:
                    return
                try:
                    finished(name, *process.submit(work, name).result())
                except BrokenProcessPool:  # a notebook took its process with it
                    finished(name, False, 0)
                    break
                except Exception as error:  # a notebook left its process unusable for others
                    print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
                    finished(name, False, 0)
                    break


def run_all(names, workers):
    """Test notebooks, some at a time; return the names of those that failed."""
    seconds, failed, started, lock = recorded_seconds(), [], time.time(), Lock()
    size = {name: (NOTEBOOKS / name).stat().st_size for name in names}
    waiting, count = Queue(), iter(range(1, len(names) + 1))
    for name in sorted(names, key=lambda name: (-seconds.get(name, 30), -size[name])):
        waiting.put(name)
    print(f"Testing {len(names)} notebooks, {workers} at a time", flush=True)

    def finished(name, passed, took):
        with lock:
            seconds[name] = round(took, 1)
            failed.extend([] if passed else [name])
            word = "passed" if passed else "FAILED"
            print(f"[{next(count):3}/{len(names)}] {word} {name} {took:.1f} s", flush=True)

    with ThreadPoolExecutor(workers) as threads:
        for done in [threads.submit(test_in_turn, waiting, finished) for _ in range(workers)]:
            done.result()
    if SECONDS.parent.is_dir():
        SECONDS.write_text(json.dumps(seconds, indent=1, sort_keys=True), encoding="utf-8")
    minutes = (time.time() - started) / 60
    passed = len(names) - len(failed)
    print(f"Notebooks: {passed} passed, {len(failed)} failed, {minutes:.1f} minutes")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="folders or notebooks below nbs/; default: all")
    parser.add_argument("--workers", type=int, default=2, help="notebooks at a time (default 2)")
    args = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    failed = run_all(choose(args.names), args.workers)
    for name in failed:
        print(f"FAILED nbs/{name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
