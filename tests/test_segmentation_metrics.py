"""Segmentation metrics against other libraries and against geometry that is known."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from errors import raises
from outlines import TOLERANCE, kinds, pairs

from brain_tumor.io.errors import ErrorCode
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
def test_the_recorded_values_of_monai(number):
    found, truth, spacing = list(pairs())[number]
    ours, theirs = mask_scores(found, truth, spacing, TOLERANCE), JUDGES[number]
    assert ours["hd95"] == pytest.approx(theirs["hd95"], abs=1e-4)
    assert ours["nsd"] == pytest.approx(theirs["nsd"], abs=1e-6)


def itk_distances(found, truth, spacing):
    """Distances between borders by SimpleITK; its Hausdorff filter measures from mask to mask."""
    sitk = pytest.importorskip("SimpleITK")
    images = [sitk.GetImageFromArray(np.pad(m, 1).astype(np.uint8)) for m in (found, truth)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    borders = [sitk.BinaryContour(image, fullyConnected=False) for image in images]
    maps = [
        sitk.SignedMaurerDistanceMap(
            border, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
        )
        for border in borders
    ]
    away = [np.abs(sitk.GetArrayFromImage(one)) for one in maps]
    on = [sitk.GetArrayFromImage(border) > 0 for border in borders]
    return away[1][on[0]], away[0][on[1]]


@pytest.mark.parametrize("kind", ["blobs", "frame", "noise", "few"])
def test_simpleitk_finds_the_same_distances(kind):
    for found, truth, spacing in kinds(kind, 12):
        ours = mask_scores(found, truth, spacing, TOLERANCE)
        out, back = itk_distances(found, truth, spacing)
        assert len(out) == border_pixels(found).sum() and len(back) == border_pixels(truth).sum()
        near = (out <= TOLERANCE).sum() + (back <= TOLERANCE).sum()
        hd95 = max(np.percentile(out, 95), np.percentile(back, 95))
        assert ours["hd95"] == pytest.approx(hd95, abs=1e-4)
        assert ours["nsd"] == pytest.approx(near / (len(out) + len(back)), abs=1e-6)
        largest = max(map(np.max, border_distances(found, truth, spacing)))
        assert largest == pytest.approx(max(out.max(), back.max()), abs=1e-4)


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
        assert one["precision"] == two["recall"]
        names = ("dice", "iou", "accuracy", "hd95", "nsd")
        assert all(one[name] == pytest.approx(two[name]) for name in names)


def test_no_mask_is_further_off_than_a_missed_one():
    corner, far = np.zeros((50, 70), bool), np.zeros((50, 70), bool)
    corner[0, 0] = far[-1, -1] = True
    assert mask_scores(corner, far)["hd95"] < mask_scores(corner & False, far)["hd95"]


def test_a_table_keeps_every_row():
    found, truth, _ = zip(*pairs(6))
    found = [mask & False if number == 2 else mask for number, mask in enumerate(found)]
    rows = pd.DataFrame({"image": [f"{n}.png" for n in range(6)], "spacing_mm": 0.65})
    scored = score_masks(rows, found, truth)
    numbers = scored[[*MASK_METRICS, "area_true", "area_found"]].to_numpy()
    assert len(scored) == 6 and np.isfinite(numbers).all()
    assert scored["dice"][2] == 0 and scored["area_found"][2] == 0
    assert scored["hd95"][2] == pytest.approx(0.65 * np.hypot(96, 80))
    with raises(ErrorCode.ARGUMENT_INVALID, 6, 5):
        score_masks(rows, found[:5], truth)
    with raises(ErrorCode.SPACING_INVALID, "3.png"):
        score_masks(rows.assign(spacing_mm=[1, 1, 1, 0, 1, 1]), found, truth)
    with raises(ErrorCode.ARGUMENT_INVALID, 0):
        score_masks(rows[:0], [], [])
