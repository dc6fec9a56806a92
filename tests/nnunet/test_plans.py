# SPDX-License-Identifier: Apache-2.0

"""What is read from nnU-Net's plans, and how each kind of unusable plan is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridmim_components.nnunet import grid_of_plan, read_plan


def test_a_plan_holds_what_pretraining_needs(write_dataset: Callable) -> None:
    folder = write_dataset(channels=2)
    for name in (4, "4", "Dataset004_Small"):
        plan = read_plan(name)
        assert (plan.dataset, plan.folder) == ("Dataset004_Small", folder / "nnUNetPlans_3d_fullres")
        assert (plan.in_channels, plan.num_classes, plan.batch_size) == (2, 3, 2)
        assert (plan.patch_size, plan.strides) == ([32, 40, 32], [8, 8, 8])
        assert plan.fill_value == -2.0


def test_masked_voxels_of_ct_lie_below_the_clipped_window(write_dataset: Callable) -> None:
    write_dataset(channels=2, normalization_schemes=["ZScoreNormalization", "CTNormalization"])
    # (-200 - 100) / 50, and 1 below
    assert read_plan(4).fill_value == -7.0


@pytest.mark.parametrize(
    ("patch", "strides", "crop", "subvolume", "mask"),
    [
        ([40, 56, 40], [8, 8, 8], (32, 48, 32), (16, 16, 16), (8, 8, 8)),  # hippocampus
        ([128, 128, 128], [32, 32, 32], (128, 128, 128), (32, 32, 32), (16, 16, 16)),
        ([20, 320, 256], [4, 64, 64], (20, 320, 256), (4, 64, 64), (2, 32, 32)),  # thick slices
        ([8, 64, 64], [1, 16, 16], (8, 64, 64), (1, 16, 16), (1, 8, 8)),
    ],
)
def test_crops_are_divided_by_the_strides(
    write_dataset: Callable, patch: list, strides: list, crop: tuple, subvolume: tuple, mask: tuple
) -> None:
    write_dataset()
    grid = grid_of_plan(dataclasses.replace(read_plan(4), patch_size=patch, strides=strides))
    assert (grid.image_size, grid.subvolume_size, grid.patch_size) == (crop, subvolume, mask)


@pytest.mark.parametrize(
    ("patch", "message"), [([16, 16, 16], "at least 2 sub-volumes of 2 patches"), ([32, 36, 32], "multiple of the str")]
)
def test_crops_that_cannot_be_divided_are_refused(write_dataset: Callable, patch: list[int], message: str) -> None:
    write_dataset(patch_size=patch)
    with pytest.raises(ValueError, match=message):
        grid_of_plan(read_plan(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": 5}, r"dataset must be one of those in .* \(Dataset004_Small\), got 5"),
        ({"plans": "nnUNetResEncUNetLPlans"}, r"those of Dataset004_Small \(nnUNetPlans\), got nnUNetResEncUNetLPlans"),
        ({"configuration": "3d_lowres"}, "one of 2d, 3d_fullres, 3d_cascade_fullres, got 3d_lowres"),
        ({"configuration": "2d"}, "configuration must be 3D, got 2d"),
        ({"configuration": "3d_cascade_fullres"}, "must not be the second stage of a cascade, got 3d_cascade_fullres"),
    ],
)
def test_names_that_lead_nowhere_are_refused_with_what_there_is(
    write_dataset: Callable, arguments: dict[str, Any], message: str
) -> None:
    write_dataset()
    with pytest.raises(ValueError, match=message):
        read_plan(**{"dataset": 4, **arguments})


def test_unknown_networks_and_normalisations_are_refused(write_dataset: Callable) -> None:
    write_dataset(normalization_schemes=["NoNormalization"])
    with pytest.raises(ValueError, match=r"normalisation must be one of .*, got \['NoNormalization'\]"):
        read_plan(4)
    write_dataset(architecture={"network_class_name": "os.system", "arch_kwargs": {}, "_kw_requires_import": []})
    with pytest.raises(ValueError, match="network must be PlainConvUNet or ResidualEncoderUNet, got os.system"):
        read_plan(4)


def test_an_unset_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for value in ("", str(tmp_path / "away")):
        monkeypatch.setenv("nnUNet_preprocessed", value)
        with pytest.raises(
            ValueError, match="nnUNet_preprocessed must name nnU-Net's folder of preprocessed data sets"
        ):
            read_plan(4)
