"""Label errors: the ranking against plain sums and cleanlab, verdicts, copies, recorded tables."""

import cv2
import numpy as np
import pandas as pd
import pytest
from errors import raises

from brain_tumor.data.duplicates import fingerprint_images
from brain_tumor.data.label_errors import (
    EXCLUSIONS,
    _label_doubts,
    add_verdicts,
    class_thresholds,
    compare_suspects,
    draw_label_errors,
    find_label_errors,
    linear_second_opinion,
    list_agreement,
    mark_leaked_copies,
    record_label_errors,
    with_and_without,
)
from brain_tumor.data.splits import VERDICTS, mark_disputed, read_data, read_verdicts, split_hash
from brain_tumor.imaging.phantoms import write_phantoms
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.scan import CLASSES


def judged(groups=60, each=3, seed=0, sure=5.0):
    """Probabilities of a classifier that knows the truth, with some noise."""
    rng, truth = np.random.default_rng(seed), np.repeat(np.arange(groups) % 4, each)
    logits = rng.normal(size=(len(truth), 4)) + sure * np.eye(4)[truth]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return pd.DataFrame(
        {
            "source": "made",
            "image": [f"{n}.png" for n in range(len(truth))],
            "group": np.repeat([f"G{n:02d}" for n in range(groups)], each),
            "role": "train",
            "class": np.array(CLASSES)[truth],
            **dict(zip(CLASSES, p.T)),
        }
    )


def planted(table, groups):
    """The table with wrong labels for some groups."""
    wrong = table["group"].isin(groups)
    return table.assign(
        **{
            "class": table["class"].where(
                ~wrong, table["class"].map(dict(zip(CLASSES, CLASSES[1:] + CLASSES[:1])))
            )
        }
    )


@pytest.fixture(scope="module")
def recorded(root):
    def read(name):
        return pd.read_csv(
            root / "runs" / "label_errors" / f"{name}.csv", keep_default_na=name != "suspects"
        )

    return read


@pytest.fixture(scope="module")
def answers(root):
    return pd.read_csv(root / "runs" / "out_of_fold" / "predictions.csv")


# ---- the ranking


def test_doubt_is_what_the_paper_says_by_plain_sums():
    table = judged(12, 2, sure=1.0)
    limit = {
        name: np.mean([row[name] for row in table.to_dict("records") if row["class"] == name])
        for name in CLASSES
    }
    assert class_thresholds(table) == pytest.approx(limit)
    found = find_label_errors(table, by="image").set_index("image")
    for row in table.to_dict("records"):
        others = [name for name in CLASSES if name != row["class"]]
        line = found.loc[row["image"]]
        assert line["doubt"] == pytest.approx(
            max(row[n] - limit[n] for n in others) - (row[row["class"]] - limit[row["class"]])
        )
        assert line["margin"] == pytest.approx(row[row["class"]] - max(row[n] for n in others))
        above = [name for name in CLASSES if row[name] >= limit[name]]
        assert line["named"] == (bool(above) and max(above, key=row.get) != row["class"])
    assert found["doubt"].is_monotonic_decreasing


@pytest.mark.parametrize("seed", range(5))
def test_planted_groups_come_first_and_an_honest_table_is_left_alone(seed):
    table = judged(seed=seed)
    groups = np.random.default_rng(seed).choice(table["group"].unique(), 3, replace=False)
    found = find_label_errors(planted(table, groups))
    assert set(found["group"][:3]) == set(groups) and found["doubt"][2] > 0 > found["doubt"][3]
    assert (
        find_label_errors(table)["doubt"].max() < 0
        and find_label_errors(table, by="image")["named"].mean() < 0.03
    )


def test_a_group_is_the_mean_of_its_pictures_and_keeps_the_highest():
    table = judged(8, 4, sure=1.0)
    for row in find_label_errors(table).to_dict("records"):
        part = table[table["group"] == row["group"]]
        assert row["own"] == pytest.approx(part[row["class"]].mean()) and row[
            "another"
        ] == pytest.approx(1 - row["own"])
        assert (
            row["highest"] == pytest.approx((1 - part[row["class"]]).max()) and row["pictures"] == 4
        )


def test_a_group_with_two_labels_is_two_rows():
    table = judged(4, 2)
    table.loc[0, "class"] = "pituitary"
    found = find_label_errors(table)
    assert len(found) == 5 and found.loc[0, ["group", "class", "pictures"]].tolist() == [
        "G00",
        "pituitary",
        1,
    ]


