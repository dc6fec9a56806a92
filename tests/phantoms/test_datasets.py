# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from hybridmim_components.data.datasets import read_cases
from hybridmim_components.phantoms import (
    Organ,
    abdomen_phantom,
    write_btcv,
    write_msd_liver,
    write_msd_spleen,
    write_phantoms,
    write_unlabelled,
)
from hybridmim_components.phantoms.anatomy import EXTRAS

SMALL: dict[str, Any] = {"size": (40, 40, 28), "spacing": (7.0, 7.0, 9.0)}


TINY: dict[str, Any] = {"size": (24, 24, 20), "spacing": (12.0, 12.0, 13.0)}


def draw(seed: int, **options: Any) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    return abdomen_phantom(np.random.default_rng(seed), **{**SMALL, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def load(path: str | Path) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_filename(path)


def canonical(path: str | Path) -> nib.Nifti1Image:
    return nib.as_closest_canonical(load(path))


@pytest.fixture(scope="module")
def msd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msd_spleen(tmp_path_factory.mktemp("msd") / "Task09_Spleen", 4, 1, seed=3, **SMALL)


def test_layout_is_the_decathlons(msd: Path) -> None:
    names = [f"spleen_{n}.nii.gz" for n in range(1, 6)]
    labelled = [f"{folder}/{n}" for folder in ("imagesTr", "labelsTr") for n in names[:4]]
    assert sorted(contents(msd)) == sorted(["dataset.json", f"imagesTs/{names[4]}", *labelled])
    about = json.loads((msd / "dataset.json").read_text())
    assert (about["numTraining"], about["numTest"], about["labels"]) == (4, 1, {"0": "background", "1": "spleen"})
    assert about["training"][1] == {"image": "./imagesTr/spleen_2.nii.gz", "label": "./labelsTr/spleen_2.nii.gz"}
    assert about["test"] == ["./imagesTs/spleen_5.nii.gz"]
    assert "ynthetic" in about["description"] and "no patient" in about["description"]
    assert about["phantom"] == {"seed": 3, "size": [40, 40, 28], "spacing": [7.0, 7.0, 9.0]}
    assert len(read_cases("msd_spleen", msd)) == 4


def test_label_lies_on_the_grid_of_its_image_in_several_orientations(msd: Path) -> None:
    orientations, shapes = set(), set()
    for case in read_cases("msd_spleen", msd):
        image, label = load(case["image"]), load(case["label"])
        assert image.shape == label.shape and np.array_equal(image.affine, label.affine)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        assert set(np.unique(label.dataobj)) == {0, 1}
        orientations.add(nib.aff2axcodes(image.affine))
        shapes.add(image.shape)
    assert len(orientations) == 4 and ("L", "P", "S") in orientations
    assert len(shapes) > 1 and all(np.all(np.array(s) >= (40, 40, 28)) for s in shapes)


def test_liver_is_right_and_spleen_left_behind_in_the_map() -> None:
    _, organs = draw(1)
    liver, spleen, spine, stomach = (
        np.argwhere(organs == o).mean(0) for o in (Organ.LIVER, Organ.SPLEEN, Organ.SPINE, Organ.STOMACH)
    )
    assert spleen[0] < spine[0] < liver[0]
    assert spine[1] < stomach[1] and spleen[1] < stomach[1]


def test_spleen_is_left_and_liver_right_in_the_world_of_every_file(msd: Path) -> None:
    for case in read_cases("msd_spleen", msd):
        image, label = canonical(case["image"]), canonical(case["label"])
        hu, spleen = np.asarray(image.dataobj), np.asarray(label.dataobj) == 1

        def right(mask: NDArray[np.bool_], affine: NDArray[np.float64] = image.affine) -> float:
            return float(apply_affine(affine, np.argwhere(mask)).mean(0)[0])

        soft_right = right((hu > 20) & (hu < 150) & ~spleen)
        assert right(spleen) < right(hu > -300) < soft_right  # the liver is the largest soft organ
        spine = apply_affine(image.affine, np.argwhere(hu > 250)).mean(0)[1]
        assert spine < apply_affine(image.affine, np.argwhere(hu > -300)).mean(0)[1]


def test_same_seed_same_bytes_and_a_case_depends_on_its_number_alone(msd: Path, tmp_path: Path) -> None:
    fewer = contents(write_msd_spleen(tmp_path / "fewer", 2, 0, seed=3, **SMALL))
    other = contents(write_msd_spleen(tmp_path / "other", 1, 0, seed=4, **SMALL))
    expected = contents(msd)
    del fewer["dataset.json"]
    assert len(fewer) == 4 and all(expected[name] == content for name, content in fewer.items())
    assert other["imagesTr/spleen_1.nii.gz"] != expected["imagesTr/spleen_1.nii.gz"]


def test_unlabelled_volumes_are_none_of_the_labelled_ones(msd: Path, tmp_path: Path) -> None:
    written = contents(write_unlabelled(tmp_path / "more", 2, seed=3, **SMALL))
    assert sorted(written) == ["phantom_1.nii.gz", "phantom_2.nii.gz", "phantoms.json"]
    assert len(set(written.values()) | set(contents(msd).values())) == 3 + len(contents(msd))
    assert canonical(tmp_path / "more" / "phantom_1.nii.gz").get_data_dtype() == np.int16


def test_the_same_phantoms_are_reused_and_missing_ones_completed(tmp_path: Path) -> None:
    folder = write_msd_spleen(tmp_path / "a", 2, 0, **SMALL)
    first, second = folder / "imagesTr/spleen_1.nii.gz", folder / "labelsTr/spleen_2.nii.gz"
    content = second.read_bytes()
    first.write_bytes(b"kept")
    second.unlink()
    assert write_msd_spleen(folder, 2, 0, **SMALL) == folder
    assert first.read_bytes() == b"kept" and second.read_bytes() == content


def test_folders_of_anything_else_are_refused_and_left_alone(tmp_path: Path) -> None:
    folder = write_msd_spleen(tmp_path / "a", 1, 0, **SMALL)
    stranger = tmp_path / "b"
    stranger.mkdir()
    (stranger / "dataset.json").write_text("{}")
    for target, seed in ((folder, 1), (stranger, 0), (stranger / "dataset.json", 0)):
        before = contents(tmp_path)
        with pytest.raises(ValueError, match=r"dataset_dir must be a new or empty folder.*got "):
            write_msd_spleen(target, 1, 0, seed=seed, **SMALL)
        assert contents(tmp_path) == before
    with pytest.raises(ValueError, match="^folder must be a new or empty folder"):
        write_unlabelled(stranger, 1, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_training": 0}, "num_training must be an integer of at least 1, got 0"),
        ({"num_test": -1}, "num_test must be an integer of at least 0, got -1"),
        ({"seed": 1.5}, "seed must be an integer of at least 0, got 1.5"),
        ({"size": (96, 96)}, r"size must be 3 integers of at least 16, got \(96, 96\)"),
        ({"size": (96, 96, 8)}, r"size must be 3 integers of at least 16, got \(96, 96, 8\)"),
        ({"spacing": (1, 1, 0)}, r"spacing must be 3 positive numbers of mm, got \(1, 1, 0\)"),
        ({"spacing": (1, 1, float("nan"))}, "spacing must be 3 positive numbers of mm, got"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_msd_spleen(tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()


def test_num_volumes_and_the_grid_of_a_single_phantom_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_volumes must be an integer of at least 1, got 0"):
        write_unlabelled(tmp_path / "a", 0)
    with pytest.raises(ValueError, match="size must be 3 integers"):
        abdomen_phantom(np.random.default_rng(0), (15, 96, 96))


def test_liver_has_the_layout_of_task03_and_both_labels_in_every_case(tmp_path: Path) -> None:
    root = write_msd_liver(tmp_path / "Task03_Liver", 4, 1, seed=3, **SMALL)
    about = json.loads((root / "dataset.json").read_text())
    assert about["labels"] == {"0": "background", "1": "liver", "2": "cancer"} and about["name"] == "Liver"
    assert sorted(p.name for p in (root / "imagesTs").iterdir()) == ["liver_5.nii.gz"]
    cases = read_cases("msd_liver", root)
    assert [case["case_id"] for case in cases] == [f"liver_{n}" for n in range(1, 5)]
    for case in cases:
        assert set(np.unique(load(case["label"]).dataobj)) == {0, 1, 2}
    assert len({nib.aff2axcodes(load(case["image"]).affine) for case in cases}) == 4


def test_no_data_set_holds_a_case_of_another(tmp_path: Path) -> None:
    for write in (write_msd_spleen, write_msd_liver, write_btcv):
        write(tmp_path / write.__name__, 2, 1, **TINY)
    write_unlabelled(tmp_path / "more", 2, **TINY)
    images = [p.read_bytes() for p in tmp_path.rglob("*.nii.gz") if p.parent.name not in ("labelsTr", "label")]
    assert len(images) == 11 == len(set(images))


@pytest.mark.parametrize(
    ("num_training", "numbers"),
    [
        (2, [1, 35]),
        (13, [*range(1, 11), 35, 36, 37]),
        (20, [*range(1, 11), *range(21, 27), *range(35, 39)]),
        (30, [*range(1, 11), *range(21, 41)]),
    ],
)
def test_btcv_has_the_layout_and_numbers_of_the_release(num_training: int, numbers: list[int], tmp_path: Path) -> None:
    root = write_btcv(tmp_path / "RawData", num_training, 2, **TINY)
    expected = [f"Training/{kind}/{kind}{n:04d}.nii.gz" for kind in ("img", "label") for n in numbers]
    assert sorted(contents(root)) == [
        "Testing/img/img0061.nii.gz",
        "Testing/img/img0062.nii.gz",
        *expected,
        "phantoms.json",
    ]
    assert len(read_cases("btcv", root / "Training")) == num_training
    about = json.loads((root / "phantoms.json").read_text())
    assert (about["numTraining"], about["numTest"], about["phantom"]["size"]) == (num_training, 2, [24, 24, 20])


def test_btcv_has_13_organs_right_and_left_as_the_release_numbers_them(tmp_path: Path) -> None:
    root = write_btcv(tmp_path / "RawData", 5, 0, seed=3, **SMALL)
    for case in read_cases("btcv", root / "Training"):
        label = canonical(case["label"])
        values = np.asarray(label.dataobj)
        assert set(np.unique(values)) == set(range(14)), case
        right = [apply_affine(label.affine, np.argwhere(values == v)).mean(0)[0] for v in range(14)]
        # spleen, left kidney, stomach, left adrenal | aorta | cava | right kidney, liver, gallbladder, right adrenal
        assert max(right[v] for v in (1, 3, 7, 13)) < right[8] < right[9] < min(right[v] for v in (2, 4, 6, 12)), case


def test_default_grids_show_every_organ_in_every_case() -> None:
    for seed in range(3):
        _, organs = abdomen_phantom(np.random.default_rng(seed), extras=EXTRAS)
        assert np.bincount(organs.ravel(), minlength=len(Organ)).min() > 20, seed


@pytest.mark.parametrize(
    ("dataset", "dataset_dir", "image_dir"),
    [
        ("brats2020", "MICCAI_BraTS2020_TrainingData", "MICCAI_BraTS2020_ValidationData"),
        ("btcv", "RawData/Training", "RawData/Testing/img"),
        ("msd_liver", "Task03_Liver", "Task03_Liver/imagesTs"),
        ("msd_spleen", "Task09_Spleen", "Task09_Spleen/imagesTs"),
    ],
)
def test_write_phantoms_makes_the_folders_of_each_data_set_and_completes_them(
    dataset: str, dataset_dir: str, image_dir: str, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"num_training": 3, "num_test": 1, "num_unlabelled": 2, "size": (16, 16, 16)}
    folders = write_phantoms(dataset, tmp_path, **arguments)
    assert folders == (tmp_path / dataset_dir, tmp_path / image_dir, tmp_path / "unlabelled")
    assert len(read_cases(dataset, folders.dataset_dir)) == 3
    per_case = 4 if dataset == "brats2020" else 1
    assert len(list(folders.image_dir.rglob("*.nii.gz"))) == per_case
    assert len(list(folders.unlabelled_dir.rglob("*.nii.gz"))) == 2 * per_case
    assert json.loads((folders.unlabelled_dir / "phantoms.json").read_text())["phantom"]["seed"] == 1
    written = contents(tmp_path)
    for file in [*folders.dataset_dir.rglob("*.nii.gz")][::2]:
        file.unlink()
    write_phantoms(dataset, tmp_path, **arguments)
    assert contents(tmp_path) == written
    with pytest.raises(ValueError, match="must be a new or empty folder, or hold these very phantoms, got"):
        write_phantoms(dataset, tmp_path, **arguments, seed=1)
    assert contents(tmp_path) == written


def test_write_phantoms_of_the_spleen_are_those_of_its_own_functions(tmp_path: Path) -> None:
    write_phantoms("msd_spleen", tmp_path / "a", 1, 1, 1, seed=3, **TINY)
    write_msd_spleen(tmp_path / "b" / "Task09_Spleen", 1, 1, seed=3, **TINY)
    write_unlabelled(tmp_path / "b" / "unlabelled", 1, seed=4, **TINY)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "kits"}, r"dataset must be one of \('brats2020', 'btcv', .*'msd_spleen'\), got 'kits'"),
        ({"dataset": "btcv", "num_training": 31}, "num_training must be an integer from 2 to 30, got 31"),
        ({"dataset": "btcv", "num_training": 1}, "num_training must be an integer from 2 to 30, got 1"),
        ({"dataset": "btcv", "num_test": 21}, "num_test must be an integer from 0 to 20, got 21"),
        ({"dataset": "brats2020", "num_training": 0}, "num_training must be an integer of at least 1, got 0"),
        ({"dataset": "msd_liver", "num_unlabelled": 0}, "num_unlabelled must be an integer of at least 1, got 0"),
        ({"dataset": "msd_liver", "size": (8, 8, 8)}, "size must be 3 integers of at least 16, got"),
    ],
)
def test_write_phantoms_names_what_is_wrong_before_it_writes(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_phantoms(root=tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()
