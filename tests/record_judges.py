"""Record MONAI's HD95 and NSD of some drawn masks: python tests/record_judges.py, with MONAI."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from outlines import TOLERANCE, pairs


def judge(found: np.ndarray, truth: np.ndarray, spacing: tuple) -> dict:
    masks = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (found, truth)]
    more = {"include_background": True, "spacing": spacing}
    return {
        "hd95": float(compute_hausdorff_distance(*masks, percentile=95, **more)),
        "nsd": float(compute_surface_dice(*masks, [TOLERANCE], **more)),
    }


recorded = {"versions": {"monai": version("monai")}, "values": [judge(*pair) for pair in pairs()]}
Path(__file__).with_name("data").joinpath("outline_judges.json").write_text(
    json.dumps(recorded, indent=1) + "\n", encoding="utf-8"
)
