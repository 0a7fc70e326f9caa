"""Stacking: joined predictions, five combiners, two protocols; tested against scikit-learn."""

import json
import subprocess
import sys

import numpy as np
import pytest
from errors import raises

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn", reason="scikit-learn comes with the extra `workbook`")

from brain_tumor.classification.stacking import (
    STACKING_MARKS,
    STACKING_METHODS,
    best_member,
    check_combiner,
    choose_strength,
    combine_predictions,
    combiner_shapes,
    compare_stacking,
    example_predictions,
    fit_combiner,
    fit_logistic,
    fit_weights,
    group_fold_indices,
    log_loss,
    record_stacking,
    stack_predictions,
    stack_runs,
    stacking_conclusion,
)
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.scan import CLASSES  # noqa: E402
from brain_tumor.training.runs import infer_image_count

NAMES = [f"p_{name}" for name in CLASSES]
FAST = ("vote", "average", "weighted", "logistic")


@pytest.fixture(scope="module")
def apart():
    return example_predictions("independent", members=3)


@pytest.fixture(scope="module")
def joined(apart):
    table, stacked = stack_predictions(apart)
    return table, stacked, table["class"].map(CLASSES.index).to_numpy(int)


def write(folder, table, **settings):
    folder.mkdir()
    table.to_csv(folder / "predictions.csv", index=False)
    (folder / "run.json").write_text(
        json.dumps(
            {"protocol": "honest", "split_sha256": "0" * 64, "provenance": "made up"} | settings
        )
    )
    return folder


# ---- joining


def test_folders_and_tables_join_alike_in_any_order(apart, tmp_path, joined):
    folders = {
        name: write(tmp_path / name, table.sample(frac=1, random_state=1) if number else table)
        for number, (name, table) in enumerate(apart.items())
    }
    table, stacked = stack_predictions(folders)
    assert (stacked == joined[1]).all() and (table["image"] == joined[0]["image"]).all()
    for number, predicted in enumerate(apart.values()):
        assert (stacked[:, 4 * number : 4 * number + 4] == predicted[NAMES].to_numpy()).all()


@pytest.mark.parametrize(
    "spoil, code, words",
    [
        (lambda t: t.iloc[:-2], ErrorCode.DATA_INVALID, ("2", "0574")),
        (
            lambda t: pd.concat([t, t.iloc[:1].assign(image="new")]),
            ErrorCode.DATA_INVALID,
            ("1", "new"),
        ),
        (lambda t: pd.concat([t, t.iloc[:1]]), ErrorCode.DATA_INVALID, ()),
        (lambda t: t.drop(columns="p_no_tumor"), ErrorCode.DATA_MISSING, ("p_no_tumor",)),
        (lambda t: t[[*t.columns[:-4], *NAMES[::-1]]], ErrorCode.DATA_INVALID, ("p_pituitary",)),
        (lambda t: t.assign(p_glioma=2.0), ErrorCode.DATA_INVALID, ()),
        (lambda t: t.assign(p_glioma=np.nan), ErrorCode.DATA_INVALID, ()),
        (lambda t: t.assign(p_glioma="much"), ErrorCode.DATA_INVALID, ("much",)),
        (lambda t: t.assign(**{"class": "cyst"}), ErrorCode.LABEL_UNKNOWN, ("class",)),
        (lambda t: t.assign(role="test"), ErrorCode.DATA_INVALID, ("role",)),
        (lambda t: t.assign(group="P1"), ErrorCode.DATA_INVALID, ("group",)),
    ],
)
def test_a_run_that_does_not_fit_is_named(apart, spoil, code, words):
    first, second = list(apart.values())[:2]
    with raises(code, "run vgg19", *words):
        stack_predictions({"xception": first, "vgg19": spoil(second)})


def test_missing_and_damaged_runs(apart, tmp_path):
    first = next(iter(apart.values()))
    with raises(ErrorCode.FILE_NOT_FOUND, "vgg19", "predictions.csv"):
        stack_predictions({"xception": first, "vgg19": tmp_path})
    (tmp_path / "predictions.csv").write_bytes(b"")
    with raises(ErrorCode.FILE_UNREADABLE, "vgg19", "predictions.csv"):
        stack_predictions({"xception": first, "vgg19": tmp_path})
    with raises(ErrorCode.ARGUMENT_INVALID, "1 run"):
        stack_predictions({"xception": first})


# ---- combining


def test_vote_is_a_vote_and_ties_go_by_mean_probability():
    rng = np.random.default_rng(0)
    stacked = rng.dirichlet(np.ones(4) * 0.5, (500, 4)).reshape(500, 16)
    ties = 0
    for row, p in zip(stacked.reshape(500, 4, 4), combine_predictions("vote", {}, stacked)):
        votes = np.bincount(row.argmax(1), minlength=4)
        first = np.flatnonzero(votes == votes.max())
        ties += len(first) > 1
        assert p.argmax() == first[row.mean(0)[first].argmax()] and abs(p.sum() - 1) < 1e-12
    assert ties > 30


