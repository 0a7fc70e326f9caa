"""Uncertainty: the conformal quantile against hand-worked and simulated truth, prediction sets and
area intervals against plain counting, and the recorded figures against their files."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from errors import raises

from brain_tumor.data.splits import read_data
from brain_tumor.evaluation.calibration import (
    add_interval_areas,
    add_test_rows,
    calibration_bins,
    calibration_table,
    coverage_figures,
    interval_coverage_table,
    read_uncertainty_run,
    score_uncertainty,
    set_coverage_table,
    warning_table,
    write_coverage,
)
from brain_tumor.evaluation.scoring import predict_slices
from brain_tumor.evaluation.uncertainty import (
    AREA_LEVEL,
    ASYMMETRY,
    TUMOUR_OR_NO_TUMOUR,
    compare_scalings,
    conformal_quantile,
    cross_fitted_intervals,
    cross_fitted_sets,
    fit_area_thresholds,
    fit_uncertainty,
    grid_indices,
    lowest_threshold,
    matching_thresholds,
    past_test_evaluations,
    record_uncertainty,
    required_margins,
    segmented_slices,
    slice_arrays,
    write_uncertainty,
)
from brain_tumor.imaging.phantoms import write_phantoms
from brain_tumor.imaging.samples import samples
from brain_tumor.inference.engines import load_engine
from brain_tumor.inference.uncertainty import (
    THRESHOLD_GRID,
    Uncertainty,
    area_curve,
    interval_areas,
    load_uncertainty,
    prediction_sets,
    sigmoid,
    uncertainty_of,
    uncertainty_warnings,
)
from brain_tumor.io.decode import read_in_process
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.files import MODELS, read_model_manifest
from brain_tumor.io.scan import CLASSES
from brain_tumor.metrics import calibration_error

SHIPS = MODELS / "compact"


@pytest.fixture(scope="module")
def recorded(root):
    return read_uncertainty_run(root / "runs" / "certainty")


@pytest.fixture(scope="module")
def validation(recorded):
    return tuple(
        recorded[name].query("role == 'validation'").reset_index(drop=True)
        for name in ("slices", "areas")
    )


def disc(radius, side=128):
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    return np.hypot(y, x) <= radius


def slope(radius, shift, side=128, wide=3.0):
    """A mask probability that passes its logit `shift` at a radius."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    return sigmoid((radius - np.hypot(y, x)) / wide + shift)


# ---- the quantile


@pytest.mark.parametrize(
    "n, level", [(9, 0.9), (19, 0.95), (20, 0.9), (35, 0.95), (100, 0.9), (7, 0.875)]
)
def test_with_one_slice_a_group_it_is_the_textbook_quantile(n, level):
    scores = np.random.default_rng(n).normal(size=n)
    assert (
        conformal_quantile(scores, np.arange(n), level)
        == np.sort(scores)[int(np.ceil(round((n + 1) * level, 9))) - 1]
    )


@pytest.mark.parametrize("groups, level", [(8, 0.9), (18, 0.95), (7, 0.9)])
def test_too_few_groups_promise_nothing_however_many_slices_they_have(groups, level):
    whose = np.repeat(np.arange(groups), 50)
    assert (
        conformal_quantile(np.random.default_rng(0).normal(size=whose.size), whose, level) == np.inf
    )


def test_a_group_counts_once_by_hand():
    # four groups: five shares of 0.2; a's are 0.2 / 4 each
    scores = np.array([1, 2, 3, 4, 10, 20, 30.0])
    whose = np.array(["a", "a", "a", "a", "b", "c", "d"])
    expected = {0.05: 1, 0.1: 2, 0.2: 4, 0.21: 10, 0.4: 10, 0.6: 20, 0.8: 30, 0.81: np.inf}
    assert {level: conformal_quantile(scores, whose, level) for level in expected} == expected


def test_neither_order_nor_copies_of_a_groups_slices_change_it():
    rng = np.random.default_rng(3)
    whose = rng.integers(0, 40, 200)
    scores, order = rng.normal(size=200), rng.permutation(200)
    for level in (0.5, 0.8, 0.9, 0.95):
        assert (
            conformal_quantile(scores, whose, level)
            == conformal_quantile(scores[order], whose[order], level)
            == conformal_quantile(np.repeat(scores, 3), np.repeat(whose, 3), level)
        )


