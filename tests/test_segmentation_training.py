"""Training a segmentation network: a whole run, killed and resumed; other backends; bad input."""

import importlib.util
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
from errors import raises
from example_runs import write_example_segmentation_run
from jobs import finished, kill_after

from brain_tumor.imaging.phantoms import write_phantoms
from brain_tumor.io.errors import ErrorCode
from brain_tumor.segmentation.comparison import (
    read_mask_scores,
    rebuild_segmentation_network,
)
from brain_tumor.segmentation.metrics import MASK_METRICS
from brain_tumor.segmentation.training import SEGMENTATION_HISTORY, run_images, segmentation_recipe
from brain_tumor.training.weights import save_weights

SMALL = {"side": 32, "filters": (2, 4, 8, 16, 32), "batch": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder / "figshare", n=24, seed=2, size=96)
    return folder


def begin(data, out, epochs, **more):
    words = [
        "train",
        "unet",
        "--data",
        str(data),
        "--out",
        str(out),
        "--side",
        "32",
        "--width",
        "2",
        "--batch",
        "8",
        "--epochs",
        str(epochs),
        "--resume",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "brain_tumor", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | more,
    )


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    finished(begin(data, out, 4))
    return out


def test_a_run_folder_is_whole(whole):
    about, history, outlines = (
        json.loads((whole / "run.json").read_text()),
        pd.read_csv(whole / "history.csv"),
        read_mask_scores(whole),
    )
    assert (
        list(history) == list(SEGMENTATION_HISTORY)
        and len(history) == about["epochs_done"] == 4
        and about["finished"]
        and about["cut"] is None
    )
    assert (
        about["chosen_epoch"] == history["val_dice"].idxmax() + 1
        and about["task"] == "segmentation"
        and len(about["split_sha256"]) == 64
    )
    assert outlines["role"].value_counts().to_dict() == {
        role: about["pictures"][role] for role in ("validation", "test")
    }
    options = pd.read_csv(whole / "options.csv")
    assert set(options["option"]) == {"level", "largest", "smallest", "mirror"} and about[
        "outline"
    ]["level"] in set(options["value"][options["option"] == "level"].astype(float))
    assert not list(whole.glob("**/.*")), "nothing is left half-written"


def test_the_outlines_are_the_chosen_epochs(data, whole):
    from brain_tumor.segmentation.postprocessing import predict_scan_masks
    from brain_tumor.segmentation.training import score_probabilities

    model, about = rebuild_segmentation_network(whole)
    held = (
        run_images(data, segmentation_recipe(**SMALL))[0]
        .table.query("role == 'test'")
        .reset_index(drop=True)
    )
    again = score_probabilities(
        predict_scan_masks(model, held, "honest", about["outline"]["mirror"]),
        held,
        about["outline"],
    )
    said = read_mask_scores(whole).query("role == 'test'")
    assert again["image"].tolist() == said["image"].tolist()
    np.testing.assert_allclose(again[list(MASK_METRICS)], said[list(MASK_METRICS)], atol=1e-3)


def test_killed_and_resumed(data, whole, tmp_path):
    job = begin(data, tmp_path, 4)
    kill_after(job, tmp_path / "state.npz")
    assert not (tmp_path / "outlines.csv").is_file(), "it was killed too late to prove anything"
    finished(begin(data, tmp_path, 4))
    one, other = (
        pd.read_csv(out / "history.csv").drop(columns="seconds") for out in (whole, tmp_path)
    )
    np.testing.assert_allclose(one, other, rtol=5e-3, atol=2e-3)


def test_another_backend(data, tmp_path):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    finished(begin(data, tmp_path, 1, KERAS_BACKEND="torch"))
    assert (
        json.loads((tmp_path / "run.json").read_text())["backend"] == "torch"
        and np.isfinite(read_mask_scores(tmp_path)["dice"]).all()
    )


# ---- who stands where


def test_copies_before_the_split_tear_what_belongs_together(data):
    honest, said, _ = run_images(data, segmentation_recipe(copies="after", **SMALL))
    letter, torn, _ = run_images(data, segmentation_recipe("thesis", **SMALL))
    sides = letter.table.groupby(letter.table["image"].str.removesuffix(" (copy)"))[
        "role"
    ].nunique()
    assert "no group on two sides" in said and "stand on two sides" in torn and (sides > 1).any()
    assert (honest.table.loc[honest.table["copied"] != "", "role"] == "train").all()
    assert (honest.table.groupby("group")["role"].nunique() == 1).all()


# ---- bad input


