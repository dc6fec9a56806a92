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

import re
from pathlib import Path

from hybridmim_components.data.layouts.files import Found, find_nifti, pair, require_folders
from hybridmim_components.files import read_json_object

__all__ = ["label_names", "read"]

_LABEL_VALUE = re.compile(r"[0-9]{1,9}")


def read(root: Path) -> Found:
    """Cases of ``imagesTr`` and ``labelsTr``, which bear the same name.

    Raises:
        FileNotFoundError: when a part of the layout does not exist.
    """
    require_folders(root, "imagesTr", "labelsTr")
    images, labels = root / "imagesTr", root / "labelsTr"
    return pair(find_nifti(images), find_nifti(labels), images, labels)


def label_names(root: Path) -> dict[int, str]:
    """Names by label value, from dataset.json. Nothing else of that file is used, least of all its paths.

    Raises:
        ValueError: when the file does not exist, or has no such table.
    """
    file = root / "dataset.json"
    rule = "dataset.json must have a table 'labels' of values and names"
    try:
        labels = read_json_object(file).get("labels")
    except (OSError, ValueError) as error:
        raise ValueError(f"{rule}, cannot read {file}: {error}") from error
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f"{rule}, there is none in {file}")
    names: dict[int, str] = {}
    for value, name in labels.items():
        number = int(value) if _LABEL_VALUE.fullmatch(value) else -1
        if number < 0 or number in names or not isinstance(name, str):
            raise ValueError(f"{rule}, each a whole number of its own, got {value[:80]!r}: {name!r:.80} in {file}")
        names[number] = name
    return names
