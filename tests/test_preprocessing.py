"""Crops, squares, scaling, mapping back: geometry, Keras as oracle, broken files, public sets."""

import cv2
import numpy as np
import pandas as pd
import pytest
from errors import raises

from bench.thesis import BACKBONES
from brain_tumor.data.loading import known_masks, load_images, record_crops
from brain_tumor.data.splits import read_data
from brain_tumor.imaging import preprocessing
from brain_tumor.imaging.preprocessing import (
    CAFFE_MEANS,
    IMAGENET_SCALINGS,
    INPUT_SIDES,
    SquareFrame,
    head_box,
    input_side,
    largest_component_box,
    mask_into_square,
    nearest_indices,
    plan_square,
    restore,
    restore_mask,
    scale_pixels,
    squeeze_square,
)
from brain_tumor.io.errors import ErrorCode


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imencode(path.suffix, pixels)[1].tofile(path) is None
    return path


def head(height=120, width=100, centre=(50, 60), axes=(30, 40), grey=120):
    return cv2.ellipse(np.zeros((height, width), np.uint8), centre, axes, 0, 0, 360, grey, -1)


# ---- crops


def test_the_largest_piece_with_its_margin_and_nothing_else():
    framed = np.zeros((400, 300), np.float32)
    framed[80:280, 60:210] = 0.4
    framed[5:25, 5:60] = framed[390:398] = 1.0  # letters, a bar
    top, bottom, left, right = largest_component_box(framed)
    assert (
        abs(top - (80 - 4)) <= 1
        and abs(bottom - (280 + 4)) <= 1
        and abs(left - (60 - 4)) <= 1
        and abs(right - (210 + 4)) <= 1
    )
    assert head_box(framed) == (0, 400, 0, 300), (
        "the shipped network's crop takes the bar and the letters in"
    )


def test_a_thread_does_not_tie_letters_to_the_head():
    framed = head(200, 200, (100, 120), (50, 60)) / np.float32(255)
    framed[10:30, 10:50] = 0.5
    framed[30:120, 30:32] = framed[118:120, 30:60] = 0.5
    top, _, left, _ = largest_component_box(framed)
    assert top > 50 and left > 40


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((40, 30)),
        np.ones((40, 30)),
        np.full((40, 30), 0.2),
        np.ones((3, 200)),
        np.zeros((1, 1)),
        np.pad([[1.0]], 20),
    ],
)
def test_where_nothing_stands_out_or_all_does_the_picture_stays(pixels):
    assert largest_component_box(pixels.astype(np.float32)) == (
        0,
        pixels.shape[0],
        0,
        pixels.shape[1],
    )


@pytest.mark.parametrize("exposure", [0.05, 0.3, 1.0])
def test_exposure_does_not_move_the_crop(exposure):
    pixels = head() / np.float32(255)
    assert largest_component_box(pixels * np.float32(exposure)) == largest_component_box(pixels)


def sets(folder):
    """Two figshare slices with masks, one mask outside the head; copies in kaggle, one half
    as large, one mirrored."""
    lost = np.zeros((120, 100), np.uint8)
    lost[2:6, 3:8] = 255
    inside = cv2.circle(np.zeros((120, 100), np.uint8), (60, 70), 6, 255, -1)
    right = np.ascontiguousarray(head(centre=(66, 60))[:, ::-1])
    for number, (picture, mask) in enumerate([(head(), inside), (head(centre=(66, 60)), lost)], 1):
        write(folder / "figshare" / "images" / f"{number}.png", picture)
        write(folder / "figshare" / "masks" / f"{number}.png", mask)
    write(
        folder / "kaggle" / "Training" / "glioma" / "é 1.png",
        cv2.resize(head(), (50, 60), interpolation=cv2.INTER_AREA),
    )
    write(folder / "kaggle" / "Training" / "glioma" / "2.png", right)
    pd.DataFrame(
        {
            "image": ["images/1.png", "images/2.png"],
            "mask": ["masks/1.png", "masks/2.png"],
            "id": [1, 2],
            "class": "glioma",
            "group": ["a", "b"],
            "role": "train",
        }
    ).to_csv(folder / "figshare" / "manifest.csv", index=False)
    pd.DataFrame(
        {
            "image": ["Training/glioma/é 1.png", "Training/glioma/2.png"],
            "mask": None,
            "class": "glioma",
            "group": ["a", "b"],
            "role": "train",
            "figshare_id": [1, 2],
            "mirrored": [0, 1],
        }
    ).to_csv(folder / "kaggle" / "manifest.csv", index=False)
    return folder


