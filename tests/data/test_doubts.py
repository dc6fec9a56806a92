# SPDX-License-Identifier: Apache-2.0

"""Cases that are strange but look real: impossible ones are refused, unusual ones told with value and usual range."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from strange_cases import STRANGE, Strange, judge, main

from hybridmim_components.data import VolumeRules, find_cases, inspect_volumes, read_cases
from hybridmim_components.data.doubts import doubts_of_image
from hybridmim_components.data.layouts.dataset_json import exchanged_names
from hybridmim_components.data.volumes import read_volume
from hybridmim_components.phantoms import write_brats2020, write_msd_spleen

GRID = {"size": (40, 40, 32), "spacing": (7.0, 7.0, 8.0)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msd_spleen(tmp_path_factory.mktemp("base") / "Task09_Spleen", 2, 0, **GRID)


@pytest.mark.parametrize("strange", STRANGE, ids=lambda strange: strange.what)
def test_check_tells_impossible_unusual_and_good_cases_apart(strange: Strange, base: Path, tmp_path: Path) -> None:
    verdict, words = judge(strange, base, tmp_path)
    assert verdict == strange.expected, words
    if verdict == "refused":
        assert re.search(r"spleen_2|dataset\.json", words)
    if verdict == "unusual":
        assert re.search(r"usual (is|are) |the qform is used|cannot be compared with its dataset.json", words)


def test_a_run_warns_as_check_does_each_time_it_starts(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shifted = next(strange for strange in STRANGE if strange.what == "HU with 1024 added")
    judge(shifted, base, tmp_path)
    items = read_cases("msd_spleen", tmp_path / "Task09_Spleen")
    rules = VolumeRules(hounsfield=True, label_values=(0, 1))
    for _ in range(2):
        caplog.clear()
        assert len(inspect_volumes(items, tmp_path / "volumes.json", rules=rules)) == 2
        line = f"\n  {items[1]['image']}: share of air (-1500 to -500 HU) is 0 %, usual is 1 to 99 %; HU may be shifted"
        assert "Unusual, and used all the same:" + line in caplog.text
    caplog.clear()
    inspect_volumes(items, tmp_path / "volumes.json", rules=VolumeRules(label_values=(0, 1)))
    assert "share of air" not in caplog.text


def test_prepare_warns_of_the_same(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("zarr")
    from hybridmim_components.store import StoreSettings, prepare_store

    shifted = next(strange for strange in STRANGE if strange.what == "HU with 1024 added")
    judge(shifted, base, tmp_path)
    images = tmp_path / "Task09_Spleen" / "imagesTr"
    with caplog.at_level(logging.WARNING):
        assert prepare_store(images, tmp_path / "store", StoreSettings((8, 8, 8), (-57, 164)), num_workers=0) == 2
    assert f"\n  {images.resolve()}/spleen_2.nii.gz: share of air (-1500 to -500 HU) is 0 %" in caplog.text


def test_a_list_of_cases_warns_where_dataset_json_names_others(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(base, tmp_path / "Task09_Spleen")
    for folder in ("imagesTr", "labelsTr"):
        (root / folder / "spleen_2.nii.gz").unlink()
    assert len(read_cases("msd_spleen", root)) == 1
    assert "names 2 case(s) for training, usual is that all are there: 1 are not, such as spleen_2" in caplog.text


def test_brains_with_skull_are_unusual(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_brats2020(tmp_path, 1, 0, size=(36, 44, 36), spacing=(4.4, 4.0, 4.2)) / "MICCAI_BraTS2020_TrainingData"
    (item,) = read_cases("brats2020", root, ["flair"])
    rules = VolumeRules(zero_background=True)
    inspect_volumes([item], rules=rules)
    assert "Unusual" not in caplog.text
    image = nib.load(item["image"][0])
    noise = np.random.default_rng(0).uniform(1, 9, image.shape)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + noise, image.affine), item["image"][0])
    inspect_volumes([item], rules=rules)
    assert "share of background (0) is 0 %, usual is 5 to 98 %; the skull may not be stripped" in caplog.text


def test_the_benchmark_fails_where_a_verdict_is_another(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset_dir", str(base), "--output", str(tmp_path / "table.md")]
    monkeypatch.setattr("strange_cases.STRANGE", STRANGE[:2])
    assert main(arguments) == 0
    monkeypatch.setattr("strange_cases.STRANGE", [STRANGE[0]._replace(expected="refused")])
    assert main(arguments) == 1
    assert "| nothing | ok (expected: refused) |  |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("dataset", "names", "doubted"),
    [
        ("msd_hippocampus", ["Anterior", "Posterior"], False),
        ("msd_hippocampus", ["Cavity", "Muscle"], True),
        ("msd_hippocampus", ["Posterior", "Anterior"], True),
        ("msd_hippocampus", ["left hippocampus", "right hippocampus"], True),
        ("msd_hippocampus", ["hippocampus-anterior", "hippocampus-posterior"], False),
        ("msd_liver", ["liver", "cancer"], False),
        ("msd_liver", ["tumour", "liver"], True),
        ("msd_liver", ["cancer", "liver"], True),
        ("msd_spleen", ["spleen"], False),
        ("msd_spleen", ["kidney"], True),
    ],
)
def test_names_of_labels_may_be_short_but_neither_exchanged_nor_of_another_task(
    tmp_path: Path, dataset: str, names: list[str], doubted: bool
) -> None:
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "case_001.nii.gz").touch()
    labels = {"0": "background", **{str(value): name for value, name in enumerate(names, 1)}}
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "x", "labels": labels}))
    assert len(find_cases(dataset, tmp_path).doubts) == doubted


def test_a_label_map_among_images_is_unusual(tmp_path: Path) -> None:
    voxels = np.zeros((30, 30, 30), np.float32)
    voxels[5:25, 5:25, 5:25] = 3
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), tmp_path / "hippo_L.nii.gz")
    doubts = doubts_of_image(read_volume(str(tmp_path / "hippo_L.nii.gz")), [], VolumeRules())
    assert "it holds 2 values, all whole, usual is 20 and more: is it a label map?" in doubts
    voxels[5:25, 5:25, 5:25] = np.random.default_rng(0).integers(0, 200, (20, 20, 20))
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), tmp_path / "mr.nii.gz")
    assert not any(
        "label map" in d for d in doubts_of_image(read_volume(str(tmp_path / "mr.nii.gz")), [], VolumeRules())
    )


def test_labels_of_an_own_task_have_no_gap(tmp_path: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "case_001.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "a", "4": "b"}}))
    found = find_cases("msd_mine", tmp_path)
    assert found.problems == [f"labels must be 0 to 2 without a gap, got 0, 1, 4 in {tmp_path / 'dataset.json'}"]


@pytest.mark.parametrize(
    ("dataset", "names", "doubted"),
    [
        ("msd_mine", ["sub-01_L", "sub-01_R", "sub-02_L"], "sub-01_L and sub-01_R"),
        ("msd_mine", ["a_ses-1", "a_ses-2"], "a_ses-1 and a_ses-2"),
        ("msd_mine", ["left_01", "right_01", "sub-01_L", "sub-02_R"], ""),
        ("msd_spleen", ["spleen_1", "spleen_2"], ""),
        ("msd_hippocampus", ["x_L", "x_R", "a_\u00b2"], ""),
    ],
)
def test_several_scans_of_a_patient_are_unusual(tmp_path: Path, dataset: str, names: list[str], doubted: str) -> None:
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / f"{name}.nii.gz").touch()
    doubts = find_cases(dataset, tmp_path).doubts
    assert len(doubts) == bool(doubted) and all(doubted in text for text in doubts)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pancreas", "pancreas tumour"], ["pancreas", "cancer"]),
        (["kidney", "kidney tumour", "kidney cyst"], ["kidney", "tumor", "cyst"]),
        (["tumour core", "whole tumour", "enhancing tumour"], ["edema", "non-enhancing tumor", "enhancing tumour"]),
        (["", "b"], ["b", "a"]),
    ],
)
def test_other_words_for_the_same_classes_are_no_exchange(names: list[str], expected: list[str]) -> None:
    assert exchanged_names(dict(enumerate(names, 1)), dict(enumerate(expected, 1))) == []


def test_scans_whose_first_slice_is_empty_are_no_label_maps() -> None:
    voxels = np.zeros((448, 448, 30), np.float32)
    voxels[..., 1:] = np.random.default_rng(0).integers(0, 700, (448, 448, 29))
    doubts = doubts_of_image(MetaTensor(torch.from_numpy(voxels[None])), [], VolumeRules())
    assert not any("label map" in text for text in doubts)
