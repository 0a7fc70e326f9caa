"""Drawn outlines, the same wherever they are drawn: what other libraries were asked about, and what they are asked about in the tests."""

from collections.abc import Iterator

import cv2
import numpy as np

TOLERANCE = 2.0  # mm


def blob(rng: np.random.Generator) -> np.ndarray:  # 96 x 80 bool
    mask = np.zeros((96, 80), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        centre, axes = rng.integers((20, 25), (60, 70)).tolist(), rng.integers(3, 18, 2).tolist()
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return mask > 0


def pairs(
    count: int = 24,
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:  # found, truth, spacing in mm
    for number in range(count):
        rng = np.random.default_rng([7, number])
        yield blob(rng), blob(rng), (float(rng.uniform(0.4, 1.2)), float(rng.uniform(0.4, 1.2)))
