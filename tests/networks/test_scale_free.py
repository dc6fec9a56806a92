# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet, SwinUNETR
from torch import nn

from hybridmim_components.networks import restore_scale, scale_free_norms


@pytest.mark.parametrize(
    "network",
    [
        BasicUNet(spatial_dims=2, features=(4, 4, 4, 4, 4, 4), dropout=0.1),
        SwinUNETR(1, 2, spatial_dims=2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
    ],
    ids=["BasicUNet", "SwinUNETR"],
)
@torch.no_grad()
def test_they_are_the_convolutions_whose_factor_changes_no_output(network: nn.Module) -> None:
    torch.manual_seed(0)
    network = network.double().eval()
    x = 100 * torch.randn(1, 1, 64, 64, dtype=torch.float64)  # large beside the normalisation's epsilon
    before, found = network(x), []
    for name, weight in network.named_parameters():
        if weight.ndim == 4:
            weight.mul_(3)
            if torch.allclose(network(x), before, rtol=0, atol=1e-3 * float(before.std())):
                found.append(name)
            weight.div_(3)
    assert found and list(scale_free_norms(network)) == found


def test_batch_normalisation_keeps_statistics_of_the_old_scale() -> None:
    assert not scale_free_norms(BasicUNet(features=(4, 4, 4, 4, 4, 4), norm=("batch", {"affine": True})))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.Conv3d(1, 2, 1), nn.Dropout3d(), nn.InstanceNorm3d(2), nn.ReLU()], ["0.weight"]),
        ([nn.Conv3d(1, 2, 1), nn.Sequential(nn.InstanceNorm3d(2))], ["0.weight"]),
        ([nn.Conv3d(1, 2, 1), nn.ReLU(), nn.InstanceNorm3d(2)], []),
        ([nn.Conv3d(1, 2, 1), nn.InstanceNorm3d(2, track_running_stats=True)], []),
        ([nn.Linear(1, 2), nn.InstanceNorm1d(2)], []),
    ],
    ids=["dropout between", "in a sequence of its own", "activation between", "running statistics", "no convolution"],
)
def test_the_normalisation_follows_at_once_and_keeps_no_statistics(layers: list, expected: list[str]) -> None:
    assert list(scale_free_norms(nn.Sequential(*layers))) == expected


def test_a_weight_of_zeros_stays() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.InstanceNorm3d(2), nn.Conv3d(2, 2, 1), nn.InstanceNorm3d(2))
    norms = scale_free_norms(network)
    nn.init.zeros_(network[0].weight)
    nn.init.ones_(network[2].weight)
    assert restore_scale(network, norms) == ["2.weight"] and not network[0].weight.any()
    assert torch.isclose(network[2].weight.norm(), norms["2.weight"])