def with_one_mask(data, folder, values):
    """A copy of the set's manifest whose first mask is another one."""
    table = pd.read_csv(data / "figshare" / "manifest.csv")
    (folder / "figshare").mkdir(parents=True)
    for name in ("images", "masks"):
        (folder / "figshare" / name).symlink_to(data / "figshare" / name)
    cv2.imwrite(str(folder / "figshare" / "odd.png"), values)
    table.loc[table["class"].ne("no_tumor").idxmax(), "mask"] = "odd.png"
    table.to_csv(folder / "figshare" / "manifest.csv", index=False)
    return folder


def test_labels_and_other_sizes_are_rejected_by_name(data, tmp_path):
    labels = np.zeros((96, 96), np.uint8)
    labels[20:40, 20:40], labels[40:60, 20:40] = 1, 2
    with raises(ErrorCode.MASK_INVALID, "odd.png", "0, 1, 2"):
        run_images(with_one_mask(data, tmp_path / "labels", labels), segmentation_recipe(**SMALL))
    with raises(ErrorCode.MASK_INVALID, "odd.png", "(48, 48)", "(96, 96)"):
        run_images(
            with_one_mask(data, tmp_path / "small", labels[:48, :48] // 2 * 255),
            segmentation_recipe(**SMALL),
        )


def test_a_set_without_outlines_is_refused(tmp_path):
    write_phantoms(tmp_path / "kaggle", n=12, seed=1, size=64)
    with raises(ErrorCode.DATA_MISSING, "figshare"):
        run_images(tmp_path, segmentation_recipe(**SMALL))


def test_batches_of_empty_masks_have_a_finite_loss():
    from keras import ops

    from brain_tumor.segmentation.losses import LOSSES

    nothing, found = (
        np.zeros((4, 16, 16, 1), np.float32),
        np.random.default_rng(0).random((4, 16, 16, 1)).astype(np.float32),
    )
    for loss in LOSSES.values():
        values = [ops.convert_to_numpy(loss(nothing, p)) for p in (found, nothing)]
        assert all(np.isfinite(value).all() and value.shape == (4,) for value in values)
        assert values[1].max() < values[0].min() or loss.__name__ == "dice_loss", (
            "nothing found where nothing is must be better than a guess"
        )


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    from brain_tumor.segmentation.comparison import SEGMENTATION_NETWORKS

    run = write_example_segmentation_run(tmp_path / "run", "unet")
    save_weights(
        run / "best.weights.npz", SEGMENTATION_NETWORKS["resunet"].build(side=128, filters=(16, 32))
    )
    with raises(ErrorCode.MODEL_INVALID, "best.weights.npz"):
        rebuild_segmentation_network(run)


@pytest.mark.parametrize(
    "damage, name",
    [
        (lambda t: t.drop(columns="hd95"), "hd95"),
        (lambda t: pd.concat([t, t[:1]]), "0.png"),
        (lambda t: t.assign(dice=t["dice"].where(t.index > 0)), "outlines.csv"),
        (lambda t: t.assign(dice=1.2), "outlines.csv"),
        (lambda t: t[:0], "outlines.csv"),
    ],
)
def test_damaged_scores_are_rejected(tmp_path, damage, name):
    run = write_example_segmentation_run(tmp_path / "run")
    damage(pd.read_csv(run / "outlines.csv")).to_csv(run / "outlines.csv", index=False)
    with raises(ErrorCode.RUN_INVALID, "outlines.csv", name):
        read_mask_scores(run)
    with raises(ErrorCode.RUN_INVALID, tmp_path):
        read_mask_scores(tmp_path)


@pytest.mark.parametrize(
    "words, rising", [([], False), (["--rising"], True), (["--no-rising"], False)]
)
def test_the_plateau_rule_can_be_turned_round_from_the_command_line(monkeypatch, words, rising):
    import argparse

    from brain_tumor.segmentation import training
    from brain_tumor.segmentation.unet import UNET

    recipes = []
    monkeypatch.setattr(
        training, "train_segmentation", lambda network, data, out, how, *_: recipes.append(how)
    )
    parser = argparse.ArgumentParser()
    training.add_segmentation_arguments(parser)
    args = parser.parse_args(
        [
            "--data",
            "data",
            "--out",
            "run",
            "--protocol",
            "thesis",
            "--side",
            "128",
            "--width",
            "16",
            *words,
        ]
    )
    args.architecture = UNET
    training.train_segmentation_from_args(args)
    assert (
        recipes[0].rising is rising
        and recipes[0].filters == (16, 32, 64, 128, 256)
        and recipes[0].loss == "dice"
    )
    begin = training.segmentation_schedule(recipes[0], 100, None)[0]
    past = [
        {"epoch": n + 1, "learning_rate": 1e-4, "val_dice_coef": 0.1 + 0.05 * n} for n in range(8)
    ]
    assert np.isclose(begin(0, past), 1e-4 if rising else 1e-5), (
        "eight epochs of gain: the rule as it ran takes them for none"
    )
