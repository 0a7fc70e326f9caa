"""Why a class: maps that add up to the logit, agree with gradients, or are refused or replaced."""

import hashlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from errors import raises

from brain_tumor import analyze
from brain_tumor.imaging.preprocessing import prepare
from brain_tumor.imaging.samples import samples
from brain_tumor.inference.engines import CompactEngine, load_engine
from brain_tumor.inference.explanation import EXPLANATION_METHODS, explain
from brain_tumor.io.decode import read_in_process
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.files import MODELS
from brain_tumor.io.scan import CLASSES
from brain_tumor.metrics import softmax

COMPACT = MODELS / "compact"
PICTURES = [path for path in samples() if path.suffix == ".png"]


def test_contributions_and_bias_are_the_logits():
    engine = load_engine("compact")
    squares = np.stack(
        [prepare(read_in_process(path).pixels, engine.manifest["size"])[0] for path in PICTURES]
    )[..., None]
    said, added = engine.session.run(["probabilities", "contributions"], {engine.input: squares})
    with np.load(COMPACT / "weights.npz", allow_pickle=False) as weights:
        logits = added.sum((1, 2)) + weights["classes/bias"]
    assert np.ptp(said, axis=0).max() > 0.5, "answers must differ, or this proves little"
    assert np.abs(softmax(logits / engine.manifest["temperature"]) - said).max() < 1e-5


def test_a_result_explains_itself_in_the_scans_own_size():
    for path in PICTURES:
        result = analyze(path)
        why = result.explain()
        assert why.label == result.predicted_class and why.method == "contributions"
        assert why.heat.shape == result.mask.shape and why.heat.dtype == np.float32
        assert why.heat.min() >= 0 and why.heat.max() == pytest.approx(1)
        assert why.overlay().shape == (*result.mask.shape, 3) and why.overlay().dtype == np.uint8
        assert (
            "whether it is right" in why.sentence
            and 'alt="' in why._repr_html_()
            and "not a medical device" in why._repr_html_()
        )
    assert result.explain("glioma").label == "glioma"
    assert all(r.explain().heat.any() for r in analyze(PICTURES[:2], progress=False))