def kept(rng, groups, level, sizes, by_group=True):
    """Whether a random slice of a new group stays below the cut-off that the others give."""
    hard = rng.normal(size=groups + 1)
    whose = np.repeat(np.arange(groups), sizes(hard[:-1]))
    known = hard[whose] + rng.normal(0, 0.3, whose.size)
    return hard[-1] + rng.normal(0, 0.3) <= conformal_quantile(
        known, whose if by_group else np.arange(whose.size), level
    )


@pytest.mark.parametrize("level", [0.8, 0.9])
@pytest.mark.parametrize(
    "sizes",
    [
        lambda hard: np.ones(hard.size, int),
        lambda hard: np.full(hard.size, 7),
        lambda hard: np.where(hard > 0.5, 2, 30),
    ],
    ids=["one", "seven", "the easy ones more"],
)
def test_the_promise_is_kept_for_exchangeable_groups(level, sizes):
    rng, tries = np.random.default_rng(0), 1500
    held = np.mean(
        [kept(rng, 10, level, sizes) for _ in range(tries)]
    )  # few, so that the share of the group to come counts
    assert held >= level - 3 * np.sqrt(level * (1 - level) / tries)
    assert held <= level + 1 / 11 + 4 * np.sqrt(level * (1 - level) / tries) + 0.03, (
        "a promise that is kept by saying nothing is none"
    )


def test_slices_taken_for_patients_break_the_promise():
    rng, tries, sizes = np.random.default_rng(0), 800, lambda hard: np.where(hard > 0.5, 2, 30)
    by_slice = np.mean([kept(rng, 29, 0.9, sizes, by_group=False) for _ in range(tries)])
    assert by_slice < 0.9 - 6 * np.sqrt(0.09 / tries)


# ---- sets of classes


def made_answers(groups=60, each=4, seed=0, sure=2.0):
    """Probabilities, labels and groups, where a group's slices have an opinion in common."""
    rng = np.random.default_rng(seed)
    labels, whose = np.repeat(np.arange(groups) % 4, each), np.repeat(np.arange(groups), each)
    logits = (
        np.repeat(rng.normal(size=(groups, 4)), each, 0)
        + 0.3 * rng.normal(size=(groups * each, 4))
        + sure * np.eye(4)[labels]
    )
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels, whose


def test_limits_are_those_of_plain_counting():
    p, labels, groups = made_answers()
    limits = lowest_threshold(p, labels, groups, 0.9)
    for k, name in enumerate(CLASSES):
        kind = [i for i in range(4) if (CLASSES[i] == "no_tumor") == (name == "no_tumor")]
        rows = [i for i in range(len(labels)) if labels[i] in kind]
        many = len({groups[i] for i in rows})
        tried = sorted((p[i, labels[i]] for i in rows), reverse=True)
        share = lambda limit: sum(1 / ((many + 1) * 4) for i in rows if p[i, labels[i]] >= limit)
        assert limits[k] == next(limit for limit in tried if share(limit) >= 0.9 - 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_sets_hold_the_likeliest_and_grow_with_the_level(seed):
    p, labels, groups = made_answers(120, seed=seed, sure=1.0)
    small, large = (
        prediction_sets(p, lowest_threshold(p, labels, groups, level)) for level in (0.8, 0.95)
    )
    assert (
        small[np.arange(len(p)), p.argmax(1)].all()
        and (large | ~small).all()
        and large.sum() > small.sum()
    )
    assert pd.Series(large[np.arange(len(p)), labels]).groupby(groups).mean().mean() >= 0.95


def uneven_answers(seed):
    """Return predictions for forty groups of each kind, in turn: nine easy slices without a tumour;
    two hard ones with a tumour or, where they are less hard, six."""
    rng = np.random.default_rng(seed)
    opinion, quiet = rng.normal(size=80), np.arange(80) % 2 == 1
    labels = np.where(
        quiet,
        CLASSES.index("no_tumor"),
        np.array([k for k in range(4) if TUMOUR_OR_NO_TUMOUR[k] == 0])[np.arange(80) // 2 % 3],
    )
    whose = np.repeat(np.arange(80), np.where(quiet, 9, np.where(opinion < 0, 2, 6)))
    truth = (np.where(quiet, 3, 0.5) + opinion)[whose] + 0.3 * rng.normal(size=whose.size)
    logits = np.where(np.arange(4) == labels[whose][:, None], truth[:, None], 0)
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels[whose], whose


def kept_by_kind(limits_of, level=0.9, seeds=2000):
    """Return how often sets hold the truth in a new group, by kind, and how far the mean may be off
    by chance; the other 39 groups of its kind are known."""
    held = {0: [], 1: []}
    for seed in range(seeds):
        p, labels, groups = uneven_answers(seed)
        new = groups == 78 + seed % 2
        kept_sets = p[new] >= limits_of(
            p[~new], labels[~new], groups[~new], level
        )  # the likeliest earns nothing here
        held[TUMOUR_OR_NO_TUMOUR[labels[new][0]]].append(
            kept_sets[np.arange(new.sum()), labels[new]].mean()
        )
    return {
        kind: (np.mean(values), np.std(values) / np.sqrt(len(values)))
        for kind, values in held.items()
    }


def test_both_kinds_keep_their_promise_on_new_groups():
    for mean, off in kept_by_kind(lowest_threshold).values():
        assert mean >= 0.9 - 3 * off
        assert mean <= 0.9 + 1 / 40 + 3 * off, "a promise that is kept by saying nothing is none"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, y, g, level: lowest_threshold(p, y, g, level, (0, 0, 0, 0)),
        lambda p, y, g, level: lowest_threshold(p, y, np.arange(len(y)), level),
        lambda p, y, g, level: lowest_threshold(p, y, g, level - 0.05),
    ],
    ids=["one limit", "by slice", "a lower level"],
)
def test_limits_that_are_not_so_fitted_break_it(wrong):
    assert any(mean < 0.9 - 3 * off for mean, off in kept_by_kind(wrong).values())


