# SPDX-License-Identifier: Apache-2.0

"""One small good file of each kind that the package reads, and what reads it."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.networks.nets import BasicUNet

from hybridmim_components.data import find_volumes, inspect_volumes, read_volume
from hybridmim_components.data.datasets import label_names
from hybridmim_components.data.download import _extract
from hybridmim_components.weights import load_pretrained, read_recipe

PATIENT = "Doe^Jane"
SLICES = 3
TASK = "Task09_Spleen"
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (6, 5, SLICES)).astype(np.int16)
RECIPE = {"spacing": [1.5, 1.5, 2.0], "network": "BasicUNet", "volumes": ["ab" * 32]}
DATASET = {
    "name": "Spleen",
    "labels": {"0": "background", "1": "spleen"},
    "training": [{"image": "./imagesTr/a.nii.gz"}],
}


def network() -> BasicUNet:
    torch.manual_seed(0)
    return BasicUNet(features=(2, 2, 4, 4, 8, 2))


def _nifti() -> bytes:
    return nib.Nifti1Image(VOXELS, np.diag([2.0, 1.5, 3.0, 1.0])).to_bytes()


def _metaimage() -> bytes:
    rows = "NDims = 3|DimSize = 6 5 3|ElementType = MET_SHORT|ElementSpacing = 2 1.5 3|ElementByteOrderMSB = False"
    text = f"ObjectType = Image|BinaryData = True|CompressedData = False|{rows}|ElementDataFile = LOCAL|"
    return text.replace("|", "\n").encode() + VOXELS.tobytes("F")


def _nrrd() -> bytes:
    rows = "type: short|dimension: 3|sizes: 6 5 3|endian: little|encoding: raw|kinds: domain domain domain"
    space = "space: left-posterior-superior|space directions: (2,0,0) (0,1.5,0) (0,0,3)|space origin: (0,0,0)"
    return f"NRRD0004|{rows}|{space}||".replace("|", "\n").encode() + VOXELS.tobytes("F")


def dicom_slice(index: int) -> bytes:
    """A slice of a CT series with the patient's name in it."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.3.4.{index}"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = "1.2.3.4", "1.2.3", "1.2.9"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = PATIENT, f"{PATIENT}-42", "19700101"
    ds.StudyDescription = ds.SeriesDescription = f"../../{PATIENT}"
    ds.Modality, ds.InstanceNumber = "CT", index + 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 3.0 * index], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [1.5, 2.0], 3.0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    plane = np.ascontiguousarray(VOXELS[..., index].T)
    ds.Rows, ds.Columns = plane.shape
    ds.PixelData = plane.tobytes()
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def saved(content: object) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A plain tar file of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _archive() -> bytes:
    files = {"dataset.json": json.dumps(DATASET).encode(), "imagesTr/a.nii.gz": b"a" * 600}
    return tar_of([(tarfile.TarInfo(f"{TASK}/{name}"), content) for name, content in files.items()])


GOOD: dict[str, Callable[[], bytes]] = {
    "nii": cache(_nifti),
    "nii.gz": cache(lambda: gzip.compress(_nifti(), mtime=0)),
    "dicom": cache(lambda: dicom_slice(1)),
    "mha": cache(_metaimage),
    "nrrd": cache(_nrrd),
    "dataset.json": cache(lambda: json.dumps(DATASET, indent=1).encode()),
    "recipe": cache(lambda: json.dumps(RECIPE, indent=1).encode()),
    "volumes.json": cache(lambda: json.dumps({"[]": [[[1, 2]], ["ab" * 32], []]}, indent=1).encode()),
    "weights": cache(lambda: saved({"state_dict": network().state_dict(), "recipe": RECIPE})),
    "tar": cache(_archive),
}


def place(kind: str, content: bytes, folder: Path) -> Path:
    """Write a file of a kind as a user has it; returns what an error must name."""
    if kind == "dicom":
        series = folder / "series"
        series.mkdir()
        for index in range(SLICES):
            (series / f"{index}.dcm").write_bytes(content if index == 1 else dicom_slice(index))
        return series
    names = {
        "dataset.json": kind,
        "recipe": "model.json",
        "volumes.json": kind,
        "weights": "model.pt",
        "tar": f"{TASK}.tar",
    }
    path = folder / names.get(kind, f"case.{kind}")
    path.write_bytes(content)
    return path


def read(kind: str, path: Path) -> None:
    """Read what :func:`place` wrote, as the commands and configs do."""
    if kind == "dataset.json":
        label_names("msd_other", path.parent)
    elif kind == "recipe":
        read_recipe(path)
    elif kind == "volumes.json":
        (path.parent / "a.nii").write_bytes(_nifti())
        inspect_volumes([{"image": str(path.parent / "a.nii")}], path)
    elif kind == "weights":
        load_pretrained(network(), path, recipe={"spacing": [1, 1, 1]})
    elif kind == "tar":
        _extract(path, path.parent / TASK)
    else:
        for volume in find_volumes(path.parent):
            read_volume(volume)
