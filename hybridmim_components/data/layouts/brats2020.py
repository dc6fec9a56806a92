# SPDX-License-Identifier: Apache-2.0

"""BraTS 2020 (https://www.med.upenn.edu/cbica/brats2020): one folder per patient, one file per modality.

The files are ``BraTS20_Training_001/BraTS20_Training_001_{flair,t1,t1ce,t2,seg}.nii.gz``. Also read are ``imagesTr``
and ``labelsTr`` with all modalities in one file, as MONAI Label serves them.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from pathlib import Path

from hybridmim_components.data.layouts import msd
from hybridmim_components.data.layouts.find_cases import Found, find_nifti, require_plain_name

__all__ = ["MODALITIES", "read"]

MODALITIES = ("flair", "t1", "t1ce", "t2")

logger = logging.getLogger(__name__)


def read(root: Path, modalities: Sequence[str] = MODALITIES) -> Found:
    """Read the cases of either layout. ``image`` is a list of paths in the order of ``modalities``, or one path.

    Raises:
        FileNotFoundError: when there is no case.
        ValueError: when two files have the same name but for their suffix.
    """
    if (root / "imagesTr").is_dir():
        return msd.read(root)
    files = {folder.name: find_nifti(folder) for folder in _patients(root)}
    if not files:
        inner = next((p for p in sorted(root.iterdir()) if p.is_dir() and _patients(p)), None)
        hint = f"; did you mean {inner}?" if inner else ""
        expected = "a folder per patient with files such as BraTS20_Training_001_flair.nii.gz"
        raise FileNotFoundError(f"dataset_dir must hold {expected}, there is none in {root}{hint}")
    found = Found(problems=_lacking_everywhere(root, files, modalities))
    if found.problems:
        return found
    others = [p for p in _folders(root) if p.name not in files]
    found.problems = [f"no files named {folder.name}_* in {folder}" for folder in others]
    for case_id, own in files.items():
        require_plain_name(root / case_id)
        images = [own.get(f"{case_id}_{modality}") for modality in modalities]
        label = own.get(f"{case_id}_seg") or _irregular_label(case_id, own)
        if label and not label.name.startswith(case_id):
            logger.info("Taking %s for the label of %s", label, case_id)
        lacking = [m for m, image in zip((*modalities, "seg"), (*images, label), strict=True) if image is None]
        if lacking:
            found.problems += [f"no {case_id}_{name}.nii.gz or .nii in {root / case_id}" for name in lacking]
        else:
            found.cases.append({"case_id": case_id, "image": [str(i) for i in images], "label": str(label)})
    return found


def _folders(root: Path) -> list[Path]:
    return [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _patients(root: Path) -> list[Path]:
    return [p for p in _folders(root) if any(p.glob(f"{glob.escape(p.name)}_*.nii*"))]


def _lacking_everywhere(root: Path, files: dict[str, dict[str, Path]], modalities: Sequence[str]) -> list[str]:
    """Return one text, instead of hundreds, if no case has one of the modalities, or none has a label."""
    present = {name[len(case_id) + 1 :] for case_id, own in files.items() for name in own}
    lacking = [m for m in modalities if m not in present]
    if lacking:
        known = [m for m in MODALITIES if m in present]
        return [f"no case in {root} has {', '.join(lacking)}: set modalities to what there is, such as {known}"]
    if not any(own.get(f"{case_id}_seg") or _irregular_label(case_id, own) for case_id, own in files.items()):
        return [f"no case in {root} has a label: for pre-training, name it in unlabelled_dirs instead"]
    return []


def _irregular_label(case_id: str, own: dict[str, Path]) -> Path | None:
    """Find a label with an irregular name, such as ``W39_1998.09.19_Segm.nii`` of case 355 of the release."""
    others = [path for name, path in own.items() if not name.startswith(f"{case_id}_") and "seg" in name.lower()]
    if len(others) != 1:
        return None
    return others[0]
