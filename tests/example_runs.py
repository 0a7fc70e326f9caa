"""Segmentation runs of known truth, with no scan behind them."""

from pathlib import Path

import numpy as np
import pandas as pd

from brain_tumor.io.files import write_json, write_table
from brain_tumor.io.scan import CLASSES
from brain_tumor.segmentation.comparison import SEGMENTATION_NETWORKS


def example_scores(quality: float, seed: int, patients: int) -> pd.DataFrame:
    """Five slices a patient; patients differ, small tumours are harder, a few are missed."""
    own, shared = np.random.default_rng(seed), np.random.default_rng(99)
    number = np.repeat(np.arange(patients), 5)
    area = shared.lognormal(6, 0.8, len(number))
    centre = (
        quality
        + 0.08 * shared.normal(size=patients)[number]
        + 0.09 * (np.log(area) - 6)
        + 0.03 * own.normal(size=len(number))
    )
    overlap = np.where(own.random(len(number)) < 0.04, 0, np.clip(centre, 0.02, 0.99))
    area_found = np.where(overlap > 0, area * np.exp(0.2 * own.normal(size=len(number))), 0)
    return pd.DataFrame(
        {
            "source": "made up",
            "image": [f"{n}.png" for n in range(len(number))],
            "class": np.array(CLASSES)[np.array([0, 1, 3])[number % 3]],
            "group": [f"P{n:03d}" for n in number],
            "role": np.where(number % 2, "validation", "test"),
            "plane": np.array(["axial", "coronal", "sagittal"])[number % 3],
            "spacing_mm": 0.65,
            "dice": overlap,
            "iou": overlap / (2 - overlap),
            "accuracy": 0.99,
            "precision": overlap,
            "recall": overlap,
            "hd95": 40 * (1 - overlap),
            "nsd": overlap,
            "area_true": area,
            "area_found": area_found,
        }
    )


def example_history(quality: float) -> pd.DataFrame:
    """Eight epochs that rise smoothly."""
    curve = quality * (1 - 0.7 ** np.arange(1, 9))
    return pd.DataFrame(
        {
            "epoch": range(1, 9),
            "accuracy": 0.99,
            "dice_coef": curve,
            "learning_rate": 1e-3,
            "loss": 1 - curve,
            "val_accuracy": 0.99,
            "val_dice_coef": 0.95 * curve,
            "val_loss": 1 - 0.95 * curve,
            "val_dice": 0.93 * curve,
            "seconds": 1.0,
        }
    )


def write_example_segmentation_run(
    folder: str | Path,  # made
    network: str = "unet",  # a key of SEGMENTATION_NETWORKS
    quality: float = 0.75,  # mean Dice that the slices are drawn around
    seed: int = 0,  # of the network; the patients are the same for every seed
    patients: int = 40,  # half of them in the test
    protocol: str = "honest",  # or "thesis"
    **recipe,  # switches beside side, filters and seed
) -> Path:  # the folder
    """Write a run folder of known truth."""
    folder = Path(folder)
    write_table(example_scores(quality, seed, patients).round(5), folder / "outlines.csv")
    write_table(example_history(quality).round(5), folder / "history.csv")
    settings = {
        "network": network,
        "title": SEGMENTATION_NETWORKS[network].title,
        "task": "segmentation",
        "protocol": protocol,
        "provenance": f"made up, no scan behind it (protocol {protocol})",
        "recipe": {"side": 128, "filters": [16, 32], "seed": seed} | recipe,
        "parameters": 1000,
        "chosen_epoch": 8,
        "epochs_done": 8,
        "epochs_asked": 8,
        "cut": None,
        "finished": True,
    }
    write_json(folder / "run.json", settings)
    return folder
