"""Training a backbone: a whole run, killed and resumed, on each Keras backend; both ways of phase
1; bad input."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from errors import raises
from jobs import finished, kill_after

from brain_tumor.classification.backbones import Backbone
from brain_tumor.classification.fine_tuning import HISTORY_COLUMNS
from brain_tumor.classification.recipe import (
    choose_images,
    classification_recipe,
    epoch_order,
    preprocess_image,
    shuffle_group_labels,
    subsets_of_run,
    write_demo_set,
)
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.scan import CLASSES
from brain_tumor.training.loop import out_of_memory

RUN = """
import sys
import keras
from keras import layers

def tiny(include_top, weights, input_tensor):
    "Three convolutions with the names of MobileNetV2's blocks: the run is tested, not the network."
    x = input_tensor
    for number, name in enumerate(("block_2_add", "block_5_add", "out_relu")):
        x = layers.Conv2D(8, 3, strides=2, padding="same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"norm{number}")(x)
        x = layers.ReLU(name=name)(x)
    return keras.Model(input_tensor, x)

keras.applications.MobileNetV2 = tiny
from dataclasses import replace
from brain_tumor.classification import fine_tuning
from brain_tumor.classification.fine_tuning import train_backbone
from brain_tumor.classification.recipe import classification_recipe
from brain_tumor.classification.mobilenet_v2 import MOBILENET_V2
backbone = replace(MOBILENET_V2, blocks=("block_2_add", "block_5_add", "out_relu"))
if len(sys.argv) > 4:
    from brain_tumor.training import acceleration
    fine_tuning.LONG_TRAINING = 1
    in_half = lambda model: any(layer.compute_dtype == "bfloat16" for layer in model.layers)
    acceleration.step_seconds = lambda model, *batch: 1.0 if in_half(model) else 2.0
settings = {"epochs": 2, "fine_epochs": int(sys.argv[3]), "target": 12, "batch": 8, "frozen": 4}
how = classification_recipe("thesis", **settings)
train_backbone(backbone, sys.argv[1], sys.argv[2], how, None, side=64, resume=True)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_demo_set(tmp_path_factory.mktemp("data"))


def begin(data, out, epochs=2, clock=None, **more):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(data), str(out), str(epochs), *filter(None, [clock])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | more,
    )


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    finished(begin(data, out, 3))
    return out


def same(one, other):
    a, b = (pd.read_csv(out / "history.csv").drop(columns="seconds") for out in (one, other))
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
    p, q = (pd.read_csv(out / "predictions.csv") for out in (one, other))
    assert p["image"].tolist() == q["image"].tolist()
    np.testing.assert_allclose(p.filter(like="p_"), q.filter(like="p_"), atol=2e-3)


def test_a_run_folder_is_whole(whole):
    settings, history, predictions = (
        json.loads((whole / "run.json").read_text()),
        pd.read_csv(whole / "history.csv"),
        pd.read_csv(whole / "predictions.csv"),
    )
    assert list(history) == list(HISTORY_COLUMNS) and settings["epochs_done"] == len(history) == 5
    assert settings["chosen_epoch"] == history["val_loss"].idxmin() + 1
    assert (
        settings["protocol"] == "thesis"
        and settings["provenance"].startswith("protocol thesis: ")
        and len(settings["split_sha256"]) == 64
    )
    assert set(predictions["role"]) == {"validation", "test"} and [
        c for c in predictions if c.startswith("p_")
    ] == [f"p_{name}" for name in CLASSES]
    chosen = history.iloc[settings["chosen_epoch"] - 1]
    validation = predictions[predictions["role"] == "validation"]
    assert (validation["predicted"] == validation["class"]).mean() == pytest.approx(
        chosen["val_accuracy"], abs=1e-4
    ), "the predictions are the chosen epoch's"
    assert not list(whole.glob("**/.*")), "nothing is left half-written"


@pytest.mark.parametrize("after", ["run.json", "head/state.npz", "tuned/state.npz"])
def test_killed_and_resumed(data, whole, tmp_path, after):
    job = begin(data, tmp_path, 3)
    kill_after(job, tmp_path / after)
    assert not (tmp_path / "predictions.csv").is_file(), "it was killed too late to prove anything"
    finished(begin(data, tmp_path, 3))
    same(whole, tmp_path)


def test_a_long_run_takes_the_faster_precision(data, tmp_path):
    finished(begin(data, tmp_path, "1", clock="half is faster"))
    settings, history, predictions = (
        json.loads((tmp_path / "run.json").read_text()),
        pd.read_csv(tmp_path / "history.csv"),
        pd.read_csv(tmp_path / "predictions.csv"),
    )
    assert {
        name: settings["phases"][1][name] for name in ("half", "seconds_full", "seconds_half")
    } == {"half": True, "seconds_full": 2.0, "seconds_half": 1.0}
    validation, kept = (
        predictions[predictions["role"] == "validation"],
        history.iloc[settings["chosen_epoch"] - 1],
    )
    assert (validation["predicted"] == validation["class"]).mean() == pytest.approx(
        kept["val_accuracy"], abs=0.1
    ), "trained in half precision, it predicts in full precision"


