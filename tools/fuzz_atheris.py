"""Fuzz the decoders with atheris: coverage-guided damage of the tests' seed files (`make fuzz`).

    python tools/fuzz_atheris.py [--runs 20000] [--record runs/fuzz/run.json]

Whatever cannot be read must raise a BrainTumorError. Everything is decoded in one process without
limits, so that a crash is a crash; the file that caused it is left in out/fuzz. Without atheris the
tool prints that it is skipped.
"""

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
    """Run libFuzzer; in a separate process, because libFuzzer does not return."""
    import atheris

    with atheris.instrument_imports(
        include=["brain_tumor.io", "pydicom", "nibabel", "nrrd", "tifffile"]
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


def write_seeds() -> int:
    """Write the seeds of the tests as files; return their number."""
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
    """Write seeds, search, record the outcomes."""
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
    count, tally = write_seeds(), OUT / "tally.json"
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
