"""Reports on recorded runs: other libraries as oracles, known truth, bad input, and the page."""

import argparse
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from errors import raises

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="reports need the extra `workbook`")

from brain_tumor.classification.report import (
    auc_table,
    class_scores,
    confusion_counts,
    confusion_figure,
    curves_with_thesis,
    distinct_titles,
    feature_map_figure,
    mcnemar,
    reliability_bins,
    reliability_figure,
    roc_figure,
    save_output,
    write_feature_map,
)
from brain_tumor.classification.thesis_report import (
    NETWORK_TITLES,
    REPORT_STAGES,
    accuracy_difference,
    add_report_arguments,
    changed_switches,
    final_table,
    part_scores,
    recipe_steps,
    run_stage,
    thesis_table_3_3,
    thesis_table_3_4,
    write_classification_report,
)
from brain_tumor.io.errors import ErrorCode  # noqa: E402
from brain_tumor.io.pages import format_intervals  # noqa: E402
from brain_tumor.io.scan import CLASSES, INTENDED_USE
from brain_tumor.metrics import calibration_error, mean_interval  # noqa: E402
from brain_tumor.training.runs import PROBABILITY_COLUMNS, load_run, thesis_log, write_example_run  # noqa: E402

SCORES = ["precision", "recall", "f1"]


def rejected(code, action, *words):
    with raises(code, *words):
        action()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return load_run(
        write_example_run(tmp_path_factory.mktemp("runs") / "A", patients=64, distance=1.5)
    )


@pytest.fixture
def tested(whole):
    return whole.only(role="test")


def like(run, name, rows=None, **settings):
    """The same run under another name, with some of its predictions changed."""
    table = run.predictions if rows is None else rows(run.predictions.copy())
    return replace(
        run, path=run.path.parent / name, predictions=table, settings=run.settings | settings
    )


def arrays(seed, n=300, classes=4, groups=40):
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, n), rng.dirichlet(np.ones(4), n), rng.integers(0, groups, n)


# ---- scores


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed):
    label, p, group = arrays(seed, classes=3 if seed == 4 else 4)
    found, said = class_scores((label, p, group), draws=20), p.argmax(1)
    judge = sklearn_metrics.precision_recall_fscore_support(
        label, said, labels=range(4), zero_division=np.nan
    )
    for number, name in enumerate(SCORES):
        occurs = judge[3] > 0
        assert np.allclose(found[name][:4][occurs].astype(float), judge[number][occurs])
        assert np.isclose(
            found[name][4],
            sklearn_metrics.precision_recall_fscore_support(
                label, said, labels=np.flatnonzero(occurs), average="macro"
            )[number],
        )
    for number in range(4):
        assert np.isclose(
            found["accuracy"][number],
            sklearn_metrics.accuracy_score(label == number, said == number),
        )
    assert found["pictures"].tolist() == [*judge[3], len(label)] and found["groups"][4] == len(
        set(group)
    )


def test_intervals_are_over_groups(tested):
    found = class_scores(tested).iloc[-1]
    right = tested.predictions["class"] == tested.predictions["predicted"]
    assert np.allclose(
        found[["accuracy", "accuracy_low", "accuracy_high"]].astype(float),
        mean_interval(right, tested.predictions["group"]),
    )
    label, p, group = arrays(0, 400, groups=400)
    twins = [np.repeat(some, 9, axis=0) for some in (label, p, np.arange(400))]
    wide, narrow = class_scores(tuple(twins)).iloc[0], class_scores((twins[0], twins[1])).iloc[0]
    for name in SCORES:
        assert (
            2
            < (wide[f"{name}_high"] - wide[f"{name}_low"])
            / (narrow[f"{name}_high"] - narrow[f"{name}_low"])
            < 4.5
        ), "nine copies of a patient are one patient"
        assert wide[f"{name}_low"] < wide[name] < wide[f"{name}_high"]


