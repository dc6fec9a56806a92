# SPDX-License-Identifier: Apache-2.0

"""The Decathlon's layout: imagesTr, labelsTr, imagesTs and a dataset.json that says that these are phantoms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hybridmim_components.phantoms.case_files import (
    ABOUT,
    CaseFiles,
    Draw,
    case_content,
    check_count,
    grid_parameters,
    write_cases,
)

__all__ = ["ABOUT_MR", "case_files", "write_msd"]

#: Description of MR-like phantoms in each manifest.
ABOUT_MR = {**ABOUT, "description": ABOUT["description"].replace("CT-like", "MR-like")}


def write_msd(
    root: Path,
    prefix: str,
    label_names: Sequence[str],
    draw: Draw,
    counts: tuple[int, int],
    seed: tuple[int, ...],
    size: Sequence[int],
    spacing: Sequence[float],
    orientations: Sequence[str],
    modality: str = "CT",
) -> Path:
    """Write the phantoms of one task.

    Args:
        root: a new or empty folder, or one that holds exactly these phantoms.
        prefix: prefix of the file names, such as ``spleen``.
        label_names: names of the label values from 1 on.
        draw: function that draws image and label.
        counts: number of cases with a label, and of cases without one.
        seed: seed of the data set, and optionally a second number for the task.
        size: the least number of voxels (H, W, D).
        spacing: mean voxel size in mm.
        orientations: orientations such as RAS, which the cases take in turn.
        modality: modality in dataset.json, CT or MRI.

    Returns:
        The folder.

    Raises:
        ValueError: when an argument is out of range or the folder holds anything else.
    """
    check_count("num_training", counts[0], 1)
    check_count("num_test", counts[1], 0)
    names = [f"{prefix}_{n}.nii.gz" for n in range(1, sum(counts) + 1)]
    manifest = {
        "name": prefix.capitalize(),
        **(ABOUT if modality == "CT" else ABOUT_MR),
        "tensorImageSize": "3D",
        "modality": {"0": modality},
        "labels": {str(value): name for value, name in enumerate(("background", *label_names))},
        "numTraining": counts[0],
        "numTest": counts[1],
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names[: counts[0]]],
        "test": [f"./imagesTs/{n}" for n in names[counts[0] :]],
        "phantom": grid_parameters(seed[0], size, spacing),
    }
    cases: list[CaseFiles] = []
    for number, name in enumerate(names, start=1):
        files = (f"imagesTr/{name}", f"labelsTr/{name}") if number <= counts[0] else (f"imagesTs/{name}",)
        cases.append(case_files(files, draw, (seed[0], number, *seed[1:]), orientations, size, spacing))
    return write_cases("dataset_dir", root, "dataset.json", manifest, cases)


def case_files(
    files: tuple[str, ...],
    draw: Draw,
    seed: tuple[int, ...],
    orientations: Sequence[str],
    size: Sequence[int],
    spacing: Sequence[float],
) -> CaseFiles:
    """Return the files of a case and the function that makes them. Arguments as in :func:`.case_files.case_content`."""
    return files, partial(case_content, len(files), draw, seed, orientations, size, spacing)
