# SPDX-License-Identifier: Apache-2.0

"""Which files below a folder are volumes for pre-training. The finder reads names alone, so the files are empty."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from hybridmim_components.data import find_volumes

# every file of the layout as published, and which of them are images
LAYOUTS = {
    "LUNA16": (
        ["subset0/1.3.6.mhd", "subset1/1.3.7.mhd"],
        ["seg-lungs-LUNA16/1.3.6.mhd", "seg-lungs-LUNA16/1.3.7.mhd"],
        ["subset0/1.3.6.raw", "seg-lungs-LUNA16/1.3.6.zraw", "annotations.csv"],
    ),
    "FLARE2021": (
        ["TrainingImg/train_000_0000.nii.gz", "ValidationImg/validation_001_0000.nii.gz"],
        ["TrainingMask/train_000.nii.gz"],
        [],
    ),
    "COVID-19-20": (
        [
            "COVID-19-20_v2/Train/volume-covid19-A-0003_ct.nii.gz",
            "COVID-19-20_v2/Validation/volume-covid19-A-0001_ct.nii.gz",
        ],
        ["COVID-19-20_v2/Train/volume-covid19-A-0003_seg.nii.gz"],
        [],
    ),
    "ATM22": (["TrainBatch1/imagesTr/ATM_001_0000.nii.gz"], ["TrainBatch1/labelsTr/ATM_001_0000.nii.gz"], []),
    "MSD": (
        ["Task09_Spleen/imagesTr/spleen_10.nii.gz", "Task09_Spleen/imagesTs/spleen_1.nii.gz"],
        ["Task09_Spleen/labelsTr/spleen_10.nii.gz"],
        ["Task09_Spleen/imagesTr/._spleen_10.nii.gz", "Task09_Spleen/dataset.json"],
    ),
    "BTCV": (["Training/img/img0001.nii.gz"], ["Training/label/label0001.nii.gz"], []),
    "LiTS and CT-ORG": (["volume-0.nii", "volume-1.nii.gz"], ["segmentation-0.nii", "labels-1.nii.gz"], []),
    "COVID-19-CT-Seg": (
        ["COVID-19-CT-Seg_20cases/coronacases_001.nii.gz"],
        ["Lung_and_Infection_Mask/coronacases_001.nii.gz", "Infection_Mask/coronacases_001.nii.gz"],
        [],
    ),
}


def make(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def relative(paths: Iterable[str], root: Path) -> list[str]:
    return [str(Path(p).relative_to(root.resolve())) for p in paths]


@pytest.mark.parametrize("corpus", LAYOUTS)
def test_the_images_of_published_layouts_are_found_and_their_label_maps_are_not(tmp_path: Path, corpus: str) -> None:
    images, labels, others = LAYOUTS[corpus]
    make(tmp_path, [*images, *labels, *others])
    assert relative(find_volumes(tmp_path), tmp_path) == sorted(images)


LABEL_FOLDERS = [
    *("label", "labels", "labelsTr", "labelsTs", "LABELS", "labelstr", "train_labels_v2", "labelmaps", "CTLabels"),
    "annotations",
    *("mask", "Masks", "TrainingMask", "MASKS_DICOM", "lungmasks"),
    *(
        "seg",
        "Segmentations",
        "lung_seg",
        "SegmentationMasks",
        "1_seg_lungs",
        "lung_seg_2",
        "300.000000-Segmentation-9.554",
    ),
    *("ground truth", "GroundTruth", "ground_truth", "groundtruth", "GT"),
]
IMAGE_FOLDERS = [
    *("segovia_hospital", "Segal", "SEGA.A.", "maskell", "unmasked", "gtx_scanner", "images", "img", "ct"),
    *("unlabelled", "images_no_labels", "scans_without_masks", "images_and_labels", "FLARE22_LabeledCase50"),
    *("MedicalSegmentationDecathlon", "COVID-19-CT-Seg_20cases"),
]
LABEL_FILES = [
    *("a_seg", "a-seg", "a_Seg", "a_segm", "a_segmentation", "a-label", "a_labels", "a_labelmap", "a.seg", "aSeg"),
    *("a_mask", "a_lungmask", "A_MASK", "a_gt", "a_GT", "a_ground_truth", "sub-1_seg-vert_msk", "segmentation"),
    *("segmentation-12", "labels-0", "label0001", "mask_3", "p1-label-2", "a_lungmask_2"),
]
IMAGE_FILES = [
    *(
        "a",
        "segovia_1",
        "a_ct",
        "seg_case_ct",
        "LungSeg_001_0000",
        "LungSeg_1",
        "Seg_001_0000",
        "a_masked",
        "a_gts64",
        "a_no_mask",
    ),
    *("volume-covid19-A-0003_ct", "ATM_001_0000", "001", "1.3.6.1.4", "t1"),
]


@pytest.mark.parametrize("name", LABEL_FOLDERS)
def test_folders_of_label_maps_are_passed_over(tmp_path: Path, name: str) -> None:
    make(tmp_path, ["image.nii.gz", f"{name}/deep/er/1.nii.gz"])
    assert relative(find_volumes(tmp_path), tmp_path) == ["image.nii.gz"]


@pytest.mark.parametrize("name", IMAGE_FOLDERS)
def test_folders_of_images_are_kept(tmp_path: Path, name: str) -> None:
    make(tmp_path, [f"{name}/deep/er/1.nii.gz"])
    assert len(find_volumes(tmp_path)) == 1


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".NII.GZ", ".mha", ".mhd", ".nrrd"])
def test_label_maps_among_images_are_known_by_their_last_word(tmp_path: Path, suffix: str) -> None:
    make(tmp_path, [f"{name}{suffix}" for name in (*LABEL_FILES, *IMAGE_FILES)])
    found = {Path(path).name.removesuffix(suffix) for path in find_volumes(tmp_path)}
    assert found == set(IMAGE_FILES)


def test_a_folder_that_the_user_names_is_never_passed_over_by_its_own_name(tmp_path: Path) -> None:
    make(tmp_path, ["seg/masks/1.nii.gz", "seg/2.nii.gz"])
    assert relative(find_volumes(tmp_path / "seg"), tmp_path) == ["seg/2.nii.gz"]
    assert relative(find_volumes([tmp_path / "seg", tmp_path / "seg" / "masks"]), tmp_path) == [
        "seg/2.nii.gz",
        "seg/masks/1.nii.gz",
    ]


def test_what_is_passed_over_is_logged_once_for_each_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = ["labelsTr/a.nii.gz", "labelsTr/deep/b.nii.gz", "masks/slice.dcm", "a_seg.nii.gz", "b_seg.nii.gz"]
    make(tmp_path, ["a.nii.gz", *labels, "labels_csv/a.csv", "labelsTr/._a.nii.gz"])
    with caplog.at_level(logging.INFO):
        find_volumes(tmp_path)
    assert sorted(caplog.messages) == sorted(
        [
            f"Skipped 2 file(s) in {tmp_path / 'labelsTr'}, which are label maps by the folder's name",
            f"Skipped 1 file(s) in {tmp_path / 'masks'}, which are label maps by the folder's name",
            f"Skipped 2 file(s) in {tmp_path}, which are label maps by the files' names",
        ]
    )


def test_folders_without_volumes_are_named(tmp_path: Path) -> None:
    make(tmp_path, ["notes.txt", ".hidden/a.nii.gz"])
    with pytest.raises(FileNotFoundError, match=f"no volume below {tmp_path}: expected .nii.gz, "):
        find_volumes([tmp_path])
    with pytest.raises(FileNotFoundError, match="unlabelled_dirs must hold existing folders, got .*nowhere"):
        find_volumes(tmp_path / "nowhere")


def test_a_folder_of_nothing_but_label_maps_says_so(tmp_path: Path) -> None:
    make(tmp_path, ["labelsTr/a.nii.gz", "b_seg.nii.gz"])
    with pytest.raises(FileNotFoundError, match=f"no volume below {tmp_path}: all 2 .* passed over as label maps"):
        find_volumes(tmp_path)


def test_links_and_overlapping_folders_give_no_repeats(tmp_path: Path) -> None:
    make(tmp_path, ["a/1.nii.gz", "a/b/2.nii.gz"])
    (tmp_path / "a" / "3.nii.gz").symlink_to(tmp_path / "a" / "1.nii.gz")
    assert relative(find_volumes([tmp_path, tmp_path / "a" / "b"]), tmp_path) == ["a/1.nii.gz", "a/b/2.nii.gz"]
    with_modalities = find_volumes([tmp_path, tmp_path / "a" / "b"], ["t1"])
    assert with_modalities == [str(tmp_path.resolve() / "a" / "1.nii.gz"), str(tmp_path.resolve() / "a/b/2.nii.gz")]


BRATS = ("flair", "t1", "t1ce", "t2", "seg")


def test_files_of_one_case_are_one_volume_in_the_order_of_the_modalities(tmp_path: Path) -> None:
    make(tmp_path, [f"T/B_{i}/B_{i}_{m}.nii.gz" for i in (2, 1) for m in BRATS])
    make(tmp_path, [f"flat/{case}_{m}.nii" for case in ("x", "y_z") for m in ("T1CE", "FLAIR", "t1")])
    make(tmp_path, ["flat/multi.nii.gz", "bare/t1ce.nii.gz", "bare/flair.nii.gz"])
    found = find_volumes(tmp_path, ["t1ce", "flair"])
    assert [volume if isinstance(volume, str) else relative(volume, tmp_path) for volume in found] == [
        ["T/B_1/B_1_t1ce.nii.gz", "T/B_1/B_1_flair.nii.gz"],
        ["T/B_2/B_2_t1ce.nii.gz", "T/B_2/B_2_flair.nii.gz"],
        ["bare/t1ce.nii.gz", "bare/flair.nii.gz"],
        str(tmp_path.resolve() / "flat" / "multi.nii.gz"),
        ["flat/x_T1CE.nii", "flat/x_FLAIR.nii"],
        ["flat/y_z_T1CE.nii", "flat/y_z_FLAIR.nii"],
    ]


def test_without_modalities_every_file_is_a_volume(tmp_path: Path) -> None:
    make(tmp_path, [f"B_1_{m}.nii.gz" for m in BRATS])
    assert relative(find_volumes(tmp_path), tmp_path) == [f"B_1_{m}.nii.gz" for m in BRATS[:-1]]


def test_one_modality_is_still_a_list_and_unknown_ones_can_be_named(tmp_path: Path) -> None:
    make(tmp_path, ["a-t2f.nii.gz", "a-adc.nii.gz", "a-t1n.nii.gz"])
    assert find_volumes(tmp_path, ["t2f"]) == [
        str(tmp_path.resolve() / "a-adc.nii.gz"),
        [str(tmp_path.resolve() / "a-t2f.nii.gz")],
    ]
    assert find_volumes(tmp_path, ["ADC"]) == [[str(tmp_path.resolve() / "a-adc.nii.gz")]]


def test_all_cases_that_lack_a_modality_are_named_at_once(tmp_path: Path) -> None:
    make(tmp_path / "one", ["B_1/B_1_flair.nii.gz", "B_2/B_2_flair.nii.gz", "B_2/B_2_t1ce.nii.gz"])
    make(tmp_path / "two", ["B_3/B_3_t2.nii.gz", "t1ce.nii.gz", "B_4_t1ce.nii", "B_4_t1ce.nii.gz", "B_4_flair.nii"])
    with pytest.raises(ValueError, match=r"got \['flair', 't1ce'\] and 4 fault\(s\)") as caught:
        find_volumes([tmp_path / "one", tmp_path / "two"], ["flair", "t1ce"])
    assert str(caught.value).splitlines()[1:] == [
        f"  {tmp_path}/two: B_4_t1ce.nii and B_4_t1ce.nii.gz are one modality of one case",
        f"  {tmp_path}/one/B_1: B_1 lacks t1ce",
        f"  {tmp_path}/two: the case lacks flair",
        f"  {tmp_path}/two/B_3: B_3 lacks flair, t1ce",
    ]


@pytest.mark.parametrize("modalities", [[], "flair", ["t1", "T1"]])
def test_modalities_that_are_no_list_of_different_names_are_refused(tmp_path: Path, modalities: list[str]) -> None:
    make(tmp_path, ["a_t1.nii.gz"])
    with pytest.raises(ValueError, match="modalities must be a list of different names"):
        find_volumes(tmp_path, modalities)


def test_a_link_to_a_folder_above_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.nii").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert find_volumes(tmp_path) == [str((tmp_path / "a" / "x.nii").resolve())]


def test_incomplete_cases_are_skipped_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("p1_flair.nii", "p1_t2.nii", "p2_flair.nii"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="lacks t2"):
        find_volumes(tmp_path, ["flair", "t2"])
    found = find_volumes(tmp_path, ["flair", "t2"], skip_unreadable=True)
    assert found == [[str((tmp_path / f"p1_{m}.nii").resolve()) for m in ("flair", "t2")]]
    assert "p2" in caplog.text and "lacks t2" in caplog.text
