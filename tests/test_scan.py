"""Every format gives the same Scan: compared with hand computation and with other readers."""

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import cv2
import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
from dicoms import dicom, in_bytes
from errors import raises
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from brain_tumor.io.decode import read_in_process
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.files import expand_sources, is_batch, write_whole
from brain_tumor.io.scan import AXES, CLASSES, Scan

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def picture():
    """90 x 70 pixels, no symmetry at all, from 0 to 255."""
    r, c = np.mgrid[:90, :70]
    head = ((r - 45) / 42) ** 2 + ((c - 35) / 32) ** 2 < 1
    values = (40 + r + c // 2) * head + 60 * ((r - 25) ** 2 + (c - 45) ** 2 < 64)
    return np.round(values / values.max() * 255).astype(np.uint8)


def volume_of(picture, layers=5, at=2):
    """A RAS volume whose axial layer `at` shows the picture in radiological orientation."""
    block = np.zeros((picture.shape[1], picture.shape[0], layers), picture.dtype)
    for k in range(layers):
        block[:, :, k] = np.roll(picture, k - at, 0)[::-1, ::-1].T
    return block


AFFINE = np.array([[0.7, 0, 0, -20], [0, 0.5, 0, 30], [0, 0, 4, -7], [0, 0, 0, 1.0]])


# ---------------------------------------------------------------- the same slice in every format


def written(folder, picture):
    """The picture in every format: name -> path, slice."""
    for name in ("a.png", "a.tif", "a.bmp"):
        assert cv2.imwrite(str(folder / name), picture)
    Image.fromarray(picture).save(folder / "a.webp", lossless=True)
    Image.fromarray(picture).save(folder / "a.gif")
    dicom(picture).save_as(folder / "a.dcm", enforce_file_format=True)
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(volume_of(picture), AFFINE), folder / name)
    nibabel.save(nibabel.Nifti2Image(volume_of(picture), AFFINE), folder / "two.nii")
    header = {
        "space": "right-anterior-superior",
        "space directions": AFFINE[:3, :3].T,
        "space origin": AFFINE[:3, 3],
    }
    for name in ("a.nrrd", "a.nhdr"):
        nrrd.write(str(folder / name), volume_of(picture), header)
    nrrd.write(str(folder / "raw.nrrd"), volume_of(picture), {**header, "encoding": "raw"})
    nrrd.write(str(folder / "text.nrrd"), volume_of(picture), {**header, "encoding": "ascii"})
    nrrd.write(str(folder / "bz.nhdr"), volume_of(picture), {**header, "encoding": "bzip2"})


FORMATS = {
    "a.png": "PNG",
    "a.tif": "TIFF",
    "a.bmp": "BMP",
    "a.webp": "WebP",
    "a.gif": "GIF",
    "a.dcm": "DICOM",
    "a.nii": "NIfTI",
    "a.nii.gz": "NIfTI",
    "two.nii": "NIfTI",
    "a.nrrd": "NRRD",
    "a.nhdr": "NRRD",
    "raw.nrrd": "NRRD",
    "text.nrrd": "NRRD",
    "bz.nhdr": "NRRD",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, picture):
    here = tmp_path_factory.mktemp("formats")
    written(here, picture)
    return here


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_array(folder, picture, name):
    many = FORMATS[name] in ("NIfTI", "NRRD")
    scan = read_in_process(folder / name, slice=2 if many else None)
    assert scan.format == FORMATS[name] and scan.source == name
    assert scan.pixels.dtype == np.float32 and scan.pixels.shape == picture.shape
    np.testing.assert_allclose(scan.pixels, picture / 255, atol=1e-6)
    np.testing.assert_allclose(scan.pixels, read_in_process(picture).pixels, atol=1e-6)
    data = (folder / name).read_bytes()
    if name.endswith(".nhdr"):
        data += next(folder.glob(f"{name[:-5]}.raw*")).read_bytes()
    assert scan.sha256 == hashlib.sha256(data).hexdigest()
    if many:
        assert scan.spacing == pytest.approx((0.5, 0.7)) and scan.spacing_source == "file"
        assert (scan.slice_index, scan.axis) == (2, 2)
    else:
        assert scan.spacing is None and scan.spacing_source is None and scan.slice_index is None


@pytest.mark.parametrize("name", [n for n in FORMATS if not n.endswith(".nhdr")])
def test_the_name_of_a_file_does_not_matter(folder, tmp_path, name):
    which = 2 if FORMATS[name] in ("NIfTI", "NRRD") else None
    for other in ("IM0001", "claims_to_be.jpg"):
        (tmp_path / other).write_bytes((folder / name).read_bytes())
        np.testing.assert_array_equal(
            read_in_process(tmp_path / other, slice=which).pixels,
            read_in_process(folder / name, slice=which).pixels,
        )