def test_left_out_sets_never_see_their_group():
    p, labels, groups = made_answers(40, sure=1.0)
    table = pd.DataFrame(p, columns=[f"p_{name}" for name in CLASSES]).assign(
        **{"class": np.array(CLASSES)[labels], "group": groups.astype(str)}
    )
    before = cross_fitted_sets(table, "tumour or not", 0.8)
    spoilt = table.copy()
    own = groups == 5
    spoilt.loc[own, "class"] = CLASSES[(labels[own][0] + 1) % 4]  # a wrong label for one group
    assert (cross_fitted_sets(spoilt, "tumour or not", 0.8)[own] == before[own]).all()


def test_left_out_bands_never_see_their_group(validation, recorded):
    rows, curves = segmented_slices(*validation)
    before = cross_fitted_intervals(rows, curves, recorded["about"]["threshold"], ASYMMETRY)
    groups = rows["group"].unique()[:5]
    for group in groups:
        own = (rows["group"] == group).to_numpy()
        spoilt = cross_fitted_intervals(
            rows.assign(truth_px=rows["truth_px"].where(~own, 1e6)),
            curves,
            recorded["about"]["threshold"],
            ASYMMETRY,
        )
        assert (spoilt[own] == before[own]).all() and (spoilt[~own] != before[~own]).any(), (
            "others see it, itself does not"
        )


def test_a_class_set_names_the_likeliest_first():
    known = Uncertainty(
        {"0.95": [0.2, 0.2, 0.05, 0.2], "0.9": [0.5] * 4}, 0.95, (0.1, 0.9), 0.9, 8, ""
    )
    assert known.prediction_set([0.25, 0.35, 0.1, 0.3]) == (
        "meningioma",
        "pituitary",
        "glioma",
        "no_tumor",
    )
    assert known.prediction_set([0.25, 0.35, 0.1, 0.3], level=0.9) == ("meningioma",)
    assert known.prediction_set([0.25, 0.25, 0.25, 0.25], level=0.9) == CLASSES, (
        "nothing tells them apart"
    )
    assert known.prediction_set([0.1999996, 0.4, 0.0000004, 0.4]) == (
        "meningioma",
        "pituitary",
        "glioma",
    ), "limits have six digits"
    for level in (0.8, 90):
        with raises(ErrorCode.ARGUMENT_INVALID, level):
            known.prediction_set([0.25] * 4, level=level)


# ---- the band


def test_a_curve_counts_pixels():
    picture = np.random.default_rng(0).random((60, 70)).astype(np.float32)
    picture[:5] = sigmoid(0.5)  # a value that is a threshold itself does not lie above it
    assert area_curve(picture).tolist() == [
        int((picture > sigmoid(logit)).sum()) for logit in THRESHOLD_GRID
    ]


