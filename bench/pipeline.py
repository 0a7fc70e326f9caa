"""Images a second on the way to a network: `pipeline.stream` against the thesis' way, Keras'
`ImageDataGenerator` reading files, at 299 x 299 in batches of 32, every picture disturbed. All ways
in turns in one run (`make bench`).

    python bench/pipeline.py            some minutes; the record is runs/bench/pipeline.json
    python bench/pipeline.py --quick    a first look; the record is out/bench/pipeline.json

What counts is the ratio within a round, so that another program on the machine slows all sides
alike."""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.run import CACHE, ROOT, judge, shown, summary, surroundings, turns  # noqa: E402

if TYPE_CHECKING:
    import pandas as pd

SIDE, BATCH = 299, 32
OURS, THEIRS = "stream", "ImageDataGenerator, from files"


@dataclass(frozen=True)
class Settings:
    """How much is done."""

    rounds: int = 30
    pictures: int = 96  # files in the folder
    stored: int = 512  # their side


QUICK = Settings(rounds=3, pictures=32)


def make_pictures(folder: Path, how: Settings) -> "pd.DataFrame":
    """Phantoms as JPEG in colour, as Kaggle's pictures are.

    Written once. Columns: filename, class.
    """
    import cv2
    import pandas as pd

    from brain_tumor.imaging.phantoms import phantoms
    from brain_tumor.io.files import write_whole
    from brain_tumor.io.scan import CLASSES

    names = [f"{number:03d}.jpg" for number in range(how.pictures)]
    if not all((folder / name).is_file() for name in names):
        for name, one in zip(names, phantoms(how.pictures, 1, how.stored)):
            with write_whole(folder / name) as beside:
                cv2.imwrite(str(beside), cv2.merge([one.pixels] * 3))
    return pd.DataFrame(
        {
            "filename": names,
            "class": [CLASSES[number % len(CLASSES)] for number in range(how.pictures)],
        }
    )


def thesis_generator():
    """The thesis' generator, value by value (section 3.5), with its division by 255."""
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(
        rescale=1 / 255,
        rotation_range=10,
        width_shift_range=0.1,
        height_shift_range=0.1,
        zoom_range=0.1,
        horizontal_flip=True,
        brightness_range=[0.8, 1.2],
    )


def ways(folder: Path, table: "pd.DataFrame") -> tuple[dict, float]:
    """Each way as a function of the batch number that makes one batch.

    And the seconds that reading all into memory took.
    """
    from brain_tumor.data.datasets import read_pixels_8bit
    from brain_tumor.data.loading import epoch_stream
    from brain_tumor.imaging.preprocessing import squeeze_square
    from brain_tumor.io.scan import CLASSES

    begun = time.perf_counter()
    grey = np.stack(
        [
            np.round(
                255 * squeeze_square(read_pixels_8bit(folder / name) / np.float32(255), SIDE)[0]
            )
            for name in table["filename"]
        ]
    ).astype(np.uint8)
    seconds = time.perf_counter() - begun
    colour, labels = np.repeat(grey[..., None], 3, -1), table["class"].map(CLASSES.index).to_numpy()
    files = thesis_generator().flow_from_dataframe(
        table, folder, target_size=(SIDE, SIDE), batch_size=BATCH, shuffle=False, seed=0
    )
    arrays = thesis_generator().flow(
        colour, np.eye(len(CLASSES))[labels], batch_size=BATCH, shuffle=False, seed=0
    )
    made = {
        THEIRS: files,
        "ImageDataGenerator, from memory": arrays,
        OURS: epoch_stream(grey, labels, batch=BATCH),
        "stream, one thread": epoch_stream(grey, labels, batch=BATCH, threads=1),
        "stream, colour": epoch_stream(colour, labels, batch=BATCH),
    }
    return {
        name: lambda number, data=data: data[number % len(data)] for name, data in made.items()
    }, seconds


def measure(how: Settings, made: dict) -> dict[str, list[float]]:
    """Images a second of each way in each round.

    Before it, one batch of each that doesn't count.
    """
    for make in made.values():
        make(0)
    found = {name: [] for name in made}
    for number in turns(how.rounds, "pipeline"):
        for name, make in made.items():
            count = 4 if name.startswith("stream") else 1
            begun = time.perf_counter()
            images = sum(len(make(number * count + i)[0]) for i in range(count))
            found[name].append(images / (time.perf_counter() - begun))
    return found


def ratios(above: list[float], below: list[float]) -> dict:
    """Median of the rounds' ratios, and the range of the middle 80 %."""
    pairs = np.divide(above, below)
    return {
        "ratio": median(pairs.tolist()),
        "lowest": float(np.quantile(pairs, 0.1)),
        "highest": float(np.quantile(pairs, 0.9)),
    }


def run(how: Settings, folder: Path) -> dict:
    """The whole record."""
    record = {
        "settings": vars(how) | {"side": SIDE, "batch": BATCH},
        "surroundings": surroundings(),
    }
    made, seconds = ways(folder, make_pictures(folder, how))
    speed = measure(how, made)
    table = [
        judge(
            "images a second, times those of the thesis' way",
            ratios(speed[OURS], speed[THEIRS]),
            least=3,
            aim=6,
        ),
        judge(
            "  the same, its generator given arrays in memory, too",
            ratios(speed[OURS], speed["ImageDataGenerator, from memory"]),
        ),
        judge(
            "  the same, ours with one thread", ratios(speed["stream, one thread"], speed[THEIRS])
        ),
        judge(
            "  the same, ours with pictures kept in colour",
            ratios(speed["stream, colour"], speed[THEIRS]),
        ),
    ]
    return record | {
        "images_a_second": {name: summary(values) for name, values in speed.items()},
        "reading_once_images_a_second": how.pictures / seconds,
        "table": table,
    }


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--out", type=Path, help="the record to write")
    given = parser.parse_args(words)
    how = QUICK if given.quick else Settings()
    record = run(how, CACHE / f"pictures-{how.pictures}-{how.stored}")
    from brain_tumor.io.files import write_json

    write_json(
        given.out or (CACHE if given.quick else ROOT / "runs" / "bench") / "pipeline.json", record
    )
    print("\n".join(map(shown, record["table"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