def test_cut_outlines_are_counted_pixel_by_pixel(tmp_path):
    found = record_crops(sets(tmp_path)).set_index(["set", "crop"])
    for crop in ("head_box", "head_piece"):
        assert found.loc[
            ("figshare", crop), ["outlines", "cut", "pixels_lost", "worst"]
        ].tolist() == [2, 1, 20, 1.0]
        assert found.loc[
            ("kaggle, copies of figshare", crop), ["outlines", "cut", "pixels_lost"]
        ].tolist() == [2, 1, 20]
        assert 0.3 < found.loc[("figshare", crop), "kept"] < 0.6


def test_a_copy_gets_the_outline_scaled_and_mirrored_as_it_is(tmp_path):
    table = read_data(sets(tmp_path), copies=True)
    path = table["path"][
        table["image"].str.endswith("/2.png") & (table["source"] == "kaggle")
    ].item()
    (_, _, _), (_, _, _), (_, small, spot), (source, pixels, outline) = known_masks(table, {path})
    assert (
        source == "kaggle, copies of figshare"
        and outline.shape == (120, 100)
        and set(np.flatnonzero(outline.any(0))) == set(range(92, 97))
    )
    assert small.shape == spot.shape == (60, 50)
    assert np.abs(np.argwhere(spot).mean(0) - [34.75, 29.75]).max() < 0.3, (
        "half of (70, 60), by pixel centres"
    )
    assert pixels[60].argmax() > 0


def test_no_crop_cuts_an_outline_of_the_public_sets(shared_data, root):
    """All masks of the sets, and a tenth of those that Kaggle's copies take from figshare;
    runs/preprocessing/crop.csv counts all."""
    table = read_data(shared_data, copies=True)
    flags = pd.read_csv(shared_data / "kaggle" / "manifest.csv")
    mirrored = {
        str(shared_data / "kaggle" / image) for image in flags["image"][flags["mirrored"] == 1]
    }
    copies = table.index[table["copy_of"].notna()]
    table, counted = table.drop(copies.difference(copies[::10])), {}
    for source, pixels, inside in known_masks(table, mirrored):
        counted[source] = counted.get(source, 0) + 1
        for crop in (head_box, largest_component_box):
            top, bottom, left, right = crop(pixels)
            assert inside[top:bottom, left:right].sum() == inside.sum() > 0
    recorded = (
        pd.read_csv(root / "runs" / "preprocessing" / "crop.csv")
        .drop_duplicates("set")
        .set_index("set")["outlines"]
    )
    assert counted["figshare"] == recorded["figshare"] and counted["kaggle"] == recorded["kaggle"]
    assert (
        abs(10 * counted["kaggle, copies of figshare"] - recorded["kaggle, copies of figshare"])
        < 400
    )


# ---- there and back


def random_frame(rng, smaller):
    """A box of a scan in a square that is smaller than it, or nowhere smaller; padding or not."""
    height, width = rng.integers(20, 120, 2)
    top, left = rng.integers(0, height - 10), rng.integers(0, width - 10)
    bottom, right = rng.integers(top + 5, height + 1), rng.integers(left + 5, width + 1)
    size = (
        int(rng.integers(3, 6))
        if smaller
        else int(rng.integers(max(bottom - top, right - left), 300))
    )
    inner_height, inner_width = (
        (size, size)
        if smaller
        else (rng.integers(bottom - top, size + 1), rng.integers(right - left, size + 1))
    )
    y, x = rng.integers(0, size - inner_height + 1), rng.integers(0, size - inner_width + 1)
    return SquareFrame(
        (int(height), int(width)),
        *(
            tuple(map(int, box))
            for box in ((top, bottom, left, right), (y, y + inner_height, x, x + inner_width))
        ),
        size,
    )


