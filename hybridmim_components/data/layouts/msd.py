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
