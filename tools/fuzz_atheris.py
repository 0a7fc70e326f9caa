"""Damage files by atheris, which sees which lines each file reaches and goes on from there (`make
fuzz`).

    python tools/fuzz_atheris.py [--runs 20000] [--record runs/fuzz/run.json]

Whatever isn't read must be refused with a BrainTumorError. Everything is decoded in one process
here, without limits of its own, so that a crash is a crash: the file that caused it is left in
out/fuzz. Without atheris nothing is done, and said."""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "fuzz"


def search(runs: int, tally: Path) -> None:
    """In a process of its own, for libFuzzer doesn't come back."""
    import atheris

    with atheris.instrument_imports(
        include=["brain_tumor.io.scan", "pydicom", "nibabel", "nrrd", "tifffile"]
    ):
        import nibabel  # noqa: F401
        import nrrd  # noqa: F401
        import pydicom  # noqa: F401
        import tifffile  # noqa: F401

        from brain_tumor.io.decode import read_in_process
        from brain_tumor.io.errors import BrainTumorError
    seen = Counter()

    def one(data: bytes) -> None:
        if len(data) > 1:
            try:
                read_in_process(data[1:], slice=(None, 0, 1, (1, 0))[data[0] % 4])
                seen["read"] += 1
            except BrainTumorError:
                seen["refused"] += 1
        else:
            seen["empty"] += 1
        if sum(seen.values()) in (runs, runs // 2):
            tally.write_text(json.dumps(seen))

    atheris.Setup(
        [
            sys.argv[0],
            f"-atheris_runs={runs}",
            f"-artifact_prefix={OUT}/",
            "-rss_limit_mb=6000",
            "-timeout=60",
            "-verbosity=0",
            "-max_len=60000",
            str(OUT / "found"),
            str(OUT / "seeds"),
        ],
        one,
    )
    atheris.Fuzz()


def lay_out() -> int:
    """The seeds of the tests, as files; how many."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from mutations import FORMATS, seeds

    (OUT / "found").mkdir(parents=True, exist_ok=True)
    (OUT / "seeds").mkdir(exist_ok=True)
    count = 0
    for kind in FORMATS:
        for number, data in enumerate(seeds(kind)):
            for first in (b"\0", b"\2"):
                (OUT / "seeds" / f"{kind}-{number}-{first[0]}").write_bytes(first + data)
                count += 1
    return count


def main() -> int:
    """Seeds, search, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.search:
        sys.path.insert(0, str(ROOT))
        search(given.runs, given.search)
        return 0
    if find_spec("atheris") is None:
        print("atheris is not installed (pip install atheris, on Linux and macOS): skipped")
        return 0
    count, tally = lay_out(), OUT / "tally.json"
    tally.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, __file__, "--search", str(tally), "--runs", str(given.runs)],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    outcomes = json.loads(tally.read_text()) if tally.is_file() else {}
    print(f"{sum(outcomes.values())} files by atheris: {outcomes}; exit code {done.returncode}")
    if done.returncode:
        print(done.stderr.decode(errors="replace")[-3000:])
    if given.record and outcomes:
        before = json.loads(given.record.read_text()) if given.record.is_file() else {}
        before["atheris"] = {
            "examples": sum(outcomes.values()),
            "seeds": count,
            "outcomes": outcomes,
            "crashed": done.returncode != 0,
        }
        given.record.write_text(json.dumps(before, indent=1, sort_keys=True) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
