"""Splits: the thesis' exactly, those by group without leakage, their files, and the check."""

import json

import numpy as np
import pandas as pd
import pytest
from errors import raises

from brain_tumor.data.overview import PUBLISHED_COUNTS
from brain_tumor.data.split_files import (
    compare_splits,
    read_split,
    write_project_splits,
    write_split,
)
from brain_tumor.data.splits import (
    ROLES,
    author_folds,
    check_split,
    count_leaks,
    fold_roles,
    group_folds,
    mark_disputed,
    read_data,
    read_set,
    read_verdicts,
    split_hash,
    split_table,
)
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.scan import CLASSES

FILES = (
    "project",
    "thesis_classification",
    "thesis_segmentation",
    "honest_5_folds",
    "honest_author_folds",
)


def kaggle(number, patients=40):
    """A table with the counts of an edition: 0 has 7,023 images, 1 is that of the thesis."""
    edition = PUBLISHED_COUNTS[list(PUBLISHED_COUNTS)[number]]
    return pd.DataFrame(
        [
            {
                "source": "kaggle",
                "image": f"{s}/{c}/{n}.jpg",
                "class": c,
                "split": s,
                "group": f"{c}{n % patients}",
                "mask": None,
            }
            for (s, c), count in edition.items()
            for n in range(count)
        ]
    )


