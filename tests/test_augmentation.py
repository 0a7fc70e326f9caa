"""Augmentation: the thesis' limits, ImageDataGenerator as oracle, the layer on other backends."""

import os
import subprocess
import sys
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from errors import raises

from brain_tumor.imaging.augmentation import (
    AUGMENTATION_LIMITS,
    ThesisAugmentation,
    apply_change,
    augment_thesis,
    augmentation_layer,
    scale_changes,
)
from brain_tumor.imaging.phantoms import phantom
from brain_tumor.io.errors import ErrorCode

needs_keras = pytest.mark.skipif(
    find_spec("keras") is None, reason="Keras comes with the extra `workbook`"
)


@pytest.fixture(scope="module")
def slice_and_mask():
    made = phantom("glioma", plane="axial", seed=5, size=200)
    return made.pixels, np.where(made.mask, 255, 0).astype(np.uint8)


# ---- limits


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("rotation", 90, ("3.2.3", "90 degrees")),
        ("rotation", -120, ("3.2.3", "90 degrees")),
        ("zoom", 0.151, ("3.2.3", "15 %")),
        ("zoom", -0.2, ("3.2.3", "15 %")),
        ("brightness", 0.31, ("3.2.3", "30 %")),
        ("rotation", float("nan"), ()),
        ("zoom", float("inf"), ()),
        ("shift", -0.1, ("0 to 1",)),
        ("flip", 2, ("0 to 1",)),
    ],
)
def test_beyond_the_thesis_limits_raises_by_name(name, value, words):
    with raises(ErrorCode.ARGUMENT_INVALID, name, *words):
        ThesisAugmentation(**{name: value})


def test_up_to_the_limits_is_allowed():
    assert (
        ThesisAugmentation(
            rotation=89.9,
            zoom=AUGMENTATION_LIMITS["zoom"],
            brightness=AUGMENTATION_LIMITS["brightness"],
        ).rotation
        == 89.9
    )


def test_the_defaults_are_the_thesis_values():
    assert ThesisAugmentation() == ThesisAugmentation(
        rotation=10, shift=0.1, zoom=0.1, flip=0.5, brightness=0.2
    )


def test_draws_fill_the_bounds_and_stay_in_them():
    angle, right, down, wide, tall, mirror, brightness = scale_changes(
        np.random.default_rng(0).random((20_000, 7))
    )
    for values, low, high in (
        (np.rad2deg(angle), -10, 10),
        (right, -0.1, 0.1),
        (down, -0.1, 0.1),
        (wide, 0.9, 1.1),
        (tall, 0.9, 1.1),
        (brightness, 0.8, 1.2),
    ):
        assert low <= values.min() < low + 0.01 * (
            high - low
        ) and high >= values.max() > high - 0.01 * (high - low)
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
    assert set(mirror) == {-1, 1} and abs((mirror < 0).mean() - 0.5) < 0.02
    assert (
        abs(np.corrcoef([angle, right, down, wide, tall, mirror, brightness]) - np.eye(7)).max()
        < 0.03
    ), "each by itself"


# ---- geometry


@pytest.mark.parametrize("colours", [1, 3])
def test_pictures_are_those_of_image_data_generator(slice_and_mask, colours):
    ImageDataGenerator = pytest.importorskip(
        "tensorflow.keras.preprocessing.image"
    ).ImageDataGenerator

    judge = ImageDataGenerator(
        rotation_range=10,
        width_shift_range=0.1,
        height_shift_range=0.1,
        zoom_range=0.1,
        horizontal_flip=True,
        brightness_range=[0.8, 1.2],
    )
    picture = cv2.merge([slice_and_mask[0]] * colours) if colours == 3 else slice_and_mask[0]
    wanted_in = picture.astype(np.float32).reshape(*picture.shape[:2], colours)
    seen = set()
    for seed in range(30):
        drawn = judge.get_random_transform(wanted_in.shape, seed)
        change = (
            np.deg2rad(drawn["theta"]),
            drawn["tx"] / 200,
            drawn["ty"] / 200,
            drawn["zx"],
            drawn["zy"],
            -1 if drawn["flip_horizontal"] else 1,
            drawn["brightness"],
        )
        moved, found = apply_change(picture, (*change[:6], 1)), apply_change(picture, change)
        assert (
            np.abs(
                moved
                - judge.apply_transform(wanted_in, drawn | {"brightness": None}).reshape(
                    picture.shape
                )
            ).max()
            < 0.51
        ), "rounding alone"
        wanted = judge.apply_transform(wanted_in, drawn).reshape(
            picture.shape
        )  # cuts decimals off, twice
        assert found.dtype == np.uint8 and np.abs(found - wanted).max() <= 2
        assert np.abs(found.astype(float) - picture).mean() > 1, "it did something"
        seen.add(change[5])
    assert seen == {-1, 1}


