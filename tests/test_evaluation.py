"""Evaluation of labelled scans: figures against other libraries and the model card, the page,
bad input, and drift."""

import json
import re
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from errors import raises

from brain_tumor.cli import main
from brain_tumor.data.datasets import read_mask
from brain_tumor.evaluation.drift import (
    IMAGE_FACTS,
    compare_with_reference,
    drift_figure,
    drift_sentences,
    image_facts,
    load_reference,
    summarise_reference,
)
from brain_tumor.evaluation.evaluate import evaluate
from brain_tumor.evaluation.figures import card_figures
from brain_tumor.evaluation.scoring import check_label_map, read_labelled_data
from brain_tumor.imaging.phantoms import write_phantoms
from brain_tumor.inference.analyze import analyze
from brain_tumor.io.decode import read_in_process
from brain_tumor.io.errors import BrainTumorError, ErrorCode
from brain_tumor.io.scan import CLASSES, INTENDED_USE


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Phantoms with a manifest, and the manifest as a table with full paths."""
    folder = tmp_path_factory.mktemp("heads")
    table = pd.read_csv(write_phantoms(folder, n=24, seed=41, size=128))
    return folder, table.assign(
        image=[str(folder / name) for name in table["image"]],
        mask=[str(folder / name) for name in table["mask"]],
    )


def engine_of(table, spoil=lambda number, odds, mask: (odds, mask)):
    """Return an engine that returns the recorded truth, changed by `spoil`."""
    rows = {re.split(r"[\\/]", row["image"])[-1]: row for row in table.to_dict("records")}

    def engine(scan):
        row, number = rows[scan.source], int(scan.source.split(".")[0])
        odds, mask = np.full(4, 0.1), read_mask(row["mask"]) > 0
        odds[CLASSES.index(row["class"])] = 0.7
        odds, mask = spoil(number, odds, mask)
        return SimpleNamespace(probabilities=odds, mask_probability=mask.astype(np.float32))

    return engine


def figures(told):
    return told.figures.set_index("figure")["value"]


def test_a_perfect_engine_gets_full_marks(heads):
    _, table = heads
    told = evaluate(table, engine_of(table), progress=False)
    found = figures(told)
    assert all(
        found[name] == 1
        for name in (
            "accuracy",
            "Dice",
            "IoU",
            "NSD at 2 mm",
            *(f"F1, {one}" for one in CLASSES),
            *(f"AUC, {one}" for one in CLASSES),
        )
    )
    assert found["longest diameter, mean error, mm"] == 0 and found["share refused"] == 0
    both, bound = told.figures.set_index("figure"), 0.025 ** (1 / table["group"].nunique())
    assert both.loc["accuracy", ["value_low", "value_high"]].tolist() == pytest.approx([bound, 1])
    assert both.loc["share refused", ["value_low", "value_high"]].tolist() == pytest.approx(
        [0, 1 - bound]
    )
    assert both.loc[
        "longest diameter, mean error, mm", ["value_low", "value_high"]
    ].isna().all() and np.isnan(both.loc["precision, glioma", "value_low"])
    assert found["calibration error"] == pytest.approx(0.3)


def test_class_figures_are_those_of_scikit_learn(heads):
    metrics = pytest.importorskip("sklearn.metrics")
    _, table = heads
    rng = np.random.default_rng(3)

    def spoil(number, odds, mask):
        odds = rng.dirichlet(np.ones(4)) + 0.4 * odds
        return odds / odds.sum(), mask

    told = evaluate(table, engine_of(table, spoil), progress=False)
    rows, found = told.predictions, figures(told)
    three = metrics.precision_recall_fscore_support(
        rows["class"], rows["predicted"], labels=list(CLASSES), zero_division=np.nan
    )
    assert (
        found["accuracy"] == pytest.approx(metrics.accuracy_score(rows["class"], rows["predicted"]))
        and 0 < found["accuracy"] < 1
    )
    for name, values in zip(("precision", "recall", "F1"), three):
        for one, value in zip(CLASSES, values):
            assert np.isnan(value) or found[f"{name}, {one}"] == pytest.approx(value)
    for one in CLASSES:
        assert found[f"AUC, {one}"] == pytest.approx(
            metrics.roc_auc_score(rows["class"] == one, rows[f"p_{one}"])
        )


def test_outlines_of_known_overlap(tmp_path):
    side = np.linspace(0, 1, 64, dtype=np.float32)
    rows = []
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.uint8(255 * np.outer(side, side)))
        mask = np.zeros((64, 64), np.uint8)
        mask[20:30, 20:40] = 255
        cv2.imwrite(str(tmp_path / f"{number}_mask.png"), mask)
        rows.append(
            {
                "image": f"{number}.png",
                "mask": f"{number}_mask.png",
                "spacing": 2.0,
                "class": "glioma",
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)

    def half(scan):  # the lower half; nothing; a square elsewhere
        mask = np.zeros((64, 64), np.float32)
        mask[[slice(25, 30), slice(0), slice(50, 60)][int(scan.source[0])], 20:40] = 1
        return SimpleNamespace(probabilities=np.eye(4)[0], mask_probability=mask)

    told = evaluate(tmp_path, half, progress=False)
    assert told.predictions["dice"].tolist() == pytest.approx([2 / 3, 0, 0])
    found = figures(told)
    assert found["Dice"] == pytest.approx(2 / 9) and found["IoU"] == pytest.approx(1 / 6)
    assert found["missed altogether (Dice 0)"] == pytest.approx(2 / 3)
    assert found["surface, found / true (geometric mean)"] == pytest.approx(
        np.sqrt(0.5)
    )  # of the two that were outlined
    assert told.predictions["surface_true"].tolist() == pytest.approx([10 * 20 * 0.04] * 3)  # cm²
    assert told.predictions["hd95_mm"][0] == pytest.approx(10) and told.predictions["hd95_mm"][
        1
    ] == pytest.approx(2 * 64 * np.sqrt(2))


def test_without_spacing_no_distance_is_made_up(heads):
    _, table = heads
    told = evaluate(table.drop(columns="spacing_mm"), engine_of(table), progress=False)
    assert told.predictions["hd95_mm"].isna().all() and set(told.predictions["unit"].dropna()) == {
        "px"
    }
    assert not any("mm" in name for name in told.figures["figure"])
    given = evaluate(
        table.drop(columns="spacing_mm"), engine_of(table), spacing=1.5, progress=False
    )
    assert given.predictions["hd95_mm"].notna().any()


def test_intervals_go_over_patients_and_the_page_says_where_it_cannot(heads, tmp_path):
    _, table = heads
    spoil = lambda number, odds, mask: (np.roll(odds, number // 4 % 2), mask)
    many = table.assign(group=[f"P{number // 4 % 2}" for number in range(24)])
    wide, narrow = (
        evaluate(one, engine_of(table, spoil), tmp_path / name, pictures=False, progress=False)
        for name, one in (("known", many), ("unknown", table.drop(columns="group")))
    )
    length = lambda told: np.ptp(
        told.figures.set_index("figure").loc["accuracy", ["value_low", "value_high"]].astype(float)
    )
    assert (
        figures(wide)["accuracy"] == figures(narrow)["accuracy"] == 0.5
        and length(wide) == 1
        and length(narrow) < 0.6
    )
    assert "intervals are too narrow" not in wide.page.read_text(
        encoding="utf-8"
    ) and "intervals are too narrow" in narrow.page.read_text(encoding="utf-8")
    one = evaluate(table.assign(group="P1"), engine_of(table), progress=False)
    assert one.figures[["value_low", "value_high"]].isna().all().all(), (
        "one patient gives no interval"
    )


def test_classes_alone_and_masks_alone(heads):
    _, table = heads
    assert set(
        evaluate(table.drop(columns="mask"), engine_of(table), progress=False).figures["part"]
    ) == {"class", "trust"}
    assert set(
        evaluate(table.drop(columns="class"), engine_of(table), progress=False).figures["part"]
    ) == {"outline", "size", "trust"}


# ---- refused, uncertain, left out


def test_refused_scans_are_counted_both_ways(heads):
    _, table = heads

    def refuses(scan):
        if int(scan.source.split(".")[0]) < 6:
            raise BrainTumorError(f"{scan.source}: I won't")
        return engine_of(table)(scan)

    told = evaluate(table, refuses, progress=False)
    both = told.figures.set_index("figure")
    assert both.loc["accuracy", ["value", "with_refused"]].tolist() == [1, 18 / 24]
    outlined = table["class"] != "no_tumor"
    assert (
        both.loc["Dice", "with_refused"] == pytest.approx(outlined[6:].sum() / outlined.sum())
        and both.loc["share refused", "value"] == 0.25
    )
    assert told.predictions["reason"].dropna().eq("I won't").all()


def test_uncertain_results_and_prediction_sets(heads, monkeypatch):
    from dataclasses import replace

    _, table = heads

    def uncertain_analyze(sources, **more):
        for number, result in enumerate(analyze(sources, **more)):
            sure = number % 2 == 0
            yield replace(
                result,
                status="ok" if sure else "uncertain",
                warnings=() if sure else ("It is not sure.",),
                prediction_set=(result.predicted_class,) if sure else ("glioma", "pituitary"),
            )

    monkeypatch.setattr("brain_tumor.evaluation.scoring.analyze", uncertain_analyze)
    told = evaluate(table, engine_of(table), progress=False)
    found, odd = figures(told), table["class"][1::2]
    assert found["share uncertain"] == 0.5 and found["classes in the set, mean"] == 1.5
    assert found["true class inside the set of classes"] == pytest.approx(
        (12 + odd.isin(["glioma", "pituitary"]).sum()) / 24
    )
    assert told.predictions["reason"].dropna().unique().tolist() == ["It is not sure."]


def test_one_bad_row_harms_no_other(heads, tmp_path):
    folder, table = heads
    (tmp_path / "text.png").write_text("I am no picture.")
    cv2.imwrite(str(tmp_path / "small.png"), np.full((5, 7), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "labels.png"), np.tile(np.uint8([0, 1, 2, 4]), (128, 32)))
    broken = table.astype({"image": object, "mask": object}).copy()
    broken.loc[0, "image"], broken.loc[1, "image"] = (
        str(tmp_path / "text.png"),
        str(tmp_path / "gone.png"),
    )
    broken.loc[2, "mask"], broken.loc[3, "mask"], broken.loc[4, "mask"] = (
        str(tmp_path / name) for name in ("small.png", "labels.png", "gone_mask.png")
    )
    broken.loc[5, ["mask", "class"]] = None
    broken.loc[6, "mask"] = None
    told = evaluate(broken, engine_of(table), progress=False)
    rows = told.predictions
    by_image = rows.set_index("image")["status"]
    assert [by_image[name] for name in broken["image"][:8]] == ["refused"] * 2 + ["ok"] * 3 + [
        "left out"
    ] + ["ok"] * 2
    assert figures(told)["accuracy"] == 1 and len(rows) == 24
    by_image = rows.set_index("image")
    assert by_image.loc[broken["image"][2], "reason"].startswith(
        "Its mask is not used: the mask has 7 x 5 pixels, the scan 128 x 128"
    )
    assert (
        by_image.loc[list(broken["image"][2:5]), ["truth_px", "dice"]].isna().all().all()
        and told.figures.set_index("figure").loc["accuracy", "scans"] == 21
    )
    no_class = evaluate(
        broken.assign(**{"class": None}), engine_of(table), progress=False
    ).predictions.set_index("image")
    assert [no_class["status"][name] for name in broken["image"][2:5]] == ["left out"] * 3
    assert not rows["reason"].dropna().str.contains(str(tmp_path), regex=False).any()


def test_scans_and_masks_that_miss_each_other(heads, tmp_path):
    _, table = heads
    for row in table[:8].to_dict("records"):
        for kind, target in (
            ("image", tmp_path / "images" / row["group"]),
            ("mask", tmp_path / "masks" / row["group"]),
        ):
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(row[kind], target)
    first, second = sorted(tmp_path.glob("images/*/*.png"))[:2]
    first.unlink()
    (tmp_path / "masks" / second.parent.name / second.name).unlink()
    listed = read_labelled_data(tmp_path)
    assert len(listed) == 8 and listed["group"].nunique() == 8 and listed["class"].isna().all()
    assert set(listed["reason"].dropna()) == {
        "a mask without a scan of its name",
        "neither class nor mask is known",
    }
    assert (
        evaluate(tmp_path, engine_of(table), progress=False).predictions["status"] == "left out"
    ).sum() == 2


def test_class_folders_as_on_kaggle(heads, tmp_path):
    _, table = heads
    names = {
        "no_tumor": "notumor",
        "pituitary": "Pituitary_Tumor",
        "glioma": "glioma",
        "meningioma": "MENINGIOMA",
    }
    for number, row in enumerate(table.to_dict("records")):
        target = tmp_path / ("Testing" if number // 4 % 2 else "Training") / names[row["class"]]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(row["image"], target)
    (tmp_path / "README.txt").write_text("no scan")
    listed = read_labelled_data(tmp_path)
    assert len(listed) == 24 and listed["group"].isna().all() and listed["mask"].isna().all()
    assert dict(zip(listed["image"].str.split("/").str[-1], listed["class"])) == dict(
        zip(table["image"].str.split("/").str[-1], table["class"])
    )
    (tmp_path / "Testing" / "notumor").rename(tmp_path / "Testing" / "astrocytoma")
    with raises(ErrorCode.LABEL_UNKNOWN, "--label astrocytoma=glioma"):
        read_labelled_data(tmp_path)
    assert (read_labelled_data(tmp_path, {"Astrocytoma": "glioma"})["class"] == "glioma").sum() > (
        listed["class"] == "glioma"
    ).sum()


def test_training_and_testing_may_use_the_same_names(tmp_path):
    for number, split in enumerate(("Training", "Testing")):
        (tmp_path / split / "glioma").mkdir(parents=True)
        for name in ("1.png", "1_mask.png"):
            cv2.imwrite(
                str(tmp_path / split / "glioma" / name), np.full((20, 20), 99 + number, np.uint8)
            )
    cv2.imwrite(str(tmp_path / "Testing" / "glioma" / "1-seg.png"), np.full((20, 20), 1, np.uint8))
    listed = read_labelled_data(tmp_path)
    scans = listed[listed["reason"].isna()]
    assert len(scans) == 2 and all(row.mask.parent == row.path.parent for row in scans.itertuples())
    assert set(listed["class"]) == {"glioma"} and listed["group"].isna().all()
    assert listed["reason"].dropna().tolist() == [
        "a second mask of one scan; the first by name was used"
    ]


@pytest.mark.parametrize(
    "outline",
    [
        "1_segmentation.png",
        "1_label.png",
        "1-roi.png",
        "mask_1.png",
        "1.mask.png",
        "1_Mask2.png",
        "labels/1.png",
        "Segmentations/1.png",
    ],
)
def test_common_names_of_outlines(tmp_path, outline):
    for name in ("1.png", outline, "1x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((20, 20), 99, np.uint8))
    listed = read_labelled_data(tmp_path).set_index("image")
    assert (
        set(listed.index) == {"1.png", "1x.png"}
        and listed.loc["1.png", "mask"] == tmp_path / outline
        and listed.loc["1x.png", "mask"] is None
    )


def test_tables_as_spreadsheets_write_them(heads, tmp_path):
    _, table = heads
    few = table[:4].assign(
        group=["007", "7", "08", "9"], plane=[" Axial", "CORONAL", None, "axial "]
    )[["image", "class", "mask", "group", "spacing_mm", "plane"]]
    few.rename(columns={"image": " Image", "class": "Class ", "group": "Group"}).to_csv(
        tmp_path / "semicolons.csv", sep=";", decimal=",", index=False
    )
    listed = read_labelled_data(tmp_path / "semicolons.csv")
    assert listed["group"].tolist() == ["007", "7", "08", "9"] and listed[
        "spacing_mm"
    ].tolist() == pytest.approx(few["spacing_mm"].tolist())
    assert listed["class"].tolist() == few["class"].tolist() and listed["plane"].tolist() == [
        "axial",
        "coronal",
        None,
        "axial",
    ]
    assert (
        read_labelled_data(few.rename(columns={"group": "Patient"}), groups="Patient")[
            "group"
        ].tolist()
        == few["group"].tolist()
    )


def test_a_slice_that_is_none_and_a_volume_without_one_are_refused(heads, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    _, table = heads
    nibabel.save(
        nibabel.Nifti1Image(
            np.random.default_rng(0).random((20, 20, 3)).astype(np.float32), np.eye(4)
        ),
        tmp_path / "head.nii.gz",
    )
    rows = pd.DataFrame(
        [
            {"image": table["image"][0], "class": "glioma"},
            *(
                {
                    "image": str(tmp_path / "head.nii.gz"),
                    "class": "glioma",
                    "slice": number,
                    "axis": 2,
                }
                for number in (None, 1.7)
            ),
        ]
    )
    told = evaluate(
        rows,
        lambda scan: SimpleNamespace(
            probabilities=np.eye(4)[0], mask_probability=np.zeros(scan.pixels.shape, np.float32)
        ),
        progress=False,
    ).predictions
    assert (told["status"] == "refused").tolist() == [False, True, True]
    assert (
        told["reason"][1].endswith("In a table: columns slice and axis.")
        and "slice=1.7" in told["reason"][2]
    )


def test_a_slice_of_a_volume_and_of_its_mask(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume, mask = np.zeros((40, 50, 4), np.float32), np.zeros((40, 50, 4), np.uint8)
    volume[4:36, 5:45] = np.linspace(10, 90, 40)[None, :, None]
    mask[6:10, 8:18, 2] = 1
    for name, data in (("head", volume), ("truth", mask)):
        nibabel.save(
            nibabel.Nifti1Image(data, np.diag([2.0, 2.0, 5.0, 1.0])), tmp_path / f"{name}.nii.gz"
        )
    table = pd.DataFrame(
        [
            {
                "image": str(tmp_path / "head.nii.gz"),
                "mask": str(tmp_path / "truth.nii.gz"),
                "slice": 2,
                "axis": 2,
            }
        ]
    )
    seen = []

    def engine(scan):
        seen.append(scan)
        return SimpleNamespace(
            probabilities=np.eye(4)[0],
            mask_probability=(
                read_in_process(tmp_path / "truth.nii.gz", slice=2, axis=2).pixels > 0
            ).astype(np.float32),
        )

    told = evaluate(table, engine, progress=False)
    assert (
        figures(told)["Dice"] == 1
        and told.predictions["surface_true"][0] == pytest.approx(40 * 0.04)
        and seen[0].slice_index == 2
    )


@pytest.mark.parametrize(
    "table, code, part",
    [
        ({"image": ["a.png"]}, ErrorCode.DATA_MISSING, "class or mask"),
        ({"class": ["glioma"]}, ErrorCode.DATA_MISSING, "image"),
        ({"image": ["a.png"], "class": ["cyst"]}, ErrorCode.LABEL_UNKNOWN, "cyst"),
        ({"image": ["a.png"], "class": [None]}, ErrorCode.DATA_MISSING, "class or a mask"),
        ({"image": ["gone.png"], "class": ["glioma"]}, ErrorCode.DATA_MISSING, "gone.png"),
        ({"image": [], "class": []}, ErrorCode.DATA_MISSING, "class or a mask"),
    ],
)
def test_tables_that_cannot_be_scored(table, code, part):
    with raises(code, part):
        evaluate(pd.DataFrame(table), lambda scan: None, progress=False)


def test_labels_blanks_and_single_scans(heads, tmp_path):
    _, table = heads
    for two in ({"GBM": "glioma", "gbm ": "meningioma"}, [("GBM", "glioma"), ("gbm", "pituitary")]):
        with raises(ErrorCode.ARGUMENT_INVALID, "gbm"):
            check_label_map(two)
    assert check_label_map({"GBM": "glioma", "gbm": "glioma tumour"}) == {"gbm": "glioma"}
    few = table[:4].astype({"image": object, "class": object, "mask": object}).copy()
    few.loc[0, "image"], few.loc[1, "class"], few.loc[2, ["class", "mask"]] = None, " ", ["", None]
    listed = read_labelled_data(few)
    assert (
        listed["reason"].tolist()
        == ["no image is named", None, "neither class nor mask is known", None]
        and listed["class"][1] is None
    )
    with raises(ErrorCode.FORMAT_UNSUPPORTED, table["image"][0]):
        read_labelled_data(table["image"][0])


def test_the_page_says_how_many_groups_are_missing(heads, tmp_path):
    _, table = heads
    some = table.assign(group=[None, None, *table["group"][2:]])
    page = evaluate(
        some,
        engine_of(table),
        tmp_path,
        check_input=False,
        labels={"GBM": "glioma"},
        pictures=False,
        progress=False,
    ).page.read_text(encoding="utf-8")
    shipped = lambda check: evaluate(table[:4], check_input=check, progress=False).settings[
        "check_input"
    ]
    assert shipped(True) is True and shipped(False) is False
    assert "2 of 24 scans have no group" in page and "each counts as one" not in page
    assert "Label <i>GBM</i> was taken for glioma" in page


def test_folders_that_cannot_be_scored(tmp_path):
    with raises(ErrorCode.FILE_NOT_FOUND, tmp_path):
        read_labelled_data(tmp_path)
    with raises(ErrorCode.FILE_NOT_FOUND, tmp_path / "nowhere"):
        read_labelled_data(tmp_path / "nowhere")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 20), 99, np.uint8))
    with raises(ErrorCode.DATA_MISSING, tmp_path):
        read_labelled_data(tmp_path)
    with raises(ErrorCode.ARGUMENT_INVALID, tmp_path, "patient"):
        read_labelled_data(tmp_path, groups="patient")
    with raises(ErrorCode.FORMAT_UNSUPPORTED, "list"):
        read_labelled_data([str(tmp_path / "a.png")])
    with raises(ErrorCode.LABEL_UNKNOWN, "metastasis"):
        read_labelled_data(tmp_path, {"met": "metastasis"})


def test_where_all_are_refused_the_reasons_stay(heads, tmp_path):
    _, table = heads

    def never(scan):
        raise BrainTumorError(f"{scan.source}: not today")

    with raises(ErrorCode.DATA_MISSING, "24", "not today"):
        evaluate(table, never, tmp_path, progress=False)
    kept = pd.read_csv(tmp_path / "predictions.csv")
    assert (
        (kept["status"] == "refused").all()
        and (kept["reason"] == "not today").all()
        and not (tmp_path / "evaluation.html").exists()
    )


def test_a_stopped_run_keeps_what_it_has_and_no_page_of_another(heads, tmp_path):
    _, table = heads
    evaluate(table[:4], engine_of(table), tmp_path, progress=False)
    assert (tmp_path / "evaluation.html").is_file()

    def stops(scan):
        if int(scan.source.split(".")[0]) == 20:
            raise KeyboardInterrupt
        return engine_of(table)(scan)

    with pytest.raises(KeyboardInterrupt):
        evaluate(table, stops, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    assert 0 < len(pd.read_csv(tmp_path / "predictions.csv")) <= 20


def test_a_spacing_that_is_none_refuses_its_row_alone(heads):
    _, table = heads
    told = evaluate(
        table.assign(spacing_mm=[0, "wide", *table["spacing_mm"][2:]]),
        engine_of(table),
        progress=False,
    ).predictions
    assert (
        told["status"].tolist() == ["refused"] * 2 + ["ok"] * 22
        and told["reason"][:2].str.contains("spacing").all()
    )


# ---- the page


@pytest.fixture(scope="module")
def spoiled(heads, tmp_path_factory):
    """Evaluated with an engine that errs more the higher the number."""
    _, table = heads

    def spoil(number, odds, mask):
        return (np.roll(odds, 1) if number % 3 == 0 else odds) + 0, np.roll(mask, number, axis=1)

    out = tmp_path_factory.mktemp("page")
    return evaluate(table, engine_of(table, spoil), out, progress=False, most=4), out, table, spoil


def test_the_page_is_self_contained_and_complete(spoiled):
    told, out, _, _ = spoiled
    page = told.page.read_text(encoding="utf-8")
    bare = re.sub(r"data:image/png;base64,[^\"]+", "", page)
    assert not re.search(r"https?:|<script|<link|url\(|@import|src=\"(?!\")", bare)
    tags = re.findall(r"<img\b[^>]*>", bare)
    assert len(tags) >= 9 and all(re.search(r'alt="[^"]{15,}"', tag) for tag in tags)
    assert (
        INTENDED_USE in page
        and "color-scheme:light dark" in page
        and "Don't choose a threshold" in page
    )
    assert "Evaluated: engine, <b>without an input check" in page
    assert sorted(path.name for path in out.iterdir()) == [
        "drift.csv",
        "evaluation.html",
        "figures.csv",
        "predictions.csv",
    ]
    assert pd.read_csv(out / "figures.csv")["value"].to_numpy() == pytest.approx(
        told.figures["value"].to_numpy(), abs=1e-5
    )


def test_the_worst_cases_are_the_worst(spoiled):
    told, _, table, spoil = spoiled
    rows = told.predictions
    worst = rows[rows["dice"].notna()].sort_values(
        ["dice", "truth_px"], ascending=[True, False], kind="stable"
    )["image"][:4]
    evaluate_with = evaluate(table, engine_of(table, spoil), progress=False).predictions
    assert evaluate_with["dice"].equals(rows["dice"])
    page = told.page.read_text(encoding="utf-8")
    part = page.split("Lowest Dice, the lowest first")[1].split("<h2>")[0]
    assert re.findall(r"<figcaption[^>]*>([^<]*?): predicted", part) == worst.tolist()
    wrong = page.split("Wrong class, the surest first")[1].split("<h2>")[0]
    wrong_names = set(re.findall(r"<figcaption[^>]*>([^<]*?): predicted", wrong))
    assert wrong_names and wrong_names <= set(rows["image"][rows["class"] != rows["predicted"]])


def test_truth_and_answer_differ_in_black_and_white():
    from brain_tumor.evaluation.evaluate import draw_both_masks

    mask = np.zeros((160, 160), bool)
    mask[40:80, 40:80] = True
    other = np.roll(mask, 50, axis=1)
    picture = draw_both_masks(np.full((160, 160), 0.5, np.float32), mask, other)
    line = picture[int(2 * 79.5), 180:260].astype(int).mean(1)  # along the lower edge of the truth
    assert (line > 250).any() and (line < 5).any(), "the truth is dashed black and white"
    edge = picture[80:160, 78:80].astype(int).mean(2)
    assert (edge[:, 1] > 250).mean() > 0.9, "the answer's ring is solid"


def test_a_page_to_share_holds_no_name(heads, tmp_path):
    _, table = heads
    named = tmp_path / "Jane Doe" / "jane.png"
    named.parent.mkdir()
    shutil.copy(table["image"][0], named)
    rows = table.assign(
        image=[str(named), *table["image"][1:]], group=["Jane Doe", *table["group"][1:]]
    ).astype({"mask": object})
    rows.loc[1, "image"] = str(tmp_path / "Jane Doe" / "missing.png")
    engine = lambda scan: SimpleNamespace(
        probabilities=np.eye(4)[0], mask_probability=np.zeros(scan.pixels.shape, np.float32)
    )
    told = evaluate(rows, engine, tmp_path / "out", pictures=False, names=False, progress=False)
    texts = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir())
    assert not re.search(r"jane|missing\.png|phantom\d", texts, re.IGNORECASE) and "scan 2" in texts
    assert "<figcaption" not in told.page.read_text(encoding="utf-8")
    assert told.predictions["status"].tolist().count("refused") == 1
    named_too = evaluate(rows, engine, tmp_path / "named", pictures=False, progress=False)
    assert (
        "jane.png" in (tmp_path / "named" / "predictions.csv").read_text(encoding="utf-8")
        and named_too.page.is_file()
    )


def test_numbers_for_names_change_no_figure(heads):
    _, table = heads
    spoil = lambda number, odds, mask: (np.roll(odds, number % 3 == 0), mask)
    twice = pd.concat([table, table[:12]]).drop(
        columns="group"
    )  # half of the files hold two slices, say, and no patient is known
    on, off = (
        evaluate(twice, engine_of(table, spoil), names=names, progress=False)
        for names in (True, False)
    )
    plain = ["figure", "value", "scans", "groups"]
    pd.testing.assert_frame_equal(
        on.figures[plain], off.figures[plain]
    )  # an interval's ends differ by the luck of the draw
    assert off.predictions["group"].nunique() == on.predictions["group"].nunique() == 24


def test_a_folder_that_cannot_be_written_is_reported_first(heads, tmp_path):
    _, table = heads
    (tmp_path / "file").write_text("in the way")
    asked = []
    with raises(ErrorCode.WRITE_FAILED, "out"):
        evaluate(table, lambda scan: asked.append(scan), tmp_path / "file" / "out", progress=False)
    assert not asked


# ---- the command line


def test_exit_statuses(heads, tmp_path, capsys):
    folder, table = heads
    few = table[table["role"] == "test"].copy()
    few.to_csv(tmp_path / "few.csv", index=False)
    assert (
        main(
            [
                "evaluate",
                str(tmp_path / "few.csv"),
                "--out",
                str(tmp_path / "a"),
                "--no-input-check",
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    assert (
        "accuracy:" in said.out
        and INTENDED_USE in said.out
        and (tmp_path / "a" / "evaluation.html").is_file()
    )
    pd.concat([few, few[:1].assign(image="gone.png")]).to_csv(tmp_path / "one.csv", index=False)
    assert (
        main(
            [
                "evaluate",
                str(tmp_path / "one.csv"),
                "--out",
                str(tmp_path / "b"),
                "--no-pictures",
                "--spacing",
                "1.5",
            ]
        )
        == 1
    )
    assert "refused: gone.png" in capsys.readouterr().err
    few.assign(**{"class": "cyst"}).to_csv(tmp_path / "cyst.csv", index=False)
    assert main(["evaluate", str(tmp_path / "cyst.csv"), "--out", str(tmp_path / "c")]) == 2
    assert "--label cyst=glioma" in capsys.readouterr().err and not (tmp_path / "c").exists()
    assert main(["evaluate", str(tmp_path / "cyst.csv"), "--label", "cyst=tumour"]) == 2
    assert main(["evaluate", str(tmp_path / "few.csv"), "--groups", "hospital"]) == 2
    assert main(["evaluate", str(tmp_path / "nowhere")]) == 2


# ---- the model card


def test_the_projects_test_gives_the_model_cards_figures(all_sources, root):
    from brain_tumor.data.sources import slices_of_model
    from brain_tumor.io.files import MODELS, read_model_manifest

    table = slices_of_model(all_sources, read_model_manifest(MODELS / "compact"))
    chosen = table[
        (table["role"] == "test")
        & (
            (table["source"] == "figshare")
            | ((table["source"] == "kaggle") & (table["class"] == "no_tumor"))
        )
    ]
    told = evaluate(chosen, check_input=False, progress=False)
    assert (told.predictions["status"] != "refused").all()
    recorded = pd.read_csv(
        root / "runs" / "compact" / "predictions.csv", dtype={"image": str}
    ).set_index(["source", "image"])
    said = told.predictions.assign(source=chosen["source"].to_numpy()).set_index(
        ["source", "image"]
    )
    same = recorded.loc[said.index]
    assert (said["predicted"] == same["predicted"]).all() and np.allclose(
        said["dice"], same["dice"], atol=1e-5, equal_nan=True
    )
    both = told.figures.dropna(subset="card").set_index("figure")
    card = {
        name: three
        for name, three in card_figures().items()
        if name in both.index and name != "calibration error"
    }
    assert {
        "accuracy, tumours",
        "recall, no_tumor",
        "Dice",
        "Dice, glioma",
        "Dice, smallest third",
        "Dice, axial",
    } <= set(card)
    for name, three in card.items():
        if three[0] == 1:  # a share of 1 has the exact bound here, and a bootstrap there
            three = [1, *both.loc[name, ["value_low", "value_high"]]]
        assert both.loc[name, ["value", "value_low", "value_high"]].astype(
            float
        ).tolist() == pytest.approx(three, abs=1e-5, nan_ok=True), name
    told = json.loads(
        (root / "brain_tumor" / "models" / "compact" / "results.json").read_text(encoding="utf-8")
    )
    known = {one["figure"]: one for one in told["figures"]}
    assert both.loc["Dice", "value"] == pytest.approx(known["Dice, figshare"]["value"], abs=1e-5)
    assert both.loc["accuracy, tumours", "value"] == pytest.approx(
        known["class accuracy, figshare"]["value"]
    )
    assert both.loc["accuracy, tumours", "value_low"] == pytest.approx(
        known["class accuracy, figshare"]["low"]
    )


# ---- drift


@pytest.fixture(scope="module")
def known(heads):
    """Facts of the drawn heads, with two roles, and their summary."""
    _, table = heads
    facts = pd.DataFrame(
        [
            image_facts(read_in_process(row["image"], spacing=row["spacing_mm"]))
            | {
                "class": row["class"],
                "group": row["group"],
                "image": row["image"],
                "role": ("train", "validation")[number // 4 % 2],
            }
            for number, row in enumerate(table.to_dict("records"))
        ]
    )
    return facts, summarise_reference(facts)


def test_a_resample_of_the_training_side_is_no_drift(known):
    facts, summary = known
    train, rng = facts[facts["role"] == "train"], np.random.default_rng(0)
    for _ in range(5):
        again = train.iloc[rng.integers(0, len(train), len(train))]
        found = compare_with_reference(again, summary)
        assert not found["drift"].any() and "no promise" in drift_sentences(found)[0]


def test_draws_from_the_summary_that_ships_are_no_drift():
    summary, rng = load_reference(), np.random.default_rng(1)
    drawn = [
        {
            fact: rng.choice(summary["quantiles"][number, place])
            for place, fact in enumerate(IMAGE_FACTS)
        }
        | {"class": CLASSES[number]}
        for number in rng.integers(0, 4, 120)
    ]
    assert not compare_with_reference(pd.DataFrame(drawn))["drift"].any()


@pytest.mark.parametrize(
    "change, facts",
    [
        (lambda p: cv2.GaussianBlur(p, (0, 0), 2.5), {"sharpness": "softer"}),
        (lambda p: 1 - p, {"border": "brighter along the border"}),
        (lambda p: np.clip(1.8 * p, 0, 1), {"brightness": "brighter"}),
        (
            lambda p: np.clip(
                p + 0.08 * np.random.default_rng(0).normal(size=p.shape).astype(np.float32), 0, 1
            ),
            {"noise": "noisier"},
        ),
    ],
)
def test_changed_copies_drift(known, change, facts):
    before, summary = known
    changed = pd.DataFrame(
        [
            image_facts(
                read_in_process(
                    np.ascontiguousarray(change(read_in_process(row["image"]).pixels), np.float32)
                )
            )
            | {"class": row["class"], "group": row["group"]}
            for row in before.to_dict("records")
        ]
    )
    found = compare_with_reference(changed, summary)
    told = found[found["drift"]].set_index("fact")
    for fact, words in facts.items():
        assert fact in told.index
        assert any(f"are {words} than" in sentence for sentence in drift_sentences(found))
    assert drift_figure(found).axes[0].get_xlabel().startswith("Kolmogorov")


def test_one_patient_drifts_only_outside_of_all_others(known):
    facts, summary = known
    assert not any(
        compare_with_reference(facts[number : number + 1], summary)["drift"].any()
        for number in range(6)
    )
    alike = facts[facts["class"] == "glioma"].iloc[[0] * 40]
    assert compare_with_reference(alike.assign(group=range(40)), summary)["drift"].any(), (
        "forty patients alike"
    )
    one = compare_with_reference(alike.assign(group="one"), summary)
    assert not one["drift"].any() and one[["distance_low", "distance_high"]].isna().all().all(), (
        "one patient, forty slices"
    )
    assert (
        "With 1 group only very large differences" in drift_sentences(one)[0]
        and "very large"
        not in drift_sentences(compare_with_reference(facts[facts["role"] == "train"], summary))[0]
    )


def test_the_summary_holds_numbers_only_and_is_small():
    from brain_tumor.evaluation.drift import SUMMARY_FILE

    summary = load_reference()
    assert SUMMARY_FILE.stat().st_size < 100_000
    assert set(summary) == {"facts", "quantiles", "counts", "values", "classes", "groups"}
    assert all(summary[name].dtype.kind in "iuf" for name in summary if name != "facts")


def test_a_damaged_summary_is_refused(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    with raises(ErrorCode.MODEL_INVALID, "broken.npz"):
        load_reference(tmp_path / "broken.npz")
    np.savez(tmp_path / "other.npz", facts=np.array(["age"]))
    with raises(ErrorCode.MODEL_INVALID, "other.npz"):
        load_reference(tmp_path / "other.npz")


def test_the_projects_test_is_no_drift_and_its_blurred_copies_are(shared_data, root):
    from brain_tumor.data.splits import read_data

    tested = pd.read_csv(root / "runs" / "drift" / "test.csv")
    assert not tested[tested["part"] == "test"]["drift"].any()
    table = read_data(shared_data)
    some = (
        table[(table["role"] == "test") & (table["source"] == "figshare")].groupby("group").head(2)
    )
    facts = lambda change: pd.DataFrame(
        [
            image_facts(
                read_in_process(
                    np.ascontiguousarray(change(read_in_process(row["path"]).pixels), np.float32)
                )
            )
            | {"class": row["class"], "group": row["group"]}
            for row in some.to_dict("records")
        ]
    ).assign(long_side=512.0)
    assert not compare_with_reference(facts(lambda p: p))["drift"].any()
    assert "sharpness" in set(
        compare_with_reference(facts(lambda p: cv2.GaussianBlur(p, (0, 0), 2.5))).query("drift")[
            "fact"
        ]
    )
    assert {"border", "background"} & set(
        compare_with_reference(facts(lambda p: 1 - p)).query("drift")["fact"]
    )
    assert "brightness" in set(
        compare_with_reference(facts(lambda p: np.clip(2 * p, 0, 1))).query("drift")["fact"]
    )
