"""Outline metrics against other libraries and against geometry that is known."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from outlines import TOLERANCE, pairs

from brain_tumor import BrainTumorError
from brain_tumor.segmentation.metrics import (
    MASK_METRICS,
    border_distances,
    border_pixels,
    mask_scores,
    score_masks,
)

JUDGES = json.loads(
    (Path(__file__).parent / "data" / "outline_judges.json").read_text(encoding="utf-8")
)["values"]


@pytest.mark.parametrize("number", range(len(JUDGES)))
def test_monai_says_the_same(number):
    found, truth, spacing = list(pairs())[number]
    ours, theirs = mask_scores(found, truth, spacing, TOLERANCE), JUDGES[number]
    assert ours["hd95"] == pytest.approx(theirs["hd95"], abs=1e-4)
    assert ours["nsd"] == pytest.approx(theirs["nsd"], abs=1e-6)


@pytest.mark.parametrize("number", range(len(JUDGES)))
def test_surface_distance_weighs_by_length_and_is_a_pixel_off_at_most(number):
    found, truth, spacing = list(pairs())[number]
    ours, theirs = mask_scores(found, truth, spacing, TOLERANCE), JUDGES[number]
    assert abs(ours["hd95"] - theirs["hd95_lengths"]) <= 1.5 * max(spacing)


def test_simpleitk_agrees_on_the_largest_distance():
    sitk = pytest.importorskip("SimpleITK")
    for found, truth, spacing in pairs(8):
        images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (found, truth)]
        for image in images:
            image.SetSpacing(spacing[::-1])
        judge = sitk.HausdorffDistanceImageFilter()
        judge.Execute(*images)
        assert max(map(np.max, border_distances(found, truth, spacing))) == pytest.approx(
            judge.GetHausdorffDistance(), abs=1e-4
        )


def test_brute_force_agrees():
    from scipy.spatial.distance import cdist

    for found, truth, spacing in pairs(4):
        away = cdist(
            np.argwhere(border_pixels(found)) * spacing, np.argwhere(border_pixels(truth)) * spacing
        )
        out, back = border_distances(found, truth, spacing)
        assert np.allclose(out, away.min(1)) and np.allclose(back, away.min(0))


def test_scores_are_symmetric_but_for_precision_and_recall():
    for found, truth, spacing in pairs(8):
        one, two = mask_scores(found, truth, spacing), mask_scores(truth, found, spacing)
        assert one["precision"] == two["recall"] and all(
            one[name] == pytest.approx(two[name])
            for name in ("dice", "iou", "accuracy", "hd95", "nsd")
        )


def test_no_outline_is_further_off_than_a_missed_one():
    corner, far = np.zeros((50, 70), bool), np.zeros((50, 70), bool)
    corner[0, 0] = far[-1, -1] = True
    assert mask_scores(corner, far)["hd95"] < mask_scores(corner & False, far)["hd95"]


def test_a_table_keeps_every_row():
    found, truth, _ = zip(*pairs(6))
    found = [mask & False if number == 2 else mask for number, mask in enumerate(found)]
    rows = pd.DataFrame({"image": [f"{n}.png" for n in range(6)], "spacing_mm": 0.65})
    scored = score_masks(rows, found, truth)
    assert (
        len(scored) == 6
        and np.isfinite(scored[[*MASK_METRICS, "area_true", "area_found"]].to_numpy()).all()
    )
    assert (
        scored["dice"][2] == 0
        and scored["area_found"][2] == 0
        and scored["hd95"][2] == pytest.approx(0.65 * np.hypot(96, 80))
    )
    with pytest.raises(BrainTumorError, match="6 rows, 5 found"):
        score_masks(rows, found[:5], truth)
    with pytest.raises(BrainTumorError, match="3.png: no size"):
        score_masks(rows.assign(spacing_mm=[1, 1, 1, 0, 1, 1]), found, truth)
    with pytest.raises(BrainTumorError, match="at least one"):
        score_masks(rows[:0], [], [])