@pytest.mark.parametrize(
    "spoil, code, part",
    [
        (lambda t: t.drop(columns="glioma"), ErrorCode.DATA_MISSING, "glioma"),
        (lambda t: t[:0], ErrorCode.DATA_MISSING, "rows"),
        (lambda t: t.assign(glioma=np.nan), ErrorCode.DATA_INVALID, "0.png"),
        (
            lambda t: t.assign(glioma=-0.2, meningioma=1.2, no_tumor=0.0, pituitary=0.0),
            ErrorCode.DATA_INVALID,
            "0.png",
        ),
        (lambda t: t.assign(**{"class": "tumor"}), ErrorCode.LABEL_UNKNOWN, "tumor"),
    ],
)
def test_what_are_no_predictions_is_rejected(spoil, code, part):
    with raises(code, part):
        find_label_errors(spoil(judged(8)))


# ---- the second judge and the comparison


def test_the_second_judge_has_not_seen_what_it_judges():
    table = judged(24)
    vectors = np.random.default_rng(0).normal(size=(len(table), 6)) + 4 * (
        table["class"].to_numpy()[:, None] == np.array([*CLASSES, "", ""])
    )
    fold = np.repeat(np.arange(24) % 3, 3)
    whole = linear_second_opinion(table, vectors, fold)
    spoiled = planted(table, table["group"][fold == 0])
    assert np.allclose(
        linear_second_opinion(spoiled, vectors, fold)[list(CLASSES)][fold == 0],
        whole[list(CLASSES)][fold == 0],
    )
    assert (
        whole[list(CLASSES)].to_numpy().argmax(1) == table["class"].map(CLASSES.index)
    ).mean() > 0.95


def test_what_is_left_out_is_judged_and_not_learned_from():
    table = judged(24)
    vectors, fold, out = (
        np.random.default_rng(0).normal(size=(72, 6)),
        np.repeat(np.arange(24) % 3, 3),
        np.repeat(np.arange(24) < 4, 3),
    )
    spoiled = planted(table, table["group"][out])
    one, two = (
        linear_second_opinion(t, vectors, fold, out)[list(CLASSES)].to_numpy()
        for t in (table, spoiled)
    )
    assert np.allclose(one, two) and np.allclose(one.sum(1), 1)
    assert not np.allclose(
        linear_second_opinion(spoiled, vectors, fold)[list(CLASSES)].to_numpy(), two
    )
    with raises(ErrorCode.DATA_MISSING, "fold"):
        linear_second_opinion(table, vectors, fold, (table["class"] != "glioma").to_numpy())


def test_agreement_counts_heads_of_lists():
    one = pd.DataFrame({"group": list("abcdefgh"), "class": "glioma"})
    found = list_agreement(
        one, one[::-1].reset_index(drop=True), numbers=(4, 6, 100), known=("a", "d", "h")
    )
    assert found[
        ["first", "shared", "by_chance", "known_first", "known_second", "known_shared"]
    ].to_numpy().tolist() == [[4, 0, 2, 2, 1, 0], [6, 4, 4.5, 2, 2, 1]]


def test_the_comparison_counts_by_position_even_where_names_repeat():
    table = planted(judged(), ["G00", "G07"]).assign(image="same.png")
    wrong = table["group"].isin(["G00", "G07"]).to_numpy()
    row = compare_suspects(table, {"them": wrong}).iloc[0]
    assert (row["theirs"], row["in_our_first"], row["we_doubt"]) == (6, 6, 6) and 0 < row[
        "both"
    ] <= row["ours"]


def test_cleanlab_names_the_same_images(answers, recorded):
    filters = pytest.importorskip("cleanlab.filter", reason="an oracle of the dev requirements")
    p, label = answers[list(CLASSES)].to_numpy(), answers["class"].map(CLASSES.index).to_numpy()
    theirs = {
        how: filters.find_label_issues(label, p / p.sum(1, keepdims=True), filter_by=how)
        for how in recorded("compared")["method"]
    }
    assert compare_suspects(answers, theirs).equals(
        recorded("compared").drop(columns="cleanlab_version")
    )
    ours = find_label_errors(answers.assign(image=np.arange(len(answers))), by="image")
    named = ours.set_index("image")["named"].sort_index().to_numpy(bool)
    assert (named == theirs["confident_learning"]).all() and named.sum() > 50


def test_cleanlab_has_the_same_thresholds_and_doubts(answers):
    """Their score is (1 - doubt / k) / 2, with k = 1 - sum(thresholds) + 4 max(thresholds)."""
    count = pytest.importorskip("cleanlab.count", reason="an oracle of the dev requirements")
    rank = pytest.importorskip("cleanlab.rank")
    p, label = answers[list(CLASSES)].to_numpy(), answers["class"].map(CLASSES.index).to_numpy()
    q = p / p.sum(1, keepdims=True)
    limits = count.get_confident_thresholds(label, q)
    normalised = answers.assign(**dict(zip(CLASSES, q.T)))
    assert np.allclose(limits, list(class_thresholds(normalised).values()), atol=1e-6)
    score = rank.get_label_quality_scores(
        label, q, method="normalized_margin", adjust_pred_probs=True
    )
    k = 1 - limits.sum() + len(CLASSES) * limits.max()
    assert np.allclose((1 - 2 * score) * k, _label_doubts(q, label, limits)["doubt"], atol=1e-9)