def test_recall_of_a_class_is_the_mean_over_its_pictures():
    """If a class' groups have no other class, `mean_interval` gives recall's bootstrap closely."""
    group, label = np.repeat(np.arange(300), 4), np.repeat(np.arange(300) % 4, 4)
    p = np.random.default_rng(3).dirichlet(np.ones(4), 1200) + 0.4 * np.eye(4)[label]
    found = class_scores((label, p / p.sum(1, keepdims=True), group)).iloc[2]
    own = label == 2
    value, low, high = mean_interval(p[own].argmax(1) == 2, group[own])
    assert (
        np.isclose(found["recall"], value)
        and abs(found["recall_low"] - low) < 0.02
        and abs(found["recall_high"] - high) < 0.02
    )


def test_a_class_that_never_occurs_is_left_empty():
    label, said = np.full(20, 2), np.repeat([2, 0], 10)
    found = class_scores((label, np.eye(4)[said], np.arange(20))).set_index("of")
    assert (
        np.isnan(found.loc["glioma", "recall"])
        and found.loc["glioma", "precision"] == 0
        and np.isnan(found.loc["pituitary", SCORES].astype(float)).all()
    )
    assert (
        found.loc["all", "accuracy"] == found.loc["all", "recall"] == 0.5
        and found.loc["all", "precision"] == 1
    )
    assert format_intervals(found).loc["pituitary", "f1"] == "" and format_intervals(found).loc[
        "all", "accuracy"
    ].startswith("0.500 (0.")


def test_format_intervals_formats_each_kind_of_column():
    table = pd.DataFrame(
        {
            "a": [0.12345, np.nan],
            "a_low": [0.1, np.nan],
            "a_high": [0.2, np.nan],
            "b": [0.00001, 2.0],
            "n": pd.array([3, None], "Int64"),
            "c": ["x", None],
        }
    )
    assert format_intervals(table).values.tolist() == [
        ["0.123 (0.100 to 0.200)", "<0.001", 3, "x"],
        ["", "2.000", "", ""],
    ] and list(format_intervals(table)) == ["a", "b", "n", "c"]
    assert format_intervals(table, 1)["a"][0] == "0.1 (0.1 to 0.2)"


def test_confusion_counts_and_draws(tested):
    table = confusion_counts(tested)
    judge = sklearn_metrics.confusion_matrix(
        tested.predictions["class"], tested.predictions["predicted"], labels=CLASSES
    )
    assert (
        np.array_equal(table[list(CLASSES)], judge)
        and table["pictures"].tolist() == judge.sum(1).tolist()
    )
    words = [
        text.get_text() for text in confusion_figure([tested, like(tested, "B")]).axes[1].texts
    ]
    assert (
        words[0].split("\n") == [str(judge[0, 0]), f"{judge[0, 0] / judge[0].sum():.0%}"]
        and len(words) == 16
    )


# ---- ROC


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_areas_are_those_of_scikit_learn_with_ties(digits):
    label, p, group = arrays(digits)
    p = p.round(digits)
    p /= p.sum(1, keepdims=True)
    found = auc_table((label, p, group), draws=30)
    judge = [sklearn_metrics.roc_auc_score(label == number, p[:, number]) for number in range(4)]
    assert (
        np.allclose(found["auc"], [*judge, np.mean(judge)])
        and (found["auc_low"] < found["auc"]).all()
        and (found["auc"] < found["auc_high"]).all()
    )


def test_weighted_areas_are_those_of_drawn_rows():
    from brain_tumor.classification.report import _auc

    label, p, _ = arrays(7, 60)
    times = np.random.default_rng(0).integers(0, 3, (5, 60))
    drawn = [
        sklearn_metrics.roc_auc_score(np.repeat(label == 1, row), np.repeat(p[:, 1].round(1), row))
        for row in times
    ]
    assert np.allclose(_auc(p[:, 1].round(1), label == 1, times.astype(float)), drawn)


def test_a_missing_class_has_no_area():
    label, p, _ = arrays(1, classes=3)
    found = auc_table((label, p), draws=5).set_index("of")["auc"]
    assert np.isnan(found["pituitary"]) and np.isclose(
        found["mean"], found[list(CLASSES[:3])].mean()
    )
    assert len(roc_figure((label, p)).axes[0].get_lines()) == 4, "three curves and the diagonal"
    assert auc_table((np.zeros(9, int), p[:9]), draws=5)["auc"].isna().all()


