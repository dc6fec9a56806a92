# SPDX-License-Identifier: Apache-2.0

"""What a NIfTI file claims to hold, from its header alone and without allocating what it claims."""

from __future__ import annotations

import gzip
import struct
from math import prod
from pathlib import Path
from typing import IO, cast

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError

__all__ = ["claimed_voxels", "stored_affines"]

_HEADERS = (nib.Nifti1Header, nib.Nifti2Header)
_LARGEST_HEADER = 544  # bytes of a NIfTI-2 header with the flag for extensions
_EXTENSIONS = 64 << 20  # most bytes of extensions; scanners and FreeSurfer write a few kB
#: Highest compression ratio of deflate, and so of gzip: 258 bytes in 2 bits.
DEFLATE_RATIO = 1032


def claimed_voxels(path: str | Path) -> int:
    """Return the number of voxels that the header of a .nii or .nii.gz file claims, over all channels.

    Raises:
        ValueError: when the file is not a NIfTI file in one piece, claims more than a file of its size can hold, or has
            an orientation that MONAI would change.
        OSError: when the file cannot be opened or is not a gzip file.
        EOFError: when the file is a truncated gzip file.
        zlib.error: when the file is a damaged gzip file.
    """
    size, packed = Path(path).stat().st_size, str(path).lower().endswith(".gz")
    with cast("IO[bytes]", gzip.open(path, "rb") if packed else open(path, "rb")) as file:
        header, flag = _read_header(file.read(_LARGEST_HEADER))
        start = float(header["vox_offset"])
        first = type(header).single_vox_offset
        if not (start == 0 or first <= start <= first + _EXTENSIONS):
            raise ValueError(f"vox_offset must be {first} to {first + _EXTENSIONS}, got {start:g}")
        if flag:
            file.seek(first)
            _walk_extensions(file, int(start) - first, header.endianness)
    shape = [int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])]]
    if not shape or min(shape) < 1:
        raise ValueError(f"dimensions must be positive, got {shape}")
    voxels = prod(shape)
    claimed = voxels * header.get_data_dtype().itemsize + max(int(start), first)
    if claimed > size * (DEFLATE_RATIO if packed else 1):
        held = f"{DEFLATE_RATIO} times {size}" if packed else f"the file's {size}"
        raise ValueError(f"the header claims {claimed} bytes, shape {shape}, which must be at most {held}")
    _require_orientation(header)
    return voxels


def stored_affines(header: Nifti1Header) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the sform and the qform of a header.

    Either is None if it is not set, is not finite or has another spacing than pixdim.
    """
    found: list[np.ndarray | None] = []
    for read in (header.get_sform, header.get_qform):
        try:
            affine, code = read(coded=True)
        except HeaderDataError:  # the qform is not a rotation
            affine, code = None, 0
        spacing = np.asarray(header.get_zooms()[:3])
        usable = code and np.allclose(np.linalg.norm(affine[:3, : len(spacing)], axis=0), spacing)
        found.append(affine if usable else None)
    return found[0], found[1]


def _require_orientation(header: Nifti1Header) -> None:
    """Refuse an unusable sform without a qform, since MONAI would silently take the axes of the empty qform."""
    if not header["sform_code"] or any(affine is not None for affine in stored_affines(header)):
        return
    sform = header.get_sform()
    if np.isfinite(sform).all() and nib.aff2axcodes(sform) == nib.aff2axcodes(header.get_qform()):
        return
    spacing = [float(f"{mm:.4g}") for mm in header.get_zooms()[:3]]
    rows = [[float(f"{x:.4g}") for x in row] for row in sform[:3]]
    raise ValueError(
        f"without a qform, the sform must be finite and have the spacing of pixdim, {spacing}, or its axes are lost, "
        f"got {rows}"
    )


def _read_header(block: bytes) -> tuple[Nifti1Header, bool]:
    """Return the header, and whether extensions follow it."""
    for kind in _HEADERS:
        length = kind.template_dtype.itemsize
        if len(block) >= length and kind.may_contain_header(block):
            header = kind(block[:length], check=False)
            if bytes(header["magic"]).rstrip(b"\0") in (b"n+1", b"n+2\0\r\n\032\n"):
                return header, block[length : length + 1] not in (b"", b"\0")
    raise ValueError("it must start with the header of a NIfTI file in one piece")


def _walk_extensions(file: IO[bytes], rest: int, endianness: str) -> None:
    """Refuse lengths that lead out of the extensions, since nibabel would unpack and read the file to its end."""
    if rest < 0:
        raise ValueError("vox_offset must lie behind the header's extensions, got 0")
    while rest >= 16:
        length = struct.unpack(f"{endianness}i", file.read(8)[:4])[0]
        if not 8 <= length <= rest:
            raise ValueError(f"an extension of the header must have 8 to {rest} bytes, got {length}")
        file.seek(length - 8, 1)
        rest -= length