def test_a_refused_scan_and_a_result_without_an_engine_say_so(tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    (refused,) = analyze([tmp_path / "bad.png"], progress=False)
    with raises(ErrorCode.FORMAT_UNSUPPORTED, "bad.png"):
        refused.explain()
    from dataclasses import replace

    with raises(ErrorCode.DATA_MISSING, PICTURES[0].name):
        replace(analyze(PICTURES[0]), explainer=None).explain()


@pytest.mark.parametrize(
    "words, code, value",
    [
        ({"label": "flu"}, ErrorCode.LABEL_UNKNOWN, "'flu'"),
        ({"method": "magic"}, ErrorCode.ARGUMENT_INVALID, "'magic'"),
    ],
)
def test_unknown_words_are_refused(words, code, value):
    with raises(code, value):
        explain(read_in_process(PICTURES[0]), load_engine("compact"), **words)


def test_a_graph_from_before_the_maps_still_answers_and_is_asked_by_occlusion(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx comes with the extra `workbook`")
    folder = tmp_path / "old"
    shutil.copytree(COMPACT, folder)
    graph = onnx.load(folder / "compact.onnx")
    del graph.graph.output[2:]
    onnx.save(graph, folder / "compact.onnx")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["sha256"]["compact.onnx"] = hashlib.sha256(
        (folder / "compact.onnx").read_bytes()
    ).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    old, scan = CompactEngine(folder), read_in_process(PICTURES[0])
    assert np.abs(old(scan).probabilities - load_engine("compact")(scan).probabilities).max() < 1e-6
    assert explain(scan, old).method == "occlusion"
    with raises(ErrorCode.SELECTION_INVALID, "contributions"):
        explain(scan, old, method="contributions")


def test_the_map_of_another_class_is_another_map():
    scan, engine = read_in_process(PICTURES[0]), load_engine("compact")
    maps = [explain(scan, engine, label).heat for label in CLASSES]
    assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(maps) for b in maps[:i])
    assert set(EXPLANATION_METHODS) == {"contributions", "grad-cam", "occlusion"}


def test_occlusion_finds_the_window_that_an_engine_looks_at():
    head = read_in_process(PICTURES[0])
    rows, columns = slice(80, 120), slice(90, 140)

    def looks_at_a_window(scan):
        same = float((scan.pixels[rows, columns] == head.pixels[rows, columns]).mean())
        return SimpleNamespace(
            probabilities=[same, 1 - same, 0, 0], mask_probability=np.zeros_like(scan.pixels)
        )

    why = analyze(head, engine=looks_at_a_window).explain()
    y, x = np.unravel_index(why.heat.argmax(), why.heat.shape)
    assert (
        why.method == "occlusion"
        and rows.start <= y < rows.stop
        and columns.start <= x < columns.stop
    )
    blind = explain(head, lambda scan: SimpleNamespace(probabilities=[1, 0, 0, 0]))
    assert not blind.heat.any() and "map is empty" in blind.sentence


def test_explaining_needs_no_tensorflow():
    code = (
        "import sys; from brain_tumor import analyze; from brain_tumor.imaging.samples "
        "import samples; analyze(samples()[0]).explain();"
        "print([m for m in ('tensorflow', 'keras', 'matplotlib', 'pandas', 'onnx') if m in "
        "sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("tensorflow", reason="TensorFlow comes with the extra `workbook`")
    return pytest.importorskip("keras")


def test_compact_maps_are_those_of_a_real_gradient(keras):
    import tensorflow

    from brain_tumor.compact.export import rebuild_compact
    from brain_tumor.compact.network import TOP_LAYER

    engine = load_engine("compact")
    squares = np.stack(
        [prepare(read_in_process(path).pixels, engine.manifest["size"])[0] for path in PICTURES[:3]]
    )[..., None]
    added, averaged = engine.session.run(["contributions", "grad_cam"], {engine.input: squares})
    model = rebuild_compact(COMPACT / "weights.npz")
    tail = keras.Model(model.input, [model.get_layer(TOP_LAYER).output, model.output[0]])
    with tensorflow.GradientTape(persistent=True) as tape:
        features, said = tail(squares)
        each = [said[:, number] for number in range(4)]
    slopes = np.stack([tape.gradient(logit, features).numpy() for logit in each], -1)
    for ours, books in ((added, slopes), (averaged, slopes.mean((1, 2), keepdims=True))):
        books = (books * features.numpy()[..., None]).sum(3)
        assert np.abs(ours - books).max() < 2e-3 * np.ptp(books)


def test_an_ensembles_members_carry_grad_cam_where_their_head_allows_it(keras, tmp_path):
    from brain_tumor.classification.backbones import build_backbone
    from brain_tumor.classification.ensemble import add_grad_cam, load_ensemble, save_ensemble
    from brain_tumor.classification.mobilenet_v2 import MOBILENET_V2
    from brain_tumor.training.weights import to_onnx

    network = build_backbone(MOBILENET_V2, 64, "block_2_add")
    member = {
        "network": "mobilenet_v2",
        "model": network,
        "scaling": "imagenet",
        "preparation": "honest",
    }
    ours = load_ensemble(
        save_ensemble(
            tmp_path / "ours",
            [member, member | {"preparation": "thesis"}],
            "weighted",
            {"weights": np.array([0.25, 0.75])},
            protocol="honest",
        )
    )
    scan = read_in_process(PICTURES[0])
    why = explain(scan, load_engine(tmp_path / "ours"), "glioma")
    assert (
        ours.maps == ("grad-cam",)
        and why.method == "grad-cam"
        and why.heat.shape == scan.pixels.shape
    )
    to_onnx(network, tmp_path / "alone.onnx")
    files = [
        {k: v for k, v in member.items() if k != "model"} | {"file": tmp_path / "alone.onnx"}
    ] * 2
    bare = load_ensemble(save_ensemble(tmp_path / "bare", files))
    assert (
        bare.maps == ()
        and np.abs(bare.softmaxes([scan])[:, :4] - ours.softmaxes([scan])[:, :4]).max() < 1e-6
    )
    with raises(ErrorCode.SELECTION_INVALID, "grad-cam"):
        explain(scan, load_engine(tmp_path / "bare"), "glioma", "grad-cam")
    odd = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    flat = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="softmax")])
    assert add_grad_cam(odd) is odd and add_grad_cam(flat) is flat


def test_repacking_changes_no_answer_and_refuses_another_networks_weights(keras, tmp_path):
    from brain_tumor.compact.export import repack_model
    from brain_tumor.io.files import write_arrays

    folder = tmp_path / "compact"
    shutil.copytree(COMPACT, folder)
    assert repack_model(folder) < 1e-5
    manifest, results = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("manifest.json", "results.json")
    )
    assert (
        results["sha256"]
        == manifest["sha256"]["compact.onnx"]
        == hashlib.sha256((folder / "compact.onnx").read_bytes()).hexdigest()
    )
    assert {k: v for k, v in manifest.items() if k != "sha256"} == {
        k: v
        for k, v in json.loads((COMPACT / "manifest.json").read_text(encoding="utf-8")).items()
        if k != "sha256"
    }
    with np.load(folder / "weights.npz") as held:
        arrays = {name: held[name] for name in held.files}
    write_arrays(
        folder / "weights.npz",
        arrays | {"classes/bias": arrays["classes/bias"] + np.float32([1, 0, 0, 0])},
    )
    before = (folder / "compact.onnx").read_bytes()
    with raises(ErrorCode.MODEL_INVALID, "weights"):
        repack_model(folder)
    assert (folder / "compact.onnx").read_bytes() == before and not (folder / "anew.onnx").exists()
