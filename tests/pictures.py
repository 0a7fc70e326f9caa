"""Small generated images in every folder layout that the package reads."""

import numpy as np
from PIL import Image

from brain_tumor.data.figshare import write_mat

SMALL = np.random.default_rng(0).integers(0, 255, (48, 40)).astype(np.uint8)


def picture(path, size=(40, 48), value=None):
    """A picture of (width, height); its pixels differ from file to file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.as_posix())) if value is None else value
    pixels = np.random.default_rng(seed).integers(0, 255, size[::-1]).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(
    folder,
    names=("glioma", "meningioma", "notumor", "pituitary"),
    sides=("Training", "Testing"),
    each=3,
):
    for side in sides:
        for name in names:
            for number in range(each):
                picture(folder / side / name / f"{number}.png")
    return folder


def mat_set(folder, patients=("A1", "A1", "B2", "B2", "Ü3", "Ü3")):
    for number, patient in enumerate(patients, 1):
        write_mat(
            folder / f"{number}.mat",
            SMALL.astype(int) * 10 + number,
            SMALL > 200,
            ("glioma", "meningioma", "pituitary")[number % 3],
            patient,
        )
    return folder