def test_jpeg_is_close(picture):
    scan = read_in_process(
        cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    )
    assert scan.format == "JPEG" and np.abs(scan.pixels - picture / 255).mean() < 0.01


def test_all_ways_to_hand_a_file_over(folder, picture):
    path = folder / "a.png"
    data = path.read_bytes()
    with path.open("rb") as opened:
        ways = [
            read_in_process(path),
            read_in_process(str(path)),
            read_in_process(data),
            read_in_process(bytearray(data)),
            read_in_process(memoryview(data)),
            read_in_process(io.BytesIO(data)),
            read_in_process(opened),
            read_in_process(Image.open(path)),
        ]
    for scan in ways:
        np.testing.assert_array_equal(scan.pixels, ways[0].pixels)
    assert len({scan.sha256 for scan in ways[:7]}) == 1
    assert [scan.source for scan in ways[:3]] == ["a.png", "a.png", "bytes"]
    assert read_in_process(ways[0]) is ways[0]
    assert read_in_process(ways[0], spacing=2).spacing == (2, 2)


# ---------------------------------------------------------------- grey values


@pytest.mark.parametrize(
    "kind", ["uint16", "int16", "int32", "int64", "uint32", "float32", "float64", "float16", ">u2"]
)
def test_other_types_go_from_smallest_to_largest(picture, kind):
    values = picture.astype(kind) * (3 if kind != "float16" else 2) + 5
    np.testing.assert_allclose(read_in_process(values).pixels, picture / 255, atol=2e-6)


def test_floats_within_0_and_1_are_kept(picture):
    np.testing.assert_allclose(read_in_process(picture / 510).pixels, picture / 510, atol=1e-7)
    assert read_in_process(picture / 510).pixels.max() < 0.51


def test_16_bit_png(picture):
    data = cv2.imencode(".png", picture.astype(np.uint16) * 16)[1].tobytes()
    np.testing.assert_allclose(read_in_process(data).pixels, picture / 255, atol=1e-6)


def test_channels(picture):
    one = picture[..., None]
    for values in (one, np.dstack([one] * 3), np.dstack([one] * 3 + [np.full_like(one, 255)])):
        np.testing.assert_allclose(read_in_process(values).pixels, picture / 255, atol=1e-6)
        np.testing.assert_allclose(
            read_in_process(values.astype(np.float64) / 255).pixels, picture / 255, atol=1e-6
        )
    wide = np.dstack(
        [one.astype(np.uint16) * 257] * 3 + [np.full_like(one, 65535, dtype=np.uint16)]
    )
    np.testing.assert_allclose(read_in_process(wide).pixels, picture / 255, atol=1e-6)


def test_colour_is_luminance_in_the_right_order(picture):
    zero = np.zeros_like(picture)
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        rgb = np.dstack([picture if k == channel else zero for k in range(3)])
        out = io.BytesIO()
        Image.fromarray(rgb).save(out, "PNG")
        for source in (rgb, out.getvalue(), Image.fromarray(rgb)):
            np.testing.assert_allclose(
                read_in_process(source).pixels, picture / 255 * weight, atol=1e-6
            )


def as_png(image, **options):
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def test_transparent_parts_lie_on_black(picture):
    alpha = np.where(np.arange(90)[:, None] < 30, 0, 255).astype(np.uint8) * np.ones(
        (1, 70), np.uint8
    )
    truth = np.where(alpha > 0, picture, 0) / 255
    grey_alpha = Image.merge("LA", [Image.fromarray(picture), Image.fromarray(alpha)])
    for image in (grey_alpha, grey_alpha.convert("RGBA")):
        for source in (image, as_png(image)):
            np.testing.assert_allclose(read_in_process(source).pixels, truth, atol=1e-6)


