# SPDX-License-Identifier: Apache-2.0

"""The command line as it is typed: every kind of bad input, with the file's name, and an exit status that says so."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hybridmim_components.__main__ import main
from hybridmim_components.phantoms import write_brats2020, write_btcv, write_msd_liver

GRID = {"size": (36, 36, 28), "spacing": (8.0, 8.0, 9.0)}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """Run a command in this process: exit status, standard output, and what a shell would show as the error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hybridmim_components", *arguments])
        try:
            main()
            code: object = 0
        except SystemExit as exit_:
            code = exit_.code
        return (code if isinstance(code, int) else 1), capsys.readouterr().out, str(code)

    return run


def change(path: Path, function: Callable) -> None:
    """Rewrite a NIfTI file: ``function`` takes voxels and affine and gives both."""
    image = nib.load(path)
    voxels, affine = function(np.asarray(image.dataobj), image.affine)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def with_nan(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    voxels = voxels.astype(np.float32)
    voxels[3, 3, 3] = np.nan
    return voxels, affine


FAULTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "missing label": ("label/label0002.nii.gz", os.remove, "no label in {root}/label for img0002"),
    "empty file": ("img/img0002.nii.gz", lambda p: p.write_bytes(b""), "cannot read the image {path}"),
    "truncated file": ("img/img0002.nii.gz", lambda p: os.truncate(p, 500), "cannot read the image {path}"),
    "NaN": (
        "img/img0002.nii.gz",
        lambda p: change(p, with_nan),
        "image must hold finite values only, got NaN or infin",
    ),
    "constant image": (
        "img/img0002.nii.gz",
        lambda p: change(p, lambda v, a: (np.full_like(v, -1000), a)),
        "image must hold more than one value, got -1000 in every voxel of {path}",
    ),
    "label of another shape": (
        "label/label0002.nii.gz",
        lambda p: change(p, lambda v, a: (v[:-1], a)),
        "a label must have its image's shape",
    ),
    "label of another affine": (
        "label/label0002.nii.gz",
        lambda p: change(p, lambda v, a: (v, a @ np.diag([1, 1, 1.1, 1]))),
        "affine and orientation, within 0.01 mm, got another that differs by up to 0.86 mm in {path}",
    ),
    "unexpected label value": (
        "label/label0002.nii.gz",
        lambda p: change(p, lambda v, a: (np.where(v == 6, 14, v).astype(np.uint8), a)),
        "label values must be among 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, got 14 in {path}",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_the_file_and_what_is_wrong_with_it(command: Callable, tmp_path: Path, fault: str) -> None:
    root = write_btcv(tmp_path, 4, 0, **GRID) / "Training"
    name, spoil, message = FAULTS[fault]
    spoil(root / name)
    code, out, error = command("check", "--dataset", "btcv", "--dataset_dir", str(root))
    assert code == 1
    bad = [line for line in out.splitlines() if message.format(root=root, path=root / name) in line]
    assert len(bad) == 1
    assert sum(line.endswith("  ok") for line in out.splitlines()) == 3
    assert "error: 1 of 4 row(s) cannot be used" in error


BRATS_FAULTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "background that is not 0": (
        "_t1ce.nii.gz",
        lambda p: change(p, lambda v, a: (np.where(v == 0, -7, v), a)),
        "the background must be 0, since intensities are normalised where they are not 0, got a constant -7 in {path}",
    ),
    "modality on another grid": (
        "_t2.nii.gz",
        lambda p: change(p, lambda v, a: (v, a @ np.diag([1.2, 1, 1, 1]))),
        "affine and orientation, within 1e-08 mm, got another that differs by up to 1.68 mm in {path}",
    ),
    "coding of the Decathlon": (
        "_seg.nii.gz",
        lambda p: change(p, lambda v, a: (np.where(v == 4, 3, v).astype(np.uint8), a)),
        "label values must be among 0, 1, 2, 4, got 3 in {path}",
    ),
    "missing modality": ("_t1.nii.gz", os.remove, "no BraTS20_Training_002_t1.nii.gz or .nii in {folder}"),
}


@pytest.mark.parametrize("fault", BRATS_FAULTS)
def test_check_knows_the_rules_of_brats(command: Callable, tmp_path: Path, fault: str) -> None:
    root = write_brats2020(tmp_path, 2, 0, **GRID) / "MICCAI_BraTS2020_TrainingData"
    ending, spoil, message = BRATS_FAULTS[fault]
    folder = root / "BraTS20_Training_002"
    path = folder / f"{folder.name}{ending}"
    spoil(path)
    code, out, error = command("check", "brats2020", str(root))
    assert code == 1
    assert message.format(path=path, folder=folder) in out
    assert "BraTS20_Training_001" in out


def test_check_tells_what_a_good_data_set_holds(command: Callable, tmp_path: Path) -> None:
    root = write_msd_liver(tmp_path / "Task03_Liver", 2, 0, **GRID)
    code, out, error = command("check", "msd_liver", str(root))
    assert code == 0, error
    head, first, second, last = out.splitlines()
    assert head.split() == "case grid spacing [mm] intensity voxels per label verdict".split()
    image, label = (nib.load(root / folder / "liver_1.nii.gz") for folder in ("imagesTr", "labelsTr"))
    canonical = nib.as_closest_canonical(image)
    assert "x".join(str(n) for n in canonical.shape) in first
    for value, count in zip(*np.unique(np.asarray(label.dataobj), return_counts=True), strict=True):
        assert f"{value}:{count}" in first
    assert first.endswith("ok") and second.endswith("ok") and last == "all 2 cases can be used"


def test_another_task_of_msd_is_checked_by_its_own_labels(command: Callable, tmp_path: Path) -> None:
    root = write_msd_liver(tmp_path / "Task", 2, 0, **GRID)
    assert command("check", "msd_other", str(root))[0] == 0
    table = json.loads((root / "dataset.json").read_text())
    table["labels"].pop("2")
    (root / "dataset.json").write_text(json.dumps(table))
    code, out, error = command("check", "msd_other", str(root))
    assert code == 1 and "label values must be among 0, 1, got 2" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "btcv", "/nowhere"), "error: dataset_dir must be an existing folder, got /nowhere"),
        (("check", "lung", "."), "error: dataset must be one of"),
        (("phantoms", "out", "--dataset", "lung"), "error: dataset must be one of"),
        (("download", "lung9", "."), "error: task must be one of Task01_BrainTumour"),
    ],
)
def test_mistakes_end_with_one_line(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = command(*arguments)
    assert code == 1 and message in error and not any(tmp_path.iterdir())
