"""Pictures that look like heads, as many as are asked for, made one after the other:

For measuring how the search for copies grows.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from bench.run import CACHE

SIDE, BASES = 128, 300


def bases(count: int = BASES, side: int = SIDE) -> np.ndarray:
    """Phantom slices (count, side, side) uint8 that all pictures start from.

    Drawn once, which takes a minute, and kept in out/bench.
    """
    from brain_tumor.imaging.phantoms import phantoms
    from brain_tumor.io.files import write_whole

    file = CACHE / f"phantoms-{count}-{side}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(file) as beside, open(beside, "wb") as stream:
            np.save(stream, np.stack([one.pixels for one in phantoms(count, 5, side)]))
    return np.load(file)


def smooth(rng: np.random.Generator, knots: int, side: int, depth: int = 1) -> np.ndarray:
    """A smooth random field (side, side, depth) with standard deviation about 1."""
    field = rng.standard_normal((knots, knots, depth)).astype(np.float32)
    return cv2.resize(field, (side, side), interpolation=cv2.INTER_CUBIC).reshape(side, side, depth)


def picture(base: np.ndarray, number: int, seed: int = 0) -> np.ndarray:
    """The picture of that number (side, side) uint8:

    A phantom bent, with texture and blobs of its own.
    """
    rng, side = np.random.default_rng([seed, number]), base.shape[1]
    head = base[rng.integers(len(base))]
    y, x = np.mgrid[:side, :side].astype(np.float32)
    bend = smooth(rng, 5, side, 2) * (0.03 * side)
    out = cv2.remap(
        head, x + bend[..., 0], y + bend[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    ).astype(np.float32)
    inside = out > 12
    out += inside * 16 * (smooth(rng, 10, side) + smooth(rng, 24, side))[..., 0]
    for _ in range(5):
        centre, axes = (
            rng.integers(side // 4, 3 * side // 4, 2).tolist(),
            rng.integers(3, side // 10, 2).tolist(),
        )
        blob = cv2.ellipse(
            np.zeros((side, side), np.float32),
            centre,
            axes,
            float(rng.uniform(0, 180)),
            0,
            360,
            1.0,
            -1,
        )
        out += inside * cv2.GaussianBlur(blob, (0, 0), 1.5) * rng.uniform(-70, 70)
    return np.clip(out, 0, 255).astype(np.uint8)


WAYS = ("crop", "jpeg 30", "brighter", "darker", "half size", "mirrored", "all")


def spoilt(original: np.ndarray, way: str, rng: np.random.Generator) -> np.ndarray:
    """A copy as it comes about:

    Cropped by up to a tenth of each side's length, saved at JPEG quality 30, 20 % brighter or
    darker, halved, mirrored.
    """
    out = original
    if way in ("crop", "all"):
        size = np.array(out.shape)
        left = np.round(size * (1 - rng.uniform(0, 0.1, 2))).astype(int)
        y, x = (int(rng.integers(0, room + 1)) for room in size - left)
        out = out[y : y + left[0], x : x + left[1]]
    if way in ("brighter", "darker", "all"):
        light = {"brighter": 1.2, "darker": 0.8}.get(way) or float(rng.choice([0.8, 1.2]))
        out = np.clip(np.round(out * np.float32(light)), 0, 255).astype(np.uint8)
    if way in ("half size", "all"):
        out = cv2.resize(out, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    if way in ("mirrored", "all"):
        out = out[:, ::-1]
    if way in ("jpeg 30", "all"):
        out = cv2.imdecode(
            cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_GRAYSCALE
        )
    return np.ascontiguousarray(out)


def planted_at(count: int, copies: int, seed: int = 0) -> dict[int, tuple[int, str]]:
    """Place of each copy -> place of its original, and the way it was spoilt.

    Originals and copies are all different places.
    """
    places = np.random.default_rng([seed, count]).permutation(count)[: 2 * copies].tolist()
    return {
        copy: (original, WAYS[number % len(WAYS)])
        for number, (copy, original) in enumerate(zip(places[:copies], places[copies:]))
    }


def stream(
    count: int, copies: int, seed: int = 0, base: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """All pictures in order, with copies among them, one at a time."""
    base, planted = bases() if base is None else base, planted_at(count, copies, seed)
    for number in range(count):
        original, way = planted.get(number, (number, None))
        one = picture(base, original, seed)
        yield one if way is None else spoilt(one, way, np.random.default_rng([seed, 1, number]))
