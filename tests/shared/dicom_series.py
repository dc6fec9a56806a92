# SPDX-License-Identifier: Apache-2.0

"""Small DICOM series with the faults that real ones have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian


def write_slice(path: Path, plane: np.ndarray, z: float, series: str = "1.2.3.4", **tags: Any) -> None:
    """A slice of a CT in RAS, ``plane`` (R, A), at ``z`` mm; ``tags`` are set last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(f"{series}.{abs(hash(path.name)) % 10**9}")
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, "1.2.3", "1.2.9"
    ds.Modality, ds.PatientName, ds.PatientID, ds.InstanceNumber = "CT", "Doe^Jane", "42", 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, z], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [1.5, 2.0], 3.0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    # DICOM's axes point left and back
    pixels = np.ascontiguousarray(plane[::-1, ::-1].T)
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelData = pixels.astype(np.int16).tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)


def write_series(folder: Path, voxels: np.ndarray, series: str = "1.2.3.4", suffix: str = ".dcm") -> str:
    """A series of (R, A, S) voxels, 3 mm apart, in files that do not sort by position as 0, 1, 10, 2 do not."""
    for z in range(voxels.shape[2]):
        write_slice(folder / f"{series}_{z}{suffix}", voxels[..., z], 3.0 * z, series, InstanceNumber=z + 1)
    return str(folder)