@pytest.mark.parametrize("seed", range(40))
def test_any_outline_survives_a_square_that_is_nowhere_smaller(seed):
    rng = np.random.default_rng(seed)
    plan = random_frame(rng, smaller=False)
    top, bottom, left, right = plan.box
    values = np.zeros(plan.shape, np.uint8)
    values[top:bottom, left:right] = rng.integers(0, 255, (bottom - top, right - left))
    assert np.array_equal(restore_mask(mask_into_square(values, plan), plan), values)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_drawn_in_the_square_lands_in_the_box_and_nowhere_else(seed):
    rng = np.random.default_rng(seed)
    plan = random_frame(rng, smaller=seed % 2 == 0)
    top, bottom, left, right = plan.box
    full = restore_mask(np.ones((plan.size, plan.size), bool), plan)
    assert (
        full.shape == plan.shape
        and full.dtype == bool
        and full[top:bottom, left:right].all()
        and full.sum() == (bottom - top) * (right - left)
    )
    y0, y1, x0, x1 = plan.inner
    drawn = np.ones((plan.size, plan.size), bool)
    drawn[y0:y1, x0:x1] = False
    assert not restore_mask(drawn, plan).any(), "padding is nowhere on the scan"


@pytest.mark.parametrize(
    "size, wanted", [(7, 7), (7, 14), (14, 7), (299, 512), (512, 299), (1, 9), (9, 1)]
)
def test_each_pixel_takes_the_one_its_middle_falls_on(size, wanted):
    middles = (np.arange(wanted) + 0.5) * size / wanted
    assert np.array_equal(nearest_indices(size, wanted), np.floor(middles + 1e-9).astype(int))


def test_squeezed_probabilities_and_outlines_come_back_to_the_same_place():
    pixels = head(300, 240, (120, 150), (70, 110)) / np.float32(255)
    square, plan = squeeze_square(pixels, 64)
    spot = np.zeros((64, 64), np.float32)
    spot[30:34, 20:24] = 1
    y, x = (
        plan.box[0] + 32 / 64 * (plan.box[1] - plan.box[0]) - 0.5,
        plan.box[2] + 22 / 64 * (plan.box[3] - plan.box[2]) - 0.5,
    )
    for back in (restore(spot, plan), restore_mask(spot, plan)):
        assert (
            np.abs(
                np.average(np.indices(back.shape).reshape(2, -1).T, axis=0, weights=back.ravel())
                - [y, x]
            ).max()
            < 0.51
        )


def test_masks_of_another_size_are_refused():
    plan = plan_square(head() / np.float32(255), 64)
    with raises(ErrorCode.MASK_INVALID, "(119, 100)"):
        mask_into_square(np.zeros((119, 100), bool), plan)
    with raises(ErrorCode.MASK_INVALID, "(120, 100)", "(64, 64)"):
        restore_mask(np.zeros((120, 100), bool), plan)


# ---- the thesis' networks


@pytest.mark.parametrize(
    "network, module",
    [
        ("Xception", "xception"),
        ("InceptionV3", "inception_v3"),
        ("VGG19", "vgg19"),
        ("ResNet50", "resnet50"),
        ("MobileNetV2", "mobilenet_v2"),
        ("ResNet50V2", "resnet_v2"),
    ],
)
def test_scaling_is_keras_own(network, module):
    applications = pytest.importorskip("keras").applications
    pictures = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 3)).astype(np.uint8)
    wanted = getattr(applications, module).preprocess_input(pictures.astype(np.float32))
    found = scale_pixels(pictures, network, "imagenet")
    assert found.dtype == np.float32 and np.abs(found - wanted).max() < 1e-4 and np.ptp(found) > 1
    assert np.array_equal(scale_pixels(pictures, network), pictures / np.float32(255))
    grey = scale_pixels(pictures[..., 0], network, "imagenet")
    assert np.array_equal(
        grey, scale_pixels(np.repeat(pictures[..., :1], 3, -1), network, "imagenet")
    )
    assert BACKBONES.get(network, 224) == INPUT_SIDES[network]


