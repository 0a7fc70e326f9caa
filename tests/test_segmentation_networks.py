"""Segmentation networks: counts, bad input, weights in a file, other backends and pictures."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from errors import raises  # noqa: E402

from brain_tumor.io.errors import ErrorCode  # noqa: E402
from brain_tumor.segmentation.architecture import (
    UNET_FILTERS,
    check_architecture_input,
    draw_levels,
    level_table,
    untrained_weights,
)  # noqa: E402
from brain_tumor.segmentation.attention_unet import (
    ATTENTION_UNET,
    attention_maps,
    attention_unet,
)
from brain_tumor.segmentation.resunet import RESUNET, RESUNET_PUBLISHED, resunet_published
from brain_tumor.segmentation.unet import UNET, unet  # noqa: E402
from brain_tumor.segmentation.unet_plus_plus import (
    UNET_PLUS_PLUS,
    prune_unet_plus_plus,
    unet_plus_plus,
)  # noqa: E402
from brain_tumor.training.weights import load_weights, save_weights  # noqa: E402

ALL = (UNET, ATTENTION_UNET, RESUNET, RESUNET_PUBLISHED, UNET_PLUS_PLUS)
SMALL = (4, 8, 16)
LAYERS = {
    "InputLayer",
    "Conv2D",
    "Conv2DTranspose",
    "BatchNormalization",
    "Activation",
    "ReLU",
    "MaxPooling2D",
    "UpSampling2D",
    "Concatenate",
    "Add",
    "Multiply",
    "Dropout",
}
each = pytest.mark.parametrize("network", ALL, ids=lambda network: network.name)


@pytest.fixture(scope="module")
def scans():
    return np.random.default_rng(0).random((2, 64, 64, 3), np.float32)


def predict(model, scans):
    return np.array(keras.ops.convert_to_numpy(model(scans)))


def seeded(network, **more):
    keras.utils.set_random_seed(3)
    model = network.build(64, SMALL, **more)
    for layer in model.layers:  # statistics as after training, or batch normalisation does nothing
        if isinstance(layer, keras.layers.BatchNormalization):
            rng = np.random.default_rng(len(layer.name))
            layer.moving_mean.assign(0.1 * rng.standard_normal(layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    return model


@pytest.fixture(scope="module")
def models():
    """One of each, to be read only."""
    return {network.name: seeded(network) for network in ALL}


@each
def test_the_contract(network, models, scans):
    model = models[network.name]
    answers = predict(model, scans)
    assert (
        answers.shape == (2, 64, 64, 2 if network is UNET_PLUS_PLUS else 1)
        and answers.dtype == np.float32
    )
    assert np.isfinite(answers).all() and 0 <= answers.min() < answers.max() <= 1
    assert model.name == network.name == network.build.__name__ and [
        tensor.name for tensor in model.inputs
    ] == ["scan"]
    assert {type(layer).__name__ for layer in model.layers} <= LAYERS
    assert {
        layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")
    } <= {"relu", "sigmoid", "linear"}


@each
def test_weights_go_to_a_file_and_back(network, models, scans, tmp_path):
    model = models[network.name]
    save_weights(tmp_path / "weights.npz", model)
    keras.utils.set_random_seed(9)
    again = network.build(64, SMALL)
    assert [v.path for v in again.variables] == [v.path for v in model.variables]
    assert np.abs(predict(again, scans) - predict(model, scans)).max() > 1e-3
    load_weights(tmp_path / "weights.npz", again)
    assert (predict(again, scans) == predict(model, scans)).all()


@each
def test_same_seed_same_network(network, models):
    for v, other in zip(seeded(network).variables, models[network.name].variables):
        assert (
            v.path == other.path
            and (keras.ops.convert_to_numpy(v) == keras.ops.convert_to_numpy(other)).all()
        )


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(tmp_path / "weights.npz", unet(32, SMALL))
    with raises(ErrorCode.MODEL_INVALID, "weights.npz"):
        load_weights(tmp_path / "weights.npz", resunet_published(32, SMALL))


@each
def test_a_gradient_reaches_every_weight(network, scans):
    assert untrained_weights(seeded(network), scans, scans[..., 0] > 0.5) == []


@each
def test_one_channel_and_another_depth(network):
    model = network.build(48, (3, 5), 1)
    assert model.output_shape == (None, 48, 48, 1) and network.build(
        32, (2,) * 4, 2
    ).input_shape == (None, 32, 32, 2)


# ---- counts


@pytest.mark.parametrize(
    "build, settings, million",
    [
        (unet, dict(channels=1, normalise=False), "31.03"),
        (unet, dict(filters=(32, 64, 128, 256, 512), channels=1, normalise=False), "7.76"),
        (
            unet_plus_plus,
            dict(filters=(32, 64, 128, 256, 512), channels=1, normalise=False),
            "9.04",
        ),
        (resunet_published, {}, "8.22"),
    ],
)
def test_parameters_are_those_of_the_papers(build, settings, million):
    """ResUNet's authors count 7.8 million, without the shortcuts."""
    model = build(side=32, **settings)
    assert f"{model.count_params() / 1e6:.2f}" == million
    shortcuts = sum(
        layer.count_params()
        for layer in model.layers
        if "_shortcut" in layer.name or "norm" in layer.name
    )
    if build is resunet_published:
        assert f"{(model.count_params() - shortcuts) / 1e6:.1f}" == "7.8"


