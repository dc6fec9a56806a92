# SPDX-License-Identifier: Apache-2.0

"""The linear probe sees all levels of a network, and finds what a linear classifier can find in them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from few_labels_patients import StudyError
from few_labels_probe import LinearClassifier, best_penalty, feature_maps, probe_dice
from monai.networks.nets import BasicUNet, DynUNet, SwinUNETR
from torch import nn

from hybridmim_components.data import read_cases
from hybridmim_components.phantoms import write_phantoms

BUNDLES = Path(__file__).parents[2] / "bundles"


@pytest.mark.parametrize(
    ("network", "channels"),
    [
        (BasicUNet(features=(4, 6, 8, 10, 12, 5)), [4, 6, 8, 10, 12, 10, 8, 6, 5]),
        (DynUNet(3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 6, 8]), [4, 6, 8, 6, 4]),
        (
            SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
            [1, 12, 24, 48, 96, 192, 12, 12, 24, 48, 192, 96, 48, 24, 12, 12],
        ),
    ],
    ids=["UNet", "DynUNet", "SwinUNETR"],
)
def test_maps_of_all_levels_of_encoder_and_decoder(network: nn.Module, channels: list[int]) -> None:
    maps = feature_maps(network.eval(), torch.rand(1, 1, 64, 32, 32))
    assert [found.shape[1] for found in maps] == channels and all(found.ndim == 5 for found in maps)
    assert not any(module._forward_hooks for module in network.modules())


def test_the_classifier_finds_a_rare_class_that_a_coarse_level_shows() -> None:
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 3, 4, 4, 4, generator=random)
    labels = nn.functional.interpolate(coarse[:, 1:2], [16, 16, 16], mode="trilinear")[:, 0].gt(1.2).long()
    assert 0.005 < labels.float().mean() < 0.1
    maps = [torch.randn(2, 5, 16, 16, 16, generator=random), 100 * coarse + 7]
    free, held = (LinearClassifier(maps, labels, 2, penalty) for penalty in (0.001, 1000.0))
    right = free(maps, labels.shape[1:]).argmax(1) == labels
    assert right[labels == 1].float().mean() > 0.97 and right[labels == 0].float().mean() > 0.9
    assert sum(weight.abs().sum() for weight in held.weights) < 0.01 * sum(
        weight.abs().sum() for weight in free.weights
    )


def test_the_scale_of_a_map_does_not_matter() -> None:
    random = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 4, 8, 8, 8, generator=random), torch.randn(1, 3, 4, 4, 4, generator=random)]
    labels = (maps[0][:, 0] + nn.functional.interpolate(maps[1], [8, 8, 8])[:, 0] > 1).long()
    small, large = (
        LinearClassifier([maps[0] * scale, maps[1]], labels, 2, 0.01)([maps[0] * scale, maps[1]], [8, 8, 8])
        for scale in (1, 1000)
    )
    assert torch.allclose(small, large, atol=0.01)


def test_the_penalty_is_the_best_of_the_tuning_cases(capsys: pytest.CaptureFixture) -> None:
    nan = float("nan")
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert best_penalty([[*rising[2:], 0.1, 0.1], [nan] * 7, [0.4] * 7]) == 4
    assert "end of the list" not in capsys.readouterr().out
    assert best_penalty([rising]) == 6 and "end of the list" in capsys.readouterr().out
    with pytest.raises(StudyError, match="needs a label in some tuning case"):
        best_penalty([[nan] * 7])


def test_cases_and_patients_without_a_label_are_left_out(tmp_path: Path) -> None:
    folders = write_phantoms("msd_spleen", tmp_path, 3, 0, 1, size=(24, 24, 16))
    bundle = BUNDLES / "hybridmim_msd_spleen_unet_segmentation"
    labelled, scored, empty = read_cases("msd_spleen", str(folders.dataset_dir))
    image = nib.load(empty["label"])
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), empty["label"])
    overrides = {"bundle_root": str(bundle), "train#dataset#data": [labelled], "pretrained": None, "spacing": [6, 6, 6]}
    overrides |= {"roi_size": [32, 32, 32], "network_def#features": [4] * 6}
    patients = {"one": [scored], "two": [scored, empty], "three": [empty]}
    one, two = probe_dice(bundle / "configs" / "train.json", overrides, [scored, empty], patients)
    assert one == two and 0 < one < 1


@pytest.mark.parametrize(
    ("dataset", "small", "message"),
    [
        (
            "msd_spleen",
            {"spacing": [600, 600, 600]},
            "needs a label in each labelled case, got none in .*spleen_1.nii.gz",
        ),
        ("brats2020", {}, "needs one class for each voxel, got a label of 3 channels"),
    ],
)
def test_labels_that_cannot_be_classified_are_named(dataset: str, small: dict, message: str, tmp_path: Path) -> None:
    folders = write_phantoms(dataset, tmp_path, 2, 0, 1, size=(24, 24, 16))
    bundle = BUNDLES / f"hybridmim_{dataset}_unet_segmentation"
    cases = [case for case in read_cases(dataset, str(folders.dataset_dir)) if "2" not in case["case_id"][-1]]
    overrides = {"bundle_root": str(bundle), "train#dataset#data": cases, "pretrained": None, **small}
    with pytest.raises(StudyError, match=message):
        probe_dice(bundle / "configs" / "train.json", {**overrides, "network_def#features": [4] * 6}, [], {})
