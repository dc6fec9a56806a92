# SPDX-License-Identifier: Apache-2.0

"""The official layouts of the data sets as they unpack, and what is said of folders that are not complete."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hybridmim_components.data import find_cases, finetuning_lists, pretraining_lists, read_cases
from hybridmim_components.data.volumes import read_volume

MODALITIES = ("flair", "t1", "t1ce", "t2")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def brats(root: Path, count: int = 3, suffix: str = ".nii.gz") -> Path:
    for number in range(1, count + 1):
        case = root / f"BraTS20_Training_{number:03d}"
        touch(*(case / f"{case.name}_{kind}{suffix}" for kind in (*MODALITIES, "seg")))
    touch(root / "name_mapping.csv", root / "survival_info.csv")
    return root


def names(image: list[str]) -> list[str]:
    return [Path(path).name for path in image]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_brats_cases_have_a_file_per_modality_in_the_order_asked_for(tmp_path: Path, suffix: str) -> None:
    cases = read_cases("brats2020", brats(tmp_path, suffix=suffix))
    assert [c["case_id"] for c in cases] == [f"BraTS20_Training_{n:03d}" for n in (1, 2, 3)]
    assert names(cases[0]["image"]) == [f"BraTS20_Training_001_{m}{suffix}" for m in MODALITIES]
    assert names([cases[0]["label"]]) == [f"BraTS20_Training_001_seg{suffix}"]
    two = read_cases("brats2020", tmp_path, ["t1ce", "flair"])
    assert names(two[2]["image"]) == [f"BraTS20_Training_003_{m}{suffix}" for m in ("t1ce", "flair")]


def test_the_irregular_label_of_the_release_is_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = brats(tmp_path)
    label = root / "BraTS20_Training_002" / "W39_1998.09.19_Segm.nii"
    (root / "BraTS20_Training_002" / "BraTS20_Training_002_seg.nii.gz").rename(label)
    with caplog.at_level(logging.INFO):
        cases = read_cases("brats2020", root)
    assert [c["label"] for c in cases][1] == str(label) and len(cases) == 3
    assert f"Taking {label} for the label of BraTS20_Training_002" in caplog.text


def test_incomplete_brats_cases_are_named(tmp_path: Path) -> None:
    root = brats(tmp_path)
    (root / "BraTS20_Training_001" / "BraTS20_Training_001_t1.nii.gz").unlink()
    (root / "BraTS20_Training_003" / "BraTS20_Training_003_seg.nii.gz").unlink()
    found = find_cases("brats2020", root)
    assert [c["case_id"] for c in found.cases] == ["BraTS20_Training_002"]
    with pytest.raises(ValueError, match="no BraTS20_Training_001_t1.nii.gz .*; no BraTS20_Training_003_seg.nii.gz"):
        read_cases("brats2020", root)


def test_a_sequence_that_no_case_has_is_told_with_what_to_set(tmp_path: Path) -> None:
    for path in brats(tmp_path).glob("*/*_t[12].nii.gz"):
        path.unlink()
    with pytest.raises(ValueError, match=r"has t1, t2: set modalities to what there is, such as \['flair', 't1ce'\]"):
        read_cases("brats2020", tmp_path)
    assert len(read_cases("brats2020", tmp_path, ["flair", "t1ce"])) == 3


def test_brats_in_one_file_of_all_modalities(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "case_1.nii.gz", tmp_path / "labelsTr" / "case_1.nii.gz")
    (case,) = read_cases("brats2020", tmp_path, ["flair"])
    assert case["image"] == str(tmp_path / "imagesTr" / "case_1.nii.gz")


def test_a_folder_above_the_patients_is_recognised(tmp_path: Path) -> None:
    brats(tmp_path / "MICCAI_BraTS2020_TrainingData")
    with pytest.raises(FileNotFoundError, match="did you mean .*/MICCAI_BraTS2020_TrainingData"):
        read_cases("brats2020", tmp_path)


BTCV_NAMES = {
    "as it unpacks": ("img/img{:04d}.nii.gz", "label/label{:04d}.nii.gz"),
    "Swin UNETR's": ("imagesTr/img{:04d}.nii.gz", "labelsTr/label{:04d}.nii.gz"),
    "equal names": ("imagesTr/img{:04d}.nii.gz", "labelsTr/img{:04d}.nii.gz"),
    "numbers": ("img/{:04d}.nii", "label/{:04d}.nii"),
}
NUMBERS = (*range(1, 11), *range(21, 41))


@pytest.mark.parametrize("layout", BTCV_NAMES)
def test_btcv_is_paired_by_number_in_both_layouts(tmp_path: Path, layout: str) -> None:
    image, label = BTCV_NAMES[layout]
    touch(*(tmp_path / name.format(n) for n in NUMBERS for name in (image, label)))
    cases = read_cases("btcv", tmp_path)
    pairs = [(c["image"], c["label"]) for c in cases]
    assert pairs == [(str(tmp_path / image.format(n)), str(tmp_path / label.format(n))) for n in NUMBERS]


def test_btcv_splits_as_published(tmp_path: Path) -> None:
    image, label = BTCV_NAMES["as it unpacks"]
    touch(*(tmp_path / name.format(n) for n in NUMBERS for name in (image, label)))
    lists = finetuning_lists("btcv", str(tmp_path), "standard")
    assert sorted(c["case_id"] for c in lists["validation"]) == [f"img{n:04d}" for n in range(35, 41)]
    assert len(lists["training"]) == 24
    pool = pretraining_lists("btcv", str(tmp_path), fold="standard")
    assert len(pool["held_out"]) == 6 and len(pool["training"]) + len(pool["validation"]) == 24
    assert not any(Path(i["image"]).name.startswith(("img0035", "img004")) for i in pool["training"])


def test_a_btcv_case_without_label_is_named_whatever_the_sort_order(tmp_path: Path) -> None:
    image, label = BTCV_NAMES["as it unpacks"]
    touch(*(tmp_path / name.format(n) for n in (1, 2, 3) for name in (image, label)))
    (tmp_path / label.format(2)).rename(tmp_path / label.format(4))
    with pytest.raises(ValueError, match="no label in .* for img0002; no image in .* for the label of label0004"):
        read_cases("btcv", tmp_path)


def test_unlabelled_cases_of_several_modalities_join_the_pool(tmp_path: Path) -> None:
    root = brats(tmp_path / "labelled", 5)
    touch(*(tmp_path / "more" / "p1" / f"p1_{m}.nii.gz" for m in MODALITIES))
    lists = pretraining_lists("brats2020", str(root), str(tmp_path / "more"), modalities=["flair", "t2"])
    images = [i["image"] for i in (*lists["training"], *lists["validation"])]
    assert [str((tmp_path / "more" / "p1" / f"p1_{m}.nii.gz").resolve()) for m in ("flair", "t2")] in images
    assert all(len(image) == 2 for image in images) and len(images) == 5
    # the data set itself as a folder of unlabelled volumes adds nothing, and no held-out case
    again = pretraining_lists("brats2020", str(root), [str(root), str(tmp_path / "more")], modalities=["flair", "t2"])
    assert again == lists


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("btcv", ".", ["flair"]), r"btcv has no modalities to choose from, got modalities \['flair'\]"),
        (("brats2020", ".", []), r"modalities must be a list of different names, at least one, got \[\]"),
        (("brats2020", ".", ["t1", "t1"]), "modalities must be a list of different names"),
        (("brats2020", ".", "flair"), "modalities must be a list of different names, at least one, got 'flair'"),
        (("liver", "."), "dataset must be one of .*'msd_liver', 'msd_spleen'.* or msd_NAME .*, got 'liver'"),
    ],
)
def test_wrong_settings_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_cases(*arguments)


def test_a_patient_whose_files_are_gone_or_renamed_is_named(tmp_path: Path) -> None:
    touch(brats(tmp_path) / "BraTS20_Training_004" / "flair.nii.gz")
    with pytest.raises(ValueError, match=r"no files named BraTS20_Training_004_\* in .*/BraTS20_Training_004"):
        read_cases("brats2020", tmp_path)


def test_a_folder_without_any_label_is_told_at_once(tmp_path: Path) -> None:
    for path in brats(tmp_path).glob("*/*_seg.nii.gz"):
        path.unlink()
    assert find_cases("brats2020", tmp_path).problems == [
        f"no case in {tmp_path} has a label: for pre-training, name it in unlabelled_dirs instead"
    ]


def test_a_test_folder_takes_the_place_of_data_set_and_fold(tmp_path: Path) -> None:
    touch(*(tmp_path / folder / f"case_{n}.nii.gz" for n in range(3) for folder in ("imagesTr", "labelsTr")))
    lists = finetuning_lists("msd_spleen", "/nowhere", ["other"], 0.1, test_dir=str(tmp_path))
    assert [c["case_id"] for c in lists["validation"]] == ["case_0", "case_1", "case_2"] and not lists["training"]


def test_the_published_split_is_found_by_number(tmp_path: Path) -> None:
    touch(*(tmp_path / folder / f"{n:04d}.nii.gz" for n in NUMBERS for folder in ("imagesTr", "labelsTr")))
    lists = finetuning_lists("btcv", str(tmp_path), "standard")
    assert sorted(c["case_id"] for c in lists["validation"]) == [f"{n:04d}" for n in range(35, 41)]
    for path in (tmp_path / "imagesTr").glob("003[5-9]*"):
        path.rename(tmp_path / path.name)
    for path in tmp_path.glob("*/0040*"):
        path.rename(path.with_name("0050.nii.gz"))
    for path in (tmp_path / "labelsTr").glob("003[5-9]*"):
        path.unlink()
    with pytest.raises(ValueError, match="fold 'standard' needs cases that end in 0035, .*0040, got none of them"):
        finetuning_lists("btcv", str(tmp_path), "standard")


def test_suffixes_in_capitals_are_read_and_folders_below_are_told(tmp_path: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part / "old").mkdir(parents=True)
        for name in ("spleen_1.nii.gz", "spleen_2.NII.GZ", "spleen_3.NII"):
            path = tmp_path / part / name.lower()
            nib.save(nib.Nifti1Image(np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.eye(4)), path)
            path.rename(path.with_name(name))
    (tmp_path / "imagesTr" / "old" / "spleen_4.nii.gz").touch()
    found = find_cases("msd_spleen", tmp_path)
    assert [case["case_id"] for case in found.cases] == ["spleen_1", "spleen_2", "spleen_3"] and not found.problems
    assert all(read_volume(case["image"]).shape == (1, 2, 2, 2) for case in found.cases)
    assert found.doubts == [
        f"1 NIfTI file(s) in folders below {tmp_path / 'imagesTr'} are not read, such as old/spleen_4.nii.gz: "
        "usual is that all lie in the folder itself"
    ]