# ---- calibration, comparison


def test_reliability_adds_up_to_the_calibration_error():
    label, p, group = arrays(2)
    table = reliability_bins((label, p, group))
    assert np.isclose(
        (table["pictures"] * (table["right"] - table["confidence"]).abs()).sum() / len(label),
        calibration_error(p, label),
    )
    assert (table["calibration_error"] == calibration_error(p, label)).all() and table[
        "pictures"
    ].sum() == len(label)
    assert "calibration error" in reliability_figure((label, p, group)).axes[0].get_title()


def mcnemar_by_hand(a, b):
    from math import comb

    n = a + b
    return min(1.0, 2 * sum(comb(n, k) for k in range(min(a, b) + 1)) / 2**n)


@pytest.mark.parametrize("a, b", [(0, 0), (1, 0), (3, 3), (10, 2), (0, 30)])
def test_mcnemar_is_exact(a, b):
    label, wrong = np.zeros(100, int), np.eye(4)[1]
    first, second = np.tile(np.eye(4)[0], (100, 1)), np.tile(np.eye(4)[0], (100, 1))
    second[:a], first[a : a + b] = wrong, wrong
    row = mcnemar((label, first), (label, second)).iloc[0]
    assert (row["first_only"], row["second_only"], row["both"], row["neither"]) == (
        a,
        b,
        100 - a - b,
        0,
    )
    assert np.isclose(row["p"], mcnemar_by_hand(a, b)) and np.isclose(
        row["difference"], (a - b) / 100
    )
    back = mcnemar((label, second), (label, first)).iloc[0]
    assert back["p"] == row["p"] and np.isclose(back["difference"], -row["difference"])


def test_runs_are_compared_picture_by_picture(tested, whole):
    other = like(
        tested,
        "B",
        lambda t: t.assign(
            predicted=t["predicted"].to_numpy()[::-1],
            **{n: t[n].to_numpy()[::-1] for n in PROBABILITY_COLUMNS},
        ),
    )
    found = mcnemar(tested, other)
    assert (
        mcnemar(like(tested, "A", lambda t: t.sample(frac=1, random_state=1)), other).equals(found)
        and found["difference"][0] > 0.2
    )
    same = mcnemar(tested, tested).iloc[0]
    assert same["p"] == 1 and same["difference_low"] == same["difference_high"] == 0
    rejected(
        ErrorCode.DATA_INVALID, lambda: mcnemar(tested, whole.only(role="validation")), " 0 of"
    )
    fewer = like(tested, "B", lambda t: t[:50])
    rejected(ErrorCode.DATA_INVALID, lambda: mcnemar(tested, fewer), "50 of 96 and 50")
    zeros, ones = ((make(3, int), np.eye(4)[:3]) for make in (np.zeros, np.ones))
    rejected(ErrorCode.DATA_INVALID, lambda: mcnemar(zeros, ones))


# ---- marks, plain arrays, refusals


def test_every_output_carries_the_provenance(tested, tmp_path):
    provenance = "made up, no scan behind it (protocol honest); test: 96 pictures of 32 groups"
    for table in (
        class_scores(tested, 5),
        confusion_counts(tested),
        auc_table(tested, 5),
        reliability_bins(tested),
        mcnemar(tested, tested),
    ):
        assert (table["provenance"] == provenance).all()
    other = like(tested, "B", title="other", provenance="another protocol")
    mapped = write_feature_map(
        tested.predictions, np.random.default_rng(0).normal(size=(96, 5)), tmp_path / "map.csv"
    )
    for figure in (
        confusion_figure(tested),
        roc_figure(tested),
        reliability_figure(tested),
        feature_map_figure(tested, mapped),
    ):
        assert figure.get_supxlabel().replace("\n", " ") == provenance
    both = roc_figure([tested, other]).get_supxlabel().replace("\n", " ")
    assert f"A: {provenance}" in both and "other: another protocol" in both
    assert "plain arrays: the protocol is not known" in set(
        class_scores(arrays(0), 5)["provenance"]
    )