def test_reach_finds_where_the_area_passes_the_truth():
    for radius, shift in ((20, 1.1), (30, -2.3), (25, 0.0)):
        curve, truth = area_curve(slope(radius, shift)), disc(radius).sum()
        down, up = (side[0] for side in matching_thresholds(curve[None], np.array([truth])))
        assert abs(down - shift) <= 0.5 and abs(up - shift) <= 0.5 and down <= up
        assert curve[THRESHOLD_GRID == down][0] >= truth >= curve[THRESHOLD_GRID == up][0]
    flat = np.zeros((1, len(THRESHOLD_GRID)), int)
    assert (
        matching_thresholds(flat, np.array([10]))[0] == -np.inf
        and matching_thresholds(flat + 99, np.array([10]))[1] == np.inf
    )


def test_a_step_is_what_the_slice_needed():
    curves = np.stack([area_curve(slope(30, shift)) for shift in (-2.0, -0.5, 0.5, 3.0)])
    need = required_margins(curves, np.full(4, disc(30).sum()), 0.5, lean=2.0)
    assert np.abs(need - [2.0, 0.5, 0.25, 1.5]).max() <= 0.3


@pytest.fixture(scope="module")
def maps():
    """Curves and true areas of 400 maps."""
    rng = np.random.default_rng(1)
    radii, shifts = rng.uniform(15, 45, 400), rng.normal(0, 0.8, 400)
    return np.stack([area_curve(slope(r, s)) for r, s in zip(radii, shifts)]), np.array(
        [disc(r).sum() for r in radii]
    )


@pytest.mark.parametrize("lean", [1.0, 2.0])
def test_a_band_from_maps_of_known_truth_holds_new_ones(maps, lean):
    (curves, truth), rng = maps, np.random.default_rng(1)
    need = required_margins(curves, truth, 0.3, lean)

    def holds(level):
        *known, new = rng.permutation(400)[:20]
        low, high = fit_area_thresholds(
            conformal_quantile(need[known], np.arange(19), level), 0.3, lean
        )
        assert THRESHOLD_GRID[low] < np.log(0.3 / 0.7) < THRESHOLD_GRID[high]
        return curves[new][high] <= truth[new] <= curves[new][low]

    bound = 0.9 - 3 * np.sqrt(0.09 / 1500)
    assert (
        np.mean([holds(0.9) for _ in range(1500)])
        >= bound
        > np.mean([holds(0.8) for _ in range(1500)])
    )


def test_an_interval_beyond_the_grid_is_refused():
    with raises(ErrorCode.DATA_INVALID):
        fit_area_thresholds(20.0, 0.3, 1.0)


def test_small_and_large_outlines_nest():
    known, likely = Uncertainty({}, 0.95, (0.2, 0.8), 0.9, 8, ""), slope(30, 0.4)
    small, large = known.masks(likely)
    assert (large | ~small).all() and known.areas(likely) == (
        small.sum(),
        large.sum(),
    ) == interval_areas(likely, known.area_thresholds)
    assert known.areas(np.zeros((9, 9), np.float32)) == (0, 0)


def test_warnings_name_their_reason():
    known, sure = (
        Uncertainty({"0.95": [0.1, 0.1, 0.05, 0.1]}, 0.95, (0.1, 0.9), 0.9, 4, ""),
        [0.97, 0.01, 0.01, 0.01],
    )
    firm = np.where(disc(20), np.float32(0.95), np.float32(0.01))
    drawn, faint = firm > 0.3, firm * np.float32(0.5)
    assert uncertainty_warnings(known, sure, firm, drawn) == ()
    named = uncertainty_warnings(known, [0.04, 0.8, 0.12, 0.04], firm, drawn)
    assert len(named) == 1 and "meningioma or no tumour" in named[0] and "95%" in named[0]
    wide = uncertainty_warnings(known, sure, faint, drawn)
    assert len(wide) == 1 and "factor of 4" in wide[0], "the small mask is empty"
    assert uncertainty_warnings(known, [0.01, 0.01, 0.97, 0.01], faint, drawn & False) == (), (
        "an outline that is not shown casts no doubt"
    )


def test_the_note_gives_promised_and_measured_coverage():
    known = Uncertainty({}, 0.95, (0.1, 0.9), 0.9, 4, "", {"band": 0.8086})
    assert "90% of slices of new patients; on the test it did in 81%." in known.area_note()
    assert "test" not in Uncertainty({}, 0.95, (0.1, 0.9), 0.9, 4, "").area_note()


