"""An ensemble of recorded runs, asked about scans of their test: does the folder say what the runs have recorded?

    python -m bench.ensemble DATA runs/bench/ensemble.json METHOD RUN RUN...

DATA is the folder of the public sets; each RUN holds its weights. Every fifth picture of the test is asked, one at a time.
"""
import sys
import tempfile
from pathlib import Path

import numpy as np


def main(data: str, out: str, method: str, *runs: str) -> None:
    from brain_tumor.backbones.recipe import Recipe, run_table
    from brain_tumor.ensemble import ensemble_of, load_ensemble
    from brain_tumor.runs import load_run
    from brain_tumor.scan import read
    from brain_tumor.stacking import combine, hstack
    from brain_tumor.training import surroundings, write_json

    settings = load_run(runs[0]).settings
    table, stacked = hstack({Path(run).name: run for run in runs})
    paths = run_table(data, Recipe(**settings["recipe"]))[0].set_index(["source", "image"])["path"]
    some = np.flatnonzero(table["role"] == "test")[::5]
    scans = [read(paths[source, image]) for source, image in zip(table["source"].iloc[some], table["image"].iloc[some])]
    with tempfile.TemporaryDirectory() as folder:
        ensemble = load_ensemble(ensemble_of(runs, Path(folder) / "ensemble", method))
        size = sum(file.stat().st_size for file in (Path(folder) / "ensemble").iterdir())
        said = [ensemble.probabilities([scan])[0] for scan in scans]
        recorded = combine(ensemble.method, ensemble.arrays, stacked[some])
    write_json(out, {"runs": [Path(run).name for run in runs], "method": method, "pictures": len(scans), "same_class": float((np.argmax(said, 1) == recorded.argmax(1)).mean()),
                     "largest_difference": round(float(np.abs(np.array(said) - recorded).max()), 4), "megabytes": round(size / 1e6, 1),
                     "split": settings["split_sha256"], "surroundings": surroundings()})


if __name__ == "__main__":
    main(*sys.argv[1:])
