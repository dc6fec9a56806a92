# SPDX-License-Identifier: Apache-2.0

"""A short form of the steps on a few real images: it shows that real files pass, not how well they are segmented."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hybridmim_components.data.case_table import case_rows
from hybridmim_components.weights import read_weights

BUNDLE = Path(__file__).parents[2] / "bundles" / "hybridmim_msd_spleen_unet_segmentation"
NETWORK = {"network_def#features": [8, 8, 8, 16, 16, 8], "device": "cpu", "num_workers": 0}
SMALL = {**NETWORK, "spacing": [5.0, 5.0, 5.0], "roi_size": [48, 48, 48]}
TRAIN = {**SMALL, "fold": "all", "learning_rate": 0.002, "batch_size": 4, "crops_per_volume": 2}


@pytest.mark.slow
def test_all_steps_on_real_images(real_data: Path, tmp_path: Path, monai_run: Callable) -> None:
    dataset, unlabelled = real_data / "msd_spleen", real_data / "ct_unlabelled"

    def step(name: str, configs: list[str], **overrides: object) -> None:
        places = {"dataset_dir": dataset, "output_dir": tmp_path / name, "ckpt_dir": tmp_path / "models"}
        done = monai_run(BUNDLE, configs, tmp_path, **places, **overrides)
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"

    masking = {"subvolume_size": [16, 16, 16], "patch_size": [8, 8, 8], "unlabelled_dirs": unlabelled}
    step("pretrain", ["pretrain"], **TRAIN, **masking, epochs=12, steps_per_epoch=3, val_interval=12)
    weights = tmp_path / "models" / "pretrained" / "model.pt"
    step("train", ["train"], **TRAIN, pretrained=weights, epochs=2, steps_per_epoch=2, val_interval=2)
    step("evaluate", ["train", "evaluate"], **SMALL, fold="all")
    step("inference", ["inference"], **SMALL)

    assert len(read_weights(weights)[1]["volumes"]) == 7
    with open(tmp_path / "pretrain" / "training.csv", newline="") as file:
        curve = list(csv.DictReader(file))
    for term in ("train_loss", "partial_region", "number", "location", "consistency"):
        values = [float(row[term]) for row in curve]
        assert sum(values[-3:]) < sum(values[:3]), term
    with open(tmp_path / "evaluate" / "evaluation_cases.csv", newline="") as file:
        cases = list(csv.DictReader(file))
    assert [c["figures"] for c in cases] == ["training"] * 2
    image = nib.load(dataset / "imagesTs" / "spleen_3.nii.gz")
    mask = nib.load(tmp_path / "inference" / "spleen_3_seg.nii.gz")
    assert mask.shape == image.shape and np.allclose(mask.affine, image.affine, atol=1e-4)


CASES = {"brats2020": 4, "btcv": 2, "msd_liver": 2, "msd_spleen": 2}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", CASES)
def test_every_real_case_passes_the_checks(real_data: Path, dataset: str) -> None:
    modalities = ["flair", "t1ce"] if dataset == "brats2020" else None
    rows = list(case_rows(dataset, real_data / dataset, modalities))
    assert len(rows) == CASES[dataset] and not any(row.problem for row in rows)


@pytest.mark.slow
def test_two_modalities_of_real_brains_train_and_evaluate(
    real_data: Path, brats, step: Callable, tmp_path: Path
) -> None:
    held_out = ["BraTS20_Training_005"]
    places = {"dataset_dir": real_data / "brats2020", "ckpt_dir": tmp_path / "models", "spacing": [6, 6, 6]}
    places |= {"modalities": ["flair", "t1ce"], "fold": held_out}
    for name in ("train", "evaluate"):
        done = step(brats, name, **places, output_dir=tmp_path / name)
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
    with open(tmp_path / "evaluate" / "evaluation_cases.csv", newline="") as file:
        cases = list(csv.DictReader(file))
    assert [(c["case"], c["class"]) for c in cases] == [(held_out[0], name) for name in ("TC", "WT", "ET")]
    mask = nib.load(tmp_path / "evaluate" / "masks" / f"{held_out[0]}_seg.nii.gz")
    image = nib.load(real_data / "brats2020" / held_out[0] / f"{held_out[0]}_flair.nii.gz")
    assert mask.shape == image.shape and np.allclose(mask.affine, image.affine, atol=1e-4)
    assert set(np.unique(mask.get_fdata())) <= {0, 1, 2, 4}
