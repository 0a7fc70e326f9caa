"""Bad input raises a BrainTumorError with the fitting code, and nothing is lost."""

import builtins
import bz2
import gzip
import io
import os
import re
import struct
import sys
import time
import tracemalloc
import zlib

import cv2
import nibabel
import nrrd
import numpy as np
import pytest
import resource_use
from dicoms import dicom, in_bytes
from errors import raises
from PIL import Image
from pydicom.encaps import encapsulate

from brain_tumor.io.decode import read_in_process
from brain_tumor.io.errors import BrainTumorError, ErrorCode
from brain_tumor.io.files import expand_sources, write_whole


def refusal(source, code=None, *parts, **options):
    """Read what must be rejected; check the code and that the message names all `parts`.

    The message has the form 'input: what is wrong. Remedy.' and is returned.
    """
    with pytest.raises(BrainTumorError) as caught:
        read_in_process(source, **options)
    message = str(caught.value)
    assert re.fullmatch(r"(?s).+: .+\. .+[.)]", message), message
    assert len(message) < 600
    assert code is None or caught.value.code == code, (caught.value.code, message)
    assert not [part for part in parts if str(part) not in message], message
    return message


@pytest.fixture(scope="module")
def picture():
    r, c = np.mgrid[:96, :80]
    return (r * 2 + c // 2).astype(np.uint8)


@pytest.fixture(scope="module")
def smooth():
    """Large enough that half a JPEG of it still holds scan lines."""
    noise = np.random.default_rng(0).normal(size=(256, 256))
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(
        np.uint8
    )


def encoded(values, kind, **options):
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **options)
    return out.getvalue()


# ---------------------------------------------------------------- paths


def test_missing_path(tmp_path):
    for source in (tmp_path / "nowhere.png", str(tmp_path / "no" / "where.dcm")):
        refusal(source, ErrorCode.FILE_NOT_FOUND, source)


def test_folder_is_not_one_scan(tmp_path):
    refusal(tmp_path, ErrorCode.ARGUMENT_INVALID, tmp_path)


def test_folder_without_scans(tmp_path):
    (tmp_path / "notes.txt").write_text("none here")
    with raises(ErrorCode.FILE_NOT_FOUND, tmp_path):
        expand_sources(tmp_path)


def test_pattern_without_match(tmp_path):
    with raises(ErrorCode.FILE_NOT_FOUND, tmp_path):
        expand_sources(f"{tmp_path}/**/*.png")


