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

"""Unlabelled volumes in any folder: NIfTI, MetaImage, NRRD, and DICOM series."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["find_volumes"]

logger = logging.getLogger(__name__)

LABEL_FOLDERS = "label"
_SUFFIXES = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd")


def find_volumes(folders: str | Path | Sequence[str | Path]) -> list[str]:
    """Find every volume below the given folders.

    A file ending in .nii, .nii.gz, .mhd, .mha or .nrrd is a volume; a folder that holds .dcm files is one DICOM series.
    Hidden files are passed over, and folders named label..., such as MSD's labelsTr: label maps are no images.

    Args:
        folders: one folder or several.

    Returns:
        Sorted paths without repeats: files, and the folders of DICOM series.

    Raises:
        FileNotFoundError: when a folder does not exist or holds no volume.
        ValueError: when a folder holds .dcm files of several series.
    """
    names = [folders] if isinstance(folders, (str, Path)) else list(folders)
    volumes: set[str] = set()
    for folder in names:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"unlabelled_dirs must hold existing folders, got {folder}")
        found = _walk(Path(folder))
        if not found:
            raise FileNotFoundError(
                f"no volume below {folder}: expected {', '.join(_SUFFIXES)} files, or .dcm files of a DICOM series"
            )
        volumes |= found
    return sorted(volumes)


def _walk(folder: Path) -> set[str]:
    found = set()
    for parent, directories, files in os.walk(folder, followlinks=True):
        labels = [d for d in directories if d.lower().startswith(LABEL_FOLDERS)]
        if labels:
            logger.info("Passed over folders of labels in %s: %s", parent, ", ".join(sorted(labels)))
        directories[:] = sorted(d for d in directories if not d.startswith(".") and d not in labels)
        visible = [f for f in files if not f.startswith(".")]
        found |= {str(Path(parent, f).resolve()) for f in visible if f.lower().endswith(_SUFFIXES)}
        if any(f.lower().endswith(".dcm") for f in visible):
            _require_one_series(parent)
            found.add(str(Path(parent).resolve()))
    return found


def _require_one_series(folder: str) -> None:
    # importing ITK takes seconds, and most users have no DICOM
    import itk

    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.SetDirectory(folder)
    count = len(names.GetSeriesUIDs())
    if count != 1:
        raise ValueError(f"a folder of .dcm files must hold one DICOM series, got {count} in {folder}")
