"""Measure what many scans and many workers cost (`make bench`): memory that stays flat, and time
against one process.

    python bench/scale.py             some minutes; the record is runs/bench/scale.json
    python bench/scale.py --quick     1,000 scans, one round; record: out/bench/scale-quick.json

Time is told as ratios of runs that take turns; memory in MB and as ratios within one run. The scans
of the memory's part are drawn from a few hundred phantoms in memory, so that ten thousand need no
disk."""

import argparse
import json
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import run as bench  # noqa: E402

WAYS = ("alone", "threads", "processes", "dask")


@dataclass(frozen=True)
class Settings:
    """How much is done."""

    many: int = 10_000  # scans of the memory's part, by one process
    shared: int = 4_000  # the same, by worker processes
    early: int = 1_000  # after how many memory is first looked at
    distinct: int = 300  # phantoms among them
    rounds: int = 3  # of each way
    scans: int = 200  # in a round
    workers: int = 2


QUICK = Settings(many=1_000, shared=500, early=200, distinct=20, rounds=1, scans=40)


# In a process of its own: `python bench/scale.py --work memory 10000 1000 300` and the like


def pictures(count: int, distinct: int, size: int = 256):
    """Many pictures from few, as bytes of PNG files.

    One number in a corner makes each a picture of its own.
    """
    import cv2

    from bench.scans import drawn

    few = [
        one.pixels if one.pixels.shape[0] == size else cv2.resize(one.pixels, (size, size))
        for one in drawn(distinct)
    ]
    for number in range(count):
        pixels = few[number % distinct].copy()
        pixels[0, :4] = [number >> shift & 255 for shift in (0, 8, 16, 24)]
        yield cv2.imencode(".png", pixels)[1].tobytes()


def executor_of(way: str, workers: int):
    """For a `with` statement: an executor, or nothing."""
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import contextmanager

    from brain_tumor.inference.workers import process_pool

    @contextmanager
    def dask():
        from distributed import Client, LocalCluster

        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client.get_executor()

    return {
        "alone": nullcontext,
        "dask": dask,
        "threads": lambda: ThreadPoolExecutor(workers),
        "processes": lambda: process_pool(workers),
    }[way]()


def children() -> float:
    """Resident memory of the processes below this one, in MB."""
    import psutil

    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.Error:
            pass
    return total / 1e6


def memory_of(count: int, early: int, distinct: int, way: str, workers: int) -> dict:
    """Resident memory early and late in one run from a generator to a table, and what the kept
    rows weigh."""
    import gc
    import pickle

    from bench.workers import memory
    from brain_tumor import analyze

    seen = []

    def watched():
        for number, data in enumerate(pictures(count, distinct)):
            if number in (early, count - 1):
                gc.collect()
                seen.append({"scans": number, "here": memory()[0], "below": children()})
            yield data

    with tempfile.TemporaryDirectory() as out, executor_of(way, workers) as executor:
        batch = analyze(watched(), progress=False, executor=executor)
        table = batch.to_csv(Path(out) / "results.csv", resume=True)
        lines = table.read_text(encoding="utf-8").count("\n") - 1
    row = len(pickle.dumps(batch.rows)) / len(batch.rows)
    return {
        "way": way,
        "scans": lines,
        "seen": seen,
        "peak": memory()[1],
        "row_bytes_pickled": row,
        "rows_MB": rows_size(batch.rows) / 1e6,
    }


def rows_size(rows: list[tuple]) -> int:
    """Bytes that the rows hold, what they share counted once."""
    seen, total = set(), sys.getsizeof(rows)
    for values in rows:
        total += sys.getsizeof(values)
        for value in values:
            if id(value) not in seen:
                seen.add(id(value))
                total += sys.getsizeof(value)
    return total


