"""An ensemble in a folder: saved whole or not at all, checked, and an engine of `analyze`."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from errors import raises

keras = pytest.importorskip("keras", reason="Keras comes with the extra `workbook`")
pytest.importorskip("tf2onnx", reason="tf2onnx comes with the extra `workbook`")

from brain_tumor import analyze  # noqa: E402
from brain_tumor.classification.ensemble import ensemble_input, load_ensemble, save_ensemble  # noqa: E402
from brain_tumor.classification.stacking import combine_predictions, combiner_shapes  # noqa: E402
from brain_tumor.imaging.preprocessing import prepare, scale_pixels  # noqa: E402
from brain_tumor.imaging.samples import samples  # noqa: E402
from brain_tumor.inference.engines import EnsembleEngine, load_engine  # noqa: E402
from brain_tumor.inference.single_scan import EMPTY_MASK  # noqa: E402
from brain_tumor.io.decode import read_in_process  # noqa: E402
from brain_tumor.io.errors import ErrorCode  # noqa: E402
from brain_tumor.io.scan import CLASSES  # noqa: E402


def tiny(seed, side=32, classes=4):
    keras.utils.set_random_seed(seed)
    wide = keras.initializers.RandomNormal(stddev=0.5)
    return keras.Sequential(
        [
            keras.Input((side, side, 3)),
            keras.layers.Conv2D(6, 5, strides=3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax", kernel_initializer=wide),
        ]
    )


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Two members: one to be exported from Keras, one that is a file already."""
    from brain_tumor.training.weights import to_onnx

    file = tmp_path_factory.mktemp("member") / "second.onnx"
    second = tiny(1, 48)
    to_onnx(second, file)
    return [
        {"network": "xception", "model": tiny(0), "scaling": "imagenet", "preparation": "honest"},
        {"network": "VGG19", "file": file, "scaling": "thesis", "preparation": "thesis"},
    ], second


@pytest.fixture(scope="module")
def saved(members, tmp_path_factory):
    return save_ensemble(
        tmp_path_factory.mktemp("ensemble") / "pair",
        members[0],
        "weighted",
        {"weights": np.array([0.25, 0.75])},
        protocol="honest",
        provenance="untrained",
        name="pair",
    )


@pytest.fixture(scope="module")
def scans():
    return [read_in_process(path) for path in samples() if path.suffix == ".png"]


