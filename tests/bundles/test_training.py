# SPDX-License-Identifier: Apache-2.0

"""What users and MONAI Label do with pre-training and training, and how a run that cannot work ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from hybridmim_components.system.folder_lock import FolderLock
from hybridmim_components.weights import read_weights

pytestmark = pytest.mark.slow


def test_pretraining_needs_no_labelled_data_and_keeps_a_run_shorter_than_its_interval(
    spleen, phantoms: Callable, tmp_path: Path, step: Callable
) -> None:
    data = phantoms("msd_spleen")
    places = {"dataset_dir": "", "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "out"}
    data_args = {"unlabelled_dirs": [str(data.unlabelled_dir), str(data.image_dir)]}
    done = step(spleen, "pretrain", **places, **data_args, epochs=1, val_interval=10)
    assert done.returncode == 0, done.stderr
    best, last = (read_weights(tmp_path / "models" / "pretrained" / f"{name}.pt") for name in ("model", "last"))
    assert len(best[1]["volumes"]) == len(last[1]["volumes"]) == 3
    # the only validation is that of the last epoch
    assert best[1]["best"]["epoch"] == last[1]["last"]["epoch"] == 1
    assert all(torch.equal(tensor, last[0][name]) for name, tensor in best[0].items())


@pytest.mark.parametrize(("training", "validation"), [(3, 1), (3, 0), (1, 0)])
def test_training_runs_as_monai_label_drives_it(
    spleen, phantoms: Callable, tmp_path: Path, training: int, validation: int
) -> None:
    """Lists of image and label in place of ours, no dataset_dir, and the number of epochs set on the trainer."""
    root = phantoms("msd_spleen").dataset_dir
    items = [{k: str(root / f"{k}sTr" / f"spleen_{i}.nii.gz") for k in ("image", "label")} for i in range(1, 5)]
    given = {
        "bundle_root": str(tmp_path),
        "train#trainer#max_epochs": 2,
        "train#dataset#data": items[:training],
        "validate#dataset#data": items[training : training + validation],
    }
    small = {k: v for k, v in spleen.small("train").items() if k != "epochs"}
    workflow = ConfigWorkflow(spleen.config_files("train"), workflow_type="train", logging_file=False, **small, **given)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert (workflow.trainer.state.epoch, workflow.trainer.state.iteration) == (2, 2 * small["steps_per_epoch"])
    # the schedule follows the trainer's epochs: it has come down at the end
    assert workflow.parser.get_parsed_content("optimizer").param_groups[0]["lr"] == pytest.approx(0)
    assert set(torch.load(tmp_path / "models" / "model.pt", weights_only=True)) == set(
        workflow.network_def.state_dict()
    )
    recipe = read_weights(tmp_path / "models" / "model.pt")[1]
    assert len(recipe["training_volumes"]) == training
    assert (recipe["epochs"], recipe["planned_steps"]) == (2, 2 * small["steps_per_epoch"])


ERRORS = {
    "unknown override": ({"learning_rat": 1}, "error: unknown setting: learning_rat (did you mean learning_rate?)"),
    "missing dataset_dir": ({"dataset_dir": "/nowhere"}, "error: dataset_dir must be an existing folder, got /nowhere"),
    "grid": ({"patch_size": [7, 7, 7]}, "error: patch_size must divide subvolume_size on every axis"),
    "ratio": ({"mask_ratio": 1.5}, "error: mask_ratio must be in (0, 1), got 1.5"),
    "negatives": ({"batch_size": 1}, "error: the contrastive loss needs crops of at least 2 volumes in a batch"),
    "weights": ({"pretrained": "nowhere.pt"}, "error: no weights at nowhere.pt or"),
    "ckpt_dir": ({"ckpt_dir": "/dev/null"}, "error: ckpt_dir must be a folder that can be written, got /dev/null"),
    "fold": ({"fold": 7}, "error: fold must be 'all', one of 0..4, or a list of case ids, got 7"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_what_cannot_run_ends_at_once_with_one_line(
    fault: str, spleen, phantoms: Callable, tmp_path: Path, step: Callable
) -> None:
    overrides, message = ERRORS[fault]
    places = {
        "dataset_dir": phantoms("msd_spleen").dataset_dir,
        "ckpt_dir": tmp_path / "models",
        "output_dir": tmp_path / "out",
    }
    done = step(spleen, "pretrain", **{**places, **overrides})
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("models/**/*.pt"))


@pytest.mark.parametrize("setting", ["output_dir", "ckpt_dir"])
def test_a_folder_that_another_run_uses_is_refused_at_once(
    setting: str, spleen, phantoms: Callable, tmp_path: Path, step: Callable
) -> None:
    places = {"output_dir": tmp_path / "out", "ckpt_dir": tmp_path / "models"}
    lock = FolderLock(**{setting: places[setting]})
    done = step(spleen, "train", dataset_dir=phantoms("msd_spleen").dataset_dir, **places)
    lock.release()
    assert done.returncode != 0
    assert f"error: {setting} {places[setting]} is in use by process {os.getpid()} on host" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("*/*.pt"))


def test_a_server_trains_again_after_trainings_that_ended_failed_or_were_given_up(
    spleen, phantoms: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = phantoms("msd_spleen").dataset_dir
    items = [{k: str(root / f"{k}sTr" / f"spleen_{i}.nii.gz") for k in ("image", "label")} for i in (1, 2)]
    given = {"bundle_root": str(tmp_path), "train#dataset#data": items, "validate#dataset#data": []}

    def train(steps: str) -> None:
        settings = {**spleen.small("train"), "epochs": 1, **given}
        workflow = ConfigWorkflow(spleen.config_files("train"), workflow_type="train", logging_file=False, **settings)
        for name in steps.split():
            getattr(workflow, name)()

    train("initialize run finalize")
    with monkeypatch.context() as patch:
        patch.setattr("monai.engines.Trainer.run", lambda self: 1 / 0)
        with pytest.raises(RuntimeError):
            train("initialize run")
    train("initialize")
    train("initialize run finalize")


def test_an_unreadable_case_is_named_before_training(
    spleen, phantoms: Callable, tmp_path: Path, step: Callable
) -> None:
    shutil.copytree(phantoms("msd_spleen").dataset_dir, tmp_path / "data")
    broken = tmp_path / "data" / "imagesTr" / "spleen_3.nii.gz"
    os.truncate(broken, broken.stat().st_size // 2)
    places = {"dataset_dir": tmp_path / "data", "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "out"}
    done = step(spleen, "train", **places)
    assert done.returncode != 0
    assert "error: 1 of 6 volume(s) cannot be used:" in done.stderr and str(broken) in done.stderr
    assert not list(tmp_path.glob("models/**/*.pt"))


def test_four_channel_files_train_as_monai_label_drives_it(brats, phantoms: Callable, tmp_path: Path) -> None:
    """One file of four channels per case, as a datastore of MONAI Label holds it."""
    folders = sorted(p for p in phantoms("brats2020").dataset_dir.iterdir() if p.is_dir())[:2]
    items = []
    for folder in folders:
        parts = [nib.load(folder / f"{folder.name}_{m}.nii.gz") for m in ("flair", "t1", "t1ce", "t2")]
        voxels = np.stack([part.get_fdata(dtype=np.float32) for part in parts], -1)
        nib.save(nib.Nifti1Image(voxels, parts[0].affine), tmp_path / f"{folder.name}.nii.gz")
        items.append(
            {"image": str(tmp_path / f"{folder.name}.nii.gz"), "label": str(folder / f"{folder.name}_seg.nii.gz")}
        )
    given = {"bundle_root": str(tmp_path), "train#dataset#data": items, "validate#dataset#data": items[1:]}
    small = {**brats.small("train"), "epochs": 1}
    workflow = ConfigWorkflow(brats.config_files("train"), workflow_type="train", logging_file=False, **small, **given)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert read_weights(tmp_path / "models" / "model.pt")[0]["conv_0.conv_0.conv.weight"].shape[1] == 4


def test_a_file_with_other_channels_than_the_modalities_is_named(
    brats, phantoms: Callable, tmp_path: Path, step: Callable
) -> None:
    folder = phantoms("brats2020").dataset_dir / "BraTS20_Training_001"
    flair = nib.load(folder / "BraTS20_Training_001_flair.nii.gz")
    for kind, voxels in {
        "imagesTr": np.stack([flair.get_fdata()] * 3, -1),
        "labelsTr": nib.load(folder / "BraTS20_Training_001_seg.nii.gz").get_fdata().astype(np.uint8),
    }.items():
        (tmp_path / kind).mkdir()
        nib.save(nib.Nifti1Image(voxels, flair.affine), tmp_path / kind / "case.nii.gz")
    done = step(brats, "train", dataset_dir=tmp_path, fold="all", output_dir=tmp_path / "out", ckpt_dir=tmp_path / "m")
    assert done.returncode != 0
    assert "image must be a 3D volume of 4 channels, one per modality, got 3 channel(s)" in done.stderr
    assert str(tmp_path / "imagesTr" / "case.nii.gz") in done.stderr
