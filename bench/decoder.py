"""Measure what decoding in a process of its own costs, as ratios, both ways in turns in one run
(`make bench`).

python bench/decoder.py           a minute; the record is runs/bench/decoder.json
"""

import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench.run import compare, surroundings  # noqa: E402
from brain_tumor.io import decode, read  # noqa: E402


def files() -> dict:
    """A slice of 512 x 512 pixels in four files."""
    import numpy as np
    from dicoms import dicom, in_bytes
    from mutations import compressed, pillow
    from pydicom.uid import JPEG2000Lossless

    from brain_tumor.imaging.phantoms import phantom

    grey = phantom("glioma", size=512).pixels
    deep = grey.astype(np.uint16) * 16
    return {
        "DICOM": in_bytes(dicom(deep)),
        "DICOM, JPEG 2000": compressed(JPEG2000Lossless, deep),
        "TIFF": pillow(grey, "TIFF"),
        "TIFF, LZW": pillow(grey, "TIFF", compression="tiff_lzw"),
    }


def took(work) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def first(data: bytes, rounds: int) -> list[float]:
    """Seconds of the first file: a process is started for it."""
    spent = []
    for _ in range(rounds):
        read._decoder_pool.close()
        spent.append(took(lambda: read.read(data)))
    return spent


def measure(rounds: int = 60) -> dict:
    """For each kind of file: there against here, and the first against the following ones."""
    found = {}
    for name, data in files().items():
        for _ in range(5):
            decode.read_in_process(data), read.read(data)
        there, here = [], []
        for _ in range(rounds):
            here.append(took(lambda: decode.read_in_process(data)))
            there.append(took(lambda: read.read(data)))
        found[name] = {
            "bytes": len(data),
            "apart_against_here": compare(there, here),
            "milliseconds": {
                "apart": statistics.median(there) * 1e3,
                "here": statistics.median(here) * 1e3,
            },
        }
    data = files()["DICOM"]
    begin = first(data, 7)
    following = [took(lambda: read.read(data)) for _ in range(7)]
    found["the first file"] = {
        "first_against_following": compare(begin, following),
        "milliseconds": statistics.median(begin) * 1e3,
    }
    return found


def main() -> None:
    """Measure, print, record."""
    record = {"surroundings": surroundings(), "files": measure()}
    for name, line in record["files"].items():
        for what, value in line.items():
            if isinstance(value, dict) and "ratio" in value:
                print(
                    f"{name:18} {what.replace('_', ' '):26} {value['ratio']:8.1f}  "
                    f"({value['lowest']:.1f} to {value['highest']:.1f})"
                )
    path = ROOT / "runs" / "bench" / "decoder.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
