"""Time of one forward pass of each backbone at its own side, as ratios to the fastest, all in turns
in one process.

    python -m bench.backbones runs/bench/backbones.json "nothing else ran"

The second word says what ran beside it; it goes into the record. TensorFlow on two threads.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

BATCHES, ROUNDS = (1, 16), {1: 15, 16: 5}


def networks() -> dict:
    """Each network with the thesis' head, as a compiled function, and its side."""
    import keras
    import tensorflow as tf

    from brain_tumor.classification.backbones import build_backbone
    from brain_tumor.classification.inception_v3 import INCEPTION_V3
    from brain_tumor.classification.mobilenet_v2 import MOBILENET_V2
    from brain_tumor.classification.resnet50 import RESNET50, RESNET50_V2
    from brain_tumor.classification.vgg19 import VGG19
    from brain_tumor.classification.xception import XCEPTION

    keras.utils.set_random_seed(0)
    found = {}
    for backbone in (XCEPTION, INCEPTION_V3, RESNET50, VGG19, MOBILENET_V2, RESNET50_V2):
        model = build_backbone(backbone)
        found[backbone.name] = (
            tf.function(lambda x, model=model: model(x, training=False)),
            backbone.side,
        )
    return found


def measure(functions: dict, batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call; every round asks each network once. The first round doesn't count."""
    import tensorflow as tf
    from tqdm.auto import tqdm

    pictures = {
        side: tf.constant(np.random.default_rng(side).random((batch, side, side, 3), np.float32))
        for _, side in functions.values()
    }
    seconds = {name: [] for name in functions}
    for _ in tqdm(range(rounds + 1), desc=f"batch of {batch}", mininterval=2):
        for name, (function, side) in functions.items():
            begun = time.perf_counter()
            function(pictures[side]).numpy()
            seconds[name].append(time.perf_counter() - begun)
    return {name: values[1:] for name, values in seconds.items()}


def ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Time of each relative to the fastest's in the same round:

    Median and middle half of the rounds.
    """
    fastest = min(seconds, key=lambda name: np.median(seconds[name]))
    found = {}
    for name, values in seconds.items():
        pairs = np.array(values) / np.array(seconds[fastest])
        low, middle, high = (round(float(value), 2) for value in np.percentile(pairs, (25, 50, 75)))
        found[name] = {
            "milliseconds": round(1000 * float(np.median(values)), 1),
            "ratio": middle,
            "low": low,
            "high": high,
        }
    return found


def main(out: str, beside: str) -> None:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from brain_tumor.io.files import write_json
    from brain_tumor.training.loop import describe_environment

    functions, about = networks(), describe_environment()
    found = {str(batch): ratios(measure(functions, batch, ROUNDS[batch])) for batch in BATCHES}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_json(
        out,
        {
            "what": "one forward pass with the thesis' head, random weights, each network at its "
            "own side; time of the whole batch",
            "beside": beside,
            "backend": "tensorflow",
            "threads": 2,
            "rounds": {str(batch): n for batch, n in ROUNDS.items()},
            "seed": 0,
            "sides": {name: side for name, (_, side) in functions.items()},
            "batches": found,
            "surroundings": about,
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