# ---- reading and writing


def test_ranges_belong_to_their_weights(tmp_path):
    shutil.copytree(SHIPS, tmp_path / "model")
    assert load_uncertainty(tmp_path / "model") == load_uncertainty()
    manifest = read_model_manifest(tmp_path / "model")
    manifest["sha256"]["compact.onnx"] = "0" * 64  # packed anew from the same weights
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest))
    load_uncertainty.cache_clear()
    assert load_uncertainty(tmp_path / "model") == load_uncertainty()
    manifest["sha256"]["weights.npz"] = "0" * 64
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest))
    load_uncertainty.cache_clear()
    with raises(ErrorCode.MODEL_INVALID, "certainty.json"):
        load_uncertainty(tmp_path / "model")
    (tmp_path / "model" / "certainty.json").unlink()
    load_uncertainty.cache_clear()
    assert load_uncertainty(tmp_path / "model") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        '{"limits": 3}',
        '{"limits": {}, "level": 0.9, "band": 7, "band_level": 0.9, "wide": 8, '
        '"weights_sha256": ""}',
        *(
            {
                "limits": {"0.9": [0.1] * 4},
                "level": 0.9,
                "band": [0.1, 0.9],
                "band_level": 0.9,
                "wide": 8,
                "weights_sha256": "",
            }
            | spoilt
            for spoilt in (
                {"limits": {"0.9": [0.1] * 3}},
                {"limits": {"0.9": [0.1, 0.1, 0.1, float("nan")]}},
                {"limits": [0.1]},
                {"level": 0.8},
                {"band": [0.9, 0.1]},
                {"band": [0.1, 1.0]},
                {"band": [0.1, None]},
            )
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    shutil.copy(SHIPS / "manifest.json", tmp_path)
    (tmp_path / "certainty.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    load_uncertainty.cache_clear()
    with raises(ErrorCode.MODEL_INVALID, "certainty.json"):
        load_uncertainty(tmp_path)


def test_only_the_network_that_ships_has_the_ranges_that_ship():
    assert uncertainty_of(load_engine()) == load_uncertainty()
    for other in (
        print,
        SimpleNamespace(manifest={"members": []}),
        SimpleNamespace(manifest={"sha256": "abc"}),
        SimpleNamespace(manifest={"sha256": {"outline.onnx": "0"}}),
    ):
        assert uncertainty_of(other) is None


def test_the_shipped_ranges_on_phantoms():
    engine, known = load_engine(), load_uncertainty()
    for path in samples():
        if path.suffix == ".png":
            answer = engine(read_in_process(path))
            small, large = known.areas(answer.mask_probability)
            assert small <= answer.mask.sum() <= large
            assert (
                known.prediction_set(answer.probabilities)[0]
                == CLASSES[answer.probabilities.argmax()]
            )


def test_another_split_is_refused_and_so_is_a_choice_after_the_test(tmp_path, monkeypatch):
    write_phantoms(tmp_path / "data", n=12, seed=1)
    with raises(ErrorCode.SPLIT_INVALID, tmp_path):
        record_uncertainty(tmp_path / "data", SHIPS, tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"test": {"slices": 3}}')
    monkeypatch.setattr(
        "brain_tumor.data.splits.split_hash",
        lambda table: read_model_manifest(SHIPS)["split_sha256"],
    )
    with raises(ErrorCode.FILE_EXISTS):
        record_uncertainty(tmp_path / "data", SHIPS, tmp_path / "run")
    for role in ("test", "train"):
        table = read_data(tmp_path / "data")
        slices, curves = predict_slices(table.head(2).assign(role=role), load_engine())
        with raises(ErrorCode.SPLIT_INVALID):
            fit_uncertainty(slices, curves, 0.3)


def test_a_test_is_evaluated_once(tmp_path, recorded, root):
    shutil.copytree(root / "runs" / "certainty", tmp_path / "run")
    with raises(ErrorCode.FILE_EXISTS, tmp_path / "run"):
        score_uncertainty(tmp_path, SHIPS, tmp_path / "run")
    about = recorded["about"] | {"test": None}
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    shutil.copytree(SHIPS, tmp_path / "model")
    with raises(ErrorCode.RUN_INVALID):
        write_coverage(tmp_path / "model", tmp_path / "run")


def without_test(run, **facts):
    """A run folder as it is before the test is asked."""
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(
        json.dumps({key: value for key, value in about.items() if key != "test"} | facts)
    )


def test_a_second_fit_keeps_the_record_of_test_evaluations(tmp_path, validation, recorded, root):
    shutil.copytree(root / "runs" / "certainty", tmp_path / "run")
    earlier = recorded["about"].get("tests_before", [])
    for times in (1, 2):
        write_uncertainty(*validation, read_model_manifest(SHIPS), tmp_path / "run")
        about = json.loads((tmp_path / "run" / "run.json").read_text())
        assert (
            "test" not in about
            and about["tests_before"]
            == past_test_evaluations(tmp_path / "run")
            == earlier + [recorded["about"]["test"]] * times
        )
        with raises(ErrorCode.FILE_EXISTS, tmp_path / "run"):
            score_uncertainty(tmp_path, SHIPS, tmp_path / "run")
        add_test_rows(
            *(recorded[name].query("role == 'test'") for name in ("slices", "areas")),
            tmp_path / "run",
        )
    assert (
        read_uncertainty_run(tmp_path / "run")["about"]["test"] == recorded["about"]["test"]
        and past_test_evaluations(tmp_path / "nowhere") == []
    )


def test_a_test_without_tumours_is_recorded(tmp_path, recorded, root):
    shutil.copytree(root / "runs" / "certainty", tmp_path / "run")
    without_test(tmp_path / "run")
    healthy = recorded["slices"].query("role == 'test' and `class` == 'no_tumor'")
    found = add_test_rows(healthy, recorded["areas"].head(0), tmp_path / "run")
    assert found["about"]["test"]["held"] == {
        "no_tumor": recorded["about"]["test"]["held"]["no_tumor"]
    } and past_test_evaluations(tmp_path / "run")
    with raises(ErrorCode.DATA_MISSING, "test"):
        interval_coverage_table(found)


def test_a_later_failure_does_not_hide_that_the_test_was_evaluated(
    tmp_path, recorded, root, monkeypatch
):
    shutil.copytree(root / "runs" / "certainty", tmp_path / "run")
    without_test(tmp_path / "run")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("brain_tumor.io.files.write_table", full)
    with pytest.raises(OSError):
        add_test_rows(
            *(recorded[name].query("role == 'test'") for name in ("slices", "areas")),
            tmp_path / "run",
        )
    with raises(ErrorCode.FILE_EXISTS, tmp_path / "run"):
        score_uncertainty(tmp_path, SHIPS, tmp_path / "run")


def test_slices_without_masks_are_predicted_and_give_no_interval(tmp_path):
    write_phantoms(tmp_path, n=12, seed=1, size=96)
    table = read_data(tmp_path).assign(role="validation", mask=None)
    slices, curves = predict_slices(table[table["class"] == "no_tumor"], load_engine())
    assert (
        list(curves.columns[3:]) == list(map(str, THRESHOLD_GRID))
        and slices["truth_px"].isna().all()
        and slices["truth_px"].dtype == float
    )
    with raises(ErrorCode.DATA_INVALID):
        fit_uncertainty(slices, curves, 0.3)


def test_the_coverage_on_the_test_is_written_beside_the_model(tmp_path, recorded, root):
    shutil.copytree(SHIPS, tmp_path / "model")
    ships = json.loads((SHIPS / "certainty.json").read_text())
    (tmp_path / "model" / "certainty.json").write_text(
        json.dumps({key: value for key, value in ships.items() if key != "held"})
    )
    load_uncertainty.cache_clear()
    assert load_uncertainty(tmp_path / "model").coverage == {}
    write_coverage(tmp_path / "model", root / "runs" / "certainty")
    assert (
        load_uncertainty(tmp_path / "model").coverage
        == recorded["about"]["test"]["held"]
        == ships["held"]
    )
    assert json.loads((tmp_path / "model" / "certainty.json").read_text()) == ships


# ---- calibration


def test_bins_hold_equally_many_and_add_up():
    rng = np.random.default_rng(0)
    said, groups = rng.uniform(0.5, 1, 500), rng.integers(0, 50, 500)
    right = rng.random(500) < said
    found = calibration_bins(said, right, groups, 10)
    assert (
        (found["slices"] == 50).all()
        and np.average(found["right"]) == pytest.approx(right.mean())
        and np.average(found["said"]) == pytest.approx(said.mean())
    )
    assert ((found["low"] <= found["right"]) & (found["right"] <= found["high"])).all()


def test_groups_that_fail_together_widen_a_bin():
    said, right = np.full(200, 0.9), np.repeat([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], 20)
    whole = calibration_bins(said, right, np.repeat(np.arange(10), 20), 1).iloc[0]
    alone = calibration_bins(said, right, np.arange(200), 1).iloc[0]
    assert whole["high"] - whole["low"] > 3 * (alone["high"] - alone["low"])


# ---- what is recorded


def test_what_ships_is_what_validation_chose(validation, recorded):
    about, ships = recorded["about"], json.loads((SHIPS / "certainty.json").read_text())
    chosen = fit_uncertainty(*validation, about["threshold"])
    assert chosen == {key: about[key] for key in chosen} == {key: ships[key] for key in chosen}
    manifest = read_model_manifest(SHIPS)
    assert about["weights_sha256"] == ships["weights_sha256"] == manifest["sha256"]["weights.npz"]
    assert (
        about["split_sha256"] == manifest["split_sha256"]
        and about["threshold"] == manifest["threshold"]
    )
    assert ships["held"] == about["test"]["held"]


def test_the_band_brackets_nine_in_ten_on_validation(validation, recorded):
    rows, curves = segmented_slices(*validation)
    inside = add_interval_areas(recorded, "validation")["inside"]
    by_group = inside.groupby(rows["group"]).mean().mean()
    assert by_group >= AREA_LEVEL and inside.mean() >= AREA_LEVEL
    low, high = (
        sigmoid(THRESHOLD_GRID[k])
        for k in fit_area_thresholds(
            conformal_quantile(
                required_margins(
                    curves, rows["truth_px"].to_numpy(), recorded["about"]["threshold"], ASYMMETRY
                ),
                rows["group"].to_numpy(str),
                AREA_LEVEL,
            ),
            0.3,
            ASYMMETRY,
        )
    )
    assert recorded["about"]["band"] == pytest.approx([low, high], abs=1e-6)
    unseen = cross_fitted_intervals(rows, curves, recorded["about"]["threshold"], ASYMMETRY)
    assert (
        pd.Series((unseen[:, 0] <= rows["truth_px"]) & (rows["truth_px"] <= unseen[:, 1]))
        .groupby(rows["group"])
        .mean()
        .mean()
        >= AREA_LEVEL
    )


def test_recorded_answers_are_those_of_the_model_card(recorded, root):
    scored = pd.read_csv(root / "runs" / "compact" / "predictions.csv")
    both = (
        recorded["slices"]
        .query("role == 'test'")
        .merge(scored, on=["source", "image"], suffixes=("", "_card"), validate="1:1")
    )
    assert len(both) == len(scored) == recorded["about"]["test"]["slices"] > 600
    for name in CLASSES:
        assert np.abs(both[f"p_{name}"] - both[f"p_{name}_card"]).max() < 1e-4
    named = slice_arrays(both)[0].argmax(1) != CLASSES.index("no_tumor")
    assert (both["found_px"] * named - both["found_px_card"]).abs().max() <= 2 and both[
        "truth_px"
    ].dropna().equals(both["truth_px_card"].dropna())
    p, labels, _ = slice_arrays(recorded["slices"].query("role == 'test'"))
    assert calibration_error(p, labels) == pytest.approx(
        json.loads((SHIPS / "results.json").read_text())["calibration_error"], abs=1e-3
    )


def test_the_shipped_network_still_predicts_what_is_recorded(validation, all_sources):
    from brain_tumor.data.sources import slices_of_model

    table = slices_of_model(all_sources, read_model_manifest(SHIPS))
    table = table[table["role"] == "validation"].iloc[::60]
    slices, curves = predict_slices(table, load_engine())
    for found, known in zip((slices, curves), validation):
        both = found.merge(known, on=["source", "image"], suffixes=("", "_known"), validate="1:1")
        assert len(both) == len(found) > 3
        for name in found.columns.difference(
            ["source", "image", "class", "group", "role", "plane", "disputed"]
        ):
            assert np.allclose(
                both[name].astype(float),
                both[f"{name}_known"].astype(float),
                rtol=0,
                atol=2 if name[-1] in "x05" else 1e-3,
                equal_nan=True,
            ), name


def test_no_group_is_in_two_subsets_and_no_path_is_recorded(recorded):
    slices = recorded["slices"]
    sides = [set(slices.loc[slices["role"] == role, "group"]) for role in ("validation", "test")]
    assert (
        not sides[0] & sides[1]
        and set(slices["role"]) == {"validation", "test"}
        and not slices["image"].str.startswith("/").any()
    )


def test_held_figures_are_those_of_the_tables(recorded):
    held = recorded["about"]["test"]["held"]
    assert held == coverage_figures(recorded) and set(held) == {"tumour", "no_tumor", "band"}
    p, labels, groups = slice_arrays(recorded["slices"].query("role == 'test'"))
    kept_sets, quiet = (
        prediction_sets(p, np.array(recorded["about"]["limits"]["0.95"]))[
            np.arange(len(labels)), labels
        ],
        labels == CLASSES.index("no_tumor"),
    )
    for name, rows in (("tumour", ~quiet), ("no_tumor", quiet)):
        assert held[name] == pytest.approx(
            np.mean([kept_sets[rows & (groups == group)].mean() for group in set(groups[rows])]),
            abs=1e-4,
        )
    assert set_coverage_table(recorded)["held"].iloc[0] == pytest.approx(
        np.mean([kept_sets[groups == group].mean() for group in set(groups)])
    )
    drawn = add_interval_areas(recorded)
    assert held["band"] == pytest.approx(
        np.mean([part["inside"].mean() for _, part in drawn.groupby("group")]), abs=1e-4
    )
    assert interval_coverage_table(recorded)["held_slices"].iloc[0] == pytest.approx(
        ((drawn["small"] <= drawn["truth_px"]) & (drawn["truth_px"] <= drawn["large"])).mean()
    )


def test_sets_hold_ninety_per_cent_of_the_test(recorded):
    for level in ("0.9", "0.95"):
        table = set_coverage_table(recorded, float(level)).set_index("of")
        assert (
            table.loc["all", "held"] >= 0.9
            and table.loc["all", "held_slices"] >= 0.9
            and table.loc["no tumour", "held"] >= 0.9
        )
        assert table.loc["tumour", "held_high"] >= float(level), (
            "a promise that is broken beyond chance must be told in the chapter"
        )
    with raises(ErrorCode.ARGUMENT_INVALID, 0.8):
        set_coverage_table(recorded, 0.8)


def test_predictions_with_a_warning_are_wrong_more_often(recorded):
    for role in ("validation", "test"):
        table = warning_table(recorded, role).set_index("reason")
        assert (
            table.loc["any doubt", "wrong"] > 5 * table.loc["no doubt", "wrong"]
            and table.loc["any doubt", "of_all_wrong"] > 0.5
            and table.loc["any doubt", "share"] < 0.4
        )
    validation = (recorded["slices"]["role"] == "validation").sum()
    assert calibration_table(recorded, 50)["slices"].iloc[0] == validation


def test_more_scaling_is_worth_nothing_on_validation(validation):
    p, labels, groups = slice_arrays(validation[0])
    worth = compare_scalings(np.log(np.maximum(p, 1e-6)), labels, groups)
    assert min(worth, key=worth.get) == "as they are", "it was fitted on all of these groups"
    assert (
        worth["temperature and offsets"] > worth["temperature"] - 0.005
        and worth["vector scaling"] > worth["temperature"]
    )


def test_scalings_are_means_over_groups():
    p, labels, groups = made_answers(45, 1, sure=1.0)
    logits, copies = np.log(p), np.where(np.arange(45) < 20, 7, 1)
    alone, many = (
        compare_scalings(logits, labels, groups),
        compare_scalings(*(np.repeat(values, copies, 0) for values in (logits, labels, groups))),
    )
    assert (
        many["as they are"]
        == pytest.approx(alone["as they are"])
        == pytest.approx(-np.log(p[np.arange(45), labels]).mean())
    )


def test_places_find_a_band_in_the_grid(recorded):
    assert all(
        grid_indices([round(float(sigmoid(THRESHOLD_GRID[k])), 6) for k in pair]) == pair
        for pair in [(0, 56), (13, 41), (27, 28)]
    )
    low, high = grid_indices(recorded["about"]["band"])
    assert sigmoid(THRESHOLD_GRID[[low, high]]) == pytest.approx(
        recorded["about"]["band"], abs=1e-6
    )