def test_the_recorded_comparison_names_what_we_name(answers, recorded):
    found, table = recorded("compared").set_index("method"), find_label_errors(answers, by="image")
    assert (found["ours"] == table["named"].sum()).all() and found.loc[
        "confident_learning", "both"
    ] == found.loc["confident_learning", "theirs"] == table["named"].sum()
    assert (
        found.loc["prune_by_noise_rate", "we_doubt"]
        == found.loc["prune_by_noise_rate", "theirs"]
        > 50
    )


# ---- verdicts


def test_the_gravest_verdict_stands_beside_its_group():
    found = pd.DataFrame({"group": ["a", "a", "b"], "class": ["glioma", "no_tumor", "no_tumor"]})
    opinions = pd.DataFrame(
        {
            "group": ["a", "a", "a"],
            "class": ["no_tumor", "no_tumor", "glioma"],
            "verdict": ["fine", "lesion", "unclear"],
            "reason": ["x", "y", "z"],
        }
    )
    with_ours = add_verdicts(found, opinions)
    assert with_ours["verdict"].tolist() == ["unclear", "lesion", ""] and with_ours[
        "reason"
    ].tolist() == [
        "z",
        "y",
        "",
    ]


def test_the_verdicts_are_about_pictures_that_were_judged(answers):
    table = read_verdicts()
    assert (
        not table.duplicated(["source", "image"]).any()
        and table["image_sha256"].str.fullmatch("[0-9a-f]{64}").all()
    )
    known = answers.set_index(["source", "image"])[["group", "class"]]
    both = known.loc[pd.MultiIndex.from_frame(table[["source", "image"]])].reset_index(drop=True)
    assert (both == table[["group", "class"]]).all().all()
    lesions = table[table["verdict"] == "lesion"]
    counts, held = answers["group"].value_counts(), lesions["group"].value_counts()
    assert set(lesions["class"]) == {"no_tumor"} and (held == counts[held.index]).all(), (
        "every picture of such a group was looked at"
    )


def test_the_digests_are_those_of_the_pictures(shared_data):
    table = read_verdicts().sample(40, random_state=0)
    found = fingerprint_images(
        [shared_data / s / i for s, i in zip(table["source"], table["image"])]
    )
    assert [digest.hex() for digest in found.digests] == table["image_sha256"].tolist()


def test_the_data_are_marked_and_the_split_stays(shared_data, root):
    import json

    table = read_data(shared_data, copies=True)
    assert (
        split_hash(table)
        == json.loads((root / "runs" / "out_of_fold" / "run.json").read_text())["split_sha256"]
    )
    marked = table[table["disputed"]]
    lesions = read_verdicts().query("verdict == 'lesion'")
    assert set(zip(marked["source"], marked["image"])) == set(
        zip(lesions["source"], lesions["image"])
    )


# ---- copies and figures


def test_copies_across_sides_are_marked_and_within_a_side_are_not(tmp_path):
    table = pd.read_csv(write_phantoms(tmp_path, n=12, seed=9, size=96))
    paths = [str(tmp_path / image) for image in table["image"]]
    for name, picture in (
        ("bright", lambda x: cv2.convertScaleAbs(x, alpha=1.2)),
        ("turned", lambda x: x[::-1]),
        ("within", lambda x: x[:, ::-1]),
    ):
        cv2.imwrite(
            str(tmp_path / f"{name}.png"),
            np.ascontiguousarray(
                picture(cv2.imread(paths[("bright", "turned", "within").index(name)], 0))
            ),
        )
        paths.append(str(tmp_path / f"{name}.png"))
    sides = pd.DataFrame({"path": paths, "role": ["train"] * 12 + ["test", "test", "train"]})
    assert np.flatnonzero(mark_leaked_copies(sides)).tolist() == [0, 12]
    turned = mark_leaked_copies(sides, turned=True)
    assert (
        turned[[1, 13]].all()
        and not mark_leaked_copies(sides.assign(role="train"), turned=True).any()
    )