def test_titles_that_stand_twice_are_told_apart(tested):
    pair = distinct_titles([tested, like(tested, "B"), like(tested, "C", title="other")])
    assert [run.title for run in pair] == ["A (A)", "A (B)", "other"] and tested.title == "A"
    assert [
        axis.get_title() for axis in confusion_figure([tested, like(tested, "B")] * 2).axes
    ] == ["A (A)", "A (B)"] * 2


def test_names_and_numbers_of_classes_are_the_same_labels():
    label, p, group = arrays(6)
    assert class_scores((np.array(CLASSES)[label], p, group), 5).equals(
        class_scores((label, p, group), 5)
    )


@pytest.mark.parametrize(
    "label, p, code, word",
    [
        (["glioma"], np.eye(4)[:2], ErrorCode.DATA_INVALID, "(2, 4)"),
        ([4], np.eye(4)[:1], ErrorCode.LABEL_UNKNOWN, "4"),
        (["Glioma"], np.eye(4)[:1], ErrorCode.LABEL_UNKNOWN, "Glioma"),
        ([], np.eye(4)[:0], ErrorCode.DATA_INVALID, "(0,)"),
        ([0], [[3.0, 1, 0, 0]], ErrorCode.DATA_INVALID, "arrays"),
        ([0], [[np.nan] * 4], ErrorCode.DATA_INVALID, "arrays"),
        ([0], [[0.5, 0.5]], ErrorCode.DATA_INVALID, "(1, 2)"),
    ],
)
def test_arrays_that_do_not_fit_are_rejected(label, p, code, word):
    rejected(code, lambda: class_scores((label, p)), word)


def test_subsets_are_not_mixed_and_logs_have_no_scores(whole):
    for report in (
        class_scores,
        confusion_counts,
        auc_table,
        reliability_bins,
        roc_figure,
        confusion_figure,
    ):
        rejected(ErrorCode.SELECTION_NEEDED, lambda: report(whole), "test and validation")
        rejected(ErrorCode.DATA_MISSING, lambda: report(thesis_log("vgg19")), "vgg19")
    rejected(ErrorCode.DATA_MISSING, lambda: confusion_figure([]))


def test_tables_and_figures_are_saved_the_same_each_time(tested, tmp_path):
    for name, make in (
        ("a.csv", lambda: confusion_counts(tested)),
        ("a.png", lambda: roc_figure(tested)),
        ("a.svg", lambda: roc_figure(tested)),
        ("a.pdf", lambda: roc_figure(tested)),
    ):
        once = save_output(make(), tmp_path / "deep" / name).read_bytes()
        assert (
            save_output(make(), tmp_path / "again" / name).read_bytes() == once and len(once) > 100
        )
    wrong = ErrorCode.ARGUMENT_INVALID
    rejected(wrong, lambda: save_output(roc_figure(tested), tmp_path / "a.csv"), "a.csv")
    rejected(wrong, lambda: save_output(confusion_counts(tested), tmp_path / "a"), ".csv")


def test_curves_stand_beside_the_thesis_on_one_scale(whole):
    axes = curves_with_thesis(whole, thesis_log("vgg19")).axes
    assert [axis.get_title() for axis in axes] == [
        "A, here",
        "A, here",
        "VGG-19, thesis",
        "VGG-19, thesis",
    ]
    assert axes[0].get_xlim() == axes[2].get_xlim() and axes[1].get_ylim() == axes[3].get_ylim()
    assert (
        axes[0].get_ylim()[0] < whole.history["accuracy"].min()
        and axes[1].get_ylim()[1] > thesis_log("vgg19").history["loss"].max()
    )


# ---- the thesis' tables, the stages, the steps


def mixed(run):
    """Kaggle and healthy persons, two groups in dispute."""

    def rows(table):
        none = table["class"] == "no_tumor"
        groups = sorted(table["group"][none & (table["role"] == "test")].unique())
        return table.assign(
            disputed=table["group"].isin(groups[:2]),
            set=np.where(table["group"].isin(groups[2:4]), "healthy", "kaggle"),
        )

    return like(run, "mixed", rows)


