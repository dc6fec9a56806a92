# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from hybridmim_components.data.datasets import read_cases
from hybridmim_components.phantoms import write_brats2020, write_unlabelled_brains
from hybridmim_components.phantoms.brain import MODALITIES, brain_phantom

SMALL: dict[str, Any] = {"size": (40, 48, 40), "spacing": (4.0, 4.0, 4.0)}
TINY: dict[str, Any] = {"size": (20, 24, 20), "spacing": (8.0, 8.0, 8.0)}
NECROTIC, OEDEMA, ENHANCING = 1, 2, 4


def draw(seed: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    return brain_phantom(np.random.default_rng(seed), **SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def neighbours(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels that share a face with the mask."""
    padded = np.pad(mask, 1)
    shifted = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (-1, 1)]
    return np.logical_or.reduce(shifted)


def best_threshold_dice(image: NDArray[np.int16], mask: NDArray[np.bool_]) -> float:
    """Dice of the best of all ranges of intensity, from histograms summed up."""
    edges = np.unique(np.quantile(image, np.linspace(0, 1, 300)))
    edges[-1] += 1
    chosen, hits = (np.r_[0, np.histogram(v, edges)[0].cumsum()] for v in (image, image[mask]))
    size, overlap = chosen[None] - chosen[:, None], hits[None] - hits[:, None]
    return float((2 * overlap / (np.maximum(size, 0) + mask.sum())).max())


@pytest.fixture(scope="module")
def brats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_brats2020(tmp_path_factory.mktemp("brats") / "brats", 3, 2, seed=3, **TINY)


def test_background_is_zero_and_the_brain_positive_in_all_sequences() -> None:
    for seed in range(6):
        images, label = draw(seed)
        assert images.shape == (4, *SMALL["size"]) and label.shape == SMALL["size"]
        assert (images.dtype, label.dtype) == (np.int16, np.uint8)
        brain = images[0] > 0
        assert images.min() == 0 and all(np.array_equal(image > 0, brain) for image in images)
        assert 0.25 < brain.mean() < 0.5 and not label[~brain].any()


def test_the_brain_fills_the_field_of_view_whatever_that_is() -> None:
    for size in ((40, 48, 40), (48, 32, 24)):
        images, _ = brain_phantom(np.random.default_rng(0), size, (3.0, 3.0, 3.0))
        where = np.argwhere(images[0] > 0)
        extent = (np.ptp(where, axis=0) + 1) / size
        assert np.all(extent > 0.75) and np.all(extent < 1), extent


def test_tumour_has_its_three_parts_one_inside_the_other() -> None:
    for seed in range(12):
        images, label = draw(seed)
        assert set(np.unique(label)) == {0, NECROTIC, OEDEMA, ENHANCING}, seed
        core = (label == NECROTIC) | (label == ENHANCING)
        assert set(np.unique(label[neighbours(label == NECROTIC)])) <= {NECROTIC, ENHANCING}, seed
        assert set(np.unique(label[neighbours(core)])) <= {NECROTIC, ENHANCING, OEDEMA}, seed
        assert np.all(images[0][label > 0] > 0), seed


def test_default_grid_shows_a_tumour_worth_segmenting() -> None:
    for seed in range(3):
        _, label = brain_phantom(np.random.default_rng(seed))
        assert min((label == value).sum() for value in (NECROTIC, OEDEMA, ENHANCING)) > 50, seed


def test_tumours_differ_in_size_and_place() -> None:
    tumours = [draw(seed)[1] > 0 for seed in range(12)]
    volumes, centres = [t.sum() for t in tumours], np.array([np.argwhere(t).mean(0) for t in tumours])
    assert max(volumes) > 1.8 * min(volumes)
    assert centres[:, 0].min() < 16 and centres[:, 0].max() > 24  # both halves of the brain
    assert np.all(np.ptp(centres, axis=0) > 8)


def test_each_sequence_shows_its_part_of_the_tumour() -> None:
    ratios = []  # of the parts to healthy brain, by case, sequence and part; a bias field blurs those of a single case
    for seed in range(12):
        images, label = draw(seed)
        healthy = (label == 0) & (images[0] > 0)
        parts = [label == value for value in (NECROTIC, OEDEMA, ENHANCING)]
        ratios.append([[np.median(image[part]) / np.median(image[healthy]) for part in parts] for image in images])
    flair, t1, t1ce, t2 = np.median(ratios, axis=0)
    assert flair.min() > 1.15
    assert t1.max() < 0.95
    assert t1ce[2] > 1.3 and t1ce[:2].max() < 0.95
    assert t2[0] > t2[1] > t2[2] > 1.15


def test_no_threshold_on_one_sequence_finds_a_part_of_the_tumour() -> None:
    for region in ((NECROTIC, OEDEMA, ENHANCING), (NECROTIC, ENHANCING), (ENHANCING,)):
        cases = [(images, np.isin(label, region)) for images, label in map(draw, range(8))]
        dice = np.array([[best_threshold_dice(image, mask) for image in images] for images, mask in cases])
        assert dice.max() < 0.9 and dice.mean(0).max() < 0.75, (region, dice)  # each with the threshold that suits it


def test_best_threshold_dice_is_near_1_for_what_a_threshold_defines() -> None:
    images, _ = draw(0)
    assert best_threshold_dice(images[0], images[0] > 0) > 0.99


def test_scanners_differ_in_gain() -> None:
    means = np.array([[image[image > 0].mean() for image in draw(seed)[0]] for seed in range(8)])
    assert np.all(means.max(0) > 1.4 * means.min(0))
    ratios = means / means[:, :1]  # nor do the sequences of a case share a gain
    assert np.all(ratios[:, 1:].std(0) > 0.1)


def test_same_seed_same_brain() -> None:
    (images, label), (again, label_again) = draw(1), draw(1)
    assert np.array_equal(images, again) and np.array_equal(label, label_again)
    assert not np.array_equal(images, draw(2)[0])


def test_layout_is_that_of_the_release(brats: Path) -> None:
    expected = ["phantoms.json"]
    for part, count, kinds in (("Training", 3, [*MODALITIES, "seg"]), ("Validation", 2, MODALITIES)):
        for patient in (f"BraTS20_{part}_{n:03d}" for n in range(1, count + 1)):
            expected += [f"MICCAI_BraTS2020_{part}Data/{patient}/{patient}_{kind}.nii.gz" for kind in kinds]
    assert sorted(contents(brats)) == sorted(expected)
    about = json.loads((brats / "phantoms.json").read_text())
    assert "MR-like" in about["description"] and "no patient" in about["description"]
    assert about["phantom"] == {"seed": 3, "size": [20, 24, 20], "spacing": [8.0, 8.0, 8.0]}
    cases = read_cases("brats2020", brats / "MICCAI_BraTS2020_TrainingData")
    assert [case["case_id"] for case in cases] == [f"BraTS20_Training_{n:03d}" for n in (1, 2, 3)]


def test_files_of_a_case_share_a_grid_in_lps_and_hold_their_sequence(brats: Path) -> None:
    shapes = set()
    for case in read_cases("brats2020", brats / "MICCAI_BraTS2020_TrainingData"):
        *images, label = (nib.Nifti1Image.from_filename(path) for path in (*case["image"], case["label"]))
        assert all(i.shape == label.shape and np.array_equal(i.affine, label.affine) for i in images)
        assert nib.aff2axcodes(label.affine) == ("L", "P", "S")
        assert {i.get_data_dtype() for i in images} == {np.dtype(np.int16)} and label.get_data_dtype() == np.uint8
        flair, t1, t1ce, t2 = (np.asarray(i.dataobj) for i in images)
        tumour = np.asarray(label.dataobj) > 0
        contrasts = [np.median(i[tumour]) / np.median(i[(i > 0) & ~tumour]) for i in (flair, t1, t1ce, t2)]
        assert contrasts[0] > 1.1 and contrasts[3] > 1.1 > 1 > contrasts[1], contrasts
        shapes.add(label.shape)
    assert len(shapes) > 1 and all(np.all(np.array(s) >= TINY["size"]) for s in shapes)


def test_same_seed_same_bytes_and_a_case_depends_on_its_number_alone(brats: Path, tmp_path: Path) -> None:
    fewer = contents(write_brats2020(tmp_path / "fewer", 1, 1, seed=3, **TINY))
    del fewer["phantoms.json"]
    expected = contents(brats)
    assert len(fewer) == 9 and all(expected[name] == content for name, content in fewer.items())
    other = contents(write_brats2020(tmp_path / "other", 1, 1, seed=4, **TINY))
    assert all(other[name] != content for name, content in fewer.items())


def test_unlabelled_brains_are_none_of_the_labelled_ones(brats: Path, tmp_path: Path) -> None:
    written = contents(write_unlabelled_brains(tmp_path / "more", 2, seed=3, **TINY))
    names = [f"phantom_{n}/phantom_{n}_{modality}.nii.gz" for n in (1, 2) for modality in MODALITIES]
    assert sorted(written) == [*names, "phantoms.json"]
    assert len(set(written.values()) | set(contents(brats).values())) == len(written) + len(contents(brats))


def test_missing_files_are_completed_and_folders_of_anything_else_refused(brats: Path, tmp_path: Path) -> None:
    expected = contents(brats)
    gone = brats / "MICCAI_BraTS2020_TrainingData/BraTS20_Training_002/BraTS20_Training_002_t2.nii.gz"
    gone.unlink()
    assert write_brats2020(brats, 3, 2, seed=3, **TINY) == brats and contents(brats) == expected
    (tmp_path / "notes.txt").write_text("a stranger's")
    for target in (brats, tmp_path):
        with pytest.raises(ValueError, match="^root must be a new or empty folder, or hold these very phantoms, got "):
            write_brats2020(target, 1, 0, **TINY)
    with pytest.raises(ValueError, match="^folder must be a new or empty folder"):
        write_unlabelled_brains(tmp_path, 1, **TINY)
    assert contents(brats) == expected and [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_training": 0}, "num_training must be an integer of at least 1, got 0"),
        ({"num_test": -1}, "num_test must be an integer of at least 0, got -1"),
        ({"seed": 1.5}, "seed must be an integer of at least 0, got 1.5"),
        ({"size": (80, 96, 8)}, r"size must be 3 integers of at least 16, got \(80, 96, 8\)"),
        ({"spacing": (2, 2, 0)}, r"spacing must be 3 positive numbers of mm, got \(2, 2, 0\)"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_brats2020(tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()


def test_num_volumes_and_the_grid_of_a_single_brain_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_volumes must be an integer of at least 1, got 0"):
        write_unlabelled_brains(tmp_path / "a", 0)
    with pytest.raises(ValueError, match="size must be 3 integers"):
        brain_phantom(np.random.default_rng(0), (15, 96, 96))
