"""Shortcuts: planted ones are found, painted tumours are gone, shuffled labels stay at chance."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from errors import raises

from brain_tumor.data.embeddings import embed
from brain_tumor.data.splits import group_folds, read_data
from brain_tumor.imaging.phantoms import write_phantoms
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.scan import CLASSES

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")
from brain_tumor.data.datasets import read_mask, read_pixels_8bit  # noqa: E402
from brain_tumor.data.duplicates import normalise_vectors
from brain_tumor.data.shortcuts import (
    PROBE_QUESTIONS,
    PROBE_STRENGTH,
    TUMOUR_CLASSES,
    balanced_accuracy,
    choose_masks,
    draw_probes,
    file_facts,
    find_masks,
    inpaint,
    leakage_scores,
    mask_patches,
    mask_squares,
    nearest_in_training,
    probe_view,
    question_labels,
    sharpness,
    shortcut_views,
    shortcuts,
    shuffle_labels,
    thumbnail_border,
)

RUN = Path(__file__).parent.parent / "runs" / "shortcuts"
PLACE = {
    "glioma": (24, 22),
    "meningioma": (42, 24),
    "pituitary": (32, 42),
}  # column, row: each kind has its own


def head(rng):
    """A textured ellipse: brain enough."""
    texture = cv2.resize(
        rng.uniform(60, 130, (7, 7)).astype(np.float32), (64, 64), interpolation=cv2.INTER_CUBIC
    )
    inside = cv2.ellipse(np.zeros((64, 64), np.float32), (32, 32), (22, 27), 0, 0, 360, 1, -1)
    return texture * inside


def write_heads(
    folder, groups=12, slices=2, spot=True, change=lambda picture, name: picture, seed=0
):
    """`groups` patients of each class with a few slices; the tumour is a spot."""
    rows, rng = [], np.random.default_rng(seed)
    for number in range(4 * groups):
        name, brain = CLASSES[number % 4], head(rng)
        for part in range(slices):
            mask, picture = np.zeros((64, 64), np.uint8), brain * (1 + 0.03 * part)
            if name != "no_tumor":
                at = tuple(int(p + rng.integers(-2, 3)) for p in PLACE[name])
                cv2.circle(mask, at, 4, 255, -1)
                picture = np.where(mask > 0, 230, picture) if spot else picture
            files = {"image": f"images/{number}_{part}.png", "mask": f"masks/{number}_{part}.png"}
            for file, image in zip(
                files.values(), (change(np.clip(picture, 0, 255).astype(np.uint8), name), mask)
            ):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / file), image)
            rows.append(
                files
                | {"class": name, "group": f"g{number}", "role": "train", "width": 64, "height": 64}
            )
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return read_data(folder)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return write_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def shown(heads):
    return shortcut_views(heads)


# ---- painting out


def test_copies_take_the_outline_of_their_original(tmp_path):
    rng = np.random.default_rng(1)
    picture, mask = head(rng), np.zeros((64, 64), np.uint8)
    cv2.circle(mask, (22, 30), 4, 255, -1)
    picture = np.where(mask > 0, 230, picture).astype(np.uint8)
    for place, image in (
        ("figshare/images/7.png", picture),
        ("figshare/masks/7.png", mask),
        ("kaggle/Training/glioma/a.png", cv2.resize(picture, (48, 48))),
        ("kaggle/Training/glioma/b.png", cv2.resize(picture[:, ::-1], (48, 48))),
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / place), image)
    common = {"class": "glioma", "group": "P1", "role": "train"}
    pd.DataFrame([{"image": "images/7.png", "mask": "masks/7.png"} | common]).to_csv(
        tmp_path / "figshare" / "manifest.csv", index=False
    )
    pd.DataFrame(
        [{"image": f"Training/glioma/{n}.png", "figshare_id": "7"} | common for n in "ab"]
    ).to_csv(tmp_path / "kaggle" / "manifest.csv", index=False)
    known = find_masks(read_data(tmp_path, copies=True))
    assert known["mirrored"].tolist() == [False, False, True] and known["outline"].nunique() == 1
    for row, square in enumerate(mask_squares(known)):
        grey = read_pixels_8bit(known["path"][row])
        region = mask_patches(grey, square)
        assert (region[grey > 200] > 0).all(), "the tumour is where the outline says"


def test_patches_are_one_of_each_kind_and_of_strangers(heads):
    known = find_masks(heads)
    squares = mask_squares(known)
    fold = group_folds(known).to_numpy()
    chosen = choose_masks(known, squares, fold)
    assert (fold[chosen] == fold[:, None]).all()
    for row in range(len(known)):
        assert known["class"].iloc[chosen[row]].tolist() == list(TUMOUR_CLASSES)
        for kind, donor in zip(TUMOUR_CLASSES, chosen[row]):
            own = kind == known["class"][row]
            assert (donor == row) if own else known["group"][donor] != known["group"][row]
    assert np.array_equal(choose_masks(known, squares, fold), chosen) and not np.array_equal(
        choose_masks(known, squares, fold, seed=1), chosen
    )
    assert not squares[(known["class"] == "no_tumor").to_numpy()].any()


def test_the_tumour_is_covered_and_nothing_else_touched(heads):
    known = find_masks(heads)
    squares = mask_squares(known)
    for row in range(0, len(known), 5):
        grey = read_pixels_8bit(known["path"][row])
        region = mask_patches(grey, squares[row])
        filled = inpaint(grey, region)
        assert (region[read_mask(known["mask"][row]) > 0] > 0).all()
        assert np.array_equal(filled[region == 0], grey[region == 0])
        assert filled[region > 0].max(initial=0) < 200, (
            "no rim of the tumour is smeared into the fill"
        )


def test_painting_takes_the_tumour_away_and_does_not_tell_the_class(heads, shown):
    found = shortcuts(
        heads, {name: shown[name] for name in ("whole", "painted", "patches")}, ["which tumour"]
    ).set_index("view")
    assert found["low"]["whole"] > 0.6, "with the tumour in sight the class is predicted"
    for view in ("painted", "patches"):
        assert (
            found["low"][view] <= 1 / 3
            and found["balanced"][view] < found["balanced"]["whole"] - 0.25
        ), view


def test_painting_the_own_tumour_alone_would_tell_the_class(heads, shown):
    known = find_masks(heads)
    squares = mask_squares(known)
    own = np.stack(
        [
            cv2.resize(s.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA).ravel()
            for s in squares
        ]
    )
    found = shortcuts(
        known, {"own": own, "patches": shown["patches"]}, ["which of four"]
    ).set_index("view")
    assert found["low"]["own"] > 0.8 and found["low"]["patches"] <= 0.25


def test_painting_needs_outlines_of_strangers(heads):
    with raises(ErrorCode.DATA_MISSING, "meningioma"):
        shortcut_views(heads[heads["class"].isin(["no_tumor", "glioma"])].reset_index(drop=True))


# ---- probes


@pytest.mark.parametrize(
    "view, question, change",
    [
        (
            "border",
            "which tumour",
            lambda p, name: (
                cv2.copyMakeBorder(p[2:-2, 2:-2], 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=30)
                if name == "meningioma"
                else p
            ),
        ),
        (
            "file",
            "tumour or not",
            lambda p, name: cv2.GaussianBlur(p, (0, 0), 1.5) if name == "no_tumor" else p,
        ),
        (
            "histogram",
            "tumour or not",
            lambda p, name: (p * 0.7).astype(np.uint8) if name == "no_tumor" else p,
        ),
    ],
)
def test_a_planted_shortcut_is_found_where_it_was_planted(tmp_path, view, question, change):
    planted = shortcuts(
        write_heads(tmp_path, spot=False, change=change), questions=[question]
    ).set_index("view")
    assert planted["low"][view] > planted["chance"][view] + 0.1
    assert planted["low"]["patches"] <= planted["chance"]["patches"]


def test_with_nothing_planted_and_labels_shuffled_all_is_chance(heads, shown):
    found = pd.concat(
        [
            shortcuts(
                heads.assign(**{"class": shuffle_labels(heads, seed)}),
                {name: shown[name] for name in ("border", "histogram", "file", "whole")},
                ["which of four"],
            )
            for seed in range(4)
        ]
    )
    assert found.groupby("view")["balanced"].mean().between(0.15, 0.35).all()
    assert ((found["low"] <= 0.25) & (found["high"] >= 0.25)).mean() >= 0.6
    assert shortcuts(heads, {"whole": shown["whole"]}, ["which of four"])["low"][0] > 0.4, (
        "the true labels are not at chance"
    )


def test_the_probe_has_not_seen_its_group():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 5)
    table = pd.DataFrame(
        {
            "group": group,
            "class": rng.permutation(np.repeat(["a", "b"], 20))[group],
            "source": "one",
        }
    )
    name_tag = np.eye(40)[group]  # says who it is, and nothing about the class
    honest = probe_view(name_tag, table["class"], group_folds(table), strength=1.0)
    leaky = probe_view(name_tag, table["class"], rng.integers(0, 5, 200), strength=1.0)
    assert (leaky == table["class"]).mean() > 0.95 and (honest == table["class"]).mean() < 0.6


def test_a_table_that_cannot_be_probed_is_refused(heads, shown):
    same = heads[heads["class"] == "glioma"].reset_index(drop=True)
    with raises(ErrorCode.DATA_MISSING):
        shortcuts(same, {"file": shown["file"][: len(same)]})
    with raises(ErrorCode.ARGUMENT_INVALID, "groups"):
        shortcuts(heads.assign(group="one"), {"file": shown["file"]})
    with raises(ErrorCode.DATA_MISSING, "fold"):
        probe_view(np.zeros((4, 2)), ["a", "a", "b", "b"], [1, 1, 2, 2])


def test_balanced_accuracy_agrees_with_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    truth = rng.choice(list("aaaabbc"), 600)
    predicted = np.where(rng.random(600) < 0.7, truth, rng.choice(list("abc"), 600))
    slices, patients = (
        balanced_accuracy(predicted, truth, group)
        for group in (np.arange(600), np.arange(600) // 10)
    )
    assert (
        slices[0] == pytest.approx(balanced_accuracy_score(truth, predicted))
        and slices[1] < slices[0] < slices[2]
    )
    together = balanced_accuracy(
        np.repeat(predicted[:60], 10), np.repeat(truth[:60], 10), np.repeat(np.arange(60), 10)
    )
    alone = balanced_accuracy(predicted[:60], truth[:60], np.arange(60))
    assert together == pytest.approx(alone), "ten copies of a slice are no ten slices"
    assert patients[0] == slices[0]


def test_the_sizes_as_published_come_with_the_data(tmp_path):
    """`read_data` keeps them, so that `file_facts` uses the published size, not the stored one."""
    manifest = write_phantoms(tmp_path, n=12, seed=3, size=64)
    pd.read_csv(manifest).assign(original_width=512, original_height=256).to_csv(
        manifest, index=False
    )
    table = read_data(tmp_path)
    assert (file_facts(table, np.zeros(len(table)))[:, :3] == [9, 8, 1]).all()


def test_file_facts_take_the_published_size():
    table = pd.DataFrame(
        {
            "width": [384, 64],
            "height": [384, 32],
            "original_width": [512, np.nan],
            "original_height": [512, np.nan],
        }
    )
    assert np.allclose(file_facts(table, np.array([1.0, 2.0])), [[9, 9, 0, 1, 1], [6, 5, 1, 0, 2]])
    assert np.allclose(
        file_facts(table[["width", "height"]], np.zeros(2))[:, 0], np.log2([384, 64])
    )


def test_the_border_holds_the_border_alone_and_sharpness_falls_with_blur():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (320, 256)).astype(np.uint8)
    middle = picture.copy()
    middle[40:-40, 40:-40] = 0
    assert np.array_equal(
        thumbnail_border(picture), thumbnail_border(middle)
    ) and not np.array_equal(thumbnail_border(picture), thumbnail_border(255 - picture))
    blurs = [sharpness(cv2.GaussianBlur(picture, (0, 0), s)) for s in (0.5, 1, 2, 4)]
    assert blurs == sorted(blurs, reverse=True) and sharpness(picture) > blurs[0]


def test_questions(heads):
    assert set(question_labels(heads, "which of four")) == set(CLASSES)
    assert set(question_labels(heads, "tumour or not")) == {"tumour", "no_tumor"}
    asked = question_labels(heads, "which tumour")
    assert (pd.isna(asked) == (heads["class"] == "no_tumor")).all() and set(
        asked[~pd.isna(asked)]
    ) == set(TUMOUR_CLASSES)


# ---- labels that mean nothing


def test_every_group_gets_the_class_of_another():
    table = pd.DataFrame(
        {
            "group": np.repeat(np.arange(200), 3),
            "class": np.repeat([f"class of {n}" for n in range(200)], 3),
        }
    )
    lot = shuffle_labels(table, 4)
    assert (lot != table["class"]).all() and table.assign(lot=lot).groupby("group")[
        "lot"
    ].nunique().eq(1).all()
    assert (
        set(lot) == set(table["class"])
        and (lot == shuffle_labels(table, 4)).all()
        and (lot != shuffle_labels(table, 5)).any()
    )


def test_a_random_split_beats_chance_on_meaningless_labels_and_a_split_by_group_does_not(tmp_path):
    table = write_heads(tmp_path, groups=14, slices=3, spot=False)
    found = leakage_scores(embed(table, "pixels"), table, folds=4, seeds=range(3), network=True)
    assert len(found) == 2 * 2 * 4 and set(found["labels"]) == {"true", "shuffled"}
    mixed = found[found["labels"] == "shuffled"]
    near = mixed[mixed["judge"] == "nearest neighbour"].groupby("split")
    assert near["low"].min()["random"] > 0.8 and near["low"].max()["by group"] <= 0.3
    net = mixed[mixed["judge"] == "small network"].groupby("split")["balanced"].mean()
    assert net["random"] > 0.6 and net["by group"] < 0.4


def test_nearest_in_training_by_hand():
    shapes = np.random.default_rng(0).normal(0, 1, (4, 30))
    vectors = np.stack(
        [
            shapes[0],
            shapes[0] * 2 + 5,
            shapes[1],
            shapes[2],
            shapes[2] + 0.01 * shapes[3],
            shapes[3],
        ]
    )
    table = pd.DataFrame(
        {
            "image": [
                "Training/1",
                "Testing/2",
                "Training/3",
                "Training/4",
                "Testing/5",
                "Training/6",
            ],
            "class": list("aabbba"),
            "group": list("ggxhhy"),
            "source": "s",
        }
    )
    found = nearest_in_training(vectors, table, folds=2)
    published = found[found["protocol"].str.startswith("Training") & (found["of"] == "all")].iloc[0]
    assert (published["pictures"], published["accuracy"], published["same_group"]) == (2, 1, 1)
    others = np.corrcoef(vectors)
    wanted = [
        table["class"][
            max(
                (r for r in (0, 2, 3, 5) if table["group"][r] != table["group"][row]),
                key=lambda r: others[row, r],
            )
        ]
        == table["class"][row]
        for row in (1, 4)
    ]
    apart = found[found["protocol"].str.startswith("the same") & (found["of"] == "all")].iloc[0]
    assert apart["accuracy"] == np.mean(wanted) and apart["same_group"] == 0
    assert np.allclose(normalise_vectors(vectors)[0], normalise_vectors(vectors)[1], atol=1e-5)
    with raises(ErrorCode.DATA_INVALID, "Training", "Testing"):
        nearest_in_training(vectors, table.assign(image="images/x"))


# ---- the records


def recorded(name):
    return pd.read_csv(RUN / f"{name}.csv")


def test_the_records_speak_of_the_same_split():
    split = json.loads((RUN.parent / "compact_2" / "run.json").read_text(encoding="utf-8"))[
        "split_sha256"
    ][:11]
    assert (
        set(recorded("shortcuts")["split"])
        == set(recorded("nearest")["split"])
        == set(recorded("strength")["split"])
        == set(recorded("shuffled")["split_hash"])
        == {split}
    )


def test_the_recorded_intervals_hold_their_means():
    for name, mean in (
        ("shortcuts", "balanced"),
        ("shuffled", "balanced"),
        ("nearest", "accuracy"),
    ):
        table = recorded(name)
        assert ((table["low"] <= table[mean]) & (table[mean] <= table["high"])).all() and table[
            mean
        ].between(0, 1).all()
    found = recorded("shortcuts")
    assert np.allclose(found["chance"], 1 / found["classes"], atol=1e-4) and set(
        found["question"]
    ) == set(PROBE_QUESTIONS)
    assert (
        not found[found["set"] != "all sets, validation and test"]["view"]
        .str.contains("compact")
        .any()
    ), "it has learned from these"


def test_the_penalty_is_near_the_best_that_was_tried():
    tried = recorded("strength").groupby("strength")["balanced"].mean()
    assert tried.max() - tried[PROBE_STRENGTH] < 0.02


def test_the_control_is_at_chance():
    found = recorded("shortcuts")
    control = found[(found["view"] == "patches") & (found["set"] != "Kaggle without copies")]
    assert (
        len(control) > 9
        and ((control["low"] <= control["chance"]) & (control["chance"] <= control["high"])).all()
    )


def test_the_drawing_shows_every_view():
    part = recorded("shortcuts").query("`set` == 'all sets' and question == 'tumour or not'")
    axis = draw_probes(part, "all")
    assert {label.get_text() for label in axis.get_yticklabels()} == set(part["view"])
    assert [round(bar.get_width(), 4) for bar in axis.patches] == part["balanced"].tolist()[::-1]


def test_the_recorded_counts_are_the_folders(shared_data):
    table, found = read_data(shared_data, copies=True), recorded("shortcuts")
    four = (
        found[found["question"] == "which of four"].groupby("set")[["pictures", "groups"]].first()
    )
    own, kaggle = table[table["copy_of"].isna()], table[table["source"] == "kaggle"]
    assert four.loc["all sets"].tolist() == [len(own), own["group"].nunique()]
    assert four.loc["Kaggle as published"].tolist() == [len(kaggle), kaggle["group"].nunique()]
    assert recorded("nearest")["pictures"][0] == kaggle["image"].str.startswith("Testing/").sum()


def test_mirrored_copies_are_recognised_on_real_slices(shared_data):
    manifest = pd.read_csv(shared_data / "kaggle" / "manifest.csv", dtype={"figshare_id": "string"})
    some = manifest[manifest["figshare_id"].notna()].sample(60, random_state=0)
    table = read_data(shared_data, copies=True)
    ids = set(some["figshare_id"])
    part = table[
        table["image"].isin(some["image"])
        | (
            (table["source"] == "figshare")
            & np.array([Path(i).stem in ids for i in table["image"]])
        )
    ].reset_index(drop=True)
    known = find_masks(part).set_index("image")
    assert known["outline"].notna().all() and 0 < some["mirrored"].mean() < 1
    assert (known["mirrored"][some["image"]].to_numpy() == (some["mirrored"] == 1)).all()
