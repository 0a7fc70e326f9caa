"""The training loop: Keras' own callbacks are oracles of its rules; a killed run resumes."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from errors import raises

from brain_tumor.io.errors import ErrorCode
from brain_tumor.training.loop import best_epoch, early_stopping, plateau_rate, read_history


def keras_rates(values, mode):
    """The learning rates that Keras' ReduceLROnPlateau sets for these values, without training."""
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-2))
    callback = keras.callbacks.ReduceLROnPlateau("watched", 0.5, 3, mode=mode, min_lr=1e-4)
    callback.set_model(model)
    callback.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        rates.append(float(model.optimizer.learning_rate))
        callback.on_epoch_end(epoch, {"watched": value})
    return rates


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_plateau_rule_is_that_of_keras(mode):
    falls = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        values = np.round(1 / (1 + np.arange(30) * 0.3) + rng.normal(0, 0.1, 30), 5)
        values = values if mode == "min" else 1 - values
        past = [{"watched": value} for value in values]
        ours = [
            plateau_rate(past[:epoch], 1e-2, "watched", least=1e-4, rising=mode == "max")
            for epoch in range(30)
        ]
        np.testing.assert_allclose(ours, keras_rates(values, mode), rtol=1e-5)
        falls += len(set(ours)) > 2
    assert falls > 20, "rates that never fall would prove little"


def test_early_stopping_is_that_of_keras():
    keras = pytest.importorskip("keras")
    model, stopped = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]), 0
    model.compile(keras.optimizers.SGD(1e-2))
    for seed in range(30):
        callback = keras.callbacks.EarlyStopping("val_loss", patience=5)
        callback.set_model(model)
        callback.on_train_begin()
        model.stop_training, past = False, []
        for epoch, loss in enumerate(np.random.default_rng(seed).random(20)):
            past.append({"val_loss": loss})
            callback.on_epoch_end(epoch, {"val_loss": loss})
            assert early_stopping(past) == model.stop_training
            if model.stop_training:
                assert best_epoch(past) == callback.best_epoch
                stopped += 1
                break
    assert stopped > 15


def test_a_history_without_the_column_is_rejected():
    with raises(ErrorCode.SELECTION_INVALID, "val_loss"):
        best_epoch([{"epoch": 1, "loss": 0.5}])
    with raises(ErrorCode.DATA_MISSING):
        best_epoch([])


TRAIN = """
import hashlib, os, signal, sys
from pathlib import Path
import keras, numpy as np
from brain_tumor.data.loading import background_batches
from brain_tumor.training.loop import adamw, plateau_rate, seed_everything, train_epochs

out, kill = Path(sys.argv[1]), int(sys.argv[2])
out.mkdir(exist_ok=True)
rng = np.random.default_rng(0)
x, y = rng.random((48, 12, 12, 1)).astype("float32"), rng.integers(0, 2, 48)

def data(epoch):
    rows = np.random.default_rng([7, epoch]).permutation(32)
    def load(number):
        if epoch == kill - 1 and number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        chosen = rows[8 * number : 8 * number + 8]
        return x[chosen], y[chosen]
    return background_batches(load, 4)

seed_everything(3)
inputs = keras.Input((12, 12, 1))
h = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(8, 3, name="first")(inputs))
h = keras.layers.Dropout(0.3, name="drop")(keras.layers.GlobalAveragePooling2D()(h))
model = keras.Model(inputs, keras.layers.Dense(2, name="classes")(h))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(adamw(1e-2, average=0.9), loss, jit_compile=False)
judge = lambda m: {"val_loss": float(m.evaluate(x[32:], y[32:], verbose=0))}
rate = lambda step, past: plateau_rate(past, 1e-2, patience=1)
train_epochs(model, data, 4, rate, out, judge, "-val_loss", True, seed=3)
digest = hashlib.sha256()
for variable in [*model.variables, *model.optimizer.variables]:
    digest.update(np.ascontiguousarray(np.asarray(variable)))
print(digest.hexdigest())
"""


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_a_run_with_dropout_that_was_killed_ends_in_the_same_weights(tmp_path, backend):
    for needed in ("keras", backend):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")

    def train(folder, kill=0):
        return subprocess.run(
            [sys.executable, "-c", TRAIN, str(tmp_path / folder), str(kill)],
            capture_output=True,
            text=True,
            env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    whole = train("whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    assert train("cut", kill=3).returncode != 0
    assert len(read_history(tmp_path / "cut" / "history.csv")) == 2
    resumed = train("cut")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert resumed.stdout.split()[-1] == whole.stdout.split()[-1]
    logs = [(tmp_path / name / "history.csv") for name in ("whole", "cut")]
    strip = lambda row: {k: v for k, v in row.items() if k != "seconds"}
    assert [strip(r) for r in read_history(logs[0])] == [strip(r) for r in read_history(logs[1])]