def test_palettes(picture):
    levels = (picture // 16).astype(np.uint8)
    image = Image.fromarray(levels).convert("L")
    image.putpalette(sum(([17 * k] * 3 for k in range(16)), []))
    assert image.mode == "P"
    for source in (image, as_png(image)):
        np.testing.assert_allclose(read_in_process(source).pixels, levels * 17 / 255, atol=1e-6)
    clear = np.where(levels == 9, 0, levels) * 17 / 255
    np.testing.assert_allclose(
        read_in_process(as_png(image, transparency=9)).pixels, clear, atol=1e-6
    )


def test_one_bit_png(picture):
    np.testing.assert_array_equal(
        read_in_process(as_png(Image.fromarray(picture > 99))).pixels, picture > 99
    )


def test_float_and_16_bit_tiff(tmp_path, picture):
    for values in (picture.astype(np.float32) / 510, picture.astype(np.uint16) * 100):
        Image.fromarray(values).save(tmp_path / "a.tif")
        np.testing.assert_array_equal(
            read_in_process(tmp_path / "a.tif").pixels, read_in_process(values).pixels
        )


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"bigtiff": True}, {"byteorder": ">"}]
)
def test_tiffs_by_another_writer(picture, options):
    tifffile = pytest.importorskip("tifffile")
    three = np.dstack([picture] * 3)
    for values in (
        picture,
        picture.astype(np.uint16) * 9,
        picture.astype(np.int16) - 99,
        picture.astype(np.uint32) * 999,
        picture / 300,
        (picture / 300).astype(np.float32),
        three,
        three / 300,
        three.astype(np.uint16) * 9,
        np.stack([picture] * 3),
    ):
        out = io.BytesIO()
        planes = {"photometric": "rgb", "planarconfig": "separate"} if values.shape[0] == 3 else {}
        tifffile.imwrite(out, values, **options, **planes)
        truth = read_in_process(np.moveaxis(values, 0, -1) if planes else values).pixels
        np.testing.assert_allclose(read_in_process(out.getvalue()).pixels, truth, atol=1e-6)


def test_tiffs_in_which_zero_is_white(picture):
    tifffile = pytest.importorskip("tifffile")
    for values in (picture, picture.astype(np.uint16) * 9, (picture / 255).astype(np.float64)):
        out = io.BytesIO()
        tifffile.imwrite(out, values, photometric="miniswhite")
        np.testing.assert_allclose(
            read_in_process(out.getvalue()).pixels, 1 - picture / 255, atol=1e-6
        )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a),
    }
    for kind, options, limit in (
        ("PNG", {}, 1e-6),
        ("WEBP", {"lossless": True}, 1e-6),
        ("TIFF", {}, 1e-6),
        ("JPEG", {"quality": 100}, 0.15),
    ):
        out = io.BytesIO()
        Image.fromarray(picture).save(out, kind, exif=exif, **options)
        np.testing.assert_allclose(
            read_in_process(out.getvalue()).pixels, turn[orientation](picture) / 255, atol=limit
        )


def test_the_callers_array_is_neither_changed_nor_shared(picture):
    mine = (picture / 255).astype(np.float32)
    before = mine.copy()
    scan = read_in_process(mine)
    scan.pixels[:] = 0
    np.testing.assert_array_equal(mine, before)


# ---------------------------------------------------------------- spacing


@pytest.mark.parametrize("dpi", [96, 72, 300])
def test_a_resolution_for_printing_is_no_spacing(picture, dpi):
    image = Image.fromarray(picture)
    for kind in ("PNG", "TIFF", "JPEG", "BMP"):
        out = io.BytesIO()
        image.save(out, kind, dpi=(dpi, dpi))
        assert Image.open(io.BytesIO(out.getvalue())).info["dpi"][0] == pytest.approx(dpi, abs=1)
        assert read_in_process(out.getvalue()).spacing is None


@pytest.mark.parametrize(
    "given, pair",
    [
        (0.5, (0.5, 0.5)),
        ((0.5, 0.7), (0.5, 0.7)),
        ([1, 2], (1, 2)),
        (np.array([3, 4.5]), (3, 4.5)),
        (np.float32(0.25), (0.25, 0.25)),
    ],
)
def test_given_spacing_overrides(folder, given, pair):
    for name in ("a.png", "a.nii"):
        scan = read_in_process(folder / name, slice=2 if name == "a.nii" else None, spacing=given)
        assert scan.spacing == pair and scan.spacing_source == "given"
        assert all(type(value) is float for value in scan.spacing)


# ---------------------------------------------------------------- DICOM


def test_dicom_window_by_hand():
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    got = read_in_process(dicom(stored, WindowCenter=1000, WindowWidth=501)).pixels.ravel()
    # PS3.3 C.11.2.1.2: from c - 0.5 - (w - 1) / 2 = 749.5 to 1249.5, over w - 1 = 500
    assert got[749] == 0 and got[1250] == 1
    assert got[1000] == pytest.approx(0.501, abs=1e-6) and got[800] == pytest.approx(
        50.5 / 500, abs=1e-6
    )
    exact = read_in_process(
        dicom(stored, WindowCenter=1000, WindowWidth=500, VOILUTFunction="LINEAR_EXACT")
    ).pixels.ravel()
    assert exact[750] == 0 and exact[1250] == 1 and exact[1000] == 0.5
    soft = read_in_process(
        dicom(stored, WindowCenter=1000, WindowWidth=500, VOILUTFunction="SIGMOID")
    ).pixels.ravel()
    assert soft[1000] == 0.5 and soft[1500] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_dicom_window_against_pydicom(picture, function):
    from pydicom.pixels import apply_modality_lut, apply_windowing

    data = dicom(
        picture.astype(np.uint16) * 16,
        RescaleSlope=1.5,
        RescaleIntercept=-300,
        WindowCenter=2500,
        WindowWidth=3000,
        VOILUTFunction=function,
    )
    theirs = apply_windowing(apply_modality_lut(data.pixel_array, data), data)
    low, high = -300, 65535 * 1.5 - 300
    np.testing.assert_allclose(
        read_in_process(data).pixels, (theirs - low) / (high - low), atol=1e-6
    )


