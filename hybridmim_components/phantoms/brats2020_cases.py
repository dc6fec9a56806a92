# SPDX-License-Identifier: Apache-2.0

"""Synthetic MR-like brains, written in the layout of BraTS 2020 and without labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridmim_components.phantoms.brain import BRAIN_SIZE, BRAIN_SPACING, MODALITIES, brain_phantom
from hybridmim_components.phantoms.case_files import CaseFiles, case_content, check_count, grid_parameters, write_cases
from hybridmim_components.phantoms.msd_cases import ABOUT_MR

__all__ = ["write_brats2020", "write_unlabelled_brains"]

_ORIENTATIONS = ("LPS",)  # that of every file of the release


def write_brats2020(
    root: str | Path,
    num_training: int = 12,
    num_test: int = 2,
    seed: int = 0,
    size: Sequence[int] = BRAIN_SIZE,
    spacing: Sequence[float] = BRAIN_SPACING,
) -> Path:
    """Write phantoms in the layout of BraTS 2020: one folder per patient, one file per sequence, all in LPS.

    Args:
        root: see :func:`write_btcv`. MICCAI_BraTS2020_TrainingData and, for cases without a label,
            MICCAI_BraTS2020_ValidationData are created in it.
        num_training: labelled cases, BraTS20_Training_001 and so on.
        num_test: unlabelled cases, BraTS20_Validation_001 and so on.
        seed: see :func:`write_msd_spleen`, also for size and spacing.
        size: the least number of voxels (H, W, D).
        spacing: mean voxel size in mm.

    Returns:
        The folder.

    Raises:
        ValueError: when an argument is out of range or the folder holds anything else.

    Example:
        >>> root = write_brats2020("data", num_training=1, num_test=0, size=(16, 16, 16))
        >>> [path.name for path in sorted(root.glob("MICCAI_BraTS2020_TrainingData/BraTS20_Training_001/*_t1*"))]
        ['BraTS20_Training_001_t1.nii.gz', 'BraTS20_Training_001_t1ce.nii.gz']
    """
    check_count("num_training", num_training, 1)
    check_count("num_test", num_test, 0)
    counts = {"numTraining": num_training, "numTest": num_test}
    manifest = {**ABOUT_MR, **counts, "phantom": grid_parameters(seed, size, spacing)}
    cases = []
    for part, count, kinds, stream in (
        ("Training", num_training, (*MODALITIES, "seg"), 4),
        ("Validation", num_test, MODALITIES, 5),
    ):
        for number in range(1, count + 1):
            patient = f"BraTS20_{part}_{number:03d}"
            files = tuple(f"MICCAI_BraTS2020_{part}Data/{patient}/{patient}_{kind}.nii.gz" for kind in kinds)
            cases.append(_case(files, (seed, number, stream), size, spacing))
    return write_cases("root", Path(root), "phantoms.json", manifest, cases)


def write_unlabelled_brains(
    folder: str | Path,
    num_volumes: int,
    seed: int = 0,
    size: Sequence[int] = BRAIN_SIZE,
    spacing: Sequence[float] = BRAIN_SPACING,
) -> Path:
    """Write brains without labels, phantom_1/phantom_1_flair.nii.gz and so on.

    Arguments, result and errors are those of :func:`write_unlabelled`.

    Example:
        >>> folder = write_unlabelled_brains("volumes", 1, size=(16, 16, 16))
        >>> [path.name for path in sorted(folder.glob("phantom_1/*_t1*"))]
        ['phantom_1_t1.nii.gz', 'phantom_1_t1ce.nii.gz']
    """
    check_count("num_volumes", num_volumes, 1)
    manifest = {**ABOUT_MR, "numVolumes": num_volumes, "phantom": grid_parameters(seed, size, spacing)}
    cases = []
    for number in range(1, num_volumes + 1):
        files = tuple(f"phantom_{number}/phantom_{number}_{modality}.nii.gz" for modality in MODALITIES)
        cases.append(_case(files, (seed, number, 6), size, spacing))
    return write_cases("folder", Path(folder), "phantoms.json", manifest, cases)


def _case(files: tuple[str, ...], seed: tuple[int, ...], size: Sequence[int], spacing: Sequence[float]) -> CaseFiles:
    return files, partial(case_content, len(files), _brain, seed, _ORIENTATIONS, size, spacing)


def _brain(
    rng: np.random.Generator, size: Sequence[int], spacing: Sequence[float]
) -> tuple[NDArray[np.int16 | np.uint8], ...]:
    """Draw one volume per modality, and the label."""
    images, label = brain_phantom(rng, size, spacing)
    return *images, label
