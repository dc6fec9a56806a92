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

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import write_series
from monai.transforms import SaveImage

from hybridmim_components.inference import CheckedImages

VOXELS = np.arange(5 * 6 * 4).reshape(5, 6, 4).astype(np.int16)


def write(path: Path, channels: int = 1) -> dict[str, str]:
    voxels = VOXELS if channels == 1 else np.stack([VOXELS] * channels, -1)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return {"image": str(path)}


def test_unusable_images_are_left_out_and_named_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [write(tmp_path / "a.nii.gz"), write(tmp_path / "b.nii.gz", 2), write(tmp_path / "c.nii.gz")]
    cut = tmp_path / "d.nii.gz"
    cut.write_bytes((tmp_path / "a.nii.gz").read_bytes()[:60])
    with caplog.at_level(logging.WARNING):
        images = CheckedImages([*items, {"image": str(cut)}], str(tmp_path))
    assert images.items == [items[0], items[2]] and images.refused == [items[1]["image"], str(cut)]
    assert "got 2 channel(s)" in caplog.text and f"cannot read the image {cut}" in caplog.text
    with pytest.raises(
        ValueError, match=r"2 of 4 image\(s\) could not be used and have no mask(.|\n)*b.nii.gz\n.*d.nii"
    ):
        images.require_all()


def test_no_image_and_no_usable_one_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"image_dir must hold images, got none in {tmp_path}"):
        CheckedImages([], str(tmp_path))
    with pytest.raises(ValueError, match=r"none of 1 image\(s\)"):
        CheckedImages([write(tmp_path / "a.nii.gz", 3)], str(tmp_path))


def test_dicom_series_are_images_whose_masks_have_the_names_of_their_folders(tmp_path: Path) -> None:
    folders = [write_series(tmp_path / name / "PATIENT_DICOM", VOXELS) for name in ("patient.1", "patient.2")]
    item = write(tmp_path / "a.nii.gz")
    images = CheckedImages([item], str(tmp_path))
    assert images.items == [item, *({"image": folder} for folder in folders)]
    images.require_all()
    assert CheckedImages([item], str(tmp_path), series=False).items == [item]
    saver = SaveImage(tmp_path / "out", output_postfix="seg", separate_folder=False)
    names = [
        saver.folder_layout.filename(**images.name_mask({"filename_or_obj": image["image"]}, saver))
        for image in images.items
    ]
    wanted = ["a_seg", "patient.1_PATIENT_DICOM_seg", "patient.2_PATIENT_DICOM_seg"]
    assert [Path(name).name for name in names] == [f"{name}.nii.gz" for name in wanted]


def test_a_series_in_image_dir_itself_and_masks_of_one_name(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series.3", VOXELS)
    images = CheckedImages([], folder)
    assert images.items == [{"image": folder}]
    assert images.name_mask({"filename_or_obj": folder}, None)["subject"] == "series.3.nii.gz"
    for name in ("a_b/c", "a/b_c"):
        write_series(tmp_path / "two" / name, VOXELS)
    with pytest.raises(ValueError, match="would have one name: rename one of the folders"):
        CheckedImages([], str(tmp_path / "two"))
