"""Personal data stay in the file: no result, table, picture, page, message or log has them.

Each field is filled with a marker of its own. Then everything that was written is searched for
markers, decompressed as far as possible.
"""

import base64
import gzip
import json
import os
import re
import struct
import subprocess
import sys
import traceback
import zlib
from functools import cache
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from dicoms import dicom, in_bytes
from mutations import encapsulated, head, pillow
from PIL import Image, PngImagePlugin
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from brain_tumor import BrainTumorError, analyze
from brain_tumor.app.session import DOWNLOAD_KINDS, Session, result_file
from brain_tumor.inference.result import write_result_page
from brain_tumor.io.decode import read_in_process
from brain_tumor.io.read import read

ROOT = Path(__file__).resolve().parent.parent
MARK = "ZQ7K"  # all that is text begins with it
UID, DAY, NUMBER = "1.2.840.99999.77", "1688", "17712345"  # and what must be no text, with these
MARKERS = re.compile(
    rb"ZQ7K|Z\0Q\x007\0K\0|1\.2\.840\.99999\.77|16880[1-9][12]\d|17712345|101010\.177123"
)
IMAGE = (0x0002, 0x0028, 0x5200, 0x7FE0)  # groups that say how to read the pixels


def marker(vr, n):
    """A value that is allowed for such an element, and that nothing else contains."""
    return {
        "PN": f"{MARK}{n}^NAME",
        "UI": f"{UID}.{n}",
        "DA": f"{DAY}0{1 + n % 9}{10 + n % 18}",
        "DT": f"{DAY}0{1 + n % 9}{10 + n % 18}101010",
        "TM": f"101010.{NUMBER[:6]}",
        "AS": "077Y",
        "IS": f"{NUMBER}{n % 99:02}",
        "DS": f"{NUMBER}{n % 9999:04}",
        "CS": f"{MARK}{n}",
        "UR": f"http://{MARK}{n}",
    }.get(vr, f"{MARK}{n}")


def filled(data):
    """Every standard element that can hold text, a date or a UID, also in sequences."""
    inner = Dataset()
    for place in (data, inner):
        for n, (tag, (vr, *_)) in enumerate(sorted(DicomDictionary.items())):
            vr = vr.split(" ")[0]
            if (
                tag >> 16 not in IMAGE
                and tag != 0x00181164
                and tag >> 16 >= 8
                and vr in ("PN LO SH LT ST UT UI DA DT TM AS IS DS CS AE UC UR").split()
                and tag not in data
            ):
                place.add(DataElement(Tag(tag), vr, marker(vr, n)))
    for tag in (0x00101002, 0x00400275, 0x00081140, 0x00321064):
        data.add(DataElement(Tag(tag), "SQ", Sequence([inner])))
    for group in (0x0009, 0x0029, 0x7FE1):
        block = data.private_block(group, f"{MARK} PRIVATE {group}", create=True)
        for k, (vr, value) in enumerate(
            (
                ("LO", f"{MARK}LO"),
                ("UN", f"{MARK}UN".encode()),
                ("OB", f"{MARK}OB".encode()),
                ("PN", f"{MARK}^PN"),
            )
        ):
            block.add_new(k + 1, vr, value)
    data.add(DataElement(Tag(0x60000022), "LO", f"{MARK}OVERLAY"))
    data.add(DataElement(Tag(0x60003000), "OW", MARK.encode() * 128))
    data.add(DataElement(Tag(0xFFFCFFFC), "OB", MARK.encode() * 4))
    data.ImageComments = data.PatientComments = f"{MARK} comment"
    data.preamble = (MARK.encode() * 32)[:128]
    data.file_meta.ImplementationVersionName = f"{MARK}V"
    data.file_meta.SourceApplicationEntityTitle = f"{MARK}AE"
    data.file_meta.PrivateInformationCreatorUID, data.file_meta.PrivateInformation = (
        f"{UID}.1",
        f"{MARK}INFO".encode(),
    )
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{UID}.2"
    return data


@cache
def full_dicom(size=128):
    return in_bytes(filled(dicom(head(size), PixelSpacing=[0.9, 0.9])))


def with_profile(png):
    """A PNG with a colour profile that is none: libpng quotes the name of such a one."""
    body = (
        b"iCCP"
        + f"{MARK}profile".encode()
        + b"\0\0"
        + zlib.compress(np.random.default_rng(0).bytes(300))
    )
    return (
        png[:33]
        + struct.pack(">I", len(body) - 4)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + png[33:]
    )


