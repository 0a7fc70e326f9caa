"""Small synthetic DICOM files for the tests."""

import io

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage


def dicom(stored, **tags):
    """A small MR image in memory."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, "1.2.3"
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = MRImageStorage, "1.2.3", "MR"
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.BitsAllocated = data.BitsStored = 8 * stored.dtype.itemsize
    data.HighBit, data.PixelData = data.BitsStored - 1, stored.tobytes()
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    return data


def in_bytes(data):
    """A data set as the bytes of a DICOM file."""
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()
