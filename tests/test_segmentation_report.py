"""Segmenters in analyze, and the report on segmentation runs."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras comes with the extra `workbook`")
pytest.importorskip("tf2onnx", reason="tf2onnx comes with the extra `workbook`")

from errors import raises  # noqa: E402
from example_runs import write_example_segmentation_run  # noqa: E402

from brain_tumor import analyze  # noqa: E402
from brain_tumor.cli import main  # noqa: E402
from brain_tumor.imaging.preprocessing import prepare_8bit  # noqa: E402
from brain_tumor.imaging.samples import samples  # noqa: E402
from brain_tumor.inference.engines import load_engine  # noqa: E402
from brain_tumor.io.decode import read_in_process  # noqa: E402
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.files import write_json  # noqa: E402
from brain_tumor.io.scan import INTENDED_USE, Scan
from brain_tumor.metrics import mean_interval, unpaired_difference  # noqa: E402
from brain_tumor.segmentation.comparison import (
    PLANNED_RUNS,
    SEGMENTATION_NETWORKS,
    box_figure,
    dice_by_group,
    mask_table,
    planned_runs_table,
    reader_agreement,
    rebuild_segmentation_network,
    subset_slices,
)  # noqa: E402
from brain_tumor.segmentation.export import Segmenter, save_segmenter  # noqa: E402
from brain_tumor.segmentation.postprocessing import clean_mask, predict_masks  # noqa: E402
from brain_tumor.segmentation.report import (
    case_figure,
    example_cases,
    recipe_ladder,
    recipe_step,
    segmentation_curves,
    write_segmentation_report,
)  # noqa: E402
from brain_tumor.training.runs import load_run, write_example_run  # noqa: E402
from brain_tumor.training.weights import save_weights

PLAIN = {"level": 0.5, "largest": False, "smallest": 0.0, "mirror": False}


def recorded(folder, network, seed=0, **outline):
    """A run folder with untrained weights, and statistics of batch normalisation that matter."""
    run = write_example_segmentation_run(folder, network)
    said = json.loads((run / "run.json").read_text())
    write_json(
        run / "run.json",
        said
        | {
            "recipe": {"side": 64, "filters": [4, 8, 16], "preparation": "honest"},
            "outline": PLAIN | outline,
        },
    )
    keras.utils.set_random_seed(seed)
    model = SEGMENTATION_NETWORKS[network].build(side=64, filters=(4, 8, 16))
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    save_weights(run / "best.weights.npz", model)
    return run


@pytest.fixture(scope="module")
def scans():
    return [read_in_process(path) for path in samples() if path.suffix == ".png"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmenter")
    return save_segmenter(recorded(folder / "run", "resunet"), folder / "saved")


def rejected(code, action, *names):
    with raises(code, *names):
        action()


# ---- segmenters


@pytest.mark.parametrize("network", SEGMENTATION_NETWORKS)
def test_a_segmenter_predicts_what_its_network_predicts(network, tmp_path, scans):
    run = recorded(tmp_path / "run", network)
    segmenter, model = (
        Segmenter(save_segmenter(run, tmp_path / "saved")),
        rebuild_segmentation_network(run)[0],
    )
    squares = np.stack([prepare_8bit(scan.pixels, 64)[0] for scan in scans])
    wanted, found = predict_masks(model, squares), segmenter._predict(squares)
    assert np.ptp(wanted, axis=(1, 2)).min() > 0.02, (
        "an answer that is the same everywhere proves little"
    )
    assert np.abs(wanted - found).max() < 5e-3
    assert [p.shape for p in segmenter.probabilities(scans)] == [
        scan.pixels.shape for scan in scans
    ]


def test_mirror_averaging_is_the_mean_of_both_ways(saved, tmp_path):
    scans = [
        Scan(np.random.default_rng(seed).uniform(0.2, 0.8, (64, 64)).astype(np.float32))
        for seed in range(3)
    ]  # fills its square, so mirroring moves no border
    shutil.copytree(saved, tmp_path / "mirrored")
    manifest = json.loads((saved / "manifest.json").read_text())
    write_json(
        tmp_path / "mirrored" / "manifest.json", manifest | {"outline": PLAIN | {"mirror": True}}
    )
    one, both = Segmenter(saved), Segmenter(tmp_path / "mirrored")
    flipped = [Scan(np.ascontiguousarray(scan.pixels[:, ::-1])) for scan in scans]
    again = both.probabilities(flipped)
    for straight, mirrored, p, other in zip(
        one.probabilities(scans), one.probabilities(flipped), both.probabilities(scans), again
    ):
        assert np.abs((straight + mirrored[:, ::-1]) / 2 - p).max() < 0.01
        assert (
            np.abs(p - other[:, ::-1]).max() < 0.01 and np.abs(p - straight).max() > 0.05
        )  # an 8-bit grey more or less


def test_clean_up_is_in_what_is_drawn(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "strict")
    manifest = json.loads((saved / "manifest.json").read_text())
    write_json(
        tmp_path / "strict" / "manifest.json",
        manifest | {"outline": {"level": 0.4, "largest": False, "smallest": 30.0, "mirror": False}},
    )
    segmenter = Segmenter(tmp_path / "strict")
    p = np.zeros((40, 40), np.float32)
    p[2:4, 2:4], p[10:20, 10:20] = 0.9, 0.7  # 4 and 100 pixels
    monkeypatch.setattr(segmenter, "probabilities", lambda scans: [p] * len(scans))
    fine, coarse, none = (
        segmenter.draw([Scan(p, spacing=spacing)])[0] > 0.4
        for spacing in ((1.0, 1.0), (4.0, 2.0), None)
    )
    assert fine.sum() == 100 and coarse.sum() == 104 and none.sum() == 104, (
        "4 pixels are 4 mm², 32 mm², or nobody knows"
    )
    assert (fine == clean_mask(p, 0.4, smallest=30.0)).all()


@pytest.mark.parametrize(
    "change, name",
    [
        ({"kind": "ensemble"}, "changed"),
        ({"format": 2}, "changed"),
        ({"side": "64"}, "side"),
        ({"outline": {"level": 0.5}}, "outline"),
        ({"outline": PLAIN | {"level": "high"}}, "outline"),
        ({"sha256": {}}, "outline.onnx"),
        ({"sha256": {"outline.onnx": "0" * 64}}, "outline.onnx"),
        ({"side": 32}, "32"),
        ({"provenance": None}, "provenance"),
    ],
)
def test_a_damaged_manifest_is_rejected(saved, tmp_path, change, name):
    shutil.copytree(saved, tmp_path / "changed")
    manifest = json.loads((saved / "manifest.json").read_text())
    write_json(tmp_path / "changed" / "manifest.json", manifest | change)
    with raises(ErrorCode.MODEL_INVALID, "changed", name):
        Segmenter(tmp_path / "changed")


def test_saving_is_whole_or_not_at_all(saved, tmp_path, monkeypatch):
    run = recorded(tmp_path / "run", "unet")
    rejected(ErrorCode.FILE_EXISTS, lambda: save_segmenter(run, saved), "saved")
    (run / "best.weights.npz").rename(run / "elsewhere.npz")
    rejected(
        ErrorCode.FILE_NOT_FOUND, lambda: save_segmenter(run, tmp_path / "new"), "best.weights.npz"
    )
    (run / "elsewhere.npz").rename(run / "best.weights.npz")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("brain_tumor.segmentation.export.to_onnx", full)
    rejected(ErrorCode.WRITE_FAILED, lambda: save_segmenter(run, tmp_path / "new"), "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_analyze_takes_the_outline_from_a_segmenter(saved, scans, capsys, tmp_path):
    engine, compact = load_engine(saved), load_engine("compact")
    assert engine is load_engine(saved)
    paths = [path for path in samples() if path.suffix == ".png"]
    for path, scan, drawn in zip(paths, scans, engine.segmenter.draw(scans)):
        result = analyze(path, engine=saved)
        assert np.allclose(
            list(result.probabilities.values()), compact(scan).probabilities, atol=1e-4
        )
        assert (result.mask == ((drawn > 0.5) & (result.predicted_class != "no_tumor"))).all()
    assert main(["analyze", str(paths[0]), "--segmenter", str(saved), "--json"]) == 0
    model = json.loads(capsys.readouterr().out)[0]["model"]
    assert (
        model["segmenter"] == "run"
        and "made up" in model["segmenter_provenance"]
        and model["name"] == "compact and run"
    )
    assert main(["analyze", str(paths[0]), "--segmenter", str(tmp_path)]) == 2
    rejected(
        ErrorCode.MODEL_INVALID, lambda: load_engine(saved, segmenter=saved), "compact and run"
    )


def test_drawing_needs_no_training_library(saved):
    code = (
        "import sys\nfrom brain_tumor import analyze\n"
        "from brain_tumor.imaging.samples import samples\n"
        "analyze(samples()[0], engine=sys.argv[1])\n"
        "heavy = {'keras', 'tensorflow', 'torch', 'onnx', 'sklearn', 'pandas', 'matplotlib'}\n"
        "print(heavy & set(sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )


# ---- steps, cases, readers


def run_of(folder, name, quality, seed=0, patients=40, protocol="honest", **switches):
    path = write_example_segmentation_run(
        folder / name, "resunet", quality, seed, patients, protocol
    )
    said = json.loads((path / "run.json").read_text())
    write_json(
        path / "run.json",
        said | {"recipe": said["recipe"] | {"seed": 0, "protocol": protocol} | switches},
    )
    return load_run(path)


def test_a_step_is_paired_where_the_slices_are_the_same(tmp_path):
    slipped, mended = (
        run_of(tmp_path, "slipped", 0.70, 1, protocol="thesis", rising=False),
        run_of(tmp_path, "mended", 0.76, 2, protocol="thesis", rising=True),
    )
    step, tables = recipe_step(slipped, mended), [subset_slices(run) for run in (slipped, mended)]
    wanted = mean_interval(tables[1]["dice"] - tables[0]["dice"], tables[0]["group"])
    assert (
        step["paired"]
        and step["changed"] == "rising False to True"
        and np.allclose(
            [step["difference"], step["difference_low"], step["difference_high"]], wanted
        )
    )
    fewer = run_of(tmp_path, "fewer", 0.6, 3, patients=20, rising=True)
    step, table = recipe_step(mended, fewer), subset_slices(fewer)
    wanted = unpaired_difference(
        tables[1]["dice"], tables[1]["group"], table["dice"], table["group"]
    )
    assert not step["paired"] and np.allclose(
        [step["difference"], step["difference_low"], step["difference_high"]], wanted
    )
    assert step["provenance"].count("made up") == 2
    assert (
        recipe_ladder([fewer, mended, slipped])["after"].tolist() == ["mended", "fewer"]
        and recipe_ladder([mended]).empty
    )


def test_the_interval_of_means_apart_holds_what_it_should():
    rng, held = np.random.default_rng(0), 0
    for seed in range(200):
        sides = [
            (
                rng.normal(centre, 0.1, 40)[np.repeat(np.arange(40), 3)] + rng.normal(0, 0.03, 120),
                np.repeat(np.arange(40), 3),
            )
            for centre in (0.5, 0.6)
        ]
        _, low, high = unpaired_difference(*sides[0], *sides[1], draws=400, seed=seed)
        held += low <= 0.1 <= high
    assert 0.90 <= held / 200 <= 0.985
    rejected(ErrorCode.DATA_INVALID, lambda: unpaired_difference([], [], [1.0], [0]))


def test_cases_are_chosen_and_drawn():
    assert example_cases([0.2, 0.9, 0.0, 0.5, 0.9]) == {
        "best": 1,
        "median": 3,
        "worst": 2,
    } and example_cases([0.3]) == {"best": 0, "median": 0, "worst": 0}
    rejected(ErrorCode.DATA_MISSING, lambda: example_cases([]))
    rng = np.random.default_rng(0)
    masks = [np.pad(np.ones((n, n), bool), ((2, 30 - n), (2, 30 - n))) for n in (6, 10, 14)]
    figure = case_figure([rng.random((32, 32)) for _ in masks], [masks[1]] * 3, masks, "made up")
    assert [axis.get_title() for axis in figure.axes] == [
        "best: Dice 1.00",
        "median: Dice 0.68",
        "worst: Dice 0.53",
    ] and figure._supxlabel.get_text() == "made up"
    rejected(ErrorCode.ARGUMENT_INVALID, lambda: case_figure([masks[0]], masks, masks, ""), 1, 3)


def test_the_readers_stand_beside_each_class(tmp_path):
    run = run_of(tmp_path, "one", 0.7)
    assert dice_by_group([run], "class").set_index("class")[
        "readers"
    ].to_dict() == reader_agreement().to_dict() and "readers" not in dice_by_group([run], "plane")
    lines = [
        line
        for line in box_figure([run], "class").axes[0].get_lines()
        if line.get_linestyle() == ":"
    ]
    assert [line.get_ydata()[0] for line in lines] == reader_agreement().sort_index().tolist()
    assert not [
        line
        for line in box_figure([run], "plane").axes[0].get_lines()
        if line.get_linestyle() == ":"
    ]


# ---- the page


def test_both_kinds_of_runs_get_their_page(tmp_path, capsys):
    outlines, classes = (
        run_of(tmp_path, "drawn", 0.7),
        write_example_run(tmp_path / "named", patients=16),
    )
    assert main(["report", str(outlines.path), str(classes), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    row = mask_table([outlines]).iloc[0]
    assert f"drawn: Dice {row['dice']:.3f}" in said and "named, Kaggle's test" in said
    pages = {
        path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("*.html")
    }
    assert set(pages) == {"report.html", "outlines.html"} and all(
        INTENDED_USE in page for page in pages.values()
    )
    assert (
        f"{row['dice']:.3f} ({row['dice_low']:.3f} to {row['dice_high']:.3f})"
        in pages["outlines.html"]
        and "0.7604" not in said
    )


def test_a_page_without_the_thesis_and_without_curves(tmp_path):
    run = run_of(tmp_path, "engine", 0.7)
    said = json.loads((run.path / "run.json").read_text())
    (run.path / "history.csv").unlink()
    for key in ("chosen_epoch", "epochs_done", "epochs_asked", "recipe"):
        said.pop(key)
    write_json(
        run.path / "run.json",
        said | {"network": "compact", "title": "compact", "trained_in": "elsewhere"},
    )
    text = write_segmentation_report(
        [load_run(run.path)], tmp_path / "out", tmp_path / "nowhere"
    ).read_text(encoding="utf-8")
    assert (
        "an engine, from elsewhere" in text
        and text.count("<img") == text.count('alt="') == 4
        and "In the thesis" not in text
    )
    rejected(ErrorCode.DATA_MISSING, lambda: segmentation_curves(load_run(run.path)), "engine")
    rejected(ErrorCode.DATA_MISSING, lambda: write_segmentation_report([], tmp_path))
    with open(tmp_path / "out" / "outline_missed.csv") as table:
        assert (
            len(table.readlines()) - 1 == (subset_slices(load_run(run.path))["dice"] == 0).sum() > 0
        )


def test_the_copies_go_with_the_split(tmp_path):
    runs = {}
    for name, switches in {
        "before": {"protocol": "thesis", "copies": "before"},
        "after": {"copies": "after"},
        "none": {"copies": "none"},
    }.items():
        path = write_example_segmentation_run(
            tmp_path / name, "resunet", protocol=switches.get("protocol", "honest")
        )
        said = json.loads((path / "run.json").read_text())
        write_json(
            path / "run.json", said | {"recipe": {"protocol": "honest", "seed": 0} | switches}
        )
        runs[name] = load_run(path)
    steps = recipe_ladder(list(runs.values())).set_index("after")["before"].to_dict()
    assert steps == {"after": "before", "none": "after"}, (
        "the thesis' copies against none at all are two steps"
    )


def test_what_was_planned_and_is_there(tmp_path):
    run = write_example_segmentation_run(tmp_path / "unet_256", "unet")
    said = json.loads((run / "run.json").read_text())
    write_json(
        run / "run.json",
        said | {"cut": "3 of 30 epochs", "chosen_epoch": 2, "recipe": {"side": 256, "seed": 1}},
    )
    table = planned_runs_table([load_run(run)])
    there = table[table["run"] != ""].set_index("planned")
    assert (
        there.index.tolist() == ["U-Net, 256 px", "a second seed"]
        and (there["epochs"] == "3 of 30 epochs").all()
        and (there["best_epoch"] == "2").all()
    )
    assert table["planned"].drop_duplicates().tolist() == list(PLANNED_RUNS)