def pictures():
    """Other formats with everything they can carry beside a picture."""
    grey, exif, text = head(128), Image.Exif(), PngImagePlugin.PngInfo()
    for tag in (0x010E, 0x013B, 0x013C, 0x8298, 0x0131, 0x9C9B, 0x9C9C):
        exif[tag] = f"{MARK}EXIF"
    exif.get_ifd(0x8825)[29] = f"{MARK}GPS"
    text.add_text("Patient", f"{MARK}tEXt")
    text.add_text("Packed", f"{MARK}zTXt", zip=True)
    text.add_itxt("Name", f"{MARK}iTXt", zip=True)
    volume = nibabel.Nifti1Image(np.dstack([grey] * 3), np.diag([0.9, 0.9, 5, 1]))
    for key in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
        volume.header[key] = f"{MARK}{key}"[:10].encode()
    volume.header.extensions.append(
        nibabel.nifti1.Nifti1Extension("comment", f"{MARK}extension".encode())
    )
    header = {
        "content": f"{MARK}content",
        "spacings": [0.9, 0.9, 5],
        "PatientName": f"{MARK}key",
        "labels": [f"{MARK}x", "y", "z"],
    }
    return {
        "a.png": pillow(grey, "PNG", pnginfo=text, exif=exif),
        "b.png": with_profile(pillow(grey, "PNG", pnginfo=text)),
        "c.jpg": pillow(
            grey, "JPEG", exif=exif, comment=f"{MARK}COM", xmp=f"<x>{MARK}XMP</x>".encode()
        ),
        "d.tif": pillow(
            grey,
            "TIFF",
            tiffinfo={
                270: f"{MARK}tiff",
                315: f"{MARK}artist",
                306: f"{MARK}time",
                316: f"{MARK}host",
            },
        ),
        "e.gif": pillow(grey, "GIF", comment=f"{MARK}GIF".encode()),
        "f.webp": pillow(grey, "WEBP", exif=exif, xmp=f"{MARK}".encode()),
        "g.nii": volume.to_bytes(),
        "h.nii.gz": gzip.compress(volume.to_bytes()),
        "i.nrrd": (np.dstack([grey.T] * 3), header),
    }


def write(folder):
    folder.mkdir()
    (folder / "innocent.dcm").write_bytes(full_dicom())
    (folder / "packed.dcm").write_bytes(
        in_bytes(filled(dicom(head(128), syntax="1.2.840.10008.1.2.1.99")))
    )
    for name, data in pictures().items():
        if isinstance(data, tuple):
            nrrd.write(str(folder / name), *data)
        else:
            (folder / name).write_bytes(data)
    return folder


def opened(data):
    """Bytes, and all that can be unpacked from them: gzip, PNG, pictures in a page."""
    yield data
    if data[:2] == b"\x1f\x8b":
        yield from opened(gzip.decompress(data))
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        at, packed, kinds = 8, b"", []
        while at < len(data):
            length, kind = struct.unpack(">I4s", data[at : at + 8])
            kinds.append(kind)
            packed += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
            at += 12 + length
        assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}, "nothing beside the picture"
        yield zlib.decompress(packed)
    for found in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data):
        yield from opened(base64.b64decode(found))
    if re.fullmatch(rb"[A-Za-z0-9+/]{200,}=*", data):
        yield from opened(base64.b64decode(data))


def leaks(data):
    """Markers in it."""
    data = data.encode("utf-8", "replace") if isinstance(data, str) else data
    return [provenance for part in opened(data) for provenance in set(MARKERS.findall(part))]


