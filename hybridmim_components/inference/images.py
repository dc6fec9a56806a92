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

"""The images that inference can use among those that it was given, and the names of the masks of DICOM series."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import SaveImage

from hybridmim_components.data.inspection import inspect_volumes
from hybridmim_components.data.unlabelled import find_series
from hybridmim_components.data.volumes import VolumeRules, image_files

__all__ = ["CheckedImages"]

logger = logging.getLogger(__name__)


class CheckedImages:
    """The usable ones among the images to segment. Each is read once before the first is segmented.

    Args:
        items: dictionaries with ``image``, a path or one per modality.
        image_dir: folder of the images.
        rules: requirements on an image; default: one channel.
        series: whether folders of DICOM series below ``image_dir`` are images too.
        num_workers: threads that read.

    Attributes:
        items: the images that can be used.
        refused: the first file of each image that cannot be used. The log says why.

    Raises:
        FileNotFoundError: when there is no image.
        ValueError: when none can be used, or when two masks would have one name.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any]],
        image_dir: str,
        rules: VolumeRules | None = None,
        series: bool = True,
        num_workers: int = 0,
    ) -> None:
        self.image_dir = image_dir
        folders = find_series(image_dir) if series else []
        given = [*items, *({"image": folder} for folder in folders)]
        if not given:
            raise FileNotFoundError(f"image_dir must hold images, got none in {image_dir}")
        self._require_different_names(folders)
        usable = inspect_volumes(given, num_workers=num_workers, rules=rules, skip_unreadable=True)
        self.items = [dict(item) for item in given if image_files(item["image"]) in usable]
        self.refused = [image_files(item["image"])[0] for item in given if image_files(item["image"]) not in usable]
        if not self.items:
            raise ValueError(f"none of {len(given)} image(s) in {image_dir} can be used, see above")

    def _require_different_names(self, folders: Sequence[str]) -> None:
        names: dict[str, str] = {}
        for folder in folders:
            if (other := names.setdefault(self._name_of_series(folder), folder)) != folder:
                raise ValueError(f"the masks of {other} and {folder} would have one name: rename one of the folders")

    def _name_of_series(self, folder: str) -> str:
        relative = os.path.relpath(folder, self.image_dir)
        return (Path(folder).resolve().name if relative == "." else relative).replace(os.sep, "_")

    def name_mask(self, meta: Mapping[str, Any], saver: SaveImage) -> dict[str, Any]:
        """Name a mask after its image, and that of a DICOM series after its folders below ``image_dir``.

        It is an ``output_name_formatter`` of MONAI's ``SaveImaged``, which would name all series whose folders are
        called ``PATIENT_DICOM`` alike and take ``.1`` of ``series.1`` for a suffix.
        """
        source = str(meta["filename_or_obj"])
        return {"subject": self._name_of_series(source) + ".nii.gz" if os.path.isdir(source) else source}

    def require_all(self) -> None:
        """Fail if images were left out, so that a script notices.

        Raises:
            ValueError: names the first file of each.
        """
        if self.refused:
            raise ValueError(
                f"{len(self.refused)} of {len(self.refused) + len(self.items)} image(s) could not be used and have no "
                "mask, the reasons are above:\n  " + "\n  ".join(self.refused)
            )
