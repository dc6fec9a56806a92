# SPDX-License-Identifier: Apache-2.0

"""BTCV, Beyond the Cranial Vault (https://www.synapse.org/Synapse:syn3193805), in the two layouts in use.

The download unpacks to ``RawData/Training`` with ``img/img0001.nii.gz`` and ``label/label0001.nii.gz``. Users of Swin
UNETR have ``imagesTr`` and ``labelsTr``, with these file names or with equal names for image and label.
"""

from __future__ import annotations

import re
from pathlib import Path

from hybridmim_components.data.layouts.find_cases import Found, find_nifti, pair, require_folders

__all__ = ["STANDARD_VALIDATION", "read"]

#: Endings of the validation cases in the split in common use, which has 24 cases for training and 6 for validation.
STANDARD_VALIDATION = tuple(f"{number:04d}" for number in range(35, 41))


def read(root: Path) -> Found:
    """Read the cases of either layout, paired by what follows ``img`` and ``label`` in the file names.

    Raises:
        FileNotFoundError: when a part of the layout does not exist.
        ValueError: when two files have the same case id.
    """
    names = ("imagesTr", "labelsTr") if (root / "imagesTr").is_dir() else ("img", "label")
    require_folders(root, *names)
    images, labels = (_by_number(root / name) for name in names)
    return pair(images, labels, root / names[0], root / names[1])


def _by_number(folder: Path) -> dict[str, Path]:
    numbered: dict[str, Path] = {}
    for name, path in find_nifti(folder).items():
        number = re.sub("^(img|label)", "", name)
        if number in numbered:
            raise ValueError(f"two files of case {number} in {folder}: {numbered[number].name} and {path.name}")
        numbered[number] = path
    return numbered
