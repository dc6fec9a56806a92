# SPDX-License-Identifier: Apache-2.0

"""Annotators' studies that MONAI Label would answer with 500 are named when the server starts."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from monai_label.check_channels import warnings_of
from render_bundles import bundle_name

BUNDLES = Path(__file__).parents[2] / "bundles"


def test_studies_that_no_bundle_takes_are_named(tmp_path: Path) -> None:
    spleen, brain = (BUNDLES / bundle_name(dataset, "unet") for dataset in ("msd_spleen", "brats2020"))
    for name, shape in (("ct", (4, 4, 4)), ("brain", (4, 4, 4, 4)), ("two", (4, 4, 4, 2))):
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    (tmp_path / "cut.nii").write_bytes(b"no image")
    cut, two = warnings_of(tmp_path, [spleen, brain])
    assert cut.startswith(f"{tmp_path / 'cut.nii'} cannot be read: ")
    assert two == (
        f"{tmp_path / 'two.nii.gz'} has 2 channel(s), but {spleen.name} takes 1, {brain.name} takes 4: "
        "the server cannot segment it (error 500)"
    )
    assert any("brain.nii.gz has 4 channel(s)" in line for line in warnings_of(tmp_path, [spleen]))