def test_odd_paths():
    for source in ("", "a\0b.png", "x" * 5000 + ".png", "https://example.org/scan.png"):
        refusal(source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refusal(tmp_path / "pipe.png", ErrorCode.FORMAT_UNSUPPORTED, "pipe.png")


# ---------------------------------------------------------------- content


def test_empty_file(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    refusal(tmp_path / "empty.png", ErrorCode.FILE_UNREADABLE, "empty.png")
    used = io.BytesIO(b"abc")
    used.read()
    refusal(used, ErrorCode.FILE_UNREADABLE, "seek(0)")
    refusal(b"", ErrorCode.FILE_UNREADABLE)


def test_text_renamed(tmp_path):
    for name in ("scan.png", "scan.dcm", "scan.nii", "scan"):
        (tmp_path / name).write_text("Dear colleague,\nplease find the scan attached.\n" * 40)
        refusal(tmp_path / name, ErrorCode.FORMAT_UNSUPPORTED, name)


def test_file_opened_as_text(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with (tmp_path / "a.txt").open() as opened:
        refusal(opened, ErrorCode.ARGUMENT_INVALID, "a.txt")


def test_noise_and_other_formats():
    rng = np.random.default_rng(3)
    for n in (1, 7, 131, 133, 5000):
        refusal(rng.bytes(n))
    for start in (
        b"PK\x03\x04",
        b"%PDF-1.7\n",
        b"\x7fELF",
        b"BM",
        b"\x1f\x8b",
        b"NRRD0004\n",
        b"II*\0",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"\x08\0\x05\0CS\x0a\0",
        bytes(128) + b"DICM",
        struct.pack("<i", 348) + bytes(340) + b"n+1\0",
    ):
        refusal(start)
        refusal(start + rng.bytes(2000))


@pytest.mark.parametrize("part", [0.02, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(
    "kind, options",
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("TIFF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_half_a_file_is_not_half_decoded(smooth, kind, options, part):
    data = encoded(smooth, kind, **options)
    read_in_process(data)
    refusal(data[: int(len(data) * part)])


def test_truncated_jpeg_with_a_whole_thumbnail_in_it(smooth):
    """The end marker of the thumbnail must not pass for that of the picture."""
    thumbnail = encoded(smooth[:64, :64].copy(), "JPEG")
    app1 = b"Exif\0\0" + thumbnail
    data = encoded(smooth, "JPEG", quality=95)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + data[2:]
    read_in_process(data)
    refusal(data[: len(data) * 2 // 3], ErrorCode.FILE_UNREADABLE)


def test_damaged_png(smooth):
    data = bytearray(encoded(smooth, "PNG"))
    data[len(data) // 2] ^= 0x55
    refusal(data, ErrorCode.FILE_UNREADABLE)


def test_truncated_medical_files(tmp_path, smooth):
    volume = np.dstack([smooth] * 5)
    whole = nibabel.Nifti1Image(volume, np.eye(4)).to_bytes()
    nrrd.write(str(tmp_path / "a.nrrd"), volume, {"encoding": "raw"})
    nrrd.write(str(tmp_path / "z.nrrd"), volume)
    for data in (
        whole,
        gzip.compress(whole),
        (tmp_path / "a.nrrd").read_bytes(),
        (tmp_path / "z.nrrd").read_bytes(),
    ):
        read_in_process(data, slice=2)
        for part in (0.001, 0.5, 0.99):
            refusal(data[: int(len(data) * part)], slice=2)
    data = in_bytes(dicom(smooth))
    for part in (0.01, 0.5, 0.99):
        refusal(data[: int(len(data) * part)])


# ---------------------------------------------------------------- sizes


def bomb(width, height):
    """A well-formed grey PNG of all zeros, made without ever holding the picture."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    packer, parts = zlib.compressobj(9), []
    line = bytes(1 + (width + 7) // 8)
    for _ in range(height):
        parts.append(packer.compress(line))
    data = b"".join(parts) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def memory_of_refusal(data, code, *parts, **options):
    read_in_process(np.arange(32.0 * 32).reshape(32, 32))  # what is loaded once is loaded before
    try:
        read_in_process(data, **options)
    except BrainTumorError:
        pass
    tracemalloc.start()
    refusal(data, code, *parts, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_png_of_400_megapixels_in_50_kilobytes(tmp_path, monkeypatch):
    data = bomb(20_000, 20_000)
    assert len(data) < 60_000
    (tmp_path / "bomb.png").write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    peak = memory_of_refusal(tmp_path / "bomb.png", ErrorCode.TOO_LARGE, "bomb.png", "400 million")
    assert peak < 2_000_000


def test_other_pictures_that_announce_too_much(picture):
    jpeg = bytearray(encoded(picture, "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    bmp = bytearray(encoded(picture, "BMP"))
    bmp[18:26] = struct.pack("<ii", 30_000, 30_000)
    tiff = bytearray(encoded(picture, "TIFF"))
    for tag in (256, 257):
        at = (
            tiff.index(struct.pack("<HHI", tag, 3, 1))
            if struct.pack("<HHI", tag, 3, 1) in tiff
            else tiff.index(struct.pack("<HHI", tag, 4, 1))
        )
        tiff[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 10_000)
    gif = bytearray(encoded(picture, "GIF"))
    gif[6:10] = struct.pack("<HH", 12_000, 12_000)
    for data, millions in ((jpeg, 3600), (bmp, 900), (tiff, 100), (gif, 144)):
        # beyond 178 million Pillow is the first to reject it
        parts = [f"{millions} million"] if millions < 178 else []
        assert memory_of_refusal(bytes(data), ErrorCode.TOO_LARGE, *parts) < 5_000_000


def test_dicom_that_announces_too_much(picture):
    data = in_bytes(dicom(picture, Rows=30_000, Columns=30_000))
    assert memory_of_refusal(data, ErrorCode.TOO_LARGE, "900 million") < 5_000_000


def test_nifti_gzip_bomb_is_refused_from_its_header():
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((4000, 4000, 4000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    data = gzip.compress(header.binaryblock + bytes(4) + bytes(3_000_000))
    assert memory_of_refusal(data, ErrorCode.TOO_LARGE, slice=0) < 5_000_000


def test_gzip_is_unpacked_no_further_than_the_volume(picture):
    """A small volume with a hundred megabytes of zeros behind it."""
    whole = nibabel.Nifti1Image(np.dstack([picture] * 3), np.eye(4)).to_bytes()
    packed = gzip.compress(whole + bytes(100_000_000))
    tracemalloc.start()
    read_in_process(packed, slice=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_nrrd_bombs(tmp_path):
    text = "NRRD0004\ntype: double\ndimension: 3\nsizes: {}\nencoding: gzip\nendian: little\n\n"
    large = text.format("4000 4000 4000").encode() + gzip.compress(bytes(1000))
    assert memory_of_refusal(large, ErrorCode.TOO_LARGE, slice=0) < 5_000_000
    small = text.format("16 16 16").encode() + gzip.compress(bytes(100_000_000))
    assert memory_of_refusal(small, ErrorCode.TOO_SMALL, slice=0) < 5_000_000


def test_deflated_dicom_bomb(picture, monkeypatch):
    whole = in_bytes(dicom(picture, syntax="1.2.840.10008.1.2.1.99"))
    np.testing.assert_allclose(read_in_process(whole).pixels, picture / 255, atol=1e-6)
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(40)) + packer.flush()
    monkeypatch.setattr("brain_tumor.io.dicom.MAX_BYTES", 1 << 24)
    refusal(whole[:start] + body, ErrorCode.TOO_LARGE)


@pytest.mark.parametrize("side", [1, 8, 31])
def test_too_small(side):
    values = np.arange(side * side, dtype=np.uint8).reshape(side, side)
    for source in (
        values,
        encoded(values, "PNG"),
        encoded(values, "BMP"),
        encoded(values, "JPEG"),
        in_bytes(dicom(values)),
    ):
        refusal(source, ErrorCode.TOO_SMALL, f"{side} x {side}", "32")
    refusal(np.zeros((32, 31)), ErrorCode.TOO_SMALL)


def test_32_pixels_a_side_are_enough():
    assert read_in_process(np.arange(1024).reshape(32, 32)).pixels.shape == (32, 32)


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(picture, bad):
    values = picture / 255
    values[5, 5] = bad
    volume = nibabel.Nifti1Image(np.dstack([values] * 3), np.eye(4)).to_bytes()
    refusal(values, ErrorCode.IMAGE_INVALID)
    refusal(volume, ErrorCode.IMAGE_INVALID, slice=1)
    refusal(Image.fromarray(values.astype(np.float32)), ErrorCode.IMAGE_INVALID)


def test_values_beyond_all_measure(picture):
    values = picture.astype(float)
    values[0, 0], values[0, 1] = -1.7e308, 1.7e308
    refusal(values, ErrorCode.IMAGE_INVALID)


@pytest.mark.parametrize("value", [0, 7, 255, 0.5, -3.25])
def test_constant(value):
    refusal(np.full((64, 64), value), ErrorCode.IMAGE_INVALID)
    refusal(np.full((64, 64, 3), value), ErrorCode.IMAGE_INVALID)


def test_constant_picture_file(tmp_path):
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((64, 64), np.uint8))
    refusal(tmp_path / "black.png", ErrorCode.IMAGE_INVALID, "black.png")


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (100,),
        (64, 64, 2),
        (64, 64, 5),
        (155, 240, 240),
        (3, 64, 64),
        (2, 64, 64, 3),
        (0, 64),
        (64, 0),
    ],
)
def test_wrong_shape(shape):
    refusal(np.zeros(shape))


def test_a_volume_as_an_array_says_how_to_give_a_slice():
    volume = np.zeros((155, 240, 240))
    refusal(volume, ErrorCode.IMAGE_INVALID, "(155, 240, 240)", "volume[:, :, k]")


@pytest.mark.parametrize(
    "values",
    [
        np.ones((64, 64), bool),
        np.ones((64, 64), complex),
        np.full((64, 64), "a"),
        np.full((64, 64), None),
        np.zeros((64, 64), "M8[s]"),
        np.zeros((64, 64), [("r", "u1"), ("g", "u1")]),
    ],
)
def test_wrong_type_of_array(values):
    refusal(values, ErrorCode.IMAGE_INVALID)


@pytest.mark.parametrize("source", [None, 7, 3.5, {}, object(), [1, 2], (), np.float64(3)])
def test_what_is_no_source(source):
    refusal(source)


# ---------------------------------------------------------------- spacing


@pytest.mark.parametrize(
    "spacing",
    [
        0,
        -1,
        (0.5, 0),
        (0.5, -0.5),
        (),
        (1, 2, 3),
        np.nan,
        np.inf,
        (0.5, np.nan),
        "wide",
        "0.5mm",
        {},
        True,
        np.ones((2, 2)),
        1j,
    ],
)
def test_wrong_spacing(picture, spacing):
    refusal(picture, ErrorCode.SPACING_INVALID, "spacing=", spacing=spacing)


@pytest.mark.parametrize("pair", [[0, 0], [-0.5, 0.5], [0.5, 0]])
def test_wrong_spacing_in_a_file_can_be_overridden(picture, pair):
    data = in_bytes(dicom(picture, PixelSpacing=pair))
    refusal(data, ErrorCode.SPACING_INVALID)
    assert read_in_process(data, spacing=0.5).spacing == (0.5, 0.5)


# ---------------------------------------------------------------- slices


def test_slice_or_axis_where_there_is_none(tmp_path, picture):
    for source in (
        picture,
        encoded(picture, "PNG"),
        encoded(picture, "TIFF"),
        encoded(picture, "JPEG"),
        in_bytes(dicom(picture)),
        Image.fromarray(picture),
    ):
        refusal(source, ErrorCode.SELECTION_INVALID, "slice=3", slice=3)
        refusal(source, ErrorCode.SELECTION_INVALID, "axis=2", axis=2)
        read_in_process(source, slice=0)


@pytest.mark.parametrize("wanted", [-1, 5, 2.0, "2", True, (1, 2), None])
def test_wrong_slice_of_a_volume(picture, wanted):
    data = nibabel.Nifti1Image(np.dstack([picture] * 5), np.diag([1, 1, 4, 1.0])).to_bytes()
    code = ErrorCode.SELECTION_NEEDED if wanted is None else ErrorCode.SELECTION_INVALID
    parts = ("5 slices across axis 2 (axial)", "slice=0 to slice=4")
    others = ("axis=0 sagittal (96)", "axis=1 coronal (80)")
    refusal(data, code, *parts, *others, slice=wanted)


@pytest.mark.parametrize("axis", [3, -1, "oblique", 1.5, True, (0, 1)])
def test_wrong_axis(picture, axis):
    data = nibabel.Nifti1Image(np.dstack([picture] * 5), np.eye(4)).to_bytes()
    refusal(data, ErrorCode.SELECTION_INVALID, f"axis={axis!r}", slice=2, axis=axis)


def test_pages_without_a_choice(picture):
    out = io.BytesIO()
    Image.fromarray(picture).save(
        out, "TIFF", save_all=True, append_images=[Image.fromarray(picture[::-1].copy())] * 3
    )
    refusal(out.getvalue(), ErrorCode.SELECTION_NEEDED, "4 images")
    refusal(out.getvalue(), ErrorCode.SELECTION_INVALID, "slice=4", "4 images", slice=4)


def test_four_dimensions_without_a_choice(picture):
    four = np.stack([np.dstack([picture] * 5)] * 3, -1)
    data = nibabel.Nifti1Image(four, np.eye(4)).to_bytes()
    for wanted in (None, 2, (2,), (2, 1, 0)):
        parts = ("3 volumes", "96 x 80 x 5 x 3", "slice=(k, t)")
        refusal(data, ErrorCode.SELECTION_NEEDED, *parts, slice=wanted)
    refusal(data, ErrorCode.SELECTION_INVALID, "3 volumes", slice=(2, 3))
    refusal(data, ErrorCode.SELECTION_INVALID, "5 slices", slice=(9, 0))


def test_affine_that_is_none(picture):
    for affine in (np.diag([1, 1, 0, 1.0]), np.diag([np.nan, 1, 1, 1])):
        image = nibabel.Nifti1Image(np.dstack([picture] * 5), None)
        image.header["sform_code"] = 1
        for k, row in enumerate(("srow_x", "srow_y", "srow_z")):
            image.header[row] = affine[k]
        data = bytearray(nibabel.Nifti1Image(np.dstack([picture] * 5), np.eye(4)).to_bytes())
        data[280:328] = affine[:3].astype("<f4").tobytes()
        refusal(data, ErrorCode.SPACING_INVALID, slice=2)


# ---------------------------------------------------------------- DICOM


def test_dicom_without_pixels(picture):
    data = dicom(picture)
    del data.PixelData
    for source in (data, in_bytes(data)):
        refusal(source, ErrorCode.DATA_MISSING)
    data = dicom(picture)
    del data.Rows
    refusal(data, ErrorCode.DATA_MISSING)


def test_dicom_mask_is_no_scan(picture):
    data = dicom(np.packbits(picture > 50, axis=None, bitorder="little").reshape(-1, 8))
    data.Rows, data.Columns = picture.shape
    data.BitsAllocated = data.BitsStored = 1
    data.HighBit = 0
    refusal(data, ErrorCode.IMAGE_INVALID)


@pytest.mark.parametrize(
    "syntax, name", [("1.2.840.10008.1.2.4.102", "MPEG-4"), ("1.2.840.10008.1.2.4.92", "JPEG 2000")]
)
def test_dicom_with_a_codec_that_is_not_there(picture, syntax, name):
    data = dicom(picture, syntax=syntax)
    data.PixelData = encapsulate([b"\0\1\2\3" * 20])
    data["PixelData"].is_undefined_length = True
    refusal(in_bytes(data), ErrorCode.FORMAT_UNSUPPORTED, name)


def test_dicom_with_a_damaged_stream(picture):
    data = dicom(picture, syntax="1.2.840.10008.1.2.4.90")
    data.PixelData = encapsulate([b"no stream at all"])
    data["PixelData"].is_undefined_length = True
    refusal(in_bytes(data), ErrorCode.FORMAT_UNSUPPORTED, "JPEG 2000")


def test_rubbish_is_never_forced_into_dicom(monkeypatch, tmp_path):
    import pydicom

    monkeypatch.setattr(pydicom, "dcmread", lambda *_, **__: pytest.fail("forced"))
    rng = np.random.default_rng(5)
    for _ in range(200):
        refusal(b"\x99" + rng.bytes(400))


# ---------------------------------------------------------------- NRRD with data elsewhere


def test_nhdr_does_not_reach_outside_its_folder(tmp_path, picture):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.raw").write_bytes(picture.tobytes() * 3)
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 96 80 3\nencoding: raw\ndata file: {}\n"
    for name in (
        "../secret.raw",
        str(tmp_path / "secret.raw"),
        "missing.raw",
        "LIST",
        "s%d.raw 1 3 1",
    ):
        (tmp_path / "inside" / "a.nhdr").write_text(header.format(name))
        refusal(tmp_path / "inside" / "a.nhdr", ErrorCode.FILE_NOT_FOUND, "a.nhdr", slice=1)
    (tmp_path / "inside" / "own.raw").write_bytes(picture.tobytes() * 3)
    (tmp_path / "inside" / "a.nhdr").write_text(header.format("own.raw"))
    assert read_in_process(tmp_path / "inside" / "a.nhdr", slice=1).format == "NRRD"
    header = (tmp_path / "inside" / "a.nhdr").read_bytes()
    refusal(header, ErrorCode.FILE_NOT_FOUND, slice=1)


def test_half_of_a_nifti_pair(picture):
    data = bytearray(nibabel.Nifti1Image(np.dstack([picture] * 3), np.eye(4)).to_bytes())
    data[344:348] = b"ni1\0"
    refusal(data, ErrorCode.FORMAT_UNSUPPORTED, slice=1)


def test_gzip_of_something_else(picture):
    refusal(gzip.compress(encoded(picture, "PNG")), ErrorCode.FORMAT_UNSUPPORTED)


# ---------------------------------------------------------------- found by test_fuzz.py


def test_a_jpeg_in_a_dicom_file_that_announces_more_than_the_file(picture):
    """A stream of 3,000 million pixels in a file of 96 x 80: the decoder used all memory."""
    for marker, syntax, kind in (
        (b"\xff\xc0", "1.2.840.10008.1.2.4.50", "JPEG"),
        (b"\xff\x4f\xff\x51", "1.2.840.10008.1.2.4.90", "JPEG2000"),
    ):
        stream = bytearray(
            encoded(picture, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
        )
        at = stream.index(marker)
        whole = dicom(picture, syntax=syntax)
        for sizes in (None, (65_000, 50_000), (0, 2)):
            if sizes and kind == "JPEG":
                stream[at + 5 : at + 9] = struct.pack(">HH", *sizes)
            elif sizes:
                stream[at + 8 : at + 16] = struct.pack(">II", *sizes[::-1])
            whole.PixelData = encapsulate([bytes(stream)])
            whole["PixelData"].is_undefined_length = True
            code = ErrorCode.FILE_UNREADABLE
            if sizes == (0, 2):  # without rows: the decoder allocated more and more of them
                refusal(in_bytes(whole), code, "2 x 0")
            elif sizes:
                parts = ("50000 x 65000", "80 x 96")
                assert memory_of_refusal(in_bytes(whole), code, *parts) < 5_000_000
            else:
                assert read_in_process(in_bytes(whole)).pixels.shape == picture.shape


def test_jpeg_ls_in_a_dicom_file_that_announces_more_than_the_file():
    from brain_tumor.io.dicom import _stream_size

    assert _stream_size(
        b"\xff\xd8\xff\xf7\0\x0b\x08" + struct.pack(">HH", 50_000, 65_535) + bytes(9)
    ) == (65_535, 50_000)


def test_a_header_in_the_wrong_place(smooth):
    data = encoded(smooth, "PNG")
    refusal(data[:8] + data[33:], ErrorCode.FILE_UNREADABLE)
    refusal(data[:33] + data[8:], ErrorCode.FILE_UNREADABLE)


def test_a_jpeg_that_is_larger_than_its_bytes_can_be(smooth):
    """It was read, almost all of it grey."""
    data = bytearray(encoded(smooth, "JPEG", progressive=True))
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", 7000, 7000)
    refusal(data, ErrorCode.FILE_UNREADABLE)


def test_a_jpeg_of_endless_passes(smooth):
    """Each pass of a few bytes paints the whole picture again: minutes of work in a small file."""
    data = encoded(smooth, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    read_in_process(data[:-2] + last * 5 + data[-2:])
    refusal(data[:-2] + last * 100 + data[-2:], ErrorCode.TOO_LARGE, "100")


def test_a_jpeg_of_many_beginnings_and_no_end():
    """For each beginning the whole file was searched for an end: time grew with the square."""
    spent = []
    for count in (100_000, 400_000):
        before = time.process_time()
        refusal(b"\xff\xd8" + b"\xff\xda\0\x02" * count, ErrorCode.FILE_UNREADABLE)
        spent.append(time.process_time() - before)
    assert spent[1] < 10


def test_nrrd_that_skips_a_million_lines():
    """For each line the rest of the file was copied."""
    header = (
        b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 64 64 2\nencoding: raw\nline skip: 500000\n\n"
    )
    body = bytes(range(256)) * 32
    assert read_in_process(header + b"\n" * 500_000 + body, slice=1, axis=2).pixels.shape == (
        64,
        64,
    )
    refusal(header + b"\n" * 400_000 + bytes(8192), ErrorCode.FILE_UNREADABLE, slice=1)


def test_files_that_say_they_hold_nothing(picture):
    empty = bytearray(encoded(picture, "TIFF"))
    out = nibabel.Nifti1Image(np.dstack([picture] * 3), np.eye(4)).to_bytes()
    for count in (0, -5):
        data = bytearray(out)
        data[46:48] = struct.pack("<h", count)  # dim[3]
        refusal(data, slice=0)
    empty[4:8] = struct.pack("<I", len(empty))  # its first page lies behind its end
    refusal(empty)
    data = in_bytes(dicom(picture, NumberOfFrames=-4))
    refusal(data, ErrorCode.FILE_UNREADABLE, "-4")


def test_a_damaged_header_is_mended_in_silence(picture, capfd):
    data = bytearray(nibabel.Nifti1Image(np.dstack([picture] * 3), np.eye(4)).to_bytes())
    data[252:254] = struct.pack("<h", 31)  # a qform code that there isn't
    data[80:92] = bytes(12)  # no spacing
    read_in_process(data, slice=1)
    assert capfd.readouterr() == ("", "")


def test_pictures_that_pillow_finds_too_large_are_said_to_be(picture):
    data = bytearray(encoded(picture, "GIF"))
    data[6:10] = struct.pack("<HH", 60_000, 60_000)
    refusal(data, ErrorCode.TOO_LARGE, "50 million")


def test_what_a_decoder_quotes_is_not_repeated(picture):
    """It may be a patient's: here the number of frames was overwritten by a name."""
    data = in_bytes(dicom(picture, NumberOfFrames="123456")).replace(b"123456", b"DOE^JO", 1)
    assert b"DOE^JO" in data and "DOE" not in refusal(data, ErrorCode.FILE_UNREADABLE)


# ---------------------------------------------------------------- found by reviewing the code

HEADER = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: {}\nencoding: {}\n{}\n"


@pytest.mark.parametrize(
    "sizes, encoding, more, code",
    [
        ("0 64 3", "gzip", "", ErrorCode.FILE_UNREADABLE),
        ("-1 64 3", "bzip2", "", ErrorCode.FILE_UNREADABLE),
        ("-1 64 3", "gzip", "", ErrorCode.FILE_UNREADABLE),
        ("64 64 3", "gzip", "byte skip: 99999999999\n", ErrorCode.TOO_LARGE),
        ("64 64 3", "bzip2", "byte skip: 99999999999\n", ErrorCode.TOO_LARGE),
    ],
)
def test_nrrd_bombs_without_a_limit(sizes, encoding, more, code):
    """A limit of 0 bytes or less means no limit, and skipped bytes are decompressed as well."""
    pack = gzip.compress if encoding == "gzip" else bz2.compress
    data = HEADER.format(sizes, encoding, more).encode() + pack(bytes(50_000_000))
    assert memory_of_refusal(data, code, slice=0) < 5_000_000


def test_nrrd_whose_header_takes_forever_to_split():
    """Two megabytes, 44 seconds: the words of a line are cut off one letter at a time."""
    text = HEADER.format("64 64 2", "raw", "units: {}\n")
    before = time.process_time()
    header = text.format("a" * 2_000_000).encode()
    refusal(header + bytes(8192), ErrorCode.TOO_LARGE, "64 kB", slice=0)
    refusal(header[:-2], ErrorCode.TOO_LARGE, "64 kB", slice=0)
    assert time.process_time() - before < 2
    body = bytes(range(256)) * 512
    assert read_in_process(text.format("a b c").encode() + body, slice=1, axis=2).pixels.shape == (
        64,
        64,
    )


@pytest.mark.parametrize("marker", [0, 1, *range(0xD0, 0xDA)])
def test_a_jpeg_with_a_marker_that_has_no_length(picture, monkeypatch, marker):
    """The decoder continues behind it and finds 32,000 x 32,000 pixels.

    A check that skips a length there would see a small picture.
    """
    plain = encoded(picture, "JPEG")
    large = b"\xff\xc0\0\x0b\x08" + struct.pack(">HH", 32_000, 32_000) + b"\1\1\x11\0"
    data = (
        (b"\xff\xd8\xff" + bytes([marker]) + large).ljust(4 + 0xFFC0, b"\0")
        + plain[2:].ljust(2_100_000, b"\0")
        + b"\xff\xd9"
    )
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    refusal(data, ErrorCode.FILE_UNREADABLE)


def test_a_jpeg_of_nothing_but_fill_bytes(picture):
    """Any number of them may stand before a marker; they are skipped at once."""
    data = encoded(picture, "JPEG")
    before = time.process_time()
    assert np.array_equal(
        read_in_process(data[:2] + b"\xff" * 1000 + data[2:]).pixels, read_in_process(data).pixels
    )
    refusal(b"\xff\xd8" + b"\xff" * 50_000_000, ErrorCode.FILE_UNREADABLE)
    assert time.process_time() - before < 2


def chunk(kind, body):
    """A part of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_png_with_texts_that_unfold(picture, monkeypatch):
    """A hundred texts in 800 kB took 800 MB, beside a small picture, and nobody reads them."""
    data, packed, seen = encoded(picture, "PNG"), zlib.compress(bytes(8_000_000), 9), []
    texts = chunk(b"zTXt", b"a\0\0" + packed) * 50 + chunk(b"iTXt", b"a\0\1\0\0\0" + packed) * 50
    real = cv2.imdecode
    monkeypatch.setattr(
        cv2, "imdecode", lambda data, how: seen.append(len(data)) or real(data, how)
    )
    resource_use.reset_peak()
    start = resource_use.resident_mb()
    assert np.array_equal(
        read_in_process(data[:33] + texts + data[33:]).pixels, picture / np.float32(255)
    )
    assert resource_use.peak_mb() - start < 100 and seen == [len(data)]


def test_a_png_is_the_same_without_what_it_can_do_without(picture):
    data = encoded(picture, "PNG")
    for kind, body in (
        (b"gAMA", struct.pack(">I", 100_000)),
        (b"sBIT", b"\5"),
        (b"bKGD", b"\0\7"),
        (b"pHYs", struct.pack(">IIB", 1, 9, 1)),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
    ):
        assert np.array_equal(
            read_in_process(data[:33] + chunk(kind, body) + data[33:]).pixels,
            picture / np.float32(255),
        )


def test_a_packed_nifti_takes_its_size_once():
    """Its beginning was joined to the rest, which took the room of both."""
    block = np.random.default_rng(0).integers(0, 255, (64, 64, 5000), np.uint8)
    data = gzip.compress(nibabel.Nifti1Image(block, np.eye(4)).to_bytes(), 1)
    read_in_process(data, slice=3, axis=2)
    tracemalloc.start()
    read_in_process(data, slice=3, axis=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * block.nbytes


def test_the_name_of_a_file_in_a_header_is_not_repeated(tmp_path, picture):
    text = HEADER.format("96 80 3", "raw", "data file: DOE\x1b[2J.raw")
    (tmp_path / "a.nhdr").write_text(text)
    for source in (text.encode(), tmp_path / "a.nhdr"):
        message = refusal(source, ErrorCode.FILE_NOT_FOUND, slice=1)
        assert "DOE" not in message and message.isprintable()


# ---------------------------------------------------------------- nothing else gets out


def damaged(data, rng):
    """A few bytes changed, mostly near the head where they matter."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, min(len(data), 600 if rng.random() < 0.8 else len(data))))
        data[at] = int(rng.integers(0, 256))
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_and_nothing_else(picture, tmp_path):
    volume = np.dstack([picture] * 3)
    nrrd.write(str(tmp_path / "a.nrrd"), volume)
    nifti = nibabel.Nifti1Image(volume, np.eye(4)).to_bytes()
    sources = [
        (encoded(picture, kind), None) for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
    ]
    sources += [
        (in_bytes(dicom(picture, PixelSpacing=[1, 1], WindowCenter=9, WindowWidth=99)), None),
        (nifti, 1),
        (gzip.compress(nifti), 1),
        ((tmp_path / "a.nrrd").read_bytes(), 1),
    ]
    rng, refused = np.random.default_rng(11), 0
    for data, which in sources:
        for _ in range(25):
            try:
                scan = read_in_process(damaged(data, rng), slice=which)
                assert (
                    np.isfinite(scan.pixels).all()
                    and 0 <= scan.pixels.min() < scan.pixels.max() <= 1
                )
            except BrainTumorError as error:
                refused += error.args[0] != ""
    assert refused > 25


def test_missing_decoder_library_is_said_in_words(monkeypatch, picture):
    data = in_bytes(dicom(picture))
    for name in [n for n in sys.modules if n.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name, *rest, **options):
        if name.split(".")[0] == "pydicom":
            raise ImportError("No module named 'pydicom'")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    refusal(data, ErrorCode.DEPENDENCY_MISSING, "pydicom")


def test_the_decoders_own_words_are_kept_as_the_cause(picture):
    with pytest.raises(BrainTumorError) as caught:
        read_in_process(
            gzip.compress(nibabel.Nifti1Image(np.dstack([picture] * 3), np.eye(4)).to_bytes())[
                :200
            ],
            slice=1,
        )
    assert caught.value.__cause__ is not None


def test_names_in_messages_cannot_break_the_line(tmp_path):
    message = refusal(str(tmp_path / "a\nroot: all is well\nb.png"))
    assert "\n" not in message


def test_names_cannot_steer_the_terminal(tmp_path, picture, capsys):
    """Escapes in the name of a file: they could clear the screen, or paint another result on it."""
    from brain_tumor.cli import main
    from brain_tumor.inference.analyze import analyze

    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([picture] * 3))
    good = (tmp_path / "a.png").rename(tmp_path / "a\x1b[2J\n.png")
    (tmp_path / "b\x1b[2J.png").write_bytes(b"none")
    assert repr(read_in_process(good)).isprintable() and r"a\x1b[2J\n.png" in repr(
        read_in_process(good)
    )
    main(["analyze", str(tmp_path)])
    said = "".join(capsys.readouterr())
    assert "\x1b[2J" not in said and r"a\x1b[2J\n.png" in said and r"b\x1b[2J.png: " in said
    assert (
        str(tmp_path) not in next(iter(analyze([tmp_path / "b\x1b[2J.png"], progress=False))).error
    )


# ---------------------------------------------------------------- writing


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for target in (
        tmp_path / "file" / "out.png",
        tmp_path / "file" / "deeper" / "out.png",
        tmp_path / ("x" * 300),
    ):
        with raises(ErrorCode.WRITE_FAILED, target.name[-200:]):
            with write_whole(target) as beside:
                beside.write_text("never")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user"
)
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with raises(ErrorCode.WRITE_FAILED, tmp_path):
            with write_whole(tmp_path / "a.txt") as beside:
                beside.write_text("never")
    finally:
        tmp_path.chmod(0o700)


def test_disk_full_leaves_nothing(tmp_path):
    with raises(ErrorCode.WRITE_FAILED, "a.txt", "No space left on device"):
        with write_whole(tmp_path / "a.txt") as beside:
            beside.write_text("half")
            raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []
