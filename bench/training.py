"""Milliseconds an image in one training step of the compact network, by what computes it.

    python -m bench.training runs/bench/training.json

Each way runs in a process of its own, the ways in turn, twice. PyTorch is needed beside the extra
`workbook`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

WAYS = {
    "TensorFlow": "tensorflow",
    "Keras on PyTorch": "torch",
}
SIDES, BATCH, STEPS = (192, 256), 16, 8


def measure(way: str) -> dict[str, float]:
    """Median milliseconds an image by side, after two steps that do not count."""
    from brain_tumor.compact.network import build_compact, freeze_encoder
    from brain_tumor.compact.training import compile_compact
    from brain_tumor.training.loop import seed_everything

    seed_everything(0)
    model, found = build_compact(), {}
    freeze_encoder(
        model
    )  # as in training; how long a step takes doesn't depend on what the weights are
    compile_compact(model, 1e-3)
    for side in SIDES:
        rng = np.random.default_rng(side)
        pictures = rng.random((BATCH, side, side, 1), np.float32)
        truth = (
            np.eye(4, dtype=np.float32)[rng.integers(0, 4, BATCH)],
            (pictures > 0.9).astype(np.float32),
        )
        model.train_function, seconds = None, []
        for _ in range(STEPS + 2):
            begun = time.perf_counter()
            model.train_on_batch(pictures, truth)
            seconds.append(time.perf_counter() - begun)
        found[str(side)] = 1000 * float(np.median(seconds[2:])) / BATCH
    return found


def main(out: str) -> None:
    from brain_tumor.io.files import write_json
    from brain_tumor.training.loop import describe_environment

    rounds = {way: [] for way in WAYS}
    for _ in range(2):
        for way, backend in WAYS.items():
            child = [
                sys.executable,
                "-c",
                "import json; from bench.training import measure; "
                f"print(json.dumps(measure({way!r})))",
            ]
            done = subprocess.run(
                child,
                env=os.environ | {"KERAS_BACKEND": backend},
                capture_output=True,
                text=True,
                check=True,
            )
            rounds[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(way, rounds[way][-1], flush=True)
    best = {
        way: {side: round(min(r[side] for r in some), 1) for side in some[0]}
        for way, some in rounds.items()
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_json(
        out, {"milliseconds_an_image": best, "batch": BATCH, "surroundings": describe_environment()}
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