def test_a_turn_goes_the_way_it_says_and_a_shift_its_number_of_pixels():
    spot = np.zeros((101, 101), np.uint8)
    spot[50, 80] = 255
    place = lambda change: np.argwhere(apply_change(spot, change, mask=True) > 0).mean(0)
    assert place((0, 10 / 101, 0, 1, 1, 1, 1)).tolist() == [50, 70] and place(
        (0, 0, 5 / 101, 1, 1, 1, 1)
    ).tolist() == [45, 80]
    assert place((0, 0, 0, 1, 1, -1, 1)).tolist() == [50, 20]
    turned = place((np.deg2rad(10), 0, 0, 1, 1, 1, 1)) - 50
    assert np.hypot(*turned) == pytest.approx(30, abs=1) and np.arctan2(
        turned[0], turned[1]
    ) == pytest.approx(-np.deg2rad(10), abs=0.03)
    disc = cv2.circle(np.zeros((101, 101), np.uint8), (50, 50), 20, 255, -1)
    grown = apply_change(disc, (0, 0, 0, 0.9, 1.1, 1, 1), mask=True) > 0
    assert grown.any(0).sum() == pytest.approx(41 / 0.9, abs=1.5) and grown.any(
        1
    ).sum() == pytest.approx(41 / 1.1, abs=1.5)


def test_pictures_that_are_not_square_and_masks_of_another_size():
    picture = np.random.default_rng(0).integers(0, 255, (60, 90)).astype(np.uint8)
    mirrored = apply_change(picture, (0.0, 0.0, 0.0, 1.0, 1.0, -1.0, 1.0))
    assert np.array_equal(mirrored, picture[:, ::-1])
    with raises(ErrorCode.MASK_INVALID, "(60, 89)", "(60, 90)"):
        augment_thesis(picture, picture[:, 1:], np.random.default_rng(0))


def test_same_generator_same_picture(slice_and_mask):
    first, second, other = (
        augment_thesis(*slice_and_mask, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert (
        np.array_equal(first[0], second[0])
        and np.array_equal(first[1], second[1])
        and not np.array_equal(first[0], other[0])
    )
    assert np.array_equal(
        augment_thesis(slice_and_mask[0], None, np.random.default_rng(1))[0], first[0]
    ), "a mask doesn't change the draw"


# ---- the layer

LAYER = """
import numpy as np, keras
from unittest import mock
from brain_tumor.imaging.augmentation import apply_change, augmentation_layer, scale_changes
rng = np.random.default_rng(0)
import cv2
picture = cv2.GaussianBlur(rng.integers(0, 255, (90, 90)).astype(np.uint8), (9, 9), 0)
mask = cv2.circle(np.zeros((90, 90), np.uint8), (40, 50), 20, 255, -1)
chances = rng.random((6, 7)).astype(np.float32)
batch = lambda one: np.repeat(one[None, ..., None], 6, 0).astype(np.float32)
to_numpy = keras.ops.convert_to_numpy
fixed = lambda shape, seed: keras.ops.convert_to_tensor(chances)
with mock.patch.object(keras.random, "uniform", fixed):
    layer = augmentation_layer(brightest=255)
    moved, masks = map(to_numpy, layer([batch(picture), batch(mask)], training=True))
for k in range(6):
    change = scale_changes(chances[k])
    assert np.abs(moved[k, ..., 0] - apply_change(picture, change)).max() <= 2
    assert (masks[k, ..., 0] != apply_change(mask, change, mask=True)).mean() < 0.002
    assert set(np.unique(masks)) == {0, 255}
layers = keras.layers
model = keras.Sequential([keras.Input((90, 90, 1)), augmentation_layer(seed=3),
                          layers.GlobalAveragePooling2D(), layers.Dense(1)])
still = model.predict(batch(picture) / 255, verbose=0)
assert np.abs(still - still[0]).max() < 1e-6, "predict leaves pictures alone"
model.compile("sgd", "mse")
model.fit(batch(picture) / 255, np.zeros(6), verbose=0)
print(keras.backend.backend())
"""


@needs_keras
@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_the_layer_does_the_same_on_every_backend_that_is_there(backend, root):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", LAYER],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == backend


@needs_keras
def test_the_layer_draws_anew_at_every_call(slice_and_mask):
    x = slice_and_mask[0][None, ..., None] / np.float32(255)
    layer = augmentation_layer(seed=1)
    assert not np.array_equal(layer(x, training=True), layer(x, training=True))