def test_phase_one_alone_is_a_run_too(data, tmp_path):
    finished(begin(data, tmp_path, 0))
    settings, history, predictions = (
        json.loads((tmp_path / "run.json").read_text()),
        pd.read_csv(tmp_path / "history.csv"),
        pd.read_csv(tmp_path / "predictions.csv"),
    )
    assert (
        settings["finished"]
        and [phase["name"] for phase in settings["phases"]] == ["head"]
        and list(history["phase"]) == [1, 1]
        and set(predictions["role"]) == {"validation", "test"}
    )
    validation, kept = (
        predictions[predictions["role"] == "validation"],
        history.iloc[settings["chosen_epoch"] - 1],
    )
    assert (validation["predicted"] == validation["class"]).mean() == pytest.approx(
        kept["val_accuracy"], abs=1e-4
    )


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_other_backends(data, tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    finished(begin(data, tmp_path, 1, KERAS_BACKEND=backend))
    settings = json.loads((tmp_path / "run.json").read_text())
    assert settings["backend"] == backend and settings["epochs_done"] == 3
    assert np.allclose(
        pd.read_csv(tmp_path / "predictions.csv").filter(like="p_").sum(axis=1), 1, atol=1e-3
    )


def test_features_are_computed_once(data, tmp_path):
    import keras

    from brain_tumor.classification.backbones import build_base
    from brain_tumor.classification.fine_tuning import pooled_features
    from brain_tumor.classification.mobilenet_v2 import MOBILENET_V2
    from brain_tumor.data.datasets import read_pixels_8bit
    from brain_tumor.imaging.preprocessing import scale_pixels

    how, table = (
        classification_recipe("honest"),
        choose_images(data, classification_recipe("honest"))[0].iloc[:6],
    )
    keras.utils.set_random_seed(0)
    base = build_base(MOBILENET_V2, 64, "block_2_add")
    features = pooled_features(table, base, MOBILENET_V2, how, tmp_path)
    squares = np.stack(
        [preprocess_image(read_pixels_8bit(path), 64, "honest") for path in table["path"]]
    )
    plain = base.predict(scale_pixels(squares, "MobileNetV2", "imagenet"), verbose=0).max((1, 2))
    assert np.ptp(plain, axis=0).max() > 0.01 * plain.max() > 0, (
        "features that are all alike would prove nothing"
    )
    np.testing.assert_allclose(features, plain, atol=1e-3 * plain.max())
    (name,) = (path.name for path in tmp_path.iterdir())
    base.layers[1].set_weights([1.1 * w for w in base.layers[1].get_weights()])
    pooled_features(table, base, MOBILENET_V2, how, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, (
        f"other weights give other features; {name} must not be reused"
    )


def test_shuffled_labels_keep_only_the_groups():
    table = pd.DataFrame(
        {
            "group": [f"g{i // 5}" for i in range(400)],
            "class": [CLASSES[i // 5 % 4] for i in range(400)],
        }
    )
    shuffled = shuffle_group_labels(table, 0)
    assert (
        shuffled.groupby(table["group"]).nunique() == 1
    ).all() and shuffled.value_counts().to_dict() == table["class"].value_counts().to_dict()
    assert (
        0.1 < (shuffled == table["class"]).mean() < 0.4
        and (shuffle_group_labels(table, 1) != shuffled).any()
    )


def test_orders():
    labels = np.array([0] * 30 + [1] * 10)
    fixed, moving, drawn = (
        classification_recipe("thesis"),
        classification_recipe("honest", balance="none"),
        classification_recipe("honest"),
    )
    assert (epoch_order(labels, fixed, 0) == epoch_order(labels, fixed, 7)).all() and sorted(
        epoch_order(labels, fixed, 0)
    ) == list(range(40))
    assert (epoch_order(labels, moving, 0) != epoch_order(labels, moving, 1)).any()
    assert (np.bincount(labels[epoch_order(labels, drawn, 0)]) == 30).all()


@pytest.mark.parametrize(
    "error, known",
    [
        (MemoryError(), True),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
            ),
            True,
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_out_of_memory_advises_a_batch(error, known):
    advice = out_of_memory(error, 32)
    assert (advice is not None) == known
    assert not known or advice.code == ErrorCode.OUT_OF_MEMORY and "16" in str(advice)


def test_bad_input(data, tmp_path):
    (write_demo_set(tmp_path, 12) / "kaggle").rename(tmp_path / "mine")
    with raises(ErrorCode.DATA_MISSING, tmp_path, "kaggle"):
        choose_images(tmp_path, classification_recipe("honest"))
    with raises(ErrorCode.ARGUMENT_INVALID, "sloppy"):
        classification_recipe("sloppy")
    with raises(ErrorCode.ARGUMENT_INVALID, "speed"):
        classification_recipe("honest", speed=3)
    table = choose_images(data, classification_recipe("honest"))[0]
    rest = table[table["role"] != "validation"]
    with raises(ErrorCode.DATA_MISSING, "validation"):
        subsets_of_run(rest, classification_recipe("honest"), tmp_path)


def test_a_state_of_another_network_is_rejected(data, whole, tmp_path):
    import shutil

    from brain_tumor.classification.fine_tuning import train_backbone
    from brain_tumor.classification.vgg19 import VGG19

    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "head" / "history.csv").write_text("epoch,loss\n1,0.5\n")
    with raises(ErrorCode.RESUME_MISMATCH, "head"):
        train_backbone(
            VGG19,
            data,
            tmp_path / "run",
            classification_recipe("thesis", epochs=3, fine_epochs=1, target=12, batch=8),
            None,
            side=64,
            resume=True,
        )


def test_a_network_that_takes_no_such_square():
    from brain_tumor.classification.backbones import build_base

    with raises(ErrorCode.ARGUMENT_INVALID, "inception_v3", "32"):
        build_base(Backbone("inception_v3", "InceptionV3", (), "", ""), 32)