def times_of(folder: str, rounds: int, workers: int, ways: list[str]) -> dict:
    """Seconds of each way over one folder, in turns, the executors kept open and warm.

    And whether the tables are equal.
    """
    from contextlib import ExitStack

    from bench.workers import timed
    from brain_tumor import analyze

    with ExitStack() as stack, tempfile.TemporaryDirectory() as out:
        executors = {way: stack.enter_context(executor_of(way, workers)) for way in ways}
        tables = {way: Path(out) / f"{way}.csv" for way in ways}
        work = lambda way: analyze(folder, progress=False, executor=executors[way]).to_csv(
            tables[way]
        )
        for way in ways:
            work(way)
        seconds = {way: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                seconds[way].append(timed(work, way))
        same = len({table.read_bytes() for table in tables.values()}) == 1
    return {"seconds": seconds, "same_tables": same}


# The parts


def ask(*words) -> dict:
    """Run one piece of work in a fresh process."""
    return json.loads(bench.python("bench/scale.py", "--work", *words)[1].splitlines()[-1])


def one_value(value: float) -> dict:
    """A value of one run as a line of the table wants it."""
    return {"ratio": value, "lowest": value, "highest": value}


def flat(how: Settings) -> dict:
    """Memory over many scans, without an executor and with processes."""
    runs = [
        ask("memory", count, how.early, how.distinct, way, how.workers)
        for count, way in ((how.many, "alone"), (how.shared, "processes"))
    ]
    return {"runs": runs, "table": flat_table(runs, how)}


def flat_table(runs: list[dict], how: Settings) -> list[dict]:
    """What the runs say, line by line."""
    table, bound = [], 1.25 if how.many >= 10_000 else None
    for found in runs:
        first, last = found["seen"]
        name = {"alone": "one process", "processes": f"{how.workers} worker processes"}[
            found["way"]
        ]
        table.append(
            bench.judge(
                f"{found['scans']} scans, {name}: memory at the end, times that after {how.early}",
                one_value(last["here"] / first["here"]),
                most=bound,
            )
        )
        if found["way"] == "processes":
            table.append(
                bench.judge(
                    "  the same of the workers",
                    one_value(last["below"] / first["below"]),
                    most=bound,
                )
            )
        table.append(
            bench.judge(
                "  highest memory of the process that asks", one_value(found["peak"]), unit=" MB"
            )
        )
    each = runs[0]["rows_MB"] * 1e6 / runs[0]["scans"]
    return [
        *table,
        bench.judge("  of it a row of the table, a scan", one_value(each), unit=" bytes"),
    ]


def speed(how: Settings) -> dict:
    """Time of each way against one process."""
    from bench.scans import make_folder

    ways = [way for way in WAYS if way != "dask" or find_spec("distributed")]
    folder = make_folder(bench.CACHE / f"scans-{how.scans}-scale", how.scans, 20)
    found = ask("times", folder, how.rounds, how.workers, *ways)
    table = [
        bench.judge(
            f"{how.scans} scans to a table: one process' time, times that of {how.workers} {way}",
            bench.compare(found["seconds"]["alone"], found["seconds"][way]),
        )
        for way in ways[1:]
    ]
    skipped = (
        {}
        if "dask" in ways
        else {"skipped": "distributed is not installed, so Dask's workers can't be timed"}
    )
    return {
        **found,
        **skipped,
        "seconds": {way: bench.summary(values) for way, values in found["seconds"].items()},
        "table": table,
    }


PARTS = {"memory": flat, "speed": speed}


def work(words: list[str]) -> int:
    """What a fresh process is asked for."""
    name, *given = words
    if name == "memory":
        count, early, distinct, way, workers = given
        answer = memory_of(int(count), int(early), int(distinct), way, int(workers))
    else:
        folder, rounds, workers, *ways = given
        answer = times_of(folder, int(rounds), int(workers), ways)
    print(json.dumps(answer))
    return 0


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1,000 scans, one round")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="renew these, and leave the others as they are",
    )
    parser.add_argument("--out", type=Path, help="the record to write")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.work:
        return work(given.work)
    how = QUICK if given.quick else Settings()
    out = given.out or (
        bench.CACHE / "scale-quick.json" if given.quick else ROOT / "runs" / "bench" / "scale.json"
    )
    found = {
        name: {"settings": vars(how), "surroundings": bench.surroundings(), **PARTS[name](how)}
        for name in PARTS
        if name in given.parts
    }
    kept = (
        json.loads(out.read_text(encoding="utf-8"))["parts"]
        if out.is_file() and not given.quick
        else {}
    )
    record = {
        "parts": {name: {**kept, **found}[name] for name in PARTS if name in {**kept, **found}}
    }
    record["table"] = [row for part in record["parts"].values() for row in part["table"]]
    from brain_tumor.io.files import write_json

    write_json(out, record)
    print(f"\n{'':<76} {'measured':>9}  {'lowest to highest':<20} bound")
    print("\n".join(map(bench.shown, record["table"])))
    load, processors = (
        next(iter(found.values()))["surroundings"][key] for key in ("load_before", "processors")
    )
    if load is not None and load > processors / 4:
        print(
            f"The machine was busy before this began (load {load}): do not trust the "
            "times; memory doesn't mind."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
