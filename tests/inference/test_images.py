# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import write_series
from monai.transforms import SaveImage

from hybridmim_components.data import VolumeRules
from hybridmim_components.data.volumes import image_files
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
        images = CheckedImages(str(tmp_path), [*items, {"image": str(cut)}])
    assert images.items == [items[0], items[2]] and images.refused == [items[1]["image"], str(cut)]
    assert "got 2 channel(s)" in caplog.text and f"cannot read the image {cut}" in caplog.text
    with pytest.raises(
        ValueError, match=r"2 of 4 image\(s\) could not be used and have no mask(.|\n)*b.nii.gz\n.*d.nii"
    ):
        images.require_all()


def test_no_folder_no_image_and_no_usable_one_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="image_dir must be an existing folder, got nowhere"):
        CheckedImages("nowhere")
    with pytest.raises(FileNotFoundError, match=f"image_dir must hold images, got none in {tmp_path}"):
        CheckedImages(str(tmp_path))
    with pytest.raises(ValueError, match=r"none of 1 image\(s\)"):
        CheckedImages(str(tmp_path), [write(tmp_path / "a.nii.gz", 3)])


def mask_names(images: CheckedImages, folder: Path) -> list[str]:
    """The files that MONAI would write."""
    saver = SaveImage(folder, output_postfix="seg", separate_folder=False)
    metas = [{"filename_or_obj": image_files(item["image"])[0]} for item in images.items]
    return [Path(saver.folder_layout.filename(**images.name_mask(meta, saver))).name for meta in metas]


def test_dicom_series_are_images_whose_masks_have_the_names_of_their_folders(tmp_path: Path) -> None:
    folders = [write_series(tmp_path / name / "PATIENT_DICOM", VOXELS) for name in ("patient.1", "patient.2")]
    item = write(tmp_path / "a.nii.gz")
    images = CheckedImages(str(tmp_path), [item])
    assert images.items == [item, *({"image": folder} for folder in folders)]
    images.require_all()
    wanted = ["a_seg", "patient.1_PATIENT_DICOM_seg", "patient.2_PATIENT_DICOM_seg"]
    assert mask_names(images, tmp_path / "out") == [f"{name}.nii.gz" for name in wanted]
    within = CheckedImages(folders[0])
    assert within.items == [{"image": folders[0]}]
    assert mask_names(within, tmp_path / "out") == ["PATIENT_DICOM_seg.nii.gz"]


def test_cases_of_several_modalities_are_those_of_pre_training(tmp_path: Path) -> None:
    for case in ("one", "two"):
        (tmp_path / case).mkdir()
        for modality in ("flair", "t1ce"):
            write(tmp_path / case / f"{case}_{modality}.nii.gz")
    (tmp_path / "two" / "two_t1ce.nii.gz").unlink()
    (tmp_path / "three").mkdir()
    for modality in ("FLAIR", "t1ce"):
        write(tmp_path / "three" / f"{modality}.nii.gz")
    write(tmp_path / "four.nii.gz", 2)
    images = CheckedImages(str(tmp_path), modalities=["flair", "t1ce"], rules=VolumeRules(channels=2))
    assert mask_names(images, tmp_path / "out") == ["four_seg.nii.gz", "one_seg.nii.gz", "three_seg.nii.gz"]
    with pytest.raises(ValueError, match=r"1 of 4 image\(s\) could not be used(.|\n)*two lacks t1ce"):
        images.require_all()


def test_masks_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a_b/c", "a/b_c"):
        write_series(tmp_path / "series" / name, VOXELS)
    with pytest.raises(ValueError, match="would have the same name: rename one of them"):
        CheckedImages(str(tmp_path / "series"))
    items = [write(tmp_path / "x.nii.gz"), write(tmp_path / "x.nii")]
    with pytest.raises(ValueError, match=r"x.nii.gz and .*x.nii would have the same name"):
        CheckedImages(str(tmp_path), items)
    for site in ("a", "b"):
        (tmp_path / "mri" / site).mkdir(parents=True)
        write(tmp_path / "mri" / site / "x_flair.nii.gz")
    with pytest.raises(ValueError, match="would have the same name"):
        CheckedImages(str(tmp_path / "mri"), modalities=["flair"])
