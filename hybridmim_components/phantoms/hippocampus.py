# SPDX-License-Identifier: Apache-2.0

"""Synthetic MR-like crops around a hippocampus, written in the layout of MSD's Task04 and without labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridmim_components.phantoms.case_files import check_count, grid_parameters, write_cases
from hybridmim_components.phantoms.grid import blur, check_grid, smooth_noise
from hybridmim_components.phantoms.msd_cases import ABOUT_MR, case_files, write_msd

__all__ = ["hippocampus_phantom", "write_msd_hippocampus", "write_unlabelled_hippocampi"]

SIZE, SPACING = (34, 48, 34), (1.0, 1.0, 1.0)
_ORIENTATIONS = ("RAS", "LAS")


def hippocampus_phantom(
    rng: np.random.Generator, size: Sequence[int], spacing: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw a crop in RAS: a curved tube from back to front, thicker in front, in textured tissue and beside dark fluid.

    Args:
        rng: the only source of randomness.
        size: voxels (H, W, D).
        spacing: voxel size in mm.

    Returns:
        Image and label. The units of the image are arbitrary and differ by case, as with scanners. Label 1 is the
        anterior part, label 2 the posterior part.

    Raises:
        ValueError: when size or spacing is out of range.

    Example:
        >>> image, label = hippocampus_phantom(np.random.default_rng(0), size=(32, 48, 32), spacing=(1, 1, 1))
        >>> image.shape, np.unique(label).tolist()
        ((32, 48, 32), [0, 1, 2])
        >>> anterior, posterior = (np.nonzero(label == value)[1].mean() for value in (1, 2))
        >>> bool(anterior > posterior)  # the second axis grows towards the front
        True
    """
    check_grid(size, spacing)
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(size, spacing, strict=True)]
    extent = [n * mm for n, mm in zip(size, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    along = y / (0.4 * extent[1])  # -1 behind, 1 in front
    bend, tilt = rng.uniform(0.05, 0.12, 2) * extent[2]
    centre_x = rng.normal(0, 0.03 * extent[0]) + tilt * along
    centre_z = rng.normal(0, 0.03 * extent[2]) - bend * along**2
    width = min(extent[0], extent[2]) * (0.12 + 0.05 * np.clip(along, -1, 1)) * rng.uniform(0.9, 1.1)
    distance = np.hypot(x - centre_x, (z - centre_z) * rng.uniform(1.0, 1.3)) / width
    inside = (distance < 1) & (np.abs(along) < 1)
    label = np.where(inside, np.where(along > rng.uniform(0.1, 0.3), 1, 2), 0).astype(np.uint8)
    fluid = (distance > 1) & (distance < 1.5) & (z > centre_z) & (np.abs(along) < 1)
    texture = smooth_noise(rng, size, spacing, millimetres=6.0)
    tissue = 1.0 + 0.25 * np.tanh(2 * texture) + 0.2 * inside - 0.6 * fluid
    image = blur(tissue.astype(np.float32), (0.6, 0.6, 0.6))
    image += 0.05 * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, None) * 10 ** rng.uniform(2, 5)).astype(np.float32), label


def write_msd_hippocampus(
    dataset_dir: str | Path,
    num_training: int = 12,
    num_test: int = 2,
    seed: int = 0,
    size: Sequence[int] = SIZE,
    spacing: Sequence[float] = SPACING,
) -> Path:
    """Write phantoms in the layout of Task04 of the Decathlon: label 1 is the anterior hippocampus, 2 the posterior.

    Arguments, result and errors are those of :func:`.ct_datasets.write_msd_spleen`.

    Example:
        >>> folder = write_msd_hippocampus("data", num_training=2, num_test=1, size=(16, 16, 16))
        >>> sorted(str(path.relative_to(folder)) for path in folder.rglob("images*/*"))
        ['imagesTr/hippocampus_1.nii.gz', 'imagesTr/hippocampus_2.nii.gz', 'imagesTs/hippocampus_3.nii.gz']
    """
    counts, names = (num_training, num_test), ("Anterior", "Posterior")
    return write_msd(
        Path(dataset_dir),
        "hippocampus",
        names,
        hippocampus_phantom,
        counts,
        (seed, 4),
        size,
        spacing,
        _ORIENTATIONS,
        "MRI",
    )


def write_unlabelled_hippocampi(
    folder: str | Path, num_volumes: int, seed: int = 0, size: Sequence[int] = SIZE, spacing: Sequence[float] = SPACING
) -> Path:
    """Write phantoms without labels.

    Arguments, result and errors are those of :func:`.ct_datasets.write_unlabelled`.

    Example:
        >>> folder = write_unlabelled_hippocampi("volumes", 2, size=(16, 16, 16))
        >>> sorted(path.name for path in folder.iterdir())
        ['phantom_1.nii.gz', 'phantom_2.nii.gz', 'phantoms.json']
    """
    check_count("num_volumes", num_volumes, 1)
    manifest = {**ABOUT_MR, "numVolumes": num_volumes, "phantom": grid_parameters(seed, size, spacing)}
    case = partial(case_files, draw=hippocampus_phantom, orientations=_ORIENTATIONS, size=size, spacing=spacing)
    cases = [case((f"phantom_{n}.nii.gz",), seed=(seed, n, 5)) for n in range(1, num_volumes + 1)]
    return write_cases("folder", Path(folder), "phantoms.json", manifest, cases)
