# SPDX-License-Identifier: Apache-2.0

"""The weights that a bundle holds, used as they come, on patients that they have not seen."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from few_labels_patients import Patients
from render_bundles import SOURCE, bundle_name, read_performance
from trained_weights import link

BUNDLE = Path(__file__).parents[2] / "bundles" / bundle_name("msd_hippocampus", "unet")


@pytest.mark.slow
def test_they_segment_as_well_as_the_readme_says(real_data: Path, monai_run: Callable, tmp_path: Path) -> None:
    """By a tenth of the patients that the figures come from, whose own mean may differ by some points."""
    patients = Patients("msd_hippocampus", str(real_data / "msd_hippocampus"))
    items = patients.items(patients.test[:6])
    link(items, tmp_path / "test")
    places = {"dataset_dir": tmp_path / "test", "test_dir": tmp_path / "test", "output_dir": tmp_path / "evaluate"}
    done = monai_run(BUNDLE, ["train", "evaluate"], tmp_path, **places, device="cpu", num_workers=0)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "evaluate" / "evaluation_summary.csv", newline="") as file:
        mean = {row["class"]: row for row in csv.DictReader(file)}["mean"]
    claimed = read_performance(SOURCE, "msd_hippocampus_unet")["eval_metrics"]["dice_mean"]
    assert mean["figures"] == "unseen" and float(mean["dice"]) == pytest.approx(claimed, abs=0.05)

    places = {"image_dir": tmp_path / "test" / "imagesTr", "output_dir": tmp_path / "inference"}
    done = monai_run(BUNDLE, ["inference"], tmp_path, **places, device="cpu")
    assert done.returncode == 0, done.stderr
    for item in items:
        name = f"{item['case_id']}_seg.nii.gz"
        ours, evaluated = (nib.load(tmp_path / step / name) for step in ("inference", "evaluate/masks"))
        assert np.mean(ours.get_fdata() == evaluated.get_fdata()) > 0.999


def test_the_readme_has_the_measured_dice() -> None:
    dice = read_performance(SOURCE, "msd_hippocampus_unet")["eval_metrics"]["dice_mean"]
    assert f"Dice {dice:.3f} on 80 cases" in (BUNDLE.parents[1] / "README.md").read_text(encoding="utf-8")