def test_every_way_leaves_out_what_it_says():
    rng = np.random.default_rng(0)
    scored = pd.DataFrame(
        {
            "group": rng.integers(0, 20, 200),
            "right": rng.random(200) > 0.1,
            **{name: rng.random(200) > 0.8 for name in ("disputed", "copied", "turned")},
        }
    )
    found = with_and_without(scored).set_index("left_out")
    assert list(found.index) == list(EXCLUSIONS)
    for what, columns in EXCLUSIONS.items():
        kept = scored[~scored[list(columns)].any(axis=1)] if columns else scored
        assert found.loc[what, "pictures"] == len(kept) and found.loc[
            what, "accuracy"
        ] == pytest.approx(kept["right"].mean(), abs=1e-4)
        assert found.loc[what, "low"] <= found.loc[what, "accuracy"] <= found.loc[what, "high"]
    assert (
        with_and_without(scored.assign(disputed=True))
        .set_index("left_out")["accuracy"]
        .isna()
        .sum()
        == 3
    )


def test_the_recorded_figures_follow_from_the_recorded_answers(root, answers, recorded):
    figures = recorded("no_tumor_figures").set_index(["judge", "side", "left_out"])
    quiet = answers[(answers["source"] == "kaggle") & (answers["class"] == "no_tumor")]
    shipped = pd.read_csv(root / "runs" / "compact_2" / "predictions.csv")
    shipped = shipped[(shipped["source"] == "kaggle") & (shipped["class"] == "no_tumor")]
    for judge, table, right in (
        (
            "out of fold",
            quiet,
            quiet[list(CLASSES)].to_numpy().argmax(1) == CLASSES.index("no_tumor"),
        ),
        ("ships", shipped, (shipped["predicted"] == "no_tumor").to_numpy()),
    ):
        side = "all" if judge == "out of fold" else "test"
        for what, kept in (
            ("nothing", np.ones(len(table), bool)),
            ("disputed", ~mark_disputed(table).to_numpy()),
        ):
            row = figures.loc[(judge, side, what)]
            assert (row["pictures"], row["groups"]) == (kept.sum(), table["group"][kept].nunique())
            assert row["accuracy"] == pytest.approx(right[kept].mean(), abs=1e-4)
    counts = figures["pictures"].unstack()
    assert (
        (counts["disputed, copies, turned copies"] < counts["disputed, copies"]).all()
        and (counts["disputed, copies"] < counts["copies"]).all()
        and (counts["copies"] < counts["nothing"]).all()
    )


def test_the_recorded_list_is_what_the_answers_give(answers, recorded):
    again, table = find_label_errors(answers), recorded("suspects")
    assert set(zip(table["group"], table["class"])) == set(zip(again["group"], again["class"]))
    both = table.merge(again, on=["group", "class"], suffixes=("", "_again"))
    assert (
        np.allclose(both["doubt"], both["doubt_again"], atol=1e-3)
        and (both["says"] == both["says_again"]).all()
    )
    known = add_verdicts(table.drop(columns=["verdict", "reason"]))
    assert (known["verdict"] == table["verdict"]).all() and set(table["verdict"]) == {"", *VERDICTS}


def test_all_runs_name_the_same_split(root, recorded):
    import json

    whole = json.loads((root / "runs" / "out_of_fold" / "run.json").read_text())["split_sha256"]
    assert {
        s
        for name in ("suspects", "agreement", "no_tumor_figures", "heads")
        for s in recorded(name)["split"]
    } == {whole[:11]}


def test_record_runs_on_phantoms_and_repeats_itself(tmp_path):
    write_phantoms(tmp_path / "data" / "kaggle", n=24, seed=2, size=64)
    table = read_data(tmp_path / "data")
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), len(table))
    table[["source", "image", "group", "role", "class"]].assign(
        fold=np.arange(len(table)) // 4 % 5 + 1, **dict(zip(CLASSES, p.T))
    ).to_csv(tmp_path / "p.csv", index=False)
    table[["source", "image"]].assign(predicted="no_tumor").to_csv(tmp_path / "s.csv", index=False)
    first, second = (
        [
            f.read_bytes()
            for f in record_label_errors(
                tmp_path / "data",
                tmp_path / out,
                tmp_path / "p.csv",
                tmp_path / "s.csv",
                "pixels",
                cache=tmp_path / "cache",
            )
        ]
        for out in ("a", "b")
    )
    assert first == second and len(first) == 4
    ships = pd.read_csv(tmp_path / "a" / "no_tumor_figures.csv").query(
        "judge == 'ships' and left_out == 'nothing'"
    )
    assert (ships["accuracy"] == 1).all() and 0 < ships["pictures"].sum() == (
        (table["class"] == "no_tumor") & (table["role"] != "train")
    ).sum()


def test_the_drawing_shows_every_group(recorded):
    part = recorded("suspects").query("`class` == 'no_tumor' and source == 'kaggle'")
    axis = draw_label_errors(part)
    assert sum(len(line.get_xdata()) for line in axis.lines) == len(part)
    assert f"lesion ({(part['verdict'] == 'lesion').sum()})" in {
        label.get_text() for label in axis.get_yticklabels()
    }
