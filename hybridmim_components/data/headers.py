# SPDX-License-Identifier: Apache-2.0

"""Checks of a volume's header, before what it claims is allocated or anything outside its folder is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from hybridmim_components.data.dicom import require_even_stack, series_files, slice_of
from hybridmim_components.data.nifti_header import DEFLATE_RATIO, claimed_voxels

__all__ = ["MAX_GIB", "check_header"]

#: Most memory that a volume may take as float32: 2048 slices of 1024 x 1024 voxels, 4 to 16 times a common CT.
MAX_GIB = 8.0
_ITK_FORMATS = {".mhd": "MetaImageIO", ".mha": "MetaImageIO", ".nrrd": "NrrdImageIO"}
_TEXT_LIMIT = 1 << 20  # bytes that the text header of a MetaImage or NRRD file may have
_DATA_FILE = re.compile(rb"^\s*ElementDataFile\s*[=:]\s*(.*?)\s*$", re.MULTILINE)
_NUM_DIMS = re.compile(rb"^\s*NDims\s*[=:]\s*(\S*)", re.MULTILINE)
_DETACHED = re.compile(rb"^\s*data ?file\s*:", re.MULTILINE | re.IGNORECASE)


def check_header(path: str, max_gib: float = MAX_GIB) -> None:
    """Refuse a file or DICOM series that cannot be what its header claims, or that is too large.

    Args:
        path: .nii, .nii.gz, .mhd, .mha or .nrrd file, or the folder of a DICOM series.
        max_gib: most memory that the volume may take as float32, in GiB; never more than the machine has.

    Raises:
        Exception: a reader's own error, or a ValueError that names rule and value. The caller must name the file.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if file.is_dir():
        voxels = _series_voxels(path)
    elif not file.is_file():
        raise ValueError("it must be a regular file or a folder")
    elif path.lower().endswith((".nii", ".nii.gz")):
        voxels = claimed_voxels(path)
    elif suffix in _ITK_FORMATS:
        (_require_own_data if suffix == ".nrrd" else _require_data_beside)(file)
        voxels = _claimed_voxels(_itk_reader(path, _ITK_FORMATS[suffix]), path)
    else:
        raise ValueError(f"it must be a .nii, .nii.gz{', '.join(['', *_ITK_FORMATS])} file or a folder of DICOM files")
    gib, limit = voxels * 4 / 2**30, min(max_gib, _machine_gib())
    if gib > limit:
        raise ValueError(
            f"its header claims {voxels} voxels, {gib:.3g} GiB as float32, which must be at most {limit:.3g} GiB "
            "(max_gib of the volume's rules, and no more than the machine has)"
        )


def _machine_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _text_of(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_TEXT_LIMIT)


def _require_data_beside(file: Path) -> None:
    """Require that a MetaImage's voxels lie in it or in one file beside it, and refuse paths, lists and patterns."""
    text = _text_of(file)
    named = [os.fsdecode(name) for name in _DATA_FILE.findall(text)]
    if not named:
        raise ValueError("its header must have an ElementDataFile")
    dims = _NUM_DIMS.search(text)
    if dims is None or dims[1] not in (b"2", b"3", b"4"):
        raise ValueError(f"NDims must be 2 to 4, got {os.fsdecode(dims[1]) if dims else None!r:.80}")
    # only the first one counts, since the voxels in a MetaImage may contain such a line too
    name = named[0]
    if name.upper() == "LOCAL":
        return
    beside = file.parent / name
    if name in ("", ".", "..") or name.upper() == "LIST" or re.search(r"[/\\%\0 ]", name) or not beside.is_file():
        raise ValueError(f"ElementDataFile must be LOCAL or a file beside it, got {name!r:.80}")


def _require_own_data(file: Path) -> None:
    head, _, _ = _text_of(file).replace(b"\r\n", b"\n").partition(b"\n\n")
    if _DETACHED.search(head):
        raise ValueError("a .nrrd file must hold its voxels itself, got one that names another file")


def _itk_reader(path: str, expected: str) -> Any:
    """Return ITK's reader of a file, after it has read the header."""
    # importing ITK takes seconds, and most users have only NIfTI
    import itk

    reader: Any = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None or reader.GetNameOfClass() != expected:
        raise ValueError(f"it must be a file that ITK's {expected} reads, got {Path(path).name}")
    reader.SetFileName(path)
    reader.ReadImageInformation()
    return reader


def _claimed_voxels(reader: Any, path: str) -> int:
    """Return the number of voxels by a header that ITK has read, over all components."""
    shape = [int(reader.GetDimensions(axis)) for axis in range(reader.GetNumberOfDimensions())]
    voxels = prod(shape) * int(reader.GetNumberOfComponents())
    if voxels < 1:
        raise ValueError(f"dimensions must be positive, got {shape}")
    held = sum(file.stat().st_size for file in _files_of(Path(path))) * DEFLATE_RATIO
    # only DICOM's lossy formats compress more than deflate
    if reader.GetNameOfClass() != "GDCMImageIO" and voxels * int(reader.GetComponentSize()) > held:
        raise ValueError(
            f"the header claims the shape {shape}, which must be at most {held} bytes in files of this size"
        )
    return voxels


def _files_of(path: Path) -> Iterator[Path]:
    yield path
    if path.suffix.lower() == ".mhd":
        name = os.fsdecode(_DATA_FILE.findall(_text_of(path))[0])
        if name.upper() != "LOCAL":
            yield path.parent / name


def _series_voxels(folder: str) -> int:
    voxels, slices = 0, []
    for name in series_files(folder):
        reader = _itk_reader(name, "GDCMImageIO")
        voxels += _claimed_voxels(reader, name)
        slices.append(slice_of(name, reader))
    require_even_stack(slices)
    return voxels