def test_parts_are_counted_apart(whole):
    found = part_scores([mixed(whole)]).set_index("part")
    assert found["pictures"].to_dict() == {
        "Kaggle's test": 90,
        "Kaggle's test, without disputed": 84,
        "tumours of Kaggle's test": 72,
        "healthy persons": 6,
    }
    assert (
        part_scores([thesis_log("vgg19"), whole.only(role="validation")]).empty
        and part_scores([whole], "validation")["pictures"][0] == 96
    )


def test_our_rows_stand_below_the_printed_ones(whole, root):
    printed = pd.read_csv(root / "runs" / "thesis" / "table_3_3.csv")
    table = thesis_table_3_3([mixed(whole), thesis_log("vgg19")])
    assert (
        table[list(printed)][: len(printed)].astype(str).equals(printed.astype(str))
        and len(table) == len(printed) + 5
    )
    assert (
        table["provenance"].iloc[-1].endswith("test, kaggle: 90 pictures of 30 groups")
        and table["provenance"].str.len().min() > 0
    )
    less = thesis_table_3_3([mixed(whole)], disputed=False)
    assert less["provenance"].iloc[-1].endswith("without disputed: 84 pictures of 28 groups")
    last = thesis_table_3_4([mixed(whole)]).iloc[-1]
    assert (
        last["data"] == "90 test pictures of 30 groups"
        and last["accuracy_percent_low"]
        < last["accuracy_percent"]
        < last["accuracy_percent_high"]
        <= 100
    )
    assert np.isclose(last["accuracy_percent"], 100 * table["accuracy"].iloc[-1])


def test_the_table_that_the_thesis_prints_follows_from_one_matrix(root):
    """Recall 148/150 belongs to the pituitary tumours: the two rows are swapped."""
    printed = (
        pd.read_csv(root / "runs" / "thesis" / "table_3_3.csv")
        .query("model == 'proposed'")
        .set_index("class")
    )
    counts = pd.read_csv(root / "runs" / "thesis" / "test_half.csv").set_index("class")["pictures"]
    recall = printed.loc["no_tumor", "recall"]
    assert [
        name
        for name in CLASSES
        if any(round(k / counts[name], 4) == recall for k in range(counts[name] + 1))
    ] == ["pituitary"]
    label = np.repeat(range(4), counts[list(CLASSES)])
    said = label.copy()
    said[np.flatnonzero(label == 1)[0]], said[np.flatnonzero(label == 3)[:2]] = 3, 1
    ours = class_scores((label, np.eye(4)[said]), 2).set_index("of")
    swapped = {
        "glioma": "glioma",
        "meningioma": "meningioma",
        "no_tumor": "pituitary",
        "pituitary": "no_tumor",
    }
    for row, name in swapped.items():
        assert (
            ours.loc[name, ["accuracy", *SCORES]].astype(float).round(4).tolist()
            == printed.loc[row, ["accuracy", *SCORES]].astype(float).tolist()
        )


AS_THESIS = {
    "scaling": "thesis",
    "preparation": "thesis",
    "balance": "disk",
    "healthy": False,
    "augment": False,
    "frozen": 50,
    "schedule": "plateau",
    "smoothing": 0.0,
    "shuffle": False,
    "fine_rate": 0.001,
}


def staged(whole):
    make = lambda name, recipe, **settings: like(
        whole, name, recipe=AS_THESIS | recipe, **{"network": "vgg19", "title": "VGG19"} | settings
    )
    return [
        make("vgg19_thesis", {}, protocol="thesis"),
        make("vgg19_honest", {}),
        make("vgg19_mended", {"scaling": "imagenet"}),
        make("shuffled_labels", {"shuffled_labels": True}, network="mobilenet_v2"),
    ]


def test_stages_follow_from_the_settings(whole):
    runs = staged(whole)
    assert (
        [run_stage(run) for run in runs] == list(REPORT_STAGES[1:])
        and changed_switches(runs[2]) == ["scaling"]
        and changed_switches(runs[0]) == []
    )


