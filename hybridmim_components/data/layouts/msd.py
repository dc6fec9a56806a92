# SPDX-License-Identifier: Apache-2.0

"""The Medical Segmentation Decathlon, http://medicaldecathlon.com: imagesTr, labelsTr, and imagesTs without labels."""

from __future__ import annotations

from pathlib import Path

from hybridmim_components.data.layouts.find_cases import Found, find_nifti, pair, require_folders

__all__ = ["read"]


def read(root: Path) -> Found:
    """Read the cases of ``imagesTr`` and ``labelsTr``, paired by file name.

    Raises:
        FileNotFoundError: when a part of the layout does not exist.
    """
    require_folders(root, "imagesTr", "labelsTr")
    images, labels = root / "imagesTr", root / "labelsTr"
    return pair(find_nifti(images), find_nifti(labels), images, labels)
