"""A folder of many scans to time a batch on:

Phantoms in three formats and five sizes, made once and kept.
"""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

FORMATS = (".png", ".jpg", ".dcm")
SIZES = (256, 320, 384, 448, 512)
RECIPE = 1  # raise it when this file changes what it writes


def encode(phantom, suffix: str) -> bytes:
    """A phantom as the bytes of a file."""
    if suffix == ".dcm":
        return dicom(phantom)
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if suffix == ".jpg" else []
    return cv2.imencode(suffix, phantom.pixels, options)[1].tobytes()


def dicom(phantom) -> bytes:
    """A phantom as an uncompressed 16-bit MR image with its spacing."""
    from io import BytesIO

    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(
        entropy_srcs=[repr(phantom), phantom.pixels.tobytes().hex()[:4096]]
    )
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    file.Modality, file.PatientName, file.PatientID = "MR", "Phantom", "phantom"
    file.Rows, file.Columns = phantom.pixels.shape
    file.PixelSpacing = [f"{side:.6f}" for side in phantom.spacing]
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.add_new("PixelData", "OW", (phantom.pixels.astype("<u2") * 16).tobytes())
    stream = BytesIO()
    file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def drawn(distinct: int):
    """Different phantoms of all classes and planes; the sizes go around."""
    from brain_tumor.imaging.phantoms import PLANES, phantom
    from brain_tumor.io.scan import CLASSES

    for i in range(distinct):
        yield phantom(CLASSES[i % 4], PLANES[i // 4 % 3], 900_000 + i, SIZES[i % 5])


def make_folder(folder: Path, count: int, distinct: int = 50) -> Path:
    """Fill a folder with `count` scans, each phantom in every format under many names.

    One that is there is kept.
    """
    from tqdm.auto import tqdm

    folder, recipe = Path(folder), {"recipe": RECIPE, "count": count, "distinct": distinct}
    note = folder / "recipe.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == recipe:
        return folder / "scans"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "scans").mkdir(parents=True)
    distinct = min(distinct, count)
    for i, one in enumerate(tqdm(drawn(distinct), total=distinct, desc="phantoms", unit="phantom")):
        content = {suffix: encode(one, suffix) for suffix in FORMATS}
        for j in range(i, count, distinct):
            suffix = FORMATS[(j // distinct + i) % 3]
            (folder / "scans" / f"scan{j:05d}{suffix}").write_bytes(content[suffix])
    note.write_text(json.dumps(recipe), encoding="utf-8")
    return folder / "scans"


def prepared(folder: Path, size: int, count: int) -> np.ndarray:
    """What the network sees of the first `count` scans of a folder:

    Count x size x size x 1, float32.
    """
    from brain_tumor.imaging.preprocessing import prepare
    from brain_tumor.io.decode import read_in_process

    squares = np.empty((count, size, size, 1), np.float32)
    for square, path in zip(squares, sorted(Path(folder).iterdir())):
        square[..., 0] = prepare(read_in_process(path).pixels, size)[0]
    return squares
