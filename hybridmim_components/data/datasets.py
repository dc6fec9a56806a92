# Copyright 2026 HybridMIM bundles contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The labelled data sets of the bundles, read in the layout in which they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["DATASETS", "case_id_of", "find_nifti", "read_cases"]

DATASETS = ("msd_spleen",)
_SUFFIXES = (".nii.gz", ".nii")


def case_id_of(path: str | Path) -> str:
    """Name of a NIfTI file without its suffix."""
    name = Path(path).name
    return next((name[: -len(s)] for s in _SUFFIXES if name.endswith(s)), name)


def find_nifti(folder: Path) -> dict[str, Path]:
    """NIfTI files of one folder by case id. Hidden files are passed over: MSD's archives hold macOS's ``._*`` copies.

    Raises:
        FileNotFoundError: when the folder does not exist.
        ValueError: when two files have one case id.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.endswith(_SUFFIXES):
            continue
        case_id = case_id_of(path)
        if case_id in found:
            raise ValueError(f"two files of case {case_id} in {folder}: {found[case_id].name} and {path.name}")
        found[case_id] = path
    return found


def read_cases(dataset: str, dataset_dir: str | Path) -> list[dict[str, Any]]:
    """List the labelled cases of a data set, image and label paired by case id.

    Args:
        dataset: one of ``DATASETS``.
        dataset_dir: folder of the unpacked download; ``msd_spleen`` is Task09 of the Medical Segmentation Decathlon
            (``imagesTr``, ``labelsTr``), http://medicaldecathlon.com.

    Returns:
        Dictionaries with ``case_id``, ``image`` and ``label``, sorted by case id.

    Raises:
        ValueError: when the data set is unknown, or an image or a label has no counterpart.
        FileNotFoundError: when the folder, or a part of its layout, does not exist.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {DATASETS}, got {dataset!r}")
    root = Path(dataset_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset_dir must be an existing folder, got {root}")
    return _read_msd(root)


def _read_msd(root: Path) -> list[dict[str, Any]]:
    for folder in ("imagesTr", "labelsTr"):
        if not (root / folder).is_dir():
            inner = next((p.parent for p in sorted(root.glob(f"*/{folder}"))), None)
            hint = f"; did you mean {inner}?" if inner else ""
            raise FileNotFoundError(f"dataset_dir must hold imagesTr and labelsTr, {folder} is not in {root}{hint}")
    images, labels = find_nifti(root / "imagesTr"), find_nifti(root / "labelsTr")
    if not images:
        raise FileNotFoundError(f"no .nii.gz or .nii file in {root / 'imagesTr'}")
    unlabelled, orphans = sorted(images.keys() - labels.keys()), sorted(labels.keys() - images.keys())
    if unlabelled:
        raise ValueError(f"no label in {root / 'labelsTr'} for {', '.join(unlabelled)}")
    if orphans:
        raise ValueError(f"no image in {root / 'imagesTr'} for the label of {', '.join(orphans)}")
    return [{"case_id": c, "image": str(images[c]), "label": str(labels[c])} for c in sorted(images)]
