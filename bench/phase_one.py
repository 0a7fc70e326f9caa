"""Phase 1 on features computed once against phase 1 the plain way, in one run: the same pictures,
head, order and epochs.

    python -m bench.phase_one DATA WEIGHTS runs/bench/phase_one.json

DATA is the folder of the public sets, WEIGHTS a start of MobileNetV2. Both ways read the pictures
themselves; the first features are computed, not found."""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

PICTURES = {"train": 400, "validation": 200}


def some_of(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A fixed draw of each side."""
    return {
        role: table[table["role"] == role].sample(n, random_state=0).reset_index(drop=True)
        for role, n in PICTURES.items()
    }


def plainly(backbone, base, parts, labels, how, out) -> tuple[float, list[dict]]:
    """Seconds and history of phase 1 with the whole network in every epoch."""
    import keras

    from brain_tumor.classification.backbones import add_head
    from brain_tumor.classification.fine_tuning import (
        HISTORY_COLUMNS,
        compile_phase,
        fine_tuning_batches,
        predict_classes,
        validation_metrics,
    )
    from brain_tumor.classification.recipe import learning_rate_rule, preprocess_images
    from brain_tumor.imaging.preprocessing import scale_pixels
    from brain_tumor.training.loop import seed_everything, train_epochs

    begun, side = time.perf_counter(), base.input_shape[1]
    seed_everything(how.seed)
    model = keras.Model(base.input, add_head(base.output), name=backbone.name)
    for layer in model.layers:
        layer.trainable = layer.name in ("dense", "classes")
    compile_phase(model, how.rate)
    ready = lambda part: scale_pixels(part, backbone.application, how.scaling)
    pictures = {
        role: preprocess_images(part, side, how.preparation) for role, part in parts.items()
    }
    judge = lambda net: (
        validation_metrics(
            predict_classes(net, pictures["validation"], ready=ready), labels["validation"]
        )
        | {"phase": 1}
    )
    epoch = lambda number: fine_tuning_batches(
        pictures["train"], labels["train"], backbone, how, number, ready
    )
    past = train_epochs(
        model,
        epoch,
        how.epochs,
        learning_rate_rule(how, how.rate, 0),
        out,
        judge,
        "-val_loss",
        columns=HISTORY_COLUMNS,
    )
    return time.perf_counter() - begun, past


def on_features(backbone, base, parts, labels, how, out) -> tuple[float, list[dict]]:
    """Seconds and history of phase 1 on features, their computation included."""
    from brain_tumor.classification.fine_tuning import pooled_features, train_head
    from brain_tumor.training.loop import read_history

    begun = time.perf_counter()
    train_head(
        {
            role: pooled_features(part, base, backbone, how, out / "features")
            for role, part in parts.items()
        },
        labels,
        how,
        out,
    )
    return time.perf_counter() - begun, read_history(out / "history.csv")


def main(data: str, weights: str, out: str) -> None:
    from brain_tumor.classification.backbones import build_base, load_start
    from brain_tumor.classification.mobilenet_v2 import MOBILENET_V2
    from brain_tumor.classification.recipe import (
        choose_images,
        class_indices,
        classification_recipe,
        preprocess_images,
    )
    from brain_tumor.imaging.preprocessing import scale_pixels
    from brain_tumor.io.files import write_json
    from brain_tumor.training.loop import describe_environment

    how = classification_recipe(
        "honest", balance="none", healthy=False, augment=False, schedule="plateau"
    )
    table, _, split = choose_images(data, how)
    parts = some_of(table)
    labels, base, found = (
        {role: class_indices(part) for role, part in parts.items()},
        build_base(MOBILENET_V2),
        {},
    )
    load_start(
        base,
        MOBILENET_V2,
        weights,
        scale_pixels(
            preprocess_images(parts["train"][:32], base.input_shape[1]), "MobileNetV2", how.scaling
        ),
    )
    base.predict_on_batch(np.zeros((1, *base.input_shape[1:]), np.float32))
    with tempfile.TemporaryDirectory() as folder:
        for name, way in {"plain": plainly, "features": on_features}.items():
            seconds, past = way(MOBILENET_V2, base, parts, labels, how, Path(folder) / name)
            best = min(past, key=lambda row: float(row["val_loss"]))
            found[name] = {
                "seconds": round(seconds, 1),
                "epochs": len(past),
                "val_accuracy": float(best["val_accuracy"]),
                "val_loss": float(best["val_loss"]),
            }
            print(name, found[name], flush=True)
    write_json(
        out,
        {
            "network": MOBILENET_V2.name,
            "pictures": PICTURES,
            "split_sha256": split,
            "ways": found,
            "times_faster": round(found["plain"]["seconds"] / found["features"]["seconds"], 2),
            "val_accuracy_differs": round(
                abs(found["plain"]["val_accuracy"] - found["features"]["val_accuracy"]), 4
            ),
            "surroundings": describe_environment(),
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
