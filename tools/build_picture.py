"""Draw the picture on the first page from a bundled sample: python tools/build_picture.py

Left the phantom, in the middle the true outline of its tumour, right the mask.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from brain_tumor.imaging.preprocessing import head_box, stretch_intensity  # noqa: E402
from brain_tumor.imaging.samples import sample_truth, samples  # noqa: E402

SIDE, GAP = 320, 12
GREEN = (0, 215, 90)  # blue, green, red


def close_up(grey, mask):
    """The head alone, square and as bright as a reader would set it."""
    top, bottom, left, right = head_box(grey / np.float32(255), margin=0.03)
    half, row, column = (
        max(bottom - top, right - left) // 2,
        (top + bottom) // 2,
        (left + right) // 2,
    )
    window = np.s_[max(row - half, 0) : row + half, max(column - half, 0) : column + half]
    return (stretch_intensity(grey[window] / np.float32(255)) * 255).astype(np.uint8), mask[window]


def triptych(grey, mask):
    """Three pictures side by side: H x W uint8 and its bool mask -> SIDE x (3 SIDE + 2 GAP) x 3."""
    grey, mask = close_up(grey, mask)
    grey = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    plain = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    outlined = plain.copy()
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(outlined, contours, -1, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.drawContours(outlined, contours, -1, GREEN, 2, cv2.LINE_AA)
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    return np.hstack([plain, gap, outlined, gap, cv2.cvtColor(mask * 255, cv2.COLOR_GRAY2BGR)])


def main():
    path = next(path for path in samples() if sample_truth(path).tumor == "glioma")
    target = ROOT / "nbs" / "images" / "overlay.png"
    target.parent.mkdir(exist_ok=True)
    picture = triptych(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), sample_truth(path).mask)
    cv2.imwrite(str(target), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB from {path.name}")


if __name__ == "__main__":
    main()