def slices(count=3064, copies=780, each=13):
    """A table of slices with masks; copies know the group of their original."""
    names = [f"images/{n}.png" for n in range(1, count + 1)] + [
        f"images/{n}_small.png" for n in range(1, copies + 1)
    ]
    numbers = [*range(count), *range(copies)]
    return pd.DataFrame(
        {
            "source": "figshare",
            "image": names,
            "mask": names,
            "class": [CLASSES[n // each % 4] for n in numbers],
            "group": [f"P{n // each}" for n in numbers],
            "fold": [1 + n // each % 5 for n in numbers],
        }
    )


def subsets(table):
    return dict(zip(table["image"], table["role"]))


# ---- the thesis' split


@pytest.mark.parametrize(
    "number, validation, test, by_class",
    [
        (0, 655, 656, [(150, 150), (153, 153), (202, 203), (150, 150)]),
        (1, 653, 654, [(148, 148), (153, 153), (202, 203), (150, 150)]),
    ],
)
def test_testing_is_halved_by_class_in_both_editions(number, validation, test, by_class):
    done = split_table(kaggle(number), "thesis")
    tally = pd.crosstab(done["class"], done["role"])
    assert [tuple(row) for row in tally[["validation", "test"]].to_numpy().tolist()] == by_class
    assert tally["validation"].sum() == validation and tally["test"].sum() == test
    assert (done["role"].eq("train") == done["split"].eq("Training")).all()
    assert set(done["protocol"]) == {"thesis, classification"} and set(done["seed"]) == {42}


def test_the_halves_depend_on_the_seed_and_not_on_the_order_of_the_rows():
    table = kaggle(1)
    mixed = split_table(table.sample(frac=1, random_state=3), "thesis")
    assert (
        subsets(split_table(table, "thesis"))
        == subsets(mixed)
        != subsets(split_table(table, "thesis", seed=1))
    )
    pd.testing.assert_frame_equal(mixed[table.columns], table.sample(frac=1, random_state=3))


def test_one_class_more_or_less_leaves_the_others_where_they_were():
    table = kaggle(1)
    fewer = split_table(table[table["class"] != "glioma"], "thesis")
    assert subsets(fewer).items() <= subsets(split_table(table, "thesis")).items()


def test_segmentation_is_what_two_calls_of_scikit_learn_give():
    from sklearn.model_selection import train_test_split

    table = slices().sample(frac=1, random_state=0)
    done = split_table(table, "thesis", "segmentation")
    assert [(done["role"] == role).sum() for role in ROLES] == [2308, 768, 768]
    paths, size = sorted(table["image"]), int(0.2 * 3844)
    rest, validation = train_test_split(paths, test_size=size, random_state=42)
    train, test = train_test_split(rest, test_size=size, random_state=42)
    assert [set(done["image"][done["role"] == role]) for role in ROLES] == [
        set(train),
        set(validation),
        set(test),
    ]


def test_segmentation_draws_as_numpy_does():
    """The judge's own arithmetic: a permutation of RandomState(42), its head is held out."""
    done = subsets(split_table(slices(3064, 0), "thesis", "segmentation"))
    paths = sorted(done)
    assert paths[:4] == ["images/1.png", "images/10.png", "images/100.png", "images/1000.png"]
    drawn = np.random.RandomState(42).permutation(3064)
    assert {paths[i] for i in drawn[:612]} == {
        name for name, role in done.items() if role == "validation"
    }
    rest = [paths[i] for i in drawn[612:]]
    again = np.random.RandomState(42).permutation(len(rest))
    assert {rest[i] for i in again[:612]} == {name for name, role in done.items() if role == "test"}


def test_copies_made_before_the_split_leak_and_are_counted():
    table = slices()
    found = count_leaks(split_table(table, "thesis", "segmentation"))
    assert found["torn_groups"] > 200 and found["test_seen"] > 700
    original = table["image"].str.replace("_small", "")
    alone = count_leaks(
        split_table(table.assign(group=original), "thesis", "segmentation")
    )  # a group is a slice and its copy
    assert 0.45 < alone["torn_groups"] / 780 < 0.65
    assert count_leaks(split_table(table, "honest"))["torn_groups"] == 0


@pytest.mark.parametrize(
    "table, task, code, named",
    [
        (slices(9, 0).assign(split=None), "classification", ErrorCode.DATA_INVALID, "nothing"),
        (
            kaggle(0).assign(split="Training"),
            "classification",
            ErrorCode.DATA_INVALID,
            "the column split holds Training.",
        ),
        (kaggle(0)[:50], "segmentation", ErrorCode.DATA_MISSING, "50 without"),
        (slices(4, 0), "segmentation", ErrorCode.DATA_MISSING, "4 images, 0 without"),
        (slices(9, 0), "detection", ErrorCode.ARGUMENT_INVALID, "classification and segmentation"),
        (pd.concat([slices(9, 0)] * 2), "segmentation", ErrorCode.DATA_INVALID, "9 of 18"),
    ],
)
def test_what_the_thesis_split_needs_is_named(table, task, code, named):
    with raises(code, named):
        split_table(table, "thesis", task)


# ---- splits by group


@pytest.mark.parametrize("folds", [3, 5, "author"])
def test_no_group_is_torn_and_every_picture_is_tested_once(folds):
    table = pd.concat([slices(600, 0), kaggle(1)[::5].assign(fold=None)], ignore_index=True)
    turns = [
        split_table(table, "honest", folds=folds, test=number)
        for number in range(1, (5 if folds == "author" else folds) + 1)
    ]
    assert sum((turn["role"] == "test").astype(int) for turn in turns).eq(1).all()
    assert sum((turn["role"] == "validation").astype(int) for turn in turns).eq(1).all()
    for turn in turns:
        assert (
            turn.groupby("group")["role"].nunique().eq(1).all()
            and (turn["side"] == turns[0]["side"]).all()
        )
        assert count_leaks(turn)["test_seen"] == count_leaks(turn)[
            "torn_groups"
        ] == 0 and check_split(turn).startswith("no group on two sides")


def test_folds_have_their_share_of_every_class_and_source():
    table = pd.concat([slices(1000, 0, each=5), kaggle(1).assign(fold=None)], ignore_index=True)
    share = pd.crosstab([table["source"], table["class"]], group_folds(table, 5), normalize="index")
    assert share.sub(0.2).abs().max(axis=None) < 0.05


def test_the_seed_decides_and_the_last_fold_is_the_test():
    table = slices(600, 0)
    assert group_folds(table).equals(group_folds(table)) and not group_folds(table).equals(
        group_folds(table, seed=1)
    )
    done = split_table(table, "honest")
    assert (
        set(done["seed"]) == {0}
        and (done["role"].eq("test") == done["side"].eq("5")).all()
        and (done["role"].eq("validation") == done["side"].eq("4")).all()
    )


def test_the_authors_folds_are_kept_and_lent_to_the_group():
    table = slices(130, 0)
    copies = table.assign(source="kaggle", fold=None)
    others = copies.assign(image="x" + copies["image"], group="K" + copies["group"])
    fold = author_folds(pd.concat([table, copies, others], ignore_index=True))
    assert fold[:130].tolist() == fold[130:260].tolist() == table["fold"].tolist()
    assert fold[260:].groupby(others["group"].to_numpy()).nunique().eq(1).all() and set(
        fold[260:]
    ) == {1, 2, 3, 4, 5}
    with raises(ErrorCode.SPLIT_INVALID, "1 of 10 groups", "such as P0"):
        author_folds(table.assign(fold=[2, *table["fold"][1:]]))
    with raises(ErrorCode.DATA_MISSING):
        author_folds(copies)


@pytest.mark.parametrize("test, folds", [(0, 5), (6, 5), (1, 2)])
def test_a_fold_that_is_not_there(test, folds):
    with raises(ErrorCode.ARGUMENT_INVALID, f"fold {test} of {folds}"):
        fold_roles(pd.Series(range(1, folds + 1)), test)


# ---- the check


def torn_folder(folder):
    """A data folder as training takes it, with one group in training and in the test."""
    from PIL import Image

    rows = [
        {
            "image": f"{n}.png",
            "class": CLASSES[n % 4],
            "group": f"g{n // 4}",
            "role": ROLES[min(n // 8, 2)],
        }
        for n in range(24)
    ]
    rows[0]["role"] = "test"
    for row in rows:
        (folder / "s").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32), 90, np.uint8)).save(folder / "s" / row["image"])
    pd.DataFrame(rows).to_csv(folder / "s" / "manifest.csv", index=False)
    return folder


def test_training_refuses_a_torn_table_before_it_begins(tmp_path):
    from brain_tumor.compact.training import predict_out_of_fold, train_compact

    torn_folder(tmp_path / "data")
    for teach in (train_compact, predict_out_of_fold):
        with raises(ErrorCode.SPLIT_INVALID, "1 of 6 groups", "such as g0.", 'protocol="thesis"'):
            teach(tmp_path / "data", tmp_path / "run", weights=None)
    assert not (tmp_path / "run").exists()


def test_so_does_the_command(tmp_path, capsys):
    from brain_tumor.cli import main

    assert (
        main(
            [
                "train",
                "compact",
                "--data",
                str(torn_folder(tmp_path / "data")),
                "--out",
                str(tmp_path / "run"),
                "--weights",
                "none",
                "--epochs",
                "1",
            ]
        )
        == 2
    )
    assert "1 of 6 groups" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_only_the_word_thesis_lets_a_torn_group_pass():
    torn = split_table(kaggle(1), "thesis")
    with raises(ErrorCode.SPLIT_INVALID, "160 of 160 groups"):
        check_split(torn)
    assert check_split(torn, protocol="thesis") == (
        "protocol thesis: 160 of 160 groups stand on two sides, "
        "654 of 654 test pictures have their group in training"
    )
    with raises(ErrorCode.SPLIT_INVALID):
        split_table(torn.drop(columns="side"), "project")


@pytest.mark.parametrize(
    "change, code, named",
    [
        ({"role": "exam"}, ErrorCode.LABEL_UNKNOWN, "the column role holds exam."),
        ({"role": None}, ErrorCode.LABEL_UNKNOWN, "the column role holds nothing."),
        ({"class": "metastasis"}, ErrorCode.LABEL_UNKNOWN, "the column class holds metastasis."),
        ({"group": None}, ErrorCode.DATA_MISSING, "9 of 9"),
    ],
)
def test_the_check_names_what_is_wrong(change, code, named):
    with raises(code, named):
        check_split(slices(9, 0).assign(role="train").assign(**change))


def test_a_group_in_two_training_folds_is_found():
    done = split_table(slices(600, 0), "honest")
    row = done.index[done["side"] == "1"][0]
    done.loc[row, "side"] = "2"
    assert done["role"].equals(split_table(slices(600, 0), "honest")["role"])
    with raises(ErrorCode.SPLIT_INVALID, "of 47 groups"):
        check_split(done)


def test_a_table_without_groups_can_be_split_as_the_thesis_did_and_not_otherwise():
    table = kaggle(1).assign(group=None)
    assert count_leaks(split_table(table, "thesis"))["groups"] == 0
    with raises(ErrorCode.DATA_MISSING, "7028 of 7028"):
        split_table(table, "honest")


# ---- files


def odd():
    """Names and groups that CSV files are broken with."""
    names = ["a,b.png", '"c".png', "# d.png", "é 脳.png", "NA", "1.0", " e ", "f\tg.png"]
    return pd.DataFrame(
        {
            "source": "s",
            "image": names,
            "class": "glioma",
            "group": [1, 1, 2, 2, 3, 3, 4, 4],
            "role": "train",
            "mask": "m",
        }
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: split_table(odd()),
        lambda: split_table(odd(), "honest", folds=3),
        lambda: split_table(odd(), "thesis", "segmentation"),
        lambda: split_table(kaggle(0), "thesis"),
        lambda: split_table(slices(99, 9), "honest", folds="author", seed=7),
    ],
)
def test_a_file_gives_back_what_was_written(tmp_path, make):
    done = make()
    facts = write_split(done, tmp_path / "new" / "split.csv")
    source = done.drop(columns=["side", "protocol", "seed"])
    pd.testing.assert_frame_equal(
        read_split(tmp_path / "new" / "split.csv", source.assign(role="")).sort_index(axis=1),
        done.sort_index(axis=1),
    )
    mixed = read_split(tmp_path / "new" / "split.csv", source.sample(frac=1, random_state=1))
    assert subsets(mixed) == subsets(done) == subsets(read_split(tmp_path / "new" / "split.csv"))
    before = (tmp_path / "new" / "split.csv").read_bytes()
    assert (
        write_split(mixed, tmp_path / "again.csv") == facts
        and (tmp_path / "again.csv").read_bytes() == before
    )
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["split.csv"]


def test_a_file_carries_seed_protocol_and_hashes(tmp_path):
    done = split_table(slices(600, 0), "honest", seed=3)
    write_split(done, tmp_path / "s.csv")
    facts = json.loads((tmp_path / "s.csv").read_text().split("\n")[0].removeprefix("# "))
    assert (
        facts["protocol"] == "honest, 5 folds" and facts["seed"] == 3 and facts["pictures"] == 600
    )
    assert (
        facts["split_sha256"] == split_hash(done.assign(role=done["side"]))
        and len(facts["table_sha256"]) == 64
    )


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda t: t[5:], "missing in the table: 5, first figshare/images/1.png"),
        (
            lambda t: pd.concat([t, t[:1].assign(image="new.png")]),
            "missing in the file: 1, first figshare/new.png",
        ),
        (
            lambda t: t.assign(group=["P9", *t["group"][1:]]),
            "in another group: 1, first figshare/images/1.png",
        ),
    ],
)
def test_a_file_of_another_table_is_rejected_with_the_difference(tmp_path, change, named):
    table = slices(600, 0)
    write_split(split_table(table, "honest"), tmp_path / "s.csv")
    with raises(ErrorCode.DATA_INVALID, "s.csv", named):
        read_split(tmp_path / "s.csv", change(table))