def test_dicom_slope_and_the_first_of_several_windows(picture):
    data = dicom(
        picture.astype(np.int16) - 50,
        RescaleSlope=2,
        RescaleIntercept=100,
        WindowCenter=["128", "9"],
        WindowWidth=["256", "3"],
    )
    np.testing.assert_allclose(
        read_in_process(data).pixels, np.clip(picture * 2.0 / 255, 0, 1), atol=1e-6
    )


def test_dicom_without_window_goes_from_smallest_to_largest(picture):
    np.testing.assert_allclose(
        read_in_process(dicom(picture.astype(np.int16) * 4 - 500)).pixels, picture / 255, atol=1e-6
    )


def test_dicom_window_that_shows_nothing_is_set_aside(picture):
    data = dicom(picture.astype(np.uint16), WindowCenter=50_000, WindowWidth=10)
    np.testing.assert_allclose(read_in_process(data).pixels, picture / 255, atol=1e-6)


def test_dicom_monochrome1_is_the_negative(picture):
    for tags in ({}, {"WindowCenter": 128, "WindowWidth": 256}):
        for stored in (picture, picture.astype(np.uint16)):
            got = read_in_process(
                dicom(stored, PhotometricInterpretation="MONOCHROME1", **tags)
            ).pixels
            np.testing.assert_allclose(got, 1 - picture / 255, atol=1e-6)


def test_dicom_voi_table(picture):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], [255 - k for k in range(256)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    np.testing.assert_allclose(
        read_in_process(dicom(picture, VOILUTSequence=[table])).pixels, 1 - picture / 255, atol=1e-6
    )


def test_dicom_colour(picture):
    rgb = np.dstack([picture, picture // 2, picture // 3])
    data = dicom(
        picture,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        PixelData=rgb.tobytes(),
    )
    np.testing.assert_allclose(read_in_process(data).pixels, read_in_process(rgb).pixels, atol=1e-6)


def test_dicom_spacing(picture):
    assert read_in_process(dicom(picture, PixelSpacing=[0.5, 0.7])).spacing == (0.5, 0.7)
    assert read_in_process(dicom(picture, ImagerPixelSpacing=[0.2, 0.3])).spacing == (0.2, 0.3)
    both = read_in_process(dicom(picture, PixelSpacing=[0.5, 0.7], ImagerPixelSpacing=[0.2, 0.3]))
    assert both.spacing == (0.5, 0.7) and both.spacing_source == "file"
    assert read_in_process(dicom(picture)).spacing is None


def test_dicom_frames(picture):
    frames = np.stack([picture, np.roll(picture, 9, 0), picture[::-1]])
    data = dicom(frames, NumberOfFrames=3)
    for k in range(3):
        scan = read_in_process(data, slice=k)
        np.testing.assert_allclose(scan.pixels, frames[k] / 255, atol=1e-6)
        assert scan.slice_index == k
    with raises(ErrorCode.SELECTION_NEEDED, "slice=2") as caught:
        read_in_process(in_bytes(data))
    assert caught.value.count == 3


def group(**tags):
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


def test_dicom_tags_that_differ_from_frame_to_frame(picture):
    shared = group(PixelMeasuresSequence=[group(PixelSpacing=[0.5, 0.7])])
    own = [
        group(
            FrameVOILUTSequence=[group(WindowCenter=c, WindowWidth=w)],
            PixelValueTransformationSequence=[group(RescaleSlope=s, RescaleIntercept=0)],
        )
        for c, w, s in ((128, 256, 1), (256, 512, 1), (256, 512, 2))
    ]
    data = dicom(
        np.stack([picture.astype(np.uint16)] * 3),
        NumberOfFrames=3,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=own,
    )
    for k, full in enumerate((255, 511, 255.5)):
        scan = read_in_process(in_bytes(data), slice=k)
        np.testing.assert_allclose(scan.pixels, picture / full, atol=1e-6)
        assert scan.spacing == (0.5, 0.7)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_dicom_without_preamble_or_extension(tmp_path, picture, syntax):
    data = dicom(picture.astype(np.uint16), syntax=syntax, PixelSpacing=[0.5, 0.7])
    data.SpecificCharacterSet = "ISO_IR 100"
    whole = in_bytes(data)
    assert whole[128:138] == b"DICM\x02\0\0\0UL"
    meta = int.from_bytes(whole[140:144], "little")
    for part in (
        whole[132:],
        whole[144 + meta :],
    ):  # without preamble; without any file information
        (tmp_path / "IM1").write_bytes(part)
        scan = read_in_process(tmp_path / "IM1")
        np.testing.assert_allclose(scan.pixels, picture / 255, atol=1e-6)
        assert scan.format == "DICOM" and scan.spacing == (0.5, 0.7)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_dicom_compressed_without_loss(picture, syntax):
    data = dicom(picture.astype(np.uint16) * 16)
    try:
        data.compress(syntax, generate_instance_uid=False)
    except (RuntimeError, NotImplementedError):
        pytest.skip("no encoder here")
    assert data.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_allclose(read_in_process(in_bytes(data)).pixels, picture / 255, atol=1e-6)


def test_dicom_compressed_as_jpeg(picture):
    data = dicom(picture, syntax=JPEGBaseline8Bit)
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    data.PixelData = encapsulate([jpeg])
    data["PixelData"].is_undefined_length = True
    np.testing.assert_allclose(
        read_in_process(in_bytes(data)).pixels, read_in_process(jpeg).pixels, atol=0.02
    )


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE",
        "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless",
        "MR_small_bigendian",
        "MR_small_implicit",
    ],
)
def test_dicom_samples_of_pydicom(name):
    here = Path(pydicom.__file__).parent / "data" / "test_files"
    if not (here / f"{name}.dcm").is_file():
        pytest.skip("this pydicom came without its samples")
    np.testing.assert_array_equal(
        read_in_process(here / f"{name}.dcm").pixels, read_in_process(here / "MR_small.dcm").pixels
    )


def test_nothing_of_the_patient_is_kept(picture):
    secrets = {
        "PatientName": "Zaphod^Beeblebrox",
        "PatientID": "ID-42-XYZ",
        "PatientBirthDate": "19520311",
        "InstitutionName": "Milliways General",
        "StudyDate": "20260101",
    }
    for source in (dicom(picture, **secrets), in_bytes(dicom(picture, **secrets))):
        kept = (
            repr([value for value in vars(read_in_process(source)).values()])
            + repr(read_in_process(source))
            + read_in_process(source)._repr_html_()
        )
        assert not [
            word
            for word in ("Zaphod", "ID-42", "19520311", "Milliways", "20260101")
            if word in kept
        ]


# ---------------------------------------------------------------- volumes

ORIENTATIONS = ["RAS", "LPS", "LAS", "PIR", "SAR", "ASL", "IPL"]


def stored_as(codes, values, affine):
    """The same head stored with other axes, by nibabel."""
    image = nibabel.Nifti1Image(values, affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes)
    )
    return image.as_reoriented(turn)