def fix_digest(folder, file):
    """Put a changed file's sum into the manifest, as somebody would who means harm."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for part in [*manifest["members"], manifest["combiner"]]:
        if part["file"] == file:
            part["sha256"] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_it_predicts_what_keras_predicts(members, saved, scans):
    ensemble = load_ensemble(saved)
    models = [members[0][0]["model"], members[1]]
    each = [
        m.predict_on_batch(
            np.stack(
                [
                    ensemble_input(
                        s, m.input_shape[1], part["network"], part["scaling"], part["preparation"]
                    )
                    for s in scans
                ]
            )
        )
        for m, part in zip(models, members[0])
    ]
    assert np.ptp(np.hstack(each), axis=0).max() > 0.2, (
        "predictions must differ, or this proves nothing"
    )
    assert np.abs(ensemble.softmaxes(scans) - np.hstack(each)).max() < 1e-2
    assert np.abs(ensemble.probabilities(scans) - (0.25 * each[0] + 0.75 * each[1])).max() < 1e-2


def test_pictures_are_prepared_as_in_training(scans):
    square = np.round(prepare(scans[0].pixels, 40)[0] * 255).astype(np.uint8)
    assert (
        ensemble_input(scans[0], 40, "resnet50", "imagenet", "honest")
        == scale_pixels(square, "ResNet50", "imagenet")
    ).all()


def test_the_manifest_is_complete_and_no_file_is_a_pickle(saved):
    manifest = json.loads((saved / "manifest.json").read_text(encoding="utf-8"))
    assert (
        manifest["kind"] == "ensemble"
        and manifest["classes"] == list(CLASSES)
        and "fitted on validation" in manifest["provenance"]
        and "untrained" in manifest["provenance"]
    )
    assert [
        (m["network"], m["side"], m["scaling"], m["preparation"]) for m in manifest["members"]
    ] == [("Xception", 32, "imagenet", "honest"), ("VGG19", 48, "thesis", "thesis")]
    assert "not a medical device" in manifest["intended_use"] and {
        p.suffix for p in saved.iterdir()
    } == {".onnx", ".npz", ".json"}


@pytest.mark.parametrize(
    "old, new, words",
    [
        (
            '"glioma",\n  "meningioma"',
            '"meningioma",\n  "glioma"',
            ("meningioma, glioma",),
        ),
        ('"weighted"', '"boosting"', ("boosting",)),
        ('"Xception"', '"AlexNet"', ("AlexNet",)),
        ('"imagenet"', '"loud"', ("loud",)),
        ('"ensemble"', '"choir"', ()),
        ('"format": 1', '"format": 2', ()),
        ('"combiner.npz"', '"../combiner.npz"', ("manifest.json",)),
        ('"side": 32', '"side": 64', ("64",)),
        ('"method"', '"methods"', ("method",)),
        ('"weighted"', '"logistic"', ("logistic",)),
    ],
)
def test_a_manifest_with_another_meaning_is_rejected(saved, scans, tmp_path, old, new, words):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    text = (copy / "manifest.json").read_text(encoding="utf-8")
    assert old in text
    (copy / "manifest.json").write_text(text.replace(old, new, 1), encoding="utf-8")
    code = ErrorCode.ARGUMENT_INVALID if new == '"loud"' else ErrorCode.MODEL_INVALID
    with raises(code, *words):
        load_ensemble(copy)


@pytest.mark.parametrize(
    "file", ["1_xception.onnx", "2_vgg19.onnx", "combiner.npz", "manifest.json"]
)
def test_a_changed_or_missing_file_is_named(saved, tmp_path, file):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[:-9])
    with raises(ErrorCode.MODEL_INVALID, file):
        load_ensemble(copy)
    (copy / file).unlink()
    with raises(ErrorCode.MODEL_INVALID, file):
        load_ensemble(copy)


def test_a_pickle_is_never_opened(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    for write in (
        lambda file: np.savez(file, weights=np.array([Evil(), 1], object)),
        lambda file: pickle.dump(Evil(), file),
    ):
        with open(copy / "combiner.npz", "wb") as file:
            write(file)
        fix_digest(copy, "combiner.npz")
        with raises(ErrorCode.MODEL_INVALID, "combiner.npz"):
            load_ensemble(copy)
    assert not (tmp_path / "harm").exists()


def test_nothing_half_is_left(members, tmp_path, monkeypatch):
    good = members[0]
    for spoiled, code, part in (
        (good[:1], ErrorCode.ARGUMENT_INVALID, "1 member"),
        ([good[0], good[1] | {"network": "alexnet"}], ErrorCode.MODEL_INVALID, "alexnet"),
        ([good[0], good[1] | {"file": tmp_path / "no.onnx"}], ErrorCode.FILE_UNREADABLE, "no.onnx"),
        ([good[0], good[1] | {"model": good[0]["model"]}], ErrorCode.ARGUMENT_INVALID, "member 2"),
        ([good[0], good[1] | {"scaling": "loud"}], ErrorCode.ARGUMENT_INVALID, "loud"),
        ([good[0], good[1] | {"preparation": "loud"}], ErrorCode.ARGUMENT_INVALID, "loud"),
        (
            [good[0], {k: v for k, v in good[1].items() if k != "scaling"}],
            ErrorCode.ARGUMENT_INVALID,
            "scaling",
        ),
        (
            [good[0], good[1] | {"model": tiny(0, classes=3)} | {"file": None}],
            ErrorCode.ARGUMENT_INVALID,
            "member 2",
        ),
    ):
        with raises(code, part):
            save_ensemble(tmp_path / "new", spoiled, "average")
        assert list(tmp_path.iterdir()) == []
    three = {
        "network": "vgg19",
        "model": tiny(0, classes=3),
        "scaling": "thesis",
        "preparation": "thesis",
    }
    with raises(ErrorCode.MODEL_INVALID, "2_vgg19.onnx"):
        save_ensemble(tmp_path / "new", [good[1], three], "average")
    for protocol, method, arrays in (
        ("unfitted", "weighted", {"weights": np.ones(2) / 2}),
        ("honest", "average", None),
        ("quick", "average", None),
    ):
        with raises(ErrorCode.ARGUMENT_INVALID, protocol, method):
            save_ensemble(tmp_path / "new", good, method, arrays, protocol)

    def killed(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr("brain_tumor.classification.ensemble.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        save_ensemble(tmp_path / "new", [good[1], good[1]], "average")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "new").mkdir()
    with raises(ErrorCode.FILE_EXISTS, tmp_path / "new"):
        save_ensemble(tmp_path / "new", good, "average")


def test_a_save_that_is_killed_for_good_leaves_no_folder_of_that_name(members, tmp_path):
    code = (
        "import os, sys, brain_tumor.classification.ensemble as e\ne.write_json = lambda "
        "*words: os._exit(9)\n"
        "m = {'network': 'vgg19', 'file': sys.argv[1], 'scaling': 'thesis', 'preparation': "
        "'thesis'}\ne.save_ensemble(sys.argv[2], [m, m])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(members[0][1]["file"]), str(tmp_path / "new")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 9, done.stderr
    assert not (tmp_path / "new").exists() and all(
        path.name.startswith(".") for path in tmp_path.iterdir()
    )
    with raises(ErrorCode.MODEL_INVALID, "manifest.json"):
        load_ensemble(tmp_path / "new")


def test_the_thesis_network_goes_along(members, tmp_path, scans):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape) for name, shape in combiner_shapes("network", 2).items()}
    file = members[0][1]
    ensemble = load_ensemble(
        save_ensemble(tmp_path / "e", [file, file], "network", arrays, protocol="thesis")
    )
    assert (
        np.allclose(
            ensemble.probabilities(scans),
            combine_predictions("network", arrays, ensemble.softmaxes(scans)),
        )
        and "training accuracy" in ensemble.manifest["provenance"]
    )


# ---- the engine


def test_analysis_works_with_the_folder(saved, scans):
    engine = load_engine(saved)
    assert isinstance(engine, EnsembleEngine) and engine is load_engine(saved)
    paths = [path for path in samples() if path.suffix == ".png"]
    compact, named = load_engine("compact"), set()
    for path, scan in zip(paths, scans):
        result, drawn = analyze(path, engine=str(saved)), compact(scan)
        expected = CLASSES[engine.ensemble.probabilities([scan])[0].argmax()]
        assert (
            result.predicted_class == expected
            and (result.mask_probability == drawn.mask_probability).all()
        )
        assert (result.mask == (drawn.mask & (expected != "no_tumor"))).all() and (
            result.features is None
        ) == (not result.mask.any())
        named.add((expected == "no_tumor", bool(drawn.mask.any())))
    assert len(named) > 1, "the samples must differ, or this proves little"
    model = analyze(paths[0], engine=saved).to_dict(full=True)["model"]
    assert (
        model["name"] == "pair"
        and model["segmenter"] == "compact"
        and "fitted on validation" in model["provenance"]
        and len(model["sha256"]) == 64
    )


@pytest.mark.parametrize("name", CLASSES)
def test_the_class_decides_over_the_mask(saved, scans, name, monkeypatch):
    engine = EnsembleEngine(saved)
    monkeypatch.setattr(
        engine.ensemble,
        "probabilities",
        lambda some: np.tile(np.where(np.array(CLASSES) == name, 0.97, 0.01), (len(some), 1)),
    )
    drawn = [load_engine("compact")(scan).mask for scan in scans]
    assert any(mask.any() for mask in drawn)
    for scan, mask in zip(scans, drawn):
        result = analyze(scan, engine=engine)
        assert (
            result.predicted_class == name and (result.mask == (mask & (name != "no_tumor"))).all()
        )
        if name != "no_tumor" and not mask.any():
            assert EMPTY_MASK in result.notes


def test_one_by_one_and_together_agree(saved):
    paths = [path for path in samples() if path.suffix == ".png"]
    for one, many in zip(
        (analyze(path, engine=saved) for path in paths),
        analyze(paths, engine=saved, progress=False),
    ):
        assert (
            max(abs(one.probabilities[n] - many.probabilities[n]) for n in CLASSES) < 1e-3
            and (one.mask != many.mask).mean() < 1e-3
        )


def test_no_training_library_is_needed(saved):
    code = (
        "import sys\nfrom brain_tumor import analyze\nfrom brain_tumor.imaging.samples "
        "import samples\n"
        "analyze(samples()[0], engine=sys.argv[1])\nprint({'keras', 'tensorflow', 'torch', "
        "'onnx', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )


def test_the_app_predicts_with_an_ensemble_and_with_compact(saved):
    from brain_tumor.app.app import App

    app = App(engine=saved)
    app.load(samples()[0]).result()
    app.predict().result()
    assert app.result.engine["name"] == "pair" and app.result.engine["members"] == "Xception, VGG19"
    assert np.allclose(
        list(app.result.probabilities.values()),
        load_ensemble(saved).probabilities([read_in_process(samples()[0])])[0],
        atol=1e-5,
    )
    app.intake.engine.value = "compact"
    app.predict().result()
    assert [app.session.answers.get(number).base.engine["name"] for number in (1, 2)] == [
        "pair",
        "compact",
    ]
    app.worker.submit(int).result()
    app.show(1)
    app.worker.submit(int).result()
    assert (
        app.entry.heats["class"].label == app.result.predicted_class
        and app.entry.heats["class"].heat.shape == app.result.mask.shape
    )
