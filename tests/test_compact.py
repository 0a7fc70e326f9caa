"""The network that ships: its files, and the same predictions by onnxruntime and Keras."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from errors import raises

from brain_tumor.imaging.preprocessing import prepare
from brain_tumor.imaging.samples import samples
from brain_tumor.inference.engines import CompactEngine, load_engine
from brain_tumor.io.decode import read_in_process
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.files import MODELS
from brain_tumor.io.scan import CLASSES

COMPACT = MODELS / "compact"
RUN = Path(__file__).parent.parent / "runs" / "compact"
SIZE = json.loads((COMPACT / "manifest.json").read_text(encoding="utf-8"))["size"]


@pytest.fixture(scope="module")
def squares():
    pictures = [read_in_process(path).pixels for path in samples() if path.suffix == ".png"]
    return np.stack([prepare(p, SIZE)[0] for p in pictures])[..., None]


def test_all_of_it_is_at_most_twelve_megabytes():
    assert sum(f.stat().st_size for f in COMPACT.iterdir()) <= 12_000_000


def test_no_pickle():
    with np.load(COMPACT / "weights.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype in (np.float16, np.float32) for name in arrays.files)


def test_manifest_run_and_results_have_the_same_split_and_model():
    manifest = json.loads((COMPACT / "manifest.json").read_text(encoding="utf-8"))
    run = json.loads((RUN / "run.json").read_text(encoding="utf-8"))
    results = json.loads((COMPACT / "results.json").read_text(encoding="utf-8"))
    assert manifest["run"] == run
    assert manifest["split_sha256"] == run["split_sha256"] == results["split_sha256"]
    assert results["sha256"] == manifest["sha256"]["compact.onnx"]
    assert manifest["classes"] == list(CLASSES)
    assert {"figshare", "kaggle", "healthy", "start"} <= set(manifest["credits"])
    assert "not a medical device" in manifest["intended_use"]


def test_recorded_figures_follow_from_the_recorded_predictions():
    pd = pytest.importorskip("pandas")
    scored = pd.read_csv(RUN / "predictions.csv")
    results = json.loads((COMPACT / "results.json").read_text(encoding="utf-8"))
    figures = {f["figure"]: f for f in results["figures"]}
    own = scored[scored["source"] == "figshare"]
    assert set(scored["role"]) == {"test"}
    assert figures["Dice, figshare"]["value"] == pytest.approx(own["dice"].mean(), abs=1e-4)
    assert figures["class accuracy, figshare"]["value"] == pytest.approx(
        (own["class"] == own["predicted"]).mean(), abs=1e-9
    )
    missed = own["predicted"] == "no_tumor"
    assert (own.loc[missed, "dice"] == 0).all()


def test_the_split_of_the_data_is_the_recorded_one(shared_data):
    from brain_tumor.data.splits import read_data, split_hash

    run = json.loads((RUN.parent / "compact_2" / "run.json").read_text(encoding="utf-8"))
    assert split_hash(read_data(shared_data, copies=True)) == run["split_sha256"]


def test_the_roles_of_all_sources_are_the_recorded_ones(all_sources):
    from brain_tumor.data.sources import read_sources
    from brain_tumor.data.splits import read_data, split_hash

    run = json.loads((RUN / "run.json").read_text(encoding="utf-8"))
    assert split_hash(read_sources(all_sources)) == run["split_sha256"]
    fixed = json.loads((RUN.parent / "compact_2" / "run.json").read_text(encoding="utf-8"))
    assert split_hash(read_data(all_sources, copies=True)) == fixed["split_sha256"]


def test_onnx_predicts_what_keras_predicts(squares):
    pytest.importorskip("tensorflow", reason="TensorFlow comes with the extra `workbook`")
    from brain_tumor.compact.export import add_probabilities, rebuild_compact

    engine = load_engine("compact")
    model = add_probabilities(
        rebuild_compact(COMPACT / "weights.npz"), engine.manifest["temperature"], SIZE
    )
    wanted, outlines = model.predict(squares, verbose=0)[:2]
    found, drawn = engine.session.run(["probabilities", "outline"], {engine.input: squares})
    assert np.ptp(wanted, axis=0).max() > 0.5, (
        "the pictures must not all get the same answer, or this proves nothing"
    )
    assert np.abs(wanted - found).max() < 1e-3
    level = engine.manifest["threshold"]
    assert (outlines > level).any()
    assert ((outlines > level) != (drawn > level)).mean() < 1e-3


def test_a_changed_model_file_is_rejected(tmp_path):
    folder = tmp_path / "compact"
    shutil.copytree(COMPACT, folder)
    content = bytearray((folder / "compact.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "compact.onnx").write_bytes(content)
    with raises(ErrorCode.MODEL_INVALID, "compact.onnx"):
        CompactEngine(folder)
    (folder / "compact.onnx").unlink()
    with raises(ErrorCode.MODEL_INVALID, "compact.onnx"):
        CompactEngine(folder)


def test_the_engine_predicts_without_tensorflow_matplotlib_or_pandas():
    code = (
        "import sys; from brain_tumor.inference.engines import load_engine;"
        "from brain_tumor.io.decode import read_in_process;"
        "from brain_tumor.imaging.samples import samples; "
        "load_engine()(read_in_process(samples()[0]));"
        "print([m for m in ('tensorflow', 'keras', 'matplotlib', 'pandas', 'skimage', "
        "'nilearn') if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert loaded.strip() == "[]"


def test_exposure_and_frame_do_not_change_the_prediction(squares):
    engine = load_engine("compact")
    scan = read_in_process(samples()[0])
    plain = engine(scan)
    dim = engine(read_in_process(np.pad(scan.pixels * 0.4, ((40, 10), (70, 30)))))
    assert np.abs(plain.probabilities - dim.probabilities).max() < 0.05
    inner = dim.mask[40:-10, 70:-30]
    assert 2 * (inner & plain.mask).sum() >= 0.95 * (inner.sum() + plain.mask.sum())


EAGER = """
import sys, tensorflow
tensorflow.config.run_functions_eagerly(True)  # few steps: compiling would take longer
from brain_tumor.cli import main
sys.exit(main())
"""


def test_a_killed_training_resumes(tmp_path):
    pytest.importorskip("tensorflow", reason="TensorFlow comes with the extra `workbook`")
    pytest.importorskip("nilearn", reason="phantoms are made with nilearn")
    from brain_tumor.imaging.phantoms import write_phantoms
    from brain_tumor.training.loop import read_history

    write_phantoms(tmp_path / "data" / "phantoms", n=16, seed=2, size=128)
    command = [
        sys.executable,
        "-c",
        EAGER,
        "train",
        "compact",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "run"),
        "--weights",
        "none",
        "--size",
        "64",
        "--epochs",
        "3",
        "--batch",
        "4",
        "--resume",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(2400):
            if read_history(tmp_path / "run" / "history.csv") or process.poll() is not None:
                break
            __import__("time").sleep(0.25)
    finally:
        process.kill()
        process.wait()
    done = len(read_history(tmp_path / "run" / "history.csv"))
    assert 1 <= done
    subprocess.run(command, check=True, capture_output=True)
    epochs = [int(row["epoch"]) for row in read_history(tmp_path / "run" / "history.csv")]
    assert epochs == [1, 2, 3]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_through_a_volume_and_its_png_get_the_same_prediction(tmp_path, axis):
    import cv2

    nib = pytest.importorskip("nibabel")
    from brain_tumor import analyze

    head = read_in_process(
        next(p for p in samples("all") if p.name == "meningioma-axial.png")
    ).pixels
    volume = np.moveaxis(np.repeat(head[:, :, None], 3, 2) * [0.9, 1.0, 0.8], 2, axis)
    nib.save(
        nib.Nifti1Image((volume * 900).astype(np.int16), np.diag([-0.8, 0.9, 0.7, 1])),
        tmp_path / "head.nii.gz",
    )
    slice_of_it = read_in_process(tmp_path / "head.nii.gz", slice=1, axis=axis)
    cv2.imwrite(str(tmp_path / "slice.png"), np.rint(slice_of_it.pixels * 255).astype(np.uint8))
    of_volume = analyze(
        tmp_path / "head.nii.gz", slice=1, axis=axis, check_input=False
    )  # a head on its side, on two of the axes
    of_png = analyze(tmp_path / "slice.png", check_input=False)
    assert of_volume.predicted_class == of_png.predicted_class
    assert max(abs(of_volume.probabilities[c] - of_png.probabilities[c]) for c in CLASSES) < 0.02
    assert of_volume.mask.shape == of_png.mask.shape
    assert (of_volume.mask != of_png.mask).mean() < 0.002


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], dict(epochs=44, small_epochs=22, small=192, size=256, rate=1.2e-3)),
        (["--epochs", "10", "--size", "320"], dict(epochs=10, small_epochs=5, small=224, size=320)),
        (
            ["--further"],
            dict(epochs=13, small_epochs=0, small=320, size=320, rate=5e-4, grafts=0.4),
        ),
        (
            ["--further", "--epochs", "3", "--size", "256", "--seed", "4"],
            dict(epochs=3, small_epochs=0, small=256, size=256, seed=4),
        ),
    ],
)
def test_the_command_line_has_two_stages(monkeypatch, words, expected):
    import argparse

    from brain_tumor.compact import training

    calls = []
    monkeypatch.setattr(
        training,
        "train_compact",
        lambda data, out, weights, recipe, resume: calls.append((weights, recipe)),
    )
    parser = argparse.ArgumentParser()
    training.add_compact_arguments(parser)
    start = str(MODELS / "compact" / "weights.npz") if "--further" in words else "imagenet"
    training.train_compact_from_args(
        parser.parse_args(["--data", "data", "--out", "run", "--weights", start, *words])
    )
    weights, recipe = calls[0]
    assert weights == start and {name: getattr(recipe, name) for name in expected} == expected
    for wrong, code in (
        (["--further"], ErrorCode.FILE_NOT_FOUND),
        (["--size", "300"], ErrorCode.ARGUMENT_INVALID),
    ):
        with raises(code, wrong[0]):
            training.train_compact_from_args(
                parser.parse_args(["--data", "data", "--out", "run", *wrong])
            )
