"""Measure the speed of brain_tumor as ratios, both sides of each taken in turns in one run (`make
bench`).

    python bench/run.py               everything, some minutes; the record is runs/bench/bench.json
    python bench/run.py --quick       few repeats, 100 scans; the record is out/bench/quick.json
    python bench/run.py --parts start import

Absolute times move with the machine and with whatever else it is doing; the ratios are what is
promised. A missed bound is said and recorded, and is no failure of the run. Run it on a machine
that does nothing else."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "out" / "bench"
SAMPLE = "brain_tumor/samples/glioma-axial.png"  # from the project's folder
PARTS = ("analyze", "start", "import", "folder")
LIBRARIES = (
    "brain_tumor",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "scikit-image",
    "pandas",
    "pillow",
    "pydicom",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
)


@dataclass(frozen=True)
class Settings:
    """How often each thing is done."""

    rounds: int = 12  # of the thesis' way and a burst of `analyze`
    burst: int = 20  # calls of `analyze` in each
    starts: int = 15  # processes of each kind
    folders: int = 3  # times the folder, and the network alone
    scans: int = 1000  # in the folder
    distinct: int = 50  # phantoms among them


QUICK = Settings(rounds=2, burst=5, starts=3, folders=2, scans=100, distinct=10)


def summary(values: list[float]) -> dict:
    """Median, lowest, highest and how many."""
    return {
        "median": median(values),
        "lowest": min(values),
        "highest": max(values),
        "n": len(values),
    }


def compare(above: list[float], below: list[float]) -> dict:
    """The ratio of two medians, and the lowest and highest ratio of a pair."""
    pairs = [a / b for a, b in zip(above, below, strict=True)]
    return {"ratio": median(above) / median(below), "lowest": min(pairs), "highest": max(pairs)}


def judge(
    what: str,
    value: dict,
    least: float | None = None,
    most: float | None = None,
    aim: float | None = None,
    unit: str = "x",
) -> dict:
    """One line of the table:

    A measured value against its bound and its aim. Without a bound it is for information.
    """
    ratio, bound = value["ratio"], most if least is None else least
    sign = 1 if most is None else -1
    met = None if bound is None else sign * ratio >= sign * bound
    reached = None if aim is None else sign * ratio >= sign * aim
    return {
        "what": what,
        **value,
        "unit": unit,
        "at_least": least,
        "at_most": most,
        "met": met,
        "aim": aim,
        "aim_met": reached,
    }


# Processes


def surroundings() -> dict:
    """Python, system, processors, load and library versions: no name and no path of the machine."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": processor(),
        "processors": os.cpu_count(),
        "load_before": load,
        "libraries": found,
    }


def processor() -> str:
    """The processor's name as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor()


def environment() -> dict:
    """The variables of a process that is timed:

    Compiled modules are kept, as in any installed package.
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
    }
    return {
        **kept,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": "tensorflow",
        "PYTHONWARNINGS": "ignore",
    }


def fail(words: tuple, error: str):
    sys.exit(f"this failed: python {' '.join(map(str, words))}\n{error[-4000:]}")


def python(*words) -> tuple[float, str]:
    """Run a Python from start to end: seconds, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    seconds = time.perf_counter() - start
    return (seconds, done.stdout) if done.returncode == 0 else fail(words, done.stderr)


def work(*words) -> dict:
    """Run one piece of work of bench/workers.py in a fresh process: its report."""
    return json.loads(python("-m", "bench.workers", *words)[1].splitlines()[-1])


class Worker:
    """A process of bench/workers.py that stays alive and times what it is asked to."""

    def __init__(self, *words):
        self.words, self.errors = (
            ("-m", "bench.workers", *map(str, words)),
            tempfile.TemporaryFile(),
        )
        self.process = subprocess.Popen(
            [sys.executable, *self.words],
            cwd=ROOT,
            env=environment(),
            encoding="utf-8",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self.ready = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        fail(self.words, self.errors.read().decode("utf-8", "replace"))

    def seconds(self, job: str, repeats: int = 1) -> list[float]:
        """Seconds of each call.

        Threads of the other process are given a moment to go to sleep first.
        """
        time.sleep(0.2)
        self.process.stdin.write(f"{job} {repeats}\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error) -> None:
        self.process.stdin.close()
        self.process.wait()


def turns(count: int, name: str):
    """The rounds of one part, under a progress bar."""
    from tqdm.auto import tqdm

    return tqdm(range(count), desc=name, unit="round")


# The four parts


def one_scan(how: Settings, model: str) -> dict:
    """`analyze` warm against the thesis' own way, in two processes that are asked in turns."""
    if find_spec("tensorflow") is None:
        return {
            "skipped": "TensorFlow is not installed, so the thesis' way cannot be timed",
            "table": [],
        }
    with Worker("analyse", model) as ours, Worker("thesis", ours.ready["sample"]) as theirs:
        seconds = {name: [] for name in (*theirs.ready["jobs"], *ours.ready["jobs"])}
        for _ in turns(how.rounds, "analyze"):
            for worker, repeats in ((theirs, 1), (ours, how.burst)):
                for job in worker.ready["jobs"]:
                    seconds[job].append(median(worker.seconds(job, repeats)))
        facts = {"sample": ours.ready, "thesis": theirs.ready}
    table = [
        judge(
            "one scan: analyze, times faster than the thesis' way",
            compare(seconds["thesis"], seconds["analyze"]),
            least=60,
            aim=100,
        ),
        judge(
            "  the same for the networks that draw the mask, alone",
            compare(seconds["resunet"], seconds["network"]),
        ),
        judge(
            "  share of analyze that is the network",
            compare(seconds["network"], seconds["analyze"]),
        ),
    ]
    return {
        **facts,
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "table": table,
    }