@pytest.fixture(scope="module")
def head():
    """A smooth random volume: no two of its 48 orientations are alike."""
    noise = np.random.default_rng(1).normal(size=(40, 50, 44)).astype(np.float32)
    for axis in range(3):
        noise = np.apply_along_axis(np.convolve, axis, noise, np.ones(5) / 5, mode="same")
    return np.round(noise * 4000).astype(np.int16)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_orientation_of_a_file_shows_the_same_slice(head, codes, axis):
    affine = np.diag([0.9, 0.5, 2.0, 1])
    image = stored_as(codes, head, affine)
    assert "".join(nibabel.aff2axcodes(image.affine)) == codes
    scan = read_in_process(image.to_bytes(), slice=17, axis=axis)
    # by hand, in RAS: sagittal has anterior left, coronal and axial the patient's right on the left
    flat = np.take(head, 17, axis).astype(float)[::-1, ::-1].T
    np.testing.assert_allclose(
        scan.pixels, (flat - flat.min()) / (flat.max() - flat.min()), atol=1e-6
    )
    assert scan.spacing == pytest.approx([(2.0, 0.5), (2.0, 0.9), (0.5, 0.9)][axis])
    assert read_in_process(image.to_bytes(), slice=17, axis=AXES[axis]).axis == axis


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_slice_is_the_same_saved_as_png(head, codes, tmp_path):
    scan = read_in_process(stored_as(codes, head, np.diag([0.9, 0.5, 2, 1])).to_bytes(), slice=20)
    assert scan.axis == 2
    cv2.imwrite(str(tmp_path / "slice.png"), np.rint(scan.pixels * 255).astype(np.uint8))
    assert (
        np.abs(read_in_process(tmp_path / "slice.png").pixels - scan.pixels).max()
        <= 0.5 / 255 + 1e-6
    )


