"""Comparing segmentation runs of known truth: means, pairs, areas, seeds and folds."""

import numpy as np
import pytest
from errors import raises
from example_runs import write_example_segmentation_run

from brain_tumor.io.errors import ErrorCode
from brain_tumor.segmentation.comparison import (
    area_agreement,
    comparable_runs,
    dice_by_group,
    dice_difference,
    mask_table,
    pairwise_differences,
    planned_runs_table,
    read_mask_scores,
    runs_by_seed,
    subset_slices,
    thesis_segmentation_table,
)
from brain_tumor.segmentation.variability import (
    fold_table,
    interval_coverage,
    pool_folds,
    seed_difference,
    seed_table,
)
from brain_tumor.training.runs import find_runs, load_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Attention U-Net, ResUNet and U-Net with means around 0.73, 0.80 and 0.72."""
    folder = tmp_path_factory.mktemp("runs")
    networks = (("unet", 0.72, 1), ("attention_unet", 0.73, 2), ("resunet", 0.80, 3))
    for name, quality, seed in networks:
        write_example_segmentation_run(folder / name, name, quality, seed)
    return find_runs(folder, "segmentation")


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """Two seeds of a ResUNet around 0.75, three of a U-Net around 0.72."""
    folder = tmp_path_factory.mktemp("seeds")
    for seed in range(1, 6):
        network, quality = ("unet", 0.72) if seed < 4 else ("resunet", 0.75)
        write_example_segmentation_run(folder / f"{network}_{seed}", network, quality, seed)
    return find_runs(folder, "segmentation")


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """Three folds that share no group; together they have all forty."""
    folder = tmp_path_factory.mktemp("folds")

    def fold_run(fold):
        run = write_example_segmentation_run(folder / f"unet_fold{fold}", seed=fold, fold=fold)
        settings = (run / "run.json").read_text()
        (run / "run.json").write_text(settings.replace(f'"seed": {fold}', '"seed": 0'))
        slices = read_mask_scores(run)
        held = slices["group"].str[1:].astype(int) % 3 == fold - 1
        slices.assign(role=np.where(held, "test", "validation")).to_csv(
            run / "outlines.csv", index=False
        )
        return load_run(run)

    return [fold_run(fold) for fold in (3, 1, 2)]


def test_means_are_those_of_the_slices_and_small_tumours_are_harder(runs):
    assert [run.settings["network"] for run in runs] == ["attention_unet", "resunet", "unet"]
    assert len(read_mask_scores(runs[0].path)) == 200
    table, slices = mask_table(runs), subset_slices(runs[1])
    assert table.set_index("run").loc["resunet", "dice"] == pytest.approx(slices["dice"].mean())
    assert (table["dice_low"] < table["dice"]).all() and (table["groups"] == 20).all()
    assert (table["small"] < table["dice"]).all()
    thirds = dice_by_group(runs, "third").pivot(index="run", columns="third", values="dice")
    assert (thirds["small"] < thirds["large"]).all()
    assert dice_by_group(runs, "class")["slices"].sum() == 3 * 100
    with raises(ErrorCode.SELECTION_INVALID, "colour"):
        dice_by_group(runs, "colour")
    with raises(ErrorCode.DATA_MISSING, "resunet", "train"):
        subset_slices(runs[1], "train")


def test_a_repeated_recipe_is_compared_once(runs, tmp_path):
    again = load_run(write_example_segmentation_run(tmp_path / "unet", seed=7))
    assert [len(alike) for alike in runs_by_seed([*runs, again])] == [2, 1, 1]
    assert comparable_runs([*runs, again]) == runs


def test_a_large_difference_is_shown_and_a_small_one_is_not(runs):
    pairs = pairwise_differences(runs)
    assert pairs["one"].tolist()[:2] == ["resunet", "resunet"]
    assert (pairs["difference"] >= 0).all() and pairs["shown"].tolist() == [True, True, False]
    paired, alone = pairs.iloc[0], mask_table(runs).set_index("run").loc["resunet"]
    width = paired["difference_high"] - paired["difference_low"]
    assert width < alone["dice_high"] - alone["dice_low"]


def test_runs_on_other_slices_are_not_compared(runs, tmp_path):
    fewer = load_run(write_example_segmentation_run(tmp_path / "fewer", patients=20))
    with raises(ErrorCode.DATA_INVALID, "attention_unet", "fewer", 100, 50):
        dice_difference(runs[0], fewer)


def test_areas_drawn_without_bias_and_a_spread_of_a_fifth(runs):
    points, figures = area_agreement(runs[1])
    assert 0.9 < figures["bias"] < 1.1 and figures["empty"] + len(points) == 100
    assert abs(np.log(figures["high"] / figures["low"]) - 2 * 1.96 * 0.2) < 0.15


def test_the_thesis_stands_above_and_plans_are_matched(runs):
    table = thesis_segmentation_table(runs)
    assert table["run"].tolist()[:3] == ["the thesis"] * 3 and len(table) == 6
    plan = planned_runs_table(runs).set_index("planned")
    assert plan.loc["U-Net, 128 px", "run"] == "unet"


# ---- seeds and folds


def test_seeds_are_averaged_slice_by_slice(repeated):
    table = seed_table(repeated)
    assert table["seeds"].tolist() == [3, 2]
    assert (table["lowest"] < table["dice"]).all() and (table["dice"] < table["highest"]).all()
    means = [subset_slices(run)["dice"].mean() for run in repeated[2:]]
    assert table["dice"][0] == pytest.approx(np.mean(means))


def test_averaged_seeds_have_the_narrower_interval(repeated):
    unets, resunets = runs_by_seed(repeated)
    width = lambda row: row["difference_high"] - row["difference_low"]
    whole, single = seed_difference(resunets, unets), dice_difference(resunets[0], unets[0])
    assert whole["shown"] and width(whole) < width(single)


def test_folds_are_pooled_without_a_slice_twice(repeated, folds):
    table = fold_table([*repeated, *folds])
    assert table["folds"].tolist() == ["1", "2", "3", "together"]
    assert table["slices"].tolist()[-1] == table["slices"][:3].sum() == 200
    assert table["groups"].tolist()[-1] == 40
    widths = table["dice_high"] - table["dice_low"]
    assert widths[3] < widths[:3].min(), "more patients, a narrower interval"
    with raises(ErrorCode.DATA_INVALID, "unet_fold3"):
        pool_folds([folds[0], folds[0]])


def test_an_interval_over_few_groups_is_too_narrow(folds):
    table = pool_folds(folds)
    assert interval_coverage(table, 200, draws=60) > 0.88 > interval_coverage(table, 4, draws=60)
