"""Files that are nearly right: seeds of every format, and ways to damage their critical parts.

A seed is the bytes of a file. An edit is a small tuple, (what, where, with what); `damaged` applies
a list of them. Offsets are fractions of the file, so that one edit fits every seed; `field` edits
change numbers in headers.
"""

import gzip
import io
import re
import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path

import cv2
import nibabel
import nrrd
import numpy as np
import pydicom
import tifffile
from dicoms import dicom, in_bytes
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from brain_tumor.imaging.phantoms import phantom

FORMATS = ("PNG", "JPEG", "TIFF", "DICOM", "NIfTI", "NRRD", "others")
NASTY = (
    0,
    1,
    2,
    7,
    31,
    32,
    127,
    128,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    50_000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)


@cache
def head(size=64, seed=0):
    """A phantom's pixels, uint8."""
    return phantom("meningioma", seed=seed, size=size).pixels


def pillow(values, kind, mode=None, **options):
    out = io.BytesIO()
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(out, kind, **options)
    return out.getvalue()


def pngs():
    grey, text = head(), PngImagePlugin.PngInfo()
    text.add_text("Comment", "a phantom")
    clear = Image.fromarray(grey).quantize(16)
    out = io.BytesIO()
    clear.save(out, "PNG", transparency=3)
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        cv2.imencode(".png", grey)[1].tobytes(),
        cv2.imencode(".png", grey.astype(np.uint16) * 257)[1].tobytes(),
        cv2.imencode(".png", np.dstack([grey] * 4))[1].tobytes(),
        out.getvalue(),
        pillow(grey, "PNG", pnginfo=text, exif=turned),
        pillow(grey > 90, "PNG"),
        pillow(grey, "PNG", save_all=True, append_images=[Image.fromarray(255 - grey)]),
    ]


def jpegs():
    grey, turned = head(), Image.Exif()
    turned[0x0112] = 6
    return [
        pillow(grey, "JPEG"),
        pillow(grey, "JPEG", "RGB", progressive=True),
        pillow(grey, "JPEG", "CMYK"),
        pillow(grey, "JPEG", exif=turned),
        pillow(grey, "JPEG", "RGB", subsampling=2, restart_marker_blocks=2),
    ]


def tiffs():
    grey, made = head(), []
    for options in (
        {},
        {"compression": "zlib"},
        {"tile": (32, 32), "compression": "zlib"},
        {"bigtiff": True},
        {"planarconfig": "separate"},
        {"byteorder": ">"},
        {"predictor": True, "compression": "zlib"},
    ):
        out = io.BytesIO()
        values = (
            np.stack([grey] * 3)
            if "planarconfig" in options
            else grey.astype(np.uint16) * 257
            if "byteorder" in options
            else grey
        )
        tifffile.imwrite(out, values, **options)
        made.append(out.getvalue())
    for values in (grey / 255, np.dstack([grey.astype(np.uint16) * 257] * 3)):
        out = io.BytesIO()
        tifffile.imwrite(out, values)
        made.append(out.getvalue())
    made += [
        pillow(grey, "TIFF", compression=name)
        for name in ("tiff_lzw", "packbits", "jpeg", "tiff_adobe_deflate")
    ]
    made += [
        pillow(grey > 90, "TIFF", compression="group4"),
        pillow(grey, "TIFF", "P"),
        pillow(grey, "TIFF", "CMYK"),
    ]
    return made + [
        pillow(grey, "TIFF", save_all=True, append_images=[Image.fromarray(255 - grey)] * 2)
    ]


def encapsulated(syntax, stream, **tags):
    data = dicom(head(), syntax=syntax, **tags)
    data.PixelData = encapsulate([stream])
    data["PixelData"].is_undefined_length = True
    return in_bytes(data)


def compressed(syntax, values):
    data = dicom(values)
    compress(data, syntax, generate_instance_uid=False)
    return in_bytes(data)


def item(**tags):
    made = Dataset()
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    return made


