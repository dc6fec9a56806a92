# SPDX-License-Identifier: Apache-2.0
"""The hippocampus bundle with its own weights on the real MONAI Label server, on MRI of patients that it has not seen.

``HYBRIDMIM_LABEL_MRI_PICTURE`` names a file that a picture of the first mask is written to.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
from export_bundle import export_bundle
from few_labels_patients import Patients
from monai_label.studies import check_mask, labels_of
from render_bundles import bundle_name

BUNDLE = Path(__file__).parents[2] / "bundles" / bundle_name("msd_hippocampus", "unet")
PICTURE = "HYBRIDMIM_LABEL_MRI_PICTURE"
COLOURS = ((0.0, 0.0, 0.0, 0.0), (0.9, 0.6, 0.0, 0.6), (0.0, 0.45, 0.7, 0.6))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def save_picture(path: Path, image: Path, truth: np.ndarray, mask: np.ndarray) -> None:
    """The sagittal slice with the most of the truth: the image, the experts' label, the server's mask."""
    voxels = np.asarray(nib.Nifti1Image.from_filename(image).dataobj)
    slice_at = int((truth > 0).sum((1, 2)).argmax())
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.3), layout="constrained")
    for axis, title, labels in zip(axes, ("MRI", "experts", "server"), (None, truth, mask), strict=True):
        axis.imshow(voxels[slice_at].T, cmap="gray", origin="lower")
        if labels is not None:
            axis.imshow(np.array(COLOURS)[labels[slice_at].T.astype(int)], origin="lower", interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


@pytest.mark.full
def test_it_segments_real_mri_out_of_the_box(real_data: Path, start_server: Callable, tmp_path: Path) -> None:
    patients = Patients("msd_hippocampus", str(real_data / "msd_hippocampus"))
    items = patients.items(patients.test[:3])
    studies = tmp_path / "studies"
    studies.mkdir()
    for item in items:
        shutil.copyfile(item["image"], studies / f"{item['case_id']}.nii.gz")
    bundle = export_bundle(BUNDLE, BUNDLE / "models" / "model.pt", tmp_path / "exported")
    server = start_server("--bundles", str(bundle), "--studies", str(studies), "--app", str(tmp_path / "app"))
    found = []
    for item in items:
        image, mask = studies / f"{item['case_id']}.nii.gz", tmp_path / f"{item['case_id']}_mask.nii.gz"
        server.infer(bundle.name, mask, image=item["case_id"])
        values = check_mask(mask, image, labels_of(bundle))
        truth = np.asarray(nib.Nifti1Image.from_filename(item["label"]).dataobj)
        found += [dice(values == label, truth == label) for label in (1, 2)]
        if item is items[0] and os.environ.get(PICTURE):
            save_picture(Path(os.environ[PICTURE]), image, truth, values)
    assert np.mean(found) > 0.75, found
