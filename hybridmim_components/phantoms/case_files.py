# SPDX-License-Identifier: Apache-2.0

"""Writing of phantoms: NIfTI files whose bytes follow from a seed, with a manifest that says what they are."""

from __future__ import annotations

import gzip
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hybridmim_components.phantoms.grid import check_grid
from hybridmim_components.system.files import write_text

__all__ = ["ABOUT", "CaseFiles", "Draw", "case_content", "check_count", "grid_parameters", "write_cases"]

logger = logging.getLogger(__name__)

#: Description of phantoms in each manifest.
ABOUT = {
    "description": "Synthetic CT-like phantoms from a seeded generator. They show no patient and hold no patient data.",
    "reference": "hybridmim_components.phantoms",
    "licence": "Apache-2.0",
    "release": "1",  # of the anatomy; a folder of another release does not count as the same phantoms
}
Volumes = tuple[NDArray[Any], ...]
#: Draws the volumes (H, W, D) of one case in RAS, from a generator, a size and a spacing.
Draw = Callable[[np.random.Generator, Sequence[int], Sequence[float]], Volumes]
#: Names of the files of a case, relative to the root, and the function that makes their contents.
CaseFiles = tuple[tuple[str, ...], Callable[[], tuple[bytes, ...]]]


def case_content(
    num_files: int,
    draw: Draw,
    seed: Sequence[int],
    orientations: Sequence[str],
    size: Sequence[int],
    spacing: Sequence[float],
) -> tuple[bytes, ...]:
    """Make the NIfTI files of one case, all on one grid.

    Args:
        num_files: number of volumes to keep. A case without a label drops its last volume.
        draw: function that draws the volumes.
        seed: seed of everything. Its second number is that of the case, which chooses the orientation.
        orientations: orientations such as RAS, which the cases take in turn.
        size: the least number of voxels (H, W, D). Up to 12 % more are drawn.
        spacing: mean voxel size in mm. Up to 8 % more or less are drawn.
    """
    rng = np.random.default_rng(seed)
    grid = [round(n * rng.uniform(1, 1.12)) for n in size]
    voxel = [mm * rng.uniform(0.92, 1.08) for mm in spacing]
    volumes = draw(rng, grid, voxel)
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = rng.normal(0, 60, 3) - np.multiply(voxel, grid) / 2
    orientation = orientations[seed[1] % len(orientations)]
    return tuple(_nifti(volume, affine, orientation) for volume in volumes[:num_files])


def _nifti(volume: NDArray[Any], affine: NDArray[np.float64], orientation: str) -> bytes:
    ras, wanted = nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    turn = nib.orientations.ornt_transform(ras, wanted)
    turned = nib.orientations.apply_orientation(volume, turn)
    image = nib.Nifti1Image(turned, affine @ nib.orientations.inv_ornt_aff(turn, volume.shape))
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 6, mtime=0)  # no time stamp, which would make each copy differ


def write_cases(
    argument: str, root: Path, manifest_name: str, manifest: Mapping[str, object], cases: Sequence[CaseFiles]
) -> Path:
    """Write those of the cases that a folder lacks.

    Args:
        argument: name of the user's argument for ``root``, for messages.
        root: a new or empty folder, or one that has the same manifest.
        manifest_name: name of the file that says what the folder holds.
        manifest: content of that file.
        cases: files, relative to ``root``.

    Returns:
        The folder.

    Raises:
        ValueError: when the folder holds anything else.
    """
    text, path = json.dumps(manifest, indent=4), root / manifest_name
    ours = path.is_file() and path.read_text(encoding="utf-8") == text
    if not ours and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{argument} must be a new or empty folder, or hold these very phantoms, got {root}")
    missing = [case for case in cases if not all((root / name).is_file() for name in case[0])]
    if not missing:
        logger.info("%s holds these phantoms already", root)
        return root
    logger.info("Writing %d phantom(s) to %s", len(missing), root)
    # the manifest first, so that a later call knows the folder of an interrupted one and completes it
    write_text(path, text)
    for names, make in missing:
        for name, content in zip(names, make(), strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            hidden = (root / name).with_name(f".{Path(name).name}.{os.getpid()}")
            hidden.write_bytes(content)
            os.replace(hidden, root / name)
    return root


def grid_parameters(seed: int, size: Sequence[int], spacing: Sequence[float]) -> dict[str, object]:
    """Return the entries of a manifest for the seed and the grids.

    Raises:
        ValueError: when one of them is out of range.
    """
    check_count("seed", seed, 0)
    check_grid(size, spacing)
    return {"seed": seed, "size": list(size), "spacing": [float(mm) for mm in spacing]}


def check_count(name: str, value: int, minimum: int, maximum: int | None = None) -> None:
    """Refuse a value that is not an integer from minimum to maximum.

    Raises:
        ValueError: when the value is refused; names the argument, the rule and the value.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < minimum or (maximum is not None and value > maximum):
        rule = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name} must be an integer {rule}, got {value!r}")