def enhanced():
    """Several frames, with spacing and window in functional groups."""
    data = dicom(np.stack([head(), 255 - head()]), NumberOfFrames=2)
    data.SharedFunctionalGroupsSequence = Sequence(
        [item(PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.5, 0.5])]))]
    )
    data.PerFrameFunctionalGroupsSequence = Sequence(
        [
            item(
                FrameVOILUTSequence=Sequence([item(WindowCenter=120, WindowWidth=200)]),
                PixelValueTransformationSequence=Sequence(
                    [item(RescaleSlope=1, RescaleIntercept=0)]
                ),
            )
            for _ in range(2)
        ]
    )
    return in_bytes(data)


def looked_up():
    """With tables: for the modality, and for the display."""
    table = item(LUTDescriptor=[256, 0, 16], LUTData=struct.pack("<256H", *range(0, 65536, 256)))
    table["LUTData"].VR, table["LUTDescriptor"].VR = "OW", "US"
    data = dicom(head())
    data.VOILUTSequence = Sequence([table])
    return in_bytes(data)


def palette():
    data = dicom(head(), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(
            data,
            f"{colour}PaletteColorLookupTableData",
            struct.pack("<256H", *range(0, 65536, 256)),
        )
    return in_bytes(data)


def dicoms():
    grey = head()
    deep = grey.astype(np.uint16) * 16
    made = [
        in_bytes(
            dicom(
                deep,
                PixelSpacing=[0.5, 0.5],
                WindowCenter=2000,
                WindowWidth=4000,
                RescaleSlope=2,
                RescaleIntercept=-7,
            )
        ),
        in_bytes(dicom(grey, syntax=ImplicitVRLittleEndian)),
        in_bytes(dicom(grey, syntax=DeflatedExplicitVRLittleEndian)),
        compressed(RLELossless, deep),
        compressed(JPEG2000Lossless, deep),
        compressed(JPEG2000Lossless, grey),
        encapsulated(JPEGBaseline8Bit, pillow(grey, "JPEG")),
        encapsulated(JPEGExtended12Bit, pillow(grey, "JPEG")),
        encapsulated(JPEGBaseline8Bit, pillow(grey, "JPEG", progressive=True)),
        enhanced(),
        looked_up(),
        palette(),
        in_bytes(dicom(grey, syntax=ImplicitVRLittleEndian))[132:],
    ]
    kept = (
        Path(pydicom.__file__).parent / "data" / "test_files"
    )  # what nothing here can write: JPEG-LS, big endian
    return made + [
        path.read_bytes()
        for name in ("MR_small_jpeg_ls_lossless", "MR_small_bigendian")
        if (path := kept / f"{name}.dcm").is_file()
    ]


def niftis():
    block = np.dstack([head()] * 3)
    made = [
        nibabel.Nifti1Image(block, np.diag([0.5, 0.5, 5, 1])).to_bytes(),
        nibabel.Nifti1Image(block.astype(np.float32) / 255, np.eye(4)).to_bytes(),
        nibabel.Nifti2Image(block.astype(np.int16), np.eye(4)).to_bytes(),
        nibabel.Nifti1Image(block, np.eye(4), nibabel.Nifti1Header(endianness=">")).to_bytes(),
    ]
    scaled = nibabel.Nifti1Image(block.astype(np.int16), np.diag([-1, -1, 3, 1]))
    scaled.header.set_slope_inter(2, -5)
    made.append(scaled.to_bytes())
    return made + [gzip.compress(data, mtime=0) for data in made[:3]]


def nrrds():
    block, made = np.dstack([head()] * 3), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.nrrd"
        for encoding in ("raw", "gzip", "bzip2", "ascii"):
            nrrd.write(str(path), block, {"encoding": encoding, "spacings": [0.5, 0.5, 5]})
            made.append(path.read_bytes())
        nrrd.write(
            str(path),
            block.astype(np.float32),
            {
                "space": "left-posterior-superior",
                "space origin": [0, 0, 0],
                "space directions": np.diag([0.5, 0.5, 5]),
                "kinds": ["domain"] * 3,
            },
        )
        return [*made, path.read_bytes()]


def others():
    grey = head()
    return [
        pillow(grey, "BMP"),
        pillow(grey, "BMP", "RGB"),
        pillow(grey, "GIF"),
        pillow(grey, "WEBP"),
        pillow(grey, "WEBP", lossless=True),
        pillow(grey, "GIF", save_all=True, append_images=[Image.fromarray(255 - grey)]),
    ]


MAKERS = {
    "PNG": pngs,
    "JPEG": jpegs,
    "TIFF": tiffs,
    "DICOM": dicoms,
    "NIfTI": niftis,
    "NRRD": nrrds,
    "others": others,
}


@cache
def seeds(kind):
    """All seeds of a format, as bytes."""
    return MAKERS[kind]()


# ---------------------------------------------------------------- where it hurts


@cache
def fields(kind, number):
    """(offset, width, byte order) of numbers in the headers: lengths, sizes, counts, offsets."""
    data = seeds(kind)[number]
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    return {
        "PNG": png_fields,
        "JPEG": jpeg_fields,
        "TIFF": tiff_fields,
        "DICOM": dicom_fields,
        "NIfTI": nifti_fields,
    }.get(kind, head_fields)(data)


def head_fields(data):
    return [(at, width, "<") for at in range(0, min(len(data), 120) - 8) for width in (1, 2, 4)]


def png_fields(data):
    found, at = [], 8
    while at + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        found += [(at, 4, ">")] + [
            (at + 8 + k, 4 if k < 8 else 1, ">") for k in (0, 4, 8, 9, 10, 11, 12) if k < length
        ]
        at += 12 + length
    return found


def jpeg_fields(data, start=0):
    found, at = [], start + 2
    while at + 9 < len(data) and data[at] == 0xFF:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        found += [
            (at + 1, 1, ">"),
            (at + 2, 2, ">"),
            *((at + 4 + k, 1, ">") for k in range(min(length - 2, 20))),
        ]
        found += [(at + 5, 2, ">"), (at + 7, 2, ">")]
        at += 2 + length
    return found


def tiff_fields(data):
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    word, entry = (8, 20) if big else (4, 12)
    found, at = (
        [(word if not big else 8, word, order)],
        int.from_bytes(data[8:16] if big else data[4:8], "little" if order == "<" else "big"),
    )
    count = int.from_bytes(data[at : at + (8 if big else 2)], "little" if order == "<" else "big")
    first = at + (8 if big else 2)
    for k in range(count):
        here = first + k * entry
        found += [
            (here, 2, order),
            (here + 2, 2, order),
            (here + 4, word, order),
            (here + 4 + word, word, order),
            (here + 4 + word, 2, order),
        ]
    return found + [(at, 2, order), (first + count * entry, word, order)]


def dicom_fields(data):
    found = (
        [(at, width, "<") for at in range(132, min(len(data), 200), 2) for width in (2, 4)]
        if data[128:132] == b"DICM"
        else []
    )
    for tag in (
        0x00280002,
        0x00280008,
        0x00280010,
        0x00280011,
        0x00280100,
        0x00280101,
        0x00280102,
        0x00280103,
        0x7FE00010,
        0x00281050,
        0x00281052,
        0x00280030,
        0x00283010,
        0x00283002,
        0x52009229,
        0x52009230,
        0x00281101,
        0x00281201,
    ):
        for order in "<>":
            key = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
            at = data.find(key, 0 if len(data) < 132 else 100)
            if at > 0:
                found += [
                    (at + 4, 2, order),
                    (at + 6, 2, order),
                    (at + 8, 2, order),
                    (at + 8, 4, order),
                    (at + 4, 4, order),
                    (at + 12, 4, order),
                ]
    for match in re.finditer(
        rb"\xff\xd8\xff|\xff\x4f\xff\x51|\xfe\xff\x00\xe0", data
    ):  # a stream within: its headers as well
        found += [(match.start() + k, width, ">") for k in range(2, 48) for width in (1, 2, 4)]
    return [field for field in found if field[0] + field[1] <= len(data)]


def nifti_fields(data):
    order = "<" if data[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    if data[4:7] == b"n+2":
        return (
            [(at, 8, order) for at in range(16, 88, 8)]
            + [(12, 2, order), (14, 2, order)]
            + [(at, 8, order) for at in range(104, 240, 8)]
        )
    return (
        [(0, 4, order)]
        + [(at, 2, order) for at in (*range(40, 56, 2), 68, 70, 72, 74, 252, 254)]
        + [(123, 1, order)]
        + [(at, 4, order) for at in (*range(76, 108, 4), 108, 112, 116, *range(256, 328, 4))]
    )


LINES = (
    "sizes: 0 0 0",
    "sizes: -1 64 3",
    "sizes: 64 64",
    "sizes: 2147483647 2147483647 3",
    "sizes: 99999999999999999999 1 1",
    "sizes: 64 64 x",
    "dimension: 0",
    "dimension: 99",
    "dimension: 2",
    "type: block",
    "type: int8",
    "type: double",
    "type: novel",
    "encoding: hex",
    "encoding: zip",
    "encoding: gzip",
    "encoding: raw",
    "encoding: ascii",
    "endian: big",
    "endian: none",
    "byte skip: -1",
    "byte skip: 99999999999",
    "byte skip: -7",
    "line skip: 1000000",
    "line skip: -3",
    "line skip: 3",
    "data file: /etc/passwd",
    "data file: ../../x",
    "data file: LIST",
    "datafile: a%d.raw 1 9 1",
    "space: novel",
    "space dimension: 99",
    "space dimension: 3",
    "space directions: (0,0,0) (0,0,0) (0,0,0)",
    "space directions: none none none",
    "space directions: (nan,0,0) (0,inf,0) (0,0,1)",
    "space origin: (1,2)",
    "space origin: (nan,nan,nan)",
    "spacings: nan nan nan",
    "spacings: 0 0 0",
    "spacings: -1 1e308 1e-308",
    "kinds: list list list",
    "kinds: novel",
    "content: ",
    ":=",
    "key:=value",
    "#",
    "",
    "measurement frame: (1,0,0)",
    "axis mins: 1",
    "thicknesses: x y z",
    "number: 7",
    "block size: 9",
    "min: x",
    "old min: 3",
    'labels: "a" "b',
)


def renewed(data, kind):
    """With the checksums of a PNG put right again, so that the damage gets past the door."""
    if kind != "PNG":
        return data
    data, at = bytearray(data), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def damaged(kind, number, edits, mend=True):
    """A seed after its edits. `mend`: correct checksums, and edit inside a gzip file."""
    data = seeds(kind)[number]
    packed = mend and data[:2] == b"\x1f\x8b"
    data, where = bytearray(gzip.decompress(data) if packed else data), fields(kind, number)
    for what, place, value in edits:
        at = int(place * len(data))
        if what == "field" and where:
            at, width, order = where[int(place * len(where))]
            data[at : at + width] = (NASTY[value % len(NASTY)] % (1 << 8 * width)).to_bytes(
                width, "little" if order == "<" else "big"
            )
        elif what == "flip" and data:
            data[min(at, len(data) - 1)] ^= 1 << value % 8
        elif what == "near" and data:  # most of a format is decided in its first bytes
            data[min(int(place * min(len(data), 400)), len(data) - 1)] = value % 256
        elif what == "cut":
            del data[at:]
        elif what == "drop":
            del data[at : at + 1 + value % 64]
        elif what == "repeat":
            data[at:at] = data[max(0, at - 1 - value % 400) : at]
        elif what == "splice":
            other = seeds(kind)[value % len(seeds(kind))]
            data[at:] = other[int(place * len(other)) :]
        elif what == "line" and kind == "NRRD":
            lines = bytes(data).split(b"\n")
            lines[min(1 + int(place * 7), len(lines) - 1)] = LINES[value % len(LINES)].encode()
            data = bytearray(b"\n".join(lines))
    data = renewed(bytes(data), kind) if mend else bytes(data)
    return gzip.compress(data, 1, mtime=0) if packed else data
