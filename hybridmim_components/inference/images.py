# SPDX-License-Identifier: Apache-2.0

"""Images to segment: which of them can be used, and what their masks are called."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import SaveImage

from hybridmim_components.data.inspection import inspect_volumes
from hybridmim_components.data.unlabelled import find_series, find_volumes
from hybridmim_components.data.volumes import VolumeRules, image_files

__all__ = ["CheckedImages"]


class CheckedImages:
    """The usable images of a folder. Each image is read once before the first one is segmented.

    Args:
        image_dir: folder of the images.
        items: dictionaries with ``image``, the path of a NIfTI file. Folders of DICOM series below ``image_dir`` are
            added to them.
        modalities: for MRI of several sequences. All cases below ``image_dir`` are then found as pre-training finds
            them, see :func:`.data.find_volumes`, and ``items`` are not used.
        rules: requirements on an image; default: one channel.
        num_workers: threads that read.

    Attributes:
        items: the images that can be used.
        refused: what cannot be used, one text each. The log says why.

    Raises:
        FileNotFoundError: when there is no image.
        ValueError: when no image can be used, or two masks would have the same name.

    Example:
        >>> nib.save(nib.Nifti1Image(np.arange(64.0).reshape(4, 4, 4), np.eye(4)), "good.nii")
        >>> nib.save(nib.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), "empty.nii")
        >>> images = CheckedImages(".", [{"image": "good.nii"}, {"image": "empty.nii"}])
        >>> images.items, images.refused
        ([{'image': 'good.nii'}], ['empty.nii'])
    """

    def __init__(
        self,
        image_dir: str,
        items: Sequence[Mapping[str, Any]] = (),
        modalities: Sequence[str] | None = None,
        rules: VolumeRules | None = None,
        num_workers: int = 0,
    ) -> None:
        self.image_dir, self.modalities = image_dir, modalities
        if not os.path.isdir(image_dir):
            raise FileNotFoundError(f"image_dir must be an existing folder, got {image_dir}")
        self.refused: list[str] = []
        given = self._cases(modalities) if modalities else [*items, *({"image": f} for f in find_series(image_dir))]
        if not given:
            raise FileNotFoundError(f"image_dir must hold images, got none in {image_dir}")
        self._require_different_names(image_files(item["image"])[0] for item in given)
        usable = inspect_volumes(given, num_workers=num_workers, rules=rules, skip_unreadable=True)
        self.items = [dict(item) for item in given if image_files(item["image"]) in usable]
        self.refused += [image_files(i["image"])[0] for i in given if image_files(i["image"]) not in usable]
        if not self.items:
            raise ValueError(f"none of {len(given)} image(s) in {image_dir} can be used, see above")

    def _cases(self, modalities: Sequence[str]) -> list[dict[str, Any]]:
        try:
            found = find_volumes(self.image_dir, modalities)
        except ValueError as error:
            self.refused.append(str(error))
            found = find_volumes(self.image_dir, modalities, skip_unreadable=True)
        return [{"image": image} for image in found]

    def _require_different_names(self, sources: Iterable[str]) -> None:
        names: dict[str, str] = {}
        for source in sources:
            if (other := names.setdefault(self._name_of(source), source)) != source:
                raise ValueError(f"the masks of {other} and {source} would have the same name: rename one of them")

    def _name_of(self, source: str) -> str:
        if os.path.isdir(source):
            relative = os.path.relpath(source, self.image_dir)
            return (Path(source).resolve().name if relative == "." else relative).replace(os.sep, "_")
        name = Path(source).name.removesuffix(".gz").removesuffix(".nii")
        if self.modalities:
            modality = "|".join(re.escape(name) for name in self.modalities)
            name = re.sub(rf"(^|[_-])({modality})$", "", name, flags=re.IGNORECASE) or Path(source).parent.name
        return name

    def name_mask(self, meta: Mapping[str, Any], saver: SaveImage) -> dict[str, Any]:
        """Name a mask after its image, its case, or the folders of its DICOM series below ``image_dir``.

        This is an ``output_name_formatter`` of MONAI's ``SaveImaged``. By itself, ``SaveImaged`` gives all series in
        folders called ``PATIENT_DICOM`` the same name, and takes the ``.1`` of ``series.1`` for a suffix.
        """
        return {"subject": self._name_of(str(meta["filename_or_obj"])) + ".nii.gz"}

    def require_all(self) -> None:
        """Fail if images were left out, so that a script notices.

        Raises:
            ValueError: names what was left out.
        """
        if self.refused:
            raise ValueError(
                f"{len(self.refused)} of {len(self.refused) + len(self.items)} image(s) could not be used and have no "
                "mask, the reasons are above:\n  " + "\n  ".join(self.refused)
            )
