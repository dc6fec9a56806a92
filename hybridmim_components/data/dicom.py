# SPDX-License-Identifier: Apache-2.0

"""DICOM series: which files of a folder are DICOM, and whether their slices make one volume.

ITK sorts a series by position only if no two slices have the same position. Otherwise it sorts by number or by name,
and MONAI reads a volume of shuffled slices without a warning. ITK also spaces slices evenly, whatever their positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["SHIFT_TOLERANCE", "STEP_TOLERANCE", "Slice", "is_dicom", "require_even_stack", "series_files", "slice_of"]

#: Largest difference of the step between two slices from the usual step, as a share of it; see also STEP_ROUNDING.
STEP_TOLERANCE = 0.1
STEP_ROUNDING = 0.12  # mm: some scanners write positions with one digit
#: Largest distance of a slice from the line through the first slice along the normal, in mm.
SHIFT_TOLERANCE = 1.0
SAME_PLACE = 0.01  # mm
SAME_PLANE = 1e-3  # tolerance of direction cosines, and of the pixel size in mm
_PREAMBLE = 128  # bytes before the letters DICM
_NO_IMAGES = ("SEG", "RTDOSE")


class Slice(NamedTuple):
    """Geometry of one slice, from the header of its file.

    Attributes:
        name: name of the file.
        modality: such as CT or MR; empty if the header does not give it.
        position: position of the first voxel, mm.
        plane: directions of rows, columns and normal, and the pixel size in mm.
    """

    name: str
    modality: str
    position: np.ndarray
    plane: np.ndarray


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by the suffix .dcm or by the letters DICM after 128 bytes.

    Hidden files do not count, nor does DICOMDIR, the table of contents of a disc.
    """
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() == ".dcm":
        return True
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError:
        return False


def series_files(folder: str | Path) -> list[str]:
    """Return the files of the series in a folder, in the order in which ITK sorts and MONAI reads them.

    Raises:
        ValueError: when the folder holds entries such as pipes, does not hold exactly one series, or holds DICOM files
            that ITK skips.
    """
    # importing ITK takes seconds, and most users have no DICOM
    import itk

    entries = sorted(Path(folder).iterdir())
    for entry in entries:
        if not (entry.is_file() or entry.is_dir()):  # reading a pipe would hang
            raise ValueError(f"a folder of DICOM files must hold regular files, got {entry.name} in {folder}")
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")  # as MONAI's reader does
    names.SetDirectory(str(folder))
    series = [list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()]
    if len(series) != 1:
        parts = ", ".join(f"{len(files)} file(s) such as {Path(files[0]).name}" for files in series)
        raise ValueError(
            f"a folder must hold one DICOM series, got {len(series)}{f': {parts}' if parts else ''}; "
            "give each series a folder of its own (they differ in UID, number, date, slice thickness or size)"
        )
    # ITK skips what it cannot read, and the volume would lack these slices
    others = sorted({e.name for e in entries if is_dicom(e)} - {Path(name).name for name in series[0]})
    if others:
        some = ", ".join(others[:5])
        raise ValueError(
            f"every DICOM file must be a slice of one series, got {len(others)} that are not, such as {some}"
        )
    return series[0]


def slice_of(path: str, reader: Any) -> Slice:
    """Return the geometry of a slice from an ITK ImageIO that has read its header."""
    found, modality = reader.GetMetaDataDictionary(), "0008|0060"
    rows, columns = (np.array(reader.GetDirection(axis), dtype=float)[:3] for axis in range(2))
    pixel = [reader.GetSpacing(axis) for axis in range(2)]
    return Slice(
        Path(path).name,
        str(found[modality]).strip() if found.HasKey(modality) else "",
        np.array([reader.GetOrigin(axis) for axis in range(3)]),
        np.concatenate([rows, columns, np.cross(rows, columns), pixel]),
    )


def require_even_stack(slices: Sequence[Slice]) -> None:
    """Refuse slices that ITK would not place at their true positions.

    Args:
        slices: slices in the order in which ITK reads them.

    Raises:
        ValueError: when slices are refused; names the files and their positions along the normal of the slices.
    """
    first = slices[0]
    if first.modality in _NO_IMAGES:
        raise ValueError(f"a DICOM series must be an image, got modality {first.modality} in {first.name}")
    if len(slices) == 1:
        return
    for other in slices:
        if not np.allclose(other.plane, first.plane, atol=SAME_PLANE):
            raise ValueError(
                f"slices must be parallel and have pixels of one size, got others in {first.name} and {other.name}"
            )
    normal = first.plane[6:9]
    heights = np.array([part.position @ normal for part in slices])
    order = np.argsort(heights, kind="stable")
    heights, ordered = heights[order], [slices[i] for i in order]
    _require_single(ordered, heights)
    _require_even(ordered, heights)
    offsets = np.stack([part.position - ordered[0].position for part in ordered])
    shifts = np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1)
    worst = int(shifts.argmax())
    if shifts[worst] > SHIFT_TOLERANCE:
        raise ValueError(
            f"slices must lie straight above each other, within {SHIFT_TOLERANCE:g} mm, got {ordered[worst].name} "
            f"{shifts[worst]:.1f} mm aside of {ordered[0].name}, as a tilted gantry makes them: straighten the series "
            "with a converter such as dcm2niix"
        )
    if [part.name for part in ordered] not in ([s.name for s in slices], [s.name for s in slices][::-1]):
        raise ValueError("ITK cannot sort the slices by their positions")


def _require_single(slices: Sequence[Slice], heights: np.ndarray) -> None:
    """Require one slice at each position."""
    group = np.concatenate([[0], np.cumsum(np.diff(heights) > SAME_PLACE)])
    counts = Counter(group.tolist())
    repeated = [position for position, count in counts.items() if count > 1]
    if not repeated:
        return
    members = [index for index in range(len(slices)) if group[index] == repeated[0]]
    files = " and ".join(slices[index].name for index in members[:2])
    where = f"{files} at {heights[members[0]]:.2f} mm"
    if len(set(counts.values())) == 1:
        raise ValueError(
            f"a series must have one slice at each position, got {len(members)} at each of {len(counts)}, such as "
            f"{where}: give each phase, echo or time of the series a folder of its own"
        )
    raise ValueError(
        f"a series must have one slice at each position, got more at {len(repeated)} of {len(counts)}, such as "
        f"{where}: remove the copies, or give each phase a folder of its own"
    )


def _require_even(slices: Sequence[Slice], heights: np.ndarray) -> None:
    """Require equal steps between slices, so that none is missing."""
    steps = np.diff(heights)
    usual = float(np.median(steps))
    tolerance = max(STEP_ROUNDING, STEP_TOLERANCE * usual)
    uneven = np.flatnonzero(np.abs(steps - usual) > tolerance)
    if len(uneven):
        at = uneven[0]
        raise ValueError(
            f"slices must be {usual:.2f} mm apart as most of the series are, within {tolerance:.2g} mm, got "
            f"{steps[at]:.2f} mm between {slices[at].name} at {heights[at]:.2f} mm and {slices[at + 1].name} at "
            f"{heights[at + 1]:.2f} mm, and {len(uneven)} such step(s) in all: slices are missing, or series were mixed"
        )