def test_every_method_gives_probabilities(joined):
    rng = np.random.default_rng(0)
    for method in STACKING_METHODS:
        arrays = (
            {name: rng.normal(size=shape) for name, shape in combiner_shapes(method, 3).items()}
            if method != "weighted"
            else {"weights": np.array([0.2, 0.3, 0.5])}
        )
        p = combine_predictions(method, arrays, joined[1])
        assert (
            p.shape == (len(joined[0]), 4) and (p >= 0).all() and np.abs(p.sum(1) - 1).max() < 1e-4
        )


def test_arrays_of_another_method_or_number_are_refused(joined):
    for method, arrays in (
        ("weighted", {}),
        ("average", {"weights": np.ones(3)}),
        ("logistic", {"kernel": np.ones((8, 4)), "bias": np.ones(4)}),
        ("weighted", {"weights": np.array([np.nan, 0, 1])}),
        ("weighted", {"weights": np.array(["a", "b", "c"])}),
    ):
        with raises(ErrorCode.MODEL_INVALID, method):
            check_combiner(method, arrays, 3)
    with raises(ErrorCode.ARGUMENT_INVALID, "boosting"):
        fit_combiner("boosting", joined[1], joined[2])
    with raises(ErrorCode.ARGUMENT_INVALID, "(12,)"):
        combine_predictions("average", {}, joined[1][0])


def test_weights_are_the_best_on_a_grid(joined):
    _, stacked, labels = joined
    found = fit_weights(stacked, labels)
    best = log_loss(combine_predictions("weighted", found, stacked), labels)
    grid = [np.array([a, b, 100 - a - b]) / 100 for a in range(101) for b in range(101 - a)]
    assert (
        best
        <= min(
            log_loss(combine_predictions("weighted", {"weights": w}, stacked), labels)
            for w in grid[::7]
        )
        + 1e-6
    )
    assert found["weights"].min() >= 0 and found["weights"].sum() == pytest.approx(1)
    flat = np.full(stacked.shape, 0.25)
    assert fit_weights(flat, labels)["weights"] == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_logistic_is_scikit_learns_stacking(joined):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.ensemble import StackingClassifier
    from sklearn.linear_model import LogisticRegression

    class Recorded(ClassifierMixin, BaseEstimator):
        "A classifier that returns what was recorded."

        def __init__(self, first=0):
            self.first = first

        def fit(self, x, y):
            self.classes_ = np.unique(y)
            return self

        def predict_proba(self, x):
            return x[:, self.first : self.first + 4]

    _, stacked, labels = joined
    members = [(f"m{i}", Recorded(4 * i).fit(stacked, labels)) for i in range(3)]
    theirs = (
        StackingClassifier(members, LogisticRegression(C=0.5, max_iter=5000), cv="prefit")
        .fit(stacked, labels)
        .predict_proba(stacked)
    )
    assert (
        np.abs(
            combine_predictions("logistic", fit_logistic(stacked, labels, 0.5), stacked) - theirs
        ).max()
        < 1e-9
    )


def test_numpy_and_keras_agree(joined):
    pytest.importorskip("keras", reason="Keras comes with the extra `workbook`")
    from brain_tumor.classification.stacking import fit_meta_network

    _, stacked, labels = joined
    arrays, model = fit_meta_network(stacked[:96], labels[:96], epochs=2, seed=3)
    assert {name: np.shape(a) for name, a in arrays.items()} == combiner_shapes("network", 3)
    predicted = model.predict(stacked, verbose=0)
    assert (
        np.ptp(predicted, axis=0).max() > 0.05
        and np.abs(combine_predictions("network", arrays, stacked) - predicted).max() < 1e-6
    )
    rates = model.optimizer.learning_rate
    assert float(rates) == pytest.approx(1e-3) and len(model.history.history["loss"]) == 2


# ---- choosing and protocols


def test_folds_keep_groups_whole(joined):
    table, _, labels = joined
    for into, out in group_fold_indices(labels, table["group"].to_numpy()):
        assert (
            not set(table["group"].iloc[into]) & set(table["group"].iloc[out])
            and len(set(labels[out])) == 4
        )
    with raises(ErrorCode.DATA_MISSING, "1 group"):
        group_fold_indices(labels, np.full(len(labels), "P"))


def test_strength_is_chosen_without_looking_at_the_own_group():
    table, stacked = stack_predictions(example_predictions("chance", members=2))
    label, group = table["class"].map(CLASSES.index).to_numpy(int), table["group"].to_numpy()
    assert choose_strength(stacked, label, group) == 0.01