def test_the_final_table_has_a_row_for_what_is_missing(whole):
    table = final_table(staged(whole), stacking=None)
    assert table["stage"].drop_duplicates().tolist() == list(REPORT_STAGES)
    assert table["network"][table["stage"] == REPORT_STAGES[1]].tolist() == [
        title for title in NETWORK_TITLES.values() if title != "ResNet50V2"
    ]
    second = final_table(
        [
            like(
                whole,
                "v2",
                network="resnet50_v2",
                title="ResNet50V2",
                protocol="honest",
                recipe=AS_THESIS | {"scaling": "imagenet"},
            )
        ],
        stacking=None,
    )
    assert (
        second["network"][second["stage"] == REPORT_STAGES[3]].tolist()[2] == "ResNet50V2"
        and "ResNet-50" not in second["network"][second["stage"] == REPORT_STAGES[3]].tolist()
    )
    empty = table[table["run"] == "not recorded yet"]
    assert len(empty) == 5 + 5 and empty["accuracy"].isna().all()
    ours = table.set_index("run").loc[
        ["vgg19_thesis", "vgg19_honest", "vgg19_mended", "shuffled_labels"]
    ]
    assert (
        ours["accuracy"].between(ours["accuracy_low"], ours["accuracy_high"]).all()
        and ours["healthy"].isna().all()
        and (ours["network"].iloc[:3] == "VGG-19").all()
    )
    assert len(final_table([], stacking=None)) == 5 + 13 and len(final_table([], None, None)) == 13
    start = final_table(
        [like(whole, "x", start="a.npz", until="mixed8", side=299, cut="9 of 10 epochs")], None
    )["start"]
    assert "a.npz to mixed8, 299 px; cut: 9 of 10 epochs" in set(start)


def test_recorded_stacking_takes_its_place(tmp_path):
    table = pd.DataFrame(
        {
            "method": ["vgg19", "average", "network", "network"],
            "protocol": ["member", "unfitted", "thesis", "honest"],
            "accuracy": [0.8, 0.85, 0.99, 0.84],
            "low": 0.7,
            "high": 1.0,
            "pictures": 9,
            "groups": 3,
            "provenance": "m",
        }
    )
    table.to_csv(tmp_path / "honest.csv", index=False)
    found = final_table([], None, tmp_path).query("network == 'Stacking'")
    assert found["accuracy"].fillna(0).tolist() == [0, 0.85, 0.84] and found["stage"].tolist() == [
        REPORT_STAGES[1],
        REPORT_STAGES[3],
        REPORT_STAGES[3],
    ]
    table.to_csv(tmp_path / "thesis.csv", index=False)
    assert final_table([], None, tmp_path).query("network == 'Stacking'")["accuracy"].tolist() == [
        0.99,
        0.85,
        0.84,
    ]
    table.drop(columns="low").to_csv(tmp_path / "thesis.csv", index=False)
    rejected(ErrorCode.DATA_MISSING, lambda: final_table([], None, tmp_path), "thesis.csv", "low")


def test_claims_are_read_not_typed(tmp_path, root):
    for path in (root / "runs" / "thesis").glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = pd.read_csv(tmp_path / "vgg19.csv")
    table.loc[3, ["val_loss", "val_accuracy"]] = 0.001, 600 / 653
    table.to_csv(tmp_path / "vgg19.csv", index=False)
    row = final_table([], tmp_path).query("run == 'figure 3.40'").iloc[0]
    assert (
        row["start"].endswith("epoch 4") and row["accuracy"] == 600 / 653 and row["pictures"] == 653
    )


def test_steps_name_what_changed(whole):
    found = recipe_steps(staged(whole))
    assert (
        found["step"].tolist() == ["split", "split, scaling", "scaling"]
        and found["paired"].all()
        and (found["difference"] == 0).all()
    )
    assert set(found["part"]) == {"Kaggle's test"}
    assert recipe_steps(staged(whole)[:1]).empty and recipe_steps(
        [like(whole, "x", side=128), *staged(whole)[1:]]
    )["after"].tolist() == ["vgg19_mended"]


