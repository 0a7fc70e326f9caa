"""Where does the heat lie on patients' slices? Asked of validation; the test is left alone.

    python -m bench.explanation DATA runs/bench/explanation.json

DATA is the folder of the public sets. Every slice of figshare's validation with a drawn outline is
asked."""

import sys

import cv2
import numpy as np


def where(heat: np.ndarray, mask: np.ndarray) -> dict:
    """Hottest pixel in the outline, or within a sixteenth of the picture from it.

    Heat in the outline against the whole picture's.
    """
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    near = (
        cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=mask.shape[0] // 16)
        > 0
    )
    return {
        "peak_inside": bool(mask[y, x]),
        "peak_near": bool(near[y, x]),
        "by_chance_near": float(near.mean()),
        "density": float(heat[mask].mean() / max(heat.mean(), 1e-9)),
    }


def main(data: str, out: str) -> None:
    import pandas as pd

    from brain_tumor.data.datasets import read_pixels_8bit
    from brain_tumor.data.splits import read_data, split_hash
    from brain_tumor.inference.engines import load_engine
    from brain_tumor.inference.explanation import explain
    from brain_tumor.io.decode import read_in_process
    from brain_tumor.io.files import write_json
    from brain_tumor.io.scan import CLASSES
    from brain_tumor.metrics import mean_interval
    from brain_tumor.training.loop import describe_environment

    everything, engine, rows = read_data(data, copies=True), load_engine("compact"), []
    table = everything[
        (everything["source"] == "figshare")
        & (everything["role"] == "validation")
        & everything["mask"].notna()
    ]
    for slice_ in table.to_dict("records"):
        scan, mask = read_in_process(slice_["path"]), read_pixels_8bit(slice_["mask"]) > 127
        said = CLASSES[int(engine(scan).probabilities.argmax())]
        rows += [
            where(explain(scan, engine, said, method).heat, mask)
            | {"method": method, "right": said == slice_["class"], "group": slice_["group"]}
            for method in engine.maps
        ]
    found, summary = pd.DataFrame(rows), []
    for (method, right), part in found.groupby(["method", "right"]):
        figures = {
            name: dict(
                zip(
                    ("value", "low", "high"),
                    np.round(mean_interval(part[name], part["group"]), 4).tolist(),
                )
            )
            for name in ("peak_inside", "peak_near", "by_chance_near", "density")
        }
        summary.append(
            {
                "method": method,
                "class_right": bool(right),
                "slices": len(part),
                "groups": part["group"].nunique(),
            }
            | figures
        )
    write_json(
        out,
        {
            "engine": engine.info["sha256"],
            "split": split_hash(everything),
            "role": "validation",
            "rows": summary,
            "surroundings": describe_environment(),
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
