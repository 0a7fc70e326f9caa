"""Speed: plain PyTorch gives Keras' own answers, and the precision is chosen by the clock."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from brain_tumor.training import acceleration
from brain_tumor.training.weights import load_weights, save_weights

COMPARE = """
import json
import keras, numpy as np
from brain_tumor.compact.network import build_compact, load_start_weights
from brain_tumor.training.acceleration import through_torch

keras.utils.set_random_seed(1)
x = np.random.default_rng(0).random((4, 96, 128, 1), np.float32)
found = {}
for training in (False, True):
    keras.utils.set_random_seed(2)
    model = build()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(0.1 * np.random.default_rng(1).standard_normal(layer.moving_mean.shape))
            layer.moving_variance.assign(np.random.default_rng(2).uniform(0.5, 2, layer.moving_variance.shape))
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0
    before = model.get_weights()
    answers = []
    for run in (lambda m: m, lambda m: through_torch(m, half=False)):
        model.set_weights(before)
        outputs = [keras.ops.convert_to_numpy(o) for o in run(model)(x, training=training)]
        moved = [keras.ops.convert_to_numpy(v) for v in model.non_trainable_variables if "moving" in v.path]
        answers.append((outputs, moved))
    (ours, our_statistics), (theirs, their_statistics) = answers
    found[str(training)] = {
        "spread": min(float(np.ptp(a)) for a in ours),
        "outputs": max(float(np.abs(a - b).max() / np.ptp(a)) for a, b in zip(ours, theirs)),
        "statistics": max(float((np.abs(a - b) / (1 + np.abs(a))).max()) for a, b in zip(our_statistics, their_statistics)),
        "moved": float(max(np.abs(a - b).max() for a, b in zip(our_statistics, [v for v, w in zip(before, model.weights) if "moving" in w.path])))}
head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(4, activation="softmax")])
rows, head = np.random.default_rng(3).random((7, 6), np.float32), keras.Model(head.inputs, head.outputs)
plain = keras.ops.convert_to_numpy(head(rows))
found["rows"] = float(np.abs(keras.ops.convert_to_numpy(through_torch(head, half=False)(rows)) - plain).max())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compared():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed; it is needed for faster training only")
    done = subprocess.run(
        [sys.executable, "-c", COMPARE],
        capture_output=True,
        text=True,
        env=os.environ | {"KERAS_BACKEND": "torch"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("training", ["False", "True"])
def test_plain_torch_gives_what_keras_gives(compared, training):
    assert compared[training]["spread"] > 0.1, "all answers alike would prove nothing"
    assert compared[training]["outputs"] < 1e-3


def test_a_network_of_rows_is_understood_too(compared):
    assert compared["rows"] < 1e-5


def test_statistics_move_as_in_keras(compared):
    """PyTorch divides by n - 1 where Keras divides by n: with 4 x 3 x 4 values at the deepest level, 2 %, times the momentum's 1 %."""
    assert compared["False"]["moved"] == 0
    assert compared["True"]["moved"] > 0
    assert compared["True"]["statistics"] < 2e-3


# ---- the choice of precision


def small():
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = layers.Conv2D(4, 3, name="conv")(inputs := keras.Input((16, 16, 3), name="scan"))
    return keras.Model(
        inputs,
        layers.Dense(4, activation="softmax", name="classes")(
            layers.GlobalMaxPooling2D(name="pool")(layers.BatchNormalization(name="norm")(x))
        ),
        name="small",
    )


def compiled(model):
    import keras

    model.compile(keras.optimizers.Adamax(0.01), "categorical_crossentropy", jit_compile=False)
    return model


@pytest.mark.parametrize(
    "seconds, half",
    [({"float32": 1.0, "bfloat16": 0.5}, True), ({"float32": 0.5, "bfloat16": 1.0}, False)],
)
def test_the_clock_decides(monkeypatch, seconds, half):
    monkeypatch.setattr(
        acceleration,
        "seconds_a_step",
        lambda model, inputs, targets: seconds[
            "bfloat16" if getattr(model, "half", False) else model.get_layer("conv").compute_dtype
        ],
    )
    monkeypatch.setattr(acceleration, "through_torch", lambda model, half: model)
    model = small()
    chosen, said = acceleration.quicker(model, compiled, None, None)
    assert said == {
        "half": half,
        "seconds_full": seconds["float32"],
        "seconds_half": seconds["bfloat16"],
    }
    assert chosen.optimizer is not None and all(
        (a == b).all() for a, b in zip(model.get_weights(), chosen.get_weights())
    )
    if keras_backend() != "torch":
        assert (
            chosen.get_layer("conv").compute_dtype == ("bfloat16" if half else "float32")
            and chosen.get_layer("classes").compute_dtype == "float32"
        )


def keras_backend():
    import keras

    return keras.backend.backend()


def test_a_timed_step_leaves_no_trace():
    model, rng = compiled(small()), np.random.default_rng(0)
    inputs, targets = (
        rng.random((8, 16, 16, 3), np.float32),
        np.eye(4, dtype=np.float32)[np.arange(8) % 4],
    )
    before = [np.array(v) for v in model.variables]
    assert acceleration.seconds_a_step(model, inputs, targets, steps=1) > 0
    assert all((old == np.array(v)).all() for old, v in zip(before, model.variables)) and all(
        not np.array(v).any() for v in model.optimizer.variables if "learning" not in v.path
    )
    model.train_on_batch(inputs, targets)
    assert any((old != np.array(v)).any() for old, v in zip(before, model.variables))


def test_what_the_twin_learns_the_network_reads(tmp_path):
    model, rng = small(), np.random.default_rng(0)
    inputs, targets = (
        rng.random((8, 16, 16, 3), np.float32),
        np.eye(4, dtype=np.float32)[np.arange(8) % 4],
    )
    twin = compiled(acceleration.half_twin(model))
    for _ in range(3):
        twin.train_on_batch(inputs, targets)
    save_weights(tmp_path / "twin.npz", twin)
    load_weights(tmp_path / "twin.npz", model)
    assert all((a == b).all() for a, b in zip(model.get_weights(), twin.get_weights()))
    assert (
        np.abs(
            np.asarray(model.predict_on_batch(inputs)) - np.asarray(twin.predict_on_batch(inputs))
        ).max()
        < 0.02
    )
