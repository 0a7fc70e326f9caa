"""An ensemble of recorded runs, asked about scans of their test: does the folder say what the runs
have recorded?

    python -m bench.ensemble DATA runs/bench/ensemble.json METHOD RUN RUN...

DATA is the folder of the public sets; each RUN holds its weights. Every fifth picture of the test
is asked, one at a time."""

import sys
import tempfile
from pathlib import Path

import numpy as np


def main(data: str, out: str, method: str, *runs: str) -> None:
    from brain_tumor.classification.ensemble import build_ensemble, load_ensemble
    from brain_tumor.classification.recipe import Recipe, choose_images
    from brain_tumor.classification.stacking import combine_predictions, stack_predictions
    from brain_tumor.io.decode import read_in_process
    from brain_tumor.io.files import write_json
    from brain_tumor.training.loop import describe_environment
    from brain_tumor.training.runs import load_run

    settings = load_run(runs[0]).settings
    table, stacked = stack_predictions({Path(run).name: run for run in runs})
    paths = choose_images(data, Recipe(**settings["recipe"]))[0].set_index(["source", "image"])[
        "path"
    ]
    some = np.flatnonzero(table["role"] == "test")[::5]
    scans = [
        read_in_process(paths[source, image])
        for source, image in zip(table["source"].iloc[some], table["image"].iloc[some])
    ]
    with tempfile.TemporaryDirectory() as folder:
        ensemble = load_ensemble(build_ensemble(runs, Path(folder) / "ensemble", method))
        size = sum(file.stat().st_size for file in (Path(folder) / "ensemble").iterdir())
        predicted = [ensemble.probabilities([scan])[0] for scan in scans]
        recorded = combine_predictions(ensemble.method, ensemble.arrays, stacked[some])
    write_json(
        out,
        {
            "runs": [Path(run).name for run in runs],
            "method": method,
            "pictures": len(scans),
            "same_class": float((np.argmax(predicted, 1) == recorded.argmax(1)).mean()),
            "largest_difference": round(float(np.abs(np.array(predicted) - recorded).max()), 4),
            "megabytes": round(size / 1e6, 1),
            "split": settings["split_sha256"],
            "surroundings": describe_environment(),
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
