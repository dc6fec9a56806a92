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