def test_a_step_that_shows_on_healthy_persons_alone(whole):
    some = lambda t: t.assign(
        set=np.where((t["class"] == "no_tumor") & (t["group"].str[-1] < "5"), "healthy", "kaggle")
    )
    wrong = lambda t: some(t).assign(
        predicted=lambda t: np.where(t["set"] == "healthy", "glioma", t["predicted"]),
        **{
            n: np.where(some(t)["set"] == "healthy", float(n == "p_glioma"), t[n])
            for n in PROBABILITY_COLUMNS
        },
    )
    recipe = {"balance": "draws", "healthy": True}
    without, within = (
        like(whole, name, change, recipe=recipe | {"healthy": name == "within"})
        for name, change in (("without", wrong), ("within", some))
    )
    found = recipe_steps([], [within, without]).set_index("part")
    assert (
        set(found["step"]) == {"phase 1 alone: healthy, False to True"}
        and found.loc["Kaggle's test", "difference"] == 0
    )
    assert (
        found.loc["healthy persons", "accuracy_before"]
        == 0
        < found.loc["healthy persons", "difference_low"]
    )
    drawn = like(whole, "drawn", some, recipe=recipe | {"balance": "none"})
    assert set(recipe_steps([], [within, drawn])["step"]) == {
        "phase 1 alone: balance, none to draws"
    }, "two values that are both not the thesis' differ all the same"


def test_unpaired_differences_cover_the_truth_and_paired_ones_are_narrower(tmp_path):
    within = []
    for seed in range(12):
        a, b, c = (
            load_run(
                write_example_run(tmp_path / f"{seed}_{turn}", patients, 2.0, 3 * seed + turn)
            ).only(role="test")
            for turn, patients in enumerate((160, 160, 240))
        )
        one, two = accuracy_difference(a, b), accuracy_difference(a, c)
        assert (one[3], two[3]) == (True, False) and accuracy_difference(a, c) == two
        within += [one[1] <= 0 <= one[2], two[1] <= 0 <= two[2]]
    assert 20 <= sum(within) <= 24, "networks of the same worth: zero lies in 95 of 100 intervals"
    worse = like(
        a,
        "w",
        lambda t: t.assign(
            predicted=np.where(t["group"] == t["group"].iloc[0], "glioma", t["predicted"]),
            **{
                n: np.where(t["group"] == t["group"].iloc[0], float(n == "p_glioma"), t[n])
                for n in PROBABILITY_COLUMNS
            },
        ),
    )
    paired, apart = (
        accuracy_difference(a, worse),
        accuracy_difference(a, like(worse, "v", lambda t: t.assign(source="elsewhere"))),
    )
    assert np.isclose(paired[0], apart[0]) and paired[2] - paired[1] < 0.5 * (apart[2] - apart[1])


# ---- the page