def test_slice_saved_by_hand_from_the_canonical_volume(head):
    """With nibabel alone: closest canonical orientation, one layer, min to max, 8 bit."""
    image = nibabel.as_closest_canonical(stored_as("LPS", head, np.diag([1, 1, 3, 1.0])))
    layer = image.get_fdata()[:, :, 30]
    eight = np.rint((layer - layer.min()) / np.ptp(layer) * 255).astype(np.uint8)
    by_hand = cv2.imencode(".png", np.fliplr(np.rot90(eight)))[
        1
    ].tobytes()  # anterior up, then right to the left
    got = read_in_process(stored_as("LPS", head, np.diag([1, 1, 3, 1.0])).to_bytes(), slice=30)
    assert np.abs(got.pixels - read_in_process(by_hand).pixels).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mask_finds_its_way_back_into_the_patient(codes, axis, tmp_path):
    rng = np.random.default_rng(7)
    turn = np.array([[0.98, -0.15, 0.1], [0.16, 0.97, -0.12], [-0.08, 0.13, 0.99]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([0.9, 0.5, 2.0]), (-31, 17, 5)
    values = rng.integers(0, 500, (40, 50, 44)).astype(np.int16)
    values[21, 13, 34] = 5000
    image = stored_as(codes, values, affine)
    scan = read_in_process(image.to_bytes(), slice=(21, 13, 34)[axis], axis=axis)
    mask = (scan.pixels == 1).astype(np.uint8)
    assert mask.sum() == 1
    nibabel.save(nibabel.Nifti1Image(mask[..., None], scan.affine), tmp_path / "mask.nii.gz")
    back = nibabel.load(tmp_path / "mask.nii.gz")
    there = nibabel.affines.apply_affine(back.affine, np.argwhere(np.asarray(back.dataobj))[0])
    here = nibabel.affines.apply_affine(
        image.affine, np.argwhere(np.asarray(image.dataobj) == 5000)[0]
    )
    np.testing.assert_allclose(there, here, atol=1e-3)
    np.testing.assert_allclose(here, nibabel.affines.apply_affine(affine, [21, 13, 34]), atol=1e-3)
    np.testing.assert_allclose(back.header.get_zooms()[:2], scan.spacing, rtol=1e-4)
    assert np.linalg.det(scan.affine[:3, :3]) != 0
    for code in ("RAS", "LPS", "PIR"):  # a reader that turns the mask keeps the place
        again = nibabel.as_closest_canonical(stored_as(code, np.asarray(back.dataobj), back.affine))
        there = nibabel.affines.apply_affine(
            again.affine, np.argwhere(np.asarray(again.dataobj))[0]
        )
        np.testing.assert_allclose(there, here, atol=1e-3)


def test_the_natural_axis_is_that_of_the_thick_slices(head):
    for codes in ORIENTATIONS:
        for axis in range(3):
            steps = [0.8, 0.8, 0.8, 1.0]
            steps[axis] = 5
            with raises(ErrorCode.SELECTION_NEEDED, f"axis {axis} ({AXES[axis]})") as caught:
                read_in_process(stored_as(codes, head, np.diag(steps)).to_bytes())
            assert caught.value.count == head.shape[axis]


def test_where_all_spacings_are_alike_it_is_the_third_axis_of_the_file(head):
    for codes, axis in (("RAS", 2), ("PIR", 0), ("LSP", 1)):
        assert read_in_process(stored_as(codes, head, np.eye(4)).to_bytes(), slice=5).axis == axis


def test_nifti_slope_and_type(head):
    image = nibabel.Nifti1Image(head.astype(np.float64) * 0.37 - 12, np.diag([1, 1, 3, 1.0]))
    image.set_data_dtype(np.int16)
    plain = read_in_process(nibabel.Nifti1Image(head, np.diag([1, 1, 3, 1.0])).to_bytes(), slice=9)
    assert np.abs(read_in_process(image.to_bytes(), slice=9).pixels - plain.pixels).max() < 1e-3
    fractions = (head - head.min()) / 1e5
    kept = read_in_process(
        nibabel.Nifti1Image(fractions, np.diag([1, 1, 3, 1.0])).to_bytes(), slice=9
    )
    np.testing.assert_allclose(kept.pixels, fractions[::-1, ::-1, 9].T, atol=1e-6)


def test_nifti_of_one_slice_and_of_two_dimensions(picture):
    flat = picture[::-1, ::-1].T.copy()
    for values in (flat, flat[:, :, None], flat[:, :, None, None]):
        scan = read_in_process(nibabel.Nifti1Image(values, np.diag([0.7, 0.5, 1, 1])).to_bytes())
        np.testing.assert_allclose(scan.pixels, picture / 255, atol=1e-6)
        assert scan.axis == 2 and scan.spacing == pytest.approx((0.5, 0.7))


def test_nifti_of_four_dimensions(head):
    four = np.stack([head, head[::-1], head * 2 + 1000], -1)
    data = nibabel.Nifti1Image(four, np.diag([1, 1, 3, 1.0])).to_bytes()
    for t in range(3):
        scan = read_in_process(data, slice=(9, t))
        alone = read_in_process(
            nibabel.Nifti1Image(four[..., t], np.diag([1, 1, 3, 1.0])).to_bytes(), slice=9
        )
        np.testing.assert_array_equal(scan.pixels, alone.pixels)
        assert scan.slice_index == (9, t)


def test_nifti_in_metres(picture):
    image = nibabel.Nifti1Image(volume_of(picture), np.diag([0.0007, 0.0005, 0.004, 1]))
    image.header.set_xyzt_units("meter")
    assert read_in_process(image.to_bytes(), slice=2).spacing == pytest.approx((0.5, 0.7), rel=1e-5)


@pytest.mark.parametrize(
    "space",
    ["right-anterior-superior", "left-posterior-superior", "LPS", "RAS", "left-anterior-superior"],
)
def test_nrrd_spaces(tmp_path, head, space):
    flip = {"r": (1, 1), "l": (-1, 1 if "anterior" in space else -1)}[space[0].lower()]
    values = head[:: flip[0], :: flip[1]]
    nrrd.write(
        str(tmp_path / "a.nrrd"),
        values,
        {"space": space, "space directions": np.diag([0.9, 0.5, 2.0])},
    )
    scan = read_in_process(tmp_path / "a.nrrd", slice=20)
    truth = read_in_process(
        nibabel.Nifti1Image(head, np.diag([0.9, 0.5, 2, 1])).to_bytes(), slice=20
    )
    np.testing.assert_array_equal(scan.pixels, truth.pixels)
    assert scan.spacing == pytest.approx(truth.spacing) and scan.affine.shape == (4, 4)


def test_nrrd_against_simpleitk(tmp_path, head):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(head)
    image.SetSpacing((0.9, 0.5, 2.0))
    image.SetOrigin((3, -4, 5))
    scans = []
    for name in ("a.nrrd", "a.nii.gz"):
        sitk.WriteImage(image, str(tmp_path / name))
        scans.append(read_in_process(tmp_path / name, slice=20))
    np.testing.assert_array_equal(scans[0].pixels, scans[1].pixels)
    np.testing.assert_allclose(scans[0].affine, scans[1].affine, atol=1e-4)


def test_nrrd_of_two_dimensions_and_of_several_volumes(tmp_path, picture, head):
    nrrd.write(str(tmp_path / "flat.nrrd"), picture.T.copy(), {"spacings": [0.7, 0.5]})
    scan = read_in_process(tmp_path / "flat.nrrd")
    np.testing.assert_allclose(scan.pixels, picture / 255, atol=1e-6)
    assert scan.spacing == pytest.approx((0.5, 0.7))
    four = np.stack([head, head[::-1]])
    directions = np.vstack([np.full(3, np.nan), np.diag([1, 1, 3])])
    nrrd.write(
        str(tmp_path / "four.nrrd"),
        four,
        {
            "space": "RAS",
            "space directions": directions,
            "kinds": ["list", "domain", "domain", "domain"],
        },
    )
    truth = read_in_process(
        nibabel.Nifti1Image(four[1], np.diag([1, 1, 3, 1.0])).to_bytes(), slice=9
    )
    np.testing.assert_array_equal(
        read_in_process(tmp_path / "four.nrrd", slice=(9, 1)).pixels, truth.pixels
    )


# ---------------------------------------------------------------- several pictures in one file


def test_pages_and_animations(picture):
    frames = [Image.fromarray(np.roll(picture, 10 * k, 0)) for k in range(3)]
    for kind, options in (("TIFF", {}), ("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:], **options)
        with raises(ErrorCode.SELECTION_NEEDED, "slice=0 to slice=2") as caught:
            read_in_process(out.getvalue())
        assert caught.value.count == 3
        for k in range(3):
            scan = read_in_process(out.getvalue(), slice=k)
            np.testing.assert_allclose(scan.pixels, np.roll(picture, 10 * k, 0) / 255, atol=1e-6)
            assert scan.slice_index == k


# ---------------------------------------------------------------- many scans


def test_folder_in_natural_order_without_what_is_no_scan(tmp_path, picture):
    data = cv2.imencode(".png", picture)[1].tobytes()
    for name in (
        "s10.png",
        "s9.png",
        "s1.PNG",
        "sub/2.jpg",
        "sub/deeper/x.nii.gz",
        ".hidden.png",
        ".git/a.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "IM7").write_bytes(in_bytes(dicom(picture)))
    for name in ("readme.txt", "table.csv", "noextension", "a.gz"):
        (tmp_path / name).write_text("not a scan")
    found, count = expand_sources(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert (
        names == ["IM7", "s1.PNG", "s9.png", "s10.png", "sub/2.jpg", "sub/deeper/x.nii.gz"]
        and count == 6
    )
    assert [p.name for p in expand_sources(f"{tmp_path}/*.png")[0]] == ["s9.png", "s10.png"]
    assert [p.name for p in expand_sources(f"{tmp_path}/**/*.[jp]*g")[0]] == [
        "s9.png",
        "s10.png",
        "2.jpg",
    ]


def test_a_file_with_stars_in_its_name_is_a_file(tmp_path, picture):
    path = tmp_path / "scan[1].png"
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    assert not is_batch(str(path)) and read_in_process(str(path)).source == "scan[1].png"


def test_generators_are_not_run_ahead():
    asked = []

    def endless():
        for k in range(10**9):
            asked.append(k)
            yield f"{k}.png"

    many, count = expand_sources(endless())
    assert count is None and asked == []
    assert next(iter(many)) == "0.png" and asked == [0]


def test_lists_in_order_and_bad_folders_among_good_scans(tmp_path, picture):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"x")
    mixed = [picture, tmp_path, tmp_path / "empty", "nowhere/*.png", b"bytes"]
    many, count = expand_sources(mixed)
    many = list(many)
    assert many[0] is picture and many[1:] == [
        tmp_path / "a.png",
        tmp_path / "empty",
        "nowhere/*.png",
        b"bytes",
    ]
    assert count is None
    assert expand_sources([picture, "a.png"])[1] == 2 and expand_sources(("a.png",) * 3)[1] == 3
    assert list(expand_sources("a.png")[0]) == ["a.png"] and expand_sources(picture)[1] == 1


def test_what_is_a_batch(tmp_path, picture):
    import pandas

    for source in (
        [picture],
        (),
        (p for p in "ab"),
        tmp_path,
        str(tmp_path),
        "x/*.png",
        {"a.png"},
        iter([picture]),
        pandas.Series(["a.png", "b.png"]),
        np.array(["a.png", "b.png"]),
    ):
        assert is_batch(source), source
    for source in (
        picture,
        np.zeros((9, 64, 64)),
        "a.png",
        Path("a.png"),
        b"..",
        io.BytesIO(),
        Image.fromarray(picture),
        dicom(picture),
        read_in_process(picture),
        None,
        7,
        np.zeros(5),
        {},
    ):
        assert not is_batch(source), type(source)


# ---------------------------------------------------------------- writing


def test_write_whole_leaves_all_or_nothing(tmp_path):
    target = tmp_path / "new" / "mask.nii.gz"
    with write_whole(target) as beside:
        assert (
            beside.parent == target.parent and beside.name.endswith(".nii.gz") and beside != target
        )
        beside.write_bytes(b"one")
        assert not target.exists()
    assert target.read_bytes() == b"one" and os.listdir(target.parent) == ["mask.nii.gz"]
    with pytest.raises(KeyError):
        with write_whole(target) as beside:
            beside.write_bytes(b"tw")
            raise KeyError
    assert target.read_bytes() == b"one" and os.listdir(target.parent) == ["mask.nii.gz"]
    with write_whole(target) as beside:
        beside.write_bytes(b"three")
    assert target.read_bytes() == b"three"


def test_two_writers_do_not_meet(tmp_path):
    with write_whole(tmp_path / "a.txt") as one, write_whole(tmp_path / "a.txt") as two:
        assert one != two
        one.write_text("1"), two.write_text("2")
    assert (tmp_path / "a.txt").read_text() == "1" and os.listdir(tmp_path) == ["a.txt"]


# ---------------------------------------------------------------- the scan itself


def test_classes_and_what_a_scan_says(picture):
    assert CLASSES == ("glioma", "meningioma", "no_tumor", "pituitary")
    scan = read_in_process(picture, spacing=(0.5, 0.7))
    assert (
        isinstance(scan, Scan) and repr(scan) == "Scan(array, array, 90 x 70, spacing 0.5 x 0.7 mm)"
    )
    assert 'alt="' in scan._repr_html_()


def test_same_content_same_hash(picture):
    assert (
        read_in_process(picture).sha256
        == read_in_process(picture.copy()).sha256
        == read_in_process(np.asfortranarray(picture)).sha256
    )
    other = picture.copy()
    other[0, 0] += 1
    different = [picture, other, picture.astype(np.uint16), picture.reshape(70, 90)]
    assert len({read_in_process(values).sha256 for values in different}) == 4


def test_reading_a_png_loads_nothing_heavy(folder):
    heavy = [
        "PIL",
        "pydicom",
        "nibabel",
        "nrrd",
        "scipy",
        "skimage",
        "pandas",
        "matplotlib",
        "tensorflow",
        "keras",
    ]
    code = (
        f"import sys; from brain_tumor.io.read import read; read({str(folder / 'a.png')!r}); "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