def leaking(folder):
    """Files with markers in them, or in their names."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert files
    return {
        path.name: found for path in files if (found := leaks(path.read_bytes()) + leaks(path.name))
    }


def choice(path):
    return 1 if path.name[:2] in ("g.", "h.", "i.") else None


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write(tmp_path_factory.mktemp("privacy") / "scans")


def test_the_files_are_full_of_markers(scans):
    data = full_dicom()
    assert len(MARKERS.findall(data)) > 2500
    assert {MARK.encode(), UID.encode(), NUMBER.encode(), b"101010.177123"} <= set(
        leaks(data)
    ) and any(provenance.startswith(b"1688") for provenance in leaks(data))
    for path in scans.iterdir():
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        assert MARKERS.search(data) or path.name == "packed.dcm", path.name
    assert leaks(gzip.compress(MARK.encode())) and leaks(
        "base64," + base64.b64encode(MARK.encode()).decode()
    )


def test_no_marker_is_in_what_a_result_says_shows_and_saves(
    scans, tmp_path, capfd, caplog, recwarn
):
    results = [analyze(path, slice=choice(path)) for path in sorted(scans.iterdir())]
    assert len(results) == 11
    for result in results:
        for said in (
            repr(result),
            result._repr_html_(),
            repr(result.scan),
            result.scan._repr_html_(),
            json.dumps(result.to_dict(full=True)),
            *map(repr, result.to_dict().values()),
            result.to_dict().get("Image_combine", b""),
            repr(vars(result)),
            repr(vars(result.scan)),
        ):
            assert leaks(said) == []
        result.save(tmp_path / "saved")
        if result.status != "refused":
            assert leaks(repr(result.explain())) == []
    write_result_page(results, tmp_path / "saved" / "report.html")
    assert leaking(tmp_path / "saved") == {} and len(list((tmp_path / "saved").iterdir())) > 20
    assert (
        leaks("".join(capfd.readouterr()) + caplog.text + "".join(str(w.message) for w in recwarn))
        == []
    )


def test_no_marker_is_in_tables_and_batches(scans, tmp_path):
    batch = analyze(scans, progress=False)  # the volumes are refused: nobody said which slice
    batch.to_csv(tmp_path / "table.csv")
    batch.save(tmp_path / "saved")
    assert (
        leaking(tmp_path) == {}
        and leaks(repr(batch) + batch._repr_html_() + batch.to_frame().to_json()) == []
    )


def test_no_marker_is_in_what_the_page_gives_away(scans, tmp_path):
    session = Session()
    for path in sorted(scans.iterdir()):
        view = session.open(path)
        assert view.error is None and leaks(repr(view.scan)) == []
        result = session.keep(analyze(view.scan, check_input=False), view).result
        for kind in DOWNLOAD_KINDS:
            name, _, data = result_file(result, kind)
            assert leaks(name) + leaks(data) == []


@pytest.mark.parametrize("words", [["--json"], ["--csv"], ["--out", "OUT", "--explain"], []])
def test_no_marker_is_in_what_the_command_line_prints_and_writes(scans, tmp_path, words):
    words = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "brain_tumor", "analyze", str(scans), *words],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode in (0, 1) and b"innocent" in done.stdout + done.stderr
    assert leaks(done.stdout) + leaks(done.stderr) == []
    if "--out" in words:
        assert leaking(tmp_path / "out") == {}


def quiet(data, **options):
    """The error of a damaged file with its traceback as a programmer sees it; '' if it was read."""
    try:
        read(data, **options)
    except BrainTumorError:
        return traceback.format_exc().split("BrainTumorError: ")[-1] + traceback.format_exc()
    return ""


def test_no_marker_is_in_the_refusal_of_a_damaged_file(capfd, caplog, recwarn):
    """The parser of DICOM likes to quote what it stumbled over."""
    whole, rng, refused = full_dicom(64), np.random.default_rng(7), 0
    recwarn.clear()
    caplog.clear()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 40))):
            at = int(rng.integers(0, len(data)))
            data[at : at + int(rng.integers(0, 3))] = rng.bytes(int(rng.integers(0, 3)))
        said = quiet(bytes(data))
        refused += said != ""
        assert leaks(said) == [], said
    assert refused > 30
    said = (
        "".join(capfd.readouterr())
        + caplog.text
        + "".join(f"{w.filename}: {w.message}" for w in recwarn)
    )
    assert leaks(said) == [], said[:1500]


TEXT = (
    0x00280002,
    0x00280004,
    0x00280008,
    0x00280010,
    0x00280030,
    0x00280100,
    0x00281050,
    0x00281051,
    0x00281052,
    0x00281053,
    0x00281056,
)


@pytest.mark.parametrize("tag", TEXT, ids=hex)
@pytest.mark.parametrize("vr", ["LO", "DS", "IS", "PN", "UN"])
def test_no_marker_is_in_the_refusal_of_a_tag_that_holds_a_name(tag, vr):
    """A name where a number should be: neither read, nor repeated."""
    raw = in_bytes(
        dicom(
            head(),
            NumberOfFrames=1,
            PixelSpacing=[1, 1],
            WindowCenter=9,
            WindowWidth=9,
            RescaleSlope=1,
            RescaleIntercept=0,
        )
    )
    length = struct.pack("<HI", 0, 10) if vr == "UN" else struct.pack("<H", 10)
    at = raw.index(b"\xe0\x7f\x10\0")
    raw = (
        raw[:at]
        + struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        + vr.encode()
        + length
        + f"{MARK}^NAME ".encode()
        + raw[at:]
    )
    for reader in (read, read_in_process):
        try:
            reader(raw)
        except BrainTumorError as error:
            assert leaks(str(error)) == []


def test_no_marker_is_in_the_refusal_of_other_formats(scans):
    rng = np.random.default_rng(3)
    for path in sorted(scans.glob("[a-i].*")):
        whole = path.read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            for _ in range(int(rng.integers(1, 4))):
                data[int(rng.integers(0, min(len(data), 700)))] = int(rng.integers(256))
            try:
                read(bytes(data), slice=choice(path))
            except BrainTumorError as error:
                assert leaks(str(error)) == []


def test_no_marker_is_in_the_refusal_of_a_header_that_names_another_file(tmp_path):
    text = (
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 64 64 3\nencoding: raw\n"
        f"data file: {MARK}.raw\n\n"
    )
    (tmp_path / "a.nhdr").write_text(text)
    for source in (text.encode(), tmp_path / "a.nhdr"):
        assert "file" in (said := quiet(source)) and leaks(said) == []


def test_a_refused_file_leaves_no_marker_in_the_folder_of_results(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "half.dcm").write_bytes(full_dicom()[:-9000])
    (tmp_path / "in" / "stream.dcm").write_bytes(
        encapsulated("1.2.840.10008.1.2.4.90", MARK.encode() * 40, PatientName=f"{MARK}^NAME")
    )
    found = list(analyze(tmp_path / "in", progress=False).results(tmp_path / "out"))
    assert [result.status for result in found] == ["refused"] * 2 and leaking(
        tmp_path / "out"
    ) == {}
