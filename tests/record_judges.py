"""Record what MONAI and DeepMind's surface-distance say of some drawn outlines: python tests/record_judges.py, where both are installed (they aren't needed for anything else)."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import surface_distance
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from outlines import TOLERANCE, pairs


def judge(found: np.ndarray, truth: np.ndarray, spacing: tuple) -> dict:
    one = lambda mask: torch.from_numpy(mask[None, None].astype(np.float32))
    lengths = surface_distance.compute_surface_distances(truth, found, spacing)
    return {
        "hd95": float(
            compute_hausdorff_distance(
                one(found), one(truth), include_background=True, percentile=95, spacing=spacing
            )
        ),
        "nsd": float(
            compute_surface_dice(
                one(found), one(truth), [TOLERANCE], include_background=True, spacing=spacing
            )
        ),
        "hd95_lengths": float(surface_distance.compute_robust_hausdorff(lengths, 95)),
        "nsd_lengths": float(
            surface_distance.compute_surface_dice_at_tolerance(lengths, TOLERANCE)
        ),
    }


said = {
    "versions": {name: version(name) for name in ("monai", "Surface-Distance-Based-Measures")},
    "values": [judge(*pair) for pair in pairs()],
}
Path(__file__).with_name("data").joinpath("outline_judges.json").write_text(
    json.dumps(said, indent=1) + "\n", encoding="utf-8"
)