def processes(how: Settings, name: str, ours: str, theirs: str) -> tuple[dict, dict]:
    """Two one-line programs as whole processes, in turns.

    Each is run once before, to fill the page cache.
    """
    programs, seconds = {"ours": ours, "theirs": theirs}, {"ours": [], "theirs": []}
    for code in programs.values():
        python("-c", code)
    for _ in turns(how.starts, name):
        for which, code in programs.items():
            seconds[which].append(python("-c", code)[0])
    return compare(seconds["ours"], seconds["theirs"]), {
        which: summary(values) for which, values in seconds.items()
    }


def start(how: Settings, model: str) -> dict:
    """The first result of a fresh Python against the import of what it stands on."""
    engine = "" if model == "compact" else f", engine={model!r}"
    ours = f"from brain_tumor import analyze; print(analyze({SAMPLE!r}{engine}))"
    ratio, seconds = processes(how, "start", ours, "import numpy, cv2, onnxruntime")
    row = judge(
        "first result of a fresh Python, times `import numpy, cv2, onnxruntime`",
        ratio,
        most=3,
        aim=2,
    )
    return {"seconds": seconds, "table": [row]}


def importing(how: Settings, model: str) -> dict:
    """`import brain_tumor` against `import numpy`."""
    ratio, seconds = processes(how, "import", "import brain_tumor", "import numpy")
    return {
        "seconds": seconds,
        "table": [judge("import brain_tumor, times `import numpy`", ratio, most=2)],
    }


def many_scans(how: Settings, model: str) -> dict:
    """A folder of scans, read, analysed and written, against the network alone on arrays in
    memory."""
    from bench.scans import make_folder

    scans = make_folder(CACHE / f"scans-{how.scans}", how.scans, how.distinct)
    ours, theirs = [], []
    for _ in turns(how.folders, "folder"):
        with tempfile.TemporaryDirectory(dir=CACHE) as out:
            ours.append(work("folder", scans, out, model))
        theirs.append(work("network", scans, how.scans, ours[0]["batch_size"], model))
    growth = [run["rss"] / run["rss_early"] for run in ours]
    speed = compare([run["seconds"] for run in theirs], [run["seconds"] for run in ours])
    peak, grown = (
        {"ratio": max(values), "lowest": min(values), "highest": max(values)}
        for values in ([run["peak"] for run in ours], growth)
    )
    table = [
        judge(
            f"{how.scans} scans read, analysed and written: share of the network's own speed",
            speed,
            least=0.5,
        ),
        judge("  highest memory", peak, most=700, unit=" MB"),
        judge(
            "  memory after all scans, times that after a fifth",
            grown,
            most=1.1 if how.scans >= 1000 else None,
        ),
    ]
    return {
        "scans": how.scans,
        "distinct": 3 * how.distinct,
        "batch_size": ours[0]["batch_size"],
        "ours": ours,
        "network": theirs,
        "table": table,
    }


# The record


def shown(row: dict) -> str:
    """A line of the table as text."""

    def number(value):
        return f"{value:.0f}{row['unit']}" if value >= 50 else f"{value:.2f}{row['unit']}"

    bound = (
        ""
        if row["met"] is None
        else f">= {row['at_least']:g}"
        if row["at_most"] is None
        else f"<= {row['at_most']:g}"
    )
    word = {None: "", True: "met", False: "MISSED"}[row["met"]]
    if row["aim"] is not None:
        word += f" (aim {row['aim']:g}: {'met' if row['aim_met'] else 'not yet'})"
    spread = f"{number(row['lowest'])} to {number(row['highest'])}"
    return f"{row['what']:<76} {number(row['ratio']):>9}  {spread:<20} {bound:<8} {word}"


def run(how: Settings, parts: list[str], model: str = "compact") -> dict:
    """Do the parts one after the other: the whole record."""
    does = dict(zip(PARTS, (one_scan, start, importing, many_scans)))
    record = {"settings": vars(how), "surroundings": surroundings(), "parts": {}}
    for name in PARTS:
        if name in parts:
            record["parts"][name] = does[name](how, model)
    record["table"] = [row for part in record["parts"].values() for row in part["table"]]
    return record


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, 100 scans")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="leave the others out"
    )
    parser.add_argument("--model", default="compact", help="another packed model's folder")
    parser.add_argument("--out", type=Path, help="the record to write")
    given = parser.parse_args(words)
    if given.model != "compact":
        given.model = str(Path(given.model).resolve())
    complete = not given.quick and set(given.parts) == set(PARTS)
    out = given.out or (
        ROOT / "runs" / "bench" / "bench.json" if complete else CACHE / "quick.json"
    )
    record = run(QUICK if given.quick else Settings(), given.parts, given.model)
    from brain_tumor.io.files import write_json

    write_json(out, record)
    print(f"\n{'':<76} {'measured':>9}  {'lowest to highest':<20} bound")
    print("\n".join(map(shown, record["table"])))
    for name, part in record["parts"].items():
        if "skipped" in part:
            print(f"{name}: skipped. {part['skipped']}.")
    load, processors = (record["surroundings"][key] for key in ("load_before", "processors"))
    if load is not None and load > processors / 4:
        print(f"The machine was busy before this began (load {load}): do not trust these figures.")
    print(f"Record: {out.relative_to(ROOT).as_posix() if out.is_relative_to(ROOT) else out}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
