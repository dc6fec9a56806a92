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

import json
from pathlib import Path

from hybridmim_components.data.layouts.files import Found, find_nifti, pair, require_folders

__all__ = ["label_names", "read"]


def read(root: Path) -> Found:
    """Cases of ``imagesTr`` and ``labelsTr``, which bear the same name.

    Raises:
        FileNotFoundError: when a part of the layout does not exist.
    """
    require_folders(root, "imagesTr", "labelsTr")
    images, labels = root / "imagesTr", root / "labelsTr"
    return pair(find_nifti(images), find_nifti(labels), images, labels)


def label_names(root: Path) -> dict[int, str]:
    """Names by label value, from dataset.json.

    Raises:
        ValueError: when the file does not exist, or has no such table.
    """
    file = root / "dataset.json"
    try:
        labels = json.loads(file.read_text(encoding="utf-8"))["labels"]
        return {int(value): str(name) for value, name in labels.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"dataset.json must have a table 'labels' of values and names, cannot read {file}") from error