def test_honest_never_sees_the_labels_of_the_test(joined):
    table, stacked, _ = joined
    rng, test = np.random.default_rng(0), (table["role"] == "test").to_numpy()
    other = table.assign(
        **{"class": np.where(test, rng.permutation(table["class"]), table["class"])}
    )
    for method in ("weighted", "logistic"):
        once, twice = (
            stack_runs(t, stacked, method, "honest")[0][NAMES].to_numpy() for t in (table, other)
        )
        assert (once == twice).all()
        assert (
            stack_runs(table, stacked, method, "thesis")[0][NAMES].to_numpy()
            != stack_runs(other, stacked, method, "thesis")[0][NAMES].to_numpy()
        ).any()


def test_the_best_member_is_chosen_on_validation(joined):
    table, stacked, labels = joined
    test, right = (table["role"] == "test").to_numpy(), np.eye(4)[labels]
    lucky = stacked.copy()
    lucky[test, :4], lucky[~test, :4] = right[test], right[~test][:, ::-1]
    assert best_member(table, lucky) != 0


def test_every_row_is_marked_and_members_of_chance_are_not_flattered():
    table = compare_stacking(example_predictions("chance", members=4), FAST, note="made up")
    assert table["provenance"].str.endswith("made up").all() and set(table["protocol"]) == {
        "member",
        "unfitted",
        "thesis",
        "honest",
    }
    fitted = table.pivot(index="method", columns="protocol", values="accuracy").loc["logistic"]
    assert fitted["thesis"] > 0.35 and fitted["honest"] < 0.35
    assert (
        table.loc[table["protocol"] == "thesis", "says"]
        == "no evidence: scored on its own training rows"
    ).all()
    assert stacking_conclusion(table).startswith("Combining buys nothing")
    assert (
        table["provenance"][table["protocol"] == "thesis"]
        .str.startswith(STACKING_MARKS["thesis"])
        .all()
        and "training accuracy" in STACKING_MARKS["thesis"]
    )


def test_independent_errors_cancel_and_shared_ones_do_not():
    apart, alike = (
        compare_stacking(example_predictions(kind), ("average", "weighted"))
        for kind in ("independent", "shared")
    )
    assert stacking_conclusion(apart).startswith("Combining helps") and stacking_conclusion(
        alike
    ).startswith("Combining buys nothing")
    average = apart[apart["method"] == "average"].iloc[0]
    assert average["over_average"] == average["average_low"] == average["average_high"] == 0
    best = apart[apart["says"].str.startswith("the best member")].iloc[0]
    assert best["over_best"] == 0 and average["over_best"] == pytest.approx(
        average["accuracy"] - best["accuracy"], abs=2e-4
    )


def test_a_side_that_is_missing_is_named(joined):
    table, stacked, _ = joined
    test = (table["role"] == "test").to_numpy()
    with raises(ErrorCode.DATA_MISSING, "validation"):
        stack_runs(table[test], stacked[test], "weighted")
    with raises(ErrorCode.DATA_MISSING, "test"):
        stack_runs(table[~test], stacked[~test], "average")
    with raises(ErrorCode.DATA_MISSING):
        stacking_conclusion(pd.DataFrame({"protocol": ["thesis"], "method": ["network"]}))


def test_recording_is_repeatable_and_refuses_mixed_runs(apart, tmp_path):
    folders = [write(tmp_path / f"n{i}_honest", t) for i, t in enumerate(apart.values())]
    texts = []
    for _ in range(2):
        record_stacking(folders, tmp_path / "t.csv", FAST)
        texts.append((tmp_path / "t.csv").read_bytes())
    found = pd.read_csv(tmp_path / "t.csv")
    assert (
        texts[0] == texts[1]
        and found["provenance"].str.endswith("made up").all()
        and set(found["method"]) == {"n0_honest", "n1_honest", "n2_honest", *FAST}
    )
    other = write(tmp_path / "other", next(iter(apart.values())), split_sha256="1" * 64)
    with raises(ErrorCode.RUN_INVALID, "split_sha256", "other"):
        record_stacking([*folders, other], tmp_path / "t.csv", FAST)
    (other / "run.json").unlink()
    with raises(ErrorCode.RUN_INVALID, "other"):
        record_stacking([*folders, other], tmp_path / "t.csv", FAST)


def test_the_thesis_headline_is_training_accuracy(root):
    log = pd.read_csv(root / "runs" / "thesis" / "stacking.csv")
    rows = [infer_image_count(log["accuracy"])]
    assert (
        rows[0] == 1307
        and round(log["accuracy"].iloc[-1] * 1307) == 1302
        and f"{1302 / 1307:.2%}" == "99.62%"
    )
    assert not [name for name in log if name.startswith("val")]


def test_combining_needs_no_training_library():
    code = (
        "import sys, numpy as np\n"
        "from brain_tumor.classification.stacking import combine_predictions\n"
        "combine_predictions('average', {}, np.full((2, 8), .25))\n"
        "heavy = {'keras', 'tensorflow', 'sklearn', 'scipy', 'pandas'}\n"
        "print(heavy & set(sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )
