"""Pairs of drawn masks, the same on every machine, for comparing metrics with other libraries."""

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
    count: int = 24,  # of two blobs each
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:  # found, truth, mm
    for number in range(count):
        rng = np.random.default_rng([7, number])
        yield blob(rng), blob(rng), (float(rng.uniform(0.4, 1.2)), float(rng.uniform(0.4, 1.2)))


def kinds(
    kind: str,  # blobs; frame: blobs cut by the edge; noise; few: a handful of pixels
    count: int,  # of pairs
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:  # found, truth, mm
    for number in range(count):
        rng = np.random.default_rng([11, number])
        make = {
            "blobs": lambda: blob(rng),
            "frame": lambda: blob(rng)[20:60, 25:60],
            "noise": lambda: rng.random((40, 30)) < 0.3,
            "few": lambda: rng.random((40, 30)) < 0.004,
        }[kind]
        found, truth = make(), make()
        spacing = rng.uniform(0.4, 1.2, 2) if number % 2 else np.full(2, 0.65)
        if found.any() and truth.any():
            yield found, truth, tuple(map(float, spacing))