@pytest.fixture(scope="module")
def page(whole, tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    runs = [
        like(run, run.name, title=title)
        for run, title in zip([*staged(whole)[:2], mixed(whole)], ("VGG19", "<VGG19>", "mixed"))
    ]
    return (
        runs,
        write_classification_report(runs, out / "one"),
        write_classification_report(runs, out / "two"),
    )


def test_the_page_is_whole_and_needs_nothing_else(page):
    runs, path, _ = page
    text = path.read_text(encoding="utf-8")
    assert (
        text.startswith("<!doctype html>") and text.endswith("</html>\n") and INTENDED_USE in text
    )
    assert (
        not re.search(r'(src|href)="(?!data:)', text)
        and "<script" not in text
        and "<VGG19>" not in text
        and "&lt;VGG19&gt;" in text
    )
    pictures = re.findall(r"<img [^>]*>", text)
    assert len(pictures) == 3 + len(runs) and all(
        re.search(r'alt="[^"]{10,}"', picture) for picture in pictures
    )
    assert all(run.settings["provenance"] in text for run in runs)
    for words in (
        "From claim to improved run",
        "What each step changed",
        "without the disputed groups",
        "Table 3.3",
        "Table 3.4",
        "Area under the ROC curve",
        "not recorded yet",
    ):
        assert words in text, words


def test_the_page_parses_and_its_tables_lie_beside_it(page):
    from html.parser import HTMLParser

    depth = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img", "br"):
                depth.append(tag)

        def handle_endtag(self, tag):
            assert depth.pop() == tag

    Reader().feed(page[1].read_text(encoding="utf-8"))
    assert depth == []
    names = {path.stem for path in page[1].parent.glob("*.csv")}
    assert names == {
        "parts",
        "scores",
        "scores_without_disputed",
        "auc",
        "reliability",
        "compared",
        "epochs",
        "table_3_3",
        "table_3_4",
        "steps",
        "final",
    }
    for name in names:
        assert "provenance" in pd.read_csv(page[1].parent / f"{name}.csv"), name


def test_the_page_is_the_same_each_time(page):
    assert page[1].read_bytes() == page[2].read_bytes()


def test_an_interrupted_report_leaves_the_old_page(page, tmp_path, monkeypatch):
    from brain_tumor.classification import thesis_report

    (tmp_path / "report.html").write_text("before")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(thesis_report, "_report_figures", fail)
    with pytest.raises(KeyboardInterrupt):
        write_classification_report(page[0], tmp_path)
    assert (tmp_path / "report.html").read_text() == "before"


def test_without_the_repository_the_page_lacks_the_thesis(whole, tmp_path):
    text = write_classification_report([whole], tmp_path, tmp_path / "nowhere").read_text(
        encoding="utf-8"
    )
    assert "Table 3.3" not in text and "thesis claims" not in text and "Scores by class" in text
    rejected(ErrorCode.DATA_MISSING, lambda: write_classification_report([], tmp_path))
    rejected(
        ErrorCode.FILE_NOT_FOUND,
        lambda: thesis_table_3_3(thesis=tmp_path / "nowhere"),
        "table_3_3.csv",
    )


def report(words):
    parser, lines = argparse.ArgumentParser(), []
    add_report_arguments(parser)
    args = parser.parse_args([str(word) for word in words])
    return args.report(args, lambda line="", stream=None: lines.append((line, stream))), lines


def test_the_command_writes_and_prints(tmp_path):
    folder = write_example_run(tmp_path / "made", patients=16)
    status, lines = report([folder, "--out", tmp_path / "out"])
    assert status == 0 and (tmp_path / "out" / "report.html").is_file()
    assert (
        lines[0][0].startswith("made, Kaggle's test: 0.")
        and any("made up, no scan" in line for line, _ in lines)
        and lines[-1][0].startswith("report: ")
    )
    status, lines = report([tmp_path / "none", folder, "--out", tmp_path / "out2"])
    assert (
        status == 1
        and "none" in lines[0][0]
        and lines[0][1] is sys.stderr
        and (tmp_path / "out2" / "report.html").is_file()
    )
    missing = [tmp_path / "none", "--out", tmp_path / "out3"]
    rejected(ErrorCode.RUN_INVALID, lambda: report(missing), "none")
    assert not (tmp_path / "out3").exists()
    with pytest.raises(SystemExit):
        report([folder])


def test_the_modules_are_light_to_import(root):
    code = (
        "import brain_tumor.classification.thesis_report, sys\n"
        "heavy = ('keras', 'tensorflow', 'sklearn', 'matplotlib', 'pandas')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_control_with_other_labels_stands_beside_its_run(whole, tmp_path):
    table = whole.predictions.assign(
        **{"class": np.random.default_rng(0).permutation(whole.predictions["class"])}
    )
    control = replace(
        whole,
        path=tmp_path / "control",
        predictions=table,
        settings=whole.settings | {"recipe": {"shuffled_labels": True}},
    )
    page = write_classification_report([whole, control], tmp_path / "out").read_text(
        encoding="utf-8"
    )
    assert (
        "control: shuffled labels" in page and not (tmp_path / "out" / "compared.csv").exists()
    ), "on other labels there is nothing to compare"
