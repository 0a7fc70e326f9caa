"""Acceleration: a half precision copy learns what the network can load; the clock decides."""

import numpy as np
import pytest

from brain_tumor.training import acceleration
from brain_tumor.training.weights import load_weights, save_weights


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
    clock = lambda model, inputs, targets: seconds[model.get_layer("conv").compute_dtype]
    monkeypatch.setattr(acceleration, "step_seconds", clock)
    model = small()
    chosen, measured = acceleration.faster_precision(model, compiled, None, None)
    assert measured == {
        "half": half,
        "seconds_full": seconds["float32"],
        "seconds_half": seconds["bfloat16"],
    }
    assert chosen.optimizer is not None and all(
        (a == b).all() for a, b in zip(model.get_weights(), chosen.get_weights())
    )
    assert chosen.get_layer("conv").compute_dtype == ("bfloat16" if half else "float32")
    assert chosen.get_layer("classes").compute_dtype == "float32"


def test_a_timed_step_leaves_no_trace():
    model, rng = compiled(small()), np.random.default_rng(0)
    inputs, targets = (
        rng.random((8, 16, 16, 3), np.float32),
        np.eye(4, dtype=np.float32)[np.arange(8) % 4],
    )
    before = [np.array(v) for v in model.variables]
    assert acceleration.step_seconds(model, inputs, targets, steps=1) > 0
    assert all((old == np.array(v)).all() for old, v in zip(before, model.variables)) and all(
        not np.array(v).any() for v in model.optimizer.variables if "learning" not in v.path
    )
    model.train_on_batch(inputs, targets)
    assert any((old != np.array(v)).any() for old, v in zip(before, model.variables))


def test_the_network_loads_what_the_copy_has_learned(tmp_path):
    model, rng = small(), np.random.default_rng(0)
    inputs, targets = (
        rng.random((8, 16, 16, 3), np.float32),
        np.eye(4, dtype=np.float32)[np.arange(8) % 4],
    )
    copy = compiled(acceleration.half_precision_copy(model))
    for _ in range(3):
        copy.train_on_batch(inputs, targets)
    save_weights(tmp_path / "copy.npz", copy)
    load_weights(tmp_path / "copy.npz", model)
    assert all((a == b).all() for a, b in zip(model.get_weights(), copy.get_weights()))
    assert (
        np.abs(
            np.asarray(model.predict_on_batch(inputs)) - np.asarray(copy.predict_on_batch(inputs))
        ).max()
        < 0.02
    )


def test_a_copy_of_the_compact_network_computes_in_half_precision():
    """The compact network has plain operations beside its layers."""
    from brain_tumor.compact.network import build_compact

    model, x = build_compact(), np.random.default_rng(0).random((2, 64, 64, 1), np.float32)
    copy = acceleration.half_precision_copy(model)
    assert copy.get_layer("up0a_conv").compute_dtype == "bfloat16"
    for full, half in zip(model.predict_on_batch(x), copy.predict_on_batch(x)):
        assert half.dtype == np.float32
        assert 0 < np.abs(full - half).max() < 0.1 * max(np.ptp(full), 1)