@each
def test_no_parameter_is_lost_in_the_table(network, models):
    model = models[network.name]
    table = level_table(model)
    assert table["parameters"].sum() == model.count_params()
    assert table["layers"].sum() == sum(weight.name == "kernel" for weight in model.weights)
    assert (
        set(table["level"]) == {1, 2, 3} and (table["side"] * 2 ** (table["level"] - 1) == 64).all()
    )


def test_no_convolution_of_one_goes_in_steps():
    """Its gradient crashes TensorFlow on some processors."""
    for layer in resunet_published(64, SMALL).layers:
        assert getattr(layer, "kernel_size", None) != (1, 1) or layer.strides == (1, 1)


# ---- pictures


@each
def test_the_picture_stays_small_and_draws_all(network, models):
    model = models[network.name]
    figure = draw_levels(model)
    words = [text.get_text() for text in figure.axes[0].texts]
    stages = [
        stage
        for stage in level_table(model)["stage"]
        if stage != "outline" and not stage.startswith("gate")
    ]
    assert [word.split("\n")[0] for word in words if "\n" in word] == stages
    assert words.count("outline") == model.output_shape[-1] and words.count("×") == (
        2 if network is ATTENTION_UNET else 0
    )
    assert len(figure._repr_png_()) < 150_000


# ---- bad input


@each
@pytest.mark.parametrize(
    "side, remedy",
    [
        (250, "248 or 252"),
        (2, "take 4"),
        (0, "take 4"),
        (62.5, "60 or 64"),
        ("64", "take 4"),
        (-8, "take 4"),
        (True, "take 4"),
    ],
)
def test_sides_that_do_not_fit_are_refused(network, side, remedy):
    with raises(ErrorCode.ARGUMENT_INVALID, network.name, remedy):
        network.build(side, SMALL)


@each
@pytest.mark.parametrize(
    "filters, channels",
    [((8,), 3), ((), 3), ((8, 0), 3), ((8, -4), 3), ((8, 1.5), 3), ((4, 8), 0), ((4, 8), 2.0)],
)
def test_widths_and_channels_that_do_not_fit_are_refused(network, filters, channels):
    with raises(ErrorCode.ARGUMENT_INVALID, network.name):
        network.build(64, filters, channels)


def test_numbers_of_numpy_are_numbers():
    check_architecture_input("unet", np.int64(256), tuple(np.array(UNET_FILTERS)), np.int32(1))


@pytest.mark.parametrize("first", [0, 4, "1"])
def test_gates_that_are_not_there_are_refused(first):
    with raises(ErrorCode.ARGUMENT_INVALID, "first_gate", first):
        attention_unet(64, SMALL, first_gate=first)


# ---- gates and branches


def test_fewer_gates_from_the_second_level_on(scans):
    assert [
        list(attention_maps(attention_unet(64, SMALL, first_gate=first), scans)) for first in (1, 2)
    ] == [["gate1", "gate2"], ["gate2"]]
    with raises(ErrorCode.ARGUMENT_INVALID, "attention_unet"):
        attention_maps(attention_unet(64, SMALL, first_gate=3), scans)


def test_a_branch_predicts_alone_what_it_predicts_in_the_whole(models, scans):
    model = models[UNET_PLUS_PLUS.name]
    answers = predict(model, scans)
    for branch in (1, 2):
        alone = prune_unet_plus_plus(model, branch)
        assert alone.count_params() < model.count_params()
        np.testing.assert_allclose(
            predict(alone, scans)[..., 0], answers[..., branch - 1], atol=1e-6
        )
    for wrong in (0, 3, "1x"):
        with raises(ErrorCode.SELECTION_INVALID, wrong):
            prune_unet_plus_plus(model, wrong)


# ---- another backend

OTHER = """
import importlib, json, sys
import keras, numpy as np
from brain_tumor.training.weights import load_weights

folder, scans, found = sys.argv[1], np.load(sys.argv[1] + "/scans.npy"), {}
for module, name in (line.split(":") for line in sys.argv[2:]):
    build = getattr(importlib.import_module("brain_tumor.segmentation." + module), name)
    model = build(64, (4, 8, 16))
    load_weights(f"{folder}/{name}.npz", model)
    expected = np.load(f"{folder}/{name}.npy")
    difference = np.abs(keras.ops.convert_to_numpy(model(scans)) - expected).max()
    found[name] = {"keras": float(difference), "spread": float(np.ptp(expected))}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, models, scans):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    folder, names = tmp_path_factory.mktemp("other"), []
    np.save(folder / "scans.npy", scans)
    for network in ALL:
        model = models[network.name]
        save_weights(folder / f"{network.name}.npz", model)
        np.save(folder / f"{network.name}.npy", predict(model, scans))
        names.append(f"{network.build.__module__.split('.')[-1]}:{network.name}")
    done = subprocess.run(
        [sys.executable, "-c", OTHER, str(folder), *names],
        capture_output=True,
        text=True,
        env=os.environ | {"KERAS_BACKEND": "torch"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@each
def test_another_backend_predicts_the_same(elsewhere, network):
    found = elsewhere[network.name]
    assert found["spread"] > 0.05, "an answer that is the same everywhere would prove nothing"
    assert found["keras"] < 1e-4