def test_scaling_leaves_its_input_alone_and_refuses_what_it_does_not_know():
    pictures = np.full((4, 4), 200, np.float32)
    scale_pixels(pictures, "VGG19", "imagenet"), scale_pixels(pictures, "VGG19")
    assert (pictures == 200).all()
    with raises(ErrorCode.ARGUMENT_INVALID, "AlexNet", "Xception"):
        input_side("AlexNet")
    with raises(ErrorCode.ARGUMENT_INVALID, "'tf'", "VGG19"):
        scale_pixels(pictures, "VGG19", "tf")
    with raises(ErrorCode.ARGUMENT_INVALID, "imagenet", "segmentation"):
        scale_pixels(pictures, "segmentation", "imagenet")


def test_a_network_without_a_recorded_imagenet_scaling_is_rejected(monkeypatch):
    assert {*IMAGENET_SCALINGS} == {*INPUT_SIDES} - {"segmentation"}
    assert {*IMAGENET_SCALINGS.values()} == {"tf", "caffe"}
    monkeypatch.setitem(preprocessing.INPUT_SIDES, "VGG16", 224)
    with raises(ErrorCode.ARGUMENT_INVALID, "VGG16", "IMAGENET_SCALINGS"):
        scale_pixels(np.zeros((4, 4)), "VGG16", "imagenet")
    pictures = np.full((4, 4), 200, np.float32)
    assert np.allclose(scale_pixels(pictures, "VGG16"), 200 / 255)
    for unknown in (None, "torch"):
        monkeypatch.setitem(preprocessing.IMAGENET_SCALINGS, "VGG16", unknown)
        with raises(ErrorCode.ARGUMENT_INVALID, "VGG16", "IMAGENET_SCALINGS"):
            scale_pixels(pictures, "VGG16", "imagenet")
    monkeypatch.setitem(preprocessing.IMAGENET_SCALINGS, "VGG16", "caffe")
    assert np.allclose(scale_pixels(pictures, "VGG16", "imagenet")[0, 0], 200 - CAFFE_MEANS)


def test_squeeze_without_crop_or_scaling_changes_nothing():
    pixels = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    square, plan = squeeze_square(pixels, 64, crop=False)
    assert np.array_equal(square, pixels) and plan.box == plan.inner == (0, 64, 0, 64)
    with raises(ErrorCode.IMAGE_INVALID, "(4, 4, 3)"):
        squeeze_square(np.zeros((4, 4, 3), np.float32))


# ---- a whole set


def test_pictures_under_both_protocols_and_odd_names(tmp_path):
    table = read_data(sets(tmp_path), copies=True)
    honest, thesis = (load_images(table, 64, protocol) for protocol in ("honest", "thesis"))
    assert honest.pictures.shape == thesis.pictures.shape == (4, 64, 64)
    assert honest.pictures.max() > 180 > thesis.pictures.max(), (
        "the thesis leaves the exposure as it is"
    )
    assert set(np.unique(thesis.masks)) == {0, 255}
    wide = [np.ptp(np.flatnonzero(one.pictures[0].max(0) > 20)) for one in (thesis, honest)]
    assert wide[0] > wide[1] + 5, "squeezed to the full width"
    with raises(ErrorCode.ARGUMENT_INVALID, "'Thesis'"):
        load_images(table, 64, "Thesis")


def test_a_broken_picture_and_a_mask_of_another_size_are_named(tmp_path):
    table = read_data(sets(tmp_path), copies=True)
    write(tmp_path / "figshare" / "masks" / "2.png", np.zeros((60, 100), np.uint8))
    with raises(ErrorCode.MASK_INVALID, "2.png", "(60, 100)"):
        load_images(table, 64)
    (tmp_path / "figshare" / "images" / "1.png").write_bytes(b"\x89PNG broken")
    with raises(ErrorCode.FILE_UNREADABLE, "1.png"):
        load_images(table, 64, "thesis")