def test_a_file_that_is_none_or_was_changed(tmp_path):
    table = slices(600, 0)
    write_split(split_table(table, "honest"), tmp_path / "s.csv")
    whole = (tmp_path / "s.csv").read_text()
    for content in (
        whole.replace("P3,", "P4,", 1),
        whole[:-20],
        whole.replace("\nfigshare,images/1.png,P0", "", 1),
    ):
        (tmp_path / "s.csv").write_text(content)
        with raises(ErrorCode.DATA_INVALID, "s.csv"):
            read_split(tmp_path / "s.csv", table)
    for content in (
        b"",
        b"\xff\xfe",
        b"source,image\n",
        b"# {}\n",
        b"# []\nsource,image,group,side\n",
    ):
        (tmp_path / "s.csv").write_bytes(content)
        with raises(ErrorCode.FILE_UNREADABLE, "s.csv"):
            read_split(tmp_path / "s.csv", table)
    with raises(ErrorCode.FILE_UNREADABLE, "gone.csv"):
        read_split(tmp_path / "gone.csv")
    with raises(ErrorCode.DATA_MISSING, "side, protocol and seed"):
        write_split(table, tmp_path / "s.csv")


def test_an_interrupted_writing_keeps_the_old_file(tmp_path, monkeypatch):
    done = split_table(slices(600, 0), "honest")
    write_split(done, tmp_path / "s.csv")
    before = (tmp_path / "s.csv").read_bytes()
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_split(split_table(slices(600, 0), "honest", seed=1), tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_bytes() == before


def test_two_splits_are_compared_by_picture_and_by_group():
    one = split_table(slices(600, 0), "honest")
    moved = one.copy()
    group = one["group"][one["role"] == "train"].iloc[0]
    moved.loc[moved["group"] == group, "role"] = "test"
    found = compare_splits(one, moved)
    assert found.loc["pictures"].tolist() == [600, 587, 13, 0, 0] and found.loc[
        "groups"
    ].tolist() == [47, 46, 1, 0, 0]
    assert compare_splits(one, one[13:])["only_one"].tolist() == [13, 1] and compare_splits(
        one[13:], one
    )["only_two"].tolist() == [13, 1]


# ---- the splits of this project


def test_the_committed_splits_are_whole_and_are_those_of_the_table_of_leaks(root):
    recorded = pd.read_csv(
        root / "runs" / "splits" / "leaks.csv", index_col="file", keep_default_na=False
    )
    assert sorted(filter(None, recorded.index)) == sorted(f"{name}.csv" for name in FILES)
    for name in FILES:
        done, row = (
            read_split(root / "runs" / "splits" / f"{name}.csv"),
            recorded.loc[f"{name}.csv"],
        )
        assert (root / "runs" / "splits" / f"{name}.csv").stat().st_size < 500_000
        assert split_hash(done.assign(role=done["side"])) == row["split_sha256"] and set(
            done["protocol"]
        ) == {row["split"]}
        found = count_leaks(done)
        assert all(
            found[key] == row[key]
            for key in ("pictures", "groups", "torn_groups", "test", "test_seen")
        )
        assert name.startswith("thesis") == (found["torn_groups"] > 0)
    assert recorded.loc["", ["test", "test_seen", "test_tumors", "test_tumors_seen"]].tolist() == [
        1145,
        1126,
        795,
        786,
    ]


def test_the_project_split_is_still_the_one_that_the_networks_were_trained_on(root):
    run = json.loads((root / "runs" / "compact_3" / "run.json").read_text(encoding="utf-8"))
    assert split_hash(read_split(root / "runs" / "splits" / "project.csv")) == run["split_sha256"]


def test_the_committed_splits_come_out_of_the_data_again(root, shared_data, tmp_path):
    write_project_splits(shared_data, tmp_path)
    for name in (*FILES, "leaks"):
        assert (tmp_path / f"{name}.csv").read_bytes() == (
            root / "runs" / "splits" / f"{name}.csv"
        ).read_bytes(), name
    table = read_data(shared_data, copies=True)
    run = json.loads((root / "runs" / "compact_3" / "run.json").read_text(encoding="utf-8"))
    assert split_hash(table) == run["split_sha256"]
    author = split_table(table, "honest", folds="author")
    figshare = author["source"] == "figshare"
    assert (author.loc[figshare, "side"].astype(int) == author.loc[figshare, "fold"]).all()
    assert (
        author.loc[figshare & (author["role"] == "test"), "role"]
        == table.loc[figshare & (author["role"] == "test"), "role"]
    ).all()
    assert read_split(root / "runs" / "splits" / "project.csv", table)["role"].equals(table["role"])


# ---- verdicts


def test_verdicts_mark_groups_and_the_class_no_tumor_only(tmp_path):
    known = read_verdicts()
    lesions = set(known.loc[known["verdict"] == "lesion", "group"])
    assert {"K0213", "K0498", "K0197", "K0445", "K0499"} <= lesions and not lesions & set(
        known.loc[known["verdict"] != "lesion", "group"]
    )
    (tmp_path / "kaggle").mkdir()
    rows = [
        {"image": f"{group}{name}.png", "class": name, "group": group, "role": "train"}
        for group in ("K0213", "P001")
        for name in ("no_tumor", "glioma")
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "kaggle" / "manifest.csv", index=False)
    table = read_set(tmp_path / "kaggle" / "manifest.csv")
    assert (
        table.loc[table["disputed"], ["group", "class"]].to_numpy().tolist()
        == [["K0213", "no_tumor"]]
        and len(table) == 4
    )


@pytest.mark.parametrize(
    "spoil, code, named",
    [
        (lambda t: t.drop(columns="reason"), ErrorCode.DATA_MISSING, ": reason."),
        (lambda t: t.assign(verdict="tumour"), ErrorCode.DATA_INVALID, "verdict 'tumour'"),
        (lambda t: t.assign(reason=" "), ErrorCode.DATA_INVALID, "reason ' '"),
        (lambda t: t.assign(group=""), ErrorCode.DATA_INVALID, "group ''"),
    ],
)
def test_incomplete_verdicts_are_rejected(tmp_path, spoil, code, named):
    spoil(read_verdicts()).to_csv(tmp_path / "verdicts.csv", index=False)
    with raises(code, named):
        read_verdicts(tmp_path / "verdicts.csv")


def test_missing_verdict_files_are_named(tmp_path):
    with raises(ErrorCode.FILE_UNREADABLE, "gone.csv"):
        read_verdicts(tmp_path / "gone.csv")
    (tmp_path / "other.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    with raises(ErrorCode.FILE_UNREADABLE, "other.csv"):
        read_verdicts(tmp_path / "other.csv")


def test_no_verdicts_are_no_disputes():
    table = pd.DataFrame({"group": ["K0213", None], "class": "no_tumor"})
    assert (
        mark_disputed(table).tolist() == [True, False]
        and not mark_disputed(table, read_verdicts()[:0]).any()
    )
